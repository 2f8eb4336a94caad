-- Sites whose documents come from the provider's own web server. None: they are uploaded.
alter table sites
    add column pull_upstreams text[] not null default '{}',
    add column pull_host text not null default '';
