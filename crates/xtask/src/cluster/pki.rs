//! Certificates and kubeconfigs of one cluster. All keys stay in its state folder and die with it.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::layout::{INSIDE, KUBERNETES_IP, Layout, NODE, NODE_IP};

/// The API server's address inside the cluster's namespaces.
pub(super) fn server() -> String {
    format!("https://{NODE_IP}:6443")
}

/// The identities that talk to the API server: file name, user, group.
///
/// Cilium gets full rights instead of its chart's roles: what the tests are about is the data path, and a role that lags behind the pinned agent
/// would cost a day to find.
const CLIENTS: &[(&str, &str, &str)] = &[
    ("admin", "tourniquet-admin", "system:masters"),
    ("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
    ("cilium", "cilium", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("kube-proxy", "system:kube-proxy", ""),
    ("scheduler", "system:kube-scheduler", ""),
];

/// A certificate authority whose key is kept on disk: tests sign with it, for example a proxy that breaks connections on purpose.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

/// Makes everything below `pki/`, and the kubeconfigs.
pub(super) fn create(layout: &Layout) -> Result<()> {
    let dir = layout.pki();
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let ca = authority(&dir, "ca")?;
    // The aggregation layer trusts every name this one signs, so it must not be the one that signs clients.
    let front_proxy = authority(&dir, "front-proxy-ca")?;

    leaf(
        &dir,
        "apiserver",
        &ca,
        "kube-apiserver",
        "",
        &[
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
            KUBERNETES_IP,
            NODE_IP,
        ],
    )?;
    leaf(&dir, "kubelet-server", &ca, NODE, "", &[NODE, NODE_IP, "127.0.0.1"])?;
    leaf(&dir, "kubelet", &ca, &format!("system:node:{NODE}"), "system:nodes", &[])?;
    leaf(&dir, "front-proxy-client", &front_proxy, "front-proxy-client", "", &[])?;
    for (file, user, group) in CLIENTS {
        leaf(&dir, file, &ca, user, group, &[])?;
    }

    let service_accounts = KeyPair::generate()?;
    write(&dir.join("service-accounts.key"), &service_accounts.serialize_pem(), 0o600)?;
    write(&dir.join("service-accounts.pub"), &service_accounts.public_key_pem(), 0o644)?;

    for file in ["cilium", "controller-manager", "kube-proxy", "kubelet", "scheduler"] {
        let pki = format!("{INSIDE}/pki");
        let config = kubeconfig(
            &layout.name,
            file,
            &format!("certificate-authority: {pki}/ca.crt"),
            &format!("client-certificate: {pki}/{file}.crt"),
            &format!("client-key: {pki}/{file}.key"),
        );
        write(&dir.join(format!("{file}.kubeconfig")), &config, 0o600)?;
    }
    // Whole in one file: clients are handed this one, from other working directories.
    let data = |name: &str| -> Result<String> { Ok(STANDARD.encode(fs::read(dir.join(name))?)) };
    let admin = kubeconfig(
        &layout.name,
        "admin",
        &format!("certificate-authority-data: {}", data("ca.crt")?),
        &format!("client-certificate-data: {}", data("admin.crt")?),
        &format!("client-key-data: {}", data("admin.key")?),
    );
    write(&layout.kubeconfig(), &admin, 0o600)
}

fn kubeconfig(cluster: &str, user: &str, authority: &str, certificate: &str, key: &str) -> String {
    let server = server();
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {cluster}\nclusters:\n- name: {cluster}\n  cluster:\n    server: {server}\n    {authority}\ncontexts:\n- name: {cluster}\n  context:\n    cluster: {cluster}\n    user: {user}\nusers:\n- name: {user}\n  user:\n    {certificate}\n    {key}\n"
    )
}

fn authority(dir: &Path, name: &str) -> Result<Authority> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&format!("tourniquet test cluster {name}"), "");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    write(&dir.join(format!("{name}.crt")), &certificate.pem(), 0o644)?;
    write(&dir.join(format!("{name}.key")), &key.serialize_pem(), 0o600)?;
    Ok(Authority { issuer: Issuer::new(params, key) })
}

fn leaf(dir: &Path, file: &str, by: &Authority, user: &str, group: &str, names: &[&str]) -> Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(user, group);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into()?),
        });
    }
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &by.issuer)?;
    write(&dir.join(format!("{file}.crt")), &certificate.pem(), 0o644)?;
    write(&dir.join(format!("{file}.key")), &key.serialize_pem(), 0o600)
}

fn subject(user: &str, group: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    if !group.is_empty() {
        name.push(DnType::OrganizationName, group);
    }
    name
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    // The mode is set at creation: a key that is world-readable for a moment was world-readable.
    let _ = fs::remove_file(path);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
