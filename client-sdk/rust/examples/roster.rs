//! A roster in the terminal: `cargo run --example roster -- ROUTE TOKEN USER…`, for instance with
//! `online-status-edge standalone` and `online-status-edge token --user alice`.

use std::{env, error::Error};

use online_status_client::{Client, Status};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let (Some(route), Some(token)) = (words.next(), words.next()) else {
        return Err("usage: roster ROUTE TOKEN USER…".into());
    };
    let presence = Client::builder()
        .route(route)
        .token(move || std::future::ready(token.clone()))
        .connect()?;
    let mut states = presence.state();
    tokio::spawn(async move {
        while states.changed().await.is_ok() {
            eprintln!("{:?}", *states.borrow_and_update());
        }
    });
    let mut users = presence.watch(words)?;
    while let Some(record) = users.next().await {
        let dot = match record.status {
            Status::Online => "🟢",
            Status::Away => "🟡",
            Status::Busy => "🔴",
            Status::Offline => "⚪",
        };
        println!("{dot} {} {}", record.user, record.text);
    }
    Ok(())
}
