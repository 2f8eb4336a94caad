//! Compiles the protocols with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=../content/proto");
    println!("cargo:rerun-if-changed=../delivery/proto");
    let files = protox::compile(
        [
            "umbel/agent/v1/agent.proto",
            "umbel/peer/v1/peer.proto",
            "umbel/origin/v1/origin.proto",
            "umbel/control/v1/control.proto",
        ],
        ["proto", "../content/proto", "../delivery/proto"],
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".umbel.content.v1", "::umbel_content::proto")
        .extern_path(".umbel.delivery.v1", "::umbel_delivery::proto")
        // These carry secrets: `redact.rs` writes their Debug by hand.
        .skip_debug([
            "umbel.agent.v1.Hello",
            "umbel.agent.v1.Welcome",
            "umbel.agent.v1.OpenRequest",
            "umbel.agent.v1.OpenReply",
            "umbel.origin.v1.ResolveReply",
            "umbel.control.v1.JoinRequest",
            "umbel.control.v1.Site",
            "umbel.control.v1.Certificate",
            "umbel.control.v1.S3Credential",
        ])
        .compile_fds(files)?;
    Ok(())
}
