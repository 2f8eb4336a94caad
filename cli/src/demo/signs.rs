//! What to try while the network is up.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    network::{AGENTS, HOST, SITE, agent_folder, edge_of},
    ports::Ports,
    state::State,
    tree::Tree,
};

/// Letters, digits and what RFC 3986 calls unreserved; slashes part the segments.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The URL of a document at the edge that `agent` uses.
pub(super) fn url(ports: Ports, agent: usize, key: &str) -> String {
    format!("https://{HOST}:{}/{}", ports.edge(edge_of(agent)).public, utf8_percent_encode(key, PATH))
}

/// Prints addresses and commands, each of which works as it stands.
pub(super) fn post(state: &State, ports: Ports, tree: &Tree) {
    let umbel = std::env::current_exe().map_or_else(|_| "umbel".into(), |path| path.display().to_string());
    let ca = state.path("ca.pem").display().to_string();
    let smallest = tree.files.iter().filter(|file| file.size > 0).min_by_key(|file| file.size);
    let url = url(ports, 1, smallest.map_or("", |file| &file.key));
    let port = ports.edge(1).public;
    let agent = agent_folder(state, AGENTS).display().to_string();
    let admin = state.path("admin.toml").display().to_string();
    let publish = state.path("publish.toml").display().to_string();
    println!(
        "
The network stays up until Ctrl-C. Everything is on 127.0.0.1; the CA is {ca}

  a reader        curl --cacert {ca} --resolve {HOST}:{port}:127.0.0.1 -i '{url}'
  an agent        {umbel} get --state {agent} -o /tmp/umbel-file '{url}'
  its limits      {umbel} agent status --state {agent}
  the books       {umbel} admin --credentials {admin} usage --by object
  the fleet       {umbel} admin --credentials {admin} node list
  publish again   {umbel} publish {folder} --site {SITE} --credentials {publish}

  control plane   https://localhost:{control_plane}    S3 API  https://localhost:{s3}
  edges           https://{HOST}:{port}    https://{HOST}:{second}
  metrics         http://127.0.0.1:{ops}/metrics
  logs            {logs}",
        folder = tree.folder.display(),
        control_plane = ports.control_plane(),
        s3 = ports.s3(),
        second = ports.edge(2).public,
        ops = ports.edge(1).ops,
        logs = state.path("logs").display(),
    );
}
