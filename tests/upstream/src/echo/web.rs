//! The server that repeats, over Streamable HTTP.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use futures_util::{StreamExt as _, stream};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{Echo, Plan, QUEUE};

/// Binds 127.0.0.1; returns the URL, and what serves it for as long as the process lives.
///
/// # Errors
/// When the port is taken.
pub(crate) async fn bind(
    port: u16,
    echo: Arc<Echo>,
) -> anyhow::Result<(String, impl Future<Output = anyhow::Result<()>>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.context("bind")?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    // No GET: a server need not have a stream for what belongs to no request.
    let route = post(answer).delete(|| ready(StatusCode::NO_CONTENT));
    let router =
        Router::new().route("/mcp", route).layer(DefaultBodyLimit::disable()).with_state(echo);
    Ok((url, async move { axum::serve(listener, router).await.context("serve") }))
}

async fn answer(State(echo): State<Arc<Echo>>, body: Bytes) -> Response {
    if echo.note(&body).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let text = String::from_utf8_lossy(&body).into_owned();
    let plan = echo.plan(&text);
    let (is_events, opens) = (plan.events, plan.session);
    let (out, mut said) = mpsc::channel(QUEUE);
    if !plan.answers {
        echo.run(plan, &out).await;
        return StatusCode::ACCEPTED.into_response();
    }
    let mut response = if is_events {
        Response::new(events(echo, plan, out, said))
    } else {
        echo.run(plan, &out).await;
        drop(out);
        Response::new(Body::from(said.recv().await.unwrap_or_default()))
    };
    let kind = if is_events { "text/event-stream" } else { "application/json" };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if opens {
        response.headers_mut().insert("mcp-session-id", HeaderValue::from_static("echo"));
    }
    response
}

/// A body that says things while it is read.
fn events(
    echo: Arc<Echo>,
    plan: Plan,
    out: mpsc::Sender<String>,
    said: mpsc::Receiver<String>,
) -> Body {
    let work = stream::once(async move {
        echo.run(plan, &out).await;
        None
    });
    let said = stream::unfold(said, async |mut said| {
        let text = said.recv().await?;
        Some((Some(event(&text)), said))
    });
    // The work says nothing itself; it is polled along with what it says.
    let both = stream::select(Box::pin(work), Box::pin(said));
    Body::from_stream(both.filter_map(ready).map(Ok::<_, Infallible>))
}

/// Returns a message as one event; a raw line break splits the data, and the reader joins it again.
fn event(text: &str) -> String {
    let data = text.replace('\r', "\n").replace('\n', "\ndata: ");
    format!("data: {data}\n\n")
}
