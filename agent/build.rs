//! Lays the functions that every start runs side by side in release programs for Linux (`cargo xtask order` says why).
//!
//! `link/order.ld` is a fragment that both GNU ld and LLD merge with their own layout; other linkers are left alone, and
//! `MCPM_LINK_ORDER=0` leaves it out.

#![expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts by the environment")]

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=link/order.ld");
    println!("cargo::rerun-if-env-changed=MCPM_LINK_ORDER");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let known_linker = env::var_os("RUSTC_LINKER").is_none()
        && !["linker=", "fuse-ld", "mold", "wild"].iter().any(|word| flags.contains(word));
    if is("CARGO_CFG_TARGET_OS", "linux")
        && is("PROFILE", "release")
        && known_linker
        && !is("MCPM_LINK_ORDER", "0")
        && let Ok(folder) = env::var("CARGO_MANIFEST_DIR")
    {
        let script = Path::new(&folder).join("link/order.ld");
        if script.is_file() {
            println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
        }
    }
}
