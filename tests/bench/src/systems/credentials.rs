//! Users for Kamailio: a table of `db_text`, read once at start.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use trunkline_sip::digest::{Algorithm, ha1};
use trunkline_tests::fixtures::{REALM, User};

/// Writes `users` as the table `credentials` of a `db_text` folder: user name and HA1 (MD5).
///
/// # Errors
/// Whatever the file system says.
pub fn write(folder: &Path, users: &[User]) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut table =
        String::from("id(int,auto) key_name(string) key_type(int) value_type(int) key_value(string) expires(int)\n");
    for (number, user) in users.iter().enumerate() {
        let hash = ha1(Algorithm::Md5, &user.name, REALM, &user.password);
        let _ = writeln!(table, "{}:{}:0:0:{}:0", number + 1, user.name, hash.expose_hex());
    }
    fs::write(folder.join("credentials"), table).context("write the peer's credentials")
}
