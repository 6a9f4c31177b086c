//! Which server a user's session goes to: the one server of the run, or where a coordinator or
//! another server says. It owns what is believed of that, and forgets what proved wrong.

use super::{Engine, WorkError};
use crate::{address::Place, clock::now_us};

/// How long the answer of a coordinator is used, µs.
const ROUTE_TTL: u64 = 60_000_000;
/// Redirects that are followed without a wait, one right after the other.
const MAX_HOPS: u32 = 3;
/// Redirects with more than this between them have nothing to do with each other, µs.
const HOPS_WITHIN: u64 = 1_000_000;

impl Engine {
    /// Connects to the user's server, or asks for it first.
    pub(super) fn connect(&mut self, number: u32, at: u64) -> Result<(), WorkError> {
        let now = now_us();
        let routes = self.router.is_some();
        let user = self.user(number);
        user.started = at;
        let fresh = !routes || now < user.routed + ROUTE_TTL;
        if let Some(place) = user.place.filter(|_| fresh) {
            return self.dial(number, place);
        }
        let asked_before = user.place.is_some() || user.attempts + user.hops > 0;
        user.waits = true;
        if let Some(router) = &mut self.router {
            router.ask(number, now);
            self.results.counts.routes += 1;
            self.results.counts.rerouted += u64::from(asked_before);
        }
        Ok(())
    }

    pub(super) fn ask_for_routes(&mut self, now: u64) {
        let (plan, registry) = (&self.plan, self.poll.registry());
        if let Some(router) = &mut self.router {
            let name = |number| plan.user(number);
            router.send(registry, name, now, &mut self.results.counts);
        }
    }

    /// Takes the answers that a coordinator sent on a wire.
    pub(super) fn routed(&mut self, wire: usize) -> Result<(), WorkError> {
        let now = now_us();
        let plan = &self.plan;
        let Some(router) = &mut self.router else {
            return Ok(());
        };
        let name = |number| plan.user(number);
        for answer in router.serve(wire, name, now, &mut self.results.counts) {
            let number = answer.user;
            self.results.route.record(now - answer.asked);
            let found = answer.outcome.map_err(|refusal| refusal.to_string());
            let found = found.and_then(|url| {
                let place = self.places.find(&url);
                place.map_err(|error| error.to_string())
            });
            let user = self.user(number);
            user.waits = false;
            let (free, started) = (user.wanted && user.connection.is_none(), user.started);
            match found {
                Ok(place) => {
                    user.place = Some(place);
                    user.routed = now;
                    if free {
                        self.dial(number, place)?;
                    }
                }
                Err(cause) => {
                    self.results.counts.unrouted += 1;
                    self.results.counts.cause(&cause);
                    if free {
                        self.lose(number, started)?;
                        self.cut(number)?;
                        self.again(number);
                    }
                }
            }
        }
        Ok(())
    }

    /// The server that a URL of a server names; with none the coordinator is asked.
    pub(super) fn place(&mut self, url: &str) -> Option<Place> {
        match self.places.find(url) {
            Ok(place) => Some(place),
            Err(error) => {
                self.results
                    .counts
                    .cause(&format!("sent elsewhere: {error}"));
                None
            }
        }
    }

    /// Goes to another server at once, for a goodbye too, unless one redirect follows the other.
    pub(super) fn go_elsewhere(
        &mut self,
        number: u32,
        place: Option<Place>,
        now: u64,
    ) -> Result<(), WorkError> {
        let user = self.user(number);
        if user.last_hop + HOPS_WITHIN < now {
            user.hops = 0;
        }
        user.hops += 1;
        user.last_hop = now;
        if let Some(place) = place {
            user.place = Some(place);
            user.routed = now;
        } else {
            self.forget_place(number);
        }
        let user = self.user(number);
        if user.hops > MAX_HOPS {
            // Servers that send it round and round do not know where it belongs.
            self.forget_place(number);
            return self.retry(number);
        }
        if user.wanted {
            return self.connect(number, now);
        }
        match place {
            Some(place) => {
                user.started = now;
                self.dial(number, place)
            }
            None => self.give_up(number, now),
        }
    }

    /// The server that a user was sent to is no use: the coordinator is asked again.
    pub(super) fn forget_place(&mut self, number: u32) {
        let home = self.home;
        let user = self.user(number);
        user.place = home;
    }
}
