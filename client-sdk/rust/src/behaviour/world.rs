//! The scripted world of one file: a server, a token function, a route and a clock; and what the
//! client did in it that nothing has expected yet.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::schema::Checker;
use crate::{
    machine::{
        End, Input, LinkId, Machine, NoRoute, NoToken, Now, Output, Settings, Target, Ticket,
    },
    types::{Activity, Mode, Problem, QueryError, Reason, SetError, State, check_text, check_user},
};

const START: u64 = 1_800_000_000_000;

#[derive(Default)]
struct Connection {
    messages: VecDeque<Value>,
    welcomed: bool,
    ended: bool,
}

/// What the client did that nothing has expected yet.
#[derive(Default)]
struct Done {
    tokens: u32,
    routes: VecDeque<String>,
    dials: VecDeque<(LinkId, String)>,
    closed: BTreeMap<LinkId, Option<u64>>,
    errors: VecDeque<Value>,
    sets: VecDeque<(&'static str, Option<Value>)>,
}

/// Of all messages that clients send and are sent in these worlds.
pub(super) struct Checkers {
    pub(super) sent: Checker,
    pub(super) said: Checker,
}

pub(super) struct World<'a> {
    machine: Machine,
    checkers: &'a Checkers,
    /// The server says what the schema does not have.
    unknown: bool,
    now: Now,
    pongs: bool,
    /// The steady clock goes on while the machine sleeps.
    counts_sleep: bool,
    claims: Value,
    names: HashMap<String, LinkId>,
    links: HashMap<LinkId, Connection>,
    /// Token requests without an answer: the number of the call, and that of the machine's request.
    tokens: Vec<(u64, u64)>,
    token_calls: u64,
    routes: Vec<u64>,
    done: Done,
    seen: HashMap<String, Vec<String>>,
    versions: HashMap<String, u64>,
    watches: HashMap<String, Vec<Arc<str>>>,
    tickets: HashMap<Ticket, &'static str>,
    next_ticket: Ticket,
    ids: HashMap<String, Value>,
    state: State,
    heard_at: u64,
}

impl<'a> World<'a> {
    pub(super) fn new(file: &Value, counts_sleep: bool, checkers: &'a Checkers) -> Self {
        let seconds = |name: &str, default: u64| file["options"][name].as_u64().unwrap_or(default);
        let route = file["options"]["route"].as_str();
        let route = route.unwrap_or("http://route.test");
        let settings = Settings {
            target: Target::Routes(vec![route.into()]),
            heartbeat: seconds("heartbeat", 60) * 1_000,
            auto_away: Some(seconds("autoAway", 0) * 1_000).filter(|ms| *ms > 0),
            min_delay: 500,
            max_delay: 20_000,
            batch: 0,
        };
        let now = Now {
            steady: 0,
            wall: START,
        };
        let random = file["random"].as_f64().unwrap_or(0.5);
        Self {
            machine: Machine::new(settings, Box::new(move || random), now),
            checkers,
            unknown: file["unknown"] == true,
            now,
            pongs: file["pongs"].as_bool().unwrap_or(true),
            counts_sleep,
            claims: file["claims"].clone(),
            names: HashMap::new(),
            links: HashMap::new(),
            tokens: Vec::new(),
            token_calls: 0,
            routes: Vec::new(),
            done: Done::default(),
            seen: HashMap::new(),
            versions: HashMap::new(),
            watches: HashMap::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            ids: HashMap::new(),
            state: State::Disconnected,
            heard_at: 0,
        }
    }

    fn token(&self, name: &str) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let alice = json!({ "sub": "alice" });
        let claims = self.claims.get(name).unwrap_or(&alice);
        format!(
            "{}.{}.{name}",
            part(&json!({ "alg": "none" })),
            part(claims)
        )
    }

    fn input(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        self.take();
    }

    /// Lets the client do what it can without time passing.
    pub(super) fn settle(&mut self) {
        for _ in 0..1_000 {
            if self
                .machine
                .deadline()
                .is_none_or(|at| at > self.now.steady)
            {
                return;
            }
            self.input(Input::Tick);
        }
        panic!("the client is busy without time passing");
    }

    fn take(&mut self) {
        while let Some(output) = self.machine.output() {
            match output {
                Output::FetchToken { request } => {
                    self.token_calls += 1;
                    self.tokens.push((self.token_calls, request));
                    self.done.tokens += 1;
                }
                Output::FetchRoute { request, url } => {
                    self.routes.push(request);
                    self.done.routes.push_back(url);
                }
                Output::Open { link, address } => {
                    self.links.insert(link, Connection::default());
                    self.done.dials.push_back((link, address));
                }
                Output::Send { link, text } => self.sent(link, &text),
                Output::Close { link, code } => self.closed(link, Some(code.into())),
                Output::Abort { link } => self.closed(link, None),
                Output::State(state) => {
                    if let State::Failed(reason) = &state {
                        self.done.errors.push_back(code(reason));
                    }
                    self.state = state;
                }
                Output::Change(record) => {
                    let version = self.versions.entry(record.user.clone()).or_default();
                    assert!(
                        *version <= record.version,
                        "{record:?} is older than {version}"
                    );
                    *version = record.version;
                    let status = json!(record.status).as_str().expect("a word").to_owned();
                    self.seen.entry(record.user).or_default().push(status);
                }
                Output::Problem(problem) => self.done.errors.push_back(match problem {
                    Problem::Watch { code, .. }
                    | Problem::Activity { code, .. }
                    | Problem::Server { code, .. } => json!(code),
                    Problem::WatchLimit { .. } => json!("watch_limit"),
                    Problem::Token(reason) | Problem::Attempts(reason) => code(&reason),
                    Problem::Message(text) => json!(text),
                }),
                Output::Set { ticket, result } => {
                    let error = result.err().map(|error| match error {
                        SetError::Refused { code, .. } => json!(code),
                        SetError::Failed(reason) => code(&reason),
                        SetError::Closed => json!("closed"),
                        other => json!(other.to_string()),
                    });
                    self.done.sets.push_back((self.tickets[&ticket], error));
                }
                Output::Result { ticket, result } => {
                    let error = result.err().map(|error| match error {
                        QueryError::Refused { code, .. } => json!(code),
                        QueryError::Failed(reason) => code(&reason),
                        QueryError::Closed => json!("closed"),
                        other => json!(other.to_string()),
                    });
                    self.done.sets.push_back((self.tickets[&ticket], error));
                }
            }
        }
    }

    fn closed(&mut self, link: LinkId, code: Option<u64>) {
        let connection = self.links.get_mut(&link).expect("a link");
        if !std::mem::replace(&mut connection.ended, true) {
            self.done.closed.insert(link, code);
        }
    }

    fn sent(&mut self, link: LinkId, text: &str) {
        let message: Value = serde_json::from_str(text).expect("JSON");
        self.checkers.sent.check(&message);
        let connection = self.links.get_mut(&link).expect("a link");
        assert!(!connection.ended, "{text} after the end");
        if self.pongs && message["type"] == "ping" {
            let pong = json!({ "type": "pong", "id": message["id"] }).to_string();
            return self.machine.handle(self.now, Input::Message(link, pong));
        }
        connection.messages.push_back(message);
    }

    /// Time passes in which timers are on time, and the server pings.
    pub(super) fn advance(&mut self, ms: u64) {
        let end = self.now.steady + ms;
        loop {
            let ping = self.heard_at + 25_000;
            let due = self.machine.deadline().unwrap_or(end).min(ping).min(end);
            let step = due.saturating_sub(self.now.steady);
            self.now.steady += step;
            self.now.wall += step;
            if self.now.steady >= ping {
                self.heard_at = self.now.steady;
                let links = self
                    .links
                    .iter()
                    .filter(|(_, link)| link.welcomed && !link.ended);
                for link in links.map(|(link, _)| *link).collect::<Vec<_>>() {
                    self.input(Input::Heard(link));
                }
            }
            self.settle();
            if self.now.steady >= end {
                return;
            }
        }
    }

    pub(super) fn sleep(&mut self, ms: u64) {
        self.now.wall += ms;
        if self.counts_sleep {
            self.now.steady += ms;
        }
        // The clocks are looked at before anything else happens.
        self.input(Input::Tick);
        self.settle();
    }

    /// Sets the wall clock, as somebody at the machine does.
    pub(super) fn set(&mut self, ms: i64) {
        self.now.wall = self.now.wall.saturating_add_signed(ms);
    }

    pub(super) fn do_step(&mut self, step: &Value) {
        if let Some(turn) = step["turn"].as_array() {
            for step in turn {
                self.app(step);
            }
        } else if step.get("app").is_some() {
            self.app(step);
        } else if step.get("token").is_some() {
            self.answer_token(step);
        } else if let Some(route) = step.get("route") {
            let request = self.routes.pop().expect("an open look-up");
            let result = match (route.as_str(), route.as_u64()) {
                (Some("error"), _) => Err(no_route(None)),
                (Some(address), _) => Ok(address.to_owned()),
                (None, status) => Err(no_route(status.map(|status| status as u16))),
            };
            self.input(Input::Route { request, result });
        } else if let Some(name) = step["socket"].as_str() {
            let link = self.names[name];
            self.socket(link, step);
        } else {
            panic!("a step that this runner does not know");
        }
    }

    fn app(&mut self, step: &Value) {
        match step["app"].as_str().expect("a word") {
            "connect" => self.input(Input::Connect),
            "disconnect" => {
                self.input(Input::Disconnect);
                self.watches.clear();
                self.versions.clear();
            }
            "watch" => {
                let users = users(&step["users"]);
                if users.iter().any(|user| check_user(user).is_err()) {
                    return self.done.errors.push_back(json!("bad_user"));
                }
                let users: Vec<Arc<str>> = users.iter().map(|user| user.as_str().into()).collect();
                for user in &users {
                    self.input(Input::Watch(user.clone()));
                }
                let name = step["as"].as_str().expect("a name").to_owned();
                self.watches.insert(name, users);
            }
            "unwatch" => {
                let name = step["as"].as_str().expect("a name");
                for user in self.watches.remove(name).expect("a watch") {
                    self.input(Input::Unwatch(user));
                }
            }
            "mode" => {
                let mode: Mode = serde_json::from_value(step["mode"].clone()).expect("a mode");
                let ticket = self.ticket("mode");
                self.input(Input::Mode(mode, ticket));
            }
            "text" => {
                let text = step["text"].as_str().expect("a text");
                if check_text(text).is_err() {
                    let error = Some(json!("text_too_long"));
                    return self.done.sets.push_back(("text", error));
                }
                let ticket = self.ticket("text");
                self.input(Input::Text(text.to_owned(), ticket));
            }
            "query" => {
                let ticket = self.ticket("query");
                self.input(Input::Query(users(&step["users"]), ticket));
            }
            "active" => self.input(Input::Active),
            "activity" => {
                let activity = step["activity"].clone();
                let activity: Option<Activity> = serde_json::from_value(activity).expect("one");
                self.input(Input::Activity(activity));
            }
            other => panic!("the application cannot {other}"),
        }
    }

    fn ticket(&mut self, of: &'static str) -> Ticket {
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, of);
        self.next_ticket
    }

    fn answer_token(&mut self, step: &Value) {
        let call = step["call"].as_u64();
        // Without a number it is the last one: the others were given up.
        let at = self
            .tokens
            .iter()
            .rposition(|(n, _)| call.is_none_or(|call| call == *n));
        let (_, request) = self.tokens.remove(at.expect("an open call"));
        let result = match step["token"].as_str().expect("a word") {
            "nothing" => Ok(String::new()),
            "error" => Err(NoToken::Failed("it fails".into())),
            "not allowed" => Err(NoToken::NotAllowed("it is not allowed".into())),
            name => Ok(self.token(name)),
        };
        self.input(Input::Token { request, result });
    }

    fn socket(&mut self, link: LinkId, step: &Value) {
        if let Some(message) = step.get("say") {
            let mut message = message.clone();
            if let Some(id) = message["id"].as_str().and_then(|id| id.strip_prefix('$')) {
                message["id"] = self.ids[id].clone();
            }
            if !self.unknown {
                self.checkers.said.check(&message);
            }
            if message["type"] == "welcome" {
                self.links.get_mut(&link).expect("a link").welcomed = true;
                self.heard_at = self.now.steady;
            }
            return self.input(Input::Message(link, message.to_string()));
        }
        match step["do"].as_str() {
            Some("open") => self.input(Input::Opened(link)),
            Some("refuse") => {
                self.links.get_mut(&link).expect("a link").ended = true;
                self.input(Input::Ended(link, End::Unreachable("it refuses".into())));
            }
            _ => {
                self.links.get_mut(&link).expect("a link").ended = true;
                let end = End::Closed {
                    code: step["close"].as_u64().expect("a close") as u16,
                    message: step["reason"].as_str().unwrap_or_default().to_owned(),
                };
                self.input(Input::Ended(link, end));
            }
        }
    }

    pub(super) fn expect(&mut self, step: &Value) {
        let on = step["on"].as_str().map(|name| self.names[name]);
        match step["expect"].as_str().expect("a word") {
            "token" => {
                assert!(self.done.tokens > 0, "the token function was not called");
                self.done.tokens -= 1;
            }
            "route" => {
                let url = self.done.routes.pop_front().expect("the route was asked");
                let user = step["user"].as_str().expect("a user");
                let query = format!("://route.test/route?userId={user}");
                assert!(url.ends_with(&query), "{url} is not {query}");
            }
            "dial" => {
                let (link, address) = self.done.dials.pop_front().expect("a connection was begun");
                assert_eq!(json!(address), step["address"]);
                self.names
                    .insert(step["as"].as_str().expect("a name").to_owned(), link);
            }
            "message" => {
                let link = self.links.get_mut(&on.expect("a name")).expect("a link");
                let message = link.messages.pop_front().expect("a message was sent");
                self.check_message(&message, &step["is"]);
                if let Some(name) = step["id"].as_str() {
                    self.ids.insert(name.to_owned(), message["id"].clone());
                }
            }
            "messages" => self.check_messages(on.expect("a name"), step),
            "closed" => {
                let code = self
                    .done
                    .closed
                    .remove(&on.expect("a name"))
                    .expect("it was closed");
                if let Some(expected) = step["code"].as_u64() {
                    assert_eq!(code, Some(expected));
                }
            }
            "state" => {
                let (name, reason) = match self.machine.state() {
                    State::Disconnected => ("disconnected", None),
                    State::Connecting { reason, .. } => ("connecting", reason),
                    State::Connected(_) => ("connected", None),
                    State::Failed(reason) => ("failed", Some(reason)),
                };
                assert_eq!(json!(name), step["state"]);
                if let Some(expected) = step.get("reason") {
                    assert_eq!(&reason.as_ref().map_or(Value::Null, code), expected);
                }
                if let Some(words) = step["says"].as_str() {
                    let said = reason.map(|reason| reason.to_string());
                    assert!(
                        said.as_ref().is_some_and(|it| it.contains(words)),
                        "{said:?}"
                    );
                }
            }
            "error" => {
                let error = self.done.errors.pop_front().expect("an error was told");
                assert_eq!(error, step["code"]);
            }
            "seen" => {
                let user = step["user"].as_str().expect("a user");
                let seen = self.seen.remove(user).unwrap_or_default();
                assert_eq!(json!(seen), step["is"], "of {user}");
            }
            "done" => {
                let (of, error) = self.done.sets.pop_front().expect("something is done");
                assert_eq!(json!(of), step["of"]);
                assert_eq!(error.as_ref(), step.get("error"));
            }
            "nothing" => self.expect_nothing(),
            other => panic!("{other} cannot be expected"),
        }
    }

    fn check_message(&self, message: &Value, is: &Value) {
        for (member, expected) in is.as_object().expect("members") {
            let found = message.get(member).unwrap_or(&Value::Null);
            let good = match (member.as_str(), expected, found) {
                ("token", Value::String(name), _) => found == &json!(self.token(name)),
                ("users", _, Value::Array(_)) => {
                    let set = |list: &Value| users(list).into_iter().collect::<BTreeSet<_>>();
                    set(expected) == set(found)
                }
                // Nothing known and no word about it are the same.
                ("known", Value::Object(known), Value::Null) => known.is_empty(),
                _ => expected == found,
            };
            assert!(good, "{member} is {found} and not {expected} in {message}");
        }
    }

    fn check_messages(&mut self, link: LinkId, step: &Value) {
        let link = self.links.get_mut(&link).expect("a link");
        let mut named = Vec::new();
        let mut count = 0;
        while link
            .messages
            .front()
            .is_some_and(|message| message["type"] == step["type"])
        {
            let message = link.messages.pop_front().expect("one");
            if let Some(most) = step["most_bytes"].as_u64() {
                assert!(message.to_string().len() as u64 <= most, "it is too long");
            }
            named.extend(users(&message["users"]));
            count += 1;
        }
        if let Some(most) = step["most"].as_u64() {
            assert!(count <= most, "{count} messages");
        }
        let mut expected = users(&step["users"]);
        named.sort();
        expected.sort();
        assert_eq!(named, expected);
    }

    pub(super) fn expect_nothing(&self) {
        let Done {
            tokens,
            routes,
            dials,
            closed,
            errors,
            sets,
        } = &self.done;
        assert_eq!(*tokens, 0, "the token function was called");
        assert!(routes.is_empty(), "the route was asked: {routes:?}");
        assert!(dials.is_empty(), "a connection was begun: {dials:?}");
        assert!(closed.is_empty(), "a connection was closed: {closed:?}");
        assert!(errors.is_empty(), "an error was told: {errors:?}");
        assert!(sets.is_empty(), "something was done: {sets:?}");
        for link in self.links.values() {
            assert!(link.messages.is_empty(), "it was sent: {:?}", link.messages);
        }
        assert_eq!(
            self.machine.state(),
            self.state,
            "the application knows the state"
        );
    }
}

fn no_route(status: Option<u16>) -> NoRoute {
    NoRoute {
        status,
        message: "nobody says".into(),
        retry_after: None,
    }
}

/// The users in a list, or those that a pattern makes.
fn users(value: &Value) -> Vec<String> {
    if let Some(list) = value.as_array() {
        return list
            .iter()
            .map(|user| user.as_str().expect("a name").to_owned())
            .collect();
    }
    let name = value["name"].as_str().expect("a pattern");
    let count = value["count"].as_u64().expect("a number");
    (1..=count)
        .map(|n| name.replace('%', &n.to_string()))
        .collect()
}

/// The word or number that the files have for a reason.
fn code(reason: &Reason) -> Value {
    match reason {
        Reason::Token(_) => json!("token"),
        Reason::TokenNotAllowed(_) => json!("not_allowed"),
        Reason::TokenRefused(_) => json!(4401),
        Reason::WrongUser(_) => json!("wrong_user"),
        Reason::Route(_) => json!("route"),
        Reason::Unreachable(_) | Reason::Refused { .. } => json!(1006),
        Reason::Closed { code, .. } => json!(code),
        Reason::Silent(crate::Waited::Welcome) => json!(1006),
        Reason::Silent(crate::Waited::Pong) => json!("silent"),
        Reason::Plaintext(_) => json!("plaintext"),
    }
}
