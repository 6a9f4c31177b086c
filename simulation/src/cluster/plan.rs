//! What a run of the cluster is made of: sizes, durations, and which faults may happen in it. A
//! seed has only some kinds of faults, so that the others leave what they check alone.

use crate::random::Random;

/// The TTL of a node's lease, ms.
pub(crate) const LEASE: u64 = 2_000;
pub(crate) const GRACE: u64 = 6_000;
/// How long a process waits for an answer of the store.
pub(crate) const RESPONSE: u64 = 1_000;
/// Time between two looks of a coordinator, ms.
pub(crate) const POLL: u64 = 300;
/// For how long a node's connection to the store has to be closed to be a hint, ms.
pub(crate) const CLOSED: u64 = 300;
/// The TTL of the leader's key, ms.
pub(crate) const LEADER: u64 = 1_500;
/// Between a client and a node, at most.
pub(crate) const LATENCY: u64 = 40;
/// How late a timer may be, ms: two slots of the wheel and two ticks.
pub(crate) const TIMERS: u64 = 500;

/// The kinds of faults that a run may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The store refuses everybody.
    StoreAway,
    /// The store answers late, some answers never.
    StoreSlow,
    /// One node or coordinator does not reach the store.
    StoreCut,
    /// The store goes on as a replica that lacks the last writes.
    StoreOld,
    /// The store loses everything.
    StoreWiped,
    /// The bus takes and gives nothing.
    BusAway,
    /// One node does not reach the bus.
    BusCut,
    /// One node reads the bus late.
    BusLag,
    /// Reports of deliveries are late or wrong, events come twice.
    BusReports,
    /// Events are deleted before everyone has read them.
    BusGap,
    /// A process is killed and starts again.
    Kill,
    /// A host vanishes without a word; its node starts elsewhere later.
    Vanish,
    /// A process stands still.
    Stall,
    /// An operator drains a node for a while.
    Drain,
    /// A node ends in good order and starts again.
    Leave,
    /// A further node joins.
    Join,
    /// Coordinators are killed, stand still, or come back.
    Coordinators,
    /// Wall clocks step.
    Clocks,
    /// A process gets a successor of its name while it still lives.
    Twin,
    /// Connections to the store are closed under living processes, late, early or twice.
    Hints,
    /// Links between nodes break, in one direction or both, noticed at once or late.
    Links,
}

impl Fault {
    /// Every kind of fault.
    pub const ALL: [Self; 21] = [
        Self::StoreAway,
        Self::StoreSlow,
        Self::StoreCut,
        Self::StoreOld,
        Self::StoreWiped,
        Self::BusAway,
        Self::BusCut,
        Self::BusLag,
        Self::BusReports,
        Self::BusGap,
        Self::Kill,
        Self::Vanish,
        Self::Stall,
        Self::Drain,
        Self::Leave,
        Self::Join,
        Self::Coordinators,
        Self::Clocks,
        Self::Twin,
        Self::Hints,
        Self::Links,
    ];
}

/// The plan of a run: everything follows from it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of every random choice.
    pub seed: u64,
    /// Nodes at the start, one or two cores each.
    pub nodes: u64,
    /// The number of users, each with up to three clients.
    pub users: u64,
    /// The number of vnodes, a power of two.
    pub vnodes: usize,
    /// The time in which things happen, ms.
    pub time: u64,
    /// The kinds of faults that may happen.
    pub faults: Vec<Fault>,
    /// Whether nodes hear each other over links, and read no events of the bus.
    pub links: bool,
    /// How many changes of a user a second, with a burst of 1, the watchers are told in every process;
    /// `None` = it differs by the process.
    pub change_rate: Option<u32>,
}

impl Plan {
    /// The plan of a seed as the tests run it: an eighth without faults, three eighths with one
    /// kind, the rest with several. Hints come on top in a seventh of those with faults.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let others = Fault::ALL.len() as u64 - 2;
        let mut pick = || Fault::ALL[random.below(others) as usize];
        let kinds = match seed % 8 {
            0 => 0,
            1..4 => 1,
            4..6 => 2,
            _ => 5,
        };
        let mut faults: Vec<Fault> = (0..kinds).map(|_| pick()).collect();
        faults.sort_unstable();
        faults.dedup();
        if kinds > 0 && seed % 7 == 5 {
            faults.push(Fault::Hints);
        }
        Self {
            seed,
            nodes: 2 + random.below(3),
            users: 8 + random.below(17),
            vnodes: 64,
            time: 25_000 + random.below(20_000),
            faults,
            links: false,
            change_rate: None,
        }
    }

    /// The same plan, in which nodes hear each other over links; in two thirds of those with faults
    /// links break as well.
    #[must_use]
    pub fn with_links(mut self) -> Self {
        self.links = true;
        if !self.faults.is_empty() && !self.seed.is_multiple_of(3) && !self.has(Fault::Links) {
            self.faults.push(Fault::Links);
        }
        self
    }

    /// The same plan with these faults only.
    #[must_use]
    pub fn with(self, faults: &[Fault]) -> Self {
        Self {
            faults: faults.to_vec(),
            ..self
        }
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}
