//! The wire contract: our descriptor against the table of CRI v1 facts.
//!
//! `cri-v1.tsv` lists every RPC, message, field, number, type and enum value
//! of the interface. A difference in either direction is a failure.

#![allow(clippy::unwrap_used, reason = "a test's own functions may fail it")]

use std::collections::BTreeSet;

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
};

const TABLE: &str = include_str!("cri-v1.tsv");
const PACKAGE: &str = "runtime.v1";

/// The rows of the table: kind, owner, name, number, type, notes.
fn expected() -> BTreeSet<String> {
    TABLE
        .lines()
        .filter(|line| !line.starts_with('#'))
        .skip(1)
        .map(|line| {
            line.split('\t')
                .chain(std::iter::repeat(""))
                .take(6)
                .collect::<Vec<_>>()
        })
        .map(|cells| cells.join("\t").trim_end().to_owned())
        .collect()
}

fn row(cells: [&str; 6]) -> String {
    cells.join("\t").trim_end().to_owned()
}

fn ours(pool: &DescriptorPool) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for service in pool.services().filter(|s| s.package_name() == PACKAGE) {
        for method in service.methods() {
            let stream = |on: bool| if on { "stream " } else { "" };
            let kind = format!(
                "{}{} -> {}{}",
                stream(method.is_client_streaming()),
                short(method.input().full_name()),
                stream(method.is_server_streaming()),
                short(method.output().full_name()),
            );
            rows.insert(row(["rpc", service.name(), method.name(), "", &kind, ""]));
        }
    }
    for message in pool.all_messages() {
        if message.package_name() == PACKAGE && !message.is_map_entry() {
            message_rows(&message, &mut rows);
        }
    }
    for item in pool
        .all_enums()
        .filter(|item| item.package_name() == PACKAGE)
    {
        enum_rows(&item, &mut rows);
    }
    rows
}

fn message_rows(message: &MessageDescriptor, rows: &mut BTreeSet<String>) {
    let name = short(message.full_name());
    if message.fields().len() == 0 {
        rows.insert(row(["message", name, "-", "-", "-", "-"]));
    }
    for field in message.fields() {
        let notes = ["deprecated", "debug_redact"]
            .into_iter()
            .find(|note| is_set(&field, note));
        let number = field.number().to_string();
        let kind = field_type(&field);
        rows.insert(row([
            "message",
            name,
            field.name(),
            &number,
            &kind,
            notes.unwrap_or(""),
        ]));
    }
}

fn is_set(field: &FieldDescriptor, option: &str) -> bool {
    let options = field.options();
    options
        .get_field_by_name(option)
        .is_some_and(|value| value.as_bool() == Some(true))
}

fn enum_rows(item: &EnumDescriptor, rows: &mut BTreeSet<String>) {
    for value in item.values() {
        let number = value.number().to_string();
        rows.insert(row([
            "enum",
            short(item.full_name()),
            value.name(),
            &number,
            "",
            "",
        ]));
    }
}

fn field_type(field: &FieldDescriptor) -> String {
    if let Kind::Message(entry) = field.kind()
        && entry.is_map_entry()
    {
        let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        return format!("map<{},{}>", field_type(&key), field_type(&value));
    }
    let kind = field.kind();
    let kind = match (kind.as_message(), kind.as_enum()) {
        (Some(message), _) => short(message.full_name()).to_owned(),
        (_, Some(item)) => short(item.full_name()).to_owned(),
        (None, None) => format!("{kind:?}").to_lowercase(),
    };
    match field.cardinality() {
        Cardinality::Repeated => format!("repeated {kind}"),
        Cardinality::Optional | Cardinality::Required => kind,
    }
}

fn short(name: &str) -> &str {
    name.strip_prefix("runtime.v1.").unwrap_or(name)
}

fn descriptor() -> DescriptorPool {
    DescriptorPool::decode(longshore_proto::cri::DESCRIPTOR).unwrap()
}

#[test]
fn the_descriptor_equals_the_table() {
    let (table, ours) = (expected(), ours(&descriptor()));
    let missing: Vec<_> = table.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&table).collect();
    println!(
        "wire contract: {} facts, {} differences",
        table.len(),
        missing.len() + extra.len()
    );
    assert!(
        missing.is_empty() && extra.is_empty(),
        "missing: {missing:#?}\nextra: {extra:#?}"
    );
}

#[test]
fn there_are_37_runtime_and_6_image_rpcs() {
    let pool = descriptor();
    let services = pool.services().filter(|s| s.package_name() == PACKAGE);
    let counts: Vec<_> = services
        .map(|s| (s.name().to_owned(), s.methods().len()))
        .collect();
    assert_eq!(
        counts,
        [
            ("RuntimeService".to_owned(), 37),
            ("ImageService".to_owned(), 6)
        ]
    );
}

#[test]
fn credentials_are_not_printed() {
    let auth = longshore_proto::cri::v1::AuthConfig {
        username: "u".into(),
        password: "secret".into(),
        auth: "secret".into(),
        identity_token: "secret".into(),
        registry_token: "secret".into(),
        server_address: "r".into(),
    };
    assert!(!format!("{auth:?}").contains("secret"));
}
