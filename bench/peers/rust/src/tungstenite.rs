//! tokio with tokio-tungstenite: one thread, two tasks a connection.

mod topics;

use std::{cell::RefCell, rc::Rc};

use futures_util::{SinkExt, StreamExt};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes, protocol::WebSocketConfig};
use topics::{Said, Topics};

type Shared = Rc<RefCell<Topics<mpsc::UnboundedSender<Utf8Bytes>>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).expect("an address");
    let listener = TcpListener::bind(address).await?;
    println!("listening");
    let topics = Shared::default();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            for client in 0.. {
                let (socket, _) = listener.accept().await?;
                socket.set_nodelay(true)?;
                tokio::task::spawn_local(serve(socket, client, topics.clone()));
            }
            Ok(())
        })
        .await
}

async fn serve(socket: tokio::net::TcpStream, client: usize, topics: Shared) {
    // By default each connection has 128 KiB to read into from the first moment on.
    let config = WebSocketConfig::default().read_buffer_size(4_096);
    let socket = tokio_tungstenite::accept_async_with_config(socket, Some(config));
    let Ok(socket) = socket.await else {
        return;
    };
    let (mut out, mut input) = socket.split();
    let (sender, mut queue) = mpsc::unbounded_channel::<Utf8Bytes>();
    tokio::task::spawn_local(async move {
        while let Some(text) = queue.recv().await {
            if out.feed(Message::Text(text)).await.is_err() {
                return;
            }
            while let Ok(text) = queue.try_recv() {
                if out.feed(Message::Text(text)).await.is_err() {
                    return;
                }
            }
            if out.flush().await.is_err() {
                return;
            }
        }
    });
    let mut mine = Vec::new();
    while let Some(Ok(message)) = input.next().await {
        let Message::Text(text) = message else { continue };
        match topics::read(&text) {
            Said::Subscribe(all) => {
                for topic in all {
                    topics.borrow_mut().subscribe(topic, client, sender.clone());
                    mine.push(topic.to_owned());
                }
                let _ = sender.send("ok".into());
            }
            Said::Publish(topic, text) => {
                let text = Utf8Bytes::from(text);
                for (_, to) in topics.borrow().of(topic) {
                    let _ = to.send(text.clone());
                }
            }
            Said::Echo(_) => drop(sender.send(text)),
        }
    }
    topics.borrow_mut().leave(&mine, client);
}
