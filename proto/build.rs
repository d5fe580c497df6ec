//! Compiles the .proto files with protox, so that no protoc has to be installed.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 18] = [
    "hydrant/v1/access.proto",
    "hydrant/v1/common.proto",
    "hydrant/v1/online.proto",
    "hydrant/v1/ingest.proto",
    "hydrant/v1/registry.proto",
    "hydrant/v1/training.proto",
    "hydrant/v1/training_set.proto",
    "hydrant/v1/backup.proto",
    "hydrant/v1/history.proto",
    "hydrant/v1/backfill.proto",
    "hydrant/v1/lineage.proto",
    "hydrant/v1/catalog.proto",
    "hydrant/v1/quota.proto",
    "hydrant/v1/audit.proto",
    "hydrant/v1/erasure.proto",
    "hydrant/v1/freshness.proto",
    "hydrant/v1/sharing.proto",
    "hydrant/v1/usage.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("hydrant.v1.descriptors.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    // Maps in order, so that equal messages are equal bytes.
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
