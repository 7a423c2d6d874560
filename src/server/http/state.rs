//! What all handlers share.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use axum::body::Bytes;
use serde_json::{Map, Value};

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
    /// When it began.
    pub started: SystemTime,
    loaded: OnceLock<Arc<Loaded>>,
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
    /// A server whose model may still be loading.
    pub fn new(config: ServerConfig, engine: EngineHandle) -> Self {
        Self {
            config,
            engine,
            started: SystemTime::now(),
            loaded: OnceLock::new(),
        }
    }

    /// The model and what is made of it.
    ///
    /// # Errors
    /// It is not loaded.
    pub fn loaded(&self) -> Result<Arc<Loaded>, ApiError> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(Arc::clone(loaded));
        }
        let unavailable = |why: &str| Err(ApiError::new(ErrorKind::Unavailable, why));
        match (self.engine.state(), self.engine.info()) {
            (EngineState::Ready, Some(info)) => {
                let loaded = || Arc::new(Loaded::new(info, &self.config));
                Ok(Arc::clone(self.loaded.get_or_init(loaded)))
            }
            (EngineState::Failed(why), _) => unavailable(&why),
            (EngineState::Stopped, _) => unavailable("the server has stopped"),
            _ => unavailable("Loading model"),
        }
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
        let loaded = self.loaded()?;
        let work = move || {
            let body = parse_body(&body)?;
            convert(&loaded, &body)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(e) => {
                let words = e
                    .try_into_panic()
                    .map(|panic| super::panics::words(&*panic).to_owned());
                tracing::error!("a conversion panicked: {}", words.unwrap_or_default());
                Err(ApiError::internal())
            }
        }
    }
}
