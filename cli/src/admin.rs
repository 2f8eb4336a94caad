//! `umbel admin`: the control plane's REST API for hands and scripts.

use std::{fmt, path::PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand, builder::TypedValueParser};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{rest, rest::Api, runtime, settings, show};

mod account;
mod agent;
mod device;
mod host;
mod key;
mod node;
mod policy;
mod site;
mod token;
mod usage;

/// What `umbel admin` takes.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    #[command(flatten)]
    access: Access,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// Accounts: who owns sites and who runs the installation
    #[command(subcommand)]
    Account(account::Command),
    /// Sites: documents under host names
    #[command(subcommand)]
    Site(site::Command),
    /// Host names of a site
    #[command(subcommand)]
    Host(host::Command),
    /// Tokens that let nodes and agents in
    #[command(subcommand)]
    Token(token::Command),
    /// Origins and edges
    #[command(subcommand)]
    Node(node::Command),
    /// End users' agents
    #[command(subcommand)]
    Agent(agent::Command),
    /// Codes that people read off a device that wants to enrol
    #[command(subcommand)]
    Device(device::Command),
    /// Who may read a site, and how it is delivered
    #[command(subcommand)]
    Policy(policy::Command),
    /// API keys, S3 credentials and reader keys
    #[command(subcommand)]
    Key(key::Command),
    /// Delivered bytes
    Usage(usage::UsageArgs),
}

/// Where the control plane is, and with what to log in.
#[derive(Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct Access {
    #[arg(
        help = "The control plane, e.g. https://control.example.net:7440",
        long,
        global = true,
        value_name = "URL",
        env = "UMBEL_CONTROL_PLANE"
    )]
    control_plane: Option<String>,
    /// API key; better in the environment, where other users do not see it
    #[arg(long, global = true, value_name = "KEY", env = "UMBEL_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The installation's CA certificate (PEM); without it, those that the system trusts
    #[arg(long, global = true, value_name = "FILE", env = "UMBEL_CA")]
    ca: Option<PathBuf>,
    /// Read all of these from this file [default: ~/.config/umbel/admin.toml]
    #[arg(long, global = true, value_name = "FILE")]
    credentials: Option<PathBuf>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("control_plane", &self.control_plane).finish_non_exhaustive()
    }
}

const HOW: &str = "give a flag, an environment variable or ~/.config/umbel/admin.toml (see --help)";

impl Access {
    /// The API that it leads to.
    pub(crate) fn resolve(self) -> anyhow::Result<Api> {
        Ok(self.resolve_with_ca()?.0)
    }

    /// And the CA that its servers are known by.
    pub(crate) fn resolve_with_ca(self) -> anyhow::Result<(Api, Option<PathBuf>)> {
        let mut file = settings::open(self.credentials.as_deref(), "admin.toml")?;
        let (url, key) = (file.optional("control_plane"), file.optional("api_key"));
        let ca = file.optional::<String>("ca").map(PathBuf::from);
        file.finish()?;
        let url = settings::choose(self.control_plane, url, "the control plane's URL", HOW)?;
        let key = settings::choose(self.api_key, key, "the API key", HOW)?;
        let ca = self.ca.or(ca);
        Ok((Api::new(&url, key, rest::http_client(ca.as_deref())?)?, ca))
    }
}

/// Takes a word of the API on the command line; `words` are those it may be, for help and completion.
fn one_of<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    words: &[&'static str],
) -> impl TypedValueParser<Value = T> {
    clap::builder::PossibleValuesParser::new(words.iter().copied())
        .try_map(|word| serde_json::from_value::<T>(Value::String(word)))
}

/// The API, and how its answers are shown.
#[derive(Debug)]
struct Session {
    api: Api,
    json: bool,
}

impl AdminArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        runtime::client(async {
            let session = Session { api: self.access.resolve()?, json: self.json };
            match self.subject {
                Subject::Account(command) => command.run(&session).await,
                Subject::Site(command) => command.run(&session).await,
                Subject::Host(command) => command.run(&session).await,
                Subject::Token(command) => command.run(&session).await,
                Subject::Node(command) => command.run(&session).await,
                Subject::Agent(command) => command.run(&session).await,
                Subject::Device(command) => command.run(&session).await,
                Subject::Policy(command) => command.run(&session).await,
                Subject::Key(command) => command.run(&session).await,
                Subject::Usage(args) => args.run(&session).await,
            }
        })
    }
}

impl Session {
    /// GETs a list and shows it.
    async fn list<T: DeserializeOwned>(&self, path: &str, columns: &[show::Column<T>]) -> anyhow::Result<()> {
        self.rows(&self.api.get(path).await?, columns)
    }

    fn rows<T: DeserializeOwned>(&self, list: &Value, columns: &[show::Column<T>]) -> anyhow::Result<()> {
        if self.json {
            return show::json(list);
        }
        let list: Vec<T> = serde_json::from_value(list.clone()).context("the control plane's list makes no sense")?;
        show::rows(&list, columns)
    }

    /// GETs one thing and shows it.
    async fn one(&self, path: &str) -> anyhow::Result<()> {
        self.show(&self.api.get(path).await?)
    }

    /// Sends `body` and shows the answer.
    async fn send(&self, method: reqwest::Method, path: &str, body: &impl Serialize) -> anyhow::Result<()> {
        self.show(&self.api.call(method, path, Some(serde_json::to_value(body)?)).await?)
    }

    /// DELETEs; `what` is gone then.
    async fn delete(&self, path: &str, what: &str) -> anyhow::Result<()> {
        let answer = self.api.call(reqwest::Method::DELETE, path, None).await?;
        if answer.is_null() && !self.json { show::line(format_args!("deleted {what}")) } else { self.show(&answer) }
    }

    fn show(&self, answer: &Value) -> anyhow::Result<()> {
        if self.json {
            show::json(answer)
        } else if answer.is_null() {
            show::line("done")
        } else {
            show::fields(answer)
        }
    }
}
