//! The servers of a run: found by where users are sent, and looked at in between. A server that
//! comes back as another process is the same server.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    address::{Address, AddressError, WEBSOCKET},
    link::Results,
    plan::{Entrance, Plan},
    route::{self, Refusal},
    server::{self, Sample},
};

/// Users whose routes tell where the servers are.
const PROBES: u32 = 256;
/// How long a coordinator may take for all of them.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the servers of a run are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    #[error("coordinator {0}: {1}")]
    Silent(String, io::Error),
    #[error("coordinator {0}: {1}")]
    Refused(String, Refusal),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("--coordinator: there is none")]
    None,
}

struct Server {
    name: String,
    /// `None` = a process that was named on the command line.
    address: Option<SocketAddr>,
    pid: Option<u32>,
    last: Sample,
    /// Resident memory before the first session and at rest with all, bytes.
    before: u64,
    at_rest: u64,
    /// Processor time before the first session, µs.
    cpu_before: u64,
    /// Processor time at rest, µs; 0 for a process that came later.
    at_rest_cpu: u64,
    /// Processor time since then of processes that ended, µs.
    past_cpu: u64,
    /// The number of processes that ran at this address one after the other.
    lives: u32,
}

/// The cost of one server in CPU time and memory.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ServerCost {
    pub(crate) name: String,
    /// `None` = it is not there any more.
    pub(crate) pid: Option<u32>,
    /// The build ID of its program.
    pub(crate) build: Option<String>,
    /// Processes that it was in the course of the run.
    pub(crate) lives: u32,
    /// Connections of the run that are open in the end.
    pub(crate) sessions: Option<u64>,
    /// Resident memory at the end, bytes.
    pub(crate) resident: u64,
    /// By how much it grew when the sessions were opened, bytes.
    pub(crate) grown: u64,
    /// Processor time in the measured part, of one core, percent.
    pub(crate) cpu_percent: f64,
}

/// What all servers together were seen to cost.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Cost {
    /// Resident memory a session, bytes: all there is, sessions, watches and users.
    pub(crate) bytes_per_session: u64,
    /// Slab memory of the kernel a session, bytes; on loopback for both ends.
    pub(crate) kernel_bytes_per_session: u64,
    /// Processor time until all sessions were at rest, a session, µs.
    pub(crate) cpu_us_per_connect: Option<f64>,
    /// Processor time in the measured part, a delivery, µs; with no deliveries none.
    pub(crate) cpu_us_per_delivery: Option<f64>,
    /// Processor time in the measured part, of one core, percent.
    pub(crate) cpu_percent: f64,
    pub(crate) each: Vec<ServerCost>,
    /// Looks at all of them in the measured part.
    pub(crate) timeline: Vec<Look>,
}

/// All servers at one time of the measured part.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Look {
    /// From its start, s.
    pub(crate) second: f64,
    /// Processor time since the look before, of one core, percent.
    pub(crate) cpu_percent: f64,
    /// Resident memory, bytes.
    pub(crate) resident: u64,
}

/// The server processes of a run, found by the addresses they listen at.
pub(crate) struct Fleet {
    servers: Vec<Server>,
    /// The kernel's slabs before the first session and at rest with all, bytes.
    slab: [u64; 2],
    measured: Option<Measured>,
}

/// Since when the servers are measured, and what was seen.
struct Measured {
    since: Instant,
    /// Processor time at the last look, µs.
    cpu: u64,
    looks: Vec<Look>,
}

impl Server {
    /// Processor time since it was at rest, µs.
    fn cpu(&self) -> u64 {
        self.past_cpu + self.last.cpu_us.saturating_sub(self.at_rest_cpu)
    }
}

impl Fleet {
    /// Finds the servers; `pids` are looked at instead, when there are any.
    pub(crate) fn find(plan: &Plan, pids: &[u32]) -> Result<Self, FleetError> {
        let addresses = match &plan.entrance {
            _ if !pids.is_empty() => BTreeSet::new(),
            Entrance::Server(address) => BTreeSet::from([address.socket]),
            Entrance::Servers(all) => all.iter().map(|address| address.socket).collect(),
            Entrance::Coordinators(all) => ask_around(plan, all)?,
        };
        let found = addresses
            .into_iter()
            .map(|address| (address.to_string(), Some(address), None));
        let named = pids
            .iter()
            .map(|pid| (server::name(*pid), None, Some(*pid)));
        let servers = named.chain(found).map(|(name, address, pid)| Server {
            name,
            address,
            pid,
            last: Sample::default(),
            before: 0,
            cpu_before: 0,
            at_rest: 0,
            at_rest_cpu: 0,
            past_cpu: 0,
            lives: 0,
        });
        let mut fleet = Self {
            servers: servers.collect(),
            slab: [0; 2],
            measured: None,
        };
        fleet.look();
        for server in &mut fleet.servers {
            server.before = server.last.resident;
            server.cpu_before = server.last.cpu_us;
        }
        fleet.slab[0] = server::slab();
        Ok(fleet)
    }

    /// The sessions are open, and the measured part begins.
    pub(crate) fn at_rest(&mut self) {
        self.look();
        for server in &mut self.servers {
            server.at_rest = server.last.resident;
            server.at_rest_cpu = server.last.cpu_us;
            server.past_cpu = 0;
        }
        self.slab[1] = server::slab();
        self.measured = Some(Measured {
            since: Instant::now(),
            cpu: 0,
            looks: Vec::new(),
        });
    }

    /// Looks at every server, so that little of one that ends is lost.
    pub(crate) fn look(&mut self) {
        self.sample();
        let Some(measured) = &mut self.measured else {
            return;
        };
        let second = measured.since.elapsed().as_secs_f64();
        let cpu = self.servers.iter().map(Server::cpu).sum();
        let spent = cpu - measured.cpu.min(cpu);
        measured.cpu = cpu;
        let before = measured.looks.last().map_or(0.0, |look| look.second);
        measured.looks.push(Look {
            second,
            cpu_percent: spent as f64 / (second - before).max(0.001) / 1e4,
            resident: self.servers.iter().map(|server| server.last.resident).sum(),
        });
    }

    fn sample(&mut self) {
        for server in &mut self.servers {
            let Some(pid) = server.pid else { continue };
            match server::sample(pid) {
                Some(sample) => {
                    server.lives = server.lives.max(1);
                    server.last = sample;
                }
                None => {
                    server.past_cpu += server.last.cpu_us.saturating_sub(server.at_rest_cpu);
                    server.at_rest_cpu = 0;
                    server.last = Sample::default();
                    server.pid = None;
                }
            }
        }
        let missing = |server: &Server| server.pid.is_none() && server.address.is_some();
        if !self.servers.iter().any(missing) {
            return;
        }
        let addresses: Vec<SocketAddr> = self.servers.iter().filter_map(|s| s.address).collect();
        let pids = server::listeners(&addresses);
        let found = self
            .servers
            .iter_mut()
            .filter(|server| server.address.is_some());
        for (server, pid) in found.zip(pids) {
            if server.pid.is_none()
                && let Some(pid) = pid
                && let Some(sample) = server::sample(pid)
            {
                server.pid = Some(pid);
                server.last = sample;
                server.lives += 1;
            }
        }
    }

    /// What the run of so many sessions cost, of which the measured part took `seconds`; `None`
    /// when no server was ever seen.
    pub(crate) fn cost(&mut self, sessions: u32, results: &Results, seconds: f64) -> Option<Cost> {
        self.sample();
        let cpu = |server: &Server| server.cpu() as f64;
        let seen = || self.servers.iter().filter(|server| server.lives > 0);
        seen().next()?;
        let grown = |server: &Server| server.at_rest.saturating_sub(server.before);
        let each = |bytes: u64| bytes / u64::from(sessions.max(1));
        let all_cpu: f64 = seen().map(cpu).sum();
        let delivered = results.counts.delivered;
        let opening = |server: &Server| server.at_rest_cpu.saturating_sub(server.cpu_before);
        let opening: u64 = seen().map(opening).sum();
        Some(Cost {
            cpu_us_per_connect: (sessions > 0).then(|| opening as f64 / f64::from(sessions)),
            bytes_per_session: each(seen().map(grown).sum()),
            kernel_bytes_per_session: each(self.slab[1].saturating_sub(self.slab[0])),
            cpu_us_per_delivery: (delivered > 0).then(|| all_cpu / delivered as f64),
            cpu_percent: all_cpu / seconds / 1e4,
            each: seen()
                .map(|server| ServerCost {
                    name: server.name.clone(),
                    pid: server.pid,
                    build: server.pid.and_then(server::build),
                    lives: server.lives,
                    sessions: server
                        .address
                        .map(|address| results.places.get(&address).copied().unwrap_or(0)),
                    resident: server.last.resident,
                    grown: grown(server),
                    cpu_percent: cpu(server) / seconds / 1e4,
                })
                .collect(),
            timeline: self
                .measured
                .as_ref()
                .map_or_else(Vec::new, |measured| measured.looks.clone()),
        })
    }
}

/// Where the first of the coordinators that answers sends the run's users.
fn ask_around(plan: &Plan, all: &[Address]) -> Result<BTreeSet<SocketAddr>, FleetError> {
    let mut result = Err(FleetError::None);
    for coordinator in all {
        result = ask(plan, coordinator);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn ask(plan: &Plan, coordinator: &Address) -> Result<BTreeSet<SocketAddr>, FleetError> {
    let silent = |error| FleetError::Silent(coordinator.host.clone(), error);
    let refused = |refusal| FleetError::Refused(coordinator.host.clone(), refusal);
    let mut stream = TcpStream::connect_timeout(&coordinator.socket, PATIENCE).map_err(silent)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(silent)?;
    let probes = PROBES.min(plan.users());
    let mut questions = Vec::new();
    for user in 0..probes {
        route::request(coordinator, &plan.user(user), &mut questions);
    }
    stream.write_all(&questions).map_err(silent)?;
    let (mut input, mut used, mut bytes) = (Vec::new(), 0, [0; 16 << 10]);
    let mut urls = BTreeSet::new();
    let mut answered = 0;
    while answered < probes {
        match route::response(&input[used..]).map_err(silent)? {
            Some((status, body, length)) => {
                let user = plan.user(answered);
                urls.insert(route::address(status, body, &user).map_err(refused)?);
                used += length;
                answered += 1;
            }
            None => match stream.read(&mut bytes).map_err(silent)? {
                0 => return Err(silent(io::ErrorKind::UnexpectedEof.into())),
                count => input.extend_from_slice(&bytes[..count]),
            },
        }
    }
    let addresses = urls.iter().map(|url| Address::parse(url, WEBSOCKET));
    let sockets = addresses.map(|address| address.map(|address| address.socket));
    Ok(sockets.collect::<Result<_, _>>()?)
}
