//! `umbel admin policy`

use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use reqwest::Method;
use umbel_control_plane::api::{Carrier, PolicyChange};

use super::Session;

mod delivery;

use crate::rest::segment;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show a site's policy
    Show { site: String },
    /// Show or set how a site's answers leave the edges: compression, HTTPS, CORS, headers, error pages, limits
    Delivery(delivery::Delivery),
    /// Change a site's policy; what is not given stays
    Set {
        site: String,
        #[command(flatten)]
        wanted: Wanted,
    },
}

#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// Anyone may read it; otherwise a grant is needed
    #[arg(long, value_name = "BOOL")]
    public: Option<bool>,
    /// Cache-Control of objects that bring none
    #[arg(long, value_name = "TEXT")]
    cache_control: Option<String>,
    /// How long an edge may use its answer of which version is current, e.g. 500ms
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    lookup_ttl: Option<Duration>,
    /// Agents may hold and exchange its chunks
    #[arg(long, value_name = "BOOL")]
    peers: Option<bool>,
    /// Agents of which trust domains may, with commas: trusted,public
    #[arg(long, value_name = "DOMAINS", value_delimiter = ',')]
    trust_domains: Option<Vec<String>>,
    /// Where readers may bring grants, with commas: bearer,query,cookie
    #[arg(long, value_name = "CARRIERS", value_delimiter = ',', value_parser = super::one_of::<Carrier>(&["bearer", "query", "cookie"]))]
    carriers: Option<Vec<Carrier>>,
    /// Pulled bodies from this size on become versions, which agents share, e.g. 4MiB
    #[arg(long, value_name = "SIZE")]
    share_above: Option<ByteSize>,
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Show { site } => {
                let site = session.api.get(&format!("sites/{}", segment(&site))).await?;
                session.show(&site["policy"])
            }
            Self::Delivery(delivery) => delivery.run(session).await,
            Self::Set { site, wanted } => {
                let path = format!("sites/{}/policy", segment(&site));
                session.send(Method::PATCH, &path, &change(wanted)).await
            }
        }
    }
}

fn change(wanted: Wanted) -> PolicyChange {
    let milliseconds = |ttl: Duration| u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX);
    PolicyChange {
        public: wanted.public,
        cache_control: wanted.cache_control,
        lookup_ttl_ms: wanted.lookup_ttl.map(milliseconds),
        peers: wanted.peers,
        trust_domains: wanted.trust_domains,
        carriers: wanted.carriers,
        share_above: wanted.share_above.map(|size| size.0),
    }
}
