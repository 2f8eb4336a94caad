-- A key that is to be replaced ends; what it signed is good for nothing from then on. Null: no end.
alter table reader_keys
    add column not_after timestamptz;

-- Where plain HTTP readers may bring grants.
alter table sites
    add column carriers text[] not null default '{bearer,query,cookie}';
