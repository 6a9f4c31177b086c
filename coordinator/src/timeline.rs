//! What has happened in the fleet, for people: the newest things, in memory. It owns what has to make room for
//! what: a rebalance of many steps is one entry, and no number of them takes the place of a fault.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use coordinator::control::Moved;
use ring::{MapVersion, NodeId};

/// Things other than moves and maps that are kept; of more the oldest go.
const NEWS: usize = 200;
/// The same of rebalances.
const MOVES: usize = 100;
/// The same of maps.
const MAPS: usize = 100;
/// From whom to whom an entry names at most, those with the most vnodes.
const NAMED: usize = 6;

/// An event of the fleet, with its time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Happened {
    /// The wall clock of this host, ms since 1970.
    pub(crate) wall_ms: u64,
    /// One of few words, by which people tell what matters.
    pub(crate) kind: &'static str,
    pub(crate) text: String,
    /// Its place among all events, also those of other kinds: the later, the higher.
    order: u64,
}

/// The moves of maps that follow each other.
struct Rebalance {
    maps: (MapVersion, MapVersion),
    began: u64,
    ended: u64,
    moves: BTreeMap<(Option<NodeId>, Option<NodeId>), usize>,
}

/// The events of the fleet, as this coordinator has seen them.
pub(crate) struct Timeline {
    news: VecDeque<Happened>,
    moves: VecDeque<Happened>,
    maps: VecDeque<Happened>,
    /// The last of `moves`, while the next map may belong to it.
    open: Option<Rebalance>,
    /// For how long it may, ms.
    step: u64,
    order: u64,
    shown: Arc<[Happened]>,
}

impl Timeline {
    /// `step`: the longest time between two steps of a rebalance, ms.
    pub(crate) fn new(step: u64) -> Self {
        Self {
            news: VecDeque::new(),
            moves: VecDeque::new(),
            maps: VecDeque::new(),
            open: None,
            step,
            order: 0,
            shown: Arc::default(),
        }
    }

    /// All that is kept, the oldest first.
    pub(crate) fn shown(&self) -> Arc<[Happened]> {
        Arc::clone(&self.shown)
    }

    /// Adds what is neither a move nor a map; what moves from now on is for that.
    pub(crate) fn add(&mut self, wall_ms: u64, kind: &'static str, text: String) {
        self.open = None;
        let event = self.event(wall_ms, kind, text);
        push(&mut self.news, event, NEWS);
        self.show();
    }

    /// Adds a map that is in force, and its moves to those of the maps before it.
    pub(crate) fn add_map(&mut self, wall_ms: u64, version: MapVersion, moved: &[Moved]) {
        if !moved.is_empty() {
            self.add_moves(wall_ms, version, moved);
        }
        let event = self.event(wall_ms, "map", format!("map {version} is in force"));
        push(&mut self.maps, event, MAPS);
        self.show();
    }

    fn add_moves(&mut self, wall_ms: u64, version: MapVersion, moved: &[Moved]) {
        let open = self.open.take();
        let open = open.filter(|open| wall_ms.saturating_sub(open.ended) <= self.step);
        let event = match &open {
            Some(_) => self.moves.pop_back(),
            None => None,
        };
        let mut rebalance = open.unwrap_or_else(|| Rebalance {
            maps: (version, version),
            began: wall_ms,
            ended: wall_ms,
            moves: BTreeMap::new(),
        });
        (rebalance.maps.1, rebalance.ended) = (version, wall_ms);
        for Moved { from, to, vnodes } in moved {
            *(rebalance.moves)
                .entry((from.clone(), to.clone()))
                .or_default() += vnodes;
        }
        let mut event = event.unwrap_or_else(|| self.event(wall_ms, "move", String::new()));
        event.text = rebalance.to_text();
        push(&mut self.moves, event, MOVES);
        self.open = Some(rebalance);
    }

    fn event(&mut self, wall_ms: u64, kind: &'static str, text: String) -> Happened {
        self.order += 1;
        Happened {
            wall_ms,
            kind,
            text,
            order: self.order,
        }
    }

    fn show(&mut self) {
        let all = self.news.iter().chain(&self.moves).chain(&self.maps);
        let mut all: Vec<Happened> = all.cloned().collect();
        all.sort_by_key(|event| event.order);
        self.shown = all.into();
    }
}

impl Rebalance {
    fn to_text(&self) -> String {
        let (first, last) = self.maps;
        let maps = match first == last {
            true => format!("map {first}"),
            false => {
                let seconds = self.ended.saturating_sub(self.began).div_ceil(1_000);
                format!("maps {first} to {last}, in {seconds} s")
            }
        };
        let mut moves: Vec<_> = self.moves.iter().collect();
        moves.sort_by_key(|(between, vnodes)| (std::cmp::Reverse(**vnodes), *between));
        let name = |node: &Option<NodeId>| node.as_ref().map_or("nobody".into(), NodeId::to_string);
        let named = moves.iter().take(NAMED).map(|((from, to), vnodes)| {
            let to = match from == to {
                true => "its next life".into(),
                false => name(to),
            };
            format!("{vnodes} {} → {to}", name(from))
        });
        let mut parts: Vec<String> = named.collect();
        let others = moves.iter().skip(NAMED).map(|(_, vnodes)| **vnodes);
        let others: usize = others.sum();
        if others > 0 {
            parts.push(format!("{others} between others"));
        }
        let total: usize = self.moves.values().sum();
        format!(
            "{maps}: {total} vnodes have another owner: {}",
            parts.join(", ")
        )
    }
}

fn push(events: &mut VecDeque<Happened>, event: Happened, most: usize) {
    if events.len() == most {
        events.pop_front();
    }
    events.push_back(event);
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 30_000;

    fn moved(from: &str, to: &str, vnodes: usize) -> Moved {
        let node = |name: &str| NodeId::parse(name).ok();
        Moved {
            from: node(from),
            to: node(to),
            vnodes,
        }
    }

    fn texts<'a>(shown: &'a [Happened], kind: &str) -> Vec<&'a str> {
        let of_kind = shown.iter().filter(|event| event.kind == kind);
        of_kind.map(|event| event.text.as_str()).collect()
    }

    #[test]
    fn the_steps_of_a_rebalance_are_one_entry_and_push_no_fault_out() {
        let mut timeline = Timeline::new(STEP);
        timeline.add(1_000, "fault", "node b is gone".into());
        for n in 0..1_000 {
            let step = [moved("b", "a", 1), moved("b", "c", 2)];
            timeline.add_map(2_000 + n * 1_000, MapVersion::new(n + 1), &step);
        }
        let shown = timeline.shown();
        assert_eq!(texts(&shown, "fault"), ["node b is gone"]);
        let moves =
            "maps 1 to 1000, in 999 s: 3000 vnodes have another owner: 2000 b → c, 1000 b → a";
        assert_eq!(texts(&shown, "move"), [moves]);
        assert_eq!(texts(&shown, "map").len(), MAPS);
        // In their order: the rebalance stands where it began.
        assert_eq!((shown[0].kind, shown[1].kind), ("fault", "move"));
        assert_eq!(shown[1].wall_ms, 2_000);
    }

    #[test]
    fn a_rebalance_ends_with_its_time_and_with_whatever_else_happens() {
        let mut timeline = Timeline::new(STEP);
        let step = [moved("", "a", 4)];
        timeline.add_map(1_000, MapVersion::new(1), &step);
        timeline.add_map(1_000 + STEP, MapVersion::new(2), &step);
        // One without moves, as when a weight is another one, is no part of it.
        timeline.add_map(2_000 + STEP, MapVersion::new(3), &[]);
        timeline.add_map(2_000 + 2 * STEP, MapVersion::new(4), &step);
        timeline.add(2_000 + 2 * STEP, "node", "node b is here".into());
        let restart = [moved("a", "a", 1)];
        timeline.add_map(2_001 + 2 * STEP, MapVersion::new(5), &restart);
        let shown = timeline.shown();
        let moves = texts(&shown, "move");
        assert_eq!(
            moves,
            [
                "maps 1 to 2, in 30 s: 8 vnodes have another owner: 8 nobody → a",
                "map 4: 4 vnodes have another owner: 4 nobody → a",
                "map 5: 1 vnodes have another owner: 1 a → its next life",
            ]
        );
    }

    #[test]
    fn every_kind_is_bounded_and_an_entry_names_a_few_nodes() {
        let mut timeline = Timeline::new(STEP);
        for n in 0..500 {
            timeline.add(n, "fault", String::new());
            timeline.add_map(n, MapVersion::new(n), &[moved("a", "b", 1)]);
        }
        let count = |kind| texts(&timeline.shown(), kind).len();
        assert_eq!(
            (count("fault"), count("move"), count("map")),
            (NEWS, MOVES, MAPS)
        );
        let many: Vec<Moved> = (1..=9).map(|n| moved("a", &format!("n{n}"), n)).collect();
        timeline.add_map(1_000_000, MapVersion::new(500), &many);
        let shown = timeline.shown();
        let text = texts(&shown, "move").pop().expect("it was just added");
        assert!(
            text.contains(": 45 vnodes") && text.ends_with("4 a → n4, 6 between others"),
            "{text}"
        );
    }
}
