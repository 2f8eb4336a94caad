//! `umbel admin site`

use clap::Subcommand;
use reqwest::Method;
use umbel_control_plane::api::{NewSite, Pull, Site};

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
        /// What that server is to be told as Host, if not the URL's own
        #[arg(long, value_name = "HOST", requires = "upstreams")]
        pull_host: Option<String>,
    },
    /// The site's own certificate, which edges show instead of the installation's
    #[command(subcommand)]
    Certificate(certificate::Command),
    /// Delete a site: nobody can read or write it any more
    Delete { name: String },
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
            Self::Create { name, account, hosts, public, upstreams, pull_host } => {
                let pull = (!upstreams.is_empty()).then_some(Pull { upstreams, host: pull_host });
                session.send(Method::POST, "sites", &NewSite { name, account, hosts, public, pull }).await
            }
            Self::Certificate(command) => command.run(session).await,
            Self::Delete { name } => session.delete(&format!("sites/{}", segment(&name)), &name).await,
        }
    }
}
