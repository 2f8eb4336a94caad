//! What edges get, and who is no edge.

use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use tonic::Code;
use umbel_content::{ContentKey, Manifest, Opener, SignedManifest};
use umbel_service::{client, tls, tls::NodeRole};
use umbel_wire::origin::{ResolveReply, ResolveRequest, content_client::ContentClient};

use crate::world::{FOREIGN_SITE, SITE, World, noise, site_key};

pub(crate) struct Edge {
    site: &'static str,
    base: String,
    http: client::HttpClient,
    content: ContentClient<tonic::transport::Channel>,
}

impl Edge {
    fn new(world: &World, role: NodeRole) -> Self {
        Self::of(world, world.origin.internal, SITE, role)
    }

    /// Of another origin, for another site.
    pub(crate) fn of(world: &World, origin: std::net::SocketAddr, site: &'static str, role: NodeRole) -> Self {
        let tls = tls::client(&world.ca.pem, Some(world.ca.certificate(role))).unwrap();
        let base = format!("https://localhost:{}", origin.port());
        let channel = client::channel(&base, tls.clone()).unwrap();
        Self { site, content: ContentClient::new(channel), http: client::http(tls), base }
    }

    pub(crate) async fn resolve(&self, path: &str, known: &[u8], version: &[u8]) -> Result<ResolveReply, Code> {
        let (known_version_id, version_id) = (known.to_vec().into(), version.to_vec().into());
        self.ask(ResolveRequest { path: path.into(), known_version_id, version_id, ..ResolveRequest::default() }).await
    }

    /// As an edge that has applied this version of the configuration.
    pub(crate) async fn resolve_under(&self, configuration_version: u64, path: &str) -> Result<ResolveReply, Code> {
        self.ask(ResolveRequest { path: path.into(), configuration_version, ..ResolveRequest::default() }).await
    }

    async fn ask(&self, request: ResolveRequest) -> Result<ResolveReply, Code> {
        let request = ResolveRequest { site_id: self.site.into(), ..request };
        self.content.clone().resolve(request).await.map(tonic::Response::into_inner).map_err(|status| status.code())
    }

    pub(crate) async fn chunk(&self, path: &str) -> (StatusCode, Vec<u8>) {
        let uri = client::join(&self.base, path).unwrap();
        let request = Request::get(uri).body(Full::default()).unwrap();
        let answer = self.http.request(request).await.unwrap();
        let status = answer.status();
        let declared = answer.headers().get("content-length").map(|value| value.to_str().unwrap().to_owned());
        let body = answer.into_body().collect().await.unwrap().to_bytes().to_vec();
        if status == StatusCode::OK {
            assert_eq!(declared, Some(body.len().to_string()));
        }
        (status, body)
    }

    pub(crate) async fn plaintext_of(&self, reply: ResolveReply) -> Vec<u8> {
        let (manifest, key) = opened(reply);
        self.plaintext(&manifest, &key).await
    }

    pub(crate) async fn plaintext(&self, manifest: &Manifest, key: &ContentKey) -> Vec<u8> {
        let opener = Opener::new(key, manifest.version_id());
        let mut plain = Vec::new();
        for chunk in manifest.layout().indices() {
            let (status, sealed) =
                self.chunk(&format!("/v1/chunks/{}/{}/{chunk}", self.site, manifest.version_id())).await;
            assert_eq!(status, StatusCode::OK);
            manifest.verify_chunk(chunk, &sealed).unwrap();
            plain.extend(opener.open(chunk, &sealed).unwrap());
        }
        plain
    }
}

pub(crate) fn opened(reply: ResolveReply) -> (Manifest, ContentKey) {
    let manifest = SignedManifest::from_proto(reply.manifest.unwrap()).unwrap().verify(&site_key()).unwrap();
    (manifest, ContentKey::try_from(reply.content_key.as_ref()).unwrap())
}

#[tokio::test]
async fn edges_get_manifest_key_and_chunks() {
    let world = World::plain().await;
    let edge = Edge::new(&world, NodeRole::Edge);
    for length in [0, 1, 65_537, 400_000] {
        let body = noise(length, 3);
        world.stored("dir/a b.txt", &body).await;
        let (manifest, key) = opened(edge.resolve("/dir/a b.txt", &[], &[]).await.unwrap());
        assert_eq!((manifest.path().as_str(), manifest.site().as_str()), ("/dir/a b.txt", "films"));
        assert_eq!(manifest.media_type(), "text/plain");
        assert!(edge.plaintext(&manifest, &key).await == body, "{length}");
        let known = manifest.version_id();
        assert!(edge.resolve("/dir/a b.txt", known.as_bytes(), &[]).await.unwrap().unchanged);
    }
    assert_eq!(edge.resolve("/dir", &[], &[]).await, Err(Code::NotFound));
    assert_eq!(edge.resolve("/../x", &[], &[]).await, Err(Code::InvalidArgument));
    world.stop().await;
}

#[tokio::test]
async fn a_replaced_version_is_finished_by_its_readers() {
    let world = World::plain().await;
    let edge = Edge::new(&world, NodeRole::Edge);
    let (old, new) = (noise(300_000, 1), noise(200_000, 2));
    world.stored("film", &old).await;
    let (manifest, key) = opened(edge.resolve("/film", &[], &[]).await.unwrap());
    world.stored("film", &new).await;
    let version = manifest.version_id();
    let current = edge.resolve("/film", version.as_bytes(), &[]).await.unwrap();
    assert!(!current.unchanged);
    assert!(edge.plaintext(&manifest, &key).await == old);
    let again = opened(edge.resolve("/film", &[], version.as_bytes()).await.unwrap());
    assert_eq!(again.0, manifest);
    assert_eq!(edge.resolve("/other", &[], version.as_bytes()).await, Err(Code::NotFound));

    let hasty = world.beside().await;
    hasty.sweep().await.unwrap();
    assert_eq!(edge.chunk(&format!("/v1/chunks/{SITE}/{version}/0")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(edge.resolve("/film", &[], version.as_bytes()).await, Err(Code::NotFound));
    let (manifest, key) = opened(current);
    assert!(edge.plaintext(&manifest, &key).await == new);
    world.shutdown.cancel();
    hasty.wait().await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn another_origins_write_is_seen() {
    let world = World::plain().await;
    let other = world.beside().await;
    let edge = Edge::new(&world, NodeRole::Edge);
    world.stored("a", b"one").await;
    let (manifest, _) = opened(edge.resolve("/a", &[], &[]).await.unwrap());
    let url = world.put("a", "two").build().unwrap().url().clone();
    // The same presigned request, to the other origin: what is signed is the host's name with its port.
    let host = format!("localhost:{}", world.origin.s3.port());
    let target = format!("http://{}{}?{}", other.s3, url.path(), url.query().unwrap());
    let answer = world.http.put(target).header("host", host).body("two").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let reply = edge.resolve("/a", manifest.version_id().as_bytes(), &[]).await.unwrap();
    assert!(!reply.unchanged);
    world.shutdown.cancel();
    other.wait().await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn only_edges_may_ask() {
    let world = World::plain().await;
    world.stored("a", b"x").await;
    for role in [NodeRole::Origin, NodeRole::ControlPlane] {
        let other = Edge::new(&world, role);
        assert_eq!(other.resolve("/a", &[], &[]).await, Err(Code::PermissionDenied));
        assert_eq!(other.chunk(&format!("/v1/chunks/{SITE}/{}/0", "00".repeat(16))).await.0, StatusCode::FORBIDDEN);
    }
    let tls = tls::client(&world.ca.pem, None).unwrap();
    let anonymous = ContentClient::new(
        client::channel(&format!("https://localhost:{}", world.origin.internal.port()), tls).unwrap(),
    );
    assert!(anonymous.clone().resolve(ResolveRequest::default()).await.is_err());
    world.stop().await;
}

#[tokio::test]
async fn chunks_that_are_not_there_are_not_found() {
    let world = World::plain().await;
    let edge = Edge::new(&world, NodeRole::Edge);
    world.stored("a", b"x").await;
    let (manifest, _) = opened(edge.resolve("/a", &[], &[]).await.unwrap());
    let version = manifest.version_id();
    for path in [
        format!("/v1/chunks/{SITE}/{version}/1"),
        format!("/v1/chunks/{FOREIGN_SITE}/{version}/0"),
        format!("/v1/chunks/..%2f..%2fetc/{version}/0"),
        format!("/v1/chunks/{SITE}/nonsense/0"),
        format!("/v1/chunks/{SITE}/{}/0", "00".repeat(16)),
    ] {
        assert_eq!(edge.chunk(&path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    world.stop().await;
}
