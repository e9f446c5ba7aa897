use super::*;
use crate::credential::tests::credential;
use crate::line::tests::line;
use crate::route::tests::route;
use crate::route::{RouteMatch, Target, TargetKind, UserMatch};
use crate::settings::WorkerSettings;
use crate::trunk::L4Protocol;

fn id(id: &str) -> TrunkId {
    TrunkId::new(id).unwrap()
}

fn trunk(name: &str, port: u16, version: i64) -> Resource {
    let mut trunk = Trunk::with_defaults(id(name), name);
    trunk.listen_port = port;
    trunk.inbound_digest.realm = "example.com".into();
    Resource {
        version,
        body: Body::Trunk(Arc::new(trunk)),
    }
}

fn line_of(name: &str, priority: u16, weight: u16) -> Resource {
    Resource {
        version: 1,
        body: Body::Line(Arc::new(line(name, priority, weight))),
    }
}

fn user(name: &str, username: &str) -> Resource {
    Resource {
        version: 1,
        body: Body::Credential(Arc::new(credential(name, username, "example.com"))),
    }
}

fn route_to(name: &str, priority: u16, prefix: &str, kind: TargetKind) -> Resource {
    let matcher = RouteMatch {
        user: UserMatch::Prefix(prefix.into()),
        ..RouteMatch::default()
    };
    let target = Target {
        kind,
        ..Target::phones_of(id("a"))
    };
    Resource {
        version: 1,
        body: Body::Route(Arc::new(route(name, priority, matcher, vec![target]))),
    }
}

fn applied(upserts: Vec<Resource>) -> Snapshot {
    let applied = Snapshot::default().apply(upserts, &[], 1);
    assert_eq!(applied.rejections, []);
    applied.snapshot
}

fn port(snapshot: &Snapshot, trunk: &str) -> u16 {
    snapshot.trunk(&id(trunk)).unwrap().listen_port
}

fn in_use(field: &'static str, port: u16, other: &str) -> Conflict {
    Conflict::PortInUse {
        field,
        l4: L4Protocol::Udp,
        port,
        other: id(other),
        other_field: "listen_port",
    }
}

#[test]
fn resources_arrive_in_any_order() {
    let line_key: LineName = "trunks/a/lines/l".parse().unwrap();
    let snapshot = applied(vec![
        route_to("r", 1, "0", TargetKind::Line(line_key.clone())),
        user("trunks/a/credentials/c", "alice"),
        line_of("trunks/a/lines/l", 0, 1),
        trunk("a", 8060, 1),
    ]);
    assert!(snapshot.line(&line_key).is_some() && snapshot.route(&id("a"), "0123", "h").is_some());
    assert_eq!(snapshot.revision(), 1);
}

#[test]
fn lines_and_routes_have_their_order() {
    let mut disabled = line("trunks/a/lines/off", 0, 9);
    disabled.enabled = false;
    let snapshot = applied(vec![
        trunk("a", 8060, 1),
        line_of("trunks/a/lines/z", 0, 1),
        line_of("trunks/a/lines/y", 0, 5),
        line_of("trunks/a/lines/x", 1, 9),
        line_of("trunks/a/lines/w", 0, 1),
        Resource {
            version: 1,
            body: Body::Line(Arc::new(disabled)),
        },
        route_to("later", 2, "1", TargetKind::Phones(id("a"))),
        route_to("b-first", 1, "1", TargetKind::Phones(id("a"))),
        route_to("a-first", 1, "12", TargetKind::Phones(id("a"))),
    ]);
    let order: Vec<&str> = snapshot.lines_of(&id("a")).iter().map(|line| line.name.id()).collect();
    assert_eq!(order, ["y", "w", "z", "x"]);
    assert_eq!(snapshot.route(&id("a"), "123", "h").unwrap().id.as_str(), "a-first");
    assert_eq!(snapshot.route(&id("a"), "13", "h").unwrap().id.as_str(), "b-first");
    assert!(snapshot.route(&id("a"), "2", "h").is_none());
    assert!(snapshot.lines_of(&id("b")).is_empty());
}

#[test]
fn what_a_change_does_not_touch_is_shared() {
    let before = applied(vec![
        trunk("a", 8060, 1),
        trunk("b", 8062, 1),
        line_of("trunks/a/lines/l", 0, 1),
    ]);
    let after = before.apply(vec![trunk("b", 8064, 2)], &[], 2).snapshot;
    assert!(Arc::ptr_eq(
        before.trunk(&id("a")).unwrap(),
        after.trunk(&id("a")).unwrap()
    ));
    assert!(Arc::ptr_eq(&before.lines, &after.lines));
    assert_eq!((port(&before, "b"), port(&after, "b")), (8062, 8064));
}

#[test]
fn a_port_in_use_refuses_the_newcomer_and_keeps_what_was() {
    let before = applied(vec![trunk("a", 8060, 1), trunk("b", 8062, 1)]);
    let clash = before.apply(vec![trunk("b", 8060, 2), trunk("c", 8066, 2)], &[], 2);
    let key = ResourceKey::Trunk(id("b"));
    let rejection = Rejection {
        key: key.clone(),
        version: 2,
        reason: in_use("listen_port", 8060, "a"),
    };
    assert_eq!(clash.rejections, [rejection]);
    assert_eq!((port(&clash.snapshot, "b"), port(&clash.snapshot, "c")), (8062, 8066));
    assert!(
        clash.snapshot.held().contains(&(key.clone(), 1)),
        "the accepted version stays"
    );

    // The name order of the two does not decide: the one that changed loses.
    let other_way = before.apply(vec![trunk("a", 8062, 2)], &[], 2);
    assert_eq!(other_way.rejections[0].reason, in_use("listen_port", 8062, "b"));
    assert_eq!(port(&other_way.snapshot, "a"), 8060);
}

#[test]
fn a_refused_trunk_comes_into_force_when_the_port_is_free() {
    let before = applied(vec![trunk("a", 8060, 1)]);
    let refused = before.apply(vec![trunk("b", 8060, 2)], &[], 2).snapshot;
    assert!(refused.trunk(&id("b")).is_none());
    let freed = refused.apply(vec![trunk("a", 8070, 3)], &[], 3);
    assert_eq!(freed.recovered, [(ResourceKey::Trunk(id("b")), 2)]);
    assert_eq!((freed.rejections, port(&freed.snapshot, "b")), (vec![], 8060));
    assert!(freed.snapshot.waiting.is_empty());
}

#[test]
fn two_trunks_may_swap_ports_in_one_change() {
    let before = applied(vec![trunk("a", 8060, 1), trunk("b", 8062, 1)]);
    let swapped = before.apply(vec![trunk("a", 8062, 2), trunk("b", 8060, 2)], &[], 2);
    assert_eq!(swapped.rejections, []);
    assert_eq!(
        (port(&swapped.snapshot, "a"), port(&swapped.snapshot, "b")),
        (8062, 8060)
    );
}

#[test]
fn of_two_that_changed_the_later_one_is_refused() {
    let both = Snapshot::default().apply(vec![trunk("a", 8060, 5), trunk("b", 8060, 4)], &[], 5);
    assert_eq!(both.rejections.len(), 1);
    assert_eq!(both.rejections[0].key, ResourceKey::Trunk(id("a")));
    let same = Snapshot::default().apply(vec![trunk("a", 8060, 4), trunk("b", 8060, 4)], &[], 5);
    assert_eq!(same.rejections[0].key, ResourceKey::Trunk(id("b")));
}

#[test]
fn putting_a_trunk_back_may_refuse_the_one_that_took_its_port() {
    let before = applied(vec![trunk("a", 8060, 1), trunk("b", 8062, 1), trunk("c", 8064, 1)]);
    // b wants the port of a, which stays; c wants the port b would have left.
    let change = before.apply(vec![trunk("b", 8060, 2), trunk("c", 8062, 3)], &[], 3);
    let refused: Vec<_> = change
        .rejections
        .iter()
        .map(|rejection| rejection.key.to_string())
        .collect();
    assert_eq!(refused, ["trunks/b", "trunks/c"]);
    assert_eq!((port(&change.snapshot, "b"), port(&change.snapshot, "c")), (8062, 8064));
}

#[test]
fn tcp_and_udp_ports_do_not_clash() {
    let mut tls = Trunk::with_defaults(id("b"), "b");
    tls.transport = crate::trunk::Transport::Tls;
    tls.listen_port = 8060;
    applied(vec![
        trunk("a", 8060, 1),
        Resource {
            version: 1,
            body: Body::Trunk(Arc::new(tls.clone())),
        },
    ]);
    tls.syslog = crate::trunk::Syslog {
        enabled: true,
        port: 8060,
    };
    let clash = Snapshot::default().apply(
        vec![
            trunk("a", 8060, 1),
            Resource {
                version: 2,
                body: Body::Trunk(Arc::new(tls)),
            },
        ],
        &[],
        2,
    );
    assert_eq!(clash.rejections[0].reason, in_use("syslog.port", 8060, "a"));
}

#[test]
fn what_belongs_to_an_unknown_trunk_waits_for_it() {
    let early = Snapshot::default().apply(
        vec![
            line_of("trunks/a/lines/l", 0, 1),
            user("trunks/a/credentials/c", "alice"),
        ],
        &[],
        1,
    );
    let unknown = Conflict::UnknownTrunk {
        field: "name".into(),
        trunk: id("a"),
    };
    assert!(early.rejections.iter().all(|rejection| rejection.reason == unknown) && early.rejections.len() == 2);
    assert_eq!(early.snapshot.held(), []);
    let later = early.snapshot.apply(vec![trunk("a", 8060, 2)], &[], 2);
    assert_eq!(later.recovered.len(), 2);
    assert!(later.snapshot.credential(&id("a"), "alice").is_some());
}

#[test]
fn a_route_names_what_it_misses() {
    let line: LineName = "trunks/a/lines/l".parse().unwrap();
    let change = Snapshot::default().apply(
        vec![
            trunk("a", 8060, 1),
            route_to("r1", 1, "", TargetKind::Line(line.clone())),
            route_to("r2", 1, "", TargetKind::Lines(id("b"))),
        ],
        &[],
        1,
    );
    let reasons: Vec<_> = change
        .rejections
        .into_iter()
        .map(|rejection| rejection.reason)
        .collect();
    assert_eq!(
        reasons,
        [
            Conflict::UnknownLine {
                field: "targets[0].line".into(),
                line
            },
            Conflict::UnknownTrunk {
                field: "targets[0].lines".into(),
                trunk: id("b")
            },
        ]
    );
}

#[test]
fn removing_a_trunk_removes_what_belongs_to_it() {
    let before = applied(vec![
        trunk("a", 8060, 1),
        trunk("b", 8062, 1),
        line_of("trunks/a/lines/l", 0, 1),
        user("trunks/a/credentials/c", "alice"),
        user("trunks/b/credentials/c", "alice"),
        route_to("r", 1, "", TargetKind::Phones(id("a"))),
    ]);
    let after = before.apply(vec![], &[ResourceKey::Trunk(id("a"))], 2).snapshot;
    let names: Vec<_> = after.held().into_iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(names, ["trunks/b", "trunks/b/credentials/c", "routes/r"]);
    assert!(after.lines_of(&id("a")).is_empty() && after.credential(&id("a"), "alice").is_none());
    assert_eq!(after.credential_count(), 1);
}

#[test]
fn a_removal_ends_the_waiting() {
    let refused = applied(vec![trunk("a", 8060, 1)])
        .apply(vec![trunk("b", 8060, 2)], &[], 2)
        .snapshot;
    let removed = refused.apply(vec![], &[ResourceKey::Trunk(id("b"))], 3).snapshot;
    let freed = removed.apply(vec![trunk("a", 8070, 4)], &[], 4);
    assert_eq!(freed.recovered, []);
    assert!(freed.snapshot.trunk(&id("b")).is_none());
}

#[test]
fn a_credential_works_in_its_realm_while_enabled() {
    let snapshot = applied(vec![trunk("a", 8060, 1), user("trunks/a/credentials/c", "alice")]);
    assert!(snapshot.credential(&id("a"), "alice").is_some());
    assert!(snapshot.credential(&id("a"), "Alice").is_none());
    let with = |change: fn(&mut Credential)| {
        let mut changed = credential("trunks/a/credentials/c", "alice", "example.com");
        change(&mut changed);
        let body = Body::Credential(Arc::new(changed));
        snapshot.apply(vec![Resource { version: 2, body }], &[], 2).snapshot
    };
    assert!(with(|c| c.enabled = false).credential(&id("a"), "alice").is_none());
    assert!(
        with(|c| c.realm = "old.example.com".into())
            .credential(&id("a"), "alice")
            .is_none()
    );
    let renamed = with(|c| c.username = "bob".into());
    assert!(renamed.credential(&id("a"), "alice").is_none() && renamed.credential(&id("a"), "bob").is_some());
}

#[test]
fn a_user_name_belongs_to_one_credential() {
    let snapshot = applied(vec![trunk("a", 8060, 1), user("trunks/a/credentials/c", "alice")]);
    let clash = snapshot.apply(vec![user("trunks/a/credentials/d", "alice")], &[], 2);
    let other = "trunks/a/credentials/c".parse().unwrap();
    assert_eq!(
        clash.rejections[0].reason,
        Conflict::UsernameInUse {
            username: "alice".into(),
            other
        }
    );
    let moved = clash.snapshot.apply(
        vec![],
        &[ResourceKey::Credential("trunks/a/credentials/c".parse().unwrap())],
        3,
    );
    assert_eq!(moved.recovered.len(), 1);
    assert_eq!(moved.snapshot.credential(&id("a"), "alice").unwrap().name.id(), "d");
}

#[test]
fn settings_have_defaults_until_told() {
    let worker = crate::name::WorkerId::new("w1").unwrap();
    assert!(!Snapshot::default().settings().drain);
    let draining = WorkerSettings {
        drain: true,
        ..WorkerSettings::default()
    };
    let body = Body::WorkerSettings(worker.clone(), Arc::new(draining));
    let told = applied(vec![Resource { version: 7, body }]);
    assert!(told.settings().drain);
    assert_eq!(told.held(), [(ResourceKey::WorkerSettings(worker.clone()), 7)]);
    assert!(
        !told
            .apply(vec![], &[ResourceKey::WorkerSettings(worker)], 2)
            .snapshot
            .settings()
            .drain
    );
}

#[test]
fn what_is_held_makes_the_same_configuration() {
    let snapshot = applied(vec![
        trunk("a", 8060, 3),
        line_of("trunks/a/lines/l", 0, 1),
        user("trunks/a/credentials/c", "alice"),
        route_to("r", 1, "", TargetKind::Phones(id("a"))),
    ]);
    let again = applied(snapshot.resources().collect());
    assert_eq!(again.held(), snapshot.held());
}
