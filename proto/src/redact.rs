//! Debug of messages that carry secrets: a secret shows as set or unset, never as its value.

use std::fmt;

use crate::{dataplane::v1 as dataplane, v1};

/// Stands for a secret in Debug output.
struct Secret(bool);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "<set>" } else { "<unset>" })
    }
}

/// Destructures every field, so that a field added to the message has to be placed on one side or the other.
macro_rules! redacted_debug {
    ($message:ty { $($shown:ident),* $(,)? ; $($secret:ident),* $(,)? }) => {
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Self { $($shown,)* $($secret,)* } = self;
                let mut out = f.debug_struct(stringify!($message));
                $(out.field(stringify!($shown), $shown);)*
                $(out.field(stringify!($secret), &Secret(!$secret.is_empty()));)*
                out.finish()
            }
        }
    };
}

redacted_debug!(v1::TlsSettings {
    mutual_auth, sips_uri, version, ciphers, sans, trusted_ca_pem, certificate_pem; private_key_pem
});
redacted_debug!(v1::Line {
    name, display_name, enabled, host, port, protocol, priority, weight, auth_username, has_password,
    registration_interval, options_interval, registration_user, etag, create_time, update_time; auth_password
});
redacted_debug!(v1::DigestCredential {
    name, username, has_password, enabled, aor_user, etag, create_time, update_time; password
});
redacted_debug!(v1::RevealLinePasswordResponse { ; password });
redacted_debug!(v1::RevealDigestCredentialPasswordResponse { ; password });
redacted_debug!(v1::CreateJoinTokenResponse { expire_time; token });
redacted_debug!(v1::CreateTokenResponse { token; secret });
redacted_debug!(dataplane::EnrollRequest { certificate_request_der, hostname, worker_id; join_token });
redacted_debug!(dataplane::Credential { name, username, enabled, aor_user, realm; ha1_md5, ha1_sha256, ha1_sha512_256 });
redacted_debug!(dataplane::LineConfiguration { line; auth_password });
redacted_debug!(dataplane::TlsIdentity { trunk, certificate_chain_der, trusted_ca_der; private_key_der });
redacted_debug!(dataplane::WorkerSettings { pci_dss_enabled, drain; nonce_keys });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_show_as_set_or_unset() {
        let credential = v1::DigestCredential {
            username: "alice".into(),
            password: "s3cret".into(),
            ..Default::default()
        };
        let shown = format!("{credential:?}");
        assert!(shown.contains("alice") && shown.contains("password: <set>"), "{shown}");
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(format!("{:?}", v1::DigestCredential::default()).contains("password: <unset>"));
    }
}
