//! uWebSockets with its own topics. What it speaks: ../README.md.

use uwebsockets_rs::{
    app::App, http_response::HttpResponseStruct, listen_socket::ListenSocket,
    us_socket_context_options::UsSocketContextOptions, websocket::Opcode,
    websocket_behavior::{CompressOptions, WebSocketBehavior},
};

fn main() {
    let address = std::env::args().nth(1).expect("an address");
    let port: i32 = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("HOST:PORT");
    let behavior = WebSocketBehavior {
        compression: CompressOptions::Disabled.into(),
        max_payload_length: 64 << 10,
        idle_timeout: 120,
        max_backpressure: 64 << 20,
        close_on_backpressure_limit: false,
        reset_idle_timeout_on_send: false,
        send_pings_automatically: true,
        max_lifetime: 0,
        upgrade: Some(Box::new(HttpResponseStruct::<false>::default_upgrade)),
        open: None,
        message: Some(Box::new(|ws, message, _| {
            let text = std::str::from_utf8(message).unwrap_or_default();
            if let Some(topics) = text.strip_prefix("s ") {
                for topic in topics.split(',') {
                    ws.subscribe(topic.trim_matches('"'));
                }
                ws.send_with_options(b"ok", Opcode::Text, false, true);
                return;
            }
            match text.strip_prefix("p ").and_then(|rest| rest.split_once(' ')) {
                Some((topic, text)) => {
                    ws.publish_with_options(topic, text.as_bytes(), Opcode::Text, false);
                }
                None => {
                    ws.send_with_options(message, Opcode::Text, false, true);
                }
            }
        })),
        ping: None,
        pong: None,
        close: None,
        drain: None,
        subscription: None,
    };
    let none = || None;
    App::new(UsSocketContextOptions {
        key_file_name: none(),
        cert_file_name: none(),
        passphrase: none(),
        dh_params_file_name: none(),
        ca_file_name: none(),
        ssl_ciphers: none(),
        ssl_prefer_low_memory_usage: None,
    })
    .ws("/", behavior)
    .listen(port, None::<fn(ListenSocket)>)
    .run();
}
