//! docs/schema/messages.json says what this crate reads and writes, no less and no more, and what
//! docs/protocol.md shows; docs/asyncapi.yaml names each of its messages.

use std::collections::BTreeSet;

use jsonschema::Validator;
use online_status_protocol as protocol;
use protocol::{
    Encoding, ErrorCode, Limits, ListKind, MessageId, Mode, Record, ServerMessage, Status, Version,
    Welcome, begin_list, decode, end_list, list_record,
    names::{Member, MessageType},
};
use serde_json::{Value, json};

const SCHEMA: &str = include_str!("../../docs/schema/messages.json");
const ASYNC_API: &str = include_str!("../../docs/asyncapi.yaml");
const DOCUMENT: &str = include_str!("../../docs/protocol.md");

/// Members that the schema does not know are errors here, though they are none between a client and a
/// server.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.contains_key("properties") {
                members.insert("additionalProperties".into(), false.into());
            }
            members.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("JSON")
}

fn validator(definition: &str) -> Validator {
    let mut schema = schema();
    close(&mut schema);
    schema.as_object_mut().expect("an object").remove("oneOf");
    schema["allOf"] = json!([{ "$ref": format!("#/definitions/{definition}") }]);
    jsonschema::draft7::new(&schema).expect("a schema")
}

#[track_caller]
fn valid(validator: &Validator, message: &Value) {
    let errors = validator
        .iter_errors(message)
        .map(|error| error.to_string());
    let errors: Vec<String> = errors.collect();
    assert!(errors.is_empty(), "{message}: {errors:?}");
}

fn definition(kind: MessageType) -> &'static str {
    match kind {
        MessageType::Status => "setStatus",
        other => other.as_str(),
    }
}

#[test]
fn a_client_message_is_taken_exactly_if_the_schema_has_it() {
    let validator = validator("clientMessage");
    let good = [
        r#"{"type":"auth","token":"eyJ"}"#,
        r#"{"type":"auth","token":"","id":-7}"#,
        r#"{"type":"auth","token":"eyJ","status":"away","alive":120}"#,
        r#"{"type":"watch","users":[]}"#,
        r#"{"type":"watch","users":["bob","zoë 🦀"],"known":{"bob":9007199254740991},"id":7}"#,
        r#"{"type":"unwatch","users":["bob"],"id":"seven"}"#,
        r#"{"type":"query","users":["bob"],"id":9}"#,
        r#"{"type":"status","status":"away","id":1}"#,
        r#"{"type":"status","text":""}"#,
        r#"{"type":"status","mode":"invisible","text":"lunch"}"#,
        r#"{"type":"ping"}"#,
        r#"{"type":"bye","id":1}"#,
    ];
    for text in good {
        decode(Encoding::Json, text.as_bytes()).expect(text);
        valid(&validator, &serde_json::from_str(text).expect(text));
    }
    let bad = [
        r"[]",
        r"{}",
        r#"{"type":"dance"}"#,
        r#"{"type":"welcome"}"#,
        r#"{"type":"ping","id":1.5}"#,
        r#"{"type":"ping","id":{}}"#,
        r#"{"type":"auth"}"#,
        r#"{"type":"auth","token":7}"#,
        r#"{"type":"auth","token":"eyJ","status":"busy"}"#,
        r#"{"type":"auth","token":"eyJ","alive":0}"#,
        r#"{"type":"auth","token":"eyJ","alive":"120"}"#,
        r#"{"type":"watch"}"#,
        r#"{"type":"watch","users":"bob"}"#,
        r#"{"type":"watch","users":["bob",1]}"#,
        r#"{"type":"watch","users":[""]}"#,
        r#"{"type":"query","users":["a\u0000"]}"#,
        r#"{"type":"query","users":["a\u0085"]}"#,
        r#"{"type":"watch","users":[],"known":[]}"#,
        r#"{"type":"watch","users":[],"known":{"a":-1}}"#,
        r#"{"type":"watch","users":[],"known":{"a":9007199254740992}}"#,
        r#"{"type":"status"}"#,
        r#"{"type":"status","status":"offline"}"#,
        r#"{"type":"status","status":"busy"}"#,
        r#"{"type":"status","mode":"away"}"#,
        r#"{"type":"status","text":"a\nb"}"#,
    ];
    let many = format!(
        r#"{{"type":"query","users":[{}"b"]}}"#,
        r#""a","#.repeat(1_000)
    );
    let long = format!(r#"{{"type":"status","text":"{}"}}"#, "x".repeat(129));
    let id = format!(r#"{{"type":"ping","id":"{}"}}"#, "x".repeat(65));
    for text in bad.into_iter().chain([&*many, &*long, &*id]) {
        decode(Encoding::Json, text.as_bytes()).expect_err(text);
        let message = serde_json::from_str(text).expect(text);
        assert!(!validator.is_valid(&message), "{text}");
    }
}

fn written(message: &ServerMessage<'_>) -> Value {
    let mut bytes = Vec::new();
    message.encode(Encoding::Json, &mut bytes);
    serde_json::from_slice(&bytes).expect("JSON")
}

/// A list with a record of each status, and that of a user never seen.
fn list(kind: ListKind<'_>) -> Value {
    let mut bytes = Vec::new();
    begin_list(Encoding::Json, kind, &mut bytes);
    let mut full = Record {
        text: "lunch".into(),
        since: 1,
        last_seen: 2,
        devices: u32::MAX,
        version: Version::from_u64((1 << 53) - 1).expect("the largest"),
        ..Record::default()
    };
    for (n, &status) in Status::ALL.iter().enumerate() {
        full.status = status;
        list_record(
            Encoding::Json,
            n == 0,
            "bob",
            &full,
            Some(Mode::Busy),
            &mut bytes,
        );
    }
    list_record(
        Encoding::Json,
        false,
        "eve",
        &Record::default(),
        None,
        &mut bytes,
    );
    end_list(Encoding::Json, &mut bytes);
    serde_json::from_slice(&bytes).expect("JSON")
}

#[test]
fn the_schema_has_every_server_message() {
    let validator = validator("serverMessage");
    let (number, text) = (MessageId::Integer(7), MessageId::Text("é\"".into()));
    for id in [None, Some(&number), Some(&text)] {
        let full = Welcome {
            id,
            user: "alice",
            session: "n1-7f3a",
            node: "n1",
            heartbeat: 25,
            alive: 120,
            expires: 1_795_480_000_000,
            mode: Some(Mode::Auto),
            text: "lunch",
            limits: Limits {
                message: 20_480,
                users: 1_000,
                watches: 1_000,
                messages: 100,
            },
        };
        // Of a promise not given, a token that never ends, and a store that has not answered.
        let bare = Welcome {
            alive: 0,
            expires: 0,
            mode: None,
            text: "",
            ..full
        };
        valid(&validator, &written(&ServerMessage::Welcome(full)));
        valid(&validator, &written(&ServerMessage::Welcome(bare)));
        valid(&validator, &written(&ServerMessage::Ok { id }));
        valid(&validator, &written(&ServerMessage::Pong { id }));
        for &code in ErrorCode::ALL {
            let message = "it is so";
            let error = ServerMessage::Error { id, code, message };
            valid(&validator, &written(&error));
        }
        let users = ["eve", "mallory \"x\""];
        for users in [&users[..1], &users] {
            let error = written(&ServerMessage::NotAllowed { id, users });
            valid(&validator, &error);
            assert_eq!(
                (&error["code"], &error["users"]),
                (&json!("not_allowed"), &json!(users))
            );
        }
        for kind in [
            ListKind::Presence,
            ListKind::Snapshot(id),
            ListKind::Result(id),
        ] {
            valid(&validator, &list(kind));
        }
    }
    let address = "wss://n2.example/socket";
    valid(&validator, &written(&ServerMessage::Move { address }));
    let expiring = ServerMessage::Expiring { seconds: 30 };
    valid(&validator, &written(&expiring));
}

/// The members of every object that the schema has.
fn name_members<'a>(schema: &'a Value, members: &mut BTreeSet<&'a str>) {
    match schema {
        Value::Object(parts) => {
            if let Some(properties) = parts.get("properties").and_then(Value::as_object) {
                members.extend(properties.keys().map(String::as_str));
            }
            for part in parts.values() {
                name_members(part, members);
            }
        }
        Value::Array(parts) => parts.iter().for_each(|part| name_members(part, members)),
        _ => {}
    }
}

#[test]
fn the_schema_knows_every_type_member_and_word_and_no_other() {
    let schema = schema();
    let definitions = schema["definitions"].as_object().expect("definitions");
    let mut members = BTreeSet::new();
    name_members(&schema, &mut members);
    assert_eq!(members, Member::ALL.iter().map(|it| it.as_str()).collect());
    let words = |schema: &Value| -> BTreeSet<String> {
        let words = schema["enum"].as_array().expect("words").iter();
        words
            .map(|word| word.as_str().expect("a word").into())
            .collect()
    };
    let codes = words(&definitions["error"]["properties"]["code"]);
    assert_eq!(
        codes,
        ErrorCode::ALL.iter().map(|it| it.as_str().into()).collect()
    );
    let statuses = words(&definitions["status"]);
    assert_eq!(
        statuses,
        Status::ALL.iter().map(|it| it.as_str().into()).collect()
    );
    for &kind in MessageType::ALL {
        let name = definition(kind);
        assert_eq!(
            definitions[name]["properties"]["type"]["const"],
            kind.as_str()
        );
        let reference = format!("$ref: './schema/messages.json#/definitions/{name}'");
        assert!(
            ASYNC_API.contains(&reference),
            "docs/asyncapi.yaml lacks {name}"
        );
    }
}

#[test]
fn the_schema_has_every_example_of_the_document() {
    let (client, server) = (validator("clientMessage"), validator("serverMessage"));
    let code = DOCUMENT.split('`');
    let examples: Vec<&str> = code.filter(|code| code.starts_with("{\"type\"")).collect();
    assert!(examples.len() >= 17, "{examples:?}");
    for example in examples {
        let message: Value = serde_json::from_str(example).expect(example);
        if !client.is_valid(&message) {
            valid(&server, &message);
        }
    }
}
