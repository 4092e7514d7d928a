//! Lays the functions that every start runs side by side in release programs for Linux (`cargo xtask order` says why).
//!
//! `link/order.ld` is a fragment that both GNU ld and LLD merge with their own layout; other linkers are left alone.
//! `MCPM_LINK_ORDER=0` leaves it out, and an absolute path names another one (`cargo xtask dist`). Where rustc links with the
//! LLD that it brings along, functions of the same instructions are folded into one too, which is worth some 80 KB; not for a
//! record, in which each function must have its own name.

#![expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts by the environment")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What chooses another linker in the flags of rustc.
const OTHER_LINKERS: [&str; 6] =
    ["linker=", "fuse-ld", "mold", "wild", "linker-features", "self-contained"];

fn main() {
    println!("cargo::rerun-if-changed=link/order.ld");
    println!("cargo::rerun-if-env-changed=MCPM_LINK_ORDER");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let known_linker = env::var_os("RUSTC_LINKER").is_none()
        // What is told of profiles holds a path, which may hold anything.
        && !flags.split('\u{1f}').filter(|flag| !flag.starts_with("-Cprofile-")).any(|flag| {
            OTHER_LINKERS.iter().any(|word| flag.contains(word))
        });
    if !is("PROFILE", "release") || !known_linker || is("MCPM_LINK_ORDER", "0") {
        return;
    }
    if is("TARGET", "x86_64-unknown-linux-gnu")
        && let Some(lld) = lld().filter(|folder| folder.join("ld.lld").exists())
    {
        // As rustc says it itself, where it was not built to link otherwise.
        for arg in [&format!("-B{}", lld.display()), "-fuse-ld=lld", "-Wl,--icf=all"] {
            println!("cargo::rustc-link-arg-bins={arg}");
        }
    }
    if is("CARGO_CFG_TARGET_OS", "linux")
        && let Ok(folder) = env::var("CARGO_MANIFEST_DIR")
    {
        let own = Path::new(&folder).join("link/order.ld");
        let script = match env::var_os("MCPM_LINK_ORDER").map(PathBuf::from) {
            Some(named) if named.is_absolute() && named.is_file() => named,
            Some(named) => {
                println!("cargo::error=MCPM_LINK_ORDER: no file {}", named.display());
                return;
            }
            None => own,
        };
        if script.is_file() {
            println!("cargo::rerun-if-changed={}", script.display());
            println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
        }
    }
}

/// Returns the folder of the LLD of the toolchain, which official ones link with on this target (since 1.90).
fn lld() -> Option<PathBuf> {
    let printed = Command::new(env::var_os("RUSTC")?).args(["--print", "sysroot"]).output().ok()?;
    let sysroot = PathBuf::from(String::from_utf8(printed.stdout).ok()?.trim());
    Some(sysroot.join("lib/rustlib").join(env::var_os("HOST")?).join("bin/gcc-ld"))
}
