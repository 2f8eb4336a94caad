-- What of a site is not to be served from store any more, with the version of the configuration that it came with. Kept as
-- long as the history of changes.
create table purges (
    id         uuid primary key,
    version    bigint not null,
    site_id    uuid not null references sites on delete cascade,
    soft       boolean not null,
    everything boolean not null,
    -- As edges compare them: see `Purge` in control.proto.
    targets    text[] not null,
    prefixes   text[] not null,
    keys       text[] not null,
    created_at timestamptz not null default now()
);
create index purges_version on purges (version);
create index purges_site on purges (site_id, version);

-- The version of the configuration that a node has applied and written down, and when it said so.
alter table nodes
    add column confirmed_version bigint not null default 0,
    add column confirmed_at timestamptz;
