//! Signs tokens, and looks at what an application is shown.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use online_status_client::{Client, Record, State, Status, Watch};
use tokio::time::timeout;

pub(crate) const SECRET: &str = "a secret of the tests, long enough for HS256";
/// Far longer than anything takes, so that a slow machine fails no test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A token of the user, good for so many seconds.
pub(crate) fn token(user: &str, seconds: u64) -> String {
    signed(user, seconds, SECRET)
}

pub(crate) fn signed(user: &str, seconds: u64, secret: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let claims = serde_json::json!({ "sub": user, "exp": now + seconds, "jti": id.to_string() });
    let key = EncodingKey::from_secret(secret.as_bytes()).expect("a secret");
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).expect("a token")
}

/// What an application sees of its watches: it fails at once when a version falls.
pub(crate) struct View {
    watch: Watch,
    pub(crate) seen: HashMap<String, Vec<Record>>,
}

impl View {
    pub(crate) fn new(client: &Client, users: &[&str]) -> Self {
        Self {
            watch: client.watch(users).expect("good names"),
            seen: HashMap::new(),
        }
    }

    async fn next(&mut self) -> Option<Record> {
        let record = self.watch.next().await?;
        let seen = self.seen.entry(record.user.clone()).or_default();
        let last = seen.last().map_or(0, |last| last.version);
        assert!(last <= record.version, "{record:?} after {last}");
        seen.push(record.clone());
        Some(record)
    }

    /// Waits until the user's record is `good`.
    pub(crate) async fn until(&mut self, user: &str, good: impl Fn(&Record) -> bool) -> Record {
        let found = timeout(PATIENCE, async {
            if let Some(last) = self.last(user).filter(|last| good(last)) {
                return last.clone();
            }
            loop {
                let record = self.next().await.expect("the client lives");
                if record.user == user && good(&record) {
                    return record;
                }
            }
        });
        found
            .await
            .unwrap_or_else(|_| panic!("{user} is {:?}", self.last(user)))
    }

    pub(crate) async fn until_status(&mut self, user: &str, status: Status) -> Record {
        self.until(user, |record| record.status == status).await
    }

    /// Takes the changes that come within `time`.
    pub(crate) async fn look_for(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while let Ok(record) = tokio::time::timeout_at(end, self.next()).await {
            record.expect("the client lives");
        }
    }

    pub(crate) fn last(&self, user: &str) -> Option<&Record> {
        self.seen.get(user)?.last()
    }

    /// A user that was online once and kept a session is never shown offline.
    pub(crate) fn assert_no_flap(&self, user: &str) {
        let seen = self.seen.get(user).map_or(&[][..], Vec::as_slice);
        let online = seen
            .iter()
            .skip_while(|record| record.status == Status::Offline);
        let flaps: Vec<_> = online
            .filter(|record| record.status == Status::Offline)
            .collect();
        assert!(flaps.is_empty(), "{user} was shown offline: {seen:?}");
    }

    /// Waits for the end of the watch.
    pub(crate) async fn ended(&mut self) {
        let end = timeout(PATIENCE, async { while self.next().await.is_some() {} });
        end.await.expect("the watch ends");
    }
}

/// Waits until the client's state is `good`.
pub(crate) async fn until_state(client: &Client, good: impl FnMut(&State) -> bool) -> State {
    let mut states = client.state();
    let found = timeout(PATIENCE, states.wait_for(good)).await;
    found
        .expect("the state comes")
        .expect("the client lives")
        .clone()
}

pub(crate) async fn ready(client: &Client) {
    let session = timeout(PATIENCE, client.ready()).await;
    session.expect("an answer").expect("a session");
}
