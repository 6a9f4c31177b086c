//! The word to end, which every part hears.

use tokio::sync::watch;

/// The receiving end of the signal to stop.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

/// The sending end of the signal to stop.
pub(crate) struct Stopper(watch::Sender<bool>);

pub(crate) fn stop() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    pub(crate) fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    pub(crate) fn is_signalled(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when it is told, at once if it was.
    pub(crate) async fn signalled(&mut self) {
        // Who could tell is gone: that is the end, too.
        let _ = self.0.wait_for(|signalled| *signalled).await;
    }
}
