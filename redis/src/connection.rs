//! One connection to the store, be it a single server or a Redis Cluster, and how to get one.
//! It owns what the client library is told; keeping a connection is the link's business.

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, Pipeline, RedisError, RedisResult,
    TlsCertificates, Value,
    aio::{ConnectionLike, MultiplexedConnection, PubSub},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    cluster_routing::{
        MultipleNodeRoutingInfo, Route, RoutingInfo, SingleNodeRoutingInfo, Slot, SlotAddr,
    },
    io::tcp::TcpSettings,
};
use tokio::time::timeout;

use crate::options::Target;

/// How often a cluster's client follows a moved slot or waits for a busy node, within the timeout.
const CLUSTER_RETRIES: u32 = 5;
/// The shortest and longest wait between those, ms.
const CLUSTER_RETRY_WAIT: (u64, u64) = (20, 200);

/// A connection; clones share it.
#[derive(Clone)]
pub(crate) enum Connection {
    /// To one server.
    Single(MultiplexedConnection),
    /// To the masters of a cluster.
    Cluster(ClusterConnection),
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
            Self::Cluster(cluster) => {
                let route = slot.map_or(SingleNodeRoutingInfo::RandomPrimary, |slot| {
                    SingleNodeRoutingInfo::SpecificNode(Route::with_slot(slot, SlotAddr::Master))
                });
                cluster
                    .route_pipeline(pipeline.clone(), 0, count, route)
                    .await
            }
        }
    }

    /// The answer of the server, or of every master that can be reached.
    pub(crate) async fn send_to_all(&mut self, command: &Cmd) -> RedisResult<Vec<Value>> {
        match self {
            Self::Single(single) => Ok(vec![single.req_packed_command(command).await?]),
            Self::Cluster(cluster) => {
                let masters = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                match cluster.route_command(command.clone(), masters).await? {
                    Value::Map(answers) => {
                        Ok(answers.into_iter().map(|(_, value)| value).collect())
                    }
                    other => Ok(vec![other]),
                }
            }
        }
    }
}

/// Makes connections.
pub(crate) struct Connector {
    clients: Vec<Client>,
    /// When there is more than one node, and made on the fly when the one turns out to be a
    /// cluster's.
    cluster: ClusterClient,
    is_cluster: bool,
    config: AsyncConnectionConfig,
    limit: std::time::Duration,
}

impl Connector {
    pub(crate) fn new(target: &Target) -> RedisResult<Self> {
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
        let mut cluster = ClusterClientBuilder::new(nodes.clone())
            .retries(CLUSTER_RETRIES)
            .min_retry_wait(CLUSTER_RETRY_WAIT.0)
            .max_retry_wait(CLUSTER_RETRY_WAIT.1)
            .connection_timeout(target.connect_timeout)
            .response_timeout(target.response_timeout)
            .tcp_settings(tcp);
        if let Some(certificates) = certificates {
            cluster = cluster.certs(certificates);
        }
        Ok(Self {
            is_cluster: clients.len() > 1,
            clients,
            cluster: cluster.build()?,
            config: AsyncConnectionConfig::new()
                .set_connection_timeout(Some(target.connect_timeout))
                .set_response_timeout(Some(target.response_timeout)),
            limit: target.connect_timeout,
        })
    }

    /// A new connection. Whether a single node is a cluster's is asked each time: a server may be
    /// replaced by a cluster.
    pub(crate) async fn connect(&self) -> RedisResult<Connection> {
        if self.is_cluster {
            return self.connect_cluster().await;
        }
        let connect = async {
            let mut single = self.clients[0]
                .get_multiplexed_async_connection_with_config(&self.config)
                .await?;
            let info = single.req_packed_command(&info_server()).await?;
            RedisResult::Ok((single, info.extract_error()?))
        };
        let (single, info) = timeout(self.limit, connect).await.map_err(too_slow)??;
        if info_field(&info, "mode").is_some_and(|mode| mode == "cluster") {
            return self.connect_cluster().await;
        }
        Ok(Connection::Single(single))
    }

    async fn connect_cluster(&self) -> RedisResult<Connection> {
        // Connecting, asking for the slots, and connecting to the nodes in those.
        let limit = self.limit * 2;
        let connect = self.cluster.get_async_connection();
        let cluster = timeout(limit, connect).await.map_err(too_slow)??;
        Ok(Connection::Cluster(cluster))
    }

    /// A subscription to `channel`, at the node of that number, which may be any. A cluster's
    /// nodes tell each other what is published.
    pub(crate) async fn subscribe(&self, node: usize, channel: &str) -> RedisResult<PubSub> {
        let client = &self.clients[node % self.clients.len()];
        let subscribe = async {
            let mut subscription = client.get_async_pubsub().await?;
            subscription.subscribe(channel).await?;
            Ok(subscription)
        };
        timeout(self.limit, subscribe).await.map_err(too_slow)?
    }
}

fn too_slow(_: tokio::time::error::Elapsed) -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "it took too long").into()
}

/// `INFO server`.
pub(crate) fn info_server() -> Cmd {
    let mut command = redis::cmd("INFO");
    command.arg("server");
    command
}

/// A field of `INFO server`. `mode` is `redis_mode` in Redis and Valkey 7.2, and `server_mode` in
/// Valkey 8.0 and newer.
pub(crate) fn info_field<'a>(info: &'a Value, field: &str) -> Option<&'a str> {
    let text = match info {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => text,
        _ => return None,
    };
    let named = |name: &str| match field {
        "mode" => name == "redis_mode" || name == "server_mode",
        _ => name == field,
    };
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| named(name))
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_known_in_redis_and_in_valkey() {
        let info = |text: &str| Value::BulkString(text.into());
        let redis = info("# Server\r\nredis_version:7.0.15\r\nredis_mode:cluster\r\nrun_id:ab\r\n");
        let valkey =
            info("# Server\r\nvalkey_version:8.1.8\r\nserver_mode:cluster\r\nrun_id:cd\r\n");
        assert_eq!(info_field(&redis, "mode"), Some("cluster"));
        assert_eq!(info_field(&redis, "run_id"), Some("ab"));
        assert_eq!(info_field(&valkey, "mode"), Some("cluster"));
        assert_eq!(info_field(&valkey, "run_id"), Some("cd"));
        assert_eq!(info_field(&Value::Nil, "mode"), None);
    }
}
