//! The sample configuration of `examples/`, sent over the API as anybody would.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use rand::RngExt as _;
use tonic::{Code, Status};
use trunkline_proto::FILE_DESCRIPTOR_SET;
use trunkline_proto::v1::{
    BatchCreateDigestCredentialsRequest, CreateDigestCredentialRequest, CreateRouteRequest, CreateTrunkRequest,
    GetTrunkRequest, RevealDigestCredentialPasswordRequest, TransportProtocol, Trunk, UpdateTrunkRequest,
};
use trunkline_shared::secret::Secret;

use crate::api::Api;
use crate::options::ExamplesOptions;
use crate::state::{SamplePhone, State};

const UDP_TRUNK: &str = include_str!("../../examples/udp-trunk.json");
const TLS_TRUNK: &str = include_str!("../../examples/tls-trunk.json");
const PHONES: [&str; 2] = [
    include_str!("../../examples/udp-phones.json"),
    include_str!("../../examples/tls-phones.json"),
];
const ROUTES: [&str; 2] = [
    include_str!("../../examples/udp-to-tls-route.json"),
    include_str!("../../examples/tls-to-udp-route.json"),
];

const CREATE_TRUNK: &str = "trunkline.v1.CreateTrunkRequest";
const CREATE_PHONES: &str = "trunkline.v1.BatchCreateDigestCredentialsRequest";
const CREATE_ROUTE: &str = "trunkline.v1.CreateRouteRequest";

/// Trunk of the sample phones that use UDP.
pub const UDP_TRUNK_ID: &str = "sample-udp";
/// Trunk of those that use TLS.
pub const TLS_TRUNK_ID: &str = "sample-tls";

/// A sample trunk as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Last segment of its name.
    pub id: String,
    /// Transport of its listener.
    pub protocol: TransportProtocol,
    /// Port of its listener.
    pub port: u16,
    /// Users of its phones.
    pub users: Vec<String>,
}

impl Sample {
    /// Resource name.
    pub fn name(&self) -> String {
        format!("trunks/{}", self.id)
    }
}

/// Where the samples listen, as far as somebody said so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Placement {
    /// Port of the UDP trunk.
    pub udp_port: Option<u16>,
    /// Port of the TLS trunk.
    pub tls_port: Option<u16>,
    /// An address that is let in, whatever else is.
    pub admit: Option<IpAddr>,
}

/// `trunkline examples`.
///
/// # Errors
/// As [`apply`], or the control plane cannot be reached.
pub async fn run(options: &ExamplesOptions) -> Result<()> {
    let (state, api) = Api::open(&options.access).await?;
    let placement = Placement {
        udp_port: options.sip_port,
        tls_port: options.tls_port,
        admit: None,
    };
    for sample in apply(&api, &state, &placement).await? {
        println!(
            "{}: port {}, phones {}",
            sample.name(),
            sample.port,
            sample.users.join(" and ")
        );
    }
    println!("Passwords: {}", state.phones_file().display());
    Ok(())
}

/// Creates what is missing and leaves what is there as it is, but for ports given on the command line. Passwords are made here
/// and kept in the file of phones.
///
/// # Errors
/// The API refuses, or the file cannot be written.
pub async fn apply(api: &Api, state: &State, placement: &Placement) -> Result<Vec<Sample>> {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).context("read the descriptors of the API")?;
    let mut samples = Vec::new();
    for (text, port) in [(UDP_TRUNK, placement.udp_port), (TLS_TRUNK, placement.tls_port)] {
        let mut request: CreateTrunkRequest = read(&pool, CREATE_TRUNK, text)?;
        if let Some(own) = placement.admit {
            admit(&mut request, own);
        }
        samples.push(ensure_trunk(api, request, port).await?);
    }
    let mut phones = state.read_phones()?;
    for text in PHONES {
        let batch: BatchCreateDigestCredentialsRequest = read(&pool, CREATE_PHONES, text)?;
        let sample = samples.iter_mut().find(|sample| sample.name() == batch.parent);
        let sample = sample.with_context(|| format!("find {} among the sample trunks", batch.parent))?;
        for request in batch.requests {
            sample
                .users
                .push(ensure_phone(api, &sample.id, request, &mut phones).await?);
            // At once: a password that is set but not written down would have to be revealed again.
            state.write_phones(&phones)?;
        }
    }
    for text in ROUTES {
        let request: CreateRouteRequest = read(&pool, CREATE_ROUTE, text)?;
        let name = format!("routes/{}", request.route_id);
        let created = api.routes().create_route(request).await.map(drop);
        created
            .or_else(|status| exists(&status))
            .with_context(|| format!("create {name}"))?;
    }
    Ok(samples)
}

/// The samples let loopback and private networks in; phones on this machine come from its own address, which may be neither.
fn admit(request: &mut CreateTrunkRequest, own: IpAddr) {
    let covered = match own {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local(),
    };
    if !covered && let Some(acl) = request.trunk.as_mut().and_then(|trunk| trunk.acl.as_mut()) {
        acl.allow.push(own.to_string());
    }
}

async fn ensure_trunk(api: &Api, mut request: CreateTrunkRequest, port: Option<u16>) -> Result<Sample> {
    let name = format!("trunks/{}", request.trunk_id);
    let trunk = request
        .trunk
        .as_mut()
        .with_context(|| format!("read the sample {name}"))?;
    trunk.listen_port = port.map(u32::from).or(trunk.listen_port);
    let trunk = match api.trunks().create_trunk(request).await {
        Ok(response) => response.into_inner().trunk,
        Err(status) if status.code() == Code::AlreadyExists => {
            let found = api.trunks().get_trunk(GetTrunkRequest { name: name.clone() }).await;
            // Its display name or port may belong to another trunk: then the first answer explains.
            match found {
                Ok(response) => response.into_inner().trunk,
                Err(_) => bail!("create {name}: {}", status.message()),
            }
        }
        Err(status) => return Err(status).with_context(|| format!("create {name}")),
    };
    let mut trunk = trunk.with_context(|| format!("read {name} in the answer"))?;
    if let Some(port) = port.map(u32::from)
        && trunk.listen_port() != port
    {
        let update = move_listener(&trunk, port);
        let response = api
            .trunks()
            .update_trunk(update)
            .await
            .with_context(|| format!("move {name} to port {port}"))?;
        trunk = response
            .into_inner()
            .trunk
            .with_context(|| format!("read {name} in the answer"))?;
    }
    Ok(Sample {
        id: name.trim_start_matches("trunks/").to_owned(),
        protocol: trunk.protocol(),
        port: u16::try_from(trunk.listen_port()).with_context(|| format!("read the port of {name}"))?,
        users: Vec::new(),
    })
}

fn move_listener(trunk: &Trunk, port: u32) -> UpdateTrunkRequest {
    UpdateTrunkRequest {
        trunk: Some(Trunk {
            name: trunk.name.clone(),
            etag: trunk.etag.clone(),
            listen_port: Some(port),
            ..Trunk::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["listen_port".into()],
        }),
        ..UpdateTrunkRequest::default()
    }
}

/// The user of the credential, whose password is in `phones` afterwards.
async fn ensure_phone(
    api: &Api,
    trunk: &str,
    mut request: CreateDigestCredentialRequest,
    phones: &mut Vec<SamplePhone>,
) -> Result<String> {
    let name = format!("trunks/{trunk}/credentials/{}", request.digest_credential_id);
    request.parent = format!("trunks/{trunk}");
    let credential = request
        .digest_credential
        .as_mut()
        .with_context(|| format!("read the sample {name}"))?;
    let user = credential.username.clone();
    let known = phones
        .iter()
        .position(|phone| phone.trunk == trunk && phone.user == user);
    let password = known.map_or_else(new_password, |index| phones[index].password.clone());
    password.expose().clone_into(&mut credential.password);
    let password = match api.credentials().create_digest_credential(request).await {
        Ok(_) => password,
        Err(status) if status.code() == Code::AlreadyExists && known.is_some() => password,
        Err(status) if status.code() == Code::AlreadyExists => {
            let reveal = RevealDigestCredentialPasswordRequest { name: name.clone() };
            match api.credentials().reveal_digest_credential_password(reveal).await {
                Ok(response) => Secret::new(response.into_inner().password),
                Err(_) => bail!("create {name}: {}", status.message()),
            }
        }
        Err(status) => return Err(status).with_context(|| format!("create {name}")),
    };
    match known {
        Some(index) => phones[index].password = password,
        None => phones.push(SamplePhone {
            trunk: trunk.to_owned(),
            user: user.clone(),
            password,
        }),
    }
    Ok(user)
}

/// What is there already stays as it is.
fn exists(status: &Status) -> Result<(), Status> {
    if status.code() == Code::AlreadyExists {
        Ok(())
    } else {
        Err(status.clone())
    }
}

/// A request, by its full name, from its canonical JSON form.
fn read<M: Message + Default>(pool: &DescriptorPool, name: &str, text: &str) -> Result<M> {
    let descriptor = pool
        .get_message_by_name(name)
        .with_context(|| format!("find {name} in the API"))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let message =
        DynamicMessage::deserialize(descriptor, &mut deserializer).with_context(|| format!("read a sample {name}"))?;
    deserializer.end().with_context(|| format!("read a sample {name}"))?;
    message.transcode_to().with_context(|| format!("read a sample {name}"))
}

/// 79 random bits in letters and digits that are easily told apart, because people type them into phones.
fn new_password() -> Secret {
    const LETTERS: &[u8; 31] = b"abcdefghjkmnpqrstuvwxyz23456789";
    let mut rng = rand::rng();
    Secret::new(
        (0..16)
            .map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> DescriptorPool {
        DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap()
    }

    #[test]
    fn every_example_is_a_request_of_the_api() {
        let pool = pool();
        let udp: CreateTrunkRequest = read(&pool, CREATE_TRUNK, UDP_TRUNK).unwrap();
        let tls: CreateTrunkRequest = read(&pool, CREATE_TRUNK, TLS_TRUNK).unwrap();
        assert_eq!(
            (udp.trunk_id.as_str(), tls.trunk_id.as_str()),
            (UDP_TRUNK_ID, TLS_TRUNK_ID)
        );
        let (udp, tls) = (udp.trunk.unwrap(), tls.trunk.unwrap());
        assert_eq!((udp.listen_port(), tls.listen_port()), (8060, 8061));
        assert_eq!(
            (udp.protocol(), tls.protocol()),
            (TransportProtocol::Udp, TransportProtocol::Tls)
        );
        for trunk in [udp, tls] {
            let acl = trunk.acl.unwrap();
            assert!(
                !acl.allow.is_empty() && !acl.allow_all(),
                "the samples are not open to everybody"
            );
            assert!(trunk.inbound_digest.unwrap().enabled());
        }
        for text in PHONES {
            let batch: BatchCreateDigestCredentialsRequest = read(&pool, CREATE_PHONES, text).unwrap();
            assert_eq!(batch.requests.len(), 2);
            for request in batch.requests {
                assert!(
                    request.digest_credential.unwrap().password.is_empty(),
                    "no password is published"
                );
            }
        }
        for text in ROUTES {
            let route: CreateRouteRequest = read(&pool, CREATE_ROUTE, text).unwrap();
            assert_eq!(route.route.unwrap().targets.len(), 1);
        }
    }

    #[test]
    fn the_machines_own_address_is_let_in_where_the_sample_does_not_do_so_already() {
        for (own, added) in [
            ("127.0.0.1", 0),
            ("192.168.1.2", 0),
            ("fd00::1", 0),
            ("192.0.2.2", 1),
            ("2001:db8::1", 1),
        ] {
            let mut request: CreateTrunkRequest = read(&pool(), CREATE_TRUNK, UDP_TRUNK).unwrap();
            let before = request.trunk.clone().unwrap().acl.unwrap().allow.len();
            admit(&mut request, own.parse().unwrap());
            let allow = request.trunk.unwrap().acl.unwrap().allow;
            assert_eq!(allow.len() - before, added, "{own}");
            assert!(added == 0 || allow.last().is_some_and(|last| last == own));
        }
    }

    #[test]
    fn a_misspelt_field_is_refused() {
        let text = UDP_TRUNK.replace("\"listenPort\"", "\"listenPrt\"");
        let error = read::<CreateTrunkRequest>(&pool(), CREATE_TRUNK, &text).unwrap_err();
        assert!(format!("{error:#}").contains("listenPrt"), "{error:#}");
    }

    #[test]
    fn moving_a_listener_touches_nothing_else() {
        let trunk = Trunk {
            name: "trunks/a".into(),
            etag: "e".into(),
            display_name: "A".into(),
            ..Trunk::default()
        };
        let update = move_listener(&trunk, 9060);
        let sent = update.trunk.unwrap();
        assert_eq!(
            (sent.etag.as_str(), sent.listen_port(), sent.display_name.as_str()),
            ("e", 9060, "")
        );
        assert_eq!(update.update_mask.unwrap().paths, ["listen_port"]);
    }

    #[test]
    fn passwords_are_long_and_differ() {
        let (one, other) = (new_password(), new_password());
        assert_eq!(one.expose().len(), 16);
        assert_ne!(one, other);
    }
}
