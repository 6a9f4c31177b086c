//! What a core has of a user: of any, of one that it owns, of one that it only watches. It owns which
//! of these states exist; it never decides a status.

use protocol::{Cause, Mode, Record, Status, Version};
use ring::Vnode;

use crate::{publishing::Publishing, transfer::Transfer, wheel::TimerId};

pub(crate) const NONE: u32 = u32::MAX;

/// How much this core knows of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Knowledge {
    /// The core knows nothing, and asked nobody.
    Nothing,
    /// The store or the owning core was asked, and has not answered.
    Asked,
    /// The owner works without the store's answer, which did not come in time: nothing may be
    /// written until it does.
    Provisional,
    /// The record is the newest this core can know.
    Known,
}

impl Knowledge {
    /// Whether the record can be shown.
    pub(crate) fn has_record(self) -> bool {
        matches!(self, Self::Known | Self::Provisional)
    }
}

/// A session that watches, and where in its list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watcher {
    pub(crate) session: u32,
    pub(crate) watch: u32,
}

/// What a user's own sessions are shown of it where that is not the public record. The versions are
/// made apart from the public ones: nobody else can tell from those that something has changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    /// The newest version that the user's own sessions may have.
    pub(crate) version: Version,
    /// The status of an invisible user as it is; `Offline` of any other.
    pub(crate) status: Status,
    /// When that status began, ms since 1970.
    pub(crate) since: u64,
    /// How many sessions an invisible user has.
    pub(crate) devices: u32,
}

/// A node that watches the user over a link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mirror {
    /// The link's number.
    pub(crate) link: u32,
    /// It lacks the newest state, and the user waits in the link's queue.
    pub(crate) queued: bool,
}

/// The cores of this node that a user's home core has to do with, each a bit by its number, and the nodes
/// that watch over links.
#[derive(Debug, Default)]
pub(crate) struct Cores {
    /// Those that mirror the user.
    pub(crate) interested: u64,
    /// The cores of `interested` that lack the newest state.
    pub(crate) unsent: u64,
    /// What the cores of `unsent` are told besides: the newest version that was looked for and not found;
    /// `NEVER` = none was.
    pub(crate) refuted: Version,
    /// Those in whose outgoing queue the user waits.
    pub(crate) queued: u64,
    /// The nodes that watch the user, each once.
    mirrors: Vec<Mirror>,
}

impl Cores {
    /// The core of this bit has the newest state, or wants it no longer.
    pub(crate) fn sent_to(&mut self, core: u64) {
        self.unsent &= !core;
        if self.unsent == 0 {
            self.refuted = Version::NEVER;
        }
    }

    fn is_nothing(&self) -> bool {
        self.interested | self.unsent | self.queued == 0 && self.mirrors.is_empty()
    }
}

/// A user that this core knows: what it has of one that it owns and of one that it only watches.
pub(crate) struct User {
    pub(crate) name: Box<str>,
    pub(crate) record: Record,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) role: Role,
    /// `None` = no core has to do with the user.
    cores: Option<Box<Cores>>,
    pub(crate) publishing: Publishing,
    /// The timer that tells the user's watchers of what they have not heard yet; armed only for one
    /// that changes too often.
    pub(crate) pace: TimerId,
    /// When the user's allowance of changes is whole again, on the core's clock, ms.
    pub(crate) paced_until: u64,
    /// The number of questions and searches that wait for this user.
    pub(crate) waiters: u32,
    /// Index in this flush's encoded records, or `NONE`.
    pub(crate) encoded: u32,
    /// Marks the users of one message; see `watch.rs`.
    pub(crate) mark: u32,
    pub(crate) mark_watch: u32,
    /// The neighbours in the list of the vnode's users, or `NONE`.
    pub(crate) next_in_vnode: u32,
    pub(crate) previous_in_vnode: u32,
    pub(crate) vnode: Vnode,
    pub(crate) knowledge: Knowledge,
    /// What the user has chosen; at a mirror what can be told from the record.
    pub(crate) mode: Mode,
    /// The one request to the store that the user may have, a read or a write.
    pub(crate) store: Transfer,
    /// Some session waits for the user's state: see `late` in `waiting.rs`.
    pub(crate) late: bool,
    /// A watcher has a newer version than what is known here, and that is looked for: see
    /// `repair.rs`.
    pub(crate) searched: bool,
    /// The user is in the list of those who may be forgotten.
    pub(crate) in_sweep: bool,
    /// The owner at the other end of the vnode's link was sent this core's interest; see `links.rs`.
    pub(crate) interest_sent: bool,
}

/// What this core is to a user. It follows the stage of the user's vnode: all users of a vnode that
/// is claimed, owned or being left are `Owned`, all others are not.
pub(crate) enum Role {
    /// This core decides the user's status.
    Owned(Box<Owned>),
    /// Another core or node does.
    Mirrored {
        /// The core of this node that is the user's home knows of this core's interest.
        subscribed: bool,
    },
}

/// Whether an owned user that has no session, or fewer than before, is waited for: while it is, it
/// stays as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Return {
    /// Nobody is waited for.
    No,
    /// The last session broke, and there is no other: the first that comes ends this.
    Grace(TimerId),
    /// The sessions of before a takeover: as many as there were are waited for.
    Takeover(TimerId),
}

/// What this core has of a user because it decides the user's status.
pub(crate) struct Owned {
    /// The user's sessions here, linked through [`crate::session::Session::next`].
    pub(crate) first_session: u32,
    pub(crate) sessions: u32,
    pub(crate) awaited: Return,
    /// Sessions that said goodbye in a takeover, or before it was known to be one: they are not
    /// waited for.
    pub(crate) goodbyes: u32,
    /// What its own sessions are shown where that is not the record.
    pub(crate) own: Option<Box<Own>>,
    /// What made the newest change.
    pub(crate) cause: Cause,
    /// The last session reported that its user is away: it counts for the time without a session.
    pub(crate) away: bool,
    /// The user chose `mode` before the store answered: the store's is older.
    pub(crate) chose_mode: bool,
    /// The user chose the record's text before the store answered: the store's is older.
    pub(crate) chose_text: bool,
    /// The user was connected when its vnode was left: for the store it is so until the successor
    /// decides.
    pub(crate) held: bool,
    /// The user's newest state was not stored when its vnode was left.
    pub(crate) unwritten: bool,
    /// The next owner has spoken of the user since its vnode was left: what it chose here may be old.
    pub(crate) superseded: bool,
    /// Nobody on another node is told yet that the user is offline: see `adopt_from_a_dead_owner`.
    pub(crate) withheld: bool,
}

impl Default for Owned {
    fn default() -> Self {
        Self {
            first_session: NONE,
            sessions: 0,
            awaited: Return::No,
            goodbyes: 0,
            own: None,
            cause: Cause::Connect,
            away: false,
            chose_mode: false,
            chose_text: false,
            held: false,
            unwritten: false,
            superseded: false,
            withheld: false,
        }
    }
}

impl Owned {
    /// Whether the user has a session or is waited for, or was when its vnode was left.
    #[inline]
    pub(crate) fn connected(&self) -> bool {
        self.sessions > 0 || self.awaited != Return::No || self.held
    }

    /// Whether the sessions of before a takeover are waited for.
    #[inline]
    pub(crate) fn in_takeover(&self) -> bool {
        matches!(self.awaited, Return::Takeover(_))
    }
}

impl User {
    /// A user of whom nothing is known; `owned`: this core is the owner.
    pub(crate) fn new(name: &str, vnode: Vnode, owned: bool) -> Self {
        Self {
            name: name.into(),
            record: Record::default(),
            watchers: Vec::new(),
            role: match owned {
                true => Role::Owned(Box::default()),
                false => Role::Mirrored { subscribed: false },
            },
            cores: None,
            publishing: Publishing::IDLE,
            pace: TimerId::NONE,
            paced_until: 0,
            waiters: 0,
            encoded: NONE,
            mark: 0,
            mark_watch: NONE,
            next_in_vnode: NONE,
            previous_in_vnode: NONE,
            vnode,
            knowledge: Knowledge::Nothing,
            mode: Mode::Auto,
            store: Transfer::Idle,
            late: false,
            searched: false,
            in_sweep: false,
            interest_sent: false,
        }
    }

    /// What this core has of the user as its owner; `None` of one that it only watches.
    #[inline]
    pub(crate) fn as_owned(&self) -> Option<&Owned> {
        match &self.role {
            Role::Owned(owned) => Some(owned),
            Role::Mirrored { .. } => None,
        }
    }

    #[inline]
    pub(crate) fn as_owned_mut(&mut self) -> Option<&mut Owned> {
        match &mut self.role {
            Role::Owned(owned) => Some(owned),
            Role::Mirrored { .. } => None,
        }
    }

    /// # Panics
    /// When this core only watches the user.
    #[inline]
    pub(crate) fn owned(&self) -> &Owned {
        self.as_owned()
            .expect("only its owner decides about a user")
    }

    /// # Panics
    /// When this core only watches the user.
    #[inline]
    pub(crate) fn owned_mut(&mut self) -> &mut Owned {
        self.as_owned_mut()
            .expect("only its owner decides about a user")
    }

    /// Makes this core the user's owner, of whom it has decided nothing yet.
    pub(crate) fn become_owned(&mut self) {
        if let Role::Mirrored { .. } = self.role {
            self.role = Role::Owned(Box::default());
        }
    }

    /// Makes this core one that only watches the user.
    ///
    /// # Panics
    /// When the user has a session here, or is waited for.
    pub(crate) fn become_mirrored(&mut self) {
        if let Role::Owned(owned) = &self.role {
            let is_gone = owned.sessions == 0 && owned.awaited == Return::No;
            assert!(is_gone, "a user's sessions end before its vnode is left");
        }
        self.role = Role::Mirrored { subscribed: false };
    }

    /// Whether the user's home core on this node knows of this core's interest.
    #[inline]
    pub(crate) fn is_subscribed(&self) -> bool {
        matches!(self.role, Role::Mirrored { subscribed: true })
    }

    /// Whether the user has a session or is waited for, or was when its vnode was left.
    #[inline]
    pub(crate) fn connected(&self) -> bool {
        self.as_owned().is_some_and(Owned::connected)
    }

    /// Whether its newest state was not stored when its vnode was left.
    #[inline]
    pub(crate) fn is_unwritten(&self) -> bool {
        self.as_owned().is_some_and(|owned| owned.unwritten)
    }

    /// The cores of this node that mirror the user, by bit.
    #[inline]
    pub(crate) fn interested(&self) -> u64 {
        self.cores.as_ref().map_or(0, |cores| cores.interested)
    }

    /// Changes what the cores of this node have to do with the user.
    pub(crate) fn with_cores<T>(&mut self, change: impl FnOnce(&mut Cores) -> T) -> T {
        let cores = self.cores.get_or_insert_default();
        let result = change(cores);
        if cores.is_nothing() {
            self.cores = None;
        }
        result
    }

    /// The nodes that watch the user over links.
    #[inline]
    pub(crate) fn mirrors_mut(&mut self) -> &mut [Mirror] {
        self.cores
            .as_mut()
            .map_or(&mut [], |cores| &mut cores.mirrors)
    }

    /// Another node watches the user, or the same one asks again.
    pub(crate) fn add_mirror(&mut self, link: u32) {
        if !self.mirrors_mut().iter().any(|mirror| mirror.link == link) {
            let queued = false;
            self.with_cores(|cores| cores.mirrors.push(Mirror { link, queued }));
        }
    }

    /// The node at that link does not watch the user any more; whether it did.
    pub(crate) fn forget_mirror(&mut self, link: u32) -> bool {
        let watches = self.mirrors_mut().iter().any(|mirror| mirror.link == link);
        if watches {
            self.with_cores(|cores| cores.mirrors.retain(|mirror| mirror.link != link));
        }
        watches
    }

    /// No node watches the user any more; whether one did.
    pub(crate) fn forget_mirrors(&mut self) -> bool {
        let watched = !self.mirrors_mut().is_empty();
        if watched {
            self.with_cores(|cores| cores.mirrors = Vec::new());
        }
        watched
    }

    /// Whether the owner, which is another node, is to tell this core of the user.
    #[inline]
    pub(crate) fn wanted_from_owner(&self) -> bool {
        self.as_owned().is_none() && self.wanted()
    }

    /// The newest version that the user's own sessions may have.
    pub(crate) fn own_version(&self) -> Version {
        let own = self.as_owned().and_then(|owned| owned.own.as_ref());
        own.map_or(Version::NEVER, |own| own.version)
            .max(self.record.version)
    }

    /// The record as the user's own sessions are shown it.
    pub(crate) fn own_record(&self) -> Record {
        let mut record = self.record.clone();
        record.version = self.own_version();
        if let Some(own) = self.as_owned().and_then(|owned| owned.own.as_ref())
            && own.status != Status::Offline
        {
            record.status = own.status;
            record.since = own.since;
            record.devices = own.devices;
        }
        record
    }

    /// Makes the next version of what the user's own sessions are shown newer than `shown`.
    pub(crate) fn raise_own(&mut self, shown: Version) -> &mut Own {
        let version = self.own_version().max(shown).later();
        let nothing = || {
            Box::new(Own {
                version,
                status: Status::Offline,
                since: 0,
                devices: 0,
            })
        };
        let own = self.owned_mut().own.get_or_insert_with(nothing);
        own.version = version;
        own
    }

    /// Whether a session of this core wants to know the user's state.
    #[inline]
    pub(crate) fn wanted_here(&self) -> bool {
        !self.watchers.is_empty() || self.waiters > 0
    }

    /// Whether somebody on this core's account wants to know the user's state: a session, or
    /// another core.
    pub(crate) fn wanted(&self) -> bool {
        self.wanted_here() || self.interested() != 0
    }

    /// Whether the store has never had anything of the user, as far as the record tells.
    pub(crate) fn never_was(&self) -> bool {
        let record = &self.record;
        self.knowledge == Knowledge::Known
            && (record.status, record.since, record.last_seen) == (Status::Offline, 0, 0)
            && record.text.is_empty()
            && self.mode == Mode::Auto
            && !self.connected()
    }

    /// Whether nothing holds the entry any more; `owned`: by this core.
    pub(crate) fn idle(&self, owned: bool) -> bool {
        !self.connected()
            && (!owned || self.record.status == Status::Offline)
            && !self.wanted()
            && self
                .cores
                .as_ref()
                .is_none_or(|cores| cores.queued == 0 && cores.mirrors.is_empty())
            && !self.is_unwritten()
            && self.store == Transfer::Idle
            && self.publishing.is_idle()
            && self.pace == TimerId::NONE
            && !self.is_subscribed()
            && !self.interest_sent
            && self.knowledge != Knowledge::Asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_no_larger_than_its_documented_cost() {
        let sizes = [size_of::<User>(), size_of::<Owned>(), size_of::<Cores>()];
        assert_eq!(sizes, [168, 40, 56]);
    }
}
