//! What to try while the network is up.

use std::path::Path;

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
    let umbel = std::env::current_exe().map_or_else(|_| "umbel".into(), |path| quoted(&path));
    let ca = quoted(&state.path("ca.pem"));
    let smallest = tree.files.iter().filter(|file| file.size > 0).min_by_key(|file| file.size);
    let url = url(ports, 1, smallest.map_or("", |file| &file.key));
    let port = ports.edge(1).public;
    let agent = quoted(&agent_folder(state, AGENTS));
    let admin = quoted(&state.path("admin.toml"));
    let publish = quoted(&state.path("publish.toml"));
    let text = format!(
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
        folder = quoted(&tree.folder),
        control_plane = ports.control_plane(),
        s3 = ports.s3(),
        second = ports.edge(2).public,
        ops = ports.edge(1).ops,
        logs = state.path("logs").display(),
    );
    // The network stays up even if nobody reads this any more.
    let _said = crate::show::line(text);
}

/// As a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+=:@".contains(letter);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word() {
        for (path, expected) in [
            ("/var/lib/umbel-demo/ca.pem", "/var/lib/umbel-demo/ca.pem"),
            ("/home/a b/x", "'/home/a b/x'"),
            ("/it's $HOME", r"'/it'\''s $HOME'"),
        ] {
            assert_eq!(quoted(Path::new(path)), expected);
        }
    }
}
