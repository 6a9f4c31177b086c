//! One connection to the store, be it a single server or a Redis Cluster, and how to get one.
//! It owns what the client library is told; keeping a connection is the link's business.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, Pipeline, RedisError,
    RedisResult, TlsCertificates, Value,
    aio::{ConnectionLike, MultiplexedConnection, PubSub},
    cluster_routing::Slot,
    io::tcp::TcpSettings,
};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::{
    cluster::{self, Cluster},
    health::Watched,
    options::Target,
    sentinel::Sentinels,
    server::{self, Server},
};

/// The longest refusal that is read, bytes.
const MOST_SAID: u64 = 2_048;

/// A connection to the store; clones share it.
#[derive(Clone)]
pub(crate) enum Connection {
    /// A connection to one server.
    Single(MultiplexedConnection),
    /// Connections to the masters of a Redis Cluster.
    Cluster(Cluster),
}

impl Connection {
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Sends the pipeline, whose keys all lie on `slot`, and gives one value a command; a
    /// command's error is a value.
    pub(crate) async fn send(
        &mut self,
        pipeline: &Pipeline,
        slot: Option<Slot>,
    ) -> RedisResult<Vec<Value>> {
        let count = pipeline.len();
        match self {
            Self::Single(single) => single.req_packed_commands(pipeline, 0, count).await,
            Self::Cluster(cluster) => cluster.send(pipeline, slot).await,
        }
    }

    /// The answer of the server, or of every master that can be reached.
    pub(crate) async fn send_to_all(&mut self, command: &Cmd) -> RedisResult<Vec<Value>> {
        match self {
            Self::Single(single) => Ok(vec![single.req_packed_command(command).await?]),
            Self::Cluster(cluster) => cluster.send_to_all(command).await,
        }
    }
}

/// The reason for which a connection cannot be used.
pub(crate) enum Unusable {
    /// No server answered, or one answered with an error.
    Failed(RedisError),
    /// There is a server, and it is none to use.
    Server(String),
    /// There is a server, and it lets nobody in.
    Closed(String),
}

impl From<RedisError> for Unusable {
    fn from(error: RedisError) -> Self {
        Self::Failed(error)
    }
}

/// The way to the store, by the URL and what its server says.
enum Way {
    /// By one address, whatever server it leads to.
    One,
    /// By the nodes of a Redis Cluster.
    Cluster,
    /// By the master that Sentinels name.
    Sentinels(Sentinels),
}

/// The maker of connections, by the options.
pub(crate) struct Connector {
    way: Way,
    /// The clients of the URL's nodes, in its order.
    clients: Vec<Client>,
    /// When there is more than one node, and made on the fly when the one turns out to be a
    /// cluster's.
    cluster: Arc<cluster::Way>,
    config: AsyncConnectionConfig,
    limit: Duration,
}

impl Connector {
    pub(crate) fn new(target: &Target, watched: &Arc<Mutex<Watched>>) -> RedisResult<Self> {
        let certificates = target.authorities.as_ref().map(|pem| TlsCertificates {
            client_tls: None,
            root_cert: Some(pem.clone()),
        });
        // A peer that vanished without a word is noticed by the kernel as well.
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_user_timeout(target.response_timeout * 2);
        let node = |node: &ConnectionInfo| {
            // Redis 7.0 and most users' permissions do not know that command.
            let settings = node.redis_settings().clone().set_skip_set_lib_name();
            let node = node.clone().set_tcp_settings(tcp.clone());
            node.set_redis_settings(settings)
        };
        let nodes: Vec<_> = target.nodes.iter().map(node).collect();
        let client = |node: &ConnectionInfo| match &certificates {
            Some(certificates) => Client::build_with_tls(node.clone(), certificates.clone()),
            None => Client::open(node.clone()),
        };
        let clients = nodes.iter().map(client).collect::<RedisResult<Vec<_>>>()?;
        let way = match &target.master {
            Some(name) => {
                Way::Sentinels(Sentinels::new(target, name, certificates.as_ref(), &tcp)?)
            }
            None if nodes.len() > 1 => Way::Cluster,
            None => Way::One,
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(target.connect_timeout))
            .set_response_timeout(Some(target.response_timeout));
        let cluster = cluster::Way {
            seeds: nodes,
            certificates,
            config: config.clone(),
            connect_timeout: target.connect_timeout,
            watched: Arc::clone(watched),
        };
        Ok(Self {
            way,
            clients,
            cluster: Arc::new(cluster),
            config,
            limit: target.connect_timeout,
        })
    }

    /// A new connection, to a server that takes writes as far as it says. Whether a single node is
    /// a cluster's is asked each time: a server may be replaced by a cluster.
    pub(crate) async fn connect(&self) -> Result<Connection, Unusable> {
        match self.try_connect().await {
            Err(Unusable::Failed(error)) if error.is_connection_dropped() => {
                let limit = timeout(self.limit, refusal(&self.clients[0]));
                Err(match limit.await.ok().flatten() {
                    Some(said) => Unusable::Closed(said),
                    None => Unusable::Failed(error),
                })
            }
            done => done,
        }
    }

    async fn try_connect(&self) -> Result<Connection, Unusable> {
        if let Way::Cluster = self.way {
            return self.connect_cluster().await;
        }
        let connect = async {
            let mut single = self
                .client(0)
                .await?
                .get_multiplexed_async_connection_with_config(&self.config)
                .await?;
            let server = introduction(&mut single).await?;
            RedisResult::Ok((single, server))
        };
        let limit = self.limit();
        let (single, server) = timeout(limit, connect).await.map_err(too_slow)??;
        if let Some(why) = server.too_old().or_else(|| server.unfit()) {
            // A cluster's node may be a replica: the client asks its master.
            if !server.is_cluster || server.too_old().is_some() {
                return Err(Unusable::Server(why));
            }
        }
        if server.is_cluster {
            return self.connect_cluster().await;
        }
        Ok(Connection::Single(single))
    }

    async fn connect_cluster(&self) -> Result<Connection, Unusable> {
        // Connecting, and asking for the slots.
        let connect = Cluster::connect(Arc::clone(&self.cluster));
        let cluster = timeout(self.limit * 2, connect).await.map_err(too_slow)??;
        let mut connection = Connection::Cluster(cluster);
        // A master that does not answer is no reason to do without the others.
        let asked = timeout(self.limit, connection.send_to_all(&server::info())).await;
        for answer in asked.ok().and_then(Result::ok).unwrap_or_default() {
            if let Some(why) = Server::of(&answer).too_old() {
                return Err(Unusable::Server(why));
            }
        }
        Ok(connection)
    }

    /// A subscription to `channel`, at the node of that number, which may be any. A cluster's
    /// nodes tell each other what is published.
    pub(crate) async fn subscribe(&self, node: usize, channel: &str) -> RedisResult<PubSub> {
        let subscribe = async {
            let mut subscription = self.client(node).await?.get_async_pubsub().await?;
            subscription.subscribe(channel).await?;
            Ok(subscription)
        };
        timeout(self.limit(), subscribe).await.map_err(too_slow)?
    }

    /// Who leads to a server: the node of that number, or the master that Sentinels name.
    async fn client(&self, node: usize) -> RedisResult<Client> {
        match &self.way {
            Way::Sentinels(sentinels) => sentinels.master().await,
            Way::One | Way::Cluster => Ok(self.clients[node % self.clients.len()].clone()),
        }
    }

    /// How long a connection may take: a Sentinel that does not answer takes its time first.
    fn limit(&self) -> Duration {
        match self.way {
            Way::Sentinels(_) => self.limit * 3,
            Way::One | Way::Cluster => self.limit,
        }
    }
}

/// What a server that lets nobody in says to whoever connects, before it closes the connection: it is
/// in protected mode, or has as many clients as it may. The library writes first, and the reset that
/// answers this takes the words away.
async fn refusal(client: &Client) -> Option<String> {
    let ConnectionAddr::Tcp(host, port) = client.get_connection_info().addr() else {
        return None;
    };
    let socket = TcpStream::connect((host.as_str(), *port)).await.ok()?;
    let mut said = String::new();
    socket
        .take(MOST_SAID)
        .read_to_string(&mut said)
        .await
        .ok()?;
    let said = said.strip_prefix('-')?.lines().next()?;
    Some(format!("it says to whoever connects: {said}"))
}

/// What the server says of itself, by `INFO`, else by `HELLO`; one that allows neither says nothing.
async fn introduction(single: &mut MultiplexedConnection) -> RedisResult<Server> {
    let answer = single.req_packed_command(&server::info()).await?;
    match &answer {
        Value::ServerError(error) if server::forbids(error) => {
            let answer = single.req_packed_command(&server::hello()).await?;
            Ok(Server::of(&answer))
        }
        Value::ServerError(_) => Ok(Server::of(&answer.extract_error()?)),
        _ => Ok(Server::of(&answer)),
    }
}

fn too_slow(_: tokio::time::error::Elapsed) -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "it took too long").into()
}
