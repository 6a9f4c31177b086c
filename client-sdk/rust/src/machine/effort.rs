//! How a session comes about: token, route, connection, welcome; and what is done when it does not.

use super::{
    End, LinkId, Machine, NoRoute, Output, Target,
    link::{Asked, Link},
};
use crate::types::{Problem, Reason, Waited};

/// How long an answer to a route may take. ms.
const ROUTE_PATIENCE: u64 = 10_000;
/// How long it may take from an address to the welcome. ms.
const WELCOME_PATIENCE: u64 = 10_000;
/// How long a connection that another one replaced may stay. ms.
const RETIRE: u64 = 5_000;
/// A session of this age lasted: what failed before it does not count any more. ms.
const LASTING: u64 = 10_000;
/// New attempts without a delay, one after the other.
const MAX_HASTY: u32 = 3;
/// Attempts in a row without so much as an address, after which the application is told.
const TOLD: u32 = 3;
/// For how many attempts the delay has a lower bound, and which. ms.
const SOON: u32 = 10;
const SOON_DELAY: u64 = 5_000;
/// How long a client that was too fast stays away at least. ms.
const TOO_FAST: u64 = 5_000;
/// What a connection is given after a timer was late. ms.
const EXCUSE: u64 = 3_000;

/// The stage on the way to the next session.
#[derive(Debug, Default)]
pub(super) enum Effort {
    /// No connection is wanted.
    #[default]
    None,
    /// The application was asked for a token, and has not answered.
    Token,
    Route {
        request: u64,
        /// The number of routes that were asked before this one.
        asked: usize,
        until: u64,
    },
    /// A connection is open or opening, and not welcomed yet.
    Dial { link: Box<Link>, until: u64 },
    /// The client waits before its next attempt.
    Wait { until: u64 },
}

impl Effort {
    pub(super) fn due(&self) -> Option<u64> {
        match self {
            Self::None | Self::Token => None,
            Self::Route { until, .. } | Self::Dial { until, .. } | Self::Wait { until } => {
                Some(*until)
            }
        }
    }
}

impl Machine {
    /// Takes the next step on the way to a session.
    pub(super) fn go(&mut self) {
        // A new token for the session there is comes too late: the next session asks for its own.
        self.tokens.forget_question();
        if self.tokens.usable(self.now).is_none() {
            self.effort = Effort::Token;
            return self.ask_token(None);
        }
        if let Some(address) = self.redirect.take() {
            return self.dial(address);
        }
        if let Target::Address(address) = &self.settings.target {
            return self.dial(address.clone());
        }
        match &self.last_address {
            Some(address) if !self.ask_route => self.dial(address.clone()),
            _ => self.ask_route(0),
        }
    }

    /// Asks one of the routes, after `asked` others.
    fn ask_route(&mut self, asked: usize) {
        let Target::Routes(routes) = &self.settings.target else {
            return;
        };
        let route = &routes[(self.route + asked) % routes.len()];
        let url = format!("{route}/route?userId={}", encoded(self.tokens.user()));
        let request = self.id();
        self.effort = Effort::Route {
            request,
            asked,
            until: self.now.steady + ROUTE_PATIENCE,
        };
        self.outputs.push_back(Output::FetchRoute { request, url });
    }

    pub(super) fn routed(&mut self, request: u64, result: Result<String, NoRoute>) {
        let asked = match &self.effort {
            Effort::Route {
                request: of, asked, ..
            } if *of == request => *asked,
            _ => return,
        };
        match result {
            Ok(address) => {
                self.route += asked;
                self.ask_route = false;
                self.dial(address);
            }
            // The user's name is none.
            Err(no) if no.status == Some(400) => self.fail(Reason::Route(no.message)),
            Err(no) => self.no_route(asked, no),
        }
    }

    /// A fleet without its coordinators goes on serving: the last address is better than none, and a
    /// node that is the wrong one says which is right.
    fn no_route(&mut self, asked: usize, no: NoRoute) {
        if matches!(&self.settings.target, Target::Routes(routes) if asked + 1 < routes.len()) {
            return self.ask_route(asked + 1);
        }
        let reason = Reason::Route(no.message);
        match self.last_address.clone() {
            Some(address) => {
                self.reason = Some(reason);
                self.dial(address);
            }
            None => self.attempt_failed(reason, no.retry_after.unwrap_or(0)),
        }
    }

    fn dial(&mut self, address: String) {
        if self.settings.target.is_secure() && !address.starts_with("wss:") {
            self.ask_route = true;
            return self.attempt_failed(Reason::Plaintext(address), 0);
        }
        self.open(address);
    }

    fn open(&mut self, address: String) {
        let link = self.id();
        self.last_address = Some(address.clone());
        self.outputs.push_back(Output::Open { link, address });
        self.effort = Effort::Dial {
            link: Box::new(Link::new(link, self.settings.heartbeat, self.now)),
            until: self.now.steady + WELCOME_PATIENCE,
        };
    }

    /// Handles an open connection: sends the token.
    pub(super) fn opened(&mut self, id: LinkId) {
        let (mut link, until) = match std::mem::take(&mut self.effort) {
            Effort::Dial { link, until } if link.id == id => (link, until),
            // That of a former effort.
            other => return self.effort = other,
        };
        let Some(token) = self.tokens.usable(self.now) else {
            // It ended meanwhile.
            self.outputs.push_back(Output::Abort { link: id });
            return self.go();
        };
        let token = token.to_owned();
        link.told = self.profile.activity(self.now, self.settings.auto_away);
        self.send_auth(&mut link, &token, Asked::Auth);
        self.effort = Effort::Dial { link, until };
    }

    /// Handles the end of a connection.
    pub(super) fn ended(&mut self, id: LinkId, end: End) {
        if let Some(at) = self.retiring.iter().position(|(link, _)| *link == id) {
            self.retiring.swap_remove(at);
        } else if let Some(link) = self.session.take_if(|link| link.id == id) {
            self.lost(link, end);
        } else if let Effort::Dial { link, .. } = &self.effort
            && link.id == id
        {
            self.effort = Effort::None;
            self.not_welcomed(end);
        }
    }

    /// Handles a connection that ended before its welcome.
    fn not_welcomed(&mut self, end: End) {
        if !matches!(
            end,
            End::Closed { code: 4401, .. } | End::Refused { status: 401, .. }
        ) {
            self.ask_route = true;
        }
        match end {
            End::Unreachable(message) => self.attempt_failed(Reason::Unreachable(message), 0),
            End::Closed { code, message } => self.gone(code, message, false),
            End::Refused {
                status: 401,
                message,
                ..
            } => self.gone(4401, message, false),
            End::Refused {
                status: 403,
                message,
                ..
            } if self.session.is_none() => {
                self.fail(Reason::Refused {
                    status: 403,
                    message,
                });
            }
            End::Refused {
                status,
                message,
                retry_after,
            } => {
                let reason = Reason::Refused { status, message };
                self.attempt_failed(reason, retry_after.unwrap_or(0));
            }
        }
    }

    /// Notes that the session of this connection ended, and starts what follows from its end.
    fn lost(&mut self, mut link: Link, end: End) {
        self.forget_session(&mut link);
        match end {
            End::Closed { code, message } => self.gone(code, message, true),
            End::Unreachable(message) | End::Refused { message, .. } => {
                self.gone(1006, message, true);
            }
        }
    }

    /// What is done at a close code, after docs/protocol.md.
    fn gone(&mut self, code: u16, message: String, welcomed: bool) {
        let reason = Reason::Closed {
            code,
            message: message.clone(),
        };
        match code {
            // What was sent would be refused again; 4403 and 4409 say so of the user. While a session
            // stands, what fails for the next one is no end.
            1002 | 1003 | 1007 | 1009 | 4403 | 4409 if self.session.is_none() => {
                return self.fail(reason);
            }
            // A new connection is on its way already.
            _ if welcomed && !matches!(self.effort, Effort::None) => {
                self.reason = Some(reason);
                return;
            }
            4401 if !self.token_ended() => return self.refused_token(&message, false),
            4401 if self.hasty == 0 => return self.at_once(reason),
            4421 | 1012 => {
                self.ask_route = true;
                if self.hasty < MAX_HASTY {
                    self.redirect =
                        Some(message).filter(|address| code == 4421 && is_socket(address));
                    return self.at_once(reason);
                }
            }
            1001 | 1013 => self.ask_route = true,
            _ => {}
        }
        let least = if code == 4429 { TOO_FAST } else { 0 };
        self.attempt_failed(reason, least);
    }

    /// The server did not answer a ping: the connection is dead, and the server may not know.
    pub(super) fn silent(&mut self) {
        if let Some(mut link) = self.session.take() {
            self.outputs.push_back(Output::Abort { link: link.id });
            self.forget_session(&mut link);
            self.reason = Some(Reason::Silent(Waited::Pong));
            if matches!(self.effort, Effort::None) {
                self.go();
            }
        }
    }

    fn forget_session(&mut self, link: &mut Link) {
        self.identity = None;
        self.flush_at = None;
        if self.tokens.is_asked() && !matches!(self.effort, Effort::Token) {
            // It was for this session.
            self.tokens.forget_question();
        }
        self.drop_requests(link);
        if self.now.steady - link.since >= LASTING {
            (self.failures, self.hasty) = (0, 0);
        }
    }

    /// A move: the next connection is made while this one lasts.
    pub(super) fn moved(&mut self, address: String) {
        self.abandon();
        self.redirect = Some(address);
        self.go();
    }

    /// Gives up the attempt that is under way.
    pub(super) fn abandon(&mut self) {
        if let Effort::Dial { link, .. } = std::mem::take(&mut self.effort) {
            self.outputs.push_back(Output::Abort { link: link.id });
        }
        self.tokens.forget_question();
    }

    /// Tries again without a delay.
    fn at_once(&mut self, reason: Reason) {
        self.hasty += 1;
        self.reason = Some(reason);
        self.go();
    }

    /// Waits before the next attempt, at least so many ms.
    pub(super) fn attempt_failed(&mut self, reason: Reason, least: u64) {
        self.failures += 1;
        let no_address = matches!(
            reason,
            Reason::Token(_) | Reason::Route(_) | Reason::Plaintext(_)
        );
        if self.failures == TOLD && no_address {
            let problem = Problem::Attempts(reason.clone());
            self.outputs.push_back(Output::Problem(problem));
        }
        self.reason = Some(reason);
        let delay = self.back_off(self.failures).max(least);
        self.effort = Effort::Wait {
            until: self.now.steady + delay,
        };
    }

    /// Full jitter: anything from nothing to a bound that doubles with each failure. It stays short
    /// for a while, so that users come back within their time of grace from what lasts seconds.
    pub(super) fn back_off(&mut self, failures: u32) -> u64 {
        let attempt = failures.saturating_sub(1).min(20);
        let (min, max) = (self.settings.min_delay, self.settings.max_delay);
        let most = if attempt < SOON {
            max.min(SOON_DELAY)
        } else {
            max
        };
        let bound = min.saturating_mul(1 << attempt).min(most);
        ((self.random)() * bound as f64) as u64
    }

    /// The machine slept or the network changed: what timers say is not the connection's fault.
    pub(super) fn wake(&mut self, slept: bool) {
        if !self.wanted || self.failure.is_some() {
            return;
        }
        let now = self.now.steady;
        match &mut self.effort {
            Effort::None | Effort::Token => {}
            Effort::Wait { until } => *until = now,
            Effort::Route { until, .. } | Effort::Dial { until, .. } => {
                *until = (*until).max(now + EXCUSE);
            }
        }
        self.tokens.excuse(now + EXCUSE);
        self.doubt(slept);
    }

    pub(super) fn retire(&mut self, link: LinkId) {
        self.retiring.push((link, self.now.steady + RETIRE));
    }

    pub(super) fn tick_effort(&mut self) {
        if self.effort.due().is_none_or(|due| due > self.now.steady) {
            return;
        }
        match std::mem::take(&mut self.effort) {
            Effort::None | Effort::Token => {}
            Effort::Wait { .. } => self.go(),
            Effort::Route { asked, .. } => {
                let no = NoRoute {
                    status: None,
                    message: format!("no answer in {} s", ROUTE_PATIENCE / 1_000),
                    retry_after: None,
                };
                self.no_route(asked, no);
            }
            Effort::Dial { link, .. } => {
                self.outputs.push_back(Output::Abort { link: link.id });
                self.ask_route = true;
                self.attempt_failed(Reason::Silent(Waited::Welcome), 0);
            }
        }
    }
}

fn is_socket(address: &str) -> bool {
    address.starts_with("ws://") || address.starts_with("wss://")
}

/// A value of a query (RFC 3986 §2.3).
fn encoded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
