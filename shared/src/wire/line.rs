//! Lines.

use trunkline_proto::{dataplane::v1 as dataplane, v1};

use super::check::{Findings, Violations, duration_to_wire};
use super::trunk::{host_to_wire, quotable, transport, transport_to_wire};
use crate::line::Line;
use crate::secret::Secret;

impl TryFrom<v1::Line> for Line {
    type Error = Violations;

    fn try_from(raw: v1::Line) -> Result<Self, Violations> {
        line(raw)
    }
}

/// Checks a line as written and answers it with every default filled in; the password, the etag and the times are
/// passed through.
pub fn effective_line(raw: v1::Line) -> Result<v1::Line, Violations> {
    let (etag, create_time, update_time) = (raw.etag.clone(), raw.create_time, raw.update_time);
    let line = line(raw)?;
    let auth_password = line.auth_password.expose().to_owned();
    Ok(v1::Line {
        auth_password,
        etag,
        create_time,
        update_time,
        ..line_to_wire(&line)
    })
}

/// Checks a line message and fills in every default. Errors name everything that is wrong.
pub fn line(raw: v1::Line) -> Result<Line, Violations> {
    let v1::Line {
        name,
        display_name,
        enabled,
        host,
        port,
        protocol,
        priority,
        weight,
        auth_username,
        auth_password,
        has_password,
        registration_interval,
        options_interval,
        registration_user,
        etag: _,
        create_time: _,
        update_time: _,
    } = raw;
    let mut f = Findings::default();
    let auth_password = Secret::new(auth_password);
    let name = f.ok("name", name.parse());
    f.text("display_name", &display_name, 0..=128);
    let host = f.ok("host", host.parse());
    let port = port.map(|port| f.number_u16("port", port, 1..=u16::MAX));
    let transport = transport(&mut f, "protocol", protocol);
    let priority = f.number_u16("priority", priority.unwrap_or(0), 0..=u16::MAX);
    let weight = f.number_u16("weight", weight.unwrap_or(1), 1..=u16::MAX);
    let has_password = has_password || !auth_password.is_empty();
    if !auth_username.is_empty() {
        quotable(&mut f, "auth_username", &auth_username, 128);
    } else if has_password {
        f.field("auth_username", "must be set with a password");
    }
    if !auth_password.is_empty() {
        f.text("auth_password", auth_password.expose(), 1..=128);
    }
    let registration_interval = f.interval("registration_interval", registration_interval, 60..=86_400);
    let options_interval = f.interval("options_interval", options_interval, 5..=3600);
    f.text("registration_user", &registration_user, 0..=128);
    if registration_interval.is_some() && registration_user.is_empty() && auth_username.is_empty() {
        f.field("registration_user", "must be set to register, or auth_username");
    }
    let line = name.zip(host).map(|(name, host)| Line {
        name,
        display_name: display_name.into(),
        enabled: enabled.unwrap_or(true),
        host,
        port,
        transport,
        priority,
        weight,
        auth_username: auth_username.into(),
        auth_password,
        has_password,
        registration_interval,
        options_interval,
        registration_user: registration_user.into(),
    });
    f.settle_some(line)
}

/// The message with every effective value, without the password; etag and times are the caller's.
pub fn line_to_wire(line: &Line) -> v1::Line {
    let Line {
        name,
        display_name,
        enabled,
        host,
        port,
        transport,
        priority,
        weight,
        auth_username,
        auth_password: _,
        has_password,
        registration_interval,
        options_interval,
        registration_user,
    } = line;
    v1::Line {
        name: name.to_string(),
        display_name: display_name.to_string(),
        enabled: Some(*enabled),
        host: host_to_wire(host),
        port: port.map(u32::from),
        protocol: transport
            .map_or(v1::TransportProtocol::Unspecified, transport_to_wire)
            .into(),
        priority: Some(u32::from(*priority)),
        weight: Some(u32::from(*weight)),
        auth_username: auth_username.to_string(),
        auth_password: String::new(),
        has_password: *has_password,
        registration_interval: registration_interval.map(duration_to_wire),
        options_interval: options_interval.map(duration_to_wire),
        registration_user: registration_user.to_string(),
        etag: String::new(),
        create_time: None,
        update_time: None,
    }
}

/// Reads a line with the password workers answer challenges with.
pub fn line_configuration(raw: dataplane::LineConfiguration) -> Result<Line, Violations> {
    let dataplane::LineConfiguration {
        line: raw,
        auth_password,
    } = raw;
    let auth_password = Secret::new(auth_password);
    let Some(raw) = raw else {
        let mut f = Findings::default();
        f.field("line", "must be set");
        return f.settle_some(None);
    };
    line(raw).map_err(|violations| violations.at("line.")).map(|line| Line {
        has_password: !auth_password.is_empty(),
        auth_password,
        ..line
    })
}

/// The message of a line with its password.
pub fn line_configuration_to_wire(line: &Line) -> dataplane::LineConfiguration {
    dataplane::LineConfiguration {
        line: Some(line_to_wire(line)),
        auth_password: line.auth_password.expose().to_owned(),
    }
}
