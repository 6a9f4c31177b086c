//! A hashed timer wheel (Varghese and Lauck, 1987) of coarse slots: one entry a timer,
//! linked by index, so that arming and cancelling are O(1) and nothing is allocated in steady use.
//! It owns the deadlines; what a timer means is its owner's business.

/// Length of a slot, in milliseconds: how late a timer may be.
pub(crate) const SLOT_MS: u64 = 100;
const SLOTS: usize = 512;
use crate::{slots::Slots, user::Return};

const NONE: u32 = u32::MAX;

/// The owner of a timer, which decides what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A session: its heartbeat, its token's end and its backlog.
    Session(u32),
    /// A user's grace period.
    Grace(u32),
    /// A user whose watchers are told later, since it changes too often.
    Pace(u32),
}

/// The handle of an armed timer, or of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimerId(u32);

impl TimerId {
    pub(crate) const NONE: Self = Self(NONE);
}

struct Timer {
    owner: Owner,
    /// When the timer is due, in slots since the start of the clock.
    deadline: u32,
    next: u32,
    previous: u32,
}

pub(crate) struct Wheel {
    timers: Slots<Timer>,
    heads: Box<[u32]>,
    /// The next slot to look at, in slots since the start of the clock.
    cursor: u32,
}

impl Wheel {
    pub(crate) fn new() -> Self {
        Self {
            timers: Slots::default(),
            heads: vec![NONE; SLOTS].into(),
            cursor: 0,
        }
    }

    /// Gives back the memory that is held for timers to come.
    pub(crate) fn give_back(&mut self) {
        self.timers.give_back();
    }

    /// Arms a timer that fires in the first `advance` that reaches `deadline_ms`, at most one
    /// slot late.
    pub(crate) fn arm(&mut self, deadline_ms: u64, owner: Owner) -> TimerId {
        let deadline = u32::try_from(deadline_ms.div_ceil(SLOT_MS)).unwrap_or(NONE);
        let deadline = deadline.max(self.cursor);
        let head = &mut self.heads[deadline as usize % SLOTS];
        let id = self.timers.insert(Timer {
            owner,
            deadline,
            next: *head,
            previous: NONE,
        });
        let next = std::mem::replace(head, id);
        if next != NONE {
            self.timers[next].previous = id;
        }
        TimerId(id)
    }

    /// Disarms `id` and leaves none in its place.
    pub(crate) fn cancel(&mut self, id: &mut TimerId) {
        let TimerId(id) = std::mem::replace(id, TimerId::NONE);
        if id != NONE {
            self.unlink(id);
        }
    }

    /// Lets nobody be waited for.
    pub(crate) fn stop_waiting(&mut self, awaited: &mut Return) {
        if let Return::Grace(mut timer) | Return::Takeover(mut timer) =
            std::mem::replace(awaited, Return::No)
        {
            self.cancel(&mut timer);
        }
    }

    fn unlink(&mut self, id: u32) -> Timer {
        let timer = self.timers.remove(id);
        if timer.previous == NONE {
            self.heads[timer.deadline as usize % SLOTS] = timer.next;
        } else {
            self.timers[timer.previous].next = timer.next;
        }
        if timer.next != NONE {
            self.timers[timer.next].previous = timer.previous;
        }
        timer
    }

    /// Moves the clock to `now_ms` and appends the owner of every timer that is due; those timers
    /// are gone.
    pub(crate) fn advance(&mut self, now_ms: u64, due: &mut Vec<Owner>) {
        let now = (now_ms / SLOT_MS) as u32;
        while self.cursor <= now {
            let mut id = self.heads[self.cursor as usize % SLOTS];
            while id != NONE {
                let timer = &self.timers[id];
                let next = timer.next;
                if timer.deadline <= self.cursor {
                    due.push(self.unlink(id).owner);
                }
                id = next;
            }
            self.cursor += 1;
        }
    }

    /// The number of armed timers.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.timers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_timer_fires_once_and_in_its_slot_unless_cancelled(
            timers in prop::collection::vec((0_u64..200_000, any::<bool>()), 1..200),
            step in 1_u64..3_000,
        ) {
            let mut wheel = Wheel::new();
            let mut ids: Vec<TimerId> = (0_u32..)
                .zip(&timers)
                .map(|(owner, (deadline, _))| wheel.arm(*deadline, Owner::Session(owner)))
                .collect();
            for (id, (_, cancelled)) in ids.iter_mut().zip(&timers) {
                if *cancelled {
                    wheel.cancel(id);
                }
            }
            let (mut now, mut fired) = (0, Vec::new());
            while now < 201_000 + step {
                let mut due = Vec::new();
                wheel.advance(now, &mut due);
                for owner in due {
                    let Owner::Session(owner) = owner else { unreachable!() };
                    let deadline = timers[owner as usize].0;
                    prop_assert!(deadline <= now && now < deadline + SLOT_MS + step);
                    fired.push(owner as usize);
                }
                now += step;
            }
            fired.sort_unstable();
            let expected: Vec<usize> = (0..timers.len()).filter(|i| !timers[*i].1).collect();
            prop_assert_eq!(fired, expected);
            prop_assert_eq!(wheel.len(), 0);
        }
    }
}
