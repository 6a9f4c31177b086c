//! Watches bob and says that alice is at lunch.

use online_status_client::{Client, Mode, TokenError};

/// Where your program gets the user's token from.
async fn my_token() -> Result<String, TokenError> {
    let token = std::env::var("TOKEN");
    token.map_err(|_| TokenError::not_allowed("TOKEN is not set: put a JWT into it"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let presence = Client::builder()
        .route("http://127.0.0.1:8080")
        .token(my_token)
        .connect()?;
    presence.set_mode(Mode::Busy);
    presence.set_text("lunch").await?;
    let mut users = presence.watch(["bob"])?;
    while let Some(change) = users.next().await {
        println!("{} is {:?}", change.user, change.status);
    }
    Ok(())
}
