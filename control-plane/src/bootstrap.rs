//! The first admin.

use std::time::Duration;

use sqlx::PgPool;
use uuid::Uuid;

use crate::{accounts, authority::Authority, database, error::Result};

const ACCOUNT: &str = "admin";
const LABEL: &str = "bootstrap";

/// How long a Postgres may take to come up; somebody waits in front of a terminal.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `umbel control-plane init` writes down.
#[derive(Clone)]
pub struct Bootstrap {
    /// An API key of the account `admin`.
    pub api_key: String,
    /// The installation's CA, PEM: with it, the first call to the API is verified already.
    pub ca_pem: String,
}

impl std::fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bootstrap").finish_non_exhaustive()
    }
}

/// Migrates the database, makes the account `admin` and the CA where there are none, and gives out an API key. Called again, the key
/// it gave before ends; a disabled `admin` is enabled: whoever may open the database may always get in, and a lost key is no dead end.
///
/// # Errors
/// Postgres is away, for more than 30 s, or refuses.
pub async fn bootstrap(db: &PgPool) -> Result<Bootstrap> {
    database::patiently_for(PATIENCE, || database::migrate(db)).await?;
    let authority = Authority::load_or_create(db).await?;
    let mut tx = db.begin().await?;
    let account = sqlx::query_scalar!(
        "insert into accounts (id, name, role) values ($1, $2, 'admin')
         on conflict (name) do update set disabled_at = null returning id",
        Uuid::now_v7(),
        ACCOUNT,
    );
    let account = account.fetch_one(&mut *tx).await?;
    let old = sqlx::query!("delete from api_keys where account_id = $1 and label = $2", account, LABEL);
    old.execute(&mut *tx).await?;
    let key = accounts::create_api_key(&mut tx, account, LABEL).await?;
    tx.commit().await?;
    Ok(Bootstrap { api_key: key.api_key, ca_pem: authority.ca_pem().to_owned() })
}
