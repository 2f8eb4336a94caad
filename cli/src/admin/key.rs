//! `umbel admin key`: API keys, S3 credentials, and the public keys that readers' grants are checked with.

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;
use reqwest::Method;
use serde::de::DeserializeOwned;
use umbel_control_plane::api::{ApiKey, ForAccount, ReaderKey, Rotation, S3Credential};

use super::Session;
use crate::{
    grant,
    rest::segment,
    show::{self, Column},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Keys of this API
    #[command(subcommand)]
    Api(Secret),
    /// Credentials of the S3 API
    #[command(subcommand)]
    S3(Secret),
    /// Public keys that grants to a site are checked with
    #[command(subcommand)]
    Reader(Reader),
}

#[derive(Debug, Subcommand)]
pub(super) enum Secret {
    /// List them, without their secrets
    List,
    /// Make one; its secret is shown once
    Create {
        /// For whom, if not yourself (admins)
        #[arg(long)]
        account: Option<String>,
        /// What it is for
        #[arg(long, default_value = "")]
        label: String,
    },
    /// Delete one; it opens nothing any more
    Delete { id: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum Reader {
    /// Add or replace a key (see `umbel grant new-key`)
    Set {
        site: String,
        /// The name that grants call it by
        id: String,
        /// Ed25519, base64url
        public_key: String,
    },
    /// List them, and until when what they signed is good
    List { site: String },
    /// Let a new key take the place of those that are there, which end after a while
    Rotate {
        site: String,
        /// The new reader key, as `umbel grant new-key` made it
        #[arg(long, value_name = "FILE")]
        new_key: PathBuf,
        /// How long grants of the old keys stay good: longer than you give grants for
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
        overlap: Duration,
    },
    /// Remove a key: its grants open nothing any more
    Remove { site: String, id: String },
}

const API_KEYS: [Column<ApiKey>; 4] = [
    ("ID", |key| key.id.to_string()),
    ("ACCOUNT", |key| key.account.clone()),
    ("LABEL", |key| key.label.clone()),
    ("CREATED", |key| show::time(key.created_at)),
];

const S3_CREDENTIALS: [Column<S3Credential>; 3] = [
    ("ACCESS KEY ID", |key| key.access_key_id.clone()),
    ("ACCOUNT", |key| key.account.clone()),
    ("CREATED", |key| show::time(key.created_at)),
];

const READER_KEYS: [Column<ReaderKey>; 3] = [
    ("ID", |key| key.id.clone()),
    ("PUBLIC KEY", |key| key.public_key.clone()),
    ("GOOD UNTIL", |key| key.not_after.map(show::time).unwrap_or_default()),
];

impl Command {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Api(command) => command.run(session, "api-keys", &API_KEYS).await,
            Self::S3(command) => command.run(session, "s3-credentials", &S3_CREDENTIALS).await,
            Self::Reader(command) => command.run(session).await,
        }
    }
}

impl Secret {
    async fn run<T: DeserializeOwned>(
        self,
        session: &Session,
        path: &str,
        columns: &[Column<T>],
    ) -> anyhow::Result<()> {
        match self {
            Self::List => session.list(path, columns).await,
            Self::Create { account, label } => session.send(Method::POST, path, &ForAccount { account, label }).await,
            Self::Delete { id } => session.delete(&format!("{path}/{}", segment(&id)), &id).await,
        }
    }
}

impl Reader {
    async fn run(self, session: &Session) -> anyhow::Result<()> {
        let path = |site: &str, id: &str| format!("sites/{}/reader-keys/{}", segment(site), segment(id));
        match self {
            Self::Set { site, id, public_key } => {
                let path = path(&site, &id);
                session.send(Method::PUT, &path, &ReaderKey { id, public_key, not_after: None }).await
            }
            Self::List { site } => {
                let site = session.api.get(&format!("sites/{}", segment(&site))).await?;
                session.rows(&site["policy"]["reader_keys"], &READER_KEYS)
            }
            Self::Rotate { site, new_key, overlap } => {
                let key = grant::ReaderKey::read(&new_key)?;
                let rotation = Rotation { public_key: key.public()?, id: key.id, overlap: overlap.as_secs() };
                let path = format!("sites/{}/reader-keys", segment(&site));
                let site = session.api.call(Method::POST, &path, Some(serde_json::to_value(&rotation)?)).await?;
                session.rows(&site["policy"]["reader_keys"], &READER_KEYS)
            }
            Self::Remove { site, id } => session.delete(&path(&site, &id), &id).await,
        }
    }
}
