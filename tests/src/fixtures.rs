//! What tests configure.

use std::net::IpAddr;

use anyhow::{Context, Result};
use trunkline_proto::v1::custom_property::Value;
use trunkline_proto::v1::{
    AccessControl, BatchCreateDigestCredentialsRequest, Codec, CreateDigestCredentialRequest, CreateRouteRequest,
    CreateTrunkRequest, CustomProperty, DigestCredential, InboundDigest, Route, TransportProtocol, Trunk,
};

use crate::api::Api;

/// Realm and domain of the trunks of tests.
pub const REALM: &str = "phones.test";

/// A trunk for phones on this machine, with digest, quick enough for a load generator.
///
/// Challenges offer MD5 only: the SIP clients of Debian give up on a first challenge they do not know.
pub fn trunk(display_name: &str, protocol: TransportProtocol, port: u16) -> Trunk {
    Trunk {
        display_name: display_name.to_owned(),
        protocol: protocol.into(),
        listen_port: Some(port.into()),
        domains: vec![REALM.to_owned()],
        acl: Some(AccessControl {
            allow: vec!["127.0.0.0/8".to_owned()],
            ..Default::default()
        }),
        inbound_digest: Some(InboundDigest {
            enabled: Some(true),
            realm: REALM.to_owned(),
            ..Default::default()
        }),
        max_registration_rate: Some("2000/1s".to_owned()),
        max_call_rate: Some("2000/1s".to_owned()),
        codecs: vec![Codec::Pcma.into(), Codec::Pcmu.into()],
        custom_properties: vec![CustomProperty {
            name: "digest.algorithms".to_owned(),
            value: Some(Value::TextValue("MD5".to_owned())),
        }],
        ..Default::default()
    }
}

/// Creates a trunk; returns it with its effective values.
///
/// # Errors
/// As the API says.
pub async fn create_trunk(api: &Api, id: &str, trunk: Trunk) -> Result<Trunk> {
    let request = CreateTrunkRequest {
        trunk_id: id.to_owned(),
        trunk: Some(trunk),
        ..Default::default()
    };
    api.trunks()
        .create_trunk(request)
        .await?
        .into_inner()
        .trunk
        .context("CreateTrunk without a trunk")
}

/// A user of a trunk.
#[derive(Debug, Clone)]
pub struct User {
    /// User name, which is also the user of its address of record.
    pub name: String,
    /// Password.
    pub password: String,
}

/// Users `first`, `first + 1` … by number: name `u01000`, password `secret-1000`.
pub fn users(first: u32, count: u32) -> Vec<User> {
    (first..first + count)
        .map(|number| User {
            name: format!("u{number:05}"),
            password: format!("secret-{number}"),
        })
        .collect()
}

/// Creates credentials for users of a trunk.
///
/// # Errors
/// As the API says.
pub async fn create_users(api: &Api, trunk: &str, users: &[User]) -> Result<()> {
    for chunk in users.chunks(1000) {
        let requests = chunk.iter().map(|user| CreateDigestCredentialRequest {
            digest_credential_id: user.name.clone(),
            digest_credential: Some(DigestCredential {
                username: user.name.clone(),
                password: user.password.clone(),
                ..Default::default()
            }),
            ..Default::default()
        });
        let request = BatchCreateDigestCredentialsRequest {
            parent: trunk.to_owned(),
            requests: requests.collect(),
        };
        api.credentials().batch_create_digest_credentials(request).await?;
    }
    Ok(())
}

/// Creates a route.
///
/// # Errors
/// As the API says.
pub async fn create_route(api: &Api, id: &str, route: Route) -> Result<()> {
    let request = CreateRouteRequest {
        route_id: id.to_owned(),
        route: Some(route),
        ..Default::default()
    };
    api.routes().create_route(request).await?;
    Ok(())
}

/// Where phones of tests are: a loopback address, since Debian's softphone sends its media from the one of the route.
pub const PHONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
