//! Sockets, and the end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::config::ServerConfig;
use super::connections::Door;
use super::routes::router;
use super::state::App;
use crate::server::protocol::{Command, EngineState};
use crate::server::worker::EngineHandle;

/// Why a server ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// The model could not be loaded.
    #[error("{0}")]
    Model(String),
}

impl ServeError {
    /// A way out.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen { error, .. } if error.kind() == io::ErrorKind::AddrInUse => {
                Some("another program uses the port: choose one with --port".to_owned())
            }
            Self::Listen { .. } => Some("check --host and --port".to_owned()),
            _ => None,
        }
    }
}

/// A server that listens but does not answer yet.
#[derive(Debug)]
pub struct Server {
    sockets: Sockets,
}

#[derive(Debug)]
enum Sockets {
    Tcp(Vec<TcpListener>),
    #[cfg(unix)]
    Unix(tokio::net::UnixListener, std::path::PathBuf),
}

impl Server {
    /// Listens on these hosts, or on one socket file (`*.sock`). Port 0 takes a free one.
    ///
    /// # Errors
    /// An address is in use, or is none.
    pub async fn bind(hosts: &[String], port: u16) -> Result<Self, ServeError> {
        #[cfg(unix)]
        if let [path] = hosts
            && path.ends_with(".sock")
        {
            let error = |error| ServeError::Listen {
                address: path.clone(),
                error,
            };
            let listener = tokio::net::UnixListener::bind(path).map_err(error)?;
            return Ok(Self {
                sockets: Sockets::Unix(listener, path.into()),
            });
        }
        let mut all = Vec::new();
        for host in hosts {
            let plain = host.trim_start_matches('[').trim_end_matches(']');
            let bound = TcpListener::bind((plain, port)).await;
            all.push(bound.map_err(|error| ServeError::Listen {
                address: format!("{host}:{port}"),
                error,
            })?);
        }
        Ok(Self {
            sockets: Sockets::Tcp(all),
        })
    }

    /// Addresses that are listened on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match &self.sockets {
            Sockets::Tcp(all) => all.iter().filter_map(|l| l.local_addr().ok()).collect(),
            #[cfg(unix)]
            Sockets::Unix(..) => Vec::new(),
        }
    }
}

/// Answers until `end` comes, then lets running requests finish for a while and ends the engine.
///
/// # Errors
/// A socket fails, or the model cannot be loaded.
pub async fn serve(
    server: Server,
    config: ServerConfig,
    engine: EngineHandle,
    end: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let patience = config.limits.shutdown;
    let addresses = server.addresses();
    let loopback = !addresses.is_empty() && addresses.iter().all(|a| a.ip().is_loopback());
    let app = Arc::new(App::new(config, engine.clone(), loopback));
    let prepared = tokio::spawn(prepare(Arc::clone(&app)));
    let door = Door::new(router(app.clone()), &app.config.limits);
    let (stop, stopped) = watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    match server.sockets {
        Sockets::Tcp(all) => {
            for listener in all {
                // A token is a small packet, and must not wait for the next one.
                let listener = listener.tap_io(|io| drop(io.set_nodelay(true)));
                tasks.spawn(door.clone().open(listener, stopped.clone()));
            }
        }
        #[cfg(unix)]
        Sockets::Unix(listener, path) => {
            let stopped = stopped.clone();
            tasks.spawn(async move {
                door.open(listener, stopped).await;
                // A file that is gone already is as good.
                let _ = std::fs::remove_file(path);
            });
        }
    }
    let outcome = tokio::select! {
        () = end => Ok(()),
        failed = failure(&engine) => Err(ServeError::Model(failed)),
        Some(_) = tasks.join_next() => Ok(()),
    };
    tracing::info!(
        "shutting down: running requests have {} s",
        patience.as_secs()
    );
    prepared.abort();
    // Nobody may be listening any more.
    let _ = stop.send(true);
    let _ = engine.submit(Command::Shutdown);
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(patience, all).await.is_err() {
        tracing::warn!("some requests did not finish in time and are cut off");
    }
    outcome
}

/// Makes what the first request would wait for, as soon as the model is there.
async fn prepare(app: Arc<App>) {
    let mut states = app.engine.watch();
    let ready = states.wait_for(|state| matches!(state, EngineState::Ready));
    if ready.await.is_ok() && app.loaded().await.is_ok() {
        tracing::info!("ready");
    }
}

/// Comes if the model cannot be loaded.
async fn failure(engine: &EngineHandle) -> String {
    let mut states = engine.watch();
    loop {
        if let EngineState::Failed(why) = &*states.borrow_and_update() {
            return why.clone();
        }
        if states.changed().await.is_err() {
            // A worker without a view any more cannot fail.
            tokio::time::sleep(Duration::MAX).await;
        }
    }
}
