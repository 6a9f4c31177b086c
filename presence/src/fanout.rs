//! What waits to be sent, and how it becomes bytes: one contiguous piece of the arena a session
//! and flush. A record is encoded once a flush and encoding; sessions that get nothing else share
//! those bytes. It owns the arena, the ready list and the list of those that wait for the end of the flush
//! window; nothing here is allocated a delivery.

use std::{collections::VecDeque, ops::Range};

use protocol::{
    CloseCode, Encoding, FrameStart, ListKind, begin_list, end_list, frame, list_record,
};

use crate::{
    Counters, SessionId,
    session::{Sessions, Watch},
    user::{NONE, User},
    users::Users,
};

/// One send: bytes of [`crate::Core::arena`] for one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The session whose socket gets the bytes.
    pub session: SessionId,
    /// The place of the bytes in the arena: whole frames.
    pub range: Range<usize>,
    /// When the oldest change in it was made, monotonic µs; 0 = no change in it.
    pub since: u64,
    /// When the oldest status that it tells of began, by the owner's wall clock, ms since 1970; 0 = it
    /// tells of no status that has begun, as of devices alone or of who went offline.
    pub cause: u64,
    /// These are the last bytes: the close frame with this code is among them. The shell closes
    /// the connection and then calls [`crate::Core::closed`].
    pub close: Option<CloseCode>,
}

/// Appends one frame with what `encode` writes, and no gap before it.
pub(crate) fn append_frame(
    out: &mut Vec<u8>,
    encoding: Encoding,
    encode: impl FnOnce(&mut Vec<u8>),
) {
    let end = out.len();
    let start = frame::begin(out);
    encode(out);
    let frame = frame::end(out, start, encoding.opcode());
    out.drain(end..frame.start);
}

/// Appends the user's record, as others see it or as its `own` sessions do.
pub(crate) fn append_record(
    encoding: Encoding,
    first: bool,
    user: &User,
    own: bool,
    out: &mut Vec<u8>,
) {
    let (name, record) = (&user.name, &user.record);
    if own {
        let record = user.own_record();
        list_record(encoding, first, name, &record, Some(user.mode), out);
    } else {
        list_record(encoding, first, name, record, None, out);
    }
}

/// Changes for at most so many sessions never wait: sending them at once costs little.
const FEW: usize = 32;

/// In which list a session stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Queued {
    #[default]
    No,
    /// It has changes that may wait for the end of the flush window.
    Waiting,
    Ready,
}

struct Piece {
    watch: u32,
    next: u32,
}

/// A record's bytes in the arena, alone in its frame.
#[derive(Clone, Default)]
struct Encoded {
    frame: Range<u32>,
    record: Range<u32>,
}

struct Changed {
    user: u32,
    json: Option<Encoded>,
    cbor: Option<Encoded>,
}

#[derive(Default)]
pub(crate) struct Fanout {
    pieces: Vec<Piece>,
    free: u32,
    ready: VecDeque<u32>,
    /// The flush window, µs; 0 = nothing waits.
    window: u64,
    waiting: VecDeque<u32>,
    /// When the first flush came by which a session waited, monotonic µs; `None` = none waits.
    waiting_since: Option<u64>,
    changed: Vec<Changed>,
    pub(crate) arena: Vec<u8>,
    pub(crate) transmits: Vec<Transmit>,
    /// Followed users; those of whom watchers were sent something in this flush, and how many.
    pub(crate) traced: Vec<u32>,
    delivered: Vec<(u32, u32)>,
    /// The users of the message that is being composed, and their records in the arena.
    composing: Vec<u32>,
    records: Vec<Range<u32>>,
}

impl Fanout {
    /// `window`: the flush window, ms.
    pub(crate) fn new(window: u64) -> Self {
        Self {
            free: NONE,
            window: window * 1_000,
            ..Self::default()
        }
    }

    /// The session gets what there is for it with the next flush.
    pub(crate) fn queue(&mut self, sessions: &mut Sessions, session: u32) {
        let slot = &mut sessions[session];
        if slot.queued != Queued::Ready && (!slot.blocked || slot.closing.is_some()) {
            slot.queued = Queued::Ready;
            self.ready.push_back(session);
        }
    }

    /// The session has nothing but changes, which may wait.
    fn queue_changes(&mut self, sessions: &mut Sessions, session: u32) {
        if self.window == 0 {
            return self.queue(sessions, session);
        }
        let slot = &mut sessions[session];
        if slot.queued == Queued::No {
            slot.queued = Queued::Waiting;
            self.waiting.push_back(session);
        }
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.len() + self.waiting.len()
    }

    /// When the changes that wait are to be sent, monotonic µs; `None` when none wait.
    pub(crate) fn due(&self) -> Option<u64> {
        self.waiting_since.map(|since| since + self.window)
    }

    fn is_due(&self, now: u64) -> bool {
        self.waiting.len() <= FEW || self.due().is_some_and(|due| due <= now)
    }

    /// Notes that the user behind one of the session's watches changed at `at` (monotonic µs); `dated`:
    /// its status began at the record's `since`.
    pub(crate) fn change(
        &mut self,
        sessions: &mut Sessions,
        counters: &mut Counters,
        session: u32,
        watch: u32,
        (at, dated): (u64, bool),
    ) {
        if Self::hold(sessions, counters, session, watch, dated) {
            self.release(sessions, session, watch, at);
        }
    }

    /// Notes a change that is not sent before [`Fanout::release`]; whether it is the first that waits.
    pub(crate) fn hold(
        sessions: &mut Sessions,
        counters: &mut Counters,
        session: u32,
        watch: u32,
        dated: bool,
    ) -> bool {
        let entry = &mut sessions[session].watches[watch as usize];
        if entry.has(Watch::AWAITING) {
            return false;
        }
        entry.clear(Watch::DATED);
        if dated {
            entry.set(Watch::DATED);
        }
        if entry.has(Watch::PENDING) {
            counters.conflations += 1;
            return false;
        }
        entry.set(Watch::PENDING);
        true
    }

    /// Queues the change that waits behind one of the session's watches, if one does; `at` (monotonic
    /// µs) counts as its time.
    pub(crate) fn release(&mut self, sessions: &mut Sessions, session: u32, watch: u32, at: u64) {
        let slot = &mut sessions[session];
        if !slot.watches[watch as usize].has(Watch::PENDING) {
            return;
        }
        if slot.pending_since == 0 {
            slot.pending_since = at;
        }
        if slot.blocked {
            // The flags say what to send once the socket takes bytes again.
            return;
        }
        self.add_piece(sessions, session, watch);
        self.queue_changes(sessions, session);
    }

    fn add_piece(&mut self, sessions: &mut Sessions, session: u32, watch: u32) {
        let first = &mut sessions[session].pieces;
        let piece = Piece {
            watch,
            next: *first,
        };
        *first = match self.free {
            NONE => {
                self.pieces.push(piece);
                self.pieces.len() as u32 - 1
            }
            free => {
                self.free = self.pieces[free as usize].next;
                self.pieces[free as usize] = piece;
                free
            }
        };
    }

    /// Gives the session's pieces back and calls `each` with their watches, newest first.
    fn take_pieces(&mut self, sessions: &mut Sessions, session: u32, mut each: impl FnMut(u32)) {
        let mut piece = std::mem::replace(&mut sessions[session].pieces, NONE);
        while piece != NONE {
            let slot = &mut self.pieces[piece as usize];
            each(slot.watch);
            let next = std::mem::replace(&mut slot.next, self.free);
            self.free = piece;
            piece = next;
        }
    }

    pub(crate) fn drop_pieces(&mut self, sessions: &mut Sessions, session: u32) {
        self.take_pieces(sessions, session, |_| {});
    }

    /// After watches were removed the pieces' positions are stale: finds them again by the flags.
    pub(crate) fn relist(&mut self, sessions: &mut Sessions, session: u32) {
        self.drop_pieces(sessions, session);
        if sessions[session].blocked {
            return;
        }
        let mut pending = 0..sessions[session].watches.len() as u32;
        let mut any = false;
        while let Some(watch) =
            pending.find(|watch| sessions[session].watches[*watch as usize].has(Watch::PENDING))
        {
            any = true;
            self.add_piece(sessions, session, watch);
        }
        if any {
            self.queue_changes(sessions, session);
        }
    }

    /// Composes what is due at `now` (monotonic µs) for at most `limit` sessions into the arena; `true` when
    /// more is.
    pub(crate) fn flush(
        &mut self,
        users: &mut Users,
        sessions: &mut Sessions,
        counters: &mut Counters,
        (limit, now): (usize, u64),
    ) -> bool {
        self.arena.clear();
        self.transmits.clear();
        if !self.waiting.is_empty() {
            self.waiting_since.get_or_insert(now);
        }
        let due = self.is_due(now);
        while self.transmits.len() < limit {
            let (next, list) = match self.ready.pop_front() {
                None if due => (self.waiting.pop_front(), Queued::Waiting),
                ready => (ready, Queued::Ready),
            };
            let Some(session) = next else { break };
            // A session that was closed while it stood in the list left a hole, and so did one that has become
            // ready while it waited.
            let Some(slot) = sessions.slots.get_mut(session) else {
                continue;
            };
            if slot.queued != list {
                continue;
            }
            slot.queued = Queued::No;
            if slot.blocked && slot.closing.is_none() {
                self.drop_pieces(sessions, session);
                continue;
            }
            self.compose(users, sessions, counters, session);
        }
        for changed in self.changed.drain(..) {
            if let Some(user) = users.slots.get_mut(changed.user) {
                user.encoded = NONE;
            }
        }
        if self.waiting.is_empty() {
            self.waiting_since = None;
        }
        !self.ready.is_empty() || (due && !self.waiting.is_empty())
    }

    fn compose(
        &mut self,
        users: &mut Users,
        sessions: &mut Sessions,
        counters: &mut Counters,
        session: u32,
    ) {
        let mut composing = std::mem::take(&mut self.composing);
        composing.clear();
        let mut watches = std::mem::take(&mut sessions[session].watches);
        let mut cause = u64::MAX;
        self.take_pieces(sessions, session, |watch| {
            if let Some(watch) = watches.get_mut(watch as usize)
                && watch.has(Watch::PENDING)
            {
                if watch.has(Watch::DATED) {
                    cause = cause.min(users[watch.user()].record.since);
                }
                watch.clear(Watch::PENDING | Watch::DATED);
                composing.push(watch.user());
            }
        });
        let slot = &mut sessions[session];
        slot.watches = watches;
        let replies = std::mem::take(&mut slot.replies);
        let encoding = slot.encoding;
        let since = std::mem::take(&mut slot.pending_since);
        let close = slot.closing;
        let own = slot.user;
        let range = match (&*composing, &*replies) {
            ([], []) => 0..0,
            ([], replies) => {
                let start = self.arena.len();
                self.arena.extend_from_slice(replies);
                start..self.arena.len()
            }
            ([user], []) => {
                let frame = self.encoded(users, *user, own, encoding).frame;
                frame.start as usize..frame.end as usize
            }
            (composing, replies) => self.compose_list(users, composing, own, replies, encoding),
        };
        if !self.traced.is_empty() {
            self.count_traced(&composing);
        }
        counters.deliveries += composing.len() as u64;
        counters.frames += u64::from(!composing.is_empty());
        self.composing = composing;
        if !range.is_empty() || close.is_some() {
            let session = sessions.id(session);
            self.transmits.push(Transmit {
                session,
                range,
                since,
                cause: if cause == u64::MAX { 0 } else { cause },
                close,
            });
        }
    }

    /// Notes which followed users are among those of whom a session is sent something.
    #[cold]
    fn count_traced(&mut self, composing: &[u32]) {
        for user in composing.iter().filter(|user| self.traced.contains(user)) {
            match self.delivered.iter_mut().find(|(slot, _)| slot == user) {
                Some((_, watchers)) => *watchers += 1,
                None => self.delivered.push((*user, 1)),
            }
        }
    }

    /// The followed users of whom the last flush sent something, and to how many sessions.
    #[inline]
    pub(crate) fn take_delivered(&mut self) -> Vec<(u32, u32)> {
        self.traced.clear();
        std::mem::take(&mut self.delivered)
    }

    /// Replies, then one `presence` frame with the record of each of `composing`.
    fn compose_list(
        &mut self,
        users: &mut Users,
        composing: &[u32],
        own: u32,
        replies: &[u8],
        encoding: Encoding,
    ) -> Range<usize> {
        self.records.clear();
        for user in composing {
            let record = self.encoded(users, *user, own, encoding).record;
            self.records.push(record);
        }
        // The frame's header may need fewer bytes than are kept for it, so the replies are put
        // right before it once it is known where it begins.
        let space = self.arena.len();
        self.arena.resize(space + replies.len(), 0);
        let start = frame::begin(&mut self.arena);
        begin_list(encoding, ListKind::Presence, &mut self.arena);
        for (n, record) in self.records.iter().enumerate() {
            if n > 0 && encoding == Encoding::Json {
                self.arena.push(b',');
            }
            self.arena
                .extend_from_within(record.start as usize..record.end as usize);
        }
        end_list(encoding, &mut self.arena);
        let frame = frame::end(&mut self.arena, start, encoding.opcode());
        let begin = frame.start - replies.len();
        self.arena[begin..frame.start].copy_from_slice(replies);
        begin..frame.end
    }

    /// The user's record for a session of the user `own`.
    fn encoded(&mut self, users: &mut Users, user: u32, own: u32, encoding: Encoding) -> Encoded {
        let slot = &mut users[user];
        if user == own {
            return self.encode(slot, true, encoding);
        }
        if slot.encoded == NONE {
            slot.encoded = self.changed.len() as u32;
            self.changed.push(Changed {
                user,
                json: None,
                cbor: None,
            });
        }
        let changed = &self.changed[slot.encoded as usize];
        let cached = match encoding {
            Encoding::Json => &changed.json,
            Encoding::Cbor => &changed.cbor,
        };
        if let Some(encoded) = cached {
            return encoded.clone();
        }
        let encoded = self.encode(slot, false, encoding);
        let changed = &mut self.changed[slot.encoded as usize];
        let cached = match encoding {
            Encoding::Json => &mut changed.json,
            Encoding::Cbor => &mut changed.cbor,
        };
        cached.insert(encoded).clone()
    }

    fn encode(&mut self, user: &User, own: bool, encoding: Encoding) -> Encoded {
        let start: FrameStart = frame::begin(&mut self.arena);
        begin_list(encoding, ListKind::Presence, &mut self.arena);
        let record = self.arena.len();
        append_record(encoding, true, user, own, &mut self.arena);
        let record = record as u32..self.arena.len() as u32;
        end_list(encoding, &mut self.arena);
        // A single record is far below 65,535 bytes, so the frame's payload does not move.
        let frame = frame::end(&mut self.arena, start, encoding.opcode());
        let frame = frame.start as u32..frame.end as u32;
        Encoded { frame, record }
    }
}
