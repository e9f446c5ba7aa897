//! Create, get, list, update, delete of trunks, lines and routes.

use super::*;
use crate::store::{ChangesSince, Operation};

#[tokio::test]
async fn a_created_trunk_comes_back_with_its_effective_values() {
    let api = Api::start().await;
    let created = api
        .create(
            "main",
            v1::Trunk {
                display_name: " Main ".into(),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(created.name, "trunks/main");
    assert_eq!(created.protocol(), v1::TransportProtocol::Udp);
    assert_eq!(created.listen_port, Some(8060));
    assert_eq!(created.max_call_rate.as_deref(), Some("40/5s"));
    assert_eq!(created.media_dscp, Some(46));
    assert!(!created.etag.is_empty() && created.create_time.is_some());
    assert_eq!(api.get("main").await.unwrap(), created);
}

#[tokio::test]
async fn everything_wrong_with_a_request_is_said_in_one_reply() {
    let api = Api::start().await;
    let wrong = v1::Trunk {
        display_name: "Main".into(),
        listen_port: Some(70_000),
        max_call_rate: Some("forty".into()),
        acl: Some(v1::AccessControl {
            allow: vec!["10.0.0.0/8".into(), "10.0.0.300".into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = v1::CreateTrunkRequest {
        trunk_id: "Main".into(),
        trunk: Some(wrong),
        request_id: "not-a-uuid".into(),
        ..Default::default()
    };
    let answer = api.trunks().create_trunk(request).await;
    let status = answer.as_ref().unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_error_info().unwrap().reason, "INVALID_FIELDS");
    let fields = violated(answer);
    let expected = ["request_id", "trunk_id", "acl.allow[1]", "listen_port", "max_call_rate"];
    for expected in expected {
        assert!(
            fields.iter().any(|field| field.ends_with(expected)),
            "{expected} in {fields:?}"
        );
    }
    assert_eq!(fields.len(), expected.len(), "{fields:?}");
    assert_eq!(api.store.revision(), 0);
}

#[tokio::test]
async fn names_display_names_and_ports_belong_to_one_trunk() {
    let api = Api::start().await;
    api.trunk("main", 8060).await;
    assert_eq!(
        refusal(api.create("main", trunk("other", 9000)).await),
        (Code::AlreadyExists, "RESOURCE_EXISTS".into())
    );
    assert_eq!(
        refusal(api.create("second", trunk("MAIN", 9000)).await),
        (Code::AlreadyExists, "DISPLAY_NAME_IN_USE".into())
    );
    assert_eq!(
        refusal(api.create("second", trunk("second", 8060)).await),
        (Code::AlreadyExists, "PORT_IN_USE".into())
    );
    let both = api.create("second", trunk("main", 8060)).await;
    assert_eq!(violated(both), ["display_name", "listen_port"]);

    // The same number is free on the other layer-4 protocol.
    let tcp = v1::Trunk {
        protocol: v1::TransportProtocol::Tcp.into(),
        ..trunk("second", 8060)
    };
    api.create("second", tcp).await.unwrap();
    let tls = v1::Trunk {
        protocol: v1::TransportProtocol::Tls.into(),
        ..trunk("third", 8060)
    };
    assert_eq!(refusal(api.create("third", tls).await).1, "PORT_IN_USE");
}

#[tokio::test]
async fn provisioning_and_syslog_take_ports_too() {
    let api = Api::start().await;
    let provision = |http, https| {
        Some(v1::ProvisionSettings {
            http_port: Some(http),
            https_port: Some(https),
            ..Default::default()
        })
    };
    api.create(
        "a",
        v1::Trunk {
            provision: provision(8088, 0),
            ..trunk("a", 8060)
        },
    )
    .await
    .unwrap();
    let taken = api
        .create(
            "b",
            v1::Trunk {
                provision: provision(0, 8088),
                ..trunk("b", 8061)
            },
        )
        .await;
    assert_eq!(violated(taken), ["provision.https_port"]);

    let syslog = || {
        Some(v1::SyslogSettings {
            enabled: Some(true),
            port: Some(8060),
        })
    };
    let taken = api
        .create(
            "b",
            v1::Trunk {
                syslog: syslog(),
                ..trunk("b", 8061)
            },
        )
        .await;
    assert_eq!(violated(taken), ["syslog.port"]);

    // Moving the holder away frees the port in the same instant.
    api.update(
        v1::Trunk {
            name: "trunks/a".into(),
            listen_port: Some(9060),
            ..Default::default()
        },
        &[],
    )
    .await
    .unwrap();
    api.create(
        "b",
        v1::Trunk {
            syslog: syslog(),
            ..trunk("b", 8061)
        },
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names() {
    let api = Api::start().await;
    let before = api.trunk("main", 8060).await;
    let patch = || v1::Trunk {
        name: "trunks/main".into(),
        max_calls: Some(10),
        acl: Some(v1::AccessControl {
            allow: vec!["10.0.0.0/8".into()],
            allow_all: Some(true),
            ..Default::default()
        }),
        ..Default::default()
    };
    let after = api.update(patch(), &["acl.allow"]).await.unwrap();
    let acl = after.acl.clone().unwrap();
    assert_eq!((acl.allow, acl.allow_all), (vec!["10.0.0.0/8".to_owned()], Some(false)));
    assert_eq!(after.max_calls, None);
    assert_ne!(after.etag, before.etag);
    assert_eq!(api.audit("trunks/main").await[0].changed_fields, ["acl.allow"]);

    let after = api.update(patch(), &[]).await.unwrap();
    assert_eq!(after.max_calls, Some(10), "without a mask, what the request sets");
    assert_eq!(after.display_name, "main");

    assert_eq!(refusal(api.update(patch(), &["colour"]).await).0, Code::InvalidArgument);
    let reset = v1::Trunk {
        name: "trunks/main".into(),
        ..trunk("main", 8060)
    };
    assert_eq!(api.update(reset, &["*"]).await.unwrap().max_calls, None);
}

#[tokio::test]
async fn an_update_that_changes_nothing_makes_no_revision() {
    let api = Api::start().await;
    let before = api.trunk("main", 8060).await;
    let after = api.update(
        v1::Trunk {
            name: "trunks/main".into(),
            listen_port: Some(8060),
            ..Default::default()
        },
        &[],
    );
    assert_eq!(after.await.unwrap().etag, before.etag);
    assert_eq!(api.store.revision(), 1);
}

#[tokio::test]
async fn a_stale_etag_aborts_updates_and_deletions() {
    let api = Api::start().await;
    let first = api.trunk("main", 8060).await;
    let patch = |etag: &str, max_calls| v1::Trunk {
        name: "trunks/main".into(),
        etag: etag.to_owned(),
        max_calls: Some(max_calls),
        ..Default::default()
    };
    let second = api.update(patch(&first.etag, 5), &["max_calls"]).await.unwrap();
    let stale = api.update(patch(&first.etag, 6), &["max_calls"]).await;
    let current = stale.as_ref().unwrap_err().get_details_error_info().unwrap().metadata["current_etag"].clone();
    assert_eq!(refusal(stale), (Code::Aborted, "ETAG_MISMATCH".into()));
    assert_eq!(current, second.etag);

    let delete = |etag: &str| v1::DeleteTrunkRequest {
        name: "trunks/main".into(),
        etag: etag.to_owned(),
        ..Default::default()
    };
    assert_eq!(
        refusal(api.trunks().delete_trunk(delete(&first.etag)).await).0,
        Code::Aborted
    );
    api.trunks().delete_trunk(delete(&second.etag)).await.unwrap();
    assert_eq!(
        refusal(api.get("main").await),
        (Code::NotFound, "RESOURCE_NOT_FOUND".into())
    );
}

#[tokio::test]
async fn validate_only_checks_everything_and_stores_nothing() {
    let api = Api::start().await;
    api.trunk("main", 8060).await;
    let create = |id: &str, port| v1::CreateTrunkRequest {
        trunk_id: id.to_owned(),
        trunk: Some(trunk(id, port)),
        validate_only: true,
        ..Default::default()
    };
    let answer = api
        .trunks()
        .create_trunk(create("second", 8061))
        .await
        .unwrap()
        .into_inner()
        .trunk
        .unwrap();
    assert_eq!(answer.name, "trunks/second");
    assert_eq!(refusal(api.get("second").await).0, Code::NotFound);
    assert_eq!(
        refusal(api.trunks().create_trunk(create("second", 8060)).await).0,
        Code::AlreadyExists
    );

    let update = v1::UpdateTrunkRequest {
        trunk: Some(v1::Trunk {
            name: "trunks/main".into(),
            max_calls: Some(3),
            ..Default::default()
        }),
        validate_only: true,
        ..Default::default()
    };
    let answer = api
        .trunks()
        .update_trunk(update)
        .await
        .unwrap()
        .into_inner()
        .trunk
        .unwrap();
    assert_eq!(answer.max_calls, Some(3));
    assert_eq!(api.get("main").await.unwrap().max_calls, None);

    let delete = v1::DeleteTrunkRequest {
        name: "trunks/main".into(),
        validate_only: true,
        ..Default::default()
    };
    api.trunks().delete_trunk(delete).await.unwrap();
    assert!(api.get("main").await.is_ok());
    assert_eq!(api.store.revision(), 1);
    assert_eq!(api.audit("trunks/main").await.len(), 1, "only the creation");
}

#[tokio::test]
async fn a_repeated_request_id_answers_as_the_first_time() {
    let api = Api::start().await;
    let request = |port| v1::CreateTrunkRequest {
        trunk: Some(trunk("main", port)),
        request_id: "6f1c3f0e-8a0b-4a53-9d86-0c8b3bd9f3aa".into(),
        ..Default::default()
    };
    let first = api.trunks().create_trunk(request(8060)).await.unwrap().into_inner();
    let again = api.trunks().create_trunk(request(8060)).await.unwrap().into_inner();
    assert_eq!(again, first, "with the name that was chosen at random");
    assert_eq!(api.store.revision(), 1);
    assert_eq!(violated(api.trunks().create_trunk(request(8061)).await), ["request_id"]);

    let mut tx = api.store.write().await.unwrap();
    sqlx::query("UPDATE requests SET create_time = create_time - 86400001")
        .execute(tx.conn())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        refusal(api.trunks().create_trunk(request(8060)).await).1,
        "DISPLAY_NAME_IN_USE",
        "after 24 hours"
    );
}

#[tokio::test]
async fn pages_show_every_trunk_once() {
    let api = Api::start().await;
    for index in 0..7 {
        api.trunk(&format!("t{index}"), 9000 + index).await;
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListTrunksRequest {
            page_size: 3,
            page_token,
        };
        let page = api.trunks().list_trunks(request).await.unwrap().into_inner();
        assert!(page.trunks.len() <= 3);
        names.extend(page.trunks.into_iter().map(|trunk| trunk.name));
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    assert_eq!(
        names,
        (0..7).map(|index| format!("trunks/t{index}")).collect::<Vec<_>>()
    );
    let negative = v1::ListTrunksRequest {
        page_size: -1,
        page_token: "x".into(),
    };
    assert_eq!(
        violated(api.trunks().list_trunks(negative).await),
        ["page_size", "page_token"]
    );
}

#[tokio::test]
async fn a_trunk_in_use_is_not_removed_unless_forced_and_never_from_under_a_route() {
    let api = Api::start().await;
    api.trunk("main", 8060).await;
    api.credential("main", "alice", "wonderland").await;
    let line = v1::CreateLineRequest {
        parent: "trunks/main".into(),
        line_id: "carrier".into(),
        line: Some(v1::Line {
            host: "sip.example.com".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    api.lines().create_line(line).await.unwrap();
    let route = v1::CreateRouteRequest {
        route_id: "out".into(),
        route: Some(v1::Route {
            targets: vec![v1::RouteTarget {
                target: Some(v1::route_target::Target::Line("trunks/main/lines/carrier".into())),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    api.routes().create_route(route).await.unwrap();

    let delete = |force| v1::DeleteTrunkRequest {
        name: "trunks/main".into(),
        force,
        ..Default::default()
    };
    let status = api.trunks().delete_trunk(delete(false)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let mut referrers: Vec<String> = status
        .get_details_precondition_failure()
        .unwrap()
        .violations
        .into_iter()
        .map(|violation| violation.subject)
        .collect();
    referrers.sort();
    assert_eq!(
        referrers,
        [
            "routes/out",
            "trunks/main/credentials/alice",
            "trunks/main/lines/carrier"
        ]
    );
    assert_eq!(
        refusal(api.trunks().delete_trunk(delete(true)).await).1,
        "RESOURCE_IN_USE",
        "the route"
    );

    let line = v1::DeleteLineRequest {
        name: "trunks/main/lines/carrier".into(),
        ..Default::default()
    };
    assert_eq!(refusal(api.lines().delete_line(line).await).1, "RESOURCE_IN_USE");
    let route = v1::DeleteRouteRequest {
        name: "routes/out".into(),
        ..Default::default()
    };
    api.routes().delete_route(route).await.unwrap();

    let before = api.store.revision();
    api.trunks().delete_trunk(delete(true)).await.unwrap();
    let ChangesSince::Complete { changes, .. } = api.store.changes_since(before).await.unwrap() else {
        panic!("the log reaches back one revision")
    };
    let removed: Vec<&str> = changes.iter().map(|change| change.name.as_str()).collect();
    assert_eq!(
        removed,
        [
            "trunks/main",
            "trunks/main/credentials/alice",
            "trunks/main/lines/carrier"
        ]
    );
    assert!(
        changes
            .iter()
            .all(|change| change.operation == Operation::Remove && change.version == before + 1)
    );
}

#[tokio::test]
async fn a_route_to_nowhere_is_refused_by_name() {
    let api = Api::start().await;
    let route = v1::Route {
        r#match: Some(v1::RouteMatch {
            inbound_trunk: "trunks/nowhere".into(),
            ..Default::default()
        }),
        targets: vec![v1::RouteTarget {
            target: Some(v1::route_target::Target::Line("trunks/nowhere/lines/x".into())),
            ..Default::default()
        }],
        ..Default::default()
    };
    let request = v1::CreateRouteRequest {
        route_id: "out".into(),
        route: Some(route),
        ..Default::default()
    };
    let status = api.routes().create_route(request).await.unwrap_err();
    let violations = status.get_details_precondition_failure().unwrap().violations;
    let subjects: Vec<&str> = violations.iter().map(|violation| violation.subject.as_str()).collect();
    assert_eq!(subjects, ["trunks/nowhere", "trunks/nowhere/lines/x"]);
}

#[tokio::test]
async fn a_line_needs_its_trunk_and_lists_below_it() {
    let api = Api::start().await;
    api.trunk("a", 8060).await;
    api.trunk("a-b", 8061).await;
    let create = |trunk: &str, id: &str| v1::CreateLineRequest {
        parent: format!("trunks/{trunk}"),
        line_id: id.to_owned(),
        line: Some(v1::Line {
            host: "192.0.2.10".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(
        refusal(api.lines().create_line(create("none", "x")).await).0,
        Code::NotFound
    );
    for (trunk, id) in [("a", "x"), ("a", "y"), ("a-b", "z")] {
        api.lines().create_line(create(trunk, id)).await.unwrap();
    }
    let list = async |parent: &str| {
        let request = v1::ListLinesRequest {
            parent: parent.to_owned(),
            ..Default::default()
        };
        let lines = api.lines().list_lines(request).await.unwrap().into_inner().lines;
        lines.into_iter().map(|line| line.name).collect::<Vec<_>>()
    };
    assert_eq!(list("trunks/a").await, ["trunks/a/lines/x", "trunks/a/lines/y"]);
    assert_eq!(list("trunks/-").await.len(), 3);
}

#[tokio::test]
async fn revisions_have_no_gap_and_the_log_tells_every_change() {
    let api = Api::start().await;
    api.trunk("a", 8060).await;
    let _refused = api.create("a", trunk("a", 8060)).await.unwrap_err();
    api.trunk("b", 8061).await;
    api.update(
        v1::Trunk {
            name: "trunks/a".into(),
            max_calls: Some(1),
            ..Default::default()
        },
        &[],
    )
    .await
    .unwrap();
    api.trunks()
        .delete_trunk(v1::DeleteTrunkRequest {
            name: "trunks/b".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(api.store.revision(), 4);
    let mut view = api.store.read().await.unwrap();
    let log: Vec<(i64, String, bool)> =
        sqlx::query_as("SELECT revision, name, removed FROM change_log ORDER BY revision")
            .fetch_all(view.conn())
            .await
            .unwrap();
    let entry = |revision, name: &str, removed| (revision, name.to_owned(), removed);
    assert_eq!(
        log,
        [
            entry(1, "trunks/a", false),
            entry(2, "trunks/b", false),
            entry(3, "trunks/a", false),
            entry(4, "trunks/b", true)
        ]
    );
}

#[tokio::test]
async fn access_is_explained_by_the_deciding_entry() {
    let api = Api::start().await;
    let acl = v1::AccessControl {
        use_source_address: Some(true),
        allow: vec!["10.0.0.0/8".into(), "2001:db8::/32".into()],
        deny: vec!["10.1.0.0/16".into()],
        ..Default::default()
    };
    api.create(
        "main",
        v1::Trunk {
            acl: Some(acl),
            ..trunk("main", 8060)
        },
    )
    .await
    .unwrap();
    let explain = async |source: &str, via: &str| {
        let request = v1::ExplainAccessRequest {
            name: "trunks/main".into(),
            source_address: source.to_owned(),
            via: via.to_owned(),
        };
        api.trunks()
            .explain_access(request)
            .await
            .map(tonic::Response::into_inner)
    };
    let answer = explain("10.2.0.1", "").await.unwrap();
    assert!(answer.allowed);
    assert_eq!(
        (answer.decision(), answer.field.as_str()),
        (v1::AccessDecision::AllowEntry, "acl.allow[0]")
    );
    let answer = explain("10.1.2.3", "").await.unwrap();
    assert!(!answer.allowed);
    assert_eq!(
        (answer.decision(), answer.entry.as_str()),
        (v1::AccessDecision::DenyEntry, "10.1.0.0/16")
    );
    assert_eq!(
        explain("192.0.2.1", "").await.unwrap().decision(),
        v1::AccessDecision::NoMatch
    );
    assert_eq!(violated(explain("phone.example.com", "").await), ["source_address"]);

    let by_via = v1::AccessControl {
        use_source_address: Some(false),
        ..Default::default()
    };
    let patch = v1::Trunk {
        name: "trunks/main".into(),
        acl: Some(by_via),
        ..Default::default()
    };
    api.update(patch, &["acl.use_source_address"]).await.unwrap();
    assert_eq!(violated(explain("192.0.2.1", "").await), ["via"]);
    let answer = explain(
        "192.0.2.1",
        "SIP/2.0/UDP 203.0.113.1, SIP/2.0/UDP 10.3.0.1:5062;branch=z9hG4bK1",
    )
    .await
    .unwrap();
    assert_eq!((answer.allowed, answer.evaluated_address.as_str()), (true, "10.3.0.1"));
    let answer = explain("192.0.2.1", "SIP/2.0/UDP phone.example.com;branch=z9hG4bK1")
        .await
        .unwrap();
    assert_eq!(answer.decision(), v1::AccessDecision::NoAddress);
}

#[tokio::test]
async fn a_bad_parent_is_the_only_thing_wrong_with_a_good_line() {
    let api = Api::start().await;
    let request = v1::CreateLineRequest {
        parent: "trunk/main".into(),
        line: Some(v1::Line {
            host: "192.0.2.10".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(violated(api.lines().create_line(request).await), ["parent"]);
}
