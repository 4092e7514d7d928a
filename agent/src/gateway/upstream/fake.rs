//! A small upstream under the control of a test.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mcpm_shared::scope::Scope;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// A request that the upstream got.
#[derive(Clone, Debug)]
pub(in crate::gateway) struct Heard {
    pub(in crate::gateway) method: String,
    pub(in crate::gateway) path: String,
    pub(in crate::gateway) headers: HeaderMap,
    pub(in crate::gateway) body: String,
}

/// What the upstream answers.
#[derive(Debug)]
pub(in crate::gateway) struct Answer(Response<UnsyncBoxBody<Bytes, Infallible>>);

impl Answer {
    pub(in crate::gateway) fn json(status: u16, body: &str) -> Self {
        Self::new(status, "application/json", body)
    }

    pub(in crate::gateway) fn events(body: &str) -> Self {
        Self::new(200, "text/event-stream", body)
    }

    /// An event stream that lives for as long as its sender; the sender knows when it was closed.
    pub(in crate::gateway) fn stream() -> (Self, mpsc::Sender<String>) {
        let (sender, queue) = mpsc::channel(16);
        let frames =
            futures_util::stream::unfold(queue, async |mut queue: mpsc::Receiver<String>| {
                let text = queue.recv().await?;
                Some((Ok(Frame::data(Bytes::from(text))), queue))
            });
        let body = StreamBody::new(frames).boxed_unsync();
        let response = Response::builder().header("content-type", "text/event-stream");
        (Self(response.body(body).unwrap()), sender)
    }

    pub(in crate::gateway) fn empty(status: u16) -> Self {
        Self::new(status, "text/plain", "")
    }

    fn new(status: u16, kind: &str, body: &str) -> Self {
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes())).boxed_unsync();
        let response = Response::builder().status(status).header("content-type", kind);
        Self(response.body(body).unwrap())
    }

    pub(in crate::gateway) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.0.headers_mut().insert(name, value.parse().unwrap());
        self
    }
}

pub(in crate::gateway) struct Upstream {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    count: watch::Receiver<usize>,
    scope: Scope,
}

impl Upstream {
    pub(in crate::gateway) async fn start(
        answer: impl Fn(&Heard) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (scope, heard) = (Scope::new(), Arc::new(Mutex::new(Vec::new())));
        let (counter, count) = watch::channel(0);
        let (answer, tasks, log) = (Arc::new(answer), scope.clone(), heard.clone());
        scope.spawn_until_cancelled(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log, counter) = (answer.clone(), log.clone(), counter.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (answer, log, counter) = (answer.clone(), log.clone(), counter.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let heard = Heard {
                            method: head.method.to_string(),
                            path: head.uri.to_string(),
                            headers: head.headers,
                            body: String::from_utf8(body.to_vec()).unwrap(),
                        };
                        let answer = answer(&heard).0;
                        log.lock().unwrap().push(heard);
                        counter.send_modify(|count| *count += 1);
                        Ok::<_, Infallible>(answer)
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                let connection = http.serve_connection(TokioIo::new(stream), service);
                tasks.spawn_until_cancelled(async move { drop(connection.await) });
            }
        });
        Self { address, heard, count, scope }
    }

    pub(in crate::gateway) fn url(&self) -> String {
        self.at("/mcp")
    }

    pub(in crate::gateway) fn at(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(in crate::gateway) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until a request came of which something is so; returns the first one.
    pub(in crate::gateway) async fn until(&self, so: impl Fn(&Heard) -> bool) -> Heard {
        let mut count = self.count.clone();
        let wait = count.wait_for(|_| self.heard.lock().unwrap().iter().any(&so));
        drop(tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it never came"));
        self.heard().into_iter().find(so).unwrap()
    }

    pub(in crate::gateway) async fn stop(self) {
        assert_eq!(self.scope.drain(Duration::from_secs(5)).await, 0);
    }
}
