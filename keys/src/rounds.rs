//! When the next fetch is due, and who waits for one: the state that the thread which fetches and
//! the tasks that check tokens share. It fetches nothing, and has no clock but what it is told.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use slab::Slab;

/// Tokens that may wait for a fetch at a time; a further one is refused at once.
pub const MAX_WAITING: usize = 1_000;
/// The time between two fetches that tokens ask for, when the first one brought other keys: what
/// strangers say changes no set, so that only whoever changes it makes it be fetched so often.
const AFTER_CHANGE: Duration = Duration::from_secs(1);

/// The rounds of fetching, and the tokens that wait for one to end.
pub(crate) struct Rounds {
    state: Mutex<State>,
    /// Something is due earlier than the thread knows.
    sooner: Condvar,
}

struct State {
    /// Somebody knows of a change: the next fetch is due at once.
    refresh_requested: bool,
    /// A token came that a newer set may let in.
    missed: bool,
    /// Fetches that began, and that ended: as many, or one fewer.
    begun: u64,
    ended: u64,
    /// Whether the last fetch failed.
    failed: bool,
    /// When tokens may ask for the next one.
    open_at: Instant,
    waiting: Slab<Option<Waker>>,
}

/// The result of one fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Changed,
    Same,
    Failed,
}

/// Why a token does not wait, or waits no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoWait {
    /// [`MAX_WAITING`] tokens wait already.
    #[error("{MAX_WAITING} others wait for the key set already")]
    Full,
    /// The set was fetched a moment ago, and is not again in time.
    #[error("the key set was fetched a moment ago, try again in {0} s")]
    TooSoon(u64),
    /// The fetch did not end within the token's patience.
    #[error("the key set did not come in time")]
    Late,
    /// The fetch that the token waited for failed.
    #[error("the key set cannot be fetched at the moment")]
    Failed,
}

/// The place of one token among those that wait; dropping it gives the place back.
pub(crate) struct Place {
    rounds: Arc<Rounds>,
    key: usize,
    /// The fetches that had ended when it looked last.
    seen: u64,
    /// The first fetch that began after the token came.
    needs: u64,
    deadline: Instant,
}

impl Rounds {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                refresh_requested: false,
                missed: false,
                begun: 0,
                ended: 0,
                failed: false,
                open_at: now,
                waiting: Slab::new(),
            }),
            sooner: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next fetch due at once, as after SIGHUP.
    pub(crate) fn tell(&self) {
        self.lock().refresh_requested = true;
        self.sooner.notify_all();
    }

    /// Makes the next fetch due as soon as tokens may ask for one.
    pub(crate) fn miss(&self) {
        if !std::mem::replace(&mut self.lock().missed, true) {
            self.sooner.notify_all();
        }
    }

    /// The same for a token that waits until `deadline` for what is fetched.
    pub(crate) fn join(self: &Arc<Self>, now: Instant, deadline: Instant) -> Result<Place, NoWait> {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.missed, true) {
            self.sooner.notify_all();
        }
        if state.waiting.len() >= MAX_WAITING {
            return Err(NoWait::Full);
        }
        if state.begun == state.ended {
            state.in_time(now, deadline)?;
        }
        Ok(Place {
            rounds: Arc::clone(self),
            key: state.waiting.insert(None),
            seen: state.ended,
            needs: state.begun + 1,
            deadline,
        })
    }

    /// The number of tokens that wait for a fetch now.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Waits until the next fetch is due, which is at `due` at the latest.
    pub(crate) fn until_due(&self, due: Instant) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let due = match state.missed {
                true => due.min(state.open_at),
                false => due,
            };
            let left = due.saturating_duration_since(now);
            if state.refresh_requested || left.is_zero() {
                return;
            }
            let woken = self.sooner.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(crate) fn begin(&self) {
        let mut state = self.lock();
        state.refresh_requested = false;
        state.missed = false;
        state.begun += 1;
    }

    /// Ends the fetch that began at `started`; what it brought is in force already.
    pub(crate) fn end(&self, started: Instant, min_gap: Duration, outcome: Outcome) {
        let mut state = self.lock();
        state.ended += 1;
        state.failed = outcome == Outcome::Failed;
        state.open_at = match outcome {
            Outcome::Changed => Instant::now() + AFTER_CHANGE.min(min_gap),
            Outcome::Same | Outcome::Failed => started + min_gap,
        };
        for (_, waker) in &mut state.waiting {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }
}

impl State {
    /// Whether a fetch can begin before `deadline`; else why the token does not wait.
    fn in_time(&self, now: Instant, deadline: Instant) -> Result<(), NoWait> {
        let left = self.open_at.saturating_duration_since(now);
        match self.open_at < deadline || left.is_zero() {
            true => Ok(()),
            false => Err(NoWait::TooSoon(left.as_secs() + 1)),
        }
    }
}

impl Place {
    /// Whether a fetch has ended since the last time; else the task is woken when one does.
    pub(crate) fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.rounds.lock();
        if state.ended > self.seen {
            self.seen = state.ended;
            return Poll::Ready(());
        }
        state.waiting[self.key] = Some(context.waker().clone());
        Poll::Pending
    }

    /// Whether a further fetch is to be waited for, after one whose keys were of no use; `Err(None)`
    /// when all that there is was looked at.
    pub(crate) fn goes_on(&self, now: Instant) -> Result<(), Option<NoWait>> {
        let state = self.rounds.lock();
        match (self.seen >= self.needs, state.failed) {
            (true, true) => Err(Some(NoWait::Failed)),
            (true, false) => Err(None),
            (false, _) => state.in_time(now, self.deadline).map_err(Some),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.rounds.lock().waiting.remove(self.key);
    }
}
