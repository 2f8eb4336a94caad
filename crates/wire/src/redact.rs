//! Debug of the messages that carry secrets: what identifies them, never the secret.

use std::fmt;

use crate::{agent, control, origin};

impl fmt::Debug for agent::Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello").finish_non_exhaustive()
    }
}

impl fmt::Debug for agent::Welcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Welcome")
            .field("fleet", &self.fleet)
            .field("observed_address", &self.observed_address)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for agent::OpenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenRequest").field("host", &self.host).field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for agent::OpenReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenReply")
            .field("site_id", &self.site_id)
            .field("home_edge", &self.home_edge)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for origin::ResolveReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolveReply").field("unchanged", &self.unchanged).finish_non_exhaustive()
    }
}

impl fmt::Debug for control::JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl fmt::Debug for control::Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("account_id", &self.account_id)
            .field("hosts", &self.hosts)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for control::Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

impl fmt::Debug for control::S3Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Credential")
            .field("access_key_id", &self.access_key_id)
            .field("site_ids", &self.site_ids)
            .finish_non_exhaustive()
    }
}
