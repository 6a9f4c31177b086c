//! A limit on the life of a connection. The client's own timeouts hold for each read of a TLS
//! handshake and of a proxy's answer, so that a peer which sends a byte now and then would hold it
//! for ever.

use std::time::{Duration, Instant};

use ureq::{
    Error,
    unversioned::transport::{
        Buffers, ConnectionDetails, Connector, NextTimeout, Transport,
        time::{Duration as MaybeDuration, Instant as MaybeInstant},
    },
};

/// Ends what is connected when the time for connecting would have ended.
#[derive(Debug)]
pub(crate) struct Limit;

/// A connection that fails every read and write after an instant.
#[derive(Debug)]
pub(crate) struct InTime<T> {
    inner: T,
    /// When the connection ends; `None` = never.
    ends: Option<Instant>,
}

impl<In: Transport> Connector<In> for Limit {
    type Out = InTime<In>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let ends = match (details.now, details.timeout.after) {
            (MaybeInstant::Exact(now), MaybeDuration::Exact(after)) => now.checked_add(after),
            _ => None,
        };
        Ok(chained.map(|inner| InTime { inner, ends }))
    }
}

impl<T> InTime<T> {
    fn limit(&self, mut timeout: NextTimeout) -> Result<NextTimeout, Error> {
        if let Some(ends) = self.ends {
            let left = ends.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return Err(Error::Timeout(timeout.reason));
            }
            if left < *timeout.after {
                timeout.after = MaybeDuration::Exact(left);
            }
        }
        Ok(timeout)
    }
}

impl<T: Transport> Transport for InTime<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = self.limit(timeout)?;
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = self.limit(timeout)?;
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
