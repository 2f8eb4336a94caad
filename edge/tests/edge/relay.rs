//! The relay is for members, for as long as they are.

use std::time::Duration;

use futures::StreamExt;
use iroh::{RelayUrl, SecretKey, dns::DnsResolver};
use iroh_relay::client::{Client, ClientBuilder};
use umbel_edge::Edge;
use umbel_service::{tls, unix_now};

use crate::network::{Network, membership};

async fn connect(network: &Network, edge: &Edge, key: &SecretKey, token: &str) -> anyhow::Result<Client> {
    let url: RelayUrl = format!("https://{}", edge.ports().relay).parse()?;
    let client = ClientBuilder::new(url, key.clone(), DnsResolver::new())
        .tls_client_config(tls::client(&network.authority.pem, None)?)
        .auth_token(token);
    Ok(client.connect().await?)
}

#[tokio::test]
async fn who_is_revoked_is_off_the_relay_at_once() {
    let (network, state) = (Network::new().await, tempfile::tempdir().unwrap());
    let edge = network.edge("e1", state.path()).await;
    let keys = [3, 4].map(|seed| SecretKey::from_bytes(&[seed; 32]));
    let tokens = keys.clone().map(|key| membership(*key.public().as_bytes(), unix_now() + 1000, 1));
    connect(&network, &edge, &keys[0], "a.b.c").await.unwrap_err();
    connect(&network, &edge, &keys[0], &tokens[1]).await.unwrap_err();
    let mut revoked = connect(&network, &edge, &keys[0], &tokens[0]).await.unwrap();
    let mut other = connect(&network, &edge, &keys[1], &tokens[1]).await.unwrap();

    network.revoke(*keys[0].public().as_bytes());
    let end = async { while let Some(Ok(_)) = revoked.next().await {} };
    tokio::time::timeout(Duration::from_secs(30), end).await.expect("the end of the connection in time");
    connect(&network, &edge, &keys[0], &tokens[0]).await.unwrap_err();
    while let Some(message) = futures::FutureExt::now_or_never(other.next()) {
        message.expect("the other one stays").unwrap();
    }
    edge.stop().await;
}
