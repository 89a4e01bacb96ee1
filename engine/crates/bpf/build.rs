//! Compiles the programs under `bpf/` with clang; the objects become part of the library.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let root = PathBuf::from(env("CARGO_MANIFEST_DIR")).join("../../../bpf");
    println!("cargo:rerun-if-changed={}", root.display());
    for source in sources(&root) {
        let name = source.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let object = Path::new(&env("OUT_DIR")).join(format!("{}.o", name.trim_end_matches(SUFFIX)));
        compile(&root, &source, &object);
    }
}

const SUFFIX: &str = ".bpf.c";

fn sources(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    entries.flatten().map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with(SUFFIX)).collect()
}

fn compile(root: &Path, source: &Path, object: &Path) {
    let status = Command::new("clang")
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-c"])
        .arg("-I")
        .arg(root)
        .arg("-I")
        .arg(root.join("include"))
        // Debian keeps <asm/types.h> there, and clang does not look when it compiles for BPF.
        .arg("-idirafter")
        .arg(format!("/usr/include/{}-linux-gnu", env("CARGO_CFG_TARGET_ARCH")))
        .arg(source)
        .arg("-o")
        .arg(object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("clang cannot compile {}: {status}", source.display()),
        Err(error) => panic!("clang (with libbpf-dev) is needed to compile {}: {error}", source.display()),
    }
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("Cargo sets {name}"))
}
