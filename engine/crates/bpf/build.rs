//! Compiles the programs under `bpf/` with clang; the objects become part of the library.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let root = PathBuf::from(env("CARGO_MANIFEST_DIR")).join("../../../bpf");
    let object = Path::new(&env("OUT_DIR")).join("guard.o");
    println!("cargo:rerun-if-changed={}", root.display());
    let status = Command::new("clang")
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-c"])
        .arg("-I")
        .arg(root.join("include"))
        // Debian keeps <asm/types.h> there, and clang does not look when it compiles for BPF.
        .arg("-idirafter")
        .arg(format!("/usr/include/{}-linux-gnu", env("CARGO_CFG_TARGET_ARCH")))
        .arg(root.join("guard.bpf.c"))
        .arg("-o")
        .arg(&object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("clang cannot compile bpf/guard.bpf.c: {status}"),
        Err(error) => panic!("clang (with libbpf-dev) is needed to compile bpf/guard.bpf.c: {error}"),
    }
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("Cargo sets {name}"))
}
