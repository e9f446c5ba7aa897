//! Secrets at rest: AES-256-GCM under a key file.
//!
//! A sealed record is `version (1) | key id (4) | nonce (12) | ciphertext and tag`. Its context (table and row) is
//! authenticated too, so that a record copied to another row does not open there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, hmac,
    rand::{SecureRandom, SystemRandom},
};
use zeroize::{Zeroize, Zeroizing};

/// Layout version of a sealed record.
const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 4;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;
/// A key file is a few lines; anything longer is some other file.
const KEY_FILE_LIMIT: u64 = 64 * 1024;

/// Why a secret could not be sealed or opened. Names no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The key file could not be read or created.
    #[error("use the key file {path}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others than the owner may read or write the key file.
    #[error("the key file {path} is open to others (mode {mode:03o}); make it 600")]
    KeyFileMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A line is not 64 hexadecimal digits, or there is none.
    #[error("the key file {path} must hold one key of 64 hexadecimal digits per line")]
    KeyFileFormat {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no random octets.
    #[error("the system's random source failed")]
    Random,
    /// The record was changed, belongs to another row, or was sealed with a key the file does not hold.
    #[error("a stored secret does not open with the key file")]
    Open,
}

/// The keys of the store: the first seals, all of them open.
pub struct KeyFile {
    keys: Vec<Zeroizing<[u8; 32]>>,
}

impl std::fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyFile").field("keys", &self.keys.len()).finish()
    }
}

impl KeyFile {
    /// Reads the key file, or creates one with a random key and mode 600 when it does not exist.
    ///
    /// # Errors
    /// When it cannot be read or created, others may read it, or it is not a key file.
    pub fn open_or_create(path: &Path) -> Result<Self, SecretError> {
        match File::open(path) {
            Ok(file) => Self::read(path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(source) => Err(SecretError::KeyFile {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// One key given as octets, for stores that do not outlive the process.
    pub fn from_key(key: [u8; 32]) -> Self {
        Self {
            keys: vec![Zeroizing::new(key)],
        }
    }

    fn read(path: &Path, file: File) -> Result<Self, SecretError> {
        let failed = |source| SecretError::KeyFile {
            path: path.to_owned(),
            source,
        };
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretError::KeyFileMode {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(KEY_FILE_LIMIT).read_to_string(&mut text).map_err(failed)?;
        let format = || SecretError::KeyFileFormat { path: path.to_owned() };
        let keys = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| parse_key(line).ok_or_else(format))
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(format());
        }
        Ok(Self { keys })
    }

    fn create(path: &Path) -> Result<Self, SecretError> {
        let failed = |source| SecretError::KeyFile {
            path: path.to_owned(),
            source,
        };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let mut key = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(&mut *key).map_err(|_| SecretError::Random)?;
        let mut text = Zeroizing::new(String::with_capacity(65));
        for octet in key.iter() {
            text.push_str(&format!("{octet:02x}"));
        }
        text.push('\n');
        // Created under its own name only when nobody else did: two first starts must not overwrite each other's key.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        Ok(Self { keys: vec![key] })
    }
}

/// Seals and opens secrets, and makes keyed hashes.
pub struct Cipher {
    /// The first seals.
    keys: Vec<([u8; KEY_ID_LEN], LessSafeKey)>,
    mac: hmac::Key,
    random: SystemRandom,
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cipher").finish_non_exhaustive()
    }
}

impl Cipher {
    /// A cipher over the keys of the file.
    pub fn new(file: &KeyFile) -> Self {
        let keys = file.keys.iter().map(|key| (key_id(key), aead_key(key))).collect();
        // The key of the hashes is derived, so that the same octets never serve two algorithms.
        let master = hmac::Key::new(hmac::HMAC_SHA256, &*file.keys[0]);
        let derived = hmac::sign(&master, b"trunkline keyed hash 1");
        Self {
            keys,
            mac: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()),
            random: SystemRandom::new(),
        }
    }

    /// Seals `secret` for the row that `context` names, e.g. `lines/auth_password/trunks/a/lines/b`.
    ///
    /// # Errors
    /// [`SecretError::Random`].
    pub fn seal(&self, context: &str, secret: &[u8]) -> Result<Vec<u8>, SecretError> {
        let (id, key) = &self.keys[0];
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| SecretError::Random)?;
        let mut record = Vec::with_capacity(HEADER_LEN + secret.len() + AES_256_GCM.tag_len());
        record.push(VERSION);
        record.extend_from_slice(id);
        record.extend_from_slice(&nonce);
        let mut sealed = secret.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::from(context.as_bytes()), &mut sealed)
            .map_err(|_| SecretError::Random)?;
        record.append(&mut sealed);
        Ok(record)
    }

    /// Opens a record sealed for `context`.
    ///
    /// # Errors
    /// [`SecretError::Open`].
    pub fn open(&self, context: &str, record: &[u8]) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let (header, sealed) = record.split_at_checked(HEADER_LEN).ok_or(SecretError::Open)?;
        let (version, rest) = header.split_first().ok_or(SecretError::Open)?;
        let (id, nonce) = rest.split_at(KEY_ID_LEN);
        if *version != VERSION {
            return Err(SecretError::Open);
        }
        let (_, key) = self
            .keys
            .iter()
            .find(|(known, _)| known == id)
            .ok_or(SecretError::Open)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SecretError::Open)?;
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let length = key
            .open_in_place(nonce, Aad::from(context.as_bytes()), &mut buffer)
            .map_err(|_| SecretError::Open)?
            .len();
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Opens a record that holds text.
    ///
    /// # Errors
    /// [`SecretError::Open`], also when it is not UTF-8.
    pub fn open_text(&self, context: &str, record: &[u8]) -> Result<Zeroizing<String>, SecretError> {
        let octets = self.open(context, record)?;
        let text = std::str::from_utf8(&octets).map_err(|_| SecretError::Open)?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// Keyed hash of `message`: tells equal from different without saying anything of the message.
    pub fn fingerprint(&self, context: &str, message: &[u8]) -> [u8; 32] {
        let mut input = Zeroizing::new(Vec::with_capacity(context.len() + 1 + message.len()));
        input.extend_from_slice(context.as_bytes());
        input.push(0);
        input.extend_from_slice(message);
        let tag = hmac::sign(&self.mac, &input);
        let mut out = [0; 32];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Whether `tag` is the fingerprint of `message`; takes the same time wherever they differ.
    pub fn verify(&self, context: &str, message: &[u8], tag: &[u8]) -> bool {
        let expected = self.fingerprint(context, message);
        subtle::ConstantTimeEq::ct_eq(expected.as_slice(), tag).into()
    }
}

fn aead_key(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes every key of 32 octets"))
}

/// Names a key without saying anything useful of it.
fn key_id(key: &[u8; 32]) -> [u8; KEY_ID_LEN] {
    let mut input = b"trunkline key id".to_vec();
    input.extend_from_slice(key);
    let hash = digest::digest(&digest::SHA256, &input);
    input.zeroize();
    let mut id = [0; KEY_ID_LEN];
    id.copy_from_slice(&hash.as_ref()[..KEY_ID_LEN]);
    id
}

fn parse_key(line: &str) -> Option<Zeroizing<[u8; 32]>> {
    let digits = line.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut key = Zeroizing::new([0; 32]);
    for (octet, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *octet = u8::try_from(high * 16 + low).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher(fill: u8) -> Cipher {
        Cipher::new(&KeyFile::from_key([fill; 32]))
    }

    #[test]
    fn a_sealed_secret_opens_only_for_its_own_row_and_key() {
        let record = cipher(1).seal("lines/a", b"s3cret").unwrap();
        assert!(!record.windows(6).any(|window| window == b"s3cret"));
        assert_eq!(cipher(1).open("lines/a", &record).unwrap().as_slice(), b"s3cret");
        assert!(cipher(1).open("lines/b", &record).is_err());
        assert!(cipher(2).open("lines/a", &record).is_err());
    }

    #[test]
    fn every_changed_octet_is_noticed() {
        let record = cipher(1).seal("row", b"s3cret").unwrap();
        for index in 0..record.len() {
            let mut changed = record.clone();
            changed[index] ^= 1;
            assert!(cipher(1).open("row", &changed).is_err(), "octet {index}");
        }
        for length in 0..record.len() {
            assert!(cipher(1).open("row", &record[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn the_same_secret_never_seals_to_the_same_record() {
        let cipher = cipher(1);
        assert_ne!(cipher.seal("row", b"x").unwrap(), cipher.seal("row", b"x").unwrap());
    }

    #[test]
    fn a_key_file_is_created_for_its_owner_alone_and_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/secret.key");
        let record = Cipher::new(&KeyFile::open_or_create(&path).unwrap())
            .seal("row", b"x")
            .unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Cipher::new(&KeyFile::open_or_create(&path).unwrap());
        assert_eq!(again.open("row", &record).unwrap().as_slice(), b"x");
    }

    #[test]
    fn a_key_file_open_to_others_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret.key");
        KeyFile::open_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            KeyFile::open_or_create(&path),
            Err(SecretError::KeyFileMode { mode: 0o640, .. })
        ));
    }

    #[test]
    fn a_key_put_in_front_seals_while_the_old_one_still_opens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret.key");
        let record = Cipher::new(&KeyFile::open_or_create(&path).unwrap())
            .seal("row", b"x")
            .unwrap();
        let old = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("# rotated\n{}\n{old}", "ab".repeat(32))).unwrap();
        let rotated = Cipher::new(&KeyFile::open_or_create(&path).unwrap());
        assert_eq!(rotated.open("row", &record).unwrap().as_slice(), b"x");
        let newer = rotated.seal("row", b"y").unwrap();
        assert!(Cipher::new(&KeyFile::from_key([0xab; 32])).open("row", &newer).is_ok());
    }

    #[test]
    fn a_file_that_holds_no_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret.key");
        for text in ["", "# only a comment\n", "abcd\n", &"zz".repeat(32)] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(
                matches!(KeyFile::open_or_create(&path), Err(SecretError::KeyFileFormat { .. })),
                "{text:?}"
            );
        }
    }
}
