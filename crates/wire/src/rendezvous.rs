//! Rendezvous hashing: which node a key belongs to, computed alike by everyone who knows the same nodes. When a node goes
//! away, only its own keys move, each to the next in its own order.

/// The nodes in the order in which `key` prefers them. A site's home edge is the first for the site's id, the edge of a chunk the
/// first for the chunk's name.
pub fn order<'a>(key: &[u8], nodes: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut scored: Vec<([u8; 32], &str)> = nodes.into_iter().map(|node| (score(key, node), node)).collect();
    scored.sort_unstable_by(|one, other| other.cmp(one));
    scored.into_iter().map(|(_, node)| node).collect()
}

fn score(key: &[u8], node: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"umbel rendezvous v1");
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(node.as_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn only_the_keys_of_a_lost_node_move() {
        for key in 0u32..200 {
            let key = key.to_le_bytes();
            let all = order(&key, ["a", "b", "c", "d"]);
            let without = order(&key, ["d", "b", "a"]);
            let expected: Vec<&str> = all.into_iter().filter(|node| *node != "c").collect();
            assert_eq!(without, expected);
        }
    }

    #[test]
    fn keys_spread() {
        let first = |key: u32| order(&key.to_le_bytes(), ["a", "b", "c", "d"])[0];
        for node in ["a", "b", "c", "d"] {
            let share = (0..1000).filter(|key| first(*key) == node).count();
            assert!((180..320).contains(&share), "{node} has {share} of 1000");
        }
    }
}
