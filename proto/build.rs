//! Compiles the contract with protox, so that no protoc is needed.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["event", "peer_service", "run_service", "store_service"]
        .map(|name| format!("talaria/v1/{name}.proto"));
    let descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("talaria.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::ThriftyCodec")
        .extern_path(".talaria.v1.EventChunk", "crate::EventChunk")
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=talaria/v1");
    Ok(())
}
