//! docs/schema/messages.json, closed: a member that it does not have is an error here, though it is
//! none between a client and a server.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use jsonschema::Validator;
use serde_json::{Value, json};

const SCHEMA: &str = include_str!("../../../../docs/schema/messages.json");

/// Checks messages of a kind, and remembers of which types there were some.
pub(crate) struct Checker {
    validators: BTreeMap<String, Validator>,
    seen: RefCell<BTreeSet<String>>,
}

/// The schema's definitions.
pub(crate) fn definitions() -> Value {
    let mut schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    close(&mut schema);
    schema["definitions"].take()
}

fn close(part: &mut Value) {
    match part {
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

impl Checker {
    /// Of `clientMessage` or `serverMessage`.
    pub(crate) fn new(kind: &str) -> Self {
        let definitions = definitions();
        let messages = definitions[kind]["oneOf"].as_array().expect("messages");
        let validator = |message: &Value| {
            let reference = message["$ref"].as_str().expect("a reference");
            let name = reference.rsplit('/').next().expect("a name");
            let word = &definitions[name]["properties"]["type"]["const"];
            let schema = json!({ "definitions": definitions, "allOf": [message] });
            let validator = jsonschema::draft7::new(&schema).expect("a schema");
            (word.as_str().expect("a type").to_owned(), validator)
        };
        Self {
            validators: messages.iter().map(validator).collect(),
            seen: RefCell::default(),
        }
    }

    #[track_caller]
    pub(crate) fn check(&self, message: &Value) {
        let word = message["type"].as_str().expect("a type");
        let validator = self.validators.get(word);
        let validator = validator.unwrap_or_else(|| panic!("the schema has no {message}"));
        let errors = validator.iter_errors(message);
        let errors: Vec<String> = errors.map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{message}: {errors:?}");
        self.seen.borrow_mut().insert(word.to_owned());
    }

    /// Types of which there was no message.
    pub(crate) fn missing(&self) -> Vec<&str> {
        let seen = self.seen.borrow();
        let words = self.validators.keys().map(String::as_str);
        words.filter(|word| !seen.contains(*word)).collect()
    }
}

#[test]
fn messages_that_are_not_of_the_schema_are_found() {
    let sent = Checker::new("clientMessage");
    sent.check(&json!({ "type": "watch", "users": ["bob"], "known": { "bob": 7 }, "id": 1 }));
    for message in [
        json!({ "type": "watch", "user": ["bob"] }),
        json!({ "type": "watch", "users": ["bob"], "knows": {} }),
        json!({ "type": "look", "users": [] }),
        json!({ "type": "welcome" }),
    ] {
        let found = std::panic::catch_unwind(|| Checker::new("clientMessage").check(&message));
        found.expect_err(&message.to_string());
    }
}
