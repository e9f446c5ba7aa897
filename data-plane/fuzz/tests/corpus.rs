//! Replays every committed input through its target.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use trunkline_fuzz::TARGETS;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn replay(target: &str) {
    let run = TARGETS
        .iter()
        .find(|(name, _)| *name == target)
        .expect("a target of that name")
        .1;
    let mut inputs: Vec<_> = fs::read_dir(corpus().join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 8, "the corpus of {target} has been lost");
    for input in inputs {
        // Shown when the input fails.
        println!("{}", input.display());
        run(&fs::read(&input).unwrap());
    }
}

macro_rules! replayed {
    ($($target:ident),* $(,)?) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })*

        #[test]
        fn every_target_is_replayed() {
            let replayed = BTreeSet::from([$(stringify!($target)),*]);
            let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(replayed, targets);
            for entry in fs::read_dir(corpus()).unwrap() {
                let name = entry.unwrap().file_name();
                assert!(targets.contains(name.to_str().unwrap()), "corpus without a target: {name:?}");
            }
        }
    };
}

replayed!(digest, negotiation, rtp, sdp, sip_message, sip_stream, srtp);
