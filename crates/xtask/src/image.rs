//! Container images without Docker and without a registry: an OCI image layout in one tar archive.
//!
//! The same input gives the same bytes on every machine (sorted paths, owner 0, time 0), so that an image is loaded again only when it changed.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// One layer's files, by their path in the image.
#[derive(Default)]
pub struct Layer {
    entries: BTreeMap<String, Entry>,
}

enum Entry {
    Dir { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
    Symlink { target: String },
}

impl Layer {
    /// An empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory.
    pub fn dir(mut self, path: &str, mode: u32) -> Self {
        self.entries.insert(key(path), Entry::Dir { mode });
        self
    }

    /// Adds a file with these bytes.
    pub fn file(mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        self.entries.insert(key(path), Entry::File { mode, bytes: bytes.into() });
        self
    }

    /// Adds a file of this machine.
    pub fn copy(self, path: &str, mode: u32, source: &Path) -> Result<Self> {
        let bytes = std::fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        Ok(self.file(path, mode, bytes))
    }

    /// Adds a symbolic link.
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        self.entries.insert(key(path), Entry::Symlink { target: target.to_owned() });
        self
    }

    fn to_tar(&self) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let mut header = header();
            match entry {
                Entry::Dir { mode } => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(*mode);
                    tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Entry::File { mode, bytes } => {
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, path, bytes.as_slice())?;
                }
                Entry::Symlink { target } => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_mode(0o777);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }
}

/// How a container of the image starts when its pod does not say otherwise.
#[derive(Default)]
pub struct Config {
    /// User as `UID`, `UID:GID` or a name of the image's /etc/passwd.
    pub user: String,
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments that a pod's `args` replace.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory.
    pub workdir: String,
}

/// Writes the archive and returns the digest of the image's manifest.
pub fn write_archive(path: &Path, reference: &str, layers: &[Layer], config: &Config) -> Result<String> {
    let mut blobs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut layer_descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for layer in layers {
        // Not compressed: the archive goes from one directory of this machine to another.
        let descriptor = store(&mut blobs, "application/vnd.oci.image.layer.v1.tar", layer.to_tar()?);
        diff_ids.push(descriptor["digest"].clone());
        layer_descriptors.push(descriptor);
    }

    let image = json!({
        // containerd drops an image whose config names no platform: it "does not match" the node's.
        "os": "linux",
        "architecture": architecture(),
        "config": {
            "User": config.user,
            "Entrypoint": config.entrypoint,
            "Cmd": config.cmd,
            "Env": config.env,
            "WorkingDir": config.workdir,
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config_descriptor = store(&mut blobs, "application/vnd.oci.image.config.v1+json", serde_json::to_vec(&image)?);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_descriptor,
        "layers": layer_descriptors,
    });
    // `docker load` reads this file, containerd and podman the OCI index.
    let docker = json!([{
        "Config": blob_path(&config_descriptor),
        "RepoTags": [reference],
        "Layers": layer_descriptors.iter().map(blob_path).collect::<Vec<_>>(),
    }]);
    let mut descriptor =
        store(&mut blobs, "application/vnd.oci.image.manifest.v1+json", serde_json::to_vec(&manifest)?);
    let digest = descriptor["digest"].as_str().unwrap_or_default().to_owned();
    let tag = reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    descriptor["annotations"] =
        json!({"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor],
    });

    let mut files: BTreeMap<String, Vec<u8>> =
        blobs.into_iter().map(|(hex, bytes)| (format!("blobs/sha256/{hex}"), bytes)).collect();
    files.insert("index.json".into(), serde_json::to_vec(&index)?);
    files.insert("manifest.json".into(), serde_json::to_vec(&docker)?);
    files.insert("oci-layout".into(), serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?);

    // Written beside and renamed: a reader never meets half an archive.
    let partial = path.with_extension("partial");
    let out = File::create(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
    let mut tar = Builder::new(BufWriter::new(out));
    for (name, bytes) in &files {
        let mut header = header();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes.as_slice())?;
    }
    tar.into_inner()?.flush()?;
    std::fs::rename(&partial, path)?;
    Ok(digest)
}

fn key(path: &str) -> String {
    path.trim_matches('/').to_owned()
}

fn header() -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn store(blobs: &mut BTreeMap<String, Vec<u8>>, media_type: &str, bytes: Vec<u8>) -> Value {
    let hex = hex(&Sha256::digest(&bytes));
    let descriptor = json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()});
    blobs.insert(hex, bytes);
    descriptor
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn blob_path(descriptor: &Value) -> String {
    format!("blobs/{}", descriptor["digest"].as_str().unwrap_or_default().replace(':', "/"))
}

/// Go's name for this machine's architecture: what image configs use.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(dir: &Path, name: &str) -> (String, Vec<u8>) {
        let layer = Layer::new()
            .file("/etc/passwd", 0o644, "nobody:x:65534:65534::/:/bin/sh\n")
            .dir("/tmp", 0o1777)
            .symlink("/bin/sh", "/bin/busybox");
        let config = Config { user: "65534".into(), entrypoint: vec!["/bin/sh".into()], ..Config::default() };
        let path = dir.join(name);
        let digest = write_archive(&path, "tourniquet.test/workload:dev", &[layer], &config).unwrap();
        (digest, std::fs::read(path).unwrap())
    }

    #[test]
    fn same_input_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(archive(dir.path(), "a.tar"), archive(dir.path(), "b.tar"));
    }

    #[test]
    fn names_its_platform_and_reference() {
        let dir = tempfile::tempdir().unwrap();
        let (_, bytes) = archive(dir.path(), "a.tar");
        let mut all = String::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 0);
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            all.push_str(&String::from_utf8_lossy(&bytes));
        }
        assert!(all.contains(r#""os":"linux""#), "{all}");
        assert!(all.contains(&format!(r#""architecture":"{}""#, architecture())), "{all}");
        assert!(all.contains(r#""io.containerd.image.name":"tourniquet.test/workload:dev""#), "{all}");
    }
}
