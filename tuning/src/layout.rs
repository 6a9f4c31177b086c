//! Which CPUs serve sessions, and which Redis, Kafka and interrupts, as settings of the edge.

use std::collections::BTreeMap;

use crate::host::Host;

/// From how many CPUs on one is kept from sessions.
const SPARE_FROM: usize = 4;

/// The advice, as lines of the edge's environment file with their reasons.
pub(crate) fn advise(host: &Host) -> String {
    let cpus = host.cpus();
    let topology = |cpu: usize, file: &str| {
        host.read(&format!("/sys/devices/system/cpu/cpu{cpu}/topology/{file}"))
    };
    let mut cores: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    for cpu in &cpus {
        let core = |file| topology(*cpu, file).unwrap_or_else(|| cpu.to_string());
        cores
            .entry((core("physical_package_id"), core("core_id")))
            .or_default()
            .push(*cpu);
    }
    let spare = usize::from(cores.len() >= SPARE_FROM).max(cores.len() / 16);
    let sessions = cores.len() - spare;
    // The edge pins its cores to the first CPUs that it may use; of each physical core that is the first.
    let first = |core: &Vec<usize>| core[0];
    let mut firsts: Vec<usize> = cores.values().map(first).collect();
    firsts.sort_unstable();
    let (own, rest) = firsts.split_at(sessions);
    let siblings = cpus.len() - cores.len();
    let in_order = cpus.iter().take(sessions).eq(own);
    let list = |cpus: &[usize]| {
        cpus.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut out = format!("# {} CPUs, {} physical cores.\n", cpus.len(), cores.len());
    if spare == 0 {
        out += "# So few that all serve sessions; the bridges to Redis and Kafka and interrupts share them.\n";
    } else {
        out += &format!(
            "# Sessions: CPUs {}. The bridges to Redis and Kafka, and everything else: {}.\n",
            list(own),
            list(rest)
        );
    }
    if siblings > 0 {
        out +=
            "# A session core has a physical core for itself: its sibling would take half of it.\n";
    }
    out += "# Into /etc/online-status/edge.env, or edge-standalone.env:\n";
    out += &format!("ONLINE_STATUS_SERVER_CORES={sessions}\nONLINE_STATUS_SERVER_PIN=true\n");
    if !in_order {
        let mut allowed = own.to_vec();
        allowed.extend(rest);
        out += "# Siblings are numbered one after the other here, and the edge takes the first CPUs that it may use.\n\
                # Into a drop-in of the unit (systemctl edit), under [Service]:\n";
        out += &format!("# CPUAffinity={}\n", list(&allowed));
    }
    out
}
