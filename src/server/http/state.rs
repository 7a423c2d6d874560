//! What all handlers share.

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Bytes;
use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use super::config::ServerConfig;
use super::model::Loaded;
use crate::server::api::request::fields::parse_body;
use crate::server::api::{ApiError, ErrorKind};
use crate::server::protocol::{EngineState, Scope};
use crate::server::worker::EngineHandle;

/// The server as handlers see it.
#[derive(Debug)]
pub struct App {
    /// Its settings.
    pub config: ServerConfig,
    /// The engine thread.
    pub engine: EngineHandle,
    /// Whether it is open, but only to this machine.
    pub guarded: bool,
    /// When it began.
    pub started: SystemTime,
    loaded: OnceCell<Arc<Loaded>>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its name in log lines and in the `x-request-id` header.
    pub id: Arc<str>,
    /// Whose prefixes it may use.
    pub scope: Scope,
}

impl App {
    /// A server whose model may still be loading. `loopback`: nobody but this machine reaches it.
    pub fn new(config: ServerConfig, engine: EngineHandle, loopback: bool) -> Self {
        Self {
            guarded: loopback && config.keys.is_empty(),
            config,
            engine,
            started: SystemTime::now(),
            loaded: OnceCell::new(),
        }
    }

    /// The model and what is made of it. Tables of large vocabularies take a while, once.
    ///
    /// # Errors
    /// It is not loaded.
    pub async fn loaded(&self) -> Result<Arc<Loaded>, ApiError> {
        let unavailable = |why: &str| Err(ApiError::new(ErrorKind::Unavailable, why));
        let info = match (self.engine.state(), self.engine.info()) {
            (EngineState::Ready, Some(info)) => info,
            (EngineState::Failed(why), _) => return unavailable(&why),
            (EngineState::Stopped, _) => return unavailable("the server has stopped"),
            (EngineState::Loading(now), _) => return Err(ApiError::loading(now)),
            (EngineState::Ready, None) => return unavailable("Loading model"),
        };
        let make = || async {
            let config = self.config.clone();
            aside(move || Arc::new(Loaded::new(info, &config))).await
        };
        self.loaded.get_or_try_init(make).await.cloned()
    }

    /// Reads a body and converts it, off the async threads: bodies can be large, and templates and grammars slow.
    ///
    /// # Errors
    /// The body is no JSON object, or the conversion's error.
    pub async fn convert<T: Send + 'static>(
        &self,
        body: Bytes,
        convert: impl FnOnce(&Loaded, &Map<String, Value>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let loaded = self.loaded().await?;
        let work = move || {
            let body = parse_body(&body)?;
            convert(&loaded, &body)
        };
        aside(work).await?
    }
}

/// Runs something slow off the async threads.
///
/// # Errors
/// It panicked.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| {
        let panic = e.try_into_panic();
        let words = panic.map(|panic| super::panics::words(&*panic).to_owned());
        tracing::error!("panic beside a request: {}", words.unwrap_or_default());
        ApiError::internal()
    })
}
