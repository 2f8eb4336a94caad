//! The installation's certificate authority and its other signing keys: made at first start, kept in Postgres.

use std::{collections::BTreeSet, fmt, net::IpAddr, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use sqlx::PgPool;
use time::OffsetDateTime;
use umbel_service::tls::PeerIdentity;
use umbel_wire::token::TokenSigner;
use uuid::Uuid;

use crate::{
    changes::{self, Kind},
    error::{Error, Result},
    secrets,
};

/// Ten years: replacing a root by hand is nobody's idea of a good day.
const ROOT_LIFETIME: time::Duration = time::Duration::days(3653);
/// Clocks of nodes may be behind ours by this much.
const BACKDATE: time::Duration = time::Duration::minutes(5);
/// A request for a P-256 key has about 400 bytes.
const MAX_CSR_BYTES: usize = 16 << 10;
/// Names in one certificate: more would not fit into a TLS handshake message.
const MAX_NAMES: usize = 1000;

/// The keys that the installation is built on.
pub(crate) struct Authority {
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    memberships: TokenSigner,
    session_key: [u8; 32],
}

/// A PKCS#10 request that is signed by the key it is for.
#[derive(Debug)]
pub(crate) struct CertificateRequest(CertificateSigningRequestParams);

/// A certificate with its key.
pub(crate) struct IssuedPair {
    /// Leaf first, PEM.
    pub(crate) certificate_pem: String,
    /// PKCS#8, PEM.
    pub(crate) key_pem: String,
}

impl CertificateRequest {
    /// Reads a request. Whatever it asks for beside a certificate for its key is ignored.
    ///
    /// # Errors
    /// It is malformed or not signed by its key.
    pub(crate) fn read(csr_pem: &str) -> Result<Self> {
        if csr_pem.len() > MAX_CSR_BYTES {
            return Err(Error::invalid("certificate request is too long"));
        }
        let request = CertificateSigningRequestParams::from_pem(csr_pem);
        request.map(Self).map_err(|error| Error::invalid(format!("certificate request is not usable: {error}")))
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7).
    pub(crate) fn key_hash(&self) -> Vec<u8> {
        secrets::hash(self.0.public_key.subject_public_key_info())
    }
}

impl Authority {
    /// The keys of this installation; the first process to come makes them.
    ///
    /// # Errors
    /// Postgres is away, or what it holds cannot be read.
    pub(crate) async fn load_or_create(db: &PgPool) -> Result<Self> {
        create_root(db).await?;
        create_membership_key(db).await?;
        let root = sqlx::query!("select key_pem, certificate_pem, session_key from authority").fetch_one(db).await?;
        let signer = sqlx::query!("select id, seed from membership_keys order by created_at desc, id limit 1");
        let signer = signer.fetch_one(db).await?;
        let seed = signer.seed.try_into().map_err(|_| Error::Damaged("membership key"))?;
        let key = KeyPair::from_pem(&root.key_pem).map_err(Error::Authority)?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(&root.certificate_pem, key).map_err(Error::Authority)?,
            ca_pem: root.certificate_pem,
            memberships: TokenSigner::from_seed(signer.id, &seed),
            session_key: root.session_key.try_into().map_err(|_| Error::Damaged("session key"))?,
        })
    }

    /// The root certificate, PEM.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Signs memberships.
    pub(crate) fn memberships(&self) -> &TokenSigner {
        &self.memberships
    }

    pub(crate) fn session_key(&self) -> &[u8; 32] {
        &self.session_key
    }

    /// A certificate for the key of a request; identity and names are what the control plane says.
    ///
    /// # Errors
    /// A name does not fit into a certificate.
    pub(crate) fn certify(
        &self,
        request: &CertificateRequest,
        identity: &PeerIdentity,
        names: &BTreeSet<String>,
        lifetime: Duration,
    ) -> Result<String> {
        let params = leaf(identity, names, lifetime)?;
        let certificate = params.signed_by(&request.0.public_key, &self.issuer).map_err(Error::Authority)?;
        Ok(certificate.pem())
    }

    /// A fresh key and its certificate, for the control plane's own port.
    ///
    /// # Errors
    /// The key generator fails.
    pub(crate) fn issue(
        &self,
        identity: &PeerIdentity,
        names: &BTreeSet<String>,
        lifetime: Duration,
    ) -> Result<IssuedPair> {
        let key = KeyPair::generate().map_err(Error::Authority)?;
        let params = leaf(identity, names, lifetime)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(Error::Authority)?;
        Ok(IssuedPair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("memberships", &self.memberships).finish_non_exhaustive()
    }
}

impl fmt::Debug for IssuedPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedPair").finish_non_exhaustive()
    }
}

/// Host names and IP addresses in the URLs that a node is reached by.
pub(crate) fn names_of<'a>(urls: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    let hosts = urls.into_iter().filter_map(|text| {
        let url = url::Url::parse(text).ok()?;
        Some(match url.host()? {
            url::Host::Domain(name) => name.to_ascii_lowercase(),
            url::Host::Ipv4(address) => address.to_string(),
            url::Host::Ipv6(address) => address.to_string(),
        })
    });
    hosts.collect()
}

async fn create_root(db: &PgPool) -> Result<()> {
    let there = sqlx::query_scalar!(r#"select exists(select from authority) as "there!""#).fetch_one(db).await?;
    if there {
        return Ok(());
    }
    let key = KeyPair::generate().map_err(Error::Authority)?;
    let certificate = root()?.self_signed(&key).map_err(Error::Authority)?;
    // Of two processes that start together, the first to commit decides.
    sqlx::query!(
        "insert into authority (key_pem, certificate_pem, session_key) values ($1, $2, $3) on conflict do nothing",
        key.serialize_pem(),
        certificate.pem(),
        &rand::random::<[u8; 32]>()[..],
    )
    .execute(db)
    .await?;
    Ok(())
}

async fn create_membership_key(db: &PgPool) -> Result<()> {
    let mut tx = db.begin().await?;
    sqlx::query!("select id from authority for update").fetch_one(&mut *tx).await?;
    let there = sqlx::query_scalar!(r#"select exists(select from membership_keys) as "there!""#);
    if there.fetch_one(&mut *tx).await? {
        return Ok(());
    }
    let (id, seed) = (Uuid::now_v7().to_string(), rand::random::<[u8; 32]>());
    let public = *TokenSigner::from_seed(id.as_str(), &seed).public();
    let insert = sqlx::query!(
        "insert into membership_keys (id, seed, public_key) values ($1, $2, $3)",
        id,
        &seed[..],
        &public[..]
    );
    insert.execute(&mut *tx).await?;
    changes::record(&mut tx, &[(Kind::MembershipKey, id)]).await?;
    Ok(tx.commit().await?)
}

fn root() -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("Umbel CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial());
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATE;
    params.not_after = now + ROOT_LIFETIME;
    Ok(params)
}

fn leaf(identity: &PeerIdentity, names: &BTreeSet<String>, lifetime: Duration) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&identity.node_id);
    params.subject_alt_names = subject_names(identity, names)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATE;
    params.not_after = now + lifetime;
    Ok(params)
}

fn subject_names(identity: &PeerIdentity, names: &BTreeSet<String>) -> Result<Vec<SanType>> {
    if names.len() > MAX_NAMES {
        tracing::warn!(
            node = identity.node_id,
            names = names.len(),
            "too many names for one certificate, leaving some out"
        );
    }
    let uri = SanType::URI(identity.uri().try_into().map_err(Error::Authority)?);
    let others = names.iter().take(MAX_NAMES).map(|name| match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(name.as_str().try_into().map_err(Error::Authority)?)),
    });
    std::iter::once(Ok(uri)).chain(others).collect()
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// 127 random bits: positive and never twice (RFC 5280, section 4.1.2.2).
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_urls() {
        let urls = ["https://Edge1.example.net:443/x", "https://127.0.0.1:1", "https://[::1]:2", "", "nonsense"];
        let names = names_of(urls);
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["127.0.0.1", "::1", "edge1.example.net"]);
    }
}
