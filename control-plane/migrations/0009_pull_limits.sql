-- How a provider's web server is asked, and how long it is waited for; 0: as long as origins do by default.
alter table sites
    add column pull_protocol text not null default 'auto' check (pull_protocol in ('auto', '1.1', '2')),
    add column pull_first_byte_ms integer not null default 0,
    add column pull_between_bytes_ms integer not null default 0;
