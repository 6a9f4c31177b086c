//! The columns of the terminal's view: what each shows of a node and of a core, and how nodes are
//! sorted by it.

use crate::fleet::{Core, Fleet, Node};

/// A column; its word is the key to sort by.
pub(crate) struct Column {
    /// The key, as `--sort` takes it.
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    node: fn(&Node) -> String,
    core: fn(&Core) -> String,
    /// What nodes are sorted by, the most first; `None` = the text of the cell, in its order.
    most: Option<fn(&Node) -> f64>,
}

/// Words stand on the left, figures on the right.
impl Column {
    pub(crate) fn is_word(&self) -> bool {
        ["node", "state"].contains(&self.key)
    }
}

fn nothing(_: &Core) -> String {
    String::new()
}

/// Every column, in the order of the screen.
pub(crate) const COLUMNS: [Column; 15] = [
    Column {
        key: "node",
        title: "NODE",
        node: |node| node.node.clone(),
        core: nothing,
        most: None,
    },
    Column {
        key: "state",
        title: "STATE",
        node: |node| node.state.clone(),
        core: nothing,
        most: None,
    },
    Column {
        key: "vnodes",
        title: "VNODES",
        node: |node| node.vnodes.to_string(),
        core: nothing,
        most: Some(|node| node.vnodes as f64),
    },
    Column {
        key: "moving",
        title: "MOVING",
        node: |node| node.moving.to_string(),
        core: nothing,
        most: Some(|node| f64::from(node.moving)),
    },
    Column {
        key: "lease",
        title: "LEASE",
        node: lease,
        core: nothing,
        most: Some(|node| node.lease_age.map_or(f64::MAX, |ms| ms as f64)),
    },
    Column {
        key: "sessions",
        title: "SESSIONS",
        node: |node| node.load.sessions.to_string(),
        core: |core| core.sessions.to_string(),
        most: Some(|node| node.load.sessions as f64),
    },
    Column {
        key: "changes",
        title: "CHANGE/S",
        node: |node| rounded(node.load.events_per_second),
        core: |core| core.events_per_second.to_string(),
        most: Some(|node| node.load.events_per_second),
    },
    Column {
        key: "deliveries",
        title: "DELIV/S",
        node: |node| rounded(node.load.deliveries_per_second),
        core: |core| core.deliveries_per_second.to_string(),
        most: Some(|node| node.load.deliveries_per_second),
    },
    Column {
        key: "p50",
        title: "P50 MS",
        node: |node| ms(node.load.delivery_p50),
        core: nothing,
        most: Some(|node| node.load.delivery_p50),
    },
    Column {
        key: "p99",
        title: "P99 MS",
        node: |node| ms(node.load.delivery_p99),
        core: nothing,
        most: Some(|node| node.load.delivery_p99),
    },
    Column {
        key: "cpu",
        title: "CPU",
        node: |node| percent(node.load.cpu),
        core: |core| core.cpu.map_or_else(String::new, percent),
        most: Some(|node| node.load.cpu),
    },
    Column {
        key: "memory",
        title: "MEMORY",
        node: |node| bytes(node.load.memory),
        core: nothing,
        most: Some(|node| node.load.memory as f64),
    },
    Column {
        key: "queue",
        title: "QUEUE",
        node: |node| queue(node).to_string(),
        core: |core| core.queued.to_string(),
        most: Some(|node| queue(node) as f64),
    },
    Column {
        key: "slow",
        title: "SLOW",
        node: |node| node.load.slow.to_string(),
        core: |core| core.slow.to_string(),
        most: Some(|node| node.load.slow as f64),
    },
    Column {
        key: "lag",
        title: "LAG",
        node: |node| node.load.lag_records.to_string(),
        core: nothing,
        most: Some(|node| node.load.lag_records as f64),
    },
];

/// The column with this key.
pub(crate) fn named(key: &str) -> Option<usize> {
    COLUMNS.iter().position(|column| column.key == key)
}

/// A line of the table: of a node, or of one of its cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) cells: Vec<String>,
    /// The state of the node; `None` = it is a core's.
    pub(crate) state: Option<String>,
}

/// Sorts the nodes by a column, with their names for what is alike.
pub(crate) fn sort(fleet: &mut Fleet, column: usize, reversed: bool) {
    let column = &COLUMNS[column];
    fleet.nodes.sort_by(|a, b| {
        let order = match column.most {
            Some(read) => read(b).total_cmp(&read(a)),
            None => (column.node)(a).cmp(&(column.node)(b)),
        };
        let decided = order.then_with(|| a.node.cmp(&b.node));
        if reversed { decided.reverse() } else { decided }
    });
}

/// The table's lines, with those of the cores when they are wanted.
pub(crate) fn rows(fleet: &Fleet, with_cores: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for node in &fleet.nodes {
        rows.push(Row {
            cells: (COLUMNS.iter()).map(|column| (column.node)(node)).collect(),
            state: Some(node.state.clone()),
        });
        let cores = node.load.per_core.iter().enumerate();
        rows.extend(cores.filter(|_| with_cores).map(|(number, core)| {
            let mut cells: Vec<String> =
                (COLUMNS.iter()).map(|column| (column.core)(core)).collect();
            cells[0] = format!("  core {number}");
            Row { cells, state: None }
        }));
    }
    rows
}

/// The fleet in one line.
pub(crate) fn summary(fleet: &Fleet) -> String {
    let alive = || fleet.alive();
    let sum = |read: fn(&Node) -> f64| rounded(alive().map(read).sum());
    let leader = match (&fleet.leader, fleet.leading) {
        (_, true) => "leads".to_owned(),
        (Some(leader), _) => format!("leader {leader}"),
        (None, _) => "no leader".to_owned(),
    };
    let map = fleet
        .map_version
        .map_or_else(|| "no map".into(), |version| format!("map {version}"));
    let mut line = format!(
        "{} ({leader})  {map}  {} of {} nodes  {} sessions  {} changes/s  {} deliveries/s  {} moving",
        fleet.coordinator,
        alive().count(),
        fleet.nodes.len(),
        sum(|node| node.load.sessions as f64),
        sum(|node| node.load.events_per_second),
        sum(|node| node.load.deliveries_per_second),
        sum(|node| f64::from(node.moving)),
    );
    if let Some(seconds) = fleet.stale {
        line += &format!("  STALE: the store does not answer, this is {seconds} s old");
    }
    line
}

/// The characters that the widest cell of each column has, its title among them.
pub(crate) fn widths(rows: &[Row]) -> Vec<usize> {
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row.cells[at].chars().count());
        cells.chain([COLUMNS[at].title.len()]).max().unwrap_or(0)
    };
    (0..COLUMNS.len()).map(width).collect()
}

/// The table as plain text, for `--once`.
pub(crate) fn text(fleet: &Fleet, with_cores: bool) -> String {
    let rows = rows(fleet, with_cores);
    let widths = widths(&rows);
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(&COLUMNS).zip(&widths);
        let cells: Vec<String> = cells
            .map(|((cell, column), width)| match column.is_word() {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            })
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    let mut text = format!("{}\n", summary(fleet));
    for problem in &fleet.problems {
        text += &format!("problem: {}\n", problem.message);
    }
    text += &format!(
        "\n{}\n",
        line(&mut COLUMNS.iter().map(|column| column.title))
    );
    for row in &rows {
        text += &format!("{}\n", line(&mut row.cells.iter().map(String::as_str)));
    }
    text
}

fn queue(node: &Node) -> u64 {
    node.load.store_queue + node.load.bus_queue
}

fn lease(node: &Node) -> String {
    match node.lease_age {
        _ if node.lease_missing => format!("none {}s", node.unseen),
        Some(ms) => format!("{:.1}s", ms as f64 / 1e3),
        None => String::new(),
    }
}

fn rounded(value: f64) -> String {
    format!("{value:.0}")
}

fn percent(share: f64) -> String {
    format!("{:.0}%", 100.0 * share)
}

fn ms(value: f64) -> String {
    match value {
        0.0 => String::new(),
        value if value < 10.0 => format!("{value:.2}"),
        value => format!("{value:.0}"),
    }
}

fn bytes(value: u64) -> String {
    match value {
        0 => String::new(),
        value if value < 10 << 30 => format!("{}M", value >> 20),
        value => format!("{}G", value >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Load;

    fn fleet() -> Fleet {
        let node = |name: &str, sessions, cores: usize| Node {
            node: name.into(),
            state: "active".into(),
            lease_age: Some(1_240),
            load: Load {
                sessions,
                memory: 300 << 20,
                delivery_p99: 1.5,
                per_core: vec![
                    Core {
                        sessions,
                        ..Core::default()
                    };
                    cores
                ],
                ..Load::default()
            },
            ..Node::default()
        };
        Fleet {
            coordinator: "c1".into(),
            leading: true,
            map_version: Some(7),
            nodes: vec![node("a", 10, 2), node("b", 30, 0), node("c", 20, 1)],
            ..Fleet::default()
        }
    }

    fn names(fleet: &Fleet) -> String {
        fleet.nodes.iter().map(|node| node.node.as_str()).collect()
    }

    #[test]
    fn nodes_are_sorted_by_any_column_and_alike_ones_by_name() {
        let mut fleet = fleet();
        let by = |key| named(key).expect("a column");
        for (key, reversed, expected) in [
            ("sessions", false, "bca"),
            ("sessions", true, "acb"),
            ("node", false, "abc"),
            ("node", true, "cba"),
            ("memory", false, "abc"),
            ("p99", false, "abc"),
        ] {
            sort(&mut fleet, by(key), reversed);
            assert_eq!(names(&fleet), expected, "{key}");
        }
        assert_eq!(named("nonsense"), None);
    }

    #[test]
    fn the_text_has_a_line_for_each_node_and_each_core_when_they_are_wanted() {
        let mut fleet = fleet();
        fleet.nodes[2].lease_missing = true;
        fleet.nodes[2].unseen = 4;
        fleet.stale = Some(9);
        let text = super::text(&fleet, false);
        assert_eq!(text.lines().count(), 6, "{text}");
        for part in [
            "c1 (leads)  map 7  3 of 3 nodes  60 sessions",
            "this is 9 s old",
            "1.2s",
            "none 4s",
            "300M",
            "1.50",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = super::text(&fleet, true);
        assert_eq!(text.lines().count(), 9, "{text}");
        assert!(text.contains("\n  core 1"), "{text}");
        let ends: Vec<usize> = text.lines().skip(2).map(str::len).collect();
        assert!(ends.iter().all(|end| *end <= 140), "{text}");
    }
}
