//! Trunks.

use prost::Message;
use sqlx::SqliteConnection;
use trunkline_proto::v1;
use zeroize::Zeroizing;

use super::{Cipher, Operation, ResourceKind, StoreError, Stored, WriteTx, etag, timestamp};

/// Layer-4 protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer4 {
    /// UDP.
    Udp,
    /// TCP, also below TLS and HTTP.
    Tcp,
}

impl Layer4 {
    /// Lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// A port that a trunk's settings take on every worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Port {
    /// Protocol.
    pub layer4: Layer4,
    /// 1-65535.
    pub number: u32,
    /// Path of the setting.
    pub field: &'static str,
}

/// What to do with a secret when its row is written.
#[derive(Debug)]
pub enum SecretWrite<'a> {
    /// Leave what is stored.
    Keep,
    /// Store this instead.
    Set(&'a str),
    /// Remove what is stored.
    Clear,
}

/// The ports `trunk` takes, from its effective values.
pub fn ports(trunk: &v1::Trunk) -> Vec<Port> {
    let mut ports = Vec::with_capacity(4);
    let layer4 = match trunk.protocol() {
        v1::TransportProtocol::Tcp | v1::TransportProtocol::Tls => Layer4::Tcp,
        v1::TransportProtocol::Udp | v1::TransportProtocol::Unspecified => Layer4::Udp,
    };
    if let Some(number) = trunk.listen_port {
        ports.push(Port {
            layer4,
            number,
            field: "listen_port",
        });
    }
    if let Some(provision) = &trunk.provision {
        for (number, field) in [
            (provision.http_port, "provision.http_port"),
            (provision.https_port, "provision.https_port"),
        ] {
            if let Some(number) = number.filter(|number| *number != 0) {
                ports.push(Port {
                    layer4: Layer4::Tcp,
                    number,
                    field,
                });
            }
        }
    }
    if let Some(syslog) = trunk.syslog.filter(v1::SyslogSettings::enabled)
        && let Some(number) = syslog.port
    {
        ports.push(Port {
            layer4: Layer4::Udp,
            number,
            field: "syslog.port",
        });
    }
    ports
}

/// The trunk called `name`.
///
/// # Errors
/// When the store cannot be read or a row does not decode; the same holds for every reading function here.
pub async fn find(conn: &mut SqliteConnection, name: &str) -> Result<Option<Stored<v1::Trunk>>, StoreError> {
    let row: Option<Row> =
        sqlx::query_as("SELECT name, message, create_time, update_time, version FROM trunks WHERE name = ?1")
            .bind(name)
            .fetch_optional(conn)
            .await?;
    row.map(decode).transpose()
}

/// Up to `limit` trunks whose names come after `after`, in the order of their names.
///
/// # Errors
/// As [`find`].
pub async fn list(conn: &mut SqliteConnection, after: &str, limit: u32) -> Result<Vec<Stored<v1::Trunk>>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT name, message, create_time, update_time, version FROM trunks WHERE name > ?1 ORDER BY name LIMIT ?2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(decode).collect()
}

/// Every trunk, in the order of their names.
///
/// # Errors
/// As [`find`].
pub async fn all(conn: &mut SqliteConnection) -> Result<Vec<Stored<v1::Trunk>>, StoreError> {
    list(conn, "", u32::MAX).await
}

/// Private key (PEM) of the trunk's imported certificate, when it has one.
///
/// # Errors
/// As [`find`], and [`StoreError::Secret`].
pub async fn tls_private_key(
    conn: &mut SqliteConnection,
    cipher: &Cipher,
    name: &str,
) -> Result<Option<Zeroizing<String>>, StoreError> {
    let sealed: Option<Option<Vec<u8>>> = sqlx::query_scalar("SELECT tls_private_key FROM trunks WHERE name = ?1")
        .bind(name)
        .fetch_optional(conn)
        .await?;
    match sealed.flatten() {
        Some(sealed) => Ok(Some(cipher.open_text(&key_context(name), &sealed)?)),
        None => Ok(None),
    }
}

/// Another trunk than `except` whose display name is the same without regard to case.
///
/// # Errors
/// As [`find`].
pub async fn display_name_holder(
    conn: &mut SqliteConnection,
    display_name: &str,
    except: &str,
) -> Result<Option<String>, StoreError> {
    let holder = sqlx::query_scalar("SELECT name FROM trunks WHERE display_key = ?1 AND name <> ?2")
        .bind(display_key(display_name))
        .bind(except)
        .fetch_optional(conn)
        .await?;
    Ok(holder)
}

/// Another trunk than `except` that takes the port, and its setting that does.
///
/// # Errors
/// As [`find`].
pub async fn port_holder(
    conn: &mut SqliteConnection,
    port: Port,
    except: &str,
) -> Result<Option<(String, String)>, StoreError> {
    let holder = sqlx::query_as("SELECT trunk, field FROM trunk_ports WHERE layer4 = ?1 AND port = ?2 AND trunk <> ?3")
        .bind(port.layer4.as_str())
        .bind(port.number)
        .bind(except)
        .fetch_optional(conn)
        .await?;
    Ok(holder)
}

/// Stores a new trunk under `trunk.name`. Name, display name and ports must be free.
///
/// # Errors
/// When the store cannot be written.
pub async fn insert(
    tx: &mut WriteTx,
    trunk: &v1::Trunk,
    tls_private_key: Option<&str>,
) -> Result<Stored<v1::Trunk>, StoreError> {
    let version = tx.record(ResourceKind::Trunk, &trunk.name, Operation::Upsert).await?;
    let now_ms = tx.now_ms();
    let sealed = tls_private_key
        .map(|key| tx.cipher().seal(&key_context(&trunk.name), key.as_bytes()))
        .transpose()?;
    sqlx::query(
        "INSERT INTO trunks (name, display_key, message, tls_private_key, create_time, update_time, version)
         VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6)",
    )
    .bind(&trunk.name)
    .bind(display_key(&trunk.display_name))
    .bind(encode(trunk))
    .bind(sealed)
    .bind(now_ms)
    .bind(version)
    .execute(tx.conn())
    .await?;
    take_ports(tx.conn(), trunk).await?;
    Ok(filled(trunk.clone(), now_ms, now_ms, version))
}

/// Replaces the trunk called `trunk.name`, which must exist.
///
/// # Errors
/// When the store cannot be written.
pub async fn update(
    tx: &mut WriteTx,
    trunk: &v1::Trunk,
    tls_private_key: SecretWrite<'_>,
) -> Result<Stored<v1::Trunk>, StoreError> {
    let version = tx.record(ResourceKind::Trunk, &trunk.name, Operation::Upsert).await?;
    let now_ms = tx.now_ms();
    let create_time: i64 = sqlx::query_scalar(
        "UPDATE trunks SET display_key = ?2, message = ?3, update_time = ?4, version = ?5 WHERE name = ?1
         RETURNING create_time",
    )
    .bind(&trunk.name)
    .bind(display_key(&trunk.display_name))
    .bind(encode(trunk))
    .bind(now_ms)
    .bind(version)
    .fetch_one(tx.conn())
    .await?;
    let sealed = match tls_private_key {
        SecretWrite::Keep => None,
        SecretWrite::Set(key) => Some(Some(tx.cipher().seal(&key_context(&trunk.name), key.as_bytes())?)),
        SecretWrite::Clear => Some(None),
    };
    if let Some(sealed) = sealed {
        sqlx::query("UPDATE trunks SET tls_private_key = ?2 WHERE name = ?1")
            .bind(&trunk.name)
            .bind(sealed)
            .execute(tx.conn())
            .await?;
    }
    sqlx::query("DELETE FROM trunk_ports WHERE trunk = ?1")
        .bind(&trunk.name)
        .execute(tx.conn())
        .await?;
    take_ports(tx.conn(), trunk).await?;
    Ok(filled(trunk.clone(), create_time, now_ms, version))
}

/// Removes the trunk; its lines and credentials must be gone.
///
/// # Errors
/// When the store cannot be written.
pub async fn delete(tx: &mut WriteTx, name: &str) -> Result<(), StoreError> {
    tx.record(ResourceKind::Trunk, name, Operation::Remove).await?;
    sqlx::query("DELETE FROM trunks WHERE name = ?1")
        .bind(name)
        .execute(tx.conn())
        .await?;
    Ok(())
}

type Row = (String, Vec<u8>, i64, i64, i64);

fn decode((name, message, create_time, update_time, version): Row) -> Result<Stored<v1::Trunk>, StoreError> {
    match v1::Trunk::decode(message.as_slice()) {
        Ok(trunk) => Ok(filled(v1::Trunk { name, ..trunk }, create_time, update_time, version)),
        Err(source) => Err(StoreError::Decode {
            kind: "trunk",
            name,
            source,
        }),
    }
}

fn filled(trunk: v1::Trunk, create_time: i64, update_time: i64, version: i64) -> Stored<v1::Trunk> {
    let message = v1::Trunk {
        etag: etag(version),
        create_time: Some(timestamp(create_time)),
        update_time: Some(timestamp(update_time)),
        ..without_secrets(trunk)
    };
    Stored { message, version }
}

fn encode(trunk: &v1::Trunk) -> Vec<u8> {
    let trunk = v1::Trunk {
        name: String::new(),
        etag: String::new(),
        create_time: None,
        update_time: None,
        ..without_secrets(trunk.clone())
    };
    trunk.encode_to_vec()
}

/// Drops what is not part of the stored message: the key has a column of its own, the rest is worked out when read.
fn without_secrets(mut trunk: v1::Trunk) -> v1::Trunk {
    if let Some(tls) = &mut trunk.tls {
        tls.private_key_pem.clear();
    }
    trunk.warnings.clear();
    trunk.status = None;
    trunk
}

fn key_context(name: &str) -> String {
    format!("trunks/tls_private_key/{name}")
}

fn display_key(display_name: &str) -> String {
    display_name.trim().to_lowercase()
}

async fn take_ports(conn: &mut SqliteConnection, trunk: &v1::Trunk) -> Result<(), StoreError> {
    for Port { layer4, number, field } in ports(trunk) {
        sqlx::query("INSERT INTO trunk_ports (layer4, port, trunk, field) VALUES (?1, ?2, ?3, ?4)")
            .bind(layer4.as_str())
            .bind(number)
            .bind(&trunk.name)
            .bind(field)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
