//! `umbel admin account`

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use reqwest::Method;
use umbel_control_plane::api::{AccountRole, NewAccount, NewPassword};

use super::Session;
use crate::rest::segment;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List accounts
    List,
    /// Make an account
    Create {
        name: String,
        /// What it may do
        #[arg(long, value_enum, default_value_t = Role::Provider)]
        role: Role,
        /// Read a password for the admin pages from standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Set an account's password, read from standard input
    Password { name: String },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Role {
    Admin,
    Provider,
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List => {
                let columns = [("NAME", "name"), ("ROLE", "role"), ("CREATED", "created_at"), ("ID", "id")];
                session.list("accounts", &columns).await
            }
            Self::Create { name, role, password_stdin } => {
                let role = match role {
                    Role::Admin => AccountRole::Admin,
                    Role::Provider => AccountRole::Provider,
                };
                let password = password_stdin.then(password).transpose()?;
                session.send(Method::POST, "accounts", &NewAccount { name, role, password }).await
            }
            Self::Password { name } => {
                let path = format!("accounts/{}/password", segment(&name));
                session.send(Method::PUT, &path, &NewPassword { password: password()? }).await
            }
        }
    }
}

/// The first line of standard input: not in the process list, not in the shell's history.
fn password() -> anyhow::Result<String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("cannot read the password")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
