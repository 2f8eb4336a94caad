//! The code against the committed test vectors, so that neither changes alone. `examples/vectors.rs` writes them.

#[path = "../vectors/vector.rs"]
mod vector;

use vector::Vector;

#[test]
fn the_code_makes_and_reads_what_the_vectors_say() {
    let vectors = vector::read_all().unwrap();
    assert!(vectors.len() >= 5, "found {}", vectors.len());
    for Vector { name, json } in vectors {
        assert_eq!(vector::complete(&json).unwrap(), json, "{name}");
        vector::check_reading(&json).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
    }
}
