//! Sentinels: who they say is the master of a name. It owns the way to ask them; whether the master
//! that they name can be used is the connector's business.

use redis::{
    Client, ConnectionAddr, ErrorKind, RedisResult, TlsCertificates, TlsMode,
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use tokio::sync::Mutex;

use crate::options::Target;

/// A user and a password, either of which may be missing.
pub(crate) type Credentials = (Option<String>, Option<String>);

/// The Sentinels of one master.
pub(crate) struct Sentinels {
    /// With each of the credentials that they may ask for, the likeliest first.
    clients: Mutex<Vec<SentinelClient>>,
    tcp: TcpSettings,
}

impl Sentinels {
    /// Of the master of that name, which `target` is behind.
    pub(crate) fn new(
        target: &Target,
        name: &str,
        certificates: Option<&TlsCertificates>,
        tcp: &TcpSettings,
    ) -> RedisResult<Self> {
        let client = |credentials: &Credentials| {
            let addresses = target.nodes.iter().map(|node| node.addr().clone());
            let mut builder =
                SentinelClientBuilder::new(addresses, name, SentinelServerType::Master)?
                    .set_client_to_sentinel_tcp_settings(tcp.clone())
                    .set_client_to_redis_tcp_settings(tcp.clone());
            if let ConnectionAddr::TcpTls { .. } = target.nodes[0].addr() {
                builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
                if let Some(certificates) = certificates {
                    builder = builder
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_certificates(certificates.clone());
                }
            }
            let server = target.nodes[0].redis_settings();
            builder = builder.set_client_to_redis_db(server.db());
            if let Some(user) = server.username() {
                builder = builder.set_client_to_redis_username(user);
            }
            if let Some(password) = server.password() {
                builder = builder.set_client_to_redis_password(password);
            }
            if let Some(user) = &credentials.0 {
                builder = builder.set_client_to_sentinel_username(user);
            }
            if let Some(password) = &credentials.1 {
                builder = builder.set_client_to_sentinel_password(password);
            }
            builder.build()
        };
        let clients = target.sentinel_credentials.iter().map(client);
        Ok(Self {
            clients: Mutex::new(clients.collect::<RedisResult<_>>()?),
            tcp: tcp.clone(),
        })
    }

    /// The master as they name it now, which says of itself that it is one.
    pub(crate) async fn master(&self) -> RedisResult<Client> {
        let mut clients = self.clients.lock().await;
        let mut refused = None;
        for at in 0..clients.len() {
            match clients[at].async_get_client().await {
                Ok(client) => {
                    // What they ask for does not change: the next time it is tried first.
                    clients.swap(0, at);
                    drop(clients);
                    let info = client.get_connection_info().clone();
                    let settings = info.redis_settings().clone().set_skip_set_lib_name();
                    let info = info.set_redis_settings(settings);
                    return Client::open(info.set_tcp_settings(self.tcp.clone()));
                }
                Err(error) => {
                    let asks = error.kind() == ErrorKind::AuthenticationFailed
                        || error.code() == Some("NOAUTH");
                    let last = at + 1 == clients.len();
                    refused.get_or_insert(error);
                    if !asks || last {
                        break;
                    }
                }
            }
        }
        Err(refused.expect("there is at least one client"))
    }
}
