//! Generates the message types. The `.proto` files are compiled by protox, so
//! that no protoc has to be installed.

use std::error::Error;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=cri");
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-changed=admin");
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    if std::env::var_os("CARGO_FEATURE_SHIM").is_some() {
        let files = protox::compile(["shim/v1/shim.proto"], ["."])?;
        tonic_prost_build::configure()
            .build_client(false)
            .build_server(false)
            .compile_fds(files)?;
    }
    if std::env::var_os("CARGO_FEATURE_CRI").is_some() {
        let files = protox::compile(["cri/v1/api.proto", "admin/v1/admin.proto"], ["."])?;
        std::fs::write(out.join("cri.bin"), files.encode_to_vec())?;
        tonic_prost_build::configure().compile_fds(files)?;
    }
    Ok(())
}
