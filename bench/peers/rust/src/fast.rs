//! fastwebsockets on hyper and tokio: one thread, two tasks a connection.

mod topics;

use std::{cell::RefCell, rc::Rc};

use bytes::Bytes;
use fastwebsockets::{FragmentCollectorRead, Frame, OpCode, Payload, upgrade};
use http_body_util::Empty;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::mpsc};
use topics::{Said, Topics};

type Shared = Rc<RefCell<Topics<mpsc::UnboundedSender<Rc<[u8]>>>>>;

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
                let topics = topics.clone();
                tokio::task::spawn_local(async move {
                    let service = service_fn(move |request| answer(request, client, topics.clone()));
                    let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
                    let _ = connection.with_upgrades().await;
                });
            }
            Ok(())
        })
        .await
}

async fn answer(
    mut request: Request<Incoming>,
    client: usize,
    topics: Shared,
) -> Result<Response<Empty<Bytes>>, fastwebsockets::WebSocketError> {
    let (response, socket) = upgrade::upgrade(&mut request)?;
    tokio::task::spawn_local(async move {
        let _ = serve(socket, client, topics).await;
    });
    Ok(response)
}

async fn serve(
    socket: upgrade::UpgradeFut,
    client: usize,
    topics: Shared,
) -> Result<(), fastwebsockets::WebSocketError> {
    let (input, mut out) = socket.await?.split(tokio::io::split);
    let mut input = FragmentCollectorRead::new(input);
    let (sender, mut queue) = mpsc::unbounded_channel::<Rc<[u8]>>();
    tokio::task::spawn_local(async move {
        while let Some(text) = queue.recv().await {
            let frame = Frame::text(Payload::Borrowed(&text));
            if out.write_frame(frame).await.is_err() {
                return;
            }
        }
    });
    let mut mine = Vec::new();
    loop {
        let mut no_answer = |_: Frame<'_>| async { Ok::<_, std::io::Error>(()) };
        let Ok(frame) = input.read_frame(&mut no_answer).await else { break };
        if frame.opcode == OpCode::Close {
            break;
        }
        let Ok(text) = std::str::from_utf8(&frame.payload) else { break };
        match topics::read(text) {
            Said::Subscribe(all) => {
                for topic in all {
                    topics.borrow_mut().subscribe(topic, client, sender.clone());
                    mine.push(topic.to_owned());
                }
                let _ = sender.send(Rc::from(&b"ok"[..]));
            }
            Said::Publish(topic, text) => {
                let text: Rc<[u8]> = text.as_bytes().into();
                for (_, to) in topics.borrow().of(topic) {
                    let _ = to.send(text.clone());
                }
            }
            Said::Echo(text) => drop(sender.send(text.as_bytes().into())),
        }
    }
    topics.borrow_mut().leave(&mine, client);
    Ok(())
}
