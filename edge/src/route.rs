//! Which part of the edge a request of the public port is for.

use http::{HeaderMap, header};
use umbel_content::{ObjectPath, PathError};
use umbel_wire::CHUNKS_PATH;

/// Path of the agents' gRPC services, of any version that there may be.
const AGENT_SERVICES: &str = "/umbel.agent.v1.";

/// Served for a path that names a folder.
const INDEX: &str = "index.html";

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Station {
    /// An agent's call.
    Agents,
    /// An agent wants ciphertext.
    Chunks,
    /// Anything else: a reader.
    Readers,
}

/// Decides by path, and for gRPC by content type; the host does not matter for agents.
pub(crate) fn station(path: &str, headers: &HeaderMap) -> Station {
    if path.starts_with(AGENT_SERVICES) && is_grpc(headers) {
        Station::Agents
    } else if path.strip_prefix(CHUNKS_PATH).is_some_and(|rest| rest.starts_with('/')) {
        Station::Chunks
    } else {
        Station::Readers
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The object that a path names: a folder's is its index.
pub(crate) fn object(path: ObjectPath) -> Result<ObjectPath, PathError> {
    if path.as_str().ends_with('/') {
        return ObjectPath::from_decoded(&format!("{path}{INDEX}"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, content_type: &str, expected: Station) {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        assert_eq!(station(path, &headers), expected, "{path} {content_type}");
    }

    #[test]
    fn stations() {
        check("/umbel.agent.v1.Agents/Open", "application/grpc", Station::Agents);
        check("/umbel.agent.v1.Agents/Open", "application/grpc+proto", Station::Agents);
        check("/umbel.agent.v1.Agents/Open", "text/html", Station::Readers);
        check("/umbel.control.v1.Usage/Submit", "application/grpc", Station::Readers);
        check("/.well-known/umbel/v1/chunks/ab/0", "text/html", Station::Chunks);
        check("/.well-known/umbel/v1/chunksy", "text/html", Station::Readers);
        check("/", "application/grpc", Station::Readers);
    }

    #[test]
    fn folders_have_an_index() {
        for (path, expected) in [("/", "/index.html"), ("/a/", "/a/index.html"), ("/a", "/a")] {
            assert_eq!(object(ObjectPath::from_decoded(path).unwrap()).unwrap().as_str(), expected);
        }
    }
}
