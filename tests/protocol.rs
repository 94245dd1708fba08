//! The gate of the protocol: what was released stays as it was. `proto/synchromesh/v1/released.txt` has a
//! line for each part of the protocol; `SYNCHROMESH_BLESS=1 cargo test --test protocol` adds those of
//! new parts, and changes no other line.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use std::{collections::BTreeSet, fs, path::Path};
use synchromesh::proto::DESCRIPTORS;

/// The parts of the protocol, a line each.
fn parts(file: &FileDescriptorProto) -> BTreeSet<String> {
    let mut parts = BTreeSet::new();
    file.service.iter().for_each(|service| add_service(&mut parts, service));
    file.message_type.iter().for_each(|message| add_message(&mut parts, "", message));
    file.enum_type.iter().for_each(|values| add_enum(&mut parts, "", values));
    parts
}

fn add_service(parts: &mut BTreeSet<String>, service: &ServiceDescriptorProto) {
    for method in &service.method {
        let stream = |streams: bool| if streams { "stream " } else { "" };
        parts.insert(format!(
            "rpc {}.{} ({}{}) ({}{})",
            service.name(),
            method.name(),
            stream(method.client_streaming()),
            method.input_type(),
            stream(method.server_streaming()),
            method.output_type(),
        ));
    }
}

fn add_message(parts: &mut BTreeSet<String>, outer: &str, message: &DescriptorProto) {
    let name = format!("{outer}{}", message.name());
    parts.insert(format!("message {name}"));
    for field in &message.field {
        parts.insert(format!("field {name} {} {}", field.number(), shape(message, field)));
    }
    for range in &message.reserved_range {
        let numbers = range.start()..range.end();
        parts.extend(numbers.map(|number| format!("reserved {name} {number}")));
    }
    parts.extend(message.reserved_name.iter().map(|field| format!("reserved {name} {field}")));
    let inner = format!("{name}.");
    message.nested_type.iter().for_each(|nested| add_message(parts, &inner, nested));
    message.enum_type.iter().for_each(|values| add_enum(parts, &inner, values));
}

/// A field's name and what it is.
fn shape(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let oneof = field.oneof_index.map(|at| message.oneof_decl[at as usize].name());
    let how = match (field.label(), oneof) {
        (Label::Repeated, _) => "repeated ".to_owned(),
        _ if field.proto3_optional() => "optional ".to_owned(),
        (_, Some(oneof)) => format!("oneof {oneof} "),
        _ => String::new(),
    };
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().to_owned(),
        kind => kind.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    format!("{} {how}{kind}", field.name())
}

fn add_enum(parts: &mut BTreeSet<String>, outer: &str, values: &EnumDescriptorProto) {
    let name = format!("{outer}{}", values.name());
    parts.insert(format!("enum {name}"));
    for value in &values.value {
        parts.insert(format!("value {name} {} {}", value.number(), value.name()));
    }
    for range in &values.reserved_range {
        // Of enums, the end is part of the range.
        let numbers = range.start()..=range.end();
        parts.extend(numbers.map(|number| format!("reserved {name} {number}")));
    }
    parts.extend(values.reserved_name.iter().map(|value| format!("reserved {name} {value}")));
}

/// What was released and is not there any more. A field or a value may go if its number and its name
/// are reserved.
fn broken(released: &BTreeSet<String>, now: &BTreeSet<String>) -> Vec<String> {
    let is_reserved = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let [kind, of, number, name, ..] = words[..] else { return false };
        let reserved = |what: &str| now.contains(&format!("reserved {of} {what}"));
        ["field", "value"].contains(&kind) && reserved(number) && reserved(name)
    };
    let gone = released.difference(now).filter(|line| !is_reserved(line));
    gone.cloned().collect()
}

fn now() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let ours = |file: &&FileDescriptorProto| file.package() == "synchromesh.v1";
    set.file.iter().filter(ours).flat_map(parts).collect()
}

#[test]
fn the_protocol_is_what_was_released_and_what_is_new_is_noted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/synchromesh/v1/released.txt");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let (released, now): (BTreeSet<String>, _) = (text.lines().map(str::to_owned).collect(), now());
    let broken = broken(&released, &now);
    assert!(broken.is_empty(), "clients that were released rely on this:\n{}", broken.join("\n"));
    if std::env::var_os("SYNCHROMESH_BLESS").is_some() {
        let lines: Vec<_> = now.iter().map(|line| format!("{line}\n")).collect();
        fs::write(path, lines.concat()).unwrap();
        return;
    }
    let new: Vec<_> = now.difference(&released).cloned().collect();
    let how = "note what is new: SYNCHROMESH_BLESS=1 cargo test --test protocol";
    assert!(new.is_empty(), "{how}\n{}", new.join("\n"));
}

/// The descriptor of one message, after a change.
fn changed(change: impl FnOnce(&mut DescriptorProto)) -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let mut messages = set.file.into_iter().flat_map(|file| file.message_type);
    let mut message = messages.find(|message| message.name() == "SwitchTaskRequest").unwrap();
    change(&mut message);
    let mut parts = BTreeSet::new();
    add_message(&mut parts, "", &message);
    parts
}

#[test]
fn a_field_that_changes_or_goes_breaks_the_protocol_and_a_new_one_does_not() {
    let released = changed(|_| {});
    assert!(released.contains("field SwitchTaskRequest 3 task string"), "{released:?}");
    let rejected: [fn(&mut DescriptorProto); 6] = [
        |message| message.field[2].number = Some(30),
        |message| message.field[2].name = Some("other".into()),
        |message| message.field[2].set_type(Type::Bytes),
        |message| message.field[2].set_label(Label::Repeated),
        |message| drop(message.field.remove(2)),
        |message| message.name = Some("Other".into()),
    ];
    for (at, change) in rejected.into_iter().enumerate() {
        assert!(!broken(&released, &changed(change)).is_empty(), "change {at}");
    }
    let grown = changed(|message| {
        let mut field = message.field[2].clone();
        (field.number, field.name) = (Some(30), Some("new".into()));
        message.field.push(field);
    });
    assert_eq!(broken(&released, &grown), [""; 0]);
}

#[test]
fn a_field_that_goes_leaves_its_number_and_its_name_reserved() {
    use prost_types::descriptor_proto::ReservedRange;
    let released = changed(|_| {});
    let range = ReservedRange { start: Some(3), end: Some(4) };
    let reserve = |number: bool, name: bool| {
        changed(|message| {
            message.field.remove(2);
            message.reserved_range.extend(number.then_some(range));
            message.reserved_name.extend(name.then(|| "task".to_owned()));
        })
    };
    assert_eq!(broken(&released, &reserve(true, true)), [""; 0]);
    for half in [reserve(true, false), reserve(false, true)] {
        assert_eq!(broken(&released, &half), ["field SwitchTaskRequest 3 task string"]);
    }
    // And what is reserved stays so.
    let (once, again) = (reserve(true, true), changed(|message| drop(message.field.remove(2))));
    assert_eq!(broken(&once, &again).len(), 2);
}
