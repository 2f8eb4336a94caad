//! A site's own certificate: what its provider brought, checked before it is taken in, and shown without its key.

use sqlx::PgPool;
use time::OffsetDateTime;
use umbel_service::tls::{self, TlsError};
use uuid::Uuid;
use x509_parser::{parse_x509_certificate, pem::Pem, prelude::X509Certificate};

use super::lock;
use crate::{
    accounts::bounded,
    api::{Certificate, NewCertificate},
    changes::{self, Kind},
    error::{Error, Result},
    secrets,
};

/// Longer chains are somebody's mistake, and every handshake sends them.
const LONGEST_CHAIN: usize = 10;

/// The certificate that a site has.
pub(crate) async fn show(db: &PgPool, scope: Option<Uuid>, name: &str) -> Result<Certificate> {
    let found = sqlx::query!(
        "select c.chain_pem, c.set_at from site_certificates c join sites s on s.id = c.site_id
         where s.name = $1 and s.deleted_at is null and ($2::uuid is null or s.account_id = $2)",
        bounded(name, "site name")?,
        scope,
    );
    let row = found.fetch_optional(db).await?.ok_or(Error::NotFound("certificate of this site"))?;
    let chain = Chain::read(&row.chain_pem)?;
    Ok(chain.leaf()?.shown(row.set_at))
}

/// Replaces it, from the next handshake on at each edge that has heard of it.
pub(crate) async fn put(db: &PgPool, scope: Option<Uuid>, name: &str, new: &NewCertificate) -> Result<Certificate> {
    let chain = Chain::read(&new.chain)?;
    chain.check(OffsetDateTime::now_utc())?;
    check_key(&new.chain, &new.key)?;
    let leaf = chain.leaf()?;
    let mut tx = db.begin().await?;
    let (id, _) = lock(&mut tx, scope, name).await?;
    let hosts = sqlx::query_scalar!("select host from site_hosts where site_id = $1 order by host", id);
    leaf.check_hosts(&hosts.fetch_all(&mut *tx).await?)?;
    let put = sqlx::query_scalar!(
        "insert into site_certificates (site_id, chain_pem, key_pem) values ($1, $2, $3)
         on conflict (site_id) do update set chain_pem = excluded.chain_pem, key_pem = excluded.key_pem, set_at = now()
         returning set_at",
        id,
        new.chain,
        new.key,
    );
    let set_at = put.fetch_one(&mut *tx).await?;
    changes::record(&mut tx, &[(Kind::Site, id.to_string())]).await?;
    tx.commit().await?;
    Ok(leaf.shown(set_at))
}

/// From then on edges show their own again.
pub(crate) async fn delete(db: &PgPool, scope: Option<Uuid>, name: &str) -> Result<()> {
    let mut tx = db.begin().await?;
    let (id, _) = lock(&mut tx, scope, name).await?;
    let delete = sqlx::query!("delete from site_certificates where site_id = $1", id);
    if delete.execute(&mut *tx).await?.rows_affected() == 0 {
        return Err(Error::NotFound("certificate of this site"));
    }
    changes::record(&mut tx, &[(Kind::Site, id.to_string())]).await?;
    Ok(tx.commit().await?)
}

fn check_key(chain: &str, key: &str) -> Result<()> {
    match tls::certified(chain, key) {
        Ok(_) => Ok(()),
        Err(TlsError::Mismatch) => Err(Error::invalid("key: it is not the key of the chain's first certificate")),
        Err(TlsError::Pem(_)) => {
            Err(Error::invalid("key: no private key in PEM (PKCS#8, SEC1 or PKCS#1, and not encrypted)"))
        }
        Err(TlsError::Rustls(_) | TlsError::Verifier(_)) => Err(Error::invalid(
            "key: of a kind that edges cannot use; ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits",
        )),
    }
}

/// Certificates in DER, leaf first.
struct Chain(Vec<Vec<u8>>);

/// What is worth knowing of the first.
struct Leaf {
    names: Vec<String>,
    issuer: String,
    expires_at: OffsetDateTime,
    fingerprint: String,
}

impl Chain {
    fn read(pem: &str) -> Result<Self> {
        let mut chain = Vec::new();
        for block in Pem::iter_from_buffer(pem.as_bytes()) {
            let block = block.map_err(|_| Error::invalid("chain: not PEM"))?;
            if block.label != "CERTIFICATE" {
                return Err(Error::invalid("chain: something other than certificates is in it"));
            }
            chain.push(block.contents);
        }
        match chain.len() {
            0 => Err(Error::invalid("chain: no certificate in it")),
            1..=LONGEST_CHAIN => Ok(Self(chain)),
            _ => Err(Error::invalid(format!("chain: at most {LONGEST_CHAIN} certificates"))),
        }
    }

    fn parsed(&self) -> Result<Vec<X509Certificate<'_>>> {
        (1..).zip(&self.0).map(|(number, der)| parsed(number, der)).collect()
    }

    /// Each is valid now and issued the one before it.
    fn check(&self, now: OffsetDateTime) -> Result<()> {
        let parsed = self.parsed()?;
        for (number, certificate) in (1..).zip(&parsed) {
            let (from, to) = (certificate.validity().not_before, certificate.validity().not_after);
            if to.to_datetime() <= now {
                return Err(Error::invalid(format!("chain: certificate {number} expired on {to}")));
            }
            if from.to_datetime() > now {
                return Err(Error::invalid(format!("chain: certificate {number} is not valid before {from}")));
            }
        }
        let mut pairs = parsed.windows(2).zip(1..);
        if let Some((_, number)) = pairs.find(|(pair, _)| pair[0].issuer() != pair[1].subject()) {
            let next = number + 1;
            return Err(Error::invalid(format!(
                "chain: certificate {next} did not issue certificate {number}; put the site's own first, then each issuer"
            )));
        }
        Ok(())
    }

    fn leaf(&self) -> Result<Leaf> {
        let (Some(der), Some(parsed)) = (self.0.first(), self.parsed()?.into_iter().next()) else {
            return Err(Error::Damaged("certificate"));
        };
        let names = tls::names_and_end(der).map(|(names, _)| names);
        Ok(Leaf {
            names: names.unwrap_or_default(),
            issuer: parsed.issuer().to_string(),
            expires_at: parsed.validity().not_after.to_datetime(),
            fingerprint: secrets::hash(der).iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }
}

fn parsed(number: usize, der: &[u8]) -> Result<X509Certificate<'_>> {
    let unreadable = |_| Error::invalid(format!("chain: certificate {number} cannot be read"));
    parse_x509_certificate(der).map(|(_, parsed)| parsed).map_err(unreadable)
}

impl Leaf {
    fn check_hosts(&self, hosts: &[String]) -> Result<()> {
        if hosts.iter().any(|host| self.names.iter().any(|name| tls::covers(name, host))) {
            return Ok(());
        }
        let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Err(Error::invalid(format!(
            "chain: the certificate is for none of the site's hosts ({}); its names: {}",
            list(hosts),
            list(&self.names)
        )))
    }

    fn shown(self, set_at: OffsetDateTime) -> Certificate {
        let Self { names, issuer, expires_at, fingerprint } = self;
        Certificate { names, issuer, expires_at, fingerprint, set_at }
    }
}
