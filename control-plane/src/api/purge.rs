//! Purges and the edges that carry them out.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

/// `POST sites/{name}/purges`: whatever one of the lists matches is not served from store any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPurge {
    /// URLs on a host of the site, or their paths with queries; with all variants.
    #[serde(default)]
    pub urls: Vec<String>,
    /// As [`NewPurge::urls`]: whatever begins so.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// Surrogate keys, as responses have them in `Surrogate-Key` or `Cache-Tag`.
    #[serde(default)]
    pub keys: Vec<String>,
    /// The whole site.
    #[serde(default)]
    pub everything: bool,
    /// It may be served when its server has confirmed it, or while that cannot be reached.
    #[serde(default)]
    pub soft: bool,
}

/// Answer of `POST sites/{name}/purges`; `GET sites/{name}/purges/{id}`; without `edges` in `GET sites/{name}/purges`, the
/// newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purge {
    /// Unique.
    pub id: Uuid,
    /// Of the configuration: who has applied it has carried out this purge.
    pub version: i64,
    /// See [`NewPurge::soft`].
    pub soft: bool,
    /// See [`NewPurge::everything`].
    pub everything: bool,
    /// How many were named.
    pub urls: i32,
    /// How many were named.
    pub prefixes: i32,
    /// How many were named.
    pub keys: i32,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// How far each edge is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<PurgedEdge>,
}

/// What one edge made of a purge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgedEdge {
    /// Its node id.
    pub id: Uuid,
    /// Where readers reach it.
    pub url: String,
    /// How far it is.
    pub state: PurgeState,
}

/// How far an edge is with a purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PurgeState {
    /// It serves nothing any more that was purged.
    Confirmed,
    /// It is there and has not said so yet.
    Waiting,
    /// It does not follow the configuration now. If it runs all the same, readers get from it what was purged; when it starts
    /// again or hears of the purge, it carries it out before it serves what it has stored without asking.
    Away,
}

/// `GET edges`: where readers are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// Its node id.
    pub id: Uuid,
    /// Where readers reach it.
    pub url: String,
    /// Whether it follows the configuration now.
    pub alive: bool,
}
