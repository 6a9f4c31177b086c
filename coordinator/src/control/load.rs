//! Weights that follow load, slowly: a node that is busier than the others gives a little of its
//! share away, one that is idler takes a little, within bounds.

use ring::NodeId;

use super::{Control, member::UNCHANGED, plan::Role};

/// How far a node's cpu share must be from the others' mean before its weight changes.
const DEADBAND: f64 = 0.1;
/// By how much it changes at a time, in percent of the node's own weight.
const STEP: u32 = 2;
/// The most that load may change a weight, in percent.
const MAX_SHIFT: u32 = 50;

impl Control {
    /// Changes the weights when the fleet is at rest and it is time.
    pub(super) fn shift_weights(&mut self, mono: u64) {
        let shift = self.options.load_shift.min(MAX_SHIFT);
        if shift == 0 || self.map.is_none() || mono - self.last_shift < self.options.load_interval {
            return;
        }
        let quiet = mono - self.map_since >= self.options.load_interval;
        let sharing: Vec<NodeId> = self
            .members
            .iter()
            .filter(|(id, member)| {
                let role = self.role(id, member, mono);
                role == Some(Role::Sharing) && member.present && member.lease.weight > 0
            })
            .map(|(id, _)| id.clone())
            .collect();
        if !quiet || sharing.len() < 2 {
            return;
        }
        self.last_shift = mono;
        let cpu = |id: &NodeId| {
            let cpu = self.members[id].lease.load.cpu;
            if cpu.is_finite() {
                cpu.clamp(0.0, 1.0)
            } else {
                0.0
            }
        };
        let mean = sharing.iter().map(cpu).sum::<f64>() / sharing.len() as f64;
        let away: Vec<f64> = sharing.iter().map(|id| cpu(id) - mean).collect();
        for (id, away) in sharing.iter().zip(away) {
            let member = self.members.get_mut(id).expect("it was just listed");
            if away > DEADBAND {
                member.factor = (member.factor - STEP).max(UNCHANGED - shift);
            } else if away < -DEADBAND {
                member.factor = (member.factor + STEP).min(UNCHANGED + shift);
            }
        }
    }
}
