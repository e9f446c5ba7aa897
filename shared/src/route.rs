//! Routes: which targets a request goes to.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use crate::host::Host;
use crate::language::Language;
use crate::name::{LineName, RouteId, TrunkId};

/// Most targets of one route.
pub const MAX_TARGETS: usize = 32;
/// Longest regular expression, in characters.
pub const MAX_REGEX: usize = 512;
/// Most memory one compiled expression may take, in octets: many times what a dial plan needs.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// A route. Routes are tried by priority, then by id; the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its id.
    pub id: RouteId,
    /// For people; 0-128 characters.
    pub display_name: Arc<str>,
    /// Lower first.
    pub priority: u16,
    /// False: as if it were not there.
    pub enabled: bool,
    /// What it applies to.
    pub matcher: RouteMatch,
    /// Where the request goes, in order; 1-32.
    pub targets: Vec<Target>,
    /// Overrides the trunk's language.
    pub language: Option<Language>,
}

/// All conditions that are set must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteMatch {
    /// Trunk the request came in by. `None`: any.
    pub inbound_trunk: Option<TrunkId>,
    /// On the user part of the Request-URI.
    pub user: UserMatch,
    /// Host of the Request-URI. `None`: any.
    pub host: Option<Host>,
}

impl RouteMatch {
    /// Whether a request that came in by `inbound` for `user` at `host` (of the Request-URI, unescaped) matches.
    pub fn matches(&self, inbound: &TrunkId, user: &str, host: &str) -> bool {
        self.inbound_trunk.as_ref().is_none_or(|trunk| trunk == inbound)
            && self.host.as_ref().is_none_or(|wanted| wanted.matches(host))
            && self.user.matches(user)
    }
}

/// Condition on the user part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum UserMatch {
    /// Any user.
    #[default]
    Any,
    /// This user.
    Exact(Arc<str>),
    /// Users that start so.
    Prefix(Arc<str>),
    /// Users the expression matches from the first to the last character.
    Regex(UserRegex),
}

impl UserMatch {
    /// Whether `user` matches.
    pub fn matches(&self, user: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *user,
            Self::Prefix(prefix) => user.starts_with(&**prefix),
            Self::Regex(regex) => regex.matches(user),
        }
    }
}

/// Why an expression cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegexError {
    /// More than 512 characters.
    #[error("the expression is longer than 512 characters")]
    TooLong,
    /// Not an expression, or one that takes too much memory.
    #[error("{0}")]
    Syntax(String),
}

/// A compiled expression that has to match the whole user part. Matching takes time linear in the user part.
#[derive(Debug, Clone)]
pub struct UserRegex {
    pattern: Arc<str>,
    compiled: Regex,
}

impl UserRegex {
    /// Compiles an expression.
    pub fn new(pattern: &str) -> Result<Self, RegexError> {
        if pattern.chars().count() > MAX_REGEX {
            return Err(RegexError::TooLong);
        }
        let build = |text: &str| {
            RegexBuilder::new(text)
                .size_limit(REGEX_SIZE_LIMIT)
                .build()
                .map_err(|e| RegexError::Syntax(e.to_string()))
        };
        // Alone first: wrapped in a group, an expression such as `a)|(b` would become a valid one of another meaning.
        build(pattern)?;
        let compiled = build(&format!(r"\A(?:{pattern})\z"))?;
        Ok(Self {
            pattern: pattern.into(),
            compiled,
        })
    }

    /// The expression as given.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// Whether it matches all of `user`.
    pub fn matches(&self, user: &str) -> bool {
        self.compiled.is_match(user)
    }
}

impl PartialEq for UserRegex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for UserRegex {}

/// One target of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where.
    pub kind: TargetKind,
    /// Characters removed from the start of the user part, 0-64.
    pub strip: usize,
    /// Put before what is left, 0-64 characters.
    pub prefix: Arc<str>,
}

/// Kinds of targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetKind {
    /// The phones registered on a trunk under the user of the Request-URI.
    Phones(TrunkId),
    /// A line.
    Line(LineName),
    /// The lines of a trunk by priority and weight.
    Lines(TrunkId),
}

impl TargetKind {
    /// The outbound trunk.
    pub fn trunk(&self) -> &TrunkId {
        match self {
            Self::Phones(trunk) | Self::Lines(trunk) => trunk,
            Self::Line(line) => line.trunk(),
        }
    }
}

impl Target {
    /// The registered phones of a trunk with the number unchanged: what a request no route matches goes to.
    pub fn phones_of(trunk: TrunkId) -> Self {
        Self {
            kind: TargetKind::Phones(trunk),
            strip: 0,
            prefix: "".into(),
        }
    }

    /// The user part as this target gets it. Stripping more characters than there are leaves the prefix alone.
    pub fn rewrite(&self, user: &str) -> String {
        let kept = user.char_indices().nth(self.strip).map_or("", |(at, _)| &user[at..]);
        format!("{}{kept}", self.prefix)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn trunk(id: &str) -> TrunkId {
        TrunkId::new(id).unwrap()
    }

    pub(crate) fn route(id: &str, priority: u16, matcher: RouteMatch, targets: Vec<Target>) -> Route {
        Route {
            id: RouteId::new(id).unwrap(),
            display_name: "".into(),
            priority,
            enabled: true,
            matcher,
            targets,
            language: None,
        }
    }

    #[test]
    fn every_condition_must_hold() {
        let matcher = RouteMatch {
            inbound_trunk: Some(trunk("a")),
            user: UserMatch::Prefix("+49".into()),
            host: Some("example.com".parse().unwrap()),
        };
        assert!(matcher.matches(&trunk("a"), "+4930", "EXAMPLE.com"));
        assert!(!matcher.matches(&trunk("b"), "+4930", "example.com"));
        assert!(!matcher.matches(&trunk("a"), "+4830", "example.com"));
        assert!(!matcher.matches(&trunk("a"), "+4930", "example.org"));
        assert!(RouteMatch::default().matches(&trunk("z"), "", ""));
        assert!(UserMatch::Exact("1".into()).matches("1") && !UserMatch::Exact("1".into()).matches("10"));
    }

    #[test]
    fn an_expression_matches_the_whole_user_part() {
        let regex = UserRegex::new(r"0|[1-9]\d{2}").unwrap();
        for (user, matched) in [
            ("0", true),
            ("123", true),
            ("1234", false),
            ("x123", false),
            ("123\n", false),
            ("", false),
        ] {
            assert_eq!(regex.matches(user), matched, "{user:?}");
        }
        assert!(UserRegex::new("(?i)alice").unwrap().matches("ALICE"));
    }

    #[test]
    fn bad_expressions_are_refused() {
        for bad in ["a)|(b", "(", "[", "a{1000}{1000}{1000}", "(?x) a # comment"] {
            assert!(matches!(UserRegex::new(bad), Err(RegexError::Syntax(_))), "{bad}");
        }
        assert_eq!(UserRegex::new(&"a".repeat(513)), Err(RegexError::TooLong));
    }

    #[test]
    fn numbers_are_rewritten_by_character() {
        let target = |strip, prefix: &str| Target {
            strip,
            prefix: prefix.into(),
            ..Target::phones_of(trunk("t"))
        };
        assert_eq!(target(1, "+49").rewrite("030123"), "+4930123");
        assert_eq!(target(0, "").rewrite("alice"), "alice");
        assert_eq!(target(1, "").rewrite("élan"), "lan");
        assert_eq!(target(9, "0").rewrite("123"), "0");
        assert_eq!(target(3, "").rewrite("123"), "");
    }
}
