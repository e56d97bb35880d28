//! System packages, and the tools that the project cannot bring itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use super::layout;
use crate::ui::{Step, run_logged};

/// A Debian package and how to see that what it brings is there, from whatever distribution.
struct Package {
    name: &'static str,
    present: fn() -> bool,
}

const PACKAGES: &[Package] = &[
    Package { name: "util-linux", present: || on_path("unshare") && on_path("nsenter") && on_path("setpriv") },
    Package { name: "iproute2", present: || on_path("ip") },
    Package { name: "iptables", present: || on_path("iptables") },
    Package { name: "ipset", present: || on_path("ipset") },
    Package { name: "conntrack", present: || on_path("conntrack") },
    // By hand, as docs/runbook.md says.
    Package { name: "curl", present: || on_path("curl") },
    Package { name: "nftables", present: || on_path("nft") },
    Package { name: "kmod", present: || on_path("modprobe") },
    Package { name: "gcc", present: || on_path("gcc") },
    Package { name: "libc6-dev", present: || Path::new("/usr/include/stdlib.h").exists() },
    Package { name: "pkg-config", present: || on_path("pkg-config") },
    Package { name: "libseccomp-dev", present: || Path::new("/usr/include/seccomp.h").exists() },
    // Cilium compiles its data path on the node. 19 is what its own images carry; Debian 12 has it.
    Package { name: "clang-19", present: || llvm("clang").is_some() },
    Package { name: "llvm-19", present: || llvm("llc").is_some() && llvm("llvm-objcopy").is_some() },
    // The agent's tests send raw frames with it.
    Package { name: "python3", present: || on_path("python3") },
    Package { name: "busybox-static", present: || static_busybox().is_some() },
];

/// Installs what is missing, or says in one message what to install.
pub(super) fn ensure() -> Result<()> {
    if !on_path("go") {
        bail!(
            "the Go toolchain is missing: the test cluster is built from Go modules\n  next: install Go 1.26 or newer, so that `go version` works, and run the command again"
        );
    }
    let missing = missing();
    if missing.is_empty() {
        return musl();
    }
    let list = missing.join(" ");
    if !on_path("apt-get") {
        bail!(
            "the test cluster needs tools that are not there; on Debian they are in these packages: {list}\n  next: install what your distribution calls them and run the command again"
        );
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the test cluster needs packages that are not installed: {list}\n  next: apt-get install -y --no-install-recommends {list}"
        );
    }
    let step = Step::start(format!("Installing Debian packages: {list}"));
    let log = layout::base().join("packages.log");
    let next = "install the packages by hand, then run the command again";
    let apt = |args: &[&str]| {
        run_logged(
            Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive"),
            &log,
            "installing Debian packages",
            next,
        )
    };
    // Lists first, always: a list that is there may be older than the mirror, and then the install fails half way.
    apt(&["update"])?;
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(&missing);
    apt(&args)?;
    let still = self::missing();
    if !still.is_empty() {
        bail!("installed, but not where they are expected: {}\n  log: {}", still.join(" "), log.display());
    }
    step.done();
    musl()
}

fn missing() -> Vec<&'static str> {
    PACKAGES.iter().filter(|package| !(package.present)()).map(|package| package.name).collect()
}

/// The static operator binary needs Rust's musl target. Without rustup this is somebody's own toolchain: their business, and the cluster itself
/// does not need it.
fn musl() -> Result<()> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let root = layout::workspace();
    let listed = Command::new("rustup")
        .args(["target", "list", "--installed"])
        .current_dir(&root)
        .stderr(Stdio::null())
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let Ok(listed) = listed else { return Ok(()) };
    if listed.lines().any(|line| line.trim() == target) {
        return Ok(());
    }
    let step = Step::start(format!("Installing the Rust target {target}"));
    run_logged(
        Command::new("rustup").args(["target", "add", &target]).current_dir(&root),
        &layout::base().join("rustup.log"),
        "installing the Rust target of the operator image",
        &format!("rustup target add {target}"),
    )?;
    step.done();
    Ok(())
}

/// Whether a program is on the search path; the administrator's folders count, which a plain user's PATH leaves out.
fn on_path(program: &str) -> bool {
    find(program).is_some()
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let admin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(admin).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// A tool of LLVM: Debian's folder of version 19, else whatever the path has.
pub(super) fn llvm(tool: &str) -> Option<PathBuf> {
    let debian = Path::new("/usr/lib/llvm-19/bin").join(tool);
    if debian.is_file() { Some(debian) } else { find(tool) }
}

/// A busybox that runs in an image without libraries.
pub(super) fn static_busybox() -> Option<PathBuf> {
    find("busybox").filter(|path| fs::read(path).is_ok_and(|bytes| is_static(&bytes)))
}

/// A 64-bit little-endian ELF file without PT_INTERP asks for no dynamic linker.
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = 3u32.to_le_bytes();
    let number = |at: usize, len: usize| -> Option<usize> {
        let bytes = elf.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0usize, |sum, byte| (sum << 8) | usize::from(*byte)))
    };
    let headers = || -> Option<bool> {
        let (offset, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        for index in 0..count {
            let start = offset.checked_add(index * size)?;
            if elf.get(start..start + 4)? == PT_INTERP {
                return Some(false);
            }
        }
        Some(true)
    };
    elf.starts_with(b"\x7fELF\x02\x01") && headers().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_static_from_dynamic() {
        // The test itself is linked to the system's C library.
        let this = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&this));
        assert!(!is_static(b"#!/bin/sh"));
    }
}
