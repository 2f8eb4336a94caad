//! How a site's answers leave the edges: one document, checked when it is taken in and kept as it was written.

use sqlx::PgPool;
use umbel_delivery::{Document, Rules};
use uuid::Uuid;

use crate::{
    accounts::bounded,
    changes::{self, Kind},
    error::{Error, Result},
};

/// The document of a site; an empty one if it has none.
pub(crate) async fn show(db: &PgPool, scope: Option<Uuid>, name: &str) -> Result<Document> {
    let found = sqlx::query_scalar!(
        "select delivery::text from sites
         where name = $1 and deleted_at is null and ($2::uuid is null or account_id = $2)",
        bounded(name, "site name")?,
        scope,
    );
    let written = found.fetch_optional(db).await?.ok_or(Error::NotFound("site"))?;
    Ok(written.map(|text| read(&text)).transpose()?.unwrap_or_default())
}

/// Replaces it. Answers with the mistakes, if there are any.
pub(crate) async fn put(db: &PgPool, scope: Option<Uuid>, name: &str, document: &Document) -> Result<()> {
    Rules::of(document).map_err(|mistakes| Error::invalid(mistakes.to_string()))?;
    let text = serde_json::to_string(document).map_err(|error| Error::invalid(error.to_string()))?;
    let text = Some(text).filter(|_| *document != Document::default());
    let mut tx = db.begin().await?;
    let (id, _) = super::lock(&mut tx, scope, name).await?;
    sqlx::query!("update sites set delivery = $2::text::jsonb where id = $1", id, text).execute(&mut *tx).await?;
    changes::record(&mut tx, &[(Kind::Site, id.to_string())]).await?;
    Ok(tx.commit().await?)
}

/// What lies in the database was checked when it came; a later version may know more keys than this one.
pub(super) fn read(text: &str) -> Result<Document> {
    serde_json::from_str(text).map_err(|error| {
        tracing::error!(%error, "a stored delivery document cannot be read");
        Error::Damaged("delivery document")
    })
}
