//! All workloads.

use crate::workload::{Transport, Workload};

pub mod call;
pub mod config;
pub mod media;
pub mod memory;
pub mod register;

use call::{Calls, Media};
use config::Config;
use memory::Memory;
use register::Register;

/// Every row, in the order of the table.
pub fn all() -> Vec<Box<dyn Workload>> {
    let mut all: Vec<Box<dyn Workload>> = Vec::new();
    for transport in [Transport::Udp, Transport::Tcp] {
        all.push(Box::new(Register { transport, rate: 2000 }));
    }
    let calls = |name, transport, media, rate| Calls {
        name,
        transport,
        media,
        rate,
    };
    for calls in [
        calls("call-udp", Transport::Udp, Media::None, 600),
        calls("call-udp-200", Transport::Udp, Media::None, 200),
        calls("call-udp-2400", Transport::Udp, Media::None, 2400),
        calls("call-tcp", Transport::Tcp, Media::None, 600),
        calls("call-media", Transport::Udp, Media::Rtp, 200),
        calls("call-media-srtp", Transport::Udp, Media::Srtp, 200),
    ] {
        all.push(Box::new(calls));
    }
    for relay in media::Relay::all() {
        all.push(Box::new(relay));
    }
    for memory in [Memory::Contact, Memory::Call, Memory::AnchoredCall] {
        all.push(Box::new(memory));
    }
    for config in [Config::Acl, Config::Trunks, Config::Workers] {
        all.push(Box::new(config));
    }
    all
}

/// Those of `all` that `wanted` names: whole, or as a prefix that ends at a dash (`rtp`, `memory`) when no workload has that
/// name; all when none is wanted.
///
/// # Errors
/// When a name fits no workload.
pub fn selected(wanted: &[String]) -> anyhow::Result<Vec<Box<dyn Workload>>> {
    let names: Vec<_> = all().iter().map(|workload| workload.name()).collect();
    let fits = |name: &str, word: &str| match names.iter().any(|name| name == word) {
        true => name == word,
        false => name.strip_prefix(word).is_some_and(|rest| rest.starts_with('-')),
    };
    for word in wanted {
        anyhow::ensure!(
            names.iter().any(|name| fits(name, word)),
            "no workload is called {word}; there are {}",
            names.join(", ")
        );
    }
    let mut selected = all();
    selected.retain(|workload| wanted.is_empty() || wanted.iter().any(|word| fits(&workload.name(), word)));
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[&str]) -> Vec<String> {
        let wanted: Vec<_> = wanted.iter().map(|word| (*word).to_owned()).collect();
        let selected = selected(&wanted).unwrap();
        selected.iter().map(|workload| workload.name()).collect()
    }

    #[test]
    fn a_whole_name_is_itself_and_a_prefix_is_all_of_its_kind() {
        assert_eq!(names(&["call-udp"]), ["call-udp"]);
        assert_eq!(names(&["register"]), ["register-udp", "register-tcp"]);
        assert_eq!(names(&[]).len(), all().len());
        assert!(selected(&["regis".to_owned()]).is_err());
    }

    #[test]
    fn no_two_workloads_share_a_name() {
        let all: std::collections::BTreeSet<_> = names(&[]).into_iter().collect();
        assert_eq!(all.len(), names(&[]).len());
    }
}
