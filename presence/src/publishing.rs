//! How a change of an owned user gets to the bus: behind its write to the store, so that a successor
//! finds in the store whatever anybody may have heard. It owns that order; what is written and
//! published is the record as it is when it leaves.

use std::collections::VecDeque;

use crate::{transfer::Transfer, unreported::Unreported};

/// The event that a user owes the bus.
///
/// ```text
///              changed                         written, and nothing changed since
///    Nothing ──────────▶ Unwritten ──────────────────────────────────────▶ Nothing, event
///       │                 ▲     │ ╲ written, and changed since
///       │ sent before the │     │  ╲───────▶ Overtaken ── written ───────▶ Nothing, event
///       │ store has it    │     │                │
///       ▼                 │     ▼ unavailable    ▼ unavailable
///     Ahead ──────────────┘   Ahead, event     Ahead, event
///            changed
/// ```
///
/// | from | `changed` | `written(false)` | `written(true)` | `unavailable` | `sent(true)` | `sent(false)` | `cancelled` |
/// |---|---|---|---|---|---|---|---|
/// | `Nothing` | `Unwritten` | `Nothing` | `Nothing` | `Nothing` | `Nothing` | `Ahead` | `Nothing` |
/// | `Unwritten` | `Unwritten` | event | `Overtaken` | `Ahead`, event | `Unwritten` | `Unwritten` | `Nothing` |
/// | `Overtaken` | `Overtaken` | event | event | `Ahead`, event | `Overtaken` | `Overtaken` | `Nothing` |
/// | `Ahead` | `Unwritten` | event | `Overtaken` | `Ahead` | `Ahead` | `Ahead` | `Nothing` |
///
/// "event" is `Nothing` with a place in the bus's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owed {
    /// The bus has, or has in its queue, all that the store has.
    Nothing,
    /// A change waits for the store.
    Unwritten,
    /// The change has waited for one write already, and the user has changed again: the next write
    /// is not waited for longer, or a user who changes all the time is never heard of.
    Overtaken,
    /// The bus was given a change that the store does not have: whoever reads the store before the
    /// write and listens only after the event hears of it by another event.
    Ahead,
}

/// A user's way to the bus: the event that is owed, and the one that is under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publishing {
    owed: Owed,
    bus: Transfer,
    /// The second of the core's clock since which a change waits for the bus; see `unreported.rs`.
    /// It means nothing while `bus` is `Idle`.
    since: u32,
}

impl Publishing {
    pub(crate) const IDLE: Self = Self {
        owed: Owed::Nothing,
        bus: Transfer::Idle,
        since: 0,
    };

    /// Whether no event is queued or under way.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.bus == Transfer::Idle
    }

    /// The record has a change that goes to the bus once the store has it.
    #[inline]
    pub(crate) fn changed(&mut self) {
        self.owed = match self.owed {
            Owed::Nothing | Owed::Unwritten | Owed::Ahead => Owed::Unwritten,
            Owed::Overtaken => Owed::Overtaken,
        };
    }

    /// What is owed is not said, or not now: the vnode is another node's, or the user may come back.
    pub(crate) fn cancelled(&mut self) {
        self.owed = Owed::Nothing;
    }

    /// The store has a state of the user; `stale`: it has changed since that was sent. `true` when
    /// others may hear of it now.
    #[must_use]
    #[inline]
    fn written(&mut self, stale: bool) -> bool {
        match self.owed {
            Owed::Unwritten | Owed::Ahead if stale => {
                self.owed = Owed::Overtaken;
                false
            }
            Owed::Unwritten | Owed::Overtaken | Owed::Ahead => {
                self.owed = Owed::Nothing;
                true
            }
            Owed::Nothing => false,
        }
    }

    /// The store does not take the user's state now. `true` when others may hear of it all the same.
    #[must_use]
    #[inline]
    fn unavailable(&mut self) -> bool {
        match self.owed {
            Owed::Unwritten | Owed::Overtaken => {
                self.owed = Owed::Ahead;
                true
            }
            Owed::Nothing | Owed::Ahead => false,
        }
    }

    /// An event with the newest state leaves for the bus; `stored`: the store has that state.
    #[inline]
    pub(crate) fn sent(&mut self, stored: bool) {
        self.bus.sent();
        if !stored && self.owed == Owed::Nothing {
            self.owed = Owed::Ahead;
        }
    }
}

/// The users whose newest state waits for the bus, each at most once.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    queue: VecDeque<u32>,
    unreported: Unreported,
}

impl Backlog {
    /// How many users wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Gives back the memory that is held for users to come.
    pub(crate) fn give_back(&mut self) {
        self.queue.shrink_to_fit();
    }

    /// How long the oldest change has waited for the bus to confirm it, ms.
    pub(crate) fn oldest(&self, clock: u64) -> u64 {
        self.unreported.oldest(clock)
    }

    /// The store has a state of the user; `stale`: it has changed since that was sent. `true` when
    /// others may hear of it now: the bus, in whose queue it is then, and who watches over links.
    #[inline]
    #[must_use]
    pub(crate) fn written(
        &mut self,
        slot: u32,
        user: &mut Publishing,
        stale: bool,
        clock: u64,
    ) -> bool {
        let due = user.written(stale);
        if due && user.bus.changed() {
            self.push(slot, user, clock);
        }
        due
    }

    /// The store does not take the user's state now. `true` when others may hear of it all the same,
    /// as with [`Backlog::written`].
    #[must_use]
    pub(crate) fn unavailable(&mut self, slot: u32, user: &mut Publishing, clock: u64) -> bool {
        let due = user.unavailable();
        if due && user.bus.changed() {
            self.push(slot, user, clock);
        }
        due
    }

    fn push(&mut self, slot: u32, user: &mut Publishing, clock: u64) {
        user.since = self.unreported.begin(clock);
        self.queue.push_back(slot);
    }

    /// The next user whose state the bus may have. It has to be told to [`Publishing::sent`] or
    /// [`Backlog::dropped`].
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<u32> {
        self.queue.pop_front()
    }

    /// The user has nothing to say any more: its vnode is another node's.
    pub(crate) fn dropped(&mut self, user: &mut Publishing) {
        user.bus.dropped();
        self.unreported.end(user.since);
    }

    /// The delivery report of the user's event came; whether another event is queued.
    #[inline]
    pub(crate) fn reported(
        &mut self,
        slot: u32,
        user: &mut Publishing,
        delivered: bool,
        clock: u64,
    ) -> bool {
        let again = user.bus.answered(delivered);
        if delivered {
            self.unreported.end(user.since);
        }
        match (again, delivered) {
            // Another change waits, since some time within that of the one before.
            (true, true) => self.push(slot, user, clock),
            (true, false) => self.queue.push_back(slot),
            (false, _) => {}
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The table of [`Owed`]: from, input, to, whether an event is queued.
    #[test]
    fn the_table_is_what_the_machine_does() {
        use Owed::{Ahead, Nothing, Overtaken, Unwritten};
        type Input = fn(&mut Publishing) -> bool;
        let inputs: [Input; 7] = [
            |user| {
                user.changed();
                false
            },
            |user| user.written(false),
            |user| user.written(true),
            Publishing::unavailable,
            |user| {
                user.bus = Transfer::Queued;
                user.sent(true);
                false
            },
            |user| {
                user.bus = Transfer::Queued;
                user.sent(false);
                false
            },
            |user| {
                user.cancelled();
                false
            },
        ];
        let (no, event) = (false, true);
        let table = [
            (
                Nothing,
                [
                    (Unwritten, no),
                    (Nothing, no),
                    (Nothing, no),
                    (Nothing, no),
                    (Nothing, no),
                    (Ahead, no),
                    (Nothing, no),
                ],
            ),
            (
                Unwritten,
                [
                    (Unwritten, no),
                    (Nothing, event),
                    (Overtaken, no),
                    (Ahead, event),
                    (Unwritten, no),
                    (Unwritten, no),
                    (Nothing, no),
                ],
            ),
            (
                Overtaken,
                [
                    (Overtaken, no),
                    (Nothing, event),
                    (Nothing, event),
                    (Ahead, event),
                    (Overtaken, no),
                    (Overtaken, no),
                    (Nothing, no),
                ],
            ),
            (
                Ahead,
                [
                    (Unwritten, no),
                    (Nothing, event),
                    (Overtaken, no),
                    (Ahead, no),
                    (Ahead, no),
                    (Ahead, no),
                    (Nothing, no),
                ],
            ),
        ];
        for (owed, row) in table {
            for (n, (input, to)) in inputs.iter().zip(row).enumerate() {
                let mut user = Publishing {
                    owed,
                    ..Publishing::IDLE
                };
                let queued = input(&mut user);
                assert_eq!((user.owed, queued), to, "{owed:?} with input {n}");
            }
        }
    }

    /// One user with its store and its bus. States are numbered; both may take what they then do
    /// not confirm.
    #[derive(Default)]
    struct World {
        backlog: Backlog,
        store: Option<Transfer>,
        user: Option<Publishing>,
        clock: u64,
        newest: u32,
        /// What the store has, and the state of the write that is under way.
        stored: u32,
        writing: u32,
        /// The newest state that an event carried while the store had it already, that any event
        /// carried, and that of the event under way with whether the store had it.
        confirmed: u32,
        publishing: (u32, bool),
        /// Writes that were confirmed while the event that is owed now waited.
        writes_waited: u32,
    }

    impl World {
        fn step(&mut self, input: u8) -> Result<(), TestCaseError> {
            let user = self.user.get_or_insert(Publishing::IDLE);
            let store = self.store.get_or_insert(Transfer::Idle);
            self.clock += 100;
            let in_flight =
                |transfer: Transfer| matches!(transfer, Transfer::InFlight | Transfer::Stale);
            match input {
                0 => {
                    self.newest += 1;
                    user.changed();
                    let _ = store.changed();
                }
                1 if *store == Transfer::Queued => {
                    store.sent();
                    self.writing = self.newest;
                }
                2 if in_flight(*store) => {
                    let stale = store.answered(true);
                    self.stored = self.writing;
                    let owed = user.owed != Owed::Nothing;
                    let _ = self.backlog.written(0, user, stale, self.clock);
                    self.writes_waited = match owed && user.owed != Owed::Nothing {
                        true => self.writes_waited + 1,
                        false => 0,
                    };
                    prop_assert!(
                        self.writes_waited <= 1,
                        "an event waits for two writes at most"
                    );
                }
                // The write was done, or not; its answer is lost.
                3 | 4 if in_flight(*store) => {
                    self.stored = if input == 3 {
                        self.writing
                    } else {
                        self.stored
                    };
                    let _ = store.answered(false);
                    let _ = self.backlog.unavailable(0, user, self.clock);
                    self.writes_waited = 0;
                }
                5 if user.bus == Transfer::Queued => {
                    prop_assert_eq!(self.backlog.pop(), Some(0));
                    user.sent(*store == Transfer::Idle);
                    self.publishing = (self.newest, self.stored == self.newest);
                }
                6 | 7 if in_flight(user.bus) => {
                    let delivered = input == 6;
                    let (state, stored) = self.publishing;
                    if delivered && stored {
                        self.confirmed = self.confirmed.max(state);
                    }
                    self.backlog.reported(0, user, delivered, self.clock);
                }
                _ => {}
            }
            let queued = user.bus == Transfer::Queued;
            prop_assert_eq!(self.backlog.len(), usize::from(queued), "queued once");
            let waits = self.backlog.oldest(self.clock + 10_000) > 0;
            prop_assert_eq!(
                waits,
                !user.is_idle(),
                "what waits is counted, and nothing else"
            );
            Ok(())
        }
    }

    proptest! {
        /// Whatever comes in which order: once store and bus answer again, both have the newest
        /// state, and an event of it went out when the store had it.
        #[test]
        fn the_bus_hears_of_the_newest_state_after_the_store_has_it(
            inputs in prop::collection::vec(0_u8..8, 0..400),
        ) {
            let mut world = World::default();
            for input in inputs {
                world.step(input)?;
            }
            for input in [1, 2, 5, 6].repeat(4) {
                world.step(input)?;
            }
            prop_assert_eq!((world.stored, world.confirmed), (world.newest, world.newest));
            prop_assert!(world.user.is_none_or(|user| user.is_idle() && user.owed == Owed::Nothing));
        }
    }
}
