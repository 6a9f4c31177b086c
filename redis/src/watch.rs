//! A subscription to new maps, that is there again by itself after a failure. It only wakes: what
//! is new, the woken reads. A node's also shows that its process lives.

use std::time::Duration;

use futures_util::StreamExt;
use ring::NodeId;
use tokio::{
    sync::watch,
    time::{interval, sleep, timeout},
};

use crate::link::{Link, backoff};

/// How often the subscription's connection is asked for a sign of life.
const PING: Duration = Duration::from_secs(2);
/// How long a node keeps a subscription whose server says nothing: longer than a lease lasts. Closed
/// by the node itself it would look like that of a process that was killed.
const KEPT: Duration = Duration::from_mins(2);

impl Link {
    /// A number that changes whenever there may be a new map: one was announced, or the
    /// subscription was made, or made again after a time in which announcements were missed.
    ///
    /// Starts a task on the current tokio runtime, which ends when the last receiver is dropped.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn watch_map(&self) -> watch::Receiver<u64> {
        self.watch(None)
    }

    /// As [`Link::watch_map`], for a node's process: [`Link::alive`] finds it for as long as its
    /// subscription is there.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn watch_map_as(&self, node: &NodeId, boot: u64) -> watch::Receiver<u64> {
        self.watch(Some(self.keys().alive(node, boot)))
    }

    fn watch(&self, sign: Option<String>) -> watch::Receiver<u64> {
        let (sender, receiver) = watch::channel(0);
        tokio::spawn(keep_watching(self.clone(), sign, sender));
        receiver
    }
}

async fn keep_watching(link: Link, sign: Option<String>, wakes: watch::Sender<u64>) {
    let mut node = 0;
    let mut failures = 0;
    loop {
        tokio::select! {
            subscribed = watch(&link, node, sign.as_deref(), &wakes) => {
                failures = if subscribed { 0 } else { failures + 1 };
            }
            () = wakes.closed() => return,
        }
        node += 1;
        tokio::select! {
            () = sleep(backoff(failures)) => {}
            () = wakes.closed() => return,
        }
    }
}

/// Wakes until the subscription fails. Gives whether there was one.
async fn watch(link: &Link, node: usize, sign: Option<&str>, wakes: &watch::Sender<u64>) -> bool {
    let channel = link.keys().map_changed();
    let subscribing = Box::pin(link.connector().subscribe(node, &channel));
    let Ok(mut subscription) = subscribing.await else {
        return false;
    };
    if let Some(sign) = sign {
        let subscribing = timeout(link.response_timeout(), subscription.subscribe(sign));
        match subscribing.await {
            Ok(Ok(())) => {}
            // It is a server's right: the lease says the same, later.
            Ok(Err(error)) if error.code().is_some() => link.is_unseen(&error.to_string()),
            Ok(Err(_)) | Err(_) => return false,
        }
    }
    // A name may lead elsewhere by now, and the master be another one.
    let mut connected = link.connected();
    connected.mark_unchanged();
    let wake = || wakes.send_modify(|count| *count = count.wrapping_add(1));
    wake();
    let (mut sink, mut messages) = subscription.split();
    let mut pings = interval(PING);
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(_) => wake(),
                None => return true,
            },
            changed = connected.changed() => {
                if changed.is_ok() {
                    return true;
                }
            }
            _ = pings.tick() => {
                // Messages that come meanwhile wait in the stream.
                let pong = timeout(link.response_timeout(), sink.ping::<redis::Value>()).await;
                if !matches!(pong, Ok(Ok(_))) {
                    if sign.is_some() {
                        // Another one is made only where the server answers, so these are few.
                        tokio::spawn(async move {
                            sleep(KEPT).await;
                            drop((sink, messages));
                        });
                    }
                    return true;
                }
            }
        }
    }
}
