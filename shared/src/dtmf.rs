//! DTMF settings of a trunk (rows 32 and 33).

/// How digits travel (row 33).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DtmfMethod {
    /// telephone-event packets (RFC 4733).
    #[default]
    RtpEvents,
    /// Tones in the audio; telephone-event is never offered.
    InBand,
    /// Not at all.
    None,
}

/// Rows 32 and 33.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dtmf {
    /// Row 32: payload type of telephone-event in our offers, 96-127. Stored and ignored with other methods.
    pub payload: u8,
    /// Row 33.
    pub method: DtmfMethod,
}

impl Default for Dtmf {
    fn default() -> Self {
        Self {
            payload: 101,
            method: DtmfMethod::default(),
        }
    }
}
