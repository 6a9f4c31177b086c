//! Maps that follow none: the first one, and one after the store has lost what it had. They are
//! newer than all that anyone may have met.

use ring::{Epoch, Map, MapVersion};

use super::{Control, MAX_EPOCH, Now, Problem};

const DAY: u64 = 86_400_000;

impl Control {
    /// Whether a node has met more than the newest map has.
    pub(super) fn is_ahead(&self) -> bool {
        self.map.as_ref().is_some_and(|map| {
            let (version, epoch) = self.highest_met();
            version > map.version() || epoch > map.highest_epoch()
        })
    }

    /// The highest map version and epoch that any node has met.
    fn highest_met(&self) -> (MapVersion, Epoch) {
        let leases = || self.members.values().map(|member| &member.lease);
        let version = leases().map(|lease| lease.map_version).max();
        let epoch = leases().map(|lease| lease.highest_epoch).max();
        (
            MapVersion::new(version.unwrap_or_default()),
            Epoch::new(epoch.unwrap_or_default()),
        )
    }

    /// `map` with its owners, newer than all that nodes have met, and under epochs above `base`.
    pub(super) fn above_all(&self, map: &Map, stored: MapVersion, base: Epoch) -> Map {
        let (version, epoch) = self.highest_met();
        map.raised(version.max(stored), epoch.max(base))
    }

    /// `next` above maps that followed `map` and that the store may have lost before this replica read
    /// them: a node that is dead by now may have acted on them. The room depends on the server, since the
    /// one before may have lost such a map too.
    pub(super) fn above_the_lost(&self, map: &Map, next: Map) -> Map {
        match self.may_have_lost {
            true => next.with_room(map, 1 + (self.source % 8) as u32),
            false => next,
        }
    }

    /// `next` above all that was to be written before and given up. The same one may be tried
    /// again as it is.
    pub(super) fn unlike_abandoned(&mut self, next: &Map) -> Map {
        let above = |(version, epoch)| next.raised(version, epoch);
        let tried = self.abandoned.map_or_else(|| next.clone(), above);
        let Some(proposed) = self.proposed.take() else {
            return tried;
        };
        if proposed == tried {
            return tried;
        }
        let highest = (proposed.version(), proposed.highest_epoch());
        let (version, epoch) = self.abandoned.unwrap_or(highest);
        let abandoned = (version.max(highest.0), epoch.max(highest.1));
        self.abandoned = Some(abandoned);
        above(abandoned)
    }

    /// Since when there are nodes and no map.
    pub(super) fn forming_since(&self, mono: u64) -> Option<u64> {
        let somebody = self.members.values().any(|member| member.present);
        somebody.then(|| self.forming_since.unwrap_or(mono))
    }

    /// A map for a cluster that has none, once its nodes have stayed the same for a while.
    pub(super) fn first_map(
        &self,
        now: Now,
        stored: MapVersion,
        problems: &mut Vec<Problem>,
    ) -> Option<Map> {
        let mono = now.mono_ms;
        let forming = self.forming_since?;
        let since = self.changed.max(self.read_since.unwrap_or(mono));
        let stable = mono - since >= self.options.formation;
        // Nodes that come and go all the time must not keep the others from serving.
        let patient = mono - forming < 10 * self.options.formation.max(1);
        if !stable && patient {
            return None;
        }
        let first = self.plan_first(mono, problems)?;
        let days = u32::try_from(now.wall_ms / DAY).unwrap_or(u32::MAX);
        let base = Epoch::new(days.clamp(1, MAX_EPOCH) - 1);
        Some(self.above_all(&first, stored, base))
    }
}
