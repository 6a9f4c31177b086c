//! The loop around the control: looks at the store, lets the control decide, writes what it
//! decided, and shows what is known now. It owns the order of what is read; it decides nothing.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use coordinator::control::{Control, Note, Observation, Reading, Stored, Write};
use program::{Trouble, Turn};
use redis_store::{Leader, Link, MapWrite, StoreError};
use ring::{MapError, NodeId};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tracing::{error, info, warn};

use crate::{
    clock,
    leadership::Leadership,
    metrics::Metrics,
    picture::{Picture, Published},
    probe,
    stop::Stop,
    timeline::Timeline,
};

/// How long after a new map the looks come more often: the nodes report what they have done, and
/// the next step of a move waits for that.
const AFTER_A_MAP: Duration = Duration::from_secs(2);
/// The factor by which looks come more often in that time.
const MORE_OFTEN: u32 = 5;
/// Time between two questions whether edges still have their connections.
const CONNECTIONS: Duration = Duration::from_millis(100);
/// The most edges whose addresses are tried at a time.
const MOST_PROBES: usize = 4;
/// The shortest time between two looks, whoever asks for them.
const MIN_GAP: Duration = Duration::from_millis(20);
/// The highest version of a damaged map that another one can follow.
const MAX_VERSION: u64 = 1 << 52;

/// The receivers of what the loop shows.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) picture: watch::Receiver<Arc<Picture>>,
    /// The newest map; it changes with the map's version only.
    pub(crate) map: watch::Receiver<Option<Arc<Published>>>,
    /// Notified to ask for a look at once.
    pub(crate) look: Arc<Notify>,
}

pub(crate) struct Fleet {
    link: Link,
    control: Control,
    leadership: Leadership,
    metrics: Arc<Metrics>,
    poll: Duration,
    /// How long a connection has to be closed to say something; zero = it never does.
    closed_for: Duration,
    picture: watch::Sender<Arc<Picture>>,
    map: watch::Sender<Option<Arc<Published>>>,
    look: Arc<Notify>,
    timeline: Timeline,
    read_at: Option<Instant>,
    /// The time at which the map changed last.
    changed_at: Option<Instant>,
    leader: Option<Leader>,
    /// What was last said to be wrong with reading and with writing, so that it is said once.
    unread: Trouble,
    unwritten: Trouble,
    /// What is wrong, by kind and in words, as it was told last.
    problems: Vec<(&'static str, String)>,
    writing: Option<Note>,
    /// The names that an operator drains, as of the last reading.
    drained: Option<BTreeSet<String>>,
}

impl Fleet {
    pub(crate) fn new(
        link: Link,
        control: Control,
        leadership: Leadership,
        metrics: Arc<Metrics>,
        poll: Duration,
        closed_for: Duration,
        step: u64,
    ) -> (Self, Shown) {
        let (picture, shown_picture) = watch::channel(Arc::new(Picture::empty()));
        let (map, shown_map) = watch::channel(None);
        let look = Arc::new(Notify::new());
        let shown = Shown {
            picture: shown_picture,
            map: shown_map,
            look: Arc::clone(&look),
        };
        let fleet = Self {
            link,
            control,
            leadership,
            metrics,
            poll,
            closed_for,
            picture,
            map,
            look,
            timeline: Timeline::new(step),
            read_at: None,
            changed_at: None,
            leader: None,
            unread: Trouble::default(),
            unwritten: Trouble::default(),
            problems: Vec::new(),
            writing: None,
            drained: None,
        };
        (fleet, shown)
    }

    /// Looks, decides and writes until `stop`.
    pub(crate) async fn run(mut self, mut stop: Stop) {
        let mut announced = self.link.watch_map();
        let mut leadership = self.leadership.clone();
        let mut listening = true;
        loop {
            let wrote = self.look_once().await;
            let moving = self.changed_at.is_some_and(|at| at.elapsed() < AFTER_A_MAP);
            let poll = match (wrote, moving) {
                (true, _) => MIN_GAP,
                (false, true) => self.poll / MORE_OFTEN,
                (false, false) if self.control.is_waiting_for_one() => {
                    self.poll.min(self.closed_for)
                }
                (false, false) => self.poll,
            };
            tokio::select! {
                () = self.rest(poll) => {}
                changed = announced.changed(), if listening => {
                    // The subscription's task has ended: the poll goes on without it.
                    listening = changed.is_ok();
                    sleep(MIN_GAP).await;
                }
                () = self.look.notified() => sleep(MIN_GAP).await,
                () = leadership.changed() => sleep(MIN_GAP).await,
                () = stop.signalled() => return,
            }
        }
    }

    /// Until the next look is due: after `poll`, or when an edge has lost its connection. Nothing is
    /// decided here.
    async fn rest(&self, poll: Duration) {
        let end = Instant::now() + poll;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if self.closed_for.is_zero() || left <= CONNECTIONS {
                return sleep(left).await;
            }
            sleep(CONNECTIONS).await;
            // That the store does not answer is said at the look.
            if let Ok(Some(alive)) = self.alive().await
                && self.control.misses_one(&alive)
            {
                return;
            }
        }
    }

    /// The processes that live as far as can be told: they have their connection to Redis, or did not
    /// let a connection to their clients' address be refused.
    async fn alive(&self) -> Result<Option<BTreeSet<(NodeId, u64)>>, StoreError> {
        let alive = self.link.alive(&self.control.processes()).await?;
        let Some(mut alive) = alive else {
            return Ok(None);
        };
        let missing = self.control.addresses_of_missing(&alive);
        if missing.len() > MOST_PROBES {
            // One cause that they share, more likely; the control takes it for that.
            return Ok(Some(alive));
        }
        for (process, address) in missing {
            if !probe::refuses(&address).await {
                alive.insert(process);
            }
        }
        Ok(Some(alive))
    }

    /// Gives whether a map was written, so that there is more to see at once.
    async fn look_once(&mut self) -> bool {
        let started = Instant::now();
        let reading = self.read().await;
        self.metrics.looked(reading.is_ok(), started.elapsed());
        for notice in self.link.take_notices() {
            warn!(event = "redis_notice", "{notice}");
            self.timeline.add(clock::wall_ms(), "fault", notice);
        }
        if reading.is_ok() {
            self.read_at = Some(started);
        }
        let error =
            (reading.as_ref().err()).map(|error| format!("the store cannot be used: {error}"));
        match self.unread.turn(error) {
            Some(Turn::Begins(text)) => {
                error!(event = "store_unusable", "{text}");
                self.timeline
                    .add(clock::wall_ms(), "fault", text.to_owned());
            }
            Some(Turn::Ends) => {
                let text = "the store answers again";
                info!(event = "store_answers", "{text}");
                self.timeline.add(clock::wall_ms(), "recovery", text.into());
            }
            None => {}
        }
        let token = self.leadership.token();
        let reading = reading.ok();
        if let Some(reading) = &reading {
            self.note_drains(&reading.drained).await;
        }
        let drained = reading.as_ref().map(|reading| reading.drained.clone());
        let observation = Observation {
            leading: token.is_some(),
            reading,
        };
        let decision = self.control.observe(clock::now(), observation);
        for note in decision.notes {
            self.note(&note);
        }
        self.name_problems();
        self.show(token.is_some(), drained);
        let wrote = match (decision.write, token) {
            (Some(write), Some(token)) => self.write(token, write).await,
            _ => false,
        };
        for (node, boot) in decision.end {
            // What is left is ended at the next look, or by itself.
            if let Err(error) = self.link.end_lease(&node, boot).await {
                warn!(
                    event = "lease_not_ended",
                    node = %node,
                    "the lease that {node} left is not ended: {error}"
                );
                break;
            }
        }
        for name in decision.forget {
            // What is left is forgotten at the next look.
            if self.link.forget_name(&name).await.is_err() {
                break;
            }
        }
        wrote
    }

    /// One look. The leases come before the map, so that none is ahead of it by the order alone.
    async fn read(&mut self) -> Result<Reading, StoreError> {
        let link = &self.link;
        // First of all, so that a lease that was renewed after it shows a living node.
        let alive = match self.closed_for.is_zero() {
            true => None,
            // Why it does not answer shows at what is asked next.
            false => self.alive().await.unwrap_or(None),
        };
        let (leases, drained, run_id, incarnation, leader) = tokio::join!(
            link.leases(),
            link.drained(),
            link.run_id(),
            link.incarnation(),
            link.leader(),
        );
        let leases = leases?;
        let drained = drained?.into_iter().collect();
        self.leader = leader?;
        let map = match link.map().await {
            Ok(None) => Stored::Nothing,
            Ok(Some(map)) => Stored::Map(map),
            // Damage is repaired; what a newer release wrote is not ours to replace.
            Err(StoreError::CorruptMap { version, error })
                if error != MapError::Format && version.get() < MAX_VERSION =>
            {
                Stored::Corrupt(version)
            }
            Err(error) => return Err(error),
        };
        let mut source = DefaultHasher::new();
        (run_id?, incarnation?, link.counters().connects).hash(&mut source);
        Ok(Reading {
            source: source.finish(),
            alive,
            leases: leases.good,
            unreadable: leases.bad,
            gone: leases.gone,
            drained,
            map,
        })
    }

    async fn write(&mut self, token: u64, write: Write) -> bool {
        let Write { after, map } = write;
        let version = map.version();
        let (result, why) = match self.link.write_map(token, after, &map).await {
            Ok(MapWrite::Written) => {
                self.unwritten.turn(None);
                self.metrics.map_written("written");
                if let Some(Note::Writing { moves, raised, .. }) = self.writing {
                    self.metrics.moved(moves, raised);
                }
                return true;
            }
            Ok(MapWrite::NotNext { version }) => {
                ("not_next", format!("the store has map {version} by now"))
            }
            Ok(MapWrite::Superseded { token: newer }) => {
                self.leadership.is_superseded();
                let why = format!("the leader of token {newer} has written, and ours is {token}");
                ("superseded", why)
            }
            Err(error) => ("failed", error.to_string()),
        };
        self.metrics.map_written(result);
        let text = format!("map {version} was not written: {why}");
        if let Some(Turn::Begins(text)) = self.unwritten.turn(Some(text)) {
            error!(event = "map_not_written", "{text}");
            self.timeline
                .add(clock::wall_ms(), "fault", text.to_owned());
        }
        false
    }

    fn show(&mut self, leading: bool, drained: Option<std::collections::BTreeSet<String>>) {
        let before = Arc::clone(&self.picture.borrow());
        let now = clock::now();
        let map = match (self.control.map(), &before.map) {
            (Some(map), Some(published)) if *map == published.map => Some(Arc::clone(published)),
            (Some(map), _) => Some(Arc::new(Published::new(map.clone()))),
            (None, _) => None,
        };
        let drained = match drained {
            Some(drained) => drained.into_iter().collect(),
            None => before.drained.clone(),
        };
        let version = |map: &Option<Arc<Published>>| map.as_ref().map(|map| map.map.version());
        if version(&map) != version(&before.map) {
            self.map.send_replace(map.clone());
            self.changed_at = Some(Instant::now());
        }
        self.picture.send_replace(Arc::new(Picture {
            map,
            members: self.control.members(now),
            drained,
            problems: self.control.problems().to_vec(),
            suspects: self.control.suspects(),
            leading,
            leader: self.leader.clone(),
            events: self.timeline.shown(),
            read_at: self.read_at,
        }));
    }

    fn note(&mut self, note: &Note) {
        if matches!(note, Note::Writing { .. }) {
            // A write that fails is decided anew at each look, and said once.
            if self.writing.as_ref() == Some(note) {
                return;
            }
            self.writing = Some(note.clone());
        }
        match note {
            Note::Ended(_) => self.metrics.hinted("ended"),
            Note::Lived(_) => self.metrics.hinted("lived"),
            Note::ClosedTogether(_) => self.metrics.hinted("together"),
            _ => {}
        }
        if let Some(kind) = note.kind() {
            let (event, node) = (note.event(), note.node().map(|id| &**id));
            match kind {
                "fault" => warn!(event, node, "{note}"),
                _ => info!(event, node, "{note}"),
            }
            return self.timeline.add(clock::wall_ms(), kind, note.to_string());
        }
        info!(event = note.event(), "{note}");
        if let Note::Map(version, moved) = note {
            self.timeline.add_map(clock::wall_ms(), *version, moved);
        }
    }

    /// Notes which nodes an operator drains now and did not at the look before, and no more.
    async fn note_drains(&mut self, drained: &BTreeSet<String>) {
        let Some(before) = self.drained.replace(drained.clone()) else {
            return;
        };
        let changed: Vec<(&String, bool)> = (before.symmetric_difference(drained))
            .map(|name| (name, drained.contains(name)))
            .collect();
        if changed.is_empty() {
            return;
        }
        // Who it was is not worth a look that fails.
        let by = self.link.drained_by(&changed).await.unwrap_or_default();
        for (n, (name, drains)) in changed.into_iter().enumerate() {
            let mut text = match drains {
                true => format!("node {name} is drained"),
                false => format!("node {name} is drained no more"),
            };
            if let Some(Some(by)) = by.get(n) {
                text += &format!(", as {by:?} asked");
            }
            self.timeline.add(clock::wall_ms(), "drain", text);
        }
    }

    fn name_problems(&mut self) {
        let problems: Vec<(&'static str, String)> = (self.control.problems().iter())
            .map(|problem| (problem.kind(), problem.to_string()))
            .collect();
        for (kind, text) in &problems {
            if !self.problems.iter().any(|(_, told)| told == text) {
                error!(event = "problem", kind, "{text}");
                self.timeline.add(clock::wall_ms(), "fault", text.clone());
            }
        }
        for (kind, text) in &self.problems {
            if !problems.iter().any(|(_, still)| still == text) {
                info!(event = "problem_over", kind, "no more: {text}");
            }
        }
        self.problems = problems;
    }
}
