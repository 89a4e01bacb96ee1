//! Makes the wire types from `meshapi/proto`, the same files that the Python side is made from.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../..");
    let files: Vec<PathBuf> = ["workload", "authorization", "mesh_config", "engine"]
        .iter()
        .map(|name| root.join(format!("meshapi/proto/{name}.proto")))
        .collect();
    for file in &files {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    let descriptors = protox::compile(&files, [&root])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
