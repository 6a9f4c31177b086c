//! A report for people.

use std::fmt;

use super::Report;
use crate::{
    fleet::{Cost, ServerCost},
    link::Counts,
    timeline::Row,
};

/// Servers that are named one by one.
const MANY: usize = 12;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counts, .. } = self;
        writeln!(f, "{:?} on {}", self.scenario, self.host)?;
        writeln!(
            f,
            "  sessions     {}, {} watches each, opened at {:.0}/s ({} refused, {} broken)",
            self.sessions, self.watch, self.connected_per_second, counts.refused, counts.broken
        )?;
        self.ways(f)?;
        if counts.changes > 0 {
            self.changes(f)?;
        }
        for outage in &self.outages {
            let [from, until] = [outage.from, outage.until].map(|at| at as f64 / 1e6);
            writeln!(f, "  outage       declared from {from:.1} to {until:.1} s")?;
        }
        if let Some(recovered) = self.recovered {
            writeln!(
                f,
                "  recovered    after {recovered:.2} s, {} flaps",
                counts.flaps
            )?;
        }
        self.times(f)?;
        self.generator(f)?;
        self.worst(f)?;
        match &self.server {
            None => writeln!(
                f,
                "  server       not found; give its --pid for memory and CPU"
            )?,
            Some(cost) => {
                servers(f, cost)?;
                self.memory(f, cost)?;
            }
        }
        for (code, count) in &counts.closes {
            writeln!(f, "  close {code}   {count}")?;
        }
        for (cause, count) in &counts.causes {
            writeln!(f, "  {count} × {cause}")?;
        }
        for (kind, examples) in &self.examples {
            writeln!(f, "  {kind}, for example")?;
            for example in examples {
                writeln!(f, "    {example}")?;
            }
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        if self.failures.is_empty() {
            writeln!(f, "PASSED")?;
        }
        Ok(())
    }
}

impl Report {
    /// Writes how sessions found their servers: moves, redirects, routes.
    fn ways(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            moved,
            wrong_node,
            put_off,
            silent,
            stalled,
            routes,
            rerouted,
            unrouted,
            coordinators_lost,
            tls_full,
            tls_resumed,
            ..
        } = self.counts;
        if moved + wrong_node + put_off + silent + stalled > 0 {
            writeln!(
                f,
                "  redirects    {moved} moved, {wrong_node} at a wrong node, {put_off} put off, {stalled} stalled, {silent} gone silent"
            )?;
        }
        if tls_full + tls_resumed > 0 {
            writeln!(
                f,
                "  TLS          {tls_full} handshakes from nothing, {tls_resumed} resumed"
            )?;
        }
        if routes > 0 {
            writeln!(
                f,
                "  routes       {routes} asked for, {rerouted} of them again; {unrouted} without an answer, {coordinators_lost} coordinators lost"
            )?;
        }
        Ok(())
    }

    fn changes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counts, .. } = self;
        let share = |within: u64| 100.0 * within as f64 / counts.changes as f64;
        writeln!(
            f,
            "  changes      {} in {:.1} s, {:.1} % within 1 ms of their time, {:.1} % within 10 ms",
            counts.changes,
            self.seconds,
            share(counts.within_1ms),
            share(counts.within_10ms)
        )?;
        writeln!(
            f,
            "  deliveries   {} of {}: {} missed, {} duplicated, {} reordered, {} flaps, {} conflated",
            counts.delivered,
            counts.expected,
            counts.missed,
            counts.duplicated,
            counts.reordered,
            counts.flaps,
            counts.conflated
        )?;
        let Counts {
            strays,
            rolled_back,
            wrong_at_end,
            held_back,
            unavailable,
            ..
        } = *counts;
        if strays + rolled_back + wrong_at_end + held_back + unavailable > 0 {
            writeln!(
                f,
                "               {wrong_at_end} wrong in the end, {strays} strays, {rolled_back} rolled back, {held_back} changes held back, {unavailable} watches unavailable"
            )?;
        }
        Ok(())
    }

    fn times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("handshake", self.handshake),
            ("route", self.route),
            ("delivery", self.delivery),
            ("· status", self.status),
            ("· come", self.come),
            ("· leave", self.leave),
            ("disturbed", self.disturbed),
            ("outage", self.outage),
        ];
        writeln!(
            f,
            "  ms           {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"
        )?;
        for (name, row) in rows {
            let Some(row) = row else { continue };
            write!(f, "  {name:<12}")?;
            for value in row.values() {
                write!(f, " {:>8.2}", value as f64 / 1e3)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn generator(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = &self.generator;
        write!(
            f,
            "  bench        {} workers, CPU {:.0} % of a core, the busiest {:.0} %",
            own.workers, own.cpu_percent, own.busiest_percent
        )?;
        if let Some(late) = own.lateness {
            let [p99, max] = [late.p99, late.max].map(|us| us as f64 / 1e3);
            write!(f, ", late by p99 {p99:.2} ms, at most {max:.2} ms")?;
        }
        writeln!(f)?;
        for clock in &own.clocks {
            let [offset, error] = [clock.offset as f64, clock.error as f64].map(|us| us / 1e3);
            let at = &clock.at;
            writeln!(
                f,
                "  · {at}: its clock is {offset:.3} ms behind, ± {error:.3} ms"
            )?;
        }
        Ok(())
    }

    /// Who holds the memory of the sessions: servers, kernel, bench.
    fn memory(&self, f: &mut fmt::Formatter<'_>, cost: &Cost) -> fmt::Result {
        let servers: u64 = cost.each.iter().map(|server| server.grown).sum();
        let sessions = self.counts.ready;
        let bench = self.generator.resident;
        writeln!(
            f,
            "  memory       servers +{:.1} MiB, kernel +{:.1} MiB (both ends), bench {:.1} MiB ({} B a session)",
            mib(servers),
            mib(cost.kernel_bytes_per_session * sessions),
            mib(bench),
            bench / sessions.max(1)
        )
    }

    /// The seconds in which a fault shows most; none without lost sessions.
    fn worst(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slowest = self.timeline.iter().max_by_key(|row| row.p99);
        let fewest = self.timeline.iter().min_by_key(|row| row.sessions);
        if self.outage.is_none() {
            return Ok(());
        }
        let rows = [("slowest", slowest), ("fewest", fewest)];
        for (name, row) in rows {
            let Some(row) = row else { continue };
            let Row {
                second,
                deliveries,
                sessions,
                cut,
                moved,
                ..
            } = row;
            writeln!(
                f,
                "  {name:<12} second {second}: {deliveries} deliveries, p99 {:.1} ms, {sessions} sessions, {cut} cut, {moved} moved",
                row.p99 as f64 / 1e3
            )?;
        }
        Ok(())
    }
}

fn servers(f: &mut fmt::Formatter<'_>, cost: &Cost) -> fmt::Result {
    let name = if cost.each.len() == 1 {
        "server".to_owned()
    } else {
        format!("{} servers", cost.each.len())
    };
    write!(
        f,
        "  {name:<12} {} B a session, kernel {} B (both ends), CPU {:.0} % of a core",
        cost.bytes_per_session, cost.kernel_bytes_per_session, cost.cpu_percent
    )?;
    if let Some(cpu) = cost.cpu_us_per_delivery {
        write!(f, ", {cpu:.1} µs a delivery")?;
    }
    writeln!(f)?;
    if cost.each.len() == 1 {
        return Ok(());
    }
    // Of many alike the extremes say as much.
    if cost.each.len() > MANY {
        return extremes(f, &cost.each);
    }
    for server in &cost.each {
        write!(f, "  · {}", server.name)?;
        match server.pid {
            Some(pid) => write!(f, " (process {pid})")?,
            None => write!(f, " (ended)")?,
        }
        if let Some(sessions) = server.sessions {
            write!(f, ": {sessions} sessions in the end")?;
        }
        write!(
            f,
            ", CPU {:.0} %, {:.1} MiB (+{:.1})",
            server.cpu_percent,
            mib(server.resident),
            mib(server.grown)
        )?;
        if server.lives > 1 {
            write!(f, ", {} processes", server.lives)?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn extremes(f: &mut fmt::Formatter<'_>, all: &[ServerCost]) -> fmt::Result {
    let ends = |value: &dyn Fn(&ServerCost) -> f64| {
        let values = || all.iter().map(value);
        let (least, most) = (
            values().fold(f64::MAX, f64::min),
            values().fold(0.0, f64::max),
        );
        (least, most)
    };
    let sessions = ends(&|server| server.sessions.unwrap_or(0) as f64);
    let cpu = ends(&|server| server.cpu_percent);
    let memory = ends(&|server| mib(server.resident));
    let ended = all.iter().filter(|server| server.pid.is_none()).count();
    writeln!(
        f,
        "  · each {:.0} to {:.0} sessions in the end, CPU {:.0} to {:.0} %, {:.1} to {:.1} MiB; {ended} ended",
        sessions.0, sessions.1, cpu.0, cpu.1, memory.0, memory.1
    )
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
