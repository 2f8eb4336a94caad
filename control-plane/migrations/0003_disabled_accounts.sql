-- Set: nobody gets in with this account, and its S3 credentials are not given to origins. Its sites are served as before.
alter table accounts add column disabled_at timestamptz;
