//! The images that every cluster has.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use super::{build::Binaries, layout, packages};
use crate::image::{Config, Layer, write_archive};

/// Holds a pod's namespaces.
pub(super) const PAUSE: &str = "tourniquet.test/pause:dev";
/// What test pods run: busybox, a page to serve.
pub const WORKLOAD: &str = "tourniquet.test/workload:dev";

const PATH: &str = "PATH=/bin:/sbin:/usr/bin:/usr/sbin";

/// Writes both archives; the same input gives the same bytes, so this costs nothing but the writing.
pub(super) fn create(binaries: &Binaries) -> Result<Vec<PathBuf>> {
    let dir = layout::base().join("images");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;

    let pause = dir.join("pause.tar");
    let layer = Layer::new().copy("/pause", 0o755, &binaries.program("pause", "pause")?)?;
    let config = Config { user: "65535:65535".into(), entrypoint: vec!["/pause".into()], ..Config::default() };
    write_archive(&pause, PAUSE, &[layer], &config)?;

    let workload = dir.join("workload.tar");
    let config = Config {
        cmd: ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"].map(String::from).to_vec(),
        env: vec![PATH.into()],
        workdir: "/".into(),
        ..Config::default()
    };
    write_archive(&workload, WORKLOAD, &[busybox()?], &config)?;
    Ok(vec![pause, workload])
}

fn busybox() -> Result<Layer> {
    let busybox = packages::static_busybox().context("no static busybox (Debian: busybox-static)")?;
    let mut layer = Layer::new()
        .copy("/bin/busybox", 0o755, &busybox)?
        .dir("/bin", 0o755)
        .dir("/sbin", 0o755)
        .dir("/usr/bin", 0o755)
        .dir("/usr/sbin", 0o755)
        .dir("/etc", 0o755)
        .file("/etc/passwd", 0o644, "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
        .file("/etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n")
        .dir("/tmp", 0o1777)
        .dir("/www", 0o755)
        .file("/www/index.html", 0o644, "tourniquet\n");
    // Which applets there are is a matter of how the distribution built it.
    let output = Command::new(&busybox).arg("--list-full").output().context("cannot run busybox")?;
    for applet in
        String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains('/') && !line.ends_with("/busybox"))
    {
        layer = layer.symlink(applet, "/bin/busybox");
    }
    Ok(layer)
}
