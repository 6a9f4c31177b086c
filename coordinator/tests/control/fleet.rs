//! A fleet on simulated time. It checks at every write what must hold of any two maps in a row.

use std::collections::{BTreeMap, BTreeSet};

use coordinator::control::{
    Control, Decision, MemberView, Now, Observation, Options, Reading, State, Stored, Write,
};
use protocol::{Lease, Load};
use ring::{Map, MapVersion, NodeId, VnodeCount};

/// Time between two looks of the control, ms.
pub(crate) const STEP: u64 = 500;
/// 2026-01-01, and its day since 1970.
pub(crate) const START: u64 = 1_767_225_600_000;
pub(crate) const START_DAY: u32 = 20_454;

pub(crate) struct Process {
    pub(crate) lease: Lease,
    pub(crate) alive: bool,
    renewed: u64,
    /// Never reports that it has taken a map.
    pub(crate) stuck: bool,
}

pub(crate) struct Fleet {
    pub(crate) options: Options,
    pub(crate) control: Control,
    /// Another replica, which looks and never writes.
    pub(crate) standby: Control,
    pub(crate) now: u64,
    pub(crate) up: bool,
    pub(crate) source: u64,
    pub(crate) leading: bool,
    pub(crate) processes: BTreeMap<String, Process>,
    /// What the store has: leases with the time at which each ends.
    pub(crate) leases: BTreeMap<String, (Lease, u64)>,
    /// The nodes' names that the store has.
    names: BTreeSet<String>,
    pub(crate) drained: BTreeSet<String>,
    pub(crate) stored: Stored,
    /// Whether the store tells whose connections are open: those of processes that live and are not
    /// in `unlinked`.
    pub(crate) tells: bool,
    pub(crate) unlinked: BTreeSet<String>,
    /// Every map that was written.
    pub(crate) written: Vec<Map>,
    /// Leases are given in another order each time.
    turn: usize,
    boots: u64,
}

pub(crate) fn options(vnodes: usize) -> Options {
    Options {
        vnodes: VnodeCount::new(vnodes).expect("a power of two"),
        ..Options::default()
    }
}

impl Fleet {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            control: Control::new(options.clone()),
            standby: Control::new(options.clone()),
            options,
            now: 0,
            up: true,
            source: 1,
            leading: true,
            processes: BTreeMap::new(),
            leases: BTreeMap::new(),
            names: BTreeSet::new(),
            drained: BTreeSet::new(),
            stored: Stored::Nothing,
            tells: false,
            unlinked: BTreeSet::new(),
            written: Vec::new(),
            turn: 0,
            boots: 0,
        }
    }

    /// A fleet of nodes with weight 100, after its first map.
    pub(crate) fn settled(options: Options, nodes: &[&str]) -> Self {
        let mut fleet = Self::new(options);
        for node in nodes {
            fleet.start(node);
        }
        fleet.settle();
        fleet
    }

    /// Starts the node, or another process under its name.
    pub(crate) fn start(&mut self, name: &str) -> &mut Lease {
        self.boots += 1;
        let (weight, pins) = self
            .processes
            .get(name)
            .map_or((100, String::new()), |old| {
                (old.lease.weight, old.lease.pins.clone())
            });
        let lease = Lease {
            node: name.into(),
            boot: self.boots,
            address: format!("ws://{name}/socket"),
            cores: 1,
            weight,
            pins,
            vnodes: 0,
            draining: false,
            map_version: 0,
            highest_epoch: 0,
            moving: 0,
            trouble: String::new(),
            link: String::new(),
            load: Load::default(),
        };
        let process = Process {
            lease,
            alive: true,
            renewed: 0,
            stuck: false,
        };
        self.processes.insert(name.into(), process);
        self.renew(name);
        self.lease(name)
    }

    pub(crate) fn lease(&mut self, name: &str) -> &mut Lease {
        &mut self.processes.get_mut(name).expect("it was started").lease
    }

    pub(crate) fn crash(&mut self, name: &str) {
        if let Some(process) = self.processes.get_mut(name) {
            process.alive = false;
        }
    }

    /// Ends the process as it should: it gives its lease back, and its name is forgotten.
    pub(crate) fn stop(&mut self, name: &str) {
        self.crash(name);
        self.leases.remove(name);
        self.names.remove(name);
    }

    pub(crate) fn drain(&mut self, name: &str) {
        self.drained.insert(name.into());
    }

    /// Loses the content of the store.
    pub(crate) fn flush(&mut self) {
        self.leases.clear();
        self.names.clear();
        self.drained.clear();
        self.stored = Stored::Nothing;
    }

    fn renew(&mut self, name: &str) {
        let ttl = self.options.lease_ttl;
        let process = self.processes.get_mut(name).expect("it was started");
        if self.up && process.alive {
            process.renewed = self.now;
            // No two renewals measure the same.
            process.lease.load.lag_ms = self.now;
            let entry = (process.lease.clone(), self.now + ttl);
            self.leases.insert(name.into(), entry);
            self.names.insert(name.into());
        }
    }

    /// A step of time; what the control decided is written.
    pub(crate) fn step(&mut self) -> Decision {
        self.now += STEP;
        let (now, ttl) = (self.now, self.options.lease_ttl);
        if self.up {
            self.leases.retain(|_, (_, ends)| *ends > now);
        }
        let names: Vec<String> = self.processes.keys().cloned().collect();
        for name in names {
            let process = self.processes.get_mut(&name).expect("it is listed");
            let mut changed = now >= process.renewed + ttl / 3;
            if process.lease.moving > 0 {
                process.lease.moving = 0;
                changed = true;
            }
            if let (Stored::Map(map), true, false) = (&self.stored, self.up, process.stuck)
                && map.version().get() > process.lease.map_version
            {
                process.lease.map_version = map.version().get();
                let epoch = map.highest_epoch().get();
                process.lease.highest_epoch = process.lease.highest_epoch.max(epoch);
                process.lease.moving = 1;
                changed = true;
            }
            if changed {
                self.renew(&name);
            }
        }
        let observation = self.observation();
        let looking = Observation {
            leading: false,
            ..observation.clone()
        };
        let followed = self.standby.observe(self.time(), looking);
        assert!(followed.write.is_none() && followed.forget.is_empty());
        let decision = self.control.observe(self.time(), observation);
        if let Some(write) = &decision.write {
            assert!(self.leading && self.up);
            let stored = match &self.stored {
                Stored::Map(map) => map.version(),
                Stored::Corrupt(version) => *version,
                Stored::Nothing => MapVersion::default(),
            };
            assert_eq!(write.after, stored);
            self.write(write.map.clone());
        }
        for (node, boot) in &decision.end {
            assert!(self.leading && self.up);
            // A lease may end before any map is written: then nobody has vnodes.
            let nodes = self.newest().map(Map::nodes).unwrap_or_default();
            let owner = nodes.iter().find(|owner| owner.id == *node);
            assert!(
                owner.is_none_or(|owner| owner.boot != *boot),
                "{node} has vnodes"
            );
            let left = |(lease, _): &mut (Lease, u64)| lease.boot == *boot;
            if self.leases.get_mut(&**node).is_some_and(left) {
                self.leases.remove(&**node);
            }
        }
        decision
    }

    pub(crate) fn time(&self) -> Now {
        Now {
            mono_ms: self.now,
            wall_ms: START + self.now,
        }
    }

    /// The observation of what the store has now.
    pub(crate) fn observation(&mut self) -> Observation {
        let mut leases: Vec<Lease> = self.leases.values().map(|(l, _)| l.clone()).collect();
        if !leases.is_empty() {
            self.turn += 1;
            let by = self.turn % leases.len();
            leases.rotate_left(by);
        }
        let gone = self
            .names
            .iter()
            .filter(|name| !self.leases.contains_key(*name));
        let gone = gone.cloned().collect();
        let linked = |(name, process): (&String, &Process)| {
            (process.alive && !self.unlinked.contains(name)).then(|| (id(name), process.lease.boot))
        };
        let alive = self.processes.iter().filter_map(linked).collect();
        Observation {
            leading: self.leading,
            reading: self.up.then(|| Reading {
                source: self.source,
                alive: self.tells.then_some(alive),
                leases,
                drained: self.drained.clone(),
                map: self.stored.clone(),
                gone,
                unreadable: Vec::new(),
            }),
        }
    }

    fn write(&mut self, map: Map) {
        if let Some(last) = self.written.last().filter(|last| **last != map) {
            check_successor(last, &map);
        }
        for node in map.nodes() {
            assert!(
                map.nodes()
                    .iter()
                    .filter(|other| other.id == node.id)
                    .count()
                    == 1,
                "a node is in the map once"
            );
        }
        self.written.push(map.clone());
        self.stored = Stored::Map(map);
    }

    pub(crate) fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.step();
        }
    }

    /// Until nothing was written for longer than anything waits.
    pub(crate) fn settle(&mut self) {
        let patience = self.options.penalty_limit + self.options.step_timeout + 10_000;
        let mut since = self.now;
        let deadline = self.now + 100 * patience;
        while self.now - since < patience {
            assert!(self.now < deadline, "the fleet never comes to rest");
            if self.step().write.is_some() {
                since = self.now;
            }
        }
    }

    /// The next map that is written, within ten lease TTLs.
    pub(crate) fn next_write(&mut self) -> Write {
        let deadline = self.now + 10 * self.options.lease_ttl;
        while self.now < deadline {
            if let Some(write) = self.step().write {
                return write;
            }
        }
        panic!("no map is written");
    }

    /// The map in the store, else the last one written.
    fn newest(&self) -> Option<&Map> {
        match &self.stored {
            Stored::Map(map) => Some(map),
            _ => self.written.last(),
        }
    }

    pub(crate) fn map(&self) -> &Map {
        self.newest().expect("a map was written")
    }

    pub(crate) fn owned(&self, name: &str) -> usize {
        self.map().owned_by(&id(name)).count()
    }

    pub(crate) fn member(&self, name: &str) -> MemberView {
        let members = self.control.members(self.time());
        let found = members.into_iter().find(|member| member.lease.node == name);
        found.expect("it is known")
    }

    pub(crate) fn state(&self, name: &str) -> State {
        self.member(name).state
    }

    /// The owner of each vnode, by name.
    pub(crate) fn owners(&self) -> Vec<Option<String>> {
        owners(self.map())
    }
}

pub(crate) fn owners(map: &Map) -> Vec<Option<String>> {
    let owner = |vnode| map.owner(vnode).map(|(node, _)| node.id.to_string());
    map.count().all().map(owner).collect()
}

pub(crate) fn id(name: &str) -> NodeId {
    NodeId::parse(name).expect("a good name")
}

/// What must hold of two maps in a row: versions grow by one, no epoch falls, and one grows
/// exactly when the vnode gets another owner or its owner's next life, both by more when there is room
/// for maps that were lost; or the map was raised, and all of it is newer.
fn check_successor(last: &Map, next: &Map) {
    let life = |map: &Map, vnode| map.owner(vnode).map(|(n, _)| (n.id.clone(), n.boot));
    let vnodes = || last.count().all();
    let raised = vnodes().all(|vnode| next.epoch(vnode) > last.epoch(vnode));
    if raised {
        assert!(next.version() > last.version());
        return;
    }
    let by = next.version().get() - last.version().get();
    let by = u32::try_from(by).expect("a few");
    assert!((by - 1).is_multiple_of(Map::ROOM), "{by}");
    for vnode in vnodes() {
        let (before, after) = (last.epoch(vnode).get(), next.epoch(vnode).get());
        let moved = life(last, vnode) != life(next, vnode) && life(next, vnode).is_some();
        assert_eq!(
            after,
            before + by * u32::from(moved),
            "the epoch of vnode {vnode}"
        );
    }
}
