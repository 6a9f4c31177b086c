//! Connections to the masters of a Redis Cluster, one to each, and the map of its slots. It owns
//! which master is asked and whether it answers: a master that does not takes only its own slots
//! along, be it that its host is gone and nobody says so.

mod slots;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_util::future::{join_all, select_ok};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline,
    RedisError, RedisResult, ServerErrorKind, TlsCertificates, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster_routing::Slot,
};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};

use self::slots::{Address, Range, Slots, address_of, ask, failed, is_elsewhere, redirect};
use crate::{
    health::{Away, Watched},
    link::backoff,
    reply,
};

/// How often a request follows a moved slot or waits for a busy master. A slot that has no master
/// fails soon: whoever asks knows what to do without, and asks again.
const RETRIES: u32 = 2;
/// The wait before each of those but the first move.
const RETRY_WAIT: Duration = Duration::from_millis(20);
/// How often the slots are asked for while a master does not answer.
const LOOK: Duration = Duration::from_millis(250);

/// How nodes are reached.
pub(crate) struct Way {
    /// Any nodes of the cluster, at least one; the others are reached as the first is.
    pub(crate) seeds: Vec<ConnectionInfo>,
    pub(crate) certificates: Option<TlsCertificates>,
    pub(crate) config: AsyncConnectionConfig,
    /// How long a connection may take to be there.
    pub(crate) connect_timeout: Duration,
    /// Who is told which masters do not answer.
    pub(crate) watched: Arc<Mutex<Watched>>,
}

/// Connections to the masters; clones share them.
#[derive(Clone)]
pub(crate) struct Cluster {
    inner: Arc<Inner>,
    /// Looks for other masters; ends with the last clone.
    _look: Arc<Task>,
}

struct Inner {
    way: Arc<Way>,
    state: Mutex<State>,
    /// Held by the one who asks for the slots.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    masters: HashMap<Slot, Arc<Node>>,
    /// All masters, and nodes that a request was sent to by another.
    nodes: HashMap<Address, Arc<Node>>,
    replicas: HashSet<Address>,
    /// How often the slots were learnt.
    learnt: u64,
}

struct Node {
    address: Address,
    link: Arc<watch::Sender<Link>>,
    /// Keeps the connection.
    _keep: Task,
}

#[derive(Clone)]
enum Link {
    /// There was no attempt to connect yet that ended: requests wait for that one.
    Connecting,
    Up(MultiplexedConnection),
    /// Requests fail at once.
    Down(RedisError),
}

/// A task that ends when this is dropped.
struct Task(AbortHandle);

impl Task {
    fn start(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    fn reason(&self) -> String {
        match self {
            Self::Down(error) => error.to_string(),
            Self::Connecting | Self::Up(_) => String::new(),
        }
    }
}

impl Way {
    fn client(&self, address: &Address) -> RedisResult<Client> {
        let (host, port) = (address.0.clone(), address.1);
        let first = &self.seeds[0];
        let address = match first.addr() {
            ConnectionAddr::TcpTls { insecure, .. } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: *insecure,
                tls_params: None,
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        let info = first.clone().set_addr(address);
        match &self.certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
            None => Client::open(info),
        }
    }

    /// A connection to a node that answers.
    async fn connect(&self, address: &Address) -> RedisResult<MultiplexedConnection> {
        let client = self.client(address)?;
        let connect = async {
            let mut connection = client
                .get_multiplexed_async_connection_with_config(&self.config)
                .await?;
            let ping = redis::cmd("PING");
            connection.req_packed_command(&ping).await?;
            Ok(connection)
        };
        timeout(self.connect_timeout, connect)
            .await
            .unwrap_or_else(|_| Err(failed(address, "does not answer")))
    }

    async fn connect_and_ask(&self, address: Address) -> RedisResult<Slots> {
        let connection = self.connect(&address).await?;
        ask(connection, &address).await
    }
}

impl Cluster {
    /// Finds the masters by the first seed that answers.
    pub(crate) async fn connect(way: Arc<Way>) -> RedisResult<Self> {
        let inner = Arc::new(Inner {
            way,
            state: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        });
        inner.refresh(0).await?;
        let _look = Arc::new(Task::start(look(Arc::downgrade(&inner))));
        Ok(Self { inner, _look })
    }

    /// Sends the pipeline to the master of the slot, or to any, and gives one value a command.
    pub(crate) async fn send(
        &self,
        pipeline: &Pipeline,
        slot: Option<Slot>,
    ) -> RedisResult<Vec<Value>> {
        let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
        let mut answers = vec![Value::Nil; commands.len()];
        let mut open: Vec<usize> = (0..commands.len()).collect();
        let (mut node, mut learnt) = self.inner.master(slot)?;
        let mut asking = false;
        for retry in 0.. {
            let open_commands = open.iter().map(|at| commands[*at]);
            let values = node.ask_all(open_commands, asking).await?;
            for (at, value) in open.iter().zip(values) {
                answers[*at] = value;
            }
            open.retain(|at| reply::server_error(&answers[*at]).is_some_and(is_elsewhere));
            let Some(error) = open
                .first()
                .and_then(|at| reply::server_error(&answers[*at]))
            else {
                break;
            };
            let target = redirect(error, &node.address);
            asking = error.kind() == Some(ServerErrorKind::Ask);
            if retry == RETRIES {
                return Err(error.clone().into());
            }
            if !asking {
                // Whoever moved it knows where to; what it does not is found by the next request.
                let _ = self.inner.refresh(learnt).await;
            }
            if target.is_none() || retry > 0 {
                sleep(RETRY_WAIT).await;
            }
            (node, learnt) = match target {
                Some(address) => self.inner.node(&address),
                None => self.inner.master(slot)?,
            };
        }
        Ok(answers)
    }

    /// The answers of the masters that can be reached.
    ///
    /// # Errors
    /// When none can.
    pub(crate) async fn send_to_all(&self, command: &Cmd) -> RedisResult<Vec<Value>> {
        let masters = self.inner.masters();
        let asked = masters
            .iter()
            .map(|node| node.ask_all(std::iter::once(command), false));
        let mut answers = Vec::new();
        let mut error = failed(&("a cluster".into(), 0), "has no masters");
        for answer in join_all(asked).await {
            match answer {
                Ok(values) => answers.extend(values),
                Err(why) => error = why,
            }
        }
        match answers.is_empty() {
            true => Err(error),
            false => Ok(answers),
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The master of the slot, or any that answers, and how often the slots were learnt by then.
    fn master(&self, slot: Option<Slot>) -> RedisResult<(Arc<Node>, u64)> {
        let state = self.state();
        let node = match slot {
            Some(slot) => state.masters.get(&slot),
            None => {
                let answers = state.masters.values().find(|node| node.is_up());
                answers.or_else(|| state.masters.values().next())
            }
        };
        let nobody = || RedisError::from((ErrorKind::Client, "the slot has no master"));
        Ok((node.cloned().ok_or_else(nobody)?, state.learnt))
    }

    fn masters(&self) -> Vec<Arc<Node>> {
        let state = self.state();
        let mut seen = HashSet::new();
        let mut masters: Vec<_> = state.masters.values().cloned().collect();
        masters.retain(|node| seen.insert(node.address.clone()));
        masters
    }

    /// The node at that address, where a request was sent to.
    fn node(&self, address: &Address) -> (Arc<Node>, u64) {
        let mut state = self.state();
        let node = state.node(&self.way, address);
        (node, state.learnt)
    }

    /// Asks for the slots, unless that was done since they were learnt `learnt` times.
    async fn refresh(&self, learnt: u64) -> RedisResult<()> {
        let _one = self.asking.lock().await;
        let (connected, others) = {
            let state = self.state();
            if state.learnt != learnt {
                return Ok(());
            }
            let connected: Vec<_> = state.nodes.values().filter_map(|n| n.connected()).collect();
            let seeds = self.way.seeds.iter().filter_map(address_of);
            let others: HashSet<Address> = seeds.chain(state.replicas.iter().cloned()).collect();
            (connected, others)
        };
        let mut slots = Err(failed(&("a cluster".into(), 0), "has no nodes that answer"));
        if !connected.is_empty() {
            let asked = connected.into_iter().map(|(address, connection)| {
                Box::pin(async move { ask(connection, &address).await })
            });
            slots = select_ok(asked).await.map(|(slots, _)| slots);
        }
        if slots.is_err() && !others.is_empty() {
            let asked = others
                .into_iter()
                .map(|a| Box::pin(self.way.connect_and_ask(a)));
            slots = select_ok(asked).await.map(|(slots, _)| slots);
        }
        let slots = slots?;
        self.state().learn(&self.way, slots);
        Ok(())
    }
}

impl State {
    fn node(&mut self, way: &Arc<Way>, address: &Address) -> Arc<Node> {
        let start = || Arc::new(Node::start(way, address));
        Arc::clone(self.nodes.entry(address.clone()).or_insert_with(start))
    }

    fn learn(&mut self, way: &Arc<Way>, slots: Slots) {
        self.masters.clear();
        self.replicas.clear();
        let mut masters = HashSet::new();
        for Range { first, last, nodes } in slots {
            let mut nodes = nodes.into_iter();
            let Some(master) = nodes.next() else { continue };
            let node = self.node(way, &master);
            masters.insert(master);
            for slot in (first..=last).filter_map(Slot::new) {
                self.masters.insert(slot, Arc::clone(&node));
            }
            self.replicas.extend(nodes);
        }
        self.nodes.retain(|address, _| masters.contains(address));
        self.learnt += 1;
    }
}

impl Node {
    fn start(way: &Arc<Way>, address: &Address) -> Self {
        let link = Arc::new(watch::Sender::new(Link::Connecting));
        let keep = keep(Arc::clone(way), address.clone(), Arc::clone(&link));
        Self {
            address: address.clone(),
            link,
            _keep: Task::start(keep),
        }
    }

    fn is_up(&self) -> bool {
        matches!(*self.link.borrow(), Link::Up(_))
    }

    fn connected(&self) -> Option<(Address, MultiplexedConnection)> {
        match &*self.link.borrow() {
            Link::Up(connection) => Some((self.address.clone(), connection.clone())),
            _ => None,
        }
    }

    /// The answers to the commands, each of which is asked of a node that takes its slot over now
    /// when `asking`. It fails at once while the node is down, and when it goes down.
    async fn ask_all<'a>(
        &self,
        commands: impl Iterator<Item = &'a Cmd>,
        asking: bool,
    ) -> RedisResult<Vec<Value>> {
        let mut pipeline = Pipeline::new();
        for command in commands {
            if asking {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(command.clone());
        }
        let mut link = self.link.subscribe();
        let now = link.wait_for(|link| !matches!(link, Link::Connecting));
        let now = now.await.map(|link| link.clone());
        let mut connection = match now {
            Ok(Link::Up(connection)) => connection,
            Ok(Link::Down(error)) => return Err(error),
            Ok(Link::Connecting) | Err(_) => return Err(failed(&self.address, "is not there")),
        };
        let count = pipeline.len();
        let answer = tokio::select! {
            answer = connection.req_packed_commands(&pipeline, 0, count) => answer,
            _ = link.changed() => Err(failed(&self.address, "does not answer")),
        };
        match answer {
            Ok(values) if asking => Ok(values.into_iter().skip(1).step_by(2).collect()),
            Ok(values) => Ok(values),
            Err(error) => {
                let why = error.clone();
                self.link.send_if_modified(|link| {
                    let was_up = matches!(link, Link::Up(_));
                    if was_up {
                        *link = Link::Down(why);
                    }
                    was_up
                });
                Err(error)
            }
        }
    }
}

/// Connects to a node, and again when its connection fails.
async fn keep(way: Arc<Way>, address: Address, link: Arc<watch::Sender<Link>>) {
    let mut failures = 0;
    let mut away: Option<Away> = None;
    loop {
        let why = match way.connect(&address).await {
            Ok(connection) => {
                failures = 0;
                if let Some(away) = away.take() {
                    away.answers_again();
                }
                link.send_replace(Link::Up(connection));
                let mut down = link.subscribe();
                let down = down.wait_for(|link| matches!(link, Link::Down(_))).await;
                // It is in its hand, so that it is not gone.
                down.map_or_else(|gone| gone.to_string(), |link| link.reason())
            }
            Err(error) => {
                failures += 1;
                let why = error.to_string();
                link.send_replace(Link::Down(error));
                why
            }
        };
        away.get_or_insert_with(|| {
            let address = format!("{}:{}", address.0, address.1);
            Away::new(&way.watched, address, &why)
        });
        sleep(backoff(failures)).await;
    }
}

/// While a master does not answer, asks the others who has its slots.
async fn look(inner: Weak<Inner>) {
    loop {
        sleep(LOOK).await;
        let Some(inner) = inner.upgrade() else { return };
        let (is_whole, learnt) = {
            let state = inner.state();
            (state.nodes.values().all(|node| node.is_up()), state.learnt)
        };
        if !is_whole {
            // When nobody answers, every request says so.
            let _ = inner.refresh(learnt).await;
        }
    }
}
