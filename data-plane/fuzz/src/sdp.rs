//! An SDP body: parsed, every attribute read, written and parsed again.

use std::hint::black_box;

use trunkline_media::sdes::CryptoLine;
use trunkline_media::sdp::{MAX_MEDIA, MAX_SIZE, SessionDescription, TypedAttribute, parse};

/// The input is the body.
pub fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(line) = CryptoLine::parse(text)
    {
        assert_eq!(line.key().key_salt().len(), line.suite().key_salt_len());
    }
    let Ok(description) = parse(data) else { return };
    assert!(data.len() <= MAX_SIZE && description.media().len() <= MAX_MEDIA);
    read(&description);
    let written = description.to_bytes();
    // Writing completes bare line ends to CRLF, which may push a body at the limit beyond it.
    let again = match parse(&written) {
        Ok(again) => again,
        Err(error) => return assert!(written.len() > MAX_SIZE, "{error}: {}", written.escape_ascii()),
    };
    assert_eq!(again.to_bytes(), written, "writing settles after one round");
    let lines = |description: &SessionDescription<'_>| -> Vec<(u8, Vec<u8>)> {
        description
            .lines()
            .iter()
            .map(|line| (line.kind, line.value.to_vec()))
            .collect()
    };
    assert_eq!(lines(&description), lines(&again));
    assert_eq!(description.media().len(), again.media().len());
}

fn read(description: &SessionDescription<'_>) {
    black_box((description.origin(), description.connection()));
    black_box(
        description
            .attributes()
            .filter(|attribute| attribute.typed().is_ok())
            .count(),
    );
    for index in 0..description.media().len() {
        black_box((
            description.direction(index),
            description.media_address(index),
            description.connection_for(index),
        ));
        for attribute in description.media_attributes(index) {
            if let Ok(TypedAttribute::Crypto(value)) = attribute.typed() {
                black_box(CryptoLine::parse(value).is_ok());
            }
        }
    }
}
