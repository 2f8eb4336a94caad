use tonic::Code;
use umbel_service::tls::PeerIdentity;
use umbel_wire::control::RenewRequest;
use x509_parser::{
    pem::Pem,
    prelude::{GeneralName, X509Certificate},
};

use super::*;

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let text = |name: &GeneralName<'_>| {
        if let GeneralName::URI(text) | GeneralName::DNSName(text) = name {
            return (*text).to_owned();
        }
        format!("{name:?}")
    };
    names.value.general_names.iter().map(text).collect()
}

fn checked_names(certificate_pem: &str, ca_pem: &str) -> Vec<String> {
    let parse = |pem: &str| Pem::iter_from_buffer(pem.as_bytes()).next().unwrap().unwrap();
    let (leaf, ca) = (parse(certificate_pem), parse(ca_pem));
    let (leaf, ca) = (leaf.parse_x509().unwrap(), ca.parse_x509().unwrap());
    leaf.verify_signature(Some(ca.public_key())).unwrap();
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !leaf.is_ca() && ca.is_ca());
    let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert!((86_400..87_000).contains(&life));
    names(&leaf)
}

#[tokio::test]
async fn a_token_lets_one_node_in_and_its_certificate_says_what_we_say() {
    let world = World::start().await;
    world.create_site(&world.admin, "films", &["films.test"]).await;
    let request = join_request(world.join_secret("edge").await);
    let reply = world.join(request.clone()).await.unwrap();
    let uri = format!("spiffe://umbel/edge/{}", reply.node_id);
    let expected = [uri.as_str(), "IPAddress([10, 0, 0, 1])", "edge1.test", "films.test"];
    assert_eq!(checked_names(&reply.certificate_pem, &reply.ca_pem), expected);

    // The answer was lost: the same request gets the same answer.
    assert_eq!(world.join(request.clone()).await.unwrap(), reply);
    let other = join_request(request.secret);
    assert_eq!(world.join(other).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(world.admin("GET", "nodes", Value::Null).await.1.as_array().unwrap().len(), 1);
    world.end().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_join_is_said_and_spends_nothing() {
    let world = World::start().await;
    let secret = world.join_secret("edge").await;
    let good = join_request(secret.clone());
    let bad_url = Addresses { public_url: "ftp://x".into(), ..Addresses::default() };
    let cases = [
        (JoinRequest { secret: "nonsense".into(), ..good.clone() }, Code::Unauthenticated),
        (JoinRequest { secret: String::new(), ..good.clone() }, Code::Unauthenticated),
        (JoinRequest { csr_pem: "nonsense".into(), ..good.clone() }, Code::InvalidArgument),
        (JoinRequest { csr_pem: "A".repeat(1 << 20), ..good.clone() }, Code::InvalidArgument),
        (JoinRequest { ticket_key: vec![1; 31].into(), ..good.clone() }, Code::InvalidArgument),
        (JoinRequest { addresses: Some(bad_url), ..good.clone() }, Code::InvalidArgument),
        (JoinRequest { addresses: None, ..good.clone() }, Code::InvalidArgument),
    ];
    for (request, expected) in cases {
        let refusal = world.join(request).await.unwrap_err();
        assert_eq!(refusal.code(), expected, "{refusal:?}");
    }
    world.join(good).await.unwrap();

    let late = world.join_secret("edge").await;
    sqlx::query("update join_tokens set expires_at = now() where spent_at is null").execute(world.db()).await.unwrap();
    assert_eq!(world.join(join_request(late)).await.unwrap_err().code(), Code::Unauthenticated);
    world.end().await;
}

#[tokio::test]
async fn who_joins_again_with_its_key_is_who_it_was() {
    let world = World::start().await;
    let edge = world.node(NodeRole::Edge).await;
    // As a node from before keys were known: it tells its key when it renews.
    sqlx::query("update nodes set key_hash = null").execute(world.db()).await.unwrap();
    let request = join_request(world.join_secret("edge").await);
    let renewal = RenewRequest { csr_pem: request.csr_pem.clone(), addresses: None };
    world.state.renew(by(&edge, renewal)).await.unwrap();

    let moved = Addresses { public_url: "https://moved.test".into(), ..Addresses::default() };
    let again = JoinRequest { addresses: Some(moved.clone()), ..request };
    let reply = world.join(again.clone()).await.unwrap();
    assert_eq!(reply.node_id, edge.node_id);
    assert_eq!(world.join(again.clone()).await.unwrap(), reply, "the answer was lost");
    let nodes = crate::nodes::on_wire(&mut world.db().acquire().await.unwrap(), None).await.unwrap();
    assert_eq!(nodes.into_iter().map(|node| node.addresses).collect::<Vec<_>>(), [Some(moved)]);

    // An admin's new token undoes a removal.
    assert_eq!(world.admin("DELETE", &format!("nodes/{}", edge.node_id), Value::Null).await.0, 204);
    let tokens = [world.join_secret("edge").await, world.join_secret("edge").await];
    let joins = tokens.map(|secret| world.join(JoinRequest { secret, ..again.clone() }));
    for reply in futures::future::join_all(joins).await {
        assert_eq!(reply.unwrap().node_id, edge.node_id);
    }
    let other_kind = JoinRequest { secret: world.join_secret("origin").await, ..again.clone() };
    assert_eq!(world.join(other_kind).await.unwrap_err().code(), Code::AlreadyExists);
    let other = world.node(NodeRole::Edge).await;
    assert_ne!(other.node_id, edge.node_id);
    let stolen = RenewRequest { csr_pem: again.csr_pem, addresses: None };
    assert_eq!(world.state.renew(by(&other, stolen)).await.unwrap_err().code(), Code::AlreadyExists);
    world.end().await;
}

#[tokio::test]
async fn one_of_many_at_once_gets_in() {
    let world = World::start().await;
    let secret = world.join_secret("origin").await;
    let joins = (0..8).map(|_| world.join(join_request(secret.clone())));
    let joined = futures::future::join_all(joins).await;
    assert_eq!(joined.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    world.end().await;
}

#[tokio::test]
async fn renewal_brings_the_names_of_now_until_the_node_is_removed() {
    let world = World::start().await;
    let edge = world.node(NodeRole::Edge).await;
    world.create_site(&world.admin, "films", &["films.test"]).await;
    let moved = Addresses { public_url: "https://moved.test".into(), ..Addresses::default() };
    let csr_pem = join_request(String::new()).csr_pem;
    let request = RenewRequest { csr_pem, addresses: Some(moved) };
    let reply = world.state.renew(by(&edge, request.clone())).await.unwrap().into_inner();
    let names = checked_names(&reply.certificate_pem, &reply.ca_pem);
    assert_eq!(names, [&edge.uri(), "films.test", "moved.test"]);

    let liar = PeerIdentity { role: NodeRole::Origin, ..edge.clone() };
    let stranger = PeerIdentity { node_id: uuid::Uuid::nil().to_string(), ..edge.clone() };
    for peer in [liar, stranger] {
        let refusal = world.state.renew(by(&peer, request.clone())).await.unwrap_err();
        assert_eq!(refusal.code(), Code::PermissionDenied);
    }
    let nobody = world.state.renew(Request::new(request.clone())).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);

    assert_eq!(world.admin("DELETE", &format!("nodes/{}", edge.node_id), Value::Null).await.0, 204);
    let refusal = world.state.renew(by(&edge, request)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied);
    world.end().await;
}
