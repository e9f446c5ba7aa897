//! Digest users, as operators write them and as workers need them.

use trunkline_proto::{dataplane::v1 as dataplane, v1};

use super::check::{Findings, Violations};
use super::trunk::quotable;
use crate::credential::{Credential, DigestAlgorithm, DigestUser, Ha1Set};
use crate::secret::Secret;

impl TryFrom<v1::DigestCredential> for DigestUser {
    type Error = Violations;

    fn try_from(raw: v1::DigestCredential) -> Result<Self, Violations> {
        digest_user(raw)
    }
}

impl TryFrom<dataplane::Credential> for Credential {
    type Error = Violations;

    fn try_from(raw: dataplane::Credential) -> Result<Self, Violations> {
        credential(raw)
    }
}

/// Checks a digest user as written and answers it with every default filled in; the password, the etag and the times
/// are passed through.
pub fn effective_credential(raw: v1::DigestCredential) -> Result<v1::DigestCredential, Violations> {
    let (etag, create_time, update_time) = (raw.etag.clone(), raw.create_time, raw.update_time);
    let user = digest_user(raw)?;
    let password = user.password.expose().to_owned();
    Ok(v1::DigestCredential {
        password,
        etag,
        create_time,
        update_time,
        ..digest_user_to_wire(&user)
    })
}

/// Checks a digest user message. Errors name everything that is wrong; a user without a password, given or stored, is.
pub fn digest_user(raw: v1::DigestCredential) -> Result<DigestUser, Violations> {
    let v1::DigestCredential {
        name,
        username,
        password,
        has_password,
        enabled,
        aor_user,
        etag: _,
        create_time: _,
        update_time: _,
    } = raw;
    let mut f = Findings::default();
    let password = Secret::new(password);
    let name = f.ok("name", name.parse());
    quotable(&mut f, "username", &username, 128);
    // Inside H(username:realm:password) a colon would be taken for the end of the user name (RFC 7616 §3.4.2).
    if username.contains(':') {
        f.field("username", "must not contain a colon");
    }
    if !password.is_empty() {
        f.text("password", password.expose(), 1..=128);
    } else if !has_password {
        f.field("password", "must be set");
    }
    f.text("aor_user", &aor_user, 0..=128);
    let user = name.map(|name| DigestUser {
        name,
        username: username.into(),
        has_password: has_password || !password.is_empty(),
        password,
        enabled: enabled.unwrap_or(true),
        aor_user: aor_user.into(),
    });
    f.settle_some(user)
}

/// The message without the password; etag and times are the caller's.
pub fn digest_user_to_wire(user: &DigestUser) -> v1::DigestCredential {
    let DigestUser {
        name,
        username,
        password: _,
        has_password,
        enabled,
        aor_user,
    } = user;
    v1::DigestCredential {
        name: name.to_string(),
        username: username.to_string(),
        password: String::new(),
        has_password: *has_password,
        enabled: Some(*enabled),
        aor_user: aor_user.to_string(),
        etag: String::new(),
        create_time: None,
        update_time: None,
    }
}

/// Reads a digest user as workers get it.
pub fn credential(raw: dataplane::Credential) -> Result<Credential, Violations> {
    let dataplane::Credential {
        name,
        username,
        enabled,
        aor_user,
        realm,
        ha1_md5,
        ha1_sha256,
        ha1_sha512_256,
    } = raw;
    let mut f = Findings::default();
    let name = f.ok("name", name.parse());
    quotable(&mut f, "username", &username, 128);
    let aor_user = if aor_user.is_empty() {
        username.clone()
    } else {
        aor_user
    };
    let ha1 = Ha1Set::new(ha1_md5, ha1_sha256, ha1_sha512_256).map_err(|error| {
        let field = match error.0 {
            DigestAlgorithm::Md5 => "ha1_md5",
            DigestAlgorithm::Sha256 => "ha1_sha256",
            DigestAlgorithm::Sha512_256 => "ha1_sha512_256",
        };
        f.field(field, error.to_string());
    });
    let credential = name.zip(ha1.ok()).map(|(name, ha1)| Credential {
        name,
        username: username.into(),
        enabled,
        aor_user: aor_user.into(),
        realm: realm.into(),
        ha1,
    });
    f.settle_some(credential)
}

/// The message of a digest user with its hashes.
pub fn credential_to_wire(credential: &Credential) -> dataplane::Credential {
    let Credential {
        name,
        username,
        enabled,
        aor_user,
        realm,
        ha1,
    } = credential;
    dataplane::Credential {
        name: name.to_string(),
        username: username.to_string(),
        enabled: *enabled,
        aor_user: aor_user.to_string(),
        realm: realm.to_string(),
        ha1_md5: ha1.hash(DigestAlgorithm::Md5).into(),
        ha1_sha256: ha1.hash(DigestAlgorithm::Sha256).into(),
        ha1_sha512_256: ha1.hash(DigestAlgorithm::Sha512_256).into(),
    }
}
