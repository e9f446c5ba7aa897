use super::*;
use crate::parse::tests::{request, response, understood};

const INVITE: &str = "\
INVITE sip:bob@example.com SIP/2.0
Via: SIP/2.0/UDP phone;branch=z9hG4bK1;rport, SIP/2.0/UDP b
From: <sip:alice@example.com>;tag=a
Route: <sip:us;lr>, <sip:next;lr>
v: SIP/2.0/TCP c
To: <sip:bob@example.com>
Route: <sip:last;lr>
Call-ID: c1
CSeq: 7 INVITE
Record-Route: <sip:before;lr>
X-Custom: one
 two
Max-Forwards: 70
Content-Disposition: session
c: application/sdp
l: 5

v=0
";

fn edited(message: &str, change: impl FnOnce(&mut Edits)) -> String {
    let mut edits = Edits::new();
    change(&mut edits);
    let mut out = BytesMut::from(&b"kept"[..]);
    edits.write(&understood(message), &mut out).unwrap();
    assert!(out.starts_with(b"kept"));
    String::from_utf8(out[4..].to_vec()).unwrap().replace("\r\n", "\n")
}

/// The lines of `after` that are not in `before`, and the other way round.
fn difference(after: &str, before: &str) -> (Vec<String>, Vec<String>) {
    let lines_without = |a: &str, b: &str| {
        a.lines()
            .filter(|one| !b.lines().any(|two| two == *one))
            .map(str::to_owned)
            .collect()
    };
    (lines_without(after, before), lines_without(before, after))
}

#[test]
fn no_edits_copy_everything_but_content_length() {
    assert_eq!(edited(INVITE, |_| ()), INVITE.replace("l: 5\n", "Content-Length: 5\n"));
}

#[test]
fn forwarding_a_request_touches_only_the_routing_headers() {
    let out = edited(INVITE, |edits| {
        edits
            .request_uri("sip:bob@192.0.2.7")
            .stamp_via(ViaStamp::forced("198.51.100.1:40000".parse().unwrap()))
            .push_via("SIP/2.0/TLS edge;branch=z9hG4bKx")
            .decrement_max_forwards()
            .record_route("<sip:edge;lr>")
            .pop_route();
    });
    assert_eq!(
        out,
        "INVITE sip:bob@192.0.2.7 SIP/2.0\n\
         Via: SIP/2.0/TLS edge;branch=z9hG4bKx\n\
         Via: SIP/2.0/UDP phone;branch=z9hG4bK1;rport=40000;received=198.51.100.1, SIP/2.0/UDP b\n\
         Record-Route: <sip:edge;lr>\n\
         From: <sip:alice@example.com>;tag=a\n\
         Route: <sip:next;lr>\n\
         v: SIP/2.0/TCP c\n\
         To: <sip:bob@example.com>\n\
         Route: <sip:last;lr>\n\
         Call-ID: c1\n\
         CSeq: 7 INVITE\n\
         Record-Route: <sip:before;lr>\n\
         X-Custom: one\n two\n\
         Max-Forwards: 69\n\
         Content-Disposition: session\n\
         c: application/sdp\n\
         Content-Length: 5\n\nv=0\n"
    );
}

#[test]
fn vias_pop_across_commas_and_lines() {
    for (count, expected) in [
        (1, &["Via: SIP/2.0/UDP b", "v: SIP/2.0/TCP c"][..]),
        (2, &["v: SIP/2.0/TCP c"]),
        (3, &[]),
        (9, &[]),
    ] {
        let out = edited(INVITE, |edits| {
            for _ in 0..count {
                edits.pop_via();
            }
        });
        let vias: Vec<_> = out
            .lines()
            .filter(|line| line.to_lowercase().starts_with('v') && line.contains("SIP"))
            .collect();
        assert_eq!(vias, expected, "{count}");
    }
}

#[test]
fn routes_pop_from_both_ends() {
    let routes = |change: fn(&mut Edits)| {
        let out = edited(INVITE, change);
        out.lines()
            .filter_map(|line| line.strip_prefix("Route: ").map(str::to_owned))
            .collect::<Vec<_>>()
    };
    assert_eq!(routes(|edits| _ = edits.pop_route().pop_route()), ["<sip:last;lr>"]);
    assert_eq!(
        routes(|edits| _ = edits.pop_last_route()),
        ["<sip:us;lr>, <sip:next;lr>"]
    );
    assert_eq!(
        routes(|edits| _ = edits.pop_route().pop_last_route()),
        ["<sip:next;lr>"]
    );
    assert_eq!(
        routes(|edits| _ = edits.pop_route().pop_route().pop_last_route()),
        Vec::<String>::new()
    );
    assert_eq!(
        routes(|edits| _ = edits.pop_route().push_route("<sip:x;lr>").push_route("<sip:y;lr>")),
        ["<sip:y;lr>", "<sip:x;lr>", "<sip:next;lr>", "<sip:last;lr>"]
    );
}

#[test]
fn fields_are_added_replaced_and_removed_in_any_spelling() {
    let out = edited(INVITE, |edits| {
        edits
            .add("X-New", 1)
            .add("X-New", 2)
            .set("x-CUSTOM", "three")
            .remove(HeaderName::ContentDisposition)
            .path("<sip:p;lr>");
    });
    let (added, removed) = difference(&out, INVITE);
    assert_eq!(
        added,
        [
            "Path: <sip:p;lr>",
            "X-New: 1",
            "X-New: 2",
            "x-CUSTOM: three",
            "Content-Length: 5"
        ]
    );
    assert_eq!(
        removed,
        ["X-Custom: one", " two", "Content-Disposition: session", "l: 5"]
    );
    let last = edited(INVITE, |edits| {
        _ = edits.set("X-A", 1).set("x-a", 2).add_bytes("X-B", b"b").remove("X-B")
    });
    let (added, _) = difference(&last, INVITE);
    assert_eq!(added, ["x-a: 2", "Content-Length: 5"]);
}

#[test]
fn max_forwards_counts_down_stops_at_zero_and_starts_at_seventy() {
    let hops = |message: &str, change: fn(&mut Edits)| request_of(&edited(message, change)).max_forwards();
    assert_eq!(
        hops(&INVITE.replace("Forwards: 70", "Forwards: 0"), |edits| _ =
            edits.decrement_max_forwards()),
        Some(0)
    );
    assert_eq!(
        hops(&INVITE.replace("Max-Forwards: 70\n", ""), |edits| _ =
            edits.decrement_max_forwards()),
        Some(70)
    );
    assert_eq!(hops(INVITE, |edits| _ = edits.max_forwards(5)), Some(5));
    assert_eq!(hops(INVITE, |_| ()), Some(70));
}

fn request_of(text: &str) -> Request {
    request(text)
}

#[test]
fn a_new_body_takes_its_description_with_it() {
    let replaced = edited(INVITE, |edits| _ = edits.body("text/plain", "hello world"));
    assert!(
        replaced.ends_with("Content-Type: text/plain\nContent-Length: 11\n\nhello world"),
        "{replaced}"
    );
    assert!(!replaced.contains("application/sdp") && !replaced.contains("Content-Disposition"));
    let rewritten = edited(INVITE, |edits| _ = edits.content("v=0\r\ns=-\r\n"));
    assert!(
        rewritten.contains("c: application/sdp\nContent-Length: 10\n\nv=0\ns=-\n"),
        "{rewritten}"
    );
    assert!(rewritten.contains("Content-Disposition: session"));
    let removed = edited(INVITE, |edits| _ = edits.remove_body());
    assert!(
        removed.ends_with("Max-Forwards: 70\nContent-Length: 0\n\n"),
        "{removed}"
    );
}

#[test]
fn bytes_of_a_datagram_behind_the_body_are_not_forwarded() {
    let out = edited(&INVITE.replace("l: 5\n", "l: 3\n"), |_| ());
    assert!(out.ends_with("Content-Length: 3\n\nv=0"), "{out}");
}

#[test]
fn a_response_loses_our_via_and_keeps_its_status_line() {
    let ringing = "SIP/2.0 180  R\u{fc}ng\nVia: SIP/2.0/UDP us;branch=z9hG4bKx\nVia: SIP/2.0/UDP phone\nFrom: <sip:a@b>;tag=1\n\
                   To: <sip:b@c>;tag=2\nCall-ID: 1\nCSeq: 1 INVITE\n\n";
    let mut out = BytesMut::new();
    let mut edits = Edits::new();
    edits
        .pop_via()
        .request_uri("sip:ignored")
        .write_response(&response(ringing), &mut out)
        .unwrap();
    let expected = ringing
        .replace("Via: SIP/2.0/UDP us;branch=z9hG4bKx\n", "")
        .replace("\n\n", "\nContent-Length: 0\n\n");
    assert_eq!(String::from_utf8(out.to_vec()).unwrap().replace("\r\n", "\n"), expected);
}

#[test]
fn a_bad_value_fails_the_write_and_leaves_the_buffer_as_it_was() {
    let invite = understood(INVITE);
    let attempt = |change: &dyn Fn(&mut Edits)| {
        let mut edits = Edits::new();
        change(&mut edits);
        let mut out = BytesMut::from(&b"kept"[..]);
        let result = edits.write(&invite, &mut out);
        assert_eq!(&out[..], b"kept");
        edits.clear();
        assert_eq!(edits.write(&invite, &mut out), Ok(()), "clear forgets the error");
        result
    };
    assert_eq!(
        attempt(&|edits| _ = edits.add("X", "a\r\nRoute: b")),
        Err(WriteError::LineBreak)
    );
    assert_eq!(
        attempt(&|edits| _ = edits.add_bytes("X", b"a\nb")),
        Err(WriteError::LineBreak)
    );
    assert_eq!(
        attempt(&|edits| _ = edits.request_uri("sip:a b")),
        Err(WriteError::LineBreak)
    );
    assert_eq!(attempt(&|edits| _ = edits.add("X:", 1)), Err(WriteError::BadName));
    assert_eq!(
        attempt(&|edits| _ = edits.body("a/b", vec![0; 65_000]).add("X", "y".repeat(600))),
        Err(WriteError::TooLarge)
    );
}
