//! Routes, and what they refer to.

use prost::Message;
use sqlx::SqliteConnection;
use trunkline_proto::v1;

use super::{Operation, ResourceKind, StoreError, Stored, WriteTx, etag, names_below, timestamp};

/// The route called `name`.
///
/// # Errors
/// When the store cannot be read or a row does not decode; the same holds for every reading function here.
pub async fn find(conn: &mut SqliteConnection, name: &str) -> Result<Option<Stored<v1::Route>>, StoreError> {
    let row: Option<Row> =
        sqlx::query_as("SELECT name, message, create_time, update_time, version FROM routes WHERE name = ?1")
            .bind(name)
            .fetch_optional(conn)
            .await?;
    row.map(decode).transpose()
}

/// Up to `limit` routes whose names come after `after`, in the order of their names.
///
/// # Errors
/// As [`find`].
pub async fn list(conn: &mut SqliteConnection, after: &str, limit: u32) -> Result<Vec<Stored<v1::Route>>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT name, message, create_time, update_time, version FROM routes WHERE name > ?1 ORDER BY name LIMIT ?2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(decode).collect()
}

/// Every route, in the order of their names.
///
/// # Errors
/// As [`find`].
pub async fn all(conn: &mut SqliteConnection) -> Result<Vec<Stored<v1::Route>>, StoreError> {
    list(conn, "", u32::MAX).await
}

/// Names of the trunks and lines `route` refers to, each once.
pub fn references(route: &v1::Route) -> Vec<&str> {
    use v1::route_target::Target;
    let inbound = route.r#match.iter().map(|matching| matching.inbound_trunk.as_str());
    let targets = route.targets.iter().filter_map(|target| match &target.target {
        Some(Target::Phones(name) | Target::Line(name) | Target::Lines(name)) => Some(name.as_str()),
        None => None,
    });
    let mut names: Vec<&str> = inbound.chain(targets).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Routes that refer to `target` or to something below it, in the order of their names; at most `limit`.
///
/// # Errors
/// As [`find`].
pub async fn referrers(conn: &mut SqliteConnection, target: &str, limit: u32) -> Result<Vec<String>, StoreError> {
    let (from, until) = names_below(target);
    let routes = sqlx::query_scalar(
        "SELECT DISTINCT route FROM route_references
         WHERE target = ?1 OR (target >= ?2 AND target < ?3) ORDER BY route LIMIT ?4",
    )
    .bind(target)
    .bind(from)
    .bind(until)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(routes)
}

/// Stores a new route under `route.name`, which must be free.
///
/// # Errors
/// When the store cannot be written.
pub async fn insert(tx: &mut WriteTx, route: &v1::Route) -> Result<Stored<v1::Route>, StoreError> {
    let version = tx.record(ResourceKind::Route, &route.name, Operation::Upsert).await?;
    let now_ms = tx.now_ms();
    sqlx::query("INSERT INTO routes (name, message, create_time, update_time, version) VALUES (?1, ?2, ?3, ?3, ?4)")
        .bind(&route.name)
        .bind(encode(route))
        .bind(now_ms)
        .bind(version)
        .execute(tx.conn())
        .await?;
    refer(tx.conn(), route).await?;
    Ok(filled(route.clone(), now_ms, now_ms, version))
}

/// Replaces the route called `route.name`, which must exist.
///
/// # Errors
/// When the store cannot be written.
pub async fn update(tx: &mut WriteTx, route: &v1::Route) -> Result<Stored<v1::Route>, StoreError> {
    let version = tx.record(ResourceKind::Route, &route.name, Operation::Upsert).await?;
    let now_ms = tx.now_ms();
    let create_time: i64 = sqlx::query_scalar(
        "UPDATE routes SET message = ?2, update_time = ?3, version = ?4 WHERE name = ?1 RETURNING create_time",
    )
    .bind(&route.name)
    .bind(encode(route))
    .bind(now_ms)
    .bind(version)
    .fetch_one(tx.conn())
    .await?;
    sqlx::query("DELETE FROM route_references WHERE route = ?1")
        .bind(&route.name)
        .execute(tx.conn())
        .await?;
    refer(tx.conn(), route).await?;
    Ok(filled(route.clone(), create_time, now_ms, version))
}

/// Removes the route.
///
/// # Errors
/// When the store cannot be written.
pub async fn delete(tx: &mut WriteTx, name: &str) -> Result<(), StoreError> {
    tx.record(ResourceKind::Route, name, Operation::Remove).await?;
    sqlx::query("DELETE FROM routes WHERE name = ?1")
        .bind(name)
        .execute(tx.conn())
        .await?;
    Ok(())
}

type Row = (String, Vec<u8>, i64, i64, i64);

fn decode((name, message, create_time, update_time, version): Row) -> Result<Stored<v1::Route>, StoreError> {
    match v1::Route::decode(message.as_slice()) {
        Ok(route) => Ok(filled(v1::Route { name, ..route }, create_time, update_time, version)),
        Err(source) => Err(StoreError::Decode {
            kind: "route",
            name,
            source,
        }),
    }
}

fn filled(route: v1::Route, create_time: i64, update_time: i64, version: i64) -> Stored<v1::Route> {
    let message = v1::Route {
        etag: etag(version),
        create_time: Some(timestamp(create_time)),
        update_time: Some(timestamp(update_time)),
        ..route
    };
    Stored { message, version }
}

fn encode(route: &v1::Route) -> Vec<u8> {
    let route = v1::Route {
        name: String::new(),
        etag: String::new(),
        create_time: None,
        update_time: None,
        ..route.clone()
    };
    route.encode_to_vec()
}

async fn refer(conn: &mut SqliteConnection, route: &v1::Route) -> Result<(), StoreError> {
    for target in references(route) {
        sqlx::query("INSERT INTO route_references (route, target) VALUES (?1, ?2)")
            .bind(&route.name)
            .bind(target)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
