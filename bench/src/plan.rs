//! Who connects, who watches whom, and which change happens when: all of it a function of the
//! options and the seed, so that every worker knows what every watcher has to see, and when it was
//! meant to happen.

use serde::{Deserialize, Serialize};

use crate::{address::Address, dialogue::Dialogue, encoding::Encoding, tls::Trust, truth::Span};

/// The kind of load that a run makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scenario {
    #[default]
    Connect,
    Presence,
    Fanout,
    Storm,
    Echo,
}

/// What a user does, in turns, from its second turn on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A user with one session for the whole run.
    Stays,
    /// Stays, and is away and online in turns.
    Toggles,
    /// A user that comes and goes by the schedule.
    Moves,
}

/// The state of a user as a record shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Online,
    Away,
    Offline,
}

/// Where the bench opens a user's session.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entrance {
    /// At this server, unless it sends the user elsewhere.
    Server(Address),
    /// Each worker's at one of these, in turns.
    Servers(Vec<Address>),
    /// At the address that one of these coordinators names.
    Coordinators(Vec<Address>),
}

/// A run, as the workers get it. Users are numbered: `0..sessions` hold a session each, then the
/// one that all watch in `Fanout` (several, of another kind of server), then those that come and go.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) scenario: Scenario,
    pub(crate) entrance: Entrance,
    /// For a server of another kind.
    pub(crate) dialogue: Option<Dialogue>,
    pub(crate) secret: String,
    pub(crate) encoding: Encoding,
    /// For `wss://`.
    pub(crate) trust: Trust,
    /// Users are `<prefix>-<number>`; a run never meets the users of another.
    pub(crate) prefix: String,
    pub(crate) seed: u64,
    pub(crate) sessions: u32,
    pub(crate) watch: u32,
    pub(crate) movers: u32,
    /// Every so many changes one is a user that comes or goes; 0 = none is.
    pub(crate) move_every: u64,
    /// The number of changes of the whole run.
    pub(crate) changes: u64,
    /// The rate of changes, a second.
    pub(crate) rate: f64,
    /// Seconds that idle sessions are held, when there are no changes.
    pub(crate) hold: f64,
    /// Seconds that the sessions are held after the last change.
    pub(crate) hold_after: f64,
    pub(crate) drain: f64,
    /// How long the server keeps a user whose session broke, µs.
    pub(crate) grace: u64,
    /// How long after a disturbance states may be passed over, µs.
    pub(crate) tolerance: u64,
    /// How long the server lets changes wait for others, µs; 0 = not at all.
    pub(crate) flush: u64,
    /// When what deliveries travel over is known to be away, µs from the start.
    pub(crate) outages: Vec<Span>,
    /// Between two signs of life that a session is asked for, µs; 0 = it is not asked.
    pub(crate) probe: u64,
    pub(crate) connect_rate: f64,
    pub(crate) workers: u32,
    /// What the clock of this worker's machine lacks to that of the run, µs.
    pub(crate) clock: i64,
    /// Each worker is on a machine of its own.
    pub(crate) distant: bool,
    /// The second byte of this run's source addresses on loopback.
    pub(crate) source: u8,
    /// The index of this worker, from 0.
    pub(crate) worker: u32,
}

fn mix(seed: u64, n: u64) -> u64 {
    // splitmix64 (Steele 2014).
    let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Plan {
    /// The one server of this worker; `None` = coordinators say where.
    pub(crate) fn server(&self) -> Option<&Address> {
        match &self.entrance {
            Entrance::Server(address) => Some(address),
            Entrance::Servers(all) => all.get(self.worker as usize % all.len().max(1)),
            Entrance::Coordinators(_) => None,
        }
    }

    pub(crate) fn user(&self, number: u32) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// The number of one of this run's users.
    pub(crate) fn number(&self, user: &str) -> Option<u32> {
        user.strip_prefix(&*self.prefix)?
            .strip_prefix('-')?
            .parse()
            .ok()
    }

    /// Those whom all sessions of `Fanout` watch.
    fn publishers(&self) -> u32 {
        self.dialogue
            .as_ref()
            .map_or(1, |dialogue| dialogue.publishers)
    }

    /// Users that hold a session all the time.
    pub(crate) fn holders(&self) -> u32 {
        match self.scenario {
            Scenario::Fanout => self.sessions + self.publishers(),
            _ => self.sessions,
        }
    }

    /// The number of users of the whole run.
    pub(crate) fn users(&self) -> u32 {
        self.holders() + self.movers
    }

    pub(crate) fn kind(&self, user: u32) -> Kind {
        match self.scenario {
            _ if user >= self.holders() => Kind::Moves,
            Scenario::Presence | Scenario::Echo => Kind::Toggles,
            Scenario::Fanout if user >= self.sessions => Kind::Toggles,
            Scenario::Connect | Scenario::Storm | Scenario::Fanout => Kind::Stays,
        }
    }

    /// The first of the users that toggle, and their number.
    fn togglers(&self) -> (u32, u32) {
        match self.scenario {
            Scenario::Presence | Scenario::Echo => (0, self.sessions),
            Scenario::Fanout => (self.sessions, self.publishers()),
            Scenario::Connect | Scenario::Storm => (0, 0),
        }
    }

    /// Whom the user's session watches, in order of their numbers: users of the same worker, which
    /// knows what is the case with them, except for the one that all watch.
    pub(crate) fn watched(&self, user: u32) -> Vec<u32> {
        if user >= self.sessions {
            return Vec::new();
        }
        if self.scenario == Scenario::Fanout {
            return (self.sessions..self.holders()).collect();
        }
        if self.scenario == Scenario::Echo {
            return vec![user];
        }
        let first = user % self.workers;
        let all = u64::from((self.users() - first).div_ceil(self.workers));
        let mut watched = std::collections::BTreeSet::new();
        let mut draw = u64::from(user) << 32;
        while (watched.len() as u64) < u64::from(self.watch).min(all - 1) {
            let other = first + (mix(self.seed, draw) % all) as u32 * self.workers;
            draw += 1;
            if other != user {
                watched.insert(other);
            }
        }
        watched.into_iter().collect()
    }

    /// The user that makes the `n`th change, and which of its changes that is.
    pub(crate) fn change(&self, n: u64) -> (u32, u64) {
        let every = self.move_every;
        if every > 0 && n % every == every - 1 {
            let turn = n / every;
            let movers = u64::from(self.movers);
            return (self.holders() + (turn % movers) as u32, turn / movers);
        }
        let turn = n - n.checked_div(every).unwrap_or(0);
        let (first, count) = self.togglers();
        (
            first + (turn % u64::from(count)) as u32,
            turn / u64::from(count),
        )
    }

    /// Which change of all is the user's `k`th.
    fn position(&self, user: u32, k: u64) -> u64 {
        let every = self.move_every;
        if user >= self.holders() {
            return (k * u64::from(self.movers) + u64::from(user - self.holders())) * every
                + (every - 1);
        }
        let (first, count) = self.togglers();
        let turn = k * u64::from(count) + u64::from(user - first);
        if every > 0 {
            turn / (every - 1) * every + turn % (every - 1)
        } else {
            turn
        }
    }

    /// When the user's `k`th change is meant to happen, µs from the start; `None` when it has
    /// fewer.
    pub(crate) fn intended(&self, user: u32, k: u64) -> Option<u64> {
        if self.kind(user) == Kind::Stays {
            return None;
        }
        let n = self.position(user, k);
        (n < self.changes).then(|| self.time(n))
    }

    /// When the `n`th change is meant to happen, µs from the start.
    pub(crate) fn time(&self, n: u64) -> u64 {
        let burst = self.dialogue.as_ref().map_or(1, |d| u64::from(d.burst));
        ((n - n % burst) as f64 * 1e6 / self.rate) as u64
    }

    /// Has the run end so many µs after its start, with `made` changes at least.
    pub(crate) fn end_after(&mut self, length: u64, made: u64) {
        let due = (length as f64 * self.rate / 1e6) as u64 + 1;
        self.changes = self.changes.min(due.max(made));
        self.hold = self.hold.min(length as f64 / 1e6);
        self.hold_after = 0.0;
    }

    /// The number of changes that the schedule has for a user.
    pub(crate) fn changes_of(&self, user: u32) -> u64 {
        let moves = self.changes.checked_div(self.move_every).unwrap_or(0);
        let (turns, first, count) = match self.kind(user) {
            Kind::Stays => return 0,
            Kind::Moves => (moves, self.holders(), self.movers),
            Kind::Toggles => {
                let (first, count) = self.togglers();
                (self.changes - moves, first, count)
            }
        };
        turns
            .saturating_sub(u64::from(user - first))
            .div_ceil(count.into())
    }

    /// What the user looks like after its `k`th change; `None` for before the first.
    pub(crate) fn shown(&self, user: u32, k: Option<u64>) -> Shown {
        match (self.kind(user), k) {
            (Kind::Stays, _) | (Kind::Toggles, None) => Shown::Online,
            (Kind::Toggles, Some(k)) => [Shown::Away, Shown::Online][(k % 2) as usize],
            (Kind::Moves, None) => Shown::Offline,
            (Kind::Moves, Some(k)) => [Shown::Online, Shown::Offline][(k % 2) as usize],
        }
    }

    /// The first change from `number` on that this worker makes; the number of all when there is none.
    pub(crate) fn next_mine(&self, number: u64) -> u64 {
        let mut rest = number..self.changes;
        rest.find(|number| self.mine(self.change(*number).0))
            .unwrap_or(self.changes)
    }

    /// Whether the user's session is this worker's to open.
    pub(crate) fn mine(&self, user: u32) -> bool {
        user % self.workers == self.worker
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn plan(scenario: Scenario) -> Plan {
        Plan {
            scenario,
            entrance: Entrance::Coordinators(Vec::new()),
            dialogue: None,
            secret: String::new(),
            encoding: Encoding::Json,
            trust: Trust::System,
            prefix: "b".into(),
            seed: 7,
            sessions: 80,
            watch: 20,
            movers: if scenario == Scenario::Presence { 9 } else { 0 },
            move_every: if scenario == Scenario::Presence { 5 } else { 0 },
            changes: 1_003,
            rate: 100.0,
            hold: 0.0,
            hold_after: 0.0,
            drain: 1.0,
            grace: 15_000_000,
            tolerance: 0,
            flush: 0,
            outages: Vec::new(),
            probe: 0,
            connect_rate: 100.0,
            workers: 3,
            clock: 0,
            distant: false,
            source: 1,
            worker: 1,
        }
    }

    #[test]
    fn every_change_is_found_again_from_its_user_and_turn() {
        for scenario in [Scenario::Presence, Scenario::Fanout] {
            let plan = plan(scenario);
            let mut turns = vec![0; plan.users() as usize];
            for n in 0..plan.changes {
                let (user, k) = plan.change(n);
                assert_eq!(turns[user as usize], k, "turns of a user follow each other");
                turns[user as usize] += 1;
                assert_eq!(plan.intended(user, k), Some(plan.time(n)));
            }
            for (user, turns) in (0..).zip(turns) {
                assert_eq!(plan.changes_of(user), turns);
                assert_eq!(plan.intended(user, turns), None);
            }
        }
    }

    #[test]
    fn a_session_watches_others_once_each() {
        let plan = plan(Scenario::Presence);
        for user in 0..plan.sessions {
            let watched = plan.watched(user);
            assert_eq!(watched.len(), 20);
            assert!(watched.windows(2).all(|pair| pair[0] < pair[1]) && !watched.contains(&user));
            let worker = |user: &u32| user % plan.workers;
            assert!(watched.iter().all(|other| worker(other) == worker(&user)));
        }
        assert_eq!(plan.watched(plan.sessions), Vec::<u32>::new());
    }
}
