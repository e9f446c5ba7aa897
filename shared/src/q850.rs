//! Q.850 causes and SIP status codes, both ways (RFC 3398). For records and Reason headers; retry decisions never use
//! a cause that was not in the response.

/// The cause that stands for a SIP failure (RFC 3398 §8.2.6.1). `None` where a cause makes no sense (487) or where the
/// Warning decides (488, 606); 31 for anything unlisted.
pub const fn cause_of_status(status: u16) -> Option<u8> {
    Some(match status {
        400 | 481 | 500 | 503 => 41,
        401 | 402 | 403 | 407 | 603 => 21,
        404 | 485 | 604 => 1,
        405 => 63,
        406 | 415 | 501 => 79,
        408 | 504 => 102,
        410 => 22,
        413 | 414 | 416 | 420 | 421 | 423 | 505 | 513 => 127,
        480 => 18,
        482 | 483 => 25,
        484 => 28,
        486 | 600 => 17,
        487 | 488 | 606 => return None,
        502 => 38,
        _ => 31,
    })
}

/// The SIP status that stands for a cause (RFC 3398 §7.2.4.1); 500 for anything unlisted.
pub const fn status_of_cause(cause: u8) -> u16 {
    match cause {
        1..=3 | 26 => 404,
        17 => 486,
        18 => 408,
        19 | 20 | 31 => 480,
        21 | 55 | 57 | 87 => 403,
        22 | 23 => 410,
        27 => 502,
        28 => 484,
        29 | 79 => 501,
        34 | 38 | 41 | 42 | 47 | 58 | 88 => 503,
        65 | 70 => 488,
        102 => 504,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_rfc_3398() {
        let to_cause = [
            (400, 41),
            (401, 21),
            (402, 21),
            (403, 21),
            (404, 1),
            (405, 63),
            (406, 79),
            (407, 21),
            (408, 102),
            (410, 22),
            (413, 127),
            (414, 127),
            (415, 79),
            (416, 127),
            (420, 127),
            (421, 127),
            (423, 127),
            (480, 18),
            (481, 41),
            (482, 25),
            (483, 25),
            (484, 28),
            (485, 1),
            (486, 17),
            (500, 41),
            (501, 79),
            (502, 38),
            (503, 41),
            (504, 102),
            (505, 127),
            (513, 127),
            (600, 17),
            (603, 21),
            (604, 1),
            (499, 31),
        ];
        for (status, cause) in to_cause {
            assert_eq!(cause_of_status(status), Some(cause), "{status}");
        }
        assert!(
            [487, 488, 606]
                .into_iter()
                .all(|status| cause_of_status(status).is_none())
        );
        let to_status = [
            (1, 404),
            (2, 404),
            (3, 404),
            (17, 486),
            (18, 408),
            (19, 480),
            (20, 480),
            (21, 403),
            (22, 410),
            (23, 410),
            (26, 404),
            (27, 502),
            (28, 484),
            (29, 501),
            (31, 480),
            (34, 503),
            (38, 503),
            (41, 503),
            (42, 503),
            (47, 503),
            (55, 403),
            (57, 403),
            (58, 503),
            (65, 488),
            (70, 488),
            (79, 501),
            (87, 403),
            (88, 503),
            (102, 504),
            (111, 500),
            (127, 500),
            (99, 500),
        ];
        for (cause, status) in to_status {
            assert_eq!(status_of_cause(cause), status, "{cause}");
        }
    }
}
