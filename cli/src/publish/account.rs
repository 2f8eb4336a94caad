//! With which credentials a folder is published, and where to: flags, then the environment (ours or the AWS tools'), then
//! `~/.config/umbel/publish.toml`.

use std::{fmt, path::PathBuf};

use clap::Args;
use url::Url;

use crate::{rest, settings};

/// Flags that most people keep in a file instead.
#[derive(Args)]
pub(crate) struct AccountArgs {
    #[arg(
        help = "The S3 API of an origin, e.g. https://origin.example.net:9000",
        long,
        value_name = "URL",
        env = "UMBEL_S3_ENDPOINT"
    )]
    endpoint: Option<String>,
    /// Access key id [env: UMBEL_S3_ACCESS_KEY_ID or AWS_ACCESS_KEY_ID]
    #[arg(long, value_name = "ID", env = "UMBEL_S3_ACCESS_KEY_ID", hide_env = true)]
    access_key_id: Option<String>,
    /// Secret access key; better in the environment, where other users do not see it
    #[arg(long, value_name = "KEY", env = "UMBEL_S3_SECRET_ACCESS_KEY", hide_env_values = true)]
    secret_access_key: Option<String>,
    /// The installation's CA certificate (PEM); without it, those that the system trusts
    #[arg(long, value_name = "FILE", env = "UMBEL_CA")]
    ca: Option<PathBuf>,
    /// Read all of these from this file [default: ~/.config/umbel/publish.toml]
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
}

impl fmt::Debug for AccountArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountArgs").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// What requests are signed with and sent to.
pub(super) struct Account {
    pub(super) endpoint: Url,
    pub(super) credentials: rusty_s3::Credentials,
    pub(super) ca: Option<PathBuf>,
}

const HOW: &str = "give a flag, an environment variable or ~/.config/umbel/publish.toml (see --help)";

impl AccountArgs {
    /// All that is needed, from wherever it stands.
    pub(super) fn resolve(&self) -> anyhow::Result<Account> {
        let mut file = settings::open(self.credentials.as_deref(), "publish.toml")?;
        let kept = [file.optional("endpoint"), file.optional("access_key_id"), file.optional("secret_access_key")];
        let ca = file.optional::<String>("ca").map(PathBuf::from);
        file.finish()?;
        let [endpoint, id, secret] = kept;
        let aws = |name| std::env::var(name).ok();
        let endpoint = self.endpoint.clone().or(endpoint).or_else(|| aws("AWS_ENDPOINT_URL"));
        let endpoint = settings::choose(endpoint, None, "the origin's S3 endpoint", HOW)?;
        let id = self.access_key_id.clone().or(id).or_else(|| aws("AWS_ACCESS_KEY_ID"));
        let secret = self.secret_access_key.clone().or(secret).or_else(|| aws("AWS_SECRET_ACCESS_KEY"));
        let id = settings::choose(id, None, "the access key id", HOW)?;
        let secret = settings::choose(secret, None, "the secret access key", HOW)?;
        Ok(Account {
            endpoint: rest::server_url(&endpoint)?,
            credentials: rusty_s3::Credentials::new(id, secret),
            ca: self.ca.clone().or(ca),
        })
    }
}
