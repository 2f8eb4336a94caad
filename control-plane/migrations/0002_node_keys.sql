-- SHA-256 of the public key that a node's certificates are for. A node that joins again with the same key is the same
-- node: the numbers of its usage batches go on, and the tickets it has signed stay good. Nodes from before tell their
-- key when they renew.
alter table nodes add column key_hash bytea unique;
