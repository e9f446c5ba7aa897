//! Pages of lists (AIP-158): opaque tokens, bound to the request they came from.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::FieldViolation;
use crate::store::Cipher;

const DEFAULT_SIZE: u32 = 50;
const MAX_SIZE: u32 = 1000;
/// Octets of the keyed hash that a token carries.
const TAG_LEN: usize = 16;

/// Which part of a list is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Entries wanted, 1-1000.
    pub size: u32,
    /// Key of the last entry the caller has; empty at the start.
    pub after: String,
}

impl Page {
    /// Reads page size and token of a request to `list`, whose other fields are `binding`. What is wrong goes to
    /// `violations`; the page is then the first one.
    pub fn read(
        cipher: &Cipher,
        list: &str,
        binding: &str,
        page_size: i32,
        page_token: &str,
        violations: &mut Vec<FieldViolation>,
    ) -> Self {
        let size = match u32::try_from(page_size) {
            Ok(0) => DEFAULT_SIZE,
            Ok(size) => size.min(MAX_SIZE),
            Err(_) => {
                violations.push(FieldViolation::new("page_size", "must not be negative"));
                DEFAULT_SIZE
            }
        };
        let after = if page_token.is_empty() {
            String::new()
        } else {
            open(cipher, list, binding, page_token).unwrap_or_else(|| {
                let text = "is not the token of a previous answer to the same request";
                violations.push(FieldViolation::new("page_token", text));
                String::new()
            })
        };
        Self { size, after }
    }

    /// Entries to fetch: one more than wanted tells whether there is another page.
    pub fn fetch(&self) -> u32 {
        self.size + 1
    }

    /// Cuts `entries` to the page and answers the token of the next one, empty at the end.
    pub fn cut<T>(
        &self,
        cipher: &Cipher,
        list: &str,
        binding: &str,
        entries: &mut Vec<T>,
        key: impl Fn(&T) -> String,
    ) -> String {
        let size = self.size as usize;
        if entries.len() <= size {
            return String::new();
        }
        entries.truncate(size);
        entries
            .last()
            .map(|last| seal(cipher, list, binding, &key(last)))
            .unwrap_or_default()
    }
}

fn seal(cipher: &Cipher, list: &str, binding: &str, key: &str) -> String {
    let tag = cipher.fingerprint(list, &bound(binding, key));
    let mut octets = tag[..TAG_LEN].to_vec();
    octets.extend_from_slice(key.as_bytes());
    URL_SAFE_NO_PAD.encode(octets)
}

fn open(cipher: &Cipher, list: &str, binding: &str, token: &str) -> Option<String> {
    let octets = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (tag, key) = octets.split_at_checked(TAG_LEN)?;
    let key = std::str::from_utf8(key).ok()?;
    let expected = cipher.fingerprint(list, &bound(binding, key));
    (expected[..TAG_LEN] == *tag).then(|| key.to_owned())
}

fn bound(binding: &str, key: &str) -> Vec<u8> {
    let mut octets = u64::try_from(binding.len()).unwrap_or(u64::MAX).to_be_bytes().to_vec();
    octets.extend_from_slice(binding.as_bytes());
    octets.extend_from_slice(key.as_bytes());
    octets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::KeyFile;

    fn cipher() -> Cipher {
        Cipher::new(&KeyFile::from_key([1; 32]))
    }

    fn read(page_size: i32, token: &str, list: &str, binding: &str) -> (Page, Vec<FieldViolation>) {
        let mut violations = Vec::new();
        let page = Page::read(&cipher(), list, binding, page_size, token, &mut violations);
        (page, violations)
    }

    #[test]
    fn sizes_follow_the_rules() {
        for (asked, size) in [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (i32::MAX, 1000)] {
            assert_eq!(read(asked, "", "L", "").0.size, size, "{asked}");
        }
        assert_eq!(read(-1, "", "L", "").1[0].field, "page_size");
    }

    #[test]
    fn a_token_continues_its_own_list_and_no_other() {
        let (page, _) = read(2, "", "ListLines", "trunks/a");
        let mut names: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let token = page.cut(&cipher(), "ListLines", "trunks/a", &mut names, Clone::clone);
        assert_eq!(names, ["a", "b"]);
        assert_eq!(read(2, &token, "ListLines", "trunks/a").0.after, "b");
        for (list, binding) in [("ListLines", "trunks/b"), ("ListRoutes", "trunks/a")] {
            assert_eq!(read(2, &token, list, binding).1[0].field, "page_token");
        }
        for token in ["x", "%%%", &token[1..]] {
            assert_eq!(read(2, token, "ListLines", "trunks/a").1[0].field, "page_token");
        }
    }

    #[test]
    fn the_last_page_has_no_token() {
        let (page, _) = read(3, "", "L", "");
        let mut names: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(page.cut(&cipher(), "L", "", &mut names, Clone::clone), "");
        assert_eq!(names.len(), 3);
    }
}
