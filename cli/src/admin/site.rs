//! `umbel admin site`

use clap::Subcommand;
use reqwest::Method;
use umbel_control_plane::api::NewSite;

use super::Session;
use crate::rest::segment;

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
    },
    /// Delete a site: nobody can read or write it any more
    Delete { name: String },
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List => {
                let columns = [("NAME", "name"), ("ACCOUNT", "account"), ("HOSTS", "hosts"), ("CREATED", "created_at")];
                session.list("sites", &columns).await
            }
            Self::Show { name } => session.one(&format!("sites/{}", segment(&name))).await,
            Self::Create { name, account, hosts, public } => {
                session.send(Method::POST, "sites", &NewSite { name, account, hosts, public }).await
            }
            Self::Delete { name } => session.delete(&format!("sites/{}", segment(&name)), &name).await,
        }
    }
}
