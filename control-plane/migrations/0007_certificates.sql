-- A site's own certificate, with its key: a secret that has to be used, so it is kept as it is.
create table site_certificates (
    site_id   uuid primary key references sites on delete cascade,
    chain_pem text not null,
    key_pem   text not null,
    set_at    timestamptz not null default now()
);

-- Pulled bodies of at least so many bytes become versions, which agents share.
alter table sites
    add column share_above bigint not null default 1048576 check (share_above > 0);
