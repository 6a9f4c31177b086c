//! Where presence is kept: the trait that every store implements, one handle a core. A handle
//! never blocks its core: what takes time happens elsewhere, and the answers are polled.

mod durable;
mod memory;
mod packed;
mod redis;
mod remote;

use arc_swap::ArcSwapOption;
use presence::{StoreReply, StoreRequest};

pub(crate) use self::{
    durable::{Durable, OpenError},
    memory::Memory,
    redis::Redis,
    remote::remote,
};

/// Why a store failed what it was asked last; `None` = it did not, or was not asked yet.
pub(crate) type Failing = ArcSwapOption<String>;

/// A core's handle to a store.
pub(crate) trait Store {
    /// The number of requests that it takes now.
    fn room(&self) -> usize;

    /// Takes requests, at most [`Store::room`]; each will be answered.
    fn submit(&mut self, requests: Vec<StoreRequest>);

    /// Appends the answers that came since the last time.
    fn poll(&mut self, replies: &mut Vec<StoreReply>);

    /// The number of requests that wait for their answers.
    fn waiting(&self) -> usize;

    /// Lets time pass (ms since 1970): users not seen for the retention are forgotten.
    fn tick(&mut self, now: u64);
}
