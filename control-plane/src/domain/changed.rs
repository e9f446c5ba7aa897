//! Which fields differ between two versions of a message, by path, for the audit log.
//!
//! Works on the encoded form and the descriptors of the contract, so a field added there is covered without a line here.

use std::{collections::HashMap, sync::LazyLock};

use prost::{
    Message,
    bytes::Buf,
    encoding::{WireType, decode_key, decode_varint},
};
use prost_types::{FileDescriptorSet, field_descriptor_proto};
use trunkline_proto::FILE_DESCRIPTOR_SET;

/// Fields the server sets itself: they always change and say nothing.
const BOOKKEEPING: [&str; 6] = ["name", "etag", "create_time", "update_time", "warnings", "status"];

/// Paths of the fields in which `before` and `after` differ; both are `message` (full name, e.g. `trunkline.v1.Trunk`).
/// Lists and maps count as one field.
pub fn changed_fields<M: Message>(message: &str, before: &M, after: &M) -> Vec<String> {
    let mut paths = Vec::new();
    differences(message, &before.encode_to_vec(), &after.encode_to_vec(), "", &mut paths);
    paths.retain(|path| !BOOKKEEPING.contains(&path.as_str()));
    paths
}

struct Field {
    name: String,
    repeated: bool,
    /// Full name of the message type, for message fields.
    message: Option<String>,
}

/// Fields by number, by message.
static CONTRACT: LazyLock<HashMap<String, HashMap<u32, Field>>> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the build wrote this descriptor set");
    let mut messages = HashMap::new();
    for file in set.file {
        let package = file.package().to_owned();
        for message in file.message_type {
            let fields = message.field.iter().filter_map(|field| {
                let number = u32::try_from(field.number()).ok()?;
                let repeated = field.label() == field_descriptor_proto::Label::Repeated;
                let message = (field.r#type() == field_descriptor_proto::Type::Message)
                    .then(|| field.type_name().trim_start_matches('.').to_owned());
                Some((
                    number,
                    Field {
                        name: field.name().to_owned(),
                        repeated,
                        message,
                    },
                ))
            });
            let fields: HashMap<u32, Field> = fields.collect();
            messages.insert(format!("{package}.{}", message.name()), fields);
        }
    }
    messages
});

fn differences(message: &str, before: &[u8], after: &[u8], prefix: &str, paths: &mut Vec<String>) {
    let (before, after) = (split(before), split(after));
    let mut numbers: Vec<u32> = before.keys().chain(after.keys()).copied().collect();
    numbers.sort_unstable();
    numbers.dedup();
    for number in numbers {
        let (old, new) = (before.get(&number), after.get(&number));
        if old == new {
            continue;
        }
        let Some(field) = CONTRACT.get(message).and_then(|fields| fields.get(&number)) else {
            paths.push(format!("{prefix}{number}"));
            continue;
        };
        let path = format!("{prefix}{}", field.name);
        match &field.message {
            Some(inner) if !field.repeated && inner.starts_with("trunkline.") => {
                let content = |values: Option<&Vec<Vec<u8>>>| values.map(|values| values.concat()).unwrap_or_default();
                differences(inner, &content(old), &content(new), &format!("{path}."), paths);
            }
            _ => paths.push(path),
        }
    }
}

/// Values by field number, in order; the content alone for length-delimited ones.
fn split(mut message: &[u8]) -> HashMap<u32, Vec<Vec<u8>>> {
    let mut fields: HashMap<u32, Vec<Vec<u8>>> = HashMap::new();
    while message.has_remaining() {
        let Ok((number, wire_type)) = decode_key(&mut message) else {
            break;
        };
        let length = match wire_type {
            WireType::Varint => match decode_varint(&mut message) {
                Ok(value) => {
                    fields.entry(number).or_default().push(value.to_le_bytes().to_vec());
                    continue;
                }
                Err(_) => break,
            },
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => match decode_varint(&mut message).map(usize::try_from) {
                Ok(Ok(length)) => length,
                _ => break,
            },
            // Groups do not exist in proto3.
            WireType::StartGroup | WireType::EndGroup => break,
        };
        let Some((value, rest)) = message.split_at_checked(length) else {
            break;
        };
        fields.entry(number).or_default().push(value.to_vec());
        message = rest;
    }
    fields
}

#[cfg(test)]
mod tests {
    use trunkline_proto::v1;

    use super::*;

    fn changed(before: &v1::Trunk, after: &v1::Trunk) -> Vec<String> {
        changed_fields("trunkline.v1.Trunk", before, after)
    }

    #[test]
    fn nothing_changed_is_nothing_listed() {
        let trunk = v1::Trunk {
            max_calls: Some(4),
            ..Default::default()
        };
        assert!(changed(&trunk, &trunk.clone()).is_empty());
    }

    #[test]
    fn paths_reach_into_messages_and_stop_at_lists() {
        let before = v1::Trunk {
            acl: Some(v1::AccessControl {
                allow: vec!["192.0.2.1".into()],
                ..Default::default()
            }),
            max_calls: Some(4),
            ..Default::default()
        };
        let after = v1::Trunk {
            acl: Some(v1::AccessControl {
                allow: vec!["192.0.2.1".into(), "192.0.2.2".into()],
                allow_all: Some(false),
                ..Default::default()
            }),
            tls: Some(v1::TlsSettings {
                version: 5,
                ..Default::default()
            }),
            max_dial_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(
            changed(&before, &after),
            [
                "acl.allow",
                "acl.allow_all",
                "max_calls",
                "max_dial_timeout",
                "tls.version"
            ]
        );
    }

    #[test]
    fn the_servers_own_fields_are_left_out() {
        let after = v1::Trunk {
            etag: "x".into(),
            update_time: Some(Default::default()),
            ..Default::default()
        };
        assert!(changed(&v1::Trunk::default(), &after).is_empty());
    }
}
