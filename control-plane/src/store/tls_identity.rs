//! Certificates of TLS trunks, as workers receive them.

use prost::Message as _;
use sqlx::SqliteConnection;
use trunkline_proto::dataplane::v1::TlsIdentity;

use super::{Cipher, Operation, ResourceKind, StoreError, Stored, WriteTx};

/// What tells whether an identity is still the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsIdentityState {
    /// `trunks/{trunk}`.
    pub trunk: String,
    /// Hash of what it was made from.
    pub inputs: Vec<u8>,
    /// When to issue another, in milliseconds since 1970; `None` for imported certificates.
    pub renew_time: Option<i64>,
}

/// State of every identity, in the order of the trunks' names.
///
/// # Errors
/// When the store cannot be read; the same holds for every reading function here.
pub async fn states(conn: &mut SqliteConnection) -> Result<Vec<TlsIdentityState>, StoreError> {
    let rows: Vec<(String, Vec<u8>, Option<i64>)> =
        sqlx::query_as("SELECT trunk, inputs, renew_time FROM tls_identities ORDER BY trunk")
            .fetch_all(conn)
            .await?;
    Ok(rows
        .into_iter()
        .map(|(trunk, inputs, renew_time)| TlsIdentityState {
            trunk,
            inputs,
            renew_time,
        })
        .collect())
}

/// The identity of `trunks/{trunk}`.
///
/// # Errors
/// As [`states`], and [`StoreError::Secret`].
pub async fn find(
    conn: &mut SqliteConnection,
    cipher: &Cipher,
    trunk: &str,
) -> Result<Option<Stored<TlsIdentity>>, StoreError> {
    let row: Option<Row> =
        sqlx::query_as("SELECT trunk, message, private_key, version FROM tls_identities WHERE trunk = ?1")
            .bind(trunk)
            .fetch_optional(conn)
            .await?;
    row.map(|row| decode(cipher, row)).transpose()
}

/// Every identity, in the order of the trunks' names.
///
/// # Errors
/// As [`find`].
pub async fn all(conn: &mut SqliteConnection, cipher: &Cipher) -> Result<Vec<Stored<TlsIdentity>>, StoreError> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT trunk, message, private_key, version FROM tls_identities ORDER BY trunk")
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(|row| decode(cipher, row)).collect()
}

/// Stores the identity of a trunk in place of what it has.
///
/// # Errors
/// When the store cannot be written.
pub async fn put(
    tx: &mut WriteTx,
    identity: &TlsIdentity,
    inputs: &[u8],
    renew_time: Option<i64>,
) -> Result<(), StoreError> {
    let version = tx
        .record(ResourceKind::TlsIdentity, &identity.trunk, Operation::Upsert)
        .await?;
    let sealed = tx.cipher().seal(&context(&identity.trunk), &identity.private_key_der)?;
    let public = TlsIdentity {
        private_key_der: Vec::new(),
        ..identity.clone()
    };
    sqlx::query(
        "INSERT INTO tls_identities (trunk, message, private_key, inputs, renew_time, version)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (trunk) DO UPDATE SET message = excluded.message, private_key = excluded.private_key,
           inputs = excluded.inputs, renew_time = excluded.renew_time, version = excluded.version",
    )
    .bind(&identity.trunk)
    .bind(public.encode_to_vec())
    .bind(sealed)
    .bind(inputs)
    .bind(renew_time)
    .bind(version)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Removes the identity of a trunk.
///
/// # Errors
/// When the store cannot be written.
pub async fn delete(tx: &mut WriteTx, trunk: &str) -> Result<(), StoreError> {
    tx.record(ResourceKind::TlsIdentity, trunk, Operation::Remove).await?;
    sqlx::query("DELETE FROM tls_identities WHERE trunk = ?1")
        .bind(trunk)
        .execute(tx.conn())
        .await?;
    Ok(())
}

type Row = (String, Vec<u8>, Vec<u8>, i64);

fn decode(cipher: &Cipher, (trunk, message, key, version): Row) -> Result<Stored<TlsIdentity>, StoreError> {
    let private_key_der = cipher.open(&context(&trunk), &key)?.to_vec();
    match TlsIdentity::decode(message.as_slice()) {
        Ok(identity) => Ok(Stored {
            message: TlsIdentity {
                private_key_der,
                ..identity
            },
            version,
        }),
        Err(source) => Err(StoreError::Decode {
            kind: "TLS identity",
            name: trunk,
            source,
        }),
    }
}

fn context(trunk: &str) -> String {
    format!("tls_identities/private_key/{trunk}")
}
