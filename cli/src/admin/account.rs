//! `umbel admin account`

use anyhow::Context;
use clap::Subcommand;
use reqwest::Method;
use umbel_control_plane::api::{Account, AccountRole, NewAccount, NewPassword};

use super::{Session, one_of};
use crate::{
    rest::segment,
    show::{self, Column, word},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List accounts
    List,
    /// Make an account
    Create {
        name: String,
        /// What it may do
        #[arg(long, value_parser = one_of::<AccountRole>(&["admin", "provider"]), default_value = "provider")]
        role: AccountRole,
        /// Read a password for the admin pages from standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Set an account's password, read from standard input
    Password { name: String },
    /// Let nobody in with an account: passwords, API keys, S3 credentials and enrolment tokens of it count no more. Its sites stay
    Disable { name: String },
    /// Let people in with a disabled account again
    Enable { name: String },
}

const COLUMNS: [Column<Account>; 5] = [
    ("NAME", |account| account.name.clone()),
    ("ROLE", |account| word(&account.role)),
    ("CREATED", |account| show::time(account.created_at)),
    ("DISABLED", |account| account.disabled_at.map_or_else(|| "-".to_owned(), show::time)),
    ("ID", |account| account.id.to_string()),
];

impl Command {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List => session.list("accounts", &COLUMNS).await,
            Self::Create { name, role, password_stdin } => {
                let password = password_stdin.then(password).transpose()?;
                session.send(Method::POST, "accounts", &NewAccount { name, role, password }).await
            }
            Self::Password { name } => {
                let path = format!("accounts/{}/password", segment(&name));
                session.send(Method::PUT, &path, &NewPassword { password: password()? }).await
            }
            Self::Disable { name } => {
                session.send(Method::PUT, &format!("accounts/{}/disabled", segment(&name)), &()).await
            }
            Self::Enable { name } => session.delete(&format!("accounts/{}/disabled", segment(&name)), &name).await,
        }
    }
}

/// The first line of standard input: not in the process list, not in the shell's history.
fn password() -> anyhow::Result<String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("cannot read the password")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
