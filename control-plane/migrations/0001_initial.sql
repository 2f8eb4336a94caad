-- Everything the control plane knows. Secrets that only have to be recognised (API keys, join and enrolment tokens,
-- device codes) are kept as SHA-256 of a 256-bit random value; secrets that have to be used are kept as they are.

create table authority (
    id              smallint primary key default 1 check (id = 1),
    key_pem         text not null,
    certificate_pem text not null,
    -- HMAC key of session tokens.
    session_key     bytea not null check (octet_length(session_key) = 32)
);

create table membership_keys (
    id         text primary key,
    seed       bytea not null check (octet_length(seed) = 32),
    public_key bytea not null check (octet_length(public_key) = 32),
    created_at timestamptz not null default now()
);

-- Accounts ------------------------------------------------------------------------------------------------------

create table accounts (
    id            uuid primary key,
    name          text not null unique,
    role          text not null check (role in ('admin', 'provider')),
    password_hash text,
    created_at    timestamptz not null default now()
);

create table api_keys (
    id          uuid primary key,
    account_id  uuid not null references accounts on delete cascade,
    label       text not null,
    secret_hash bytea not null unique,
    created_at  timestamptz not null default now()
);
create index api_keys_account on api_keys (account_id);

create table s3_credentials (
    access_key_id     text primary key,
    account_id        uuid not null references accounts on delete cascade,
    secret_access_key text not null,
    created_at        timestamptz not null default now()
);
create index s3_credentials_account on s3_credentials (account_id);

-- Sites ---------------------------------------------------------------------------------------------------------

-- A deleted site stays as a row: usage of it is still owed by its account.
create table sites (
    id            uuid primary key,
    account_id    uuid not null references accounts,
    name          text not null,
    public_key    bytea not null check (octet_length(public_key) = 32),
    signing_seed  bytea not null check (octet_length(signing_seed) = 32),
    wrapping_key  bytea not null check (octet_length(wrapping_key) = 32),
    public        boolean not null default false,
    cache_control text not null default '',
    lookup_ttl_ms integer not null default 1000 check (lookup_ttl_ms between 0 and 86400000),
    peers         boolean not null default true,
    trust_domains text[] not null default '{trusted,public}',
    created_at    timestamptz not null default now(),
    deleted_at    timestamptz
);
create unique index sites_name on sites (name) where deleted_at is null;
create index sites_account on sites (account_id);

create table site_hosts (
    host    text primary key,
    site_id uuid not null references sites on delete cascade
);
create index site_hosts_site on site_hosts (site_id);

create table reader_keys (
    site_id    uuid not null references sites on delete cascade,
    id         text not null,
    public_key bytea not null check (octet_length(public_key) = 32),
    primary key (site_id, id)
);

-- Nodes ---------------------------------------------------------------------------------------------------------

-- A removed node stays as a row: usage names it.
create table nodes (
    id              uuid primary key,
    role            text not null check (role in ('origin', 'edge')),
    public_url      text not null default '',
    internal_url    text not null default '',
    relay_url       text not null default '',
    relay_quic_port integer not null default 0 check (relay_quic_port between 0 and 65535),
    s3_url          text not null default '',
    ticket_key      bytea not null default '',
    joined_at       timestamptz not null default now(),
    renewed_at      timestamptz not null default now(),
    removed_at      timestamptz
);

create table join_tokens (
    secret_hash bytea primary key,
    role        text not null check (role in ('origin', 'edge')),
    created_by  uuid not null references accounts on delete cascade,
    created_at  timestamptz not null default now(),
    expires_at  timestamptz not null,
    -- Set when spent: which request spent it, and the answer that a repetition gets.
    spent_at    timestamptz,
    csr_hash    bytea,
    node_id     uuid references nodes,
    certificate_pem text
);

-- Agents --------------------------------------------------------------------------------------------------------

create table agents (
    public_key   bytea primary key check (octet_length(public_key) = 32),
    account_id   uuid references accounts on delete set null,
    trust_domain text not null check (trust_domain in ('trusted', 'public')),
    name         text not null default '',
    enrolled_at  timestamptz not null default now(),
    renewed_at   timestamptz not null default now(),
    revoked_at   timestamptz
);
create index agents_account on agents (account_id);

create table enrolment_tokens (
    id           uuid primary key,
    secret_hash  bytea not null unique,
    account_id   uuid not null references accounts on delete cascade,
    trust_domain text not null check (trust_domain in ('trusted', 'public')),
    uses_left    integer not null check (uses_left >= 0),
    created_at   timestamptz not null default now(),
    expires_at   timestamptz not null
);

create table device_codes (
    code_hash    bytea primary key,
    user_code    text not null unique,
    agent        bytea not null check (octet_length(agent) = 32),
    name         text not null default '',
    expires_at   timestamptz not null,
    polled_at    timestamptz,
    -- null: nobody has decided yet.
    approved     boolean,
    account_id   uuid references accounts on delete cascade,
    trust_domain text check (trust_domain in ('trusted', 'public'))
);

-- Configuration -------------------------------------------------------------------------------------------------

-- One row. Whoever changes the fleet's configuration updates it first and so holds it until commit: versions become
-- visible in their order, and a watcher that has seen version n has seen all before it.
create table config_head (
    id      smallint primary key default 1 check (id = 1),
    version bigint not null,
    -- Changes up to this version are forgotten: who has not seen it needs a snapshot.
    pruned  bigint not null
);
insert into config_head (version, pruned) values (1, 1);

-- What changed, not how: watchers are sent what the subject looks like when they read it.
create table config_changes (
    version bigint not null,
    kind    text not null check (kind in ('site', 'node', 'agent', 'membership_key', 's3_credential')),
    subject text not null,
    at      timestamptz not null default now(),
    primary key (version, kind, subject)
);
create index config_changes_at on config_changes (at);

-- Usage ---------------------------------------------------------------------------------------------------------

create table edge_batches (
    edge_id      uuid primary key,
    last_applied bigint not null,
    applied_at   timestamptz not null default now()
);

-- The highest receipt of each ticket. `previous` is what it was before the last rise, so that one statement can tell the rise.
create table receipts (
    ticket_id   bytea primary key check (octet_length(ticket_id) = 16),
    site_id     uuid not null,
    path        text not null,
    issuer      uuid not null,
    receiver    bytea not null,
    sender      bytea not null,
    manifest_id bytea not null,
    bytes       bigint not null check (bytes >= 0),
    previous    bigint not null default 0,
    hour        timestamptz not null
);

-- Delivered bytes. Tier: reader (an edge to a plain HTTP client), edge (an edge to an agent), peer (an agent to an agent).
-- The path stands in the key as a digest, because an index entry is smaller than a path may be.
create table usage (
    hour        timestamptz not null,
    site_id     uuid not null,
    path_digest bytea not null,
    edge_id     uuid not null,
    tier        text not null check (tier in ('reader', 'edge', 'peer')),
    status      integer not null,
    path        text not null,
    requests    bigint not null,
    bytes       bigint not null,
    primary key (hour, site_id, path_digest, edge_id, tier, status)
);
create index usage_site on usage (site_id, hour);
