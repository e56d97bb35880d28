//! The cluster's programs, built from the pinned Go modules in `tests/cluster`, each once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::layout;
use crate::{
    image::hex,
    ui::{Step, run_logged},
};

/// One Go module and what is built from it.
struct Module {
    name: &'static str,
    /// Cold build on two cores, so that nobody takes it for a hang.
    cold: &'static str,
    cgo: bool,
    tags: &'static str,
    ldflags: &'static str,
    /// Package to build, and the name of its program.
    programs: &'static [(&'static str, &'static str)],
}

const MODULES: &[Module] = &[
    Module { name: "pause", cold: "10 s", cgo: false, tags: "", ldflags: "-s -w", programs: &[(".", "pause")] },
    Module {
        name: "runc",
        cold: "10 s",
        // Static with libseccomp: without the tag every sandbox fails with "seccomp not supported".
        cgo: true,
        tags: "seccomp,netgo,osusergo",
        ldflags: "-s -w -extldflags -static -X main.version=1.4.3",
        programs: &[("github.com/opencontainers/runc", "runc")],
    },
    Module {
        name: "containerd",
        cold: "1 min",
        cgo: false,
        // Snapshotters that need C libraries or a volume group; the overlay file system is enough.
        tags: "no_btrfs,no_devmapper,no_zfs",
        ldflags: "-s -w -X github.com/containerd/containerd/v2/version.Version=v2.3.4",
        programs: &[
            ("github.com/containerd/containerd/v2/cmd/containerd", "containerd"),
            ("github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", "containerd-shim-runc-v2"),
            ("github.com/containerd/containerd/v2/cmd/ctr", "ctr"),
            ("github.com/containernetworking/plugins/plugins/ipam/host-local", "host-local"),
            ("github.com/containernetworking/plugins/plugins/main/bridge", "bridge"),
            ("github.com/containernetworking/plugins/plugins/main/loopback", "loopback"),
            ("github.com/containernetworking/plugins/plugins/meta/portmap", "portmap"),
        ],
    },
    Module {
        name: "helm",
        cold: "1 min",
        cgo: false,
        tags: "",
        ldflags: "-s -w -X helm.sh/helm/v3/internal/version.version=v3.22.0",
        programs: &[("helm.sh/helm/v3/cmd/helm", "helm")],
    },
    Module {
        name: "kubernetes",
        cold: "5 min",
        cgo: false,
        tags: "",
        // Unset, the API server calls itself v0.0.0-master and helm refuses charts by their kubeVersion.
        ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
        programs: &[(".", "kubernetes")],
    },
    Module {
        name: "cilium",
        cold: "5 min",
        cgo: false,
        tags: "osusergo",
        ldflags: "-s -w -X 'github.com/cilium/cilium/pkg/version.ciliumVersion=1.19.5 unknown unknown'",
        programs: &[
            ("github.com/cilium/cilium/daemon", "cilium-agent"),
            ("github.com/cilium/cilium/operator", "cilium-operator"),
            ("github.com/cilium/cilium/plugins/cilium-cni", "cilium-cni"),
        ],
    },
];

/// Folders of the built programs, by module.
pub(super) struct Binaries {
    dirs: Vec<(&'static str, PathBuf)>,
}

impl Binaries {
    /// A program of a module.
    pub(super) fn program(&self, module: &str, program: &str) -> Result<PathBuf> {
        let dir = self.dirs.iter().find(|(name, _)| *name == module).map(|(_, dir)| dir);
        Ok(dir.with_context(|| format!("module {module} was not built"))?.join(program))
    }

    /// Changes when any program changes.
    pub(super) fn version(&self) -> String {
        let names = self.dirs.iter().filter_map(|(_, dir)| dir.file_name());
        names.map(|name| name.to_string_lossy().into_owned()).collect::<Vec<_>>().join("-")
    }
}

/// Builds what is not in the cache. `cilium` only when it is asked for: it is half of the time.
pub(super) fn ensure(cilium: bool) -> Result<Binaries> {
    let mut dirs = Vec::new();
    for module in MODULES {
        if module.name == "cilium" && !cilium {
            continue;
        }
        dirs.push((module.name, built(module)?));
    }
    Ok(Binaries { dirs })
}

/// Helm alone, for what needs no cluster.
pub(super) fn ensure_helm() -> Result<PathBuf> {
    let module = MODULES.iter().find(|module| module.name == "helm").context("helm is not among the modules")?;
    Ok(built(module)?.join("helm"))
}

/// The folder of a module's programs, built when it is not in the cache.
fn built(module: &Module) -> Result<PathBuf> {
    let source = layout::modules().join(module.name);
    let dir = layout::base().join("bin").join(format!("{}-{}", module.name, key(module, &source)?));
    if !dir.is_dir() {
        build(module, &source, &dir)?;
    }
    Ok(dir)
}

/// What decides the result: the pins, our own source, the recipe.
fn key(module: &Module, source: &Path) -> Result<String> {
    let mut names: Vec<PathBuf> = fs::read_dir(source)
        .with_context(|| format!("cannot read {}", source.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|ext| ext == "go" || ext == "mod" || ext == "sum"))
        .collect();
    names.sort();
    let mut hash = Sha256::new();
    for path in names {
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    hash.update(format!("{}|{}|{:?}|{}", module.tags, module.ldflags, module.programs, std::env::consts::ARCH));
    Ok(hex(&hash.finalize()).chars().take(12).collect())
}

fn build(module: &Module, source: &Path, dir: &Path) -> Result<()> {
    let step = Step::start(format!("Building {} ({} on two cores, once)", module.name, module.cold));
    let log = layout::base().join("bin").join(format!("{}.log", module.name));
    let partial = dir.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    for (package, program) in module.programs {
        step.note(program);
        run_logged(
            Command::new("go")
                .args(["build", "-trimpath", "-buildvcs=false", "-tags", module.tags, "-ldflags", module.ldflags, "-o"])
                .arg(partial.join(program))
                .arg(package)
                .current_dir(source)
                .env("CGO_ENABLED", if module.cgo { "1" } else { "0" })
                // A go.work of the user's above the workspace would replace our pins.
                .env("GOWORK", "off"),
            &log,
            &format!("building {program}"),
            "check the network (Go module proxy) and the free disk space, then run the command again; what was compiled is kept",
        )?;
    }
    if module.name == "cilium" {
        // The agent compiles its data path from these sources; they are part of the module, so their version cannot differ from the agent's.
        let module_dir = go_list(source, "github.com/cilium/cilium")?;
        copy_tree(&module_dir.join("bpf"), &partial.join("bpf"))?;
    }
    fs::rename(&partial, dir).with_context(|| format!("cannot rename {} into place", partial.display()))?;
    step.done();
    Ok(())
}

fn go_list(source: &Path, module: &str) -> Result<PathBuf> {
    let output = Command::new("go")
        .args(["list", "-m", "-f", "{{.Dir}}", module])
        .current_dir(source)
        .env("GOWORK", "off")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run go list")?;
    let dir = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || dir.is_empty() {
        bail!("go list -m {module} names no folder in {}", source.display());
    }
    Ok(PathBuf::from(dir))
}

/// Copies a folder, writable: Go's module cache is read-only, and both the agent and `down` write here.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            // The data path's own tests: half of the files, never compiled here.
            if entry.file_name() != "tests" && entry.file_name() != "complexity-tests" {
                copy_tree(&entry.path(), &target)?;
            }
        } else {
            fs::write(&target, fs::read(entry.path())?)
                .with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}
