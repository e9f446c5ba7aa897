use std::time::Duration;

use trunkline_shared::binding::Binding;
use trunkline_shared::trunk::Transport;

use super::*;

fn aor(user: &str) -> Aor {
    Aor {
        trunk: TrunkId::new("main").expect("an id"),
        user: user.into(),
    }
}

fn binding(contact: &str) -> Binding {
    let now = SystemTime::now();
    Binding {
        contact_uri: contact.into(),
        q_thousandths: 1000,
        expire_time: now + Duration::from_secs(60),
        create_time: now,
        update_time: now,
        call_id: "c".into(),
        cseq: 1,
        transport: Transport::Tcp,
        source: "192.0.2.1:5060".parse().expect("an address"),
        user_agent: "".into(),
        worker: None,
        path: Vec::new(),
        instance_id: "".into(),
    }
}

fn over(connection: u64, contact: &str) -> Contact {
    let flow = Flow {
        trunk: TrunkId::new("main").expect("an id"),
        transport: Transport::Tcp,
        local: "192.0.2.9:8060".parse().expect("an address"),
        remote: "192.0.2.1:5060".parse().expect("an address"),
        connection: Some(ConnectionId(connection)),
    };
    Contact {
        binding: binding(contact),
        flow: Some(flow),
    }
}

fn set(store: &BindingStore, user: &str, contacts: &[Contact]) {
    store.update(&aor(user), &mut |stored| {
        *stored = contacts.to_vec();
        true
    });
}

fn view(user: &str, contacts: &[&str], change_time_ms: i64) -> AorBindings {
    AorBindings {
        aor: aor(user),
        address_of_record: "sip:alice@example.com".into(),
        bindings: contacts.iter().map(|contact| binding(contact)).collect(),
        change_time_ms,
    }
}

#[test]
fn a_change_that_is_none_leaves_everything_as_it_was() {
    let store = BindingStore::default();
    store.update(&aor("alice"), &mut |contacts| {
        contacts.push(over(1, "sip:a@192.0.2.1"));
        false
    });
    assert!(store.contacts(&aor("alice")).is_empty());
    set(&store, "alice", &[over(1, "sip:a@192.0.2.1")]);
    store.update(&aor("alice"), &mut |contacts| {
        contacts.clear();
        false
    });
    assert_eq!(store.contacts(&aor("alice")).len(), 1);
}

#[test]
fn a_connection_is_held_while_any_binding_uses_it() {
    let store = BindingStore::default();
    set(&store, "alice", &[over(7, "sip:a@192.0.2.1")]);
    set(&store, "bob", &[over(7, "sip:b@192.0.2.1")]);
    set(&store, "alice", &[over(7, "sip:a@192.0.2.1")]);
    set(&store, "alice", &[]);
    assert!(store.holds(ConnectionId(7)), "bob's");
    set(&store, "bob", &[over(8, "sip:b@192.0.2.1")]);
    assert!(!store.holds(ConnectionId(7)));
    assert!(store.holds(ConnectionId(8)));
}

#[test]
fn what_is_older_than_the_own_change_is_not_taken() {
    let store = BindingStore::default();
    set(&store, "alice", &[over(1, "sip:a@192.0.2.1")]);
    assert!(!store.merge(&view("alice", &["sip:old@192.0.2.2"], 1)));
    assert!(store.merge(&view("alice", &["sip:new@192.0.2.2"], i64::MAX)));
    assert_eq!(
        &*store.contacts(&aor("alice"))[0].binding.contact_uri,
        "sip:new@192.0.2.2"
    );
    assert!(!store.holds(ConnectionId(1)), "the flow went with its binding");
}

#[test]
fn a_binding_that_comes_back_from_elsewhere_keeps_its_flow() {
    let store = BindingStore::default();
    set(&store, "alice", &[over(1, "sip:a@192.0.2.1")]);
    assert!(store.merge(&view("alice", &["sip:a@192.0.2.1", "sip:b@192.0.2.3"], i64::MAX)));
    let flows: Vec<_> = store
        .contacts(&aor("alice"))
        .iter()
        .map(|contact| contact.flow.is_some())
        .collect();
    assert_eq!(flows, [true, false]);
}

#[test]
fn a_removal_of_what_is_not_known_is_not_remembered() {
    let store = BindingStore::default();
    assert!(!store.merge(&view("alice", &[], 5)));
    assert!(store.views().is_empty());
}

#[test]
fn ended_bindings_and_those_of_gone_trunks_are_forgotten() {
    let store = BindingStore::default();
    set(&store, "alice", &[over(1, "sip:a@192.0.2.1")]);
    store.purge(SystemTime::now(), |_| true);
    assert_eq!(store.registered(SystemTime::now()), 1);
    store.purge(SystemTime::now() + Duration::from_secs(61), |_| true);
    assert_eq!(store.views().len(), 0);
    assert!(!store.holds(ConnectionId(1)));
    set(&store, "bob", &[over(2, "sip:b@192.0.2.1")]);
    store.purge(SystemTime::now(), |_| false);
    assert_eq!(store.views().len(), 0);
}
