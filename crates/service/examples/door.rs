//! A listener by itself, to be tried with slow clients: `cargo run -p umbel-service --example door -- 127.0.0.1:8080`, then
//! `slowhttptest -X -c 500 -r 200 -w 512 -y 1024 -n 5 -z 32 -k 3 -l 120 -u http://127.0.0.1:8080/`. `/` is a mebibyte; what is
//! posted is read to its end.

use axum::{Router, body::Body};
use bytes::Bytes;
use http::Request;
use tokio_util::sync::CancellationToken;
use umbel_service::listen::{Limits, Listener};

async fn answer(request: Request<Body>) -> Body {
    match axum::body::to_bytes(request.into_body(), 1 << 20).await {
        Ok(_) => Body::from(Bytes::from_static(&[b'x'; 1 << 20])),
        Err(_) => Body::from("incomplete"),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into()).parse()?;
    let listener = Listener::bind(address, None, Limits::default()).await?;
    listener.serve(Router::new().fallback(answer), CancellationToken::new()).await;
    Ok(())
}
