//! Digest credentials: the password sealed, and the hashes that workers receive.

use prost::Message;
use sqlx::SqliteConnection;
use trunkline_proto::v1;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Cipher, Operation, ResourceKind, StoreError, Stored, WriteTx, etag, names_below, timestamp};

/// HA1 of one user in one realm (RFC 7616 §3.4.2), raw octets.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Ha1 {
    /// MD5.
    pub md5: [u8; 16],
    /// SHA-256.
    pub sha256: [u8; 32],
    /// SHA-512-256.
    pub sha512_256: [u8; 32],
}

impl std::fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ha1").finish_non_exhaustive()
    }
}

/// What the store keeps of a credential beside its message.
#[derive(Debug, Clone, Copy)]
pub struct Secrets<'a> {
    /// In clear; sealed by the store.
    pub password: &'a str,
    /// Realm of the hashes; empty while the trunk has none.
    pub realm: &'a str,
    /// Hashes of user name, realm and password.
    pub ha1: &'a Ha1,
}

/// A credential as workers need it.
#[derive(Debug, Clone)]
pub struct WorkerCredential {
    /// The public message.
    pub credential: Stored<v1::DigestCredential>,
    /// Realm of the hashes.
    pub realm: String,
    /// The hashes.
    pub ha1: Ha1,
}

/// The credential called `name`.
///
/// # Errors
/// When the store cannot be read or a row does not decode; the same holds for every reading function here.
pub async fn find(conn: &mut SqliteConnection, name: &str) -> Result<Option<Stored<v1::DigestCredential>>, StoreError> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT name, message, create_time, update_time, version FROM digest_credentials WHERE name = ?1",
    )
    .bind(name)
    .fetch_optional(conn)
    .await?;
    row.map(decode).transpose()
}

/// Up to `limit` credentials below `prefix` (`trunks/{trunk}/credentials`, or `trunks` for all) whose names come after
/// `after`, in the order of their names.
///
/// # Errors
/// As [`find`].
pub async fn list(
    conn: &mut SqliteConnection,
    prefix: &str,
    after: &str,
    limit: u32,
) -> Result<Vec<Stored<v1::DigestCredential>>, StoreError> {
    let (from, until) = names_below(prefix);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT name, message, create_time, update_time, version FROM digest_credentials
         WHERE name >= ?1 AND name < ?2 AND name > ?3 ORDER BY name LIMIT ?4",
    )
    .bind(from)
    .bind(until)
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(decode).collect()
}

/// The credential called `name` with its hashes.
///
/// # Errors
/// As [`find`], and [`StoreError::Secret`].
pub async fn find_for_workers(
    conn: &mut SqliteConnection,
    cipher: &Cipher,
    name: &str,
) -> Result<Option<WorkerCredential>, StoreError> {
    let row: Option<WorkerRow> = sqlx::query_as(
        "SELECT name, message, create_time, update_time, version, realm, hashes FROM digest_credentials
         WHERE name = ?1",
    )
    .bind(name)
    .fetch_optional(conn)
    .await?;
    row.map(|row| decode_for_workers(cipher, row)).transpose()
}

/// Every credential with its hashes, in the order of their names.
///
/// # Errors
/// As [`find`], and [`StoreError::Secret`].
pub async fn all_for_workers(
    conn: &mut SqliteConnection,
    cipher: &Cipher,
) -> Result<Vec<WorkerCredential>, StoreError> {
    let rows: Vec<WorkerRow> = sqlx::query_as(
        "SELECT name, message, create_time, update_time, version, realm, hashes FROM digest_credentials ORDER BY name",
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|row| decode_for_workers(cipher, row)).collect()
}

/// Another credential of `trunk` than `except` with this user name.
///
/// # Errors
/// As [`find`].
pub async fn username_holder(
    conn: &mut SqliteConnection,
    trunk: &str,
    username: &str,
    except: &str,
) -> Result<Option<String>, StoreError> {
    let holder =
        sqlx::query_scalar("SELECT name FROM digest_credentials WHERE trunk = ?1 AND username = ?2 AND name <> ?3")
            .bind(trunk)
            .bind(username)
            .bind(except)
            .fetch_optional(conn)
            .await?;
    Ok(holder)
}

/// The password in clear.
///
/// # Errors
/// As [`find`], and [`StoreError::Secret`].
pub async fn password(
    conn: &mut SqliteConnection,
    cipher: &Cipher,
    name: &str,
) -> Result<Option<Zeroizing<String>>, StoreError> {
    let sealed: Option<Vec<u8>> = sqlx::query_scalar("SELECT password FROM digest_credentials WHERE name = ?1")
        .bind(name)
        .fetch_optional(conn)
        .await?;
    match sealed {
        Some(sealed) => Ok(Some(cipher.open_text(&password_context(name), &sealed)?)),
        None => Ok(None),
    }
}

/// Stores a new credential of `trunk` under `credential.name`; name and user name must be free.
///
/// # Errors
/// When the store cannot be written.
pub async fn insert(
    tx: &mut WriteTx,
    trunk: &str,
    credential: &v1::DigestCredential,
    secrets: Secrets<'_>,
) -> Result<Stored<v1::DigestCredential>, StoreError> {
    let version = tx
        .record(ResourceKind::Credential, &credential.name, Operation::Upsert)
        .await?;
    let now_ms = tx.now_ms();
    let (password, hashes) = seal(&tx.cipher(), &credential.name, secrets)?;
    sqlx::query(
        "INSERT INTO digest_credentials
           (name, trunk, username, message, password, realm, hashes, create_time, update_time, version)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9)",
    )
    .bind(&credential.name)
    .bind(trunk)
    .bind(&credential.username)
    .bind(encode(credential))
    .bind(password)
    .bind(secrets.realm)
    .bind(hashes)
    .bind(now_ms)
    .bind(version)
    .execute(tx.conn())
    .await?;
    Ok(filled(credential.clone(), now_ms, now_ms, version))
}

/// Replaces the credential called `credential.name`, which must exist, with its secrets.
///
/// # Errors
/// When the store cannot be written.
pub async fn update(
    tx: &mut WriteTx,
    credential: &v1::DigestCredential,
    secrets: Secrets<'_>,
) -> Result<Stored<v1::DigestCredential>, StoreError> {
    let version = tx
        .record(ResourceKind::Credential, &credential.name, Operation::Upsert)
        .await?;
    let now_ms = tx.now_ms();
    let (password, hashes) = seal(&tx.cipher(), &credential.name, secrets)?;
    let create_time: i64 = sqlx::query_scalar(
        "UPDATE digest_credentials
         SET username = ?2, message = ?3, password = ?4, realm = ?5, hashes = ?6, update_time = ?7, version = ?8
         WHERE name = ?1 RETURNING create_time",
    )
    .bind(&credential.name)
    .bind(&credential.username)
    .bind(encode(credential))
    .bind(password)
    .bind(secrets.realm)
    .bind(hashes)
    .bind(now_ms)
    .bind(version)
    .fetch_one(tx.conn())
    .await?;
    Ok(filled(credential.clone(), create_time, now_ms, version))
}

/// Removes the credential.
///
/// # Errors
/// When the store cannot be written.
pub async fn delete(tx: &mut WriteTx, name: &str) -> Result<(), StoreError> {
    tx.record(ResourceKind::Credential, name, Operation::Remove).await?;
    sqlx::query("DELETE FROM digest_credentials WHERE name = ?1")
        .bind(name)
        .execute(tx.conn())
        .await?;
    Ok(())
}

type Row = (String, Vec<u8>, i64, i64, i64);
type WorkerRow = (String, Vec<u8>, i64, i64, i64, String, Vec<u8>);

fn decode((name, message, create_time, update_time, version): Row) -> Result<Stored<v1::DigestCredential>, StoreError> {
    match v1::DigestCredential::decode(message.as_slice()) {
        Ok(credential) => Ok(filled(
            v1::DigestCredential { name, ..credential },
            create_time,
            update_time,
            version,
        )),
        Err(source) => Err(StoreError::Decode {
            kind: "digest credential",
            name,
            source,
        }),
    }
}

fn decode_for_workers(
    cipher: &Cipher,
    (name, message, create_time, update_time, version, realm, hashes): WorkerRow,
) -> Result<WorkerCredential, StoreError> {
    let octets = cipher.open(&hashes_context(&name), &hashes)?;
    let credential = decode((name, message, create_time, update_time, version))?;
    let (md5, rest) = octets.split_first_chunk::<16>().ok_or(super::SecretError::Open)?;
    let (sha256, rest) = rest.split_first_chunk::<32>().ok_or(super::SecretError::Open)?;
    let sha512_256 = rest.first_chunk::<32>().ok_or(super::SecretError::Open)?;
    let ha1 = Ha1 {
        md5: *md5,
        sha256: *sha256,
        sha512_256: *sha512_256,
    };
    Ok(WorkerCredential { credential, realm, ha1 })
}

fn filled(
    credential: v1::DigestCredential,
    create_time: i64,
    update_time: i64,
    version: i64,
) -> Stored<v1::DigestCredential> {
    let message = v1::DigestCredential {
        password: String::new(),
        // The column takes no NULL: a credential without a password does not exist.
        has_password: true,
        etag: etag(version),
        create_time: Some(timestamp(create_time)),
        update_time: Some(timestamp(update_time)),
        ..credential
    };
    Stored { message, version }
}

fn encode(credential: &v1::DigestCredential) -> Vec<u8> {
    let credential = v1::DigestCredential {
        name: String::new(),
        password: String::new(),
        has_password: false,
        etag: String::new(),
        create_time: None,
        update_time: None,
        ..credential.clone()
    };
    credential.encode_to_vec()
}

fn seal(cipher: &Cipher, name: &str, secrets: Secrets<'_>) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
    let password = cipher.seal(&password_context(name), secrets.password.as_bytes())?;
    let mut octets = Zeroizing::new(Vec::with_capacity(80));
    octets.extend_from_slice(&secrets.ha1.md5);
    octets.extend_from_slice(&secrets.ha1.sha256);
    octets.extend_from_slice(&secrets.ha1.sha512_256);
    let hashes = cipher.seal(&hashes_context(name), &octets)?;
    Ok((password, hashes))
}

fn password_context(name: &str) -> String {
    format!("digest_credentials/password/{name}")
}

fn hashes_context(name: &str) -> String {
    format!("digest_credentials/hashes/{name}")
}
