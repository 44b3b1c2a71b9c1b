//! Generates the message types. The `.proto` files are compiled by protox, so
//! that no protoc has to be installed.

use std::error::Error;

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
        let mut compiler = protox::Compiler::new(["."])?;
        compiler.open_files(["cri/v1/api.proto", "admin/v1/admin.proto"])?;
        // Encoded by protox itself: prost's own types drop options that they don't know.
        std::fs::write(out.join("cri.bin"), compiler.encode_file_descriptor_set())?;
        tonic_prost_build::configure()
            .skip_debug(["runtime.v1.AuthConfig"])
            .compile_fds(compiler.file_descriptor_set())?;
    }
    Ok(())
}
