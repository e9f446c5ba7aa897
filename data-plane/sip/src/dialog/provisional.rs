//! Reliable provisional responses (RFC 3262) as far as a proxy has to know them: which ones it has seen, so that the SDP
//! in a retransmission is not taken for a new offer or answer, and which one a PRACK is for.

/// How a reliable provisional response stands to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reliably {
    /// The next one.
    New,
    /// Seen before: a retransmission.
    Repeated,
    /// After a gap: a UAC must not acknowledge it before the missing one came (RFC 3262 §4). Not recorded.
    Ahead,
}

/// The reliable provisional responses of one early dialog to one INVITE.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReliableProvisionals {
    /// First and last RSeq seen, without gaps between them.
    seen: Option<(u32, u32)>,
    /// Highest RSeq acknowledged by a PRACK that passed.
    acknowledged: Option<u32>,
}

impl ReliableProvisionals {
    /// A provisional response with this RSeq arrived. The first RSeq may be any number (RFC 3262 §3), later ones grow by
    /// one.
    pub fn response(&mut self, rseq: u32) -> Reliably {
        match self.seen {
            None => self.seen = Some((rseq, rseq)),
            Some((_, last)) if rseq <= last => return Reliably::Repeated,
            Some((first, last)) if last.checked_add(1) == Some(rseq) => self.seen = Some((first, rseq)),
            Some(_) => return Reliably::Ahead,
        }
        Reliably::New
    }

    /// A PRACK for this RSeq passes: whether it is the first for a response that was seen.
    pub fn acknowledge(&mut self, rseq: u32) -> bool {
        let known = self.seen.is_some_and(|(first, last)| (first..=last).contains(&rseq));
        let new = known && self.acknowledged < Some(rseq);
        if new {
            self.acknowledged = Some(rseq);
        }
        new
    }

    /// Whether the last response seen still waits for its PRACK.
    #[must_use]
    pub fn is_outstanding(&self) -> bool {
        self.seen.is_some_and(|(_, last)| self.acknowledged < Some(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retransmission_is_told_from_the_next_response() {
        let mut responses = ReliableProvisionals::default();
        assert_eq!(responses.response(776_656), Reliably::New);
        assert_eq!(responses.response(776_656), Reliably::Repeated);
        assert_eq!(responses.response(776_658), Reliably::Ahead);
        assert_eq!(responses.response(776_657), Reliably::New);
        assert_eq!(responses.response(776_658), Reliably::New, "no longer ahead");
        assert_eq!(responses.response(776_655), Reliably::Repeated, "older than the first");
    }

    #[test]
    fn a_prack_counts_once_and_only_for_what_was_seen() {
        let mut responses = ReliableProvisionals::default();
        assert!(!responses.is_outstanding());
        assert!(!responses.acknowledge(1));
        responses.response(1);
        assert!(responses.is_outstanding());
        assert!(responses.acknowledge(1));
        assert!(!responses.acknowledge(1), "a retransmission with another branch");
        assert!(!responses.acknowledge(2));
        assert!(!responses.is_outstanding());
    }

    #[test]
    fn the_last_number_has_no_successor() {
        let mut responses = ReliableProvisionals::default();
        assert_eq!(responses.response(u32::MAX), Reliably::New);
        assert_eq!(responses.response(0), Reliably::Repeated);
    }
}
