//! Compiles the contract with protox, so that a build needs no protoc.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: &[&str] = &[
    "trunkline/v1/audit_entry.proto",
    "trunkline/v1/call.proto",
    "trunkline/v1/digest_credential.proto",
    "trunkline/v1/line.proto",
    "trunkline/v1/registration.proto",
    "trunkline/v1/route.proto",
    "trunkline/v1/settings.proto",
    "trunkline/v1/token.proto",
    "trunkline/v1/trunk.proto",
    "trunkline/v1/worker.proto",
    "trunkline/dataplane/v1/configuration.proto",
    "trunkline/dataplane/v1/enrollment.proto",
    "trunkline/dataplane/v1/report.proto",
];

/// Messages with secrets: their `Debug` is written by hand in `src/redact.rs`.
const SECRET: &[&str] = &[
    ".trunkline.v1.TlsSettings",
    ".trunkline.v1.Line",
    ".trunkline.v1.DigestCredential",
    ".trunkline.v1.RevealLinePasswordResponse",
    ".trunkline.v1.RevealDigestCredentialPasswordResponse",
    ".trunkline.v1.CreateJoinTokenResponse",
    ".trunkline.v1.CreateTokenResponse",
    ".trunkline.dataplane.v1.EnrollRequest",
    ".trunkline.dataplane.v1.Credential",
    ".trunkline.dataplane.v1.LineConfiguration",
    ".trunkline.dataplane.v1.TlsIdentity",
    ".trunkline.dataplane.v1.WorkerSettings",
];

/// Octets that are passed on without being copied.
const SHARED: &[&str] = &[
    ".trunkline.dataplane.v1.StreamReportsRequest.reports",
    ".trunkline.dataplane.v1.WatchBindingsResponse.changes",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=trunkline");
    println!("cargo:rerun-if-changed=google");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(out, descriptors.encode_to_vec())?;

    let mut config = tonic_prost_build::Config::new();
    config.skip_debug(SECRET);
    config.bytes(SHARED);
    tonic_prost_build::configure()
        .compile_well_known_types(false)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
