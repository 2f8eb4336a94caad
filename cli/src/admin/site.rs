//! `umbel admin site`

use std::time::Duration;

use clap::{Args, Subcommand};
use reqwest::Method;
use umbel_control_plane::api::{NewSite, Protocol, Pull, Site};

use super::Session;

mod certificate;

use crate::{
    rest::segment,
    show::{self, Column},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List sites
    List,
    /// Show a site
    Show { name: String },
    /// Make a site
    Create {
        /// Also the S3 bucket: 3 to 63 of a-z, 0-9 and -
        name: String,
        /// Owner, if not yourself (admins)
        #[arg(long)]
        account: Option<String>,
        /// Host name that it answers on; may be given again
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// Anyone may read it
        #[arg(long)]
        public: bool,
        /// Its documents are those of this web server; again: the same server at another address
        #[arg(long = "pull", value_name = "URL")]
        upstreams: Vec<String>,
        #[command(flatten)]
        asked: Asked,
    },
    /// Change where the documents of a pulled site come from, and how they are asked for; what is not given is as by default
    Pull {
        site: String,
        /// The web server; again: the same server at another address
        #[arg(value_name = "URL", required = true)]
        upstreams: Vec<String>,
        #[command(flatten)]
        asked: Asked,
    },
    /// The site's own certificate, which edges show instead of the installation's
    #[command(subcommand)]
    Certificate(certificate::Command),
    /// Delete a site: nobody can read or write it any more
    Delete { name: String },
}

/// How a provider's web server is asked.
#[derive(Debug, Args)]
pub(super) struct Asked {
    /// What that server is to be told as Host, if not the URL's own
    #[arg(long, value_name = "HOST", requires = "upstreams")]
    pull_host: Option<String>,
    /// What is spoken with it
    #[arg(long, value_name = "VERSION", default_value = "auto", requires = "upstreams", value_parser = super::one_of::<Protocol>(&["auto", "1.1", "2"]))]
    protocol: Protocol,
    /// How long all its addresses together may take to begin an answer, e.g. 10s [default: 30s]
    #[arg(long, value_name = "TIME", requires = "upstreams", value_parser = humantime::parse_duration)]
    first_byte: Option<Duration>,
    /// How long it may take between two pieces of an answer, e.g. 60s [default: 60s]
    #[arg(long, value_name = "TIME", requires = "upstreams", value_parser = humantime::parse_duration)]
    between_bytes: Option<Duration>,
}

impl Asked {
    fn at(self, upstreams: Vec<String>) -> Pull {
        let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        Pull {
            upstreams,
            host: self.pull_host,
            protocol: self.protocol,
            first_byte_ms: self.first_byte.map(milliseconds),
            between_bytes_ms: self.between_bytes.map(milliseconds),
        }
    }
}

const COLUMNS: [Column<Site>; 4] = [
    ("NAME", |site| site.name.clone()),
    ("ACCOUNT", |site| site.account.clone()),
    ("HOSTS", |site| site.hosts.join(", ")),
    ("CREATED", |site| show::time(site.created_at)),
];

impl Command {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List => session.list("sites", &COLUMNS).await,
            Self::Show { name } => session.one(&format!("sites/{}", segment(&name))).await,
            Self::Create { name, account, hosts, public, upstreams, asked } => {
                let pull = (!upstreams.is_empty()).then(|| asked.at(upstreams));
                session.send(Method::POST, "sites", &NewSite { name, account, hosts, public, pull }).await
            }
            Self::Pull { site, upstreams, asked } => {
                session.send(Method::PUT, &format!("sites/{}/pull", segment(&site)), &asked.at(upstreams)).await
            }
            Self::Certificate(command) => command.run(session).await,
            Self::Delete { name } => session.delete(&format!("sites/{}", segment(&name)), &name).await,
        }
    }
}
