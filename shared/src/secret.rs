//! Text that must not be seen.

use std::fmt;

use zeroize::Zeroizing;

/// A password or key: wiped when dropped, never shown by `Debug`. There is no `Display`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of the text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself; the name says what the caller does.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<unset>" } else { "<set>" })
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn debug_tells_only_whether_it_is_set() {
        assert_eq!(
            format!("{:?} {:?}", Secret::new("hunter2".into()), Secret::default()),
            "<set> <unset>"
        );
    }
}
