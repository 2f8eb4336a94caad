//! Writes `crates/content/vectors/*.json` again: keeps what each file gives, computes what follows from it.
//!
//! `cargo run -p umbel-content --example vectors`, after a change of format that is meant (and then with a new version in its
//! domain strings).

#[path = "../vectors/vector.rs"]
mod vector;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for vector::Vector { name, json } in vector::read_all()? {
        let completed = vector::complete(&json)?;
        vector::check_reading(&completed)?;
        let text = serde_json::to_string_pretty(&completed)? + "\n";
        std::fs::write(vector::folder().join(name), text)?;
    }
    Ok(())
}
