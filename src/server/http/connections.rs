//! Connections: how many there may be, how long a client may take for the head of a request or leave its answer untaken,
//! and their end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::config::Limits;
use super::patience::Patient;

/// What a client hears for whom there is no place.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
    content-length: 0\r\n\r\n";
/// Most time to tell it. A fresh socket takes so few bytes at once.
const FULL_PATIENCE: Duration = Duration::from_millis(100);

/// Where clients come in. Clones share the places.
#[derive(Clone)]
pub(super) struct Door {
    router: Router,
    places: Arc<Semaphore>,
    /// Most time for the head of a request, between two requests, and for the client to take a part of an answer.
    idle: Duration,
}

impl Door {
    pub fn new(router: Router, limits: &Limits) -> Self {
        let most = limits.connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            router,
            places: Arc::new(Semaphore::new(most)),
            idle: limits.idle,
        }
    }

    /// Takes connections until it is told to stop; then those that are open finish what they do.
    pub async fn open(self, mut listener: impl Listener, stopped: watch::Receiver<bool>) {
        let mut open = JoinSet::new();
        loop {
            let (io, _) = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = open.join_next() => continue,
                () = until(stopped.clone()) => break,
            };
            match Arc::clone(&self.places).try_acquire_owned() {
                Ok(place) => drop(open.spawn(self.clone().talk(io, place, stopped.clone()))),
                Err(_) => refuse(io).await,
            }
        }
        drop(listener);
        while open.join_next().await.is_some() {}
    }

    async fn talk<I>(self, io: I, place: OwnedSemaphorePermit, stopped: watch::Receiver<bool>)
    where
        I: tokio::io::AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut http = Builder::new(TokioExecutor::new()).http1_only();
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.idle);
        let service = TowerToHyperService::new(self.router);
        let io = TokioIo::new(Patient::new(io, self.idle));
        let mut connection = pin!(http.serve_connection(io, service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = until(stopped) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(e) = ended {
            tracing::debug!("a connection ended: {e}");
        }
        drop(place);
    }
}

async fn refuse(mut io: impl AsyncWrite + Unpin) {
    tracing::warn!("all connections are taken: one is refused");
    let told = async {
        io.write_all(FULL).await?;
        io.shutdown().await
    };
    // Whoever does not listen is no loss.
    let _ = tokio::time::timeout(FULL_PATIENCE, told).await;
}

/// Comes when the end is near.
pub(super) async fn until(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone is an end as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
