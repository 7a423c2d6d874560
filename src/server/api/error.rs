//! Errors as clients see them.

use serde_json::{Value, json};

use crate::chat::TemplateError;
use crate::engine::sampling::SamplingError;
use crate::server::protocol::{Loading, RequestError};

/// What kind of error it is: a status code and a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request cannot be served as it is.
    Invalid,
    /// No key, or a wrong one.
    Authentication,
    /// The key may not do this.
    Permission,
    /// No such path, file or slot.
    NotFound,
    /// The path does not know this method.
    Method,
    /// The body did not arrive in time.
    Timeout,
    /// The body is too large.
    TooLarge,
    /// More tokens than the context holds.
    ContextSize,
    /// Too many requests wait.
    Busy,
    /// A defect or a failed computation.
    Server,
    /// Switched off, or not built.
    NotSupported,
    /// The model is being loaded, or the server ends.
    Unavailable,
}

impl ErrorKind {
    /// Status code of HTTP.
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid | Self::ContextSize => 400,
            Self::Authentication => 401,
            Self::Permission => 403,
            Self::NotFound => 404,
            Self::Method => 405,
            Self::Timeout => 408,
            Self::TooLarge => 413,
            Self::Busy => 429,
            Self::Server => 500,
            Self::NotSupported => 501,
            Self::Unavailable => 503,
        }
    }

    /// Name in OpenAI's and llama-server's error objects.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid | Self::Method | Self::TooLarge => "invalid_request_error",
            Self::ContextSize => "exceed_context_size_error",
            Self::Authentication => "authentication_error",
            Self::Permission => "permission_error",
            Self::NotFound => "not_found_error",
            Self::Timeout => "timeout_error",
            Self::Busy => "rate_limit_error",
            Self::Server => "server_error",
            Self::NotSupported => "not_supported_error",
            Self::Unavailable => "unavailable_error",
        }
    }

    /// Name in Anthropic's error objects.
    fn anthropic_name(self) -> &'static str {
        match self {
            Self::Invalid | Self::ContextSize | Self::Method | Self::NotSupported => {
                "invalid_request_error"
            }
            Self::TooLarge => "request_too_large",
            Self::Server => "api_error",
            Self::Unavailable => "overloaded_error",
            other => other.name(),
        }
    }
}

/// An error for a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Its kind.
    pub kind: ErrorKind,
    /// What is wrong, in words.
    pub message: String,
    /// For a prompt that is too long: its tokens and those the context holds.
    pub tokens: Option<(usize, usize)>,
    /// While the model is on its way: how far that is.
    pub loading: Option<Loading>,
}

impl ApiError {
    /// An error of a kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            tokens: None,
            loading: None,
        }
    }

    /// The model is on its way.
    pub fn loading(now: Loading) -> Self {
        Self {
            loading: Some(now.clone()),
            ..Self::new(ErrorKind::Unavailable, now.to_string())
        }
    }

    /// The request cannot be served as it is.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// A field is wrong.
    pub fn field(name: &str, reason: impl std::fmt::Display) -> Self {
        Self::invalid(format!("Field '{name}': {reason}"))
    }

    /// Switched off, or not built.
    pub fn not_supported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotSupported, message)
    }

    /// A defect: the client learns nothing but that it is one.
    pub fn internal() -> Self {
        Self::new(ErrorKind::Server, "internal server error")
    }

    /// Seconds after which trying again makes sense.
    pub fn retry_after(&self) -> Option<u32> {
        match self.kind {
            ErrorKind::Busy => Some(1),
            ErrorKind::Unavailable => Some(2),
            _ => None,
        }
    }

    /// `{"error": {..}}`, as OpenAI and llama-server write it.
    pub fn to_json(&self) -> Value {
        let mut error = json!({
            "code": self.kind.status(),
            "message": self.message,
            "type": self.kind.name(),
        });
        if let Some((n_prompt, n_ctx)) = self.tokens {
            error["n_prompt_tokens"] = n_prompt.into();
            error["n_ctx"] = n_ctx.into();
        }
        if let Some(now) = &self.loading {
            error["progress"] = json!({ "what": &*now.what, "done": now.done, "total": now.total });
        }
        json!({ "error": error })
    }

    /// `{"type": "error", "error": {..}}`, as Anthropic writes it.
    pub fn to_anthropic(&self) -> Value {
        let error = json!({
            "type": self.kind.anthropic_name(),
            "message": self.message,
            "code": self.kind.status(),
        });
        json!({ "type": "error", "error": error })
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let kind = match &error {
            RequestError::PromptTooLong { .. } => ErrorKind::ContextSize,
            RequestError::Invalid(_) => ErrorKind::Invalid,
            RequestError::QueueFull { .. } => ErrorKind::Busy,
            RequestError::Unavailable(_) => ErrorKind::Unavailable,
            RequestError::NotFound(_) => ErrorKind::NotFound,
            RequestError::Internal(_) => ErrorKind::Server,
        };
        let mut api = Self::new(kind, error.to_string());
        if let RequestError::PromptTooLong { n_prompt, n_ctx } = error {
            api.tokens = Some((n_prompt, n_ctx));
        }
        api
    }
}

impl From<SamplingError> for ApiError {
    fn from(error: SamplingError) -> Self {
        let hint = error.hint().map(|hint| format!(" ({hint})"));
        Self::invalid(format!("{error}{}", hint.unwrap_or_default()))
    }
}

impl From<TemplateError> for ApiError {
    fn from(error: TemplateError) -> Self {
        match error {
            TemplateError::Thread { .. } => Self::new(ErrorKind::Server, error.to_string()),
            _ => Self::invalid(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_shapes_clients_know() {
        let error = ApiError::from(RequestError::PromptTooLong {
            n_prompt: 9,
            n_ctx: 8,
        });
        let json = error.to_json();
        assert_eq!(json["error"]["code"], 400);
        assert_eq!(json["error"]["type"], "exceed_context_size_error");
        assert_eq!(
            (
                json["error"]["n_prompt_tokens"].as_u64(),
                json["error"]["n_ctx"].as_u64()
            ),
            (Some(9), Some(8))
        );
        let anthropic = error.to_anthropic();
        assert_eq!(anthropic["type"], "error");
        assert_eq!(anthropic["error"]["type"], "invalid_request_error");
        let busy = ApiError::from(RequestError::QueueFull { queued: 3 });
        assert_eq!((busy.kind.status(), busy.retry_after()), (429, Some(1)));
        assert_eq!(ApiError::invalid("x").retry_after(), None);
    }
}
