//! Tokens the control plane writes to files: the first admin token, and a join token for workers started beside it.

use std::{fs, io, path::Path, path::PathBuf};

use tracing::info;

use super::{Caller, PresentedToken, Role, TokenKind, files::write_private, mint, random_id};
use crate::store::{
    AuditRecord, Store, StoreError,
    join_token::{self, NewJoinToken},
    token::{self, NewToken},
};

/// Workers the join token of the file may enroll before it is replaced.
const JOIN_TOKEN_USES: u32 = 1000;
/// Its validity; it is replaced before it ends.
const JOIN_TOKEN_VALIDITY_MS: i64 = 30 * 24 * 3_600_000;
/// It is replaced when less than this is left.
const JOIN_TOKEN_MARGIN_MS: i64 = 24 * 3_600_000;

/// Why a token file was not written.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file could not be written.
    #[error("write the token file {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        #[source]
        /// What the file system said.
        source: io::Error,
    },
}

/// Writes an admin token to `path` (mode 0600) when the store has none: on first start, and when all have ended.
///
/// # Errors
/// When the store or the file cannot be written; then there is no new token.
pub async fn ensure_admin_token(store: &Store, path: &Path) -> Result<(), BootstrapError> {
    let mut tx = store.write().await?;
    let now_ms = tx.now_ms();
    if token::any_admin(tx.conn(), now_ms).await? {
        return Ok(());
    }
    let mut id = "admin".to_owned();
    if token::find(tx.conn(), &id).await?.is_some() {
        id = format!("admin-{}", random_id());
    }
    let minted = mint(TokenKind::Api, &id);
    let new = NewToken {
        id: &id,
        display_name: "First administrator",
        role: Role::Admin,
        hash: minted.hash,
        expire_time_ms: None,
    };
    token::insert(&mut tx, &new).await?;
    tx.audit(AuditRecord::ok(
        &Caller::system(),
        "CreateToken",
        &format!("tokens/{id}"),
        vec!["role".to_owned()],
    ));
    // The file first: a token that is stored but was never written could not be had again.
    write(path, &minted.text)?;
    tx.commit().await?;
    info!(path = %path.display(), "admin token written");
    Ok(())
}

/// Keeps a join token for many workers in `path` (mode 0600): the one that is there while it is good, else a new one.
///
/// # Errors
/// When the store or the file cannot be written.
pub async fn ensure_join_token_file(store: &Store, path: &Path) -> Result<(), BootstrapError> {
    let mut tx = store.write().await?;
    let now_ms = tx.now_ms();
    if let Ok(text) = fs::read_to_string(path)
        && let Some(presented) = PresentedToken::parse(TokenKind::Join, text.trim())
        && join_token::find(tx.conn(), presented.id, now_ms + JOIN_TOKEN_MARGIN_MS)
            .await?
            .is_some_and(|hash| presented.matches(&hash))
    {
        return Ok(());
    }
    let id = random_id();
    let minted = mint(TokenKind::Join, &id);
    let new = NewJoinToken {
        id: &id,
        hash: minted.hash,
        max_uses: JOIN_TOKEN_USES,
        expire_time_ms: now_ms + JOIN_TOKEN_VALIDITY_MS,
    };
    join_token::insert(&mut tx, &new).await?;
    tx.audit(AuditRecord::ok(
        &Caller::system(),
        "CreateJoinToken",
        &format!("joinTokens/{id}"),
        Vec::new(),
    ));
    write(path, &minted.text)?;
    tx.commit().await?;
    info!(path = %path.display(), "join token written");
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), BootstrapError> {
    write_private(path, format!("{text}\n").as_bytes()).map_err(|source| BootstrapError::File {
        path: path.to_owned(),
        source,
    })
}
