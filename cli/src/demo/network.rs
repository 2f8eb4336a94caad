//! Brings the network up: every part is configured, let in and started as it would be on machines of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use umbel_control_plane::api::{
    AccountRole, DeviceDecision, ForAccount, NewAccount, NewEnrolmentToken, NewJoinToken, NewS3Credential, NewSite,
    NewToken, NodeRole, PolicyChange, TrustDomain,
};

use super::{
    ports::{Ports, loopback},
    state::State,
    supervise::{Spec, Supervisor},
};
use crate::{
    agent::ENROLMENT_TOKEN,
    exit::{Failure, Status},
    rest::{self, Api},
};

/// How many agents take part; the first half uses edge 1, the second edge 2.
pub(super) const AGENTS: usize = 4;
pub(super) const EDGES: usize = 2;

/// The folder of the private Postgres.
pub(super) const POSTGRES: &str = "postgres";

/// The site, and the host names it answers on. `localhost` and what ends in it leads to this machine without any DNS.
pub(super) const SITE: &str = "demo";
pub(super) const HOST: &str = "demo.localhost";
const PROVIDER: &str = "demo-provider";

const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What is said while the parts come up.
pub(super) type Say<'a> = &'a dyn Fn(&str);

/// Starts all parts in `supervisor`; when one fails, those that run are still the caller's to stop.
pub(super) async fn start(
    state: &State,
    supervisor: &mut Supervisor,
    ports: Ports,
    cache: u64,
    say: Say<'_>,
) -> anyhow::Result<Api> {
    let mut building = Building { state, ports, supervisor, cache };
    say("starting Postgres and the control plane");
    let database = building.postgres().await?;
    let api = building.control_plane(&database).await?;
    say("starting one origin and two edges");
    building.origin(&api).await?;
    building.edges(&api).await?;
    building.provider(&api).await?;
    say("starting four agents: two with an enrolment token, two with a device code");
    building.agents(&api).await?;
    Ok(api)
}

/// The state folder of an agent.
pub(super) fn agent_folder(state: &State, number: usize) -> PathBuf {
    state.path(format!("agent-{number}"))
}

/// The edge that an agent opens its URLs at.
pub(super) fn edge_of(agent: usize) -> usize {
    1 + (agent - 1) * EDGES / AGENTS
}

struct Building<'a> {
    state: &'a State,
    ports: Ports,
    supervisor: &'a mut Supervisor,
    cache: u64,
}

impl Building<'_> {
    async fn postgres(&mut self) -> anyhow::Result<String> {
        let url_file = self.state.path("postgres.url");
        let _none = std::fs::remove_file(&url_file);
        let folder = self.state.path(POSTGRES);
        let args = [
            "demo-postgres".into(),
            "--folder".into(),
            folder.into(),
            "--url-file".into(),
            url_file.clone().into_os_string(),
        ];
        self.supervisor.start(Spec::new("postgres", args), async || url_file.exists()).await?;
        std::fs::read_to_string(&url_file).context("cannot read where Postgres is")
    }

    async fn control_plane(&mut self, database: &str) -> anyhow::Result<Api> {
        let (port, ops) = (self.ports.control_plane(), self.ports.control_plane_ops());
        let text = format!(
            "listen = \"{}\"\nops_listen = \"{}\"\npublic_url = \"https://localhost:{port}\"\n\
             names = [\"127.0.0.1\"]\ndatabase_url = {database:?}\n",
            loopback(port),
            loopback(ops),
        );
        let config = self.state.write("control-plane.toml", &text)?;
        let flag = ["--config".into(), config.clone().into_os_string()];
        if !self.state.path("admin.toml").exists() {
            let args = ["control-plane".into(), "init".into(), "--output".into(), self.state.path("").into()];
            self.supervisor.once(&Spec::new("control-plane-init", args.into_iter().chain(flag.clone()))).await?;
        }
        let spec = Spec::new("control-plane", ["control-plane".into(), "run".into()].into_iter().chain(flag));
        self.supervisor.start(spec, ready(ops)).await?;
        self.api()
    }

    fn api(&self) -> anyhow::Result<Api> {
        let mut file = crate::settings::open(Some(&self.state.path("admin.toml")), "")?;
        let url: String = file.required("control_plane", String::new());
        let key: String = file.required("api_key", String::new());
        let ca: String = file.required("ca", String::new());
        file.finish()?;
        Api::new(&url, key, rest::local_client(Path::new(&ca))?)
    }

    async fn origin(&mut self, api: &Api) -> anyhow::Result<()> {
        let folder = self.state.folder("origin")?;
        let token = join_token(api, &folder, NodeRole::Origin).await?;
        let text = format!(
            "state = {:?}\ns3_listen = \"{}\"\ninternal_listen = \"{}\"\nops_listen = \"{}\"\n\
             s3_url = \"https://localhost:{}\"\ninternal_url = \"https://localhost:{}\"\n\
             pull_networks = [\"127.0.0.0/8\", \"::1/128\"]\n{token}",
            folder.display().to_string(),
            loopback(self.ports.s3()),
            loopback(self.ports.origin_internal()),
            loopback(self.ports.origin_ops()),
            self.ports.s3(),
            self.ports.origin_internal(),
        );
        let config = self.state.write("origin.toml", &text)?;
        let spec = service("origin", "origin", &config);
        self.supervisor.start(spec, ready(self.ports.origin_ops())).await
    }

    async fn edges(&mut self, api: &Api) -> anyhow::Result<()> {
        let mut specs = Vec::new();
        for number in 1..=EDGES {
            let config = self.edge_config(api, number).await?;
            specs.push((service(&format!("edge-{number}"), "edge", &config), ready(self.ports.edge(number).ops)));
        }
        self.supervisor.start_all(specs).await
    }

    async fn edge_config(&self, api: &Api, number: usize) -> anyhow::Result<PathBuf> {
        let name = format!("edge-{number}");
        let folder = self.state.folder(&name)?;
        let token = join_token(api, &folder, NodeRole::Edge).await?;
        let ports = self.ports.edge(number);
        let text = format!(
            "state = {:?}\npublic_listen = \"{}\"\nplain_listen = \"{}\"\ninternal_listen = \"{}\"\nrelay_listen = \"{}\"\n\
             relay_quic_listen = \"{}\"\nops_listen = \"{}\"\npublic_url = \"https://localhost:{}\"\n\
             internal_url = \"https://localhost:{}\"\nrelay_url = \"https://localhost:{}\"\ndisk_cache = \"{}\"\n{token}",
            folder.display().to_string(),
            loopback(ports.public),
            loopback(ports.plain),
            loopback(ports.internal),
            loopback(ports.relay),
            loopback(ports.relay_quic),
            loopback(ports.ops),
            ports.public,
            ports.internal,
            ports.relay,
            self.cache,
        );
        self.state.write(&format!("{name}.toml"), &text)
    }

    /// An account, a public site of its own, and credentials to publish with.
    async fn provider(&self, api: &Api) -> anyhow::Result<()> {
        let account = NewAccount { name: PROVIDER.into(), role: AccountRole::Provider, password: None };
        unless_there(api.post("accounts", serde_json::to_value(account)?).await)?;
        let site = NewSite {
            name: SITE.into(),
            account: Some(PROVIDER.into()),
            hosts: vec![HOST.into()],
            public: true,
            pull: None,
        };
        unless_there(api.post("sites", serde_json::to_value(site)?).await)?;
        let policy = PolicyChange { public: Some(true), peers: Some(true), ..Default::default() };
        api.call(reqwest::Method::PATCH, &format!("sites/{SITE}/policy"), Some(serde_json::to_value(policy)?)).await?;
        if self.state.path("publish.toml").exists() {
            return Ok(());
        }
        let wanted = ForAccount { account: Some(PROVIDER.into()), label: "demo".into() };
        let made: NewS3Credential =
            serde_json::from_value(api.post("s3-credentials", serde_json::to_value(wanted)?).await?)?;
        let text = format!(
            "endpoint = \"https://localhost:{}\"\naccess_key_id = {:?}\nsecret_access_key = {:?}\nca = {:?}\n",
            self.ports.s3(),
            made.access_key_id,
            made.secret_access_key,
            self.state.path("ca.pem").display().to_string(),
        );
        self.state.write("publish.toml", &text).map(drop)
    }

    async fn agents(&mut self, api: &Api) -> anyhow::Result<()> {
        let mut specs = Vec::new();
        for number in 1..=AGENTS {
            let config = self.agent_config(number)?;
            if !is_enrolled(&agent_folder(self.state, number)) {
                if number <= AGENTS / 2 {
                    self.enrol_by_token(api, number, &config).await?
                } else {
                    self.enrol_by_code(api, number, &config).await?
                }
            }
            let socket = umbel_agent::Config::default_in(agent_folder(self.state, number)).socket();
            let probe = move || {
                let socket = socket.clone();
                async move { tokio::net::UnixStream::connect(socket).await.is_ok() }
            };
            specs.push((service(&format!("agent-{number}"), "agent", &config), probe));
        }
        self.supervisor.start_all(specs).await
    }

    fn agent_config(&self, number: usize) -> anyhow::Result<PathBuf> {
        let folder = self.state.folder(&format!("agent-{number}"))?;
        let text = format!(
            "state = {:?}\nbind = [\"127.0.0.1:0\"]\n[limits]\ndisk = \"{}\"\n",
            folder.display().to_string(),
            self.cache
        );
        self.state.write(&format!("agent-{number}.toml"), &text)
    }

    async fn enrol_by_token(&self, api: &Api, number: usize, config: &Path) -> anyhow::Result<()> {
        let wanted = NewEnrolmentToken { uses: 1, expires_in: Some(600), trust_domain: Some(TrustDomain::Trusted) };
        let answer = api.post("enrolment-tokens", serde_json::to_value(wanted)?).await?;
        let made: NewToken = serde_json::from_value(answer)?;
        // Not an argument: those are everybody's to see.
        let spec = Spec::new(format!("agent-{number}"), enrolment(config)).with_secret(ENROLMENT_TOKEN, made.token);
        self.supervisor.once(&spec).await.map(drop)
    }

    /// The agent shows a code, and an admin approves it: here as there, two programs that share nothing but the code.
    async fn enrol_by_code(&self, api: &Api, number: usize, config: &Path) -> anyhow::Result<()> {
        let mut args = enrolment(config);
        let url = format!("https://localhost:{}", self.ports.control_plane());
        args.extend(["--control-plane".into(), url.into(), "--ca".into(), self.state.path("ca.pem").into()]);
        args.push("--json".into());
        let name = format!("agent-{number}");
        let mut child = self.supervisor.spawn_piped(&Spec::new(name.as_str(), args))?;
        let output = child.stdout.take().context("no output")?;
        let mut lines = BufReader::new(output).lines();
        if let Some(line) = lines.next_line().await? {
            let prompt: serde_json::Value =
                serde_json::from_str(&line).context("the agent said something else than a code")?;
            let code = prompt["user_code"].as_str().context("the agent showed no code")?;
            let decision = DeviceDecision { approve: true, trust_domain: Some(TrustDomain::Trusted) };
            api.post(&format!("device-codes/{}", rest::segment(code)), serde_json::to_value(decision)?).await?;
        }
        while lines.next_line().await?.is_some() {}
        let status = child.wait().await?;
        if status.success() { Ok(()) } else { Err(self.supervisor.told(&name, status)) }
    }
}

fn is_enrolled(folder: &Path) -> bool {
    umbel_agent::Identity::load(folder).is_ok()
}

fn enrolment(config: &Path) -> Vec<std::ffi::OsString> {
    vec!["agent".into(), "enroll".into(), "--config".into(), config.into()]
}

fn service(name: &str, kind: &str, config: &Path) -> Spec {
    Spec::new(name, [kind.as_ref(), "run".as_ref(), "--config".as_ref(), config.as_os_str()])
}

/// The line with a token, for a node that is none yet.
async fn join_token(api: &Api, folder: &Path, role: NodeRole) -> anyhow::Result<String> {
    if folder.join("node.json").exists() {
        return Ok(String::new());
    }
    let answer = api.post("join-tokens", serde_json::to_value(NewJoinToken { role, expires_in: Some(600) })?).await?;
    let made: NewToken = serde_json::from_value(answer)?;
    Ok(format!("join_token = {:?}\n", made.token))
}

/// A second run finds what the first made.
fn unless_there(answer: anyhow::Result<serde_json::Value>) -> anyhow::Result<()> {
    match answer {
        Err(error) if error.downcast_ref::<Failure>().is_some_and(|failure| failure.is(Status::Conflict)) => Ok(()),
        other => other.map(drop),
    }
}

/// Asks `/readyz`.
fn ready(port: u16) -> impl AsyncFn() -> bool {
    let address = loopback(port);
    async move || ops(address, "/readyz").await.is_ok_and(|text| text.starts_with("HTTP/1.1 200"))
}

/// One request to a health port: a client with TLS and a pool would be more than it takes.
pub(super) async fn ops(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    tokio::time::timeout(PROBE_TIMEOUT, ask(address, path)).await.context("no answer in time")?
}

async fn ask(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let mut stream = BufReader::new(stream);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await?;
    ensure!(text.starts_with("HTTP/1.1"), "no HTTP");
    Ok(text)
}
