//! `trunkline check`: test phones register, call each other, and say what they heard.

mod records;
mod table;
mod verdict;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::oneshot;
use trunkline_proto::v1::GetTrunkRequest;
use trunkline_sip::status::StatusCode;

use crate::api::Api;
use crate::examples::{TLS_TRUNK_ID, UDP_TRUNK_ID};
use crate::options::{CheckOptions, UdpAddress};
use crate::phone::{Account, CallReport, Phone, PhoneError, Registered, Server, Talk, tls_config};
use crate::state::{SamplePhone, State};

/// What the caller sends and the callee expects, in Hz. Both tones have a whole number of periods in 100 ms.
const CALLER_TONE: f32 = 440.0;
/// What the callee sends and the caller expects, in Hz.
const CALLEE_TONE: f32 = 620.0;
/// Asked for by the phones: longer than any check, short enough to vanish soon after one that died.
const EXPIRES: Duration = Duration::from_secs(300);
/// Longest wait of a callee for its call.
const PATIENCE: Duration = Duration::from_secs(15);
/// Phones a trunk needs.
const PHONES: usize = 2;

/// Which phone calls which, by their place in the list: the two UDP phones come first, then the two TLS phones.
const CALLS: [(usize, usize); 4] = [(0, 1), (2, 3), (0, 2), (3, 1)];
/// The same where there are the UDP phones alone.
const UDP_CALLS: [(usize, usize); 2] = [(0, 1), (1, 0)];

/// A phone with what is expected of it.
struct Tester {
    phone: Phone,
    trunk: &'static str,
    protocol: &'static str,
    secure: bool,
    /// Has something to remove at the end.
    registered: bool,
}

/// One call as both ends saw it.
#[derive(Debug)]
struct Observation {
    caller: End,
    callee: End,
}

/// One end of a call.
#[derive(Debug)]
struct End {
    user: String,
    trunk: &'static str,
    protocol: &'static str,
    secure: bool,
    report: CallReport,
}

/// Runs the whole check and prints what it saw.
///
/// # Errors
/// What was off, all of it where several things were.
pub async fn run(options: &CheckOptions) -> Result<()> {
    let (state, api) = Api::open(&options.access).await?;
    let udp = match options.sip {
        Some(UdpAddress(address)) => address,
        None => listener(&api, UDP_TRUNK_ID).await?,
    };
    let mut servers = vec![(UDP_TRUNK_ID, Server::Udp(udp))];
    let calls = if options.udp_only {
        &UDP_CALLS[..]
    } else {
        let tls = match options.tls {
            Some(address) => address,
            None => listener(&api, TLS_TRUNK_ID).await?,
        };
        let ca_file = state.ca_file();
        let trusted = tls_config(&ca_file).with_context(|| format!("read {}", ca_file.display()))?;
        servers.push((TLS_TRUNK_ID, Server::Tls(tls, trusted)));
        &CALLS[..]
    };
    let accounts = state.read_phones()?;
    let mut testers = Vec::with_capacity(PHONES * servers.len());
    for (trunk, server) in servers {
        testers.extend(open(&state, &accounts, trunk, &server).await?);
    }

    println!(
        "\nCheck: {} phones, {} calls of {} s",
        testers.len(),
        calls.len(),
        options.talk.as_secs()
    );
    let outcome = exercise(&api, &mut testers, calls, options.talk).await;
    // Whatever happened, nothing of the check stays registered.
    let removed = unregister(&mut testers).await;
    let calls = outcome?;
    removed?;

    let mut faults: Vec<String> = calls.iter().flat_map(verdict::faults).collect();
    faults.extend(records::registrations_gone(&api, &testers).await?);
    for call in &calls {
        faults.extend(records::call(&api, call).await?);
    }
    print!("{}", table::calls(&calls));
    if faults.is_empty() {
        println!("\nCheck passed: calls, tones both ways, call records and registrations are as they should be.");
        return Ok(());
    }
    bail!("the check failed:\n  {}", faults.join("\n  "))
}

/// Where a trunk listens, as the first worker that has it bound says.
async fn listener(api: &Api, trunk: &str) -> Result<SocketAddr> {
    let request = GetTrunkRequest {
        name: format!("trunks/{trunk}"),
    };
    let response = api
        .trunks()
        .get_trunk(request)
        .await
        .with_context(|| format!("look up trunks/{trunk}"))?;
    let status = response
        .into_inner()
        .trunk
        .and_then(|trunk| trunk.status)
        .unwrap_or_default();
    let bound = status.listeners.iter().find(|listener| listener.bound);
    let address = &bound
        .with_context(|| format!("no worker listens for trunks/{trunk}"))?
        .address;
    address
        .parse()
        .with_context(|| format!("read the address `{address}` of trunks/{trunk}"))
}

async fn open(state: &State, accounts: &[SamplePhone], trunk: &'static str, server: &Server) -> Result<Vec<Tester>> {
    let accounts: Vec<&SamplePhone> = accounts
        .iter()
        .filter(|phone| phone.trunk == trunk)
        .take(PHONES)
        .collect();
    if accounts.len() < PHONES {
        bail!(
            "{} names fewer than {PHONES} phones of {trunk}",
            state.phones_file().display()
        );
    }
    let mut testers = Vec::with_capacity(PHONES);
    for account in accounts {
        let account = Account {
            user: account.user.clone(),
            password: account.password.clone(),
        };
        let phone = Phone::open(account, server).await?;
        let (protocol, secure) = match server {
            Server::Udp(_) => ("UDP", false),
            Server::Tls(..) => ("TLS", true),
        };
        testers.push(Tester {
            phone,
            trunk,
            protocol,
            secure,
            registered: false,
        });
    }
    Ok(testers)
}

/// Registrations, then the calls one after another.
async fn exercise(
    api: &Api,
    testers: &mut [Tester],
    pairs: &[(usize, usize)],
    talk: Duration,
) -> Result<Vec<Observation>> {
    for tester in testers.iter_mut() {
        let registered = tester.phone.register(EXPIRES).await;
        let Registered {
            expires,
            algorithm,
            took,
        } = registered.map_err(|error| error_of(tester, "register", error))?;
        tester.registered = true;
        let algorithm = algorithm
            .ok_or_else(|| anyhow!("{} was registered without a password", tester.phone.user()))?
            .as_str();
        println!(
            "  {} registered on {} over {} in {:.1} ms, digest {algorithm}, for {} s",
            tester.phone.user(),
            tester.trunk,
            tester.protocol,
            took.as_secs_f64() * 1000.0,
            expires.as_secs(),
        );
    }
    records::registrations_seen(api, testers).await?;
    let mut calls = Vec::with_capacity(pairs.len());
    for &(caller, callee) in pairs {
        let [caller, callee] = testers.get_disjoint_mut([caller, callee]).context("pick two phones")?;
        calls.push(call(caller, callee, talk).await?);
    }
    Ok(calls)
}

async fn call(caller: &mut Tester, callee: &mut Tester, duration: Duration) -> Result<Observation> {
    let dialled = callee.phone.user().to_owned();
    let out = Talk {
        send: CALLER_TONE,
        expect: CALLEE_TONE,
        duration,
    };
    let back = Talk {
        send: CALLEE_TONE,
        expect: CALLER_TONE,
        duration,
    };
    let (over, hung_up) = oneshot::channel::<()>();
    let calling = async {
        let called = caller.phone.call(&dialled, &out).await;
        drop(over);
        called.map_err(|error| ("call", true, error))
    };
    let answering = async {
        let answered = callee.phone.answer(&back, PATIENCE).await;
        let answered = answered.map_err(|error| ("answer", false, error))?;
        // The caller's BYE may have to be answered again.
        callee
            .phone
            .attend(hung_up)
            .await
            .map_err(|error| ("end the call", false, error))?;
        Ok(answered)
    };
    let ended = tokio::try_join!(calling, answering);
    match ended {
        Ok((called, answered)) => Ok(Observation {
            caller: End::of(caller, called),
            callee: End::of(callee, answered),
        }),
        Err((what, is_caller, error)) => {
            let pair = format!("in the call from {} to {dialled}", caller.phone.user());
            let tester = if is_caller { caller } else { callee };
            Err(error_of(tester, what, error).context(pair))
        }
    }
}

/// Tries all, and reports the first that failed.
async fn unregister(testers: &mut [Tester]) -> Result<()> {
    let mut outcome = Ok(());
    for tester in testers.iter_mut().filter(|tester| tester.registered) {
        if let Err(error) = tester.phone.unregister().await {
            outcome = outcome.and(Err(error_of(tester, "unregister", error)));
        }
    }
    outcome
}

fn error_of(tester: &Tester, what: &str, error: PhoneError) -> anyhow::Error {
    let hint = match &error {
        PhoneError::Refused {
            status: StatusCode::FORBIDDEN,
            ..
        } => {
            format!(
                "does the access list of trunks/{} let {} in?",
                tester.trunk,
                tester.phone.local().ip()
            )
        }
        PhoneError::Credentials { .. } => {
            "was the password changed? `trunkline up` reads it anew when its line in the file of phones is deleted"
                .into()
        }
        _ => String::new(),
    };
    let mut error = anyhow::Error::from(error);
    if !hint.is_empty() {
        error = anyhow!("{error:#} ({hint})");
    }
    error.context(format!(
        "{} ({} over {}) cannot {what}",
        tester.phone.user(),
        tester.trunk,
        tester.protocol
    ))
}

impl End {
    fn of(tester: &Tester, report: CallReport) -> Self {
        Self {
            user: tester.phone.user().to_owned(),
            trunk: tester.trunk,
            protocol: tester.protocol,
            secure: tester.secure,
            report,
        }
    }
}
