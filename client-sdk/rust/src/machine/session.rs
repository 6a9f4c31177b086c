//! A session that stands: what the server says in it, and what is sent.

use super::{
    Effort, LinkId, Machine, Output,
    link::{Asked, Link, text},
    profile::Change,
};
use crate::{
    types::{Problem, QueryError, Reason, Session, SetError},
    wire::{ClientMessage, ServerMessage, Welcome},
};

/// How long an answer to a ping may take. ms.
const PONG: u64 = 10_000;
/// The same when there is reason to doubt the connection. ms.
const DOUBT: u64 = 3_000;
/// Until what the server cannot answer now is asked again. ms.
const UNAVAILABLE: u64 = 1_000;

impl Machine {
    pub(super) fn send(&mut self, link: &mut Link, message: &ClientMessage<'_>) {
        self.send_text(link, text(message));
    }

    fn send_text(&mut self, link: &mut Link, text: String) {
        link.sent(self.now);
        self.outputs.push_back(Output::Send {
            link: link.id,
            text,
        });
    }

    pub(super) fn send_auth(&mut self, link: &mut Link, token: &str, asked: Asked) {
        let id = self.id();
        let first = matches!(asked, Asked::Auth);
        let message = ClientMessage::Auth {
            token,
            status: first.then_some(link.told),
            // Speaking late is no crime: the promise has room for another attempt.
            alive: Some(u32::try_from(self.settings.heartbeat / 400).unwrap_or(u32::MAX)),
            id,
        };
        self.send(link, &message);
        link.asked.insert(id, asked);
    }

    /// Handles a WebSocket ping of the server.
    pub(super) fn heard(&mut self, id: LinkId) {
        if let Some(link) = self.session.as_mut().filter(|link| link.id == id) {
            link.heard(self.now);
        }
    }

    pub(super) fn message(&mut self, id: LinkId, text: &str) {
        let message = match serde_json::from_str::<ServerMessage>(text) {
            Ok(message) => message,
            Err(error) => {
                let problem = Problem::Message(error.to_string());
                return self.outputs.push_back(Output::Problem(problem));
            }
        };
        self.heard(id);
        if self.session.as_ref().is_some_and(|link| link.id == id) {
            self.in_session(message);
        } else if let Effort::Dial { link, .. } = &self.effort
            && link.id == id
        {
            if let ServerMessage::Welcome(welcome) = message {
                self.welcomed(welcome);
            }
        } else if self.retiring.iter().any(|(link, _)| *link == id)
            && let ServerMessage::Snapshot { users, .. } | ServerMessage::Presence { users } =
                message
        {
            self.watches.presence(users, &mut self.outputs);
        }
    }

    fn welcomed(&mut self, welcome: Welcome) {
        let Effort::Dial { mut link, .. } = std::mem::take(&mut self.effort) else {
            return;
        };
        link.asked.retain(|_, asked| !matches!(asked, Asked::Auth));
        link.welcomed(self.now, welcome.heartbeat, welcome.limits);
        if let Some(former) = self.session.replace(*link) {
            self.close_link(former);
        }
        self.watches.link_begins();
        self.reason = None;
        self.token_accepted(welcome.expires);
        self.identity = Some(Session {
            user: welcome.user,
            session: welcome.session,
            node: welcome.node,
            mode: welcome.mode,
            text: welcome.text,
        });
        self.flush_at = Some(self.now.steady);
    }

    fn in_session(&mut self, message: ServerMessage) {
        let Some(link) = &mut self.session else {
            return;
        };
        let mut asked = |id: Option<u64>| id.and_then(|id| link.asked.remove(&id));
        match message {
            ServerMessage::Presence { users } => {
                self.watches.presence(users, &mut self.outputs);
            }
            ServerMessage::Snapshot { id, users } => {
                let names = match asked(id) {
                    Some(Asked::Watch(names)) => names,
                    _ => Vec::new(),
                };
                self.watches
                    .snapshot(users, &names, self.now.steady, &mut self.outputs);
            }
            ServerMessage::Result { id, users } => {
                if let Some(Asked::Query(part)) = asked(id) {
                    let answer = self.queries.answered(&part, users);
                    self.outputs.extend(answer);
                }
            }
            ServerMessage::Ok { id } => {
                if let Some(Asked::Status(change)) = asked(id) {
                    self.outputs.extend(change.done(&Ok(())));
                }
            }
            ServerMessage::Pong { id } => {
                asked(id);
                if link.ping.take_if(|(ping, _)| id == Some(*ping)).is_some() {
                    link.excused = false;
                }
            }
            ServerMessage::Welcome(welcome) => {
                asked(welcome.id);
                // A welcome has both or, of a server that does not know yet, neither.
                if let (Some(session), Some(mode)) = (&mut self.identity, welcome.mode) {
                    (session.mode, session.text) = (Some(mode), welcome.text);
                }
                self.token_accepted(welcome.expires);
            }
            ServerMessage::Error { id, code, message } => match asked(id) {
                Some(asked) => self.refused(asked, code, message),
                // The answer to a new token has no id from every server.
                None if code == "bad_token" || code == "wrong_user" => {
                    self.refused(Asked::Refresh, code, message);
                }
                None => {
                    let problem = Problem::Server { code, message };
                    self.outputs.push_back(Output::Problem(problem));
                }
            },
            ServerMessage::Move { address } => self.moved(address),
            ServerMessage::Expiring { r#in } => self.token_expires(r#in),
            ServerMessage::Unknown => {}
        }
    }

    /// The server did not do what it was asked.
    fn refused(&mut self, asked: Asked, code: String, message: String) {
        let unavailable = code == "unavailable";
        let later = self.now.steady + UNAVAILABLE;
        match asked {
            Asked::Refresh if code == "wrong_user" => self.fail(Reason::WrongUser(message)),
            Asked::Refresh => self.refused_token(&message, true),
            Asked::Watch(users) if unavailable => {
                let wait = self.watches.unavailable(users) * (0.5 + (self.random)() / 2.0);
                self.watches.wait_until(self.now.steady + wait as u64);
            }
            Asked::Watch(users) => {
                if let Some(link) = &mut self.session {
                    let limits = &mut link.limits;
                    self.watches
                        .refused(users, &code, &message, limits, &mut self.outputs);
                }
            }
            Asked::Query(part) => {
                let answer = self
                    .queries
                    .refused(&part, QueryError::Refused { code, message });
                self.outputs.extend(answer);
            }
            Asked::Status(change) => {
                match change.status {
                    Some(activity) if unavailable => self.profile.retry(activity, later),
                    Some(_) if change.is_activity() => {
                        let (code, message) = (code.clone(), message.clone());
                        let problem = Problem::Activity { code, message };
                        self.outputs.push_back(Output::Problem(problem));
                    }
                    _ => {}
                }
                let error = SetError::Refused { code, message };
                self.outputs.extend(change.done(&Err(error)));
            }
            Asked::Auth | Asked::Unwatch | Asked::Ping => {
                let problem = Problem::Server { code, message };
                self.outputs.push_back(Output::Problem(problem));
            }
        }
    }

    /// Puts the connection to the test. An answer that is awaited already has to come soon; if the
    /// machine slept, that may have been lost, and another ping is a second chance.
    pub(super) fn doubt(&mut self, slept: bool) {
        let Some(link) = &mut self.session else {
            return;
        };
        if slept && link.ping.is_some() && !std::mem::replace(&mut link.excused, true) {
            link.ping = None;
        }
        self.ping(DOUBT);
    }

    fn ping(&mut self, wait: u64) {
        let Some(mut link) = self.session.take() else {
            return;
        };
        let until = self.now.steady + wait;
        if let Some((_, awaited)) = &mut link.ping {
            *awaited = until.min(*awaited);
        } else {
            let id = self.id();
            self.send(&mut link, &ClientMessage::Ping { id });
            link.asked.insert(id, Asked::Ping);
            link.ping = Some((id, until));
        }
        self.session = Some(link);
    }

    pub(super) fn tick_session(&mut self) {
        let Some(link) = &self.session else { return };
        let now = self.now.steady;
        match link.ping {
            Some((_, until)) if until <= now => return self.silent(),
            Some(_) => {}
            None if link.missing_at().is_some_and(|at| at <= now) => self.ping(DOUBT),
            None if link.speak_at() <= now => self.ping(PONG),
            None => {}
        }
        self.watches.tick(now);
    }

    /// Sets when what is wanted and not said yet is sent: when it has waited for others to share its
    /// message.
    pub(super) fn plan_flush(&mut self) {
        if let (None, Some(link)) = (self.flush_at, &self.session)
            && self.has_more(link)
        {
            self.flush_at = Some(self.now.steady + self.settings.batch);
        }
    }

    fn has_more(&self, link: &Link) -> bool {
        self.profile
            .has_more(link.told, self.now, self.settings.auto_away)
            || self.queries.has_more()
            || self.watches.has_more(link, self.now.steady)
    }

    /// Sends what is due, as fast as the server allows.
    pub(super) fn flush(&mut self) {
        self.plan_flush();
        if self.flush_at.is_none_or(|at| at > self.now.steady) {
            return;
        }
        let Some(mut link) = self.session.take() else {
            return;
        };
        self.flush_at = None;
        while self.has_more(&link) {
            if let Err(at) = link.may_send(self.now) {
                self.flush_at = Some(at);
                break;
            }
            self.send_next(&mut link);
        }
        self.session = Some(link);
    }

    fn send_next(&mut self, link: &mut Link) {
        let id = self.id();
        let (now, auto_away) = (self.now, self.settings.auto_away);
        if let Some(change) = self.profile.next(&mut link.told, now, auto_away) {
            self.send(link, &status(&change, id));
            link.asked.insert(id, Asked::Status(change));
        } else if let Some(part) = self.queries.next(&link.limits) {
            let users: Vec<&str> = part.users.iter().map(String::as_str).collect();
            self.send(link, &ClientMessage::Query { users: &users, id });
            link.asked.insert(id, Asked::Query(part));
        } else if let Some((asked, text)) = self.watches.next(link, id, &mut self.outputs) {
            self.send_text(link, text);
            link.asked.insert(id, asked);
        }
    }
}

fn status(change: &Change, id: u64) -> ClientMessage<'_> {
    ClientMessage::Status {
        status: change.status,
        mode: change.mode.as_ref().map(|set| set.value),
        text: change.text.as_ref().map(|set| &*set.value),
        id,
    }
}
