//! Certificates: who a server is, whom it believes, and how both change while it runs.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or not what was expected in it.
    #[error("not a valid PEM file")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// The key is another certificate's.
    #[error("the key is not that of the certificate")]
    Mismatch,
    /// Something about key or certificate is not supported.
    #[error("certificate or key not usable")]
    Rustls(#[from] rustls::Error),
    /// No CA to check clients with.
    #[error("no usable certificate authority")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl From<rustls::pki_types::pem::Error> for TlsError {
    fn from(error: rustls::pki_types::pem::Error) -> Self {
        Self::Pem(error)
    }
}

/// The kinds of server that hold a certificate of the installation's CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeRole {
    /// The control plane itself.
    ControlPlane,
    /// An origin.
    Origin,
    /// An edge.
    Edge,
}

impl NodeRole {
    /// As it stands in the certificate's URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Origin => "origin",
            Self::Edge => "edge",
        }
    }
}

/// Who the other end of a mutual TLS connection is: `spiffe://umbel/<role>/<node id>` in its certificate.
/// A request extension of everything that [`crate::listen`] passes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// What it is.
    pub role: NodeRole,
    /// Which one.
    pub node_id: String,
}

impl PeerIdentity {
    /// The URI name that a certificate of this identity carries.
    pub fn uri(&self) -> String {
        format!("spiffe://umbel/{}/{}", self.role.as_str(), self.node_id)
    }

    /// Reads the identity from a certificate that was verified before.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok()??;
        let uris = names
            .value
            .general_names
            .iter()
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(uri) } else { None });
        uris.filter_map(|uri| Self::from_uri(uri)).next()
    }

    fn from_uri(uri: &str) -> Option<Self> {
        let (role, node_id) = uri.strip_prefix("spiffe://umbel/")?.split_once('/')?;
        let roles = [NodeRole::ControlPlane, NodeRole::Origin, NodeRole::Edge];
        let role = roles.into_iter().find(|known| known.as_str() == role)?;
        Some(Self { role, node_id: node_id.to_owned() })
    }
}

/// The process-wide cryptography: aws-lc-rs. Call once at the start of a program; later calls change nothing.
pub fn install_provider() {
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    install_provider();
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// A certificate chain and its key, replaceable while connections use it.
pub struct LiveCertificate(ArcSwap<CertifiedKey>);

impl LiveCertificate {
    /// From PEM texts: the chain leaf first, and a PKCS#8, SEC1 or PKCS#1 key.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, TlsError> {
        Ok(Self(ArcSwap::from_pointee(certified(chain, key)?)))
    }

    /// New handshakes use this from now on.
    pub fn replace(&self, chain: &str, key: &str) -> Result<(), TlsError> {
        self.0.store(Arc::new(certified(chain, key)?));
        Ok(())
    }

    /// The leaf certificate, DER.
    pub fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.0.load().cert.first().cloned()
    }
}

/// A chain (leaf first) and its key, from PEM texts, if they fit.
pub fn certified(chain: &str, key: &str) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
        let is_mismatch = matches!(error, rustls::Error::InconsistentKeys(_));
        if is_mismatch { TlsError::Mismatch } else { error.into() }
    })
}

/// The hosts that a certificate (DER) is for, in lower case, and the second since the epoch at which it ends. None if it is not
/// a certificate.
pub fn names_and_end(certificate: &[u8]) -> Option<(Vec<String>, i64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let extension = parsed.subject_alternative_name().ok()?;
    let names = extension.iter().flat_map(|extension| &extension.value.general_names);
    let hosts = names
        .filter_map(|name| if let GeneralName::DNSName(name) = name { Some(name.to_ascii_lowercase()) } else { None });
    Some((hosts.collect(), parsed.validity().not_after.timestamp()))
}

/// Whether `name` of a certificate, perhaps with `*.` in front, is for `host`; both in lower case (RFC 9525, section 6.3).
pub fn covers(name: &str, host: &str) -> bool {
    let Some(parent) = name.strip_prefix("*.") else { return name == host };
    host.split_once('.').is_some_and(|(_, rest)| rest == parent)
}

impl fmt::Debug for LiveCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveCertificate").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for LiveCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ResolvesClientCert for LiveCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Root certificates from PEM.
pub fn roots(ca_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        store.add(certificate?)?;
    }
    Ok(store)
}

/// Whether a server asks its clients for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth<'a> {
    /// Never: public ports, so that no browser asks its user.
    None,
    /// Those who have one may show it; given the CA in PEM.
    Optional(&'a str),
    /// No connection without; given the CA in PEM.
    Required(&'a str),
}

/// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN.
pub fn server(certificate: Arc<dyn ResolvesServerCert>, auth: ClientAuth<'_>) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider());
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        }
        ClientAuth::Required(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider());
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A client that believes only `ca_pem` and shows `certificate` when asked. ALPN is left to the HTTP client.
pub fn client(ca_pem: &str, certificate: Option<Arc<LiveCertificate>>) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca_pem)?);
    Ok(match certificate {
        Some(certificate) => builder.with_client_cert_resolver(certificate),
        None => builder.with_no_client_auth(),
    })
}
