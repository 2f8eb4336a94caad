//! Who a server is in its installation: it joins once with an invitation, keeps what it was given in one state
//! file, and renews its certificate by itself.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use rcgen::{CertificateParams, KeyPair};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use umbel_wire::{
    control::{Addresses, JoinRequest, RenewRequest, nodes_client::NodesClient},
    invitation::{Invitation, Purpose},
};
use x509_parser::{
    pem::parse_x509_pem,
    prelude::{FromDer, X509Certificate},
};

use crate::{client, files, tls, unix_now};

const EXPIRED: &str = "this node's certificate has expired while it was off: give it a new token from `umbel admin token create` to join \
    again";

/// Between two renewals of a certificate that is old when it is made, as those with lives of seconds are.
const SOONEST: Duration = Duration::from_secs(1);

/// After a failed renewal.
const RETRY: Duration = Duration::from_secs(15);

/// A member of the installation.
#[derive(Debug)]
pub struct Node {
    /// Given by the control plane.
    pub id: String,
    /// Base URL of the control plane.
    pub control_plane: String,
    /// The installation's CA, PEM.
    pub ca: String,
    /// Shown to clients and servers alike; replaced when it is renewed.
    pub certificate: Arc<tls::LiveCertificate>,
    key_pem: String,
    file: PathBuf,
    renew_now: Notify,
}

/// What survives a restart. The file is a secret.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    id: String,
    control_plane: String,
    ca: String,
    certificate: String,
    key: String,
}

/// Written before the invitation is used, so that a crash in between does not waste it.
#[derive(Serialize, Deserialize)]
struct Pending {
    key: String,
    csr: String,
}

impl Node {
    /// The node whose state lies in `folder`; the first time, `invitation` makes it one.
    pub async fn enter(
        folder: &Path,
        purpose: Purpose,
        invitation: Option<&str>,
        addresses: Addresses,
        ticket_key: &[u8],
    ) -> anyhow::Result<Self> {
        files::private_folder(folder).with_context(|| format!("cannot make the state folder {}", folder.display()))?;
        let file = folder.join("node.json");
        let kept = match kept(&file)? {
            Some(kept) if !is_over(&kept) => kept,
            Some(kept) => {
                anyhow::ensure!(invitation.is_some(), EXPIRED);
                warn!(node = kept.id, "the certificate has expired: joining again");
                join(folder, &file, purpose, invitation, addresses, ticket_key).await.context(EXPIRED)?
            }
            None => join(folder, &file, purpose, invitation, addresses, ticket_key).await?,
        };
        Self::from_kept(kept, file)
    }

    fn from_kept(kept: Kept, file: PathBuf) -> anyhow::Result<Self> {
        let certificate = Arc::new(tls::LiveCertificate::from_pem(&kept.certificate, &kept.key)?);
        Ok(Self {
            id: kept.id,
            control_plane: kept.control_plane,
            ca: kept.ca,
            certificate,
            key_pem: kept.key,
            file,
            renew_now: Notify::new(),
        })
    }

    /// A gRPC channel to the control plane that shows this node's certificate.
    pub fn control_channel(&self) -> anyhow::Result<tonic::transport::Channel> {
        let tls = tls::client(&self.ca, Some(self.certificate.clone()))?;
        Ok(client::channel(&self.control_plane, tls)?)
    }

    /// Asks for a new certificate soon: the names in it are out of date.
    pub fn renew_soon(&self) {
        self.renew_now.notify_one();
    }

    /// Renews the certificate at two thirds of its life, or when asked to, until `shutdown`.
    pub async fn keep_renewed(&self, addresses: Addresses, shutdown: CancellationToken) -> anyhow::Result<()> {
        let channel = self.control_channel()?;
        let mut wait = self.until_renewal();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = self.renew_now.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
            wait = match self.renew(channel.clone(), addresses.clone()).await {
                Ok(()) => self.until_renewal(),
                Err(error) => {
                    warn!(error = format!("{error:#}"), "certificate not renewed, trying again");
                    RETRY
                }
            };
        }
    }

    fn until_renewal(&self) -> Duration {
        let leaf = self.certificate.leaf().unwrap_or_else(|| Vec::new().into());
        let Ok((_, parsed)) = X509Certificate::from_der(&leaf) else { return Duration::ZERO };
        let validity = parsed.validity();
        let life = validity.not_after.timestamp() - validity.not_before.timestamp();
        let due = validity.not_before.timestamp() + life * 2 / 3;
        let now = i64::try_from(unix_now()).unwrap_or(i64::MAX);
        Duration::from_secs(u64::try_from(due - now).unwrap_or(0)).max(SOONEST)
    }

    async fn renew(&self, channel: tonic::transport::Channel, addresses: Addresses) -> anyhow::Result<()> {
        let csr_pem = csr(&KeyPair::from_pem(&self.key_pem)?)?;
        let request = RenewRequest { csr_pem, addresses: Some(addresses) };
        let reply = NodesClient::new(channel).renew(request).await?.into_inner();
        self.certificate.replace(&reply.certificate_pem, &self.key_pem)?;
        let kept = Kept {
            id: self.id.clone(),
            control_plane: self.control_plane.clone(),
            ca: reply.ca_pem,
            certificate: reply.certificate_pem,
            key: self.key_pem.clone(),
        };
        files::replace(&self.file, &serde_json::to_vec(&kept)?)?;
        info!("certificate renewed");
        Ok(())
    }
}

fn kept(file: &Path) -> anyhow::Result<Option<Kept>> {
    let Some(bytes) = files::read(file)? else { return Ok(None) };
    let kept = serde_json::from_slice(&bytes);
    kept.map(Some).with_context(|| format!("{} is damaged: remove it and join again with a new token", file.display()))
}

/// Without a valid certificate, the control plane does not renew it either.
fn is_over(kept: &Kept) -> bool {
    let Ok((_, pem)) = parse_x509_pem(kept.certificate.as_bytes()) else { return false };
    let now = i64::try_from(unix_now()).unwrap_or(i64::MAX);
    pem.parse_x509().is_ok_and(|leaf| leaf.validity().not_after.timestamp() < now)
}

async fn join(
    folder: &Path,
    file: &Path,
    purpose: Purpose,
    invitation: Option<&str>,
    addresses: Addresses,
    ticket_key: &[u8],
) -> anyhow::Result<Kept> {
    let text = invitation.context("this node has not joined yet: give it a token from `umbel admin token create`")?;
    let invitation = Invitation::decode(text)?;
    anyhow::ensure!(invitation.purpose == purpose, "this token is for another kind of node: {:?}", invitation.purpose);
    let pending = pending(folder)?;
    let channel = client::channel(&invitation.url, tls::client(&invitation.ca, None)?)?;
    let request = JoinRequest {
        secret: invitation.secret,
        csr_pem: pending.csr,
        addresses: Some(addresses),
        ticket_key: ticket_key.to_vec().into(),
    };
    let reply = NodesClient::new(channel).join(request).await;
    let reply = reply
        .with_context(|| format!("the control plane at {} did not let this node in", invitation.url))?
        .into_inner();
    let kept = Kept {
        id: reply.node_id,
        control_plane: invitation.url,
        ca: reply.ca_pem,
        certificate: reply.certificate_pem,
        key: pending.key,
    };
    files::replace(file, &serde_json::to_vec(&kept)?)?;
    info!(node = kept.id, "joined the installation");
    Ok(kept)
}

/// The key stays for good: by it the control plane knows a node that joins again, whose usage batches it may have counted
/// without the node's knowing.
fn pending(folder: &Path) -> anyhow::Result<Pending> {
    let file = folder.join("joining.json");
    if let Some(bytes) = files::read(&file)?
        && let Ok(pending) = serde_json::from_slice(&bytes)
    {
        return Ok(pending);
    }
    let key = KeyPair::generate()?;
    let pending = Pending { csr: csr(&key)?, key: key.serialize_pem() };
    files::replace(&file, &serde_json::to_vec(&pending)?)?;
    Ok(pending)
}

/// Names are the control plane's to give: the request has none.
fn csr(key: &KeyPair) -> anyhow::Result<String> {
    Ok(CertificateParams::default().serialize_request(key)?.pem()?)
}
