//! Whom Postgres runs as: ourselves, unless we are root, as whom it refuses to run.

use nix::unistd::{Gid, Uid, User, geteuid};

use super::ClusterError;

#[derive(Debug)]
pub(super) struct Owner {
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
}

impl Owner {
    /// None: ourselves.
    pub(super) fn choose() -> Result<Option<Self>, ClusterError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let found = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = found.ok_or(ClusterError::NoUser)?;
        Ok(Some(Self { name: user.name, uid: user.uid, gid: user.gid }))
    }
}
