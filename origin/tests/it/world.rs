//! An installation of one origin, two providers, and an edge.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use umbel_content::{SigningKey, VerifyingKey};
use umbel_origin::{Config, Identity, Origin, Store};
use umbel_service::{
    config::Settings,
    installation::Installation,
    tls::{self, LiveCertificate, NodeRole, PeerIdentity},
};
use umbel_wire::control::{ConfigEvent, Node, Role, S3Credential, Site, Snapshot, config_event::Event};

pub(crate) const SITE: &str = "0190d3a0-0000-7000-8000-000000000001";
pub(crate) const FOREIGN_SITE: &str = "0190d3a0-0000-7000-8000-000000000002";
pub(crate) const SECRET: &str = "a-secret-of-forty-characters-0123456789a";
pub(crate) const SEED: [u8; 32] = [7; 32];
const LIFE: Duration = Duration::from_secs(300);

pub(crate) struct World {
    pub(crate) origin: Origin,
    pub(crate) ca: Ca,
    pub(crate) folder: TempDir,
    pub(crate) http: Client,
    pub(crate) shutdown: CancellationToken,
    plain: bool,
}

pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate whose issuer has the same name for one that signed itself.
        params.distinguished_name.push(rcgen::DnType::CommonName, "test CA");
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn certificate(&self, role: NodeRole) -> Arc<LiveCertificate> {
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        let uri = PeerIdentity { role, node_id: "n1".into() }.uri();
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().unwrap()));
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Arc::new(LiveCertificate::from_pem(&certificate.pem(), &key.serialize_pem()).unwrap())
    }
}

/// What an origin knows of, with this site besides.
pub(crate) fn with_site(site: Site) -> Arc<Installation> {
    let mut installation = installation();
    installation.sites.insert(site.id.clone(), site);
    Arc::new(installation)
}

pub(crate) fn site_key() -> VerifyingKey {
    SigningKey::from_seed(&SEED).verifying_key()
}

fn installation() -> Installation {
    let site = |id: &str, name: &str| Site {
        id: id.into(),
        name: name.into(),
        signing_seed: SEED.to_vec().into(),
        wrapping_key: vec![9; 32].into(),
        ..Site::default()
    };
    let credential = |id: &str, site: &str| S3Credential {
        access_key_id: id.into(),
        secret_access_key: SECRET.into(),
        site_ids: vec![site.into()],
    };
    let snapshot = Snapshot {
        sites: vec![site(SITE, "films"), site(FOREIGN_SITE, "foreign")],
        nodes: vec![Node { id: "n1".into(), role: Role::Edge.into(), ..Node::default() }],
        s3_credentials: vec![credential("PROVIDER", SITE), credential("FOREIGNER", FOREIGN_SITE)],
        ..Snapshot::default()
    };
    let mut installation = Installation::default();
    installation.apply(ConfigEvent { version: 1, event: Some(Event::Snapshot(snapshot)) });
    installation
}

fn config(folder: &TempDir, plain: bool) -> Config {
    let scheme = if plain { "http" } else { "https" };
    let text = format!(
        "state = \"{0}\"\nstore = \"file://{0}/store\"\ns3_plain = {plain}\ns3_listen = \"127.0.0.1:0\"\n\
         internal_listen = \"127.0.0.1:0\"\nops_listen = \"127.0.0.1:0\"\ns3_url = \"{scheme}://localhost\"\n\
         internal_url = \"https://localhost\"\nreplaced_versions_kept = \"0s\"\n\
         deleted_sites_kept = \"0s\"\n",
        folder.path().display()
    );
    let mut settings = Settings::parse("test", &text, "UMBEL_TEST", []);
    let config = Config::read(&mut settings);
    settings.finish().unwrap();
    config
}

impl World {
    /// Plain HTTP for S3 clients.
    pub(crate) async fn plain() -> Self {
        Self::start(true).await
    }

    /// TLS for S3 clients.
    pub(crate) async fn secure() -> Self {
        Self::start(false).await
    }

    async fn start(plain: bool) -> Self {
        tls::install_provider();
        let (folder, ca, shutdown) = (TempDir::new().unwrap(), Ca::new(), CancellationToken::new());
        let config = Config {
            // Only the test itself sweeps.
            replaced_versions_kept: Duration::from_secs(3600),
            deleted_sites_kept: Duration::from_secs(3600),
            ..config(&folder, plain)
        };
        let (origin, _) = Self::origin(&config, &ca, shutdown.clone()).await;
        std::fs::write(folder.path().join("ca.pem"), &ca.pem).unwrap();
        Self { origin, ca, folder, http: Client::new(), shutdown, plain }
    }

    async fn origin(
        config: &Config,
        ca: &Ca,
        shutdown: CancellationToken,
    ) -> (Origin, watch::Sender<Arc<Installation>>) {
        let store = Store::open(&config.store, &config.store_s3).unwrap();
        let identity = Identity { ca: ca.pem.clone(), certificate: ca.certificate(NodeRole::Origin) };
        let (sender, receiver) = watch::channel(Arc::new(installation()));
        (Origin::start(config, store, identity, receiver, shutdown).await.unwrap(), sender)
    }

    /// Another origin, which is set up like this.
    pub(crate) async fn beside_with(
        &self,
        tune: impl FnOnce(&mut Config),
    ) -> (Origin, watch::Sender<Arc<Installation>>) {
        let mut config = config(&self.folder, self.plain);
        tune(&mut config);
        Self::origin(&config, &self.ca, self.shutdown.clone()).await
    }

    /// Another origin on the same store, that keeps nothing for long.
    pub(crate) async fn beside(&self) -> Origin {
        self.beside_told().await.0
    }

    /// As [`World::beside`], with what tells it of the installation.
    pub(crate) async fn beside_told(&self) -> (Origin, watch::Sender<Arc<Installation>>) {
        Self::origin(&config(&self.folder, self.plain), &self.ca, self.shutdown.clone()).await
    }

    pub(crate) fn store_folder(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// All files of the store, relative.
    pub(crate) fn files(&self, below: &str) -> Vec<String> {
        let mut files = Vec::new();
        collect(&self.store_folder().join(below), &mut files);
        files
    }

    fn scheme(&self) -> &'static str {
        if self.plain { "http" } else { "https" }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}://localhost:{}", self.scheme(), self.origin.s3.port())
    }

    pub(crate) fn bucket(&self, name: &str) -> Bucket {
        Bucket::new(self.endpoint().parse().unwrap(), UrlStyle::Path, name.to_owned(), "eu-west-1").unwrap()
    }

    pub(crate) fn put(&self, key: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let bucket = self.bucket("films");
        self.http.put(bucket.put_object(Some(&provider()), key).sign(LIFE)).body(body)
    }

    pub(crate) fn get(&self, key: &str) -> RequestBuilder {
        let bucket = self.bucket("films");
        self.http.get(bucket.get_object(Some(&provider()), key).sign(LIFE))
    }

    pub(crate) async fn stored(&self, key: &str, body: &[u8]) {
        let answer = self.put(key, body.to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
    }

    pub(crate) async fn content(&self, key: &str) -> Vec<u8> {
        let answer = self.get(key).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.bytes().await.unwrap().to_vec()
    }

    /// Runs a client; its output if it succeeds.
    pub(crate) async fn run(&self, program: &str, arguments: &[&str]) -> String {
        let (status, output, errors) = self.try_run(program, arguments).await;
        assert!(status, "{program} {arguments:?}\n{output}\n{errors}");
        output
    }

    pub(crate) async fn try_run(&self, program: &str, arguments: &[&str]) -> (bool, String, String) {
        let output = self.output(program, arguments).await;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    /// What a client writes, as bytes.
    pub(crate) async fn bytes(&self, program: &str, arguments: &[&str]) -> Vec<u8> {
        let output = self.output(program, arguments).await;
        assert!(output.status.success(), "{program} {arguments:?}\n{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    async fn output(&self, program: &str, arguments: &[&str]) -> std::process::Output {
        tokio::process::Command::new(program)
            .args(arguments)
            .env_remove("AWS_CA_BUNDLE")
            .envs(self.environment(program))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap_or_else(|error| panic!("{program}: {error}; `make test-deps` installs it"))
    }

    fn environment(&self, program: &str) -> BTreeMap<String, String> {
        let ca = self.folder.path().join("ca.pem").display().to_string();
        let none = self.folder.path().join("none").display().to_string();
        let pairs = [
            ("AWS_ACCESS_KEY_ID", "PROVIDER".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_DEFAULT_REGION", "eu-west-1".to_owned()),
            ("AWS_ENDPOINT_URL", self.endpoint()),
            // rclone has its own setting, and stumbles over this one.
            (if program == "aws" { "AWS_CA_BUNDLE" } else { "RCLONE_CA_CERT" }, ca),
            ("AWS_CONFIG_FILE", none.clone()),
            ("AWS_SHARED_CREDENTIALS_FILE", none.clone()),
            ("RCLONE_CONFIG", none),
            ("RCLONE_CONFIG_U_TYPE", "s3".to_owned()),
            ("RCLONE_CONFIG_U_PROVIDER", "Other".to_owned()),
            ("RCLONE_CONFIG_U_ENV_AUTH", "true".to_owned()),
            ("RCLONE_CONFIG_U_ENDPOINT", self.endpoint()),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Stops the origin and sees that all of it has gone.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.origin.wait()).await.unwrap().unwrap();
    }
}

fn collect(folder: &std::path::Path, files: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), files);
        } else {
            files.push(entry.path().display().to_string());
        }
    }
}

pub(crate) fn provider() -> Credentials {
    Credentials::new("PROVIDER", SECRET)
}

pub(crate) fn foreigner() -> Credentials {
    Credentials::new("FOREIGNER", SECRET)
}

/// Bytes that do not repeat in any obvious way.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in &mut bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    bytes
}

pub(crate) fn header(answer: &Response, name: &str) -> String {
    answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}
