//! Compiles the XDP program and generates its Rust skeleton (`src/net/steer.rs` includes it).
//!
//! Needs clang (14 or newer) with its BPF target; `CLANG` names another one than the first in PATH.

use libbpf_cargo::SkeletonBuilder;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const SOURCE: &str = "bpf/steer.bpf.c";
const HEADER: &str = "bpf/steer.h";

fn fail(message: &str) -> ! {
    eprintln!("\nxshelf cannot be built: {message}\n");
    exit(1)
}

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-changed={HEADER}");
    println!("cargo:rerun-if-env-changed=CLANG");
    let (Some(out), Ok(arch)) = (env::var_os("OUT_DIR"), env::var("CARGO_CFG_TARGET_ARCH")) else {
        fail("build.rs runs under cargo only")
    };
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let name = clang.to_string_lossy();
    match Command::new(&clang).arg("--print-targets").output() {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("bpf") => {}
        Ok(_) => fail(&format!("{name} has no BPF target; apt-get install clang, or name another in CLANG")),
        Err(e) => fail(&format!("{name}, which compiles the XDP program: {e}; apt-get install clang")),
    }
    let mut args = vec!["-Wall".to_owned(), "-Wextra".to_owned(), "-Werror".to_owned()];
    // Debian keeps asm/types.h in a directory of the architecture, which -target bpf does not look into.
    let multiarch = format!("/usr/include/{arch}-linux-gnu");
    if Path::new(&multiarch).join("asm/types.h").exists() {
        args.push(format!("-I{multiarch}"));
    } else if !Path::new("/usr/include/asm/types.h").exists() {
        fail("asm/types.h is missing; apt-get install linux-libc-dev");
    }
    let skeleton = PathBuf::from(out).join("steer.skel.rs");
    let built =
        SkeletonBuilder::new().source(SOURCE).clang(&clang).clang_args(args).build_and_generate(&skeleton);
    if let Err(e) = built {
        fail(&format!("{SOURCE}: {e:#}"))
    }
}
