//! What becomes of the few users that an administrator follows, step by step, for the shell to tell. It
//! owns who is followed and the steps that nobody has taken yet; it decides nothing. Who follows nobody
//! pays one branch where a step would be.

use protocol::{Cause, CloseCode, Status, Version, policy::MAX_TRACED};
use ring::{Epoch, Vnode};

use crate::{Core, SessionId};

/// Steps that wait for the shell; more are dropped and counted.
const MAX_STEPS: usize = 1_024;

/// Where a mirror has the newest state of a user from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// An event of the bus.
    Bus,
    /// A link to the owner's node.
    Link,
    /// The owner's core on this node.
    Core,
    /// A read of the store.
    Store,
}

/// One step of a followed user's way through this core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedStep {
    /// The user whom the step is about.
    pub user: Box<str>,
    /// When it happened, monotonic µs.
    pub at: u64,
    /// The user's vnode.
    pub vnode: Vnode,
    /// The newest epoch of the vnode that this core knows.
    pub epoch: Epoch,
    /// The version of the record that the step is about.
    pub version: Version,
    /// The status that others see by that record.
    pub status: Status,
    /// The kind of the step, with what only that kind has.
    pub what: What,
}

/// What happened to a followed user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A session of the user was opened.
    Opened(SessionId),
    /// A session of the user ended: with the code that its client is sent, `None` when the connection
    /// had ended before.
    Closed(SessionId, Option<CloseCode>),
    /// A session said what its user does or chose.
    Said(SessionId),
    /// The owner made a new version.
    Changed(Cause),
    /// The record is on its way to the store.
    Storing,
    /// The store has the record.
    Stored,
    /// The store has refused the record because of a newer epoch.
    Fenced,
    /// The store has not taken the record: it is written again.
    NotStored,
    /// The event is on its way to the bus.
    Publishing,
    /// The bus has the event.
    Published,
    /// The bus has not taken the event: it is sent again.
    NotPublished,
    /// The record was given to a link to a node that watches the user.
    Linked,
    /// A mirror took a newer record.
    Received(Heard),
    /// The record was sent to so many watchers of this core.
    Delivered(u32),
}

/// A followed user, and what store and bus were asked to take last since it is followed.
#[derive(Debug, Default)]
struct Followed {
    name: Box<str>,
    storing: Option<(Version, Status)>,
    publishing: Option<(Version, Status)>,
}

/// Who is followed, and the steps that wait.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    users: Vec<Followed>,
    steps: Vec<TracedStep>,
    dropped: u64,
}

impl Trace {
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        !self.users.is_empty()
    }
}

impl Core {
    /// Follows these users and no others; of more than [`MAX_TRACED`] the first.
    pub fn trace_users(&mut self, users: &[Box<str>]) {
        let mut before = std::mem::take(&mut self.trace.users);
        for name in users.iter().take(MAX_TRACED) {
            let known = before.iter_mut().find(|it| it.name == *name);
            self.trace.users.push(match known {
                Some(known) => std::mem::take(known),
                None => Followed {
                    name: name.clone(),
                    ..Followed::default()
                },
            });
        }
    }

    /// Takes the steps of followed users since the last call, in their order, and how many more there
    /// were than could wait.
    pub fn take_steps(&mut self) -> (Vec<TracedStep>, u64) {
        let dropped = std::mem::take(&mut self.trace.dropped);
        (std::mem::take(&mut self.trace.steps), dropped)
    }

    /// Whether [`Core::take_steps`] has anything to give.
    #[must_use]
    #[inline]
    pub fn has_steps(&self) -> bool {
        !self.trace.steps.is_empty()
    }

    /// Notes a step of the user, when somebody follows it.
    #[inline]
    pub(crate) fn note(&mut self, slot: u32, what: What) {
        if self.trace.is_on() {
            self.note_step(slot, what);
        }
    }

    #[cold]
    fn note_step(&mut self, slot: u32, what: What) {
        let Some(user) = self.users.slots.get(slot) else {
            return;
        };
        let mut followed = self.trace.users.iter_mut();
        let Some(followed) = followed.find(|it| it.name == user.name) else {
            return;
        };
        let newest = Some((user.record.version, user.record.status));
        match what {
            What::Storing => followed.storing = newest,
            What::Publishing => followed.publishing = newest,
            _ => {}
        }
        // What store and bus answer is about what they were asked, and not about what came since.
        let about = match what {
            What::Stored | What::Fenced | What::NotStored => followed.storing,
            What::Published | What::NotPublished => followed.publishing,
            _ => newest,
        };
        // Nobody can tell of which record an answer is that was asked for before the user was followed.
        let Some((version, status)) = about else {
            return;
        };
        if self.trace.steps.len() >= MAX_STEPS {
            self.trace.dropped += 1;
            return;
        }
        self.trace.steps.push(TracedStep {
            user: user.name.clone(),
            at: self.time.now.mono_us,
            vnode: user.vnode,
            epoch: self.vnodes.newest(user.vnode),
            version,
            status,
            what,
        });
    }

    /// The slots of the followed users that this core knows.
    pub(crate) fn traced_slots(&self) -> Vec<u32> {
        let users = self.trace.users.iter();
        users.filter_map(|it| self.users.find(&it.name)).collect()
    }
}
