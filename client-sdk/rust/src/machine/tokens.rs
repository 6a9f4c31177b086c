//! The token: one question to the application at any time, and what came of it.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::{Effort, LinkId, Machine, NoToken, Now, Output, link::Asked};
use crate::types::Reason;

/// How long the application's function may take. ms.
const PATIENCE: u64 = 30_000;
/// How long a token has to be good to be used for another connection. ms.
const MARGIN: u64 = 5_000;
/// How long before its end a token is replaced, if it lives that long; and by how much that is spread,
/// so that those who came together do not ask together. ms.
const LEAD: u64 = 60_000;
const SPREAD: f64 = 30_000.0;
/// New tokens that a server may refuse in a row.
const MAX_REFUSED: u32 = 2;

#[derive(Debug, Clone)]
struct Token {
    text: String,
    /// The time of the token's end, ms since 1970; `None` when it does not say.
    expires: Option<u64>,
    /// Whether a server took the token.
    accepted: bool,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: Option<f64>,
}

/// What a token says is the server's to check: here it only tells whom to ask the route for, and when
/// to replace it.
fn claims(token: &str) -> Option<Claims> {
    let part = token.split('.').nth(1)?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[derive(Debug)]
struct Question {
    request: u64,
    /// The session that it is to be for; `None`: the next one.
    link: Option<LinkId>,
    until: u64,
}

/// The one chain of requests for tokens, and the token in use.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    have: Option<Token>,
    /// One that a server refused: it is not used again.
    bad: Option<String>,
    /// The user of the first token; a token of another one is refused.
    user: Option<String>,
    question: Option<Question>,
    /// The last questions for a session that were in vain.
    failures: u32,
    /// The last new tokens that a server refused.
    refused: u32,
    next_request: u64,
}

impl Tokens {
    /// As if nothing had been, except that an answer to a former question is known as such.
    pub(super) fn following(former: &Self) -> Self {
        Self {
            next_request: former.next_request,
            ..Self::default()
        }
    }

    /// The token, if it is good for a connection now.
    pub(super) fn usable(&self, now: Now) -> Option<&str> {
        let token = self.have.as_ref()?;
        let ends = token
            .expires
            .is_some_and(|expires| expires < now.wall + MARGIN);
        // One that no server saw yet is tried all the same: this clock may be wrong.
        let good = !token.accepted || !ends;
        (good && self.bad.as_ref() != Some(&token.text)).then_some(&*token.text)
    }

    /// The user that the token names; empty before the first token.
    pub(super) fn user(&self) -> &str {
        self.user.as_deref().unwrap_or_default()
    }

    pub(super) fn due(&self) -> Option<u64> {
        self.question.as_ref().map(|question| question.until)
    }

    pub(super) fn is_asked(&self) -> bool {
        self.question.is_some()
    }

    /// What comes of the question is not wanted any more.
    pub(super) fn forget_question(&mut self) {
        self.question = None;
    }

    /// A timer was late: the answer has a little time left.
    pub(super) fn excuse(&mut self, until: u64) {
        if let Some(question) = &mut self.question {
            question.until = question.until.max(until);
        }
    }

    /// Notes that a server took the token.
    fn accepted(&mut self) {
        (self.refused, self.failures) = (0, 0);
        self.bad = None;
        if let Some(token) = &mut self.have {
            token.accepted = true;
        }
    }
}

impl Machine {
    /// Asks the application for a token, for the connection that waits for it.
    pub(super) fn ask_token(&mut self, link: Option<LinkId>) {
        self.tokens.next_request += 1;
        let request = self.tokens.next_request;
        self.tokens.question = Some(Question {
            request,
            link,
            until: self.now.steady + PATIENCE,
        });
        self.outputs.push_back(Output::FetchToken { request });
    }

    /// Takes the application's answer to a request for a token.
    pub(super) fn token(&mut self, request: u64, result: Result<String, NoToken>) {
        let Some(question) = self
            .tokens
            .question
            .take_if(|asked| asked.request == request)
        else {
            return;
        };
        let refresh = question.link.is_some();
        let text = match result {
            Ok(text) => text,
            Err(NoToken::NotAllowed(message)) => {
                return self.fail(Reason::TokenNotAllowed(message));
            }
            Err(NoToken::Failed(message)) => {
                return self.no_token(Reason::Token(message), refresh);
            }
        };
        let Some(claims) = claims(&text) else {
            let message = "it has to give a JWT whose `sub` is the user".into();
            return self.no_token(Reason::Token(message), refresh);
        };
        if self.tokens.bad.as_ref() == Some(&text) {
            return self.refused_token("the token function gave the refused token again", refresh);
        }
        if refresh
            && self
                .tokens
                .have
                .as_ref()
                .is_some_and(|token| token.text == text)
        {
            let message = "it gave the token that is about to end".into();
            return self.no_token(Reason::Token(message), refresh);
        }
        if let Some(user) = self
            .tokens
            .user
            .as_ref()
            .filter(|user| **user != claims.sub)
        {
            let message = format!("the token is of {}, and this client of {user}", claims.sub);
            return self.fail(Reason::WrongUser(message));
        }
        self.tokens.user = Some(claims.sub);
        self.tokens.have = Some(Token {
            text: text.clone(),
            expires: claims.exp.map(|exp| (exp * 1e3) as u64),
            accepted: false,
        });
        self.use_token(&question, &text);
    }

    fn use_token(&mut self, question: &Question, text: &str) {
        if matches!(self.effort, Effort::Token) {
            return self.go();
        }
        if let Some(mut link) = self.session.take_if(|link| Some(link.id) == question.link) {
            self.send_auth(&mut link, text, Asked::Refresh);
            self.session = Some(link);
        }
    }

    fn no_token(&mut self, reason: Reason, refresh: bool) {
        if !refresh {
            return self.attempt_failed(reason, 0);
        }
        self.outputs
            .push_back(Output::Problem(crate::Problem::Token(reason)));
        self.tokens.failures += 1;
        let delay = self.back_off(self.tokens.failures);
        if let Some(link) = &mut self.session {
            link.refresh_at = Some(self.now.wall + delay);
        }
    }

    /// A server refused the token. One that was good once has ended, or its key was taken back; of new
    /// ones a second is too many.
    pub(super) fn refused_token(&mut self, message: &str, refresh: bool) {
        let token = self.tokens.have.as_ref();
        self.tokens.bad = token.map(|token| token.text.clone());
        self.tokens.refused += 1;
        let reason = Reason::TokenRefused(message.to_owned());
        if self.tokens.refused < MAX_REFUSED {
            return self.no_token(reason, refresh);
        }
        self.fail(reason);
    }

    /// Whether a server took the token; it is not used again then, since it has ended.
    pub(super) fn token_ended(&mut self) -> bool {
        let accepted = self
            .tokens
            .have
            .as_ref()
            .is_some_and(|token| token.accepted);
        if accepted {
            self.tokens.bad = self.tokens.have.as_ref().map(|token| token.text.clone());
        }
        accepted
    }

    /// The server took the token, which ends then: sets when it is replaced. If it ended by this clock
    /// already, the server has to say when.
    pub(super) fn token_accepted(&mut self, expires: Option<u64>) {
        self.tokens.accepted();
        let wall = self.now.wall;
        let lead = LEAD + ((self.random)() * SPREAD) as u64;
        let expires = expires.filter(|expires| *expires > wall);
        if let Some(link) = &mut self.session {
            let at = |expires: u64| expires - lead.min((expires - wall) / 2);
            link.refresh_at = expires.map(at);
        }
    }

    /// The server says that the token ends in so many seconds.
    pub(super) fn token_expires(&mut self, seconds: u64) {
        let wait = seconds as f64 * 250.0 * (1.0 + (self.random)());
        let at = self.now.wall + wait as u64;
        if let Some(link) = &mut self.session {
            link.refresh_at = Some(link.refresh_at.map_or(at, |planned| planned.min(at)));
        }
    }

    pub(super) fn tick_tokens(&mut self) {
        let steady = self.now.steady;
        if let Some(question) = self
            .tokens
            .question
            .take_if(|question| question.until <= steady)
        {
            let message = format!("it took longer than {} s", PATIENCE / 1_000);
            self.no_token(Reason::Token(message), question.link.is_some());
        }
        let wall = self.now.wall;
        if self.tokens.is_asked() || !matches!(self.effort, Effort::None | Effort::Wait { .. }) {
            return;
        }
        if let Some(link) = &mut self.session
            && link.refresh_at.take_if(|at| *at <= wall).is_some()
        {
            let id = link.id;
            self.ask_token(Some(id));
        }
    }
}
