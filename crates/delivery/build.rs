//! Compiles the document's protobuf with protox, so that no `protoc` is needed. The same types are what providers write: every text in
//! them is in human units, and a key that there is not is a mistake.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["umbel/delivery/v1/delivery.proto"], ["proto"])?;
    prost_build::Config::new()
        .btree_map(["."])
        .type_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")
        .type_attribute(".", "#[serde(default, deny_unknown_fields)]")
        .field_attribute(".", "#[serde(skip_serializing_if = \"crate::document::is_default\")]")
        // What is sent to the provider's server may be a secret.
        .skip_debug(["umbel.delivery.v1.HeaderRule"])
        .compile_fds(files)?;
    Ok(())
}
