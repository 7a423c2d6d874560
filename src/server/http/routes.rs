//! The table of endpoints: the router and `docs/openapi.json` are both made from it.

use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post};

use super::state::App;
use super::{assets, chat, completions, cors, embeddings, gate, slots, status, text};
use crate::server::api::{ApiError, ErrorKind};

/// What an endpoint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Whether the model is loaded.
    Health,
    /// The models: there is one.
    Models,
    /// One model by its name.
    Model,
    /// Settings of the server.
    Props,
    /// Changes nothing.
    SetProps,
    /// The slots.
    Slots,
    /// Saves, restores or erases a slot.
    SlotAction,
    /// Counters.
    Metrics,
    /// Text to tokens.
    Tokenize,
    /// Tokens to text.
    Detokenize,
    /// Messages to a prompt.
    ApplyTemplate,
    /// llama-server's completion.
    Completion,
    /// OpenAI's completion.
    Completions,
    /// OpenAI's chat completion.
    Chat,
    /// Tokens of a chat.
    ChatTokens,
    /// OpenAI's response.
    Responses,
    /// Tokens of a response's input.
    ResponsesTokens,
    /// Anthropic's message.
    Messages,
    /// Tokens of a message's input.
    CountTokens,
    /// OpenAI's embeddings.
    Embeddings,
    /// llama-server's embeddings.
    Embedding,
}

/// An endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// What it does.
    pub operation: Operation,
    /// Whether it is a POST; otherwise a GET.
    pub post: bool,
    /// Its paths, the usual one first.
    pub paths: &'static [&'static str],
    /// What it does, in words.
    pub summary: &'static str,
}

const fn get_route(
    operation: Operation,
    paths: &'static [&'static str],
    summary: &'static str,
) -> Route {
    Route {
        operation,
        post: false,
        paths,
        summary,
    }
}

const fn post_route(
    operation: Operation,
    paths: &'static [&'static str],
    summary: &'static str,
) -> Route {
    Route {
        operation,
        post: true,
        paths,
        summary,
    }
}

/// All endpoints.
pub const ROUTES: &[Route] = &[
    get_route(
        Operation::Health,
        &["/health", "/v1/health"],
        "Whether the model is loaded; needs no key",
    ),
    get_route(
        Operation::Models,
        &["/v1/models", "/models"],
        "The model that is served",
    ),
    get_route(
        Operation::Model,
        &["/v1/models/{id}"],
        "The model of this name",
    ),
    get_route(
        Operation::Props,
        &["/props"],
        "Settings of the server and defaults of requests",
    ),
    post_route(
        Operation::SetProps,
        &["/props"],
        "Accepted with --props, changes nothing",
    ),
    get_route(
        Operation::Slots,
        &["/slots"],
        "What each slot does; `fail_on_no_slot=1` makes it 503 when all are busy",
    ),
    post_route(
        Operation::SlotAction,
        &["/slots/{id}"],
        "Saves, restores or erases a slot, by `action`",
    ),
    get_route(
        Operation::Metrics,
        &["/metrics"],
        "Counters for Prometheus; needs --metrics",
    ),
    post_route(Operation::Tokenize, &["/tokenize"], "Text to tokens"),
    post_route(Operation::Detokenize, &["/detokenize"], "Tokens to text"),
    post_route(
        Operation::ApplyTemplate,
        &["/apply-template"],
        "The prompt that the chat template makes of messages",
    ),
    post_route(
        Operation::Completion,
        &["/completion", "/completions"],
        "Continues a prompt, llama-server's form",
    ),
    post_route(
        Operation::Completions,
        &["/v1/completions"],
        "Continues a prompt, OpenAI's form",
    ),
    post_route(
        Operation::Chat,
        &["/v1/chat/completions", "/chat/completions"],
        "Answers a conversation, OpenAI's form",
    ),
    post_route(
        Operation::ChatTokens,
        &[
            "/v1/chat/completions/input_tokens",
            "/chat/completions/input_tokens",
        ],
        "Tokens of a conversation",
    ),
    post_route(
        Operation::Responses,
        &["/v1/responses", "/responses"],
        "Answers a conversation, OpenAI's Responses form",
    ),
    post_route(
        Operation::ResponsesTokens,
        &["/v1/responses/input_tokens", "/responses/input_tokens"],
        "Tokens of a Responses request",
    ),
    post_route(
        Operation::Messages,
        &["/v1/messages"],
        "Answers a conversation, Anthropic's form",
    ),
    post_route(
        Operation::CountTokens,
        &["/v1/messages/count_tokens"],
        "Tokens of an Anthropic conversation",
    ),
    post_route(
        Operation::Embeddings,
        &["/v1/embeddings"],
        "Embeddings of texts, OpenAI's form",
    ),
    post_route(
        Operation::Embedding,
        &["/embedding", "/embeddings"],
        "Embeddings of texts, llama-server's form",
    ),
];

fn handler(operation: Operation) -> MethodRouter<Arc<App>> {
    match operation {
        Operation::Health => get(status::health),
        Operation::Models => get(status::models),
        Operation::Model => get(status::model),
        Operation::Props => get(status::props),
        Operation::SetProps => post(status::set_props),
        Operation::Slots => get(slots::list),
        Operation::SlotAction => post(slots::act),
        Operation::Metrics => get(status::metrics),
        Operation::Tokenize => post(text::tokenize),
        Operation::Detokenize => post(text::detokenize),
        Operation::ApplyTemplate => post(text::apply_template),
        Operation::Completion => post(completions::native),
        Operation::Completions => post(completions::openai),
        Operation::Chat => post(chat::completions),
        Operation::ChatTokens => post(chat::input_tokens),
        Operation::Responses => post(chat::responses),
        Operation::ResponsesTokens => post(chat::responses_tokens),
        Operation::Messages => post(chat::messages),
        Operation::CountTokens => post(chat::count_tokens),
        Operation::Embeddings => post(embeddings::openai),
        Operation::Embedding => post(embeddings::native),
    }
}

/// Whether a path is open without a key: its health, and the page, which holds nothing.
pub fn is_public(method: &Method, path: &str) -> bool {
    let health = ROUTES[0].paths.contains(&path);
    let api = ROUTES.iter().any(|route| {
        let mut paths = route.paths.iter().filter_map(|p| p.split('{').next());
        paths.any(|p| {
            path == p
                || path
                    .strip_prefix(p)
                    .is_some_and(|rest| p.ends_with('/') || rest.starts_with('/'))
        })
    });
    let reads = method == Method::GET || method == Method::HEAD;
    // A preflight cannot carry a key, and does nothing.
    method == Method::OPTIONS || (reads && (health || !api))
}

/// The router of an app.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        for path in route.paths {
            router = router.route(path, handler(route.operation));
        }
    }
    let no_method = || async { ApiError::new(ErrorKind::Method, "Method Not Allowed") };
    let mut router = match app.config.prefix.as_str() {
        "" => router,
        prefix => Router::new().nest(prefix, router),
    }
    .fallback(assets::find)
    .method_not_allowed_fallback(no_method);
    if let Some(cors) = cors::layer(&app.config.origins) {
        router = router.layer(cors);
    }
    router
        .layer(from_fn_with_state(Arc::clone(&app), gate::gate))
        .with_state(app)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_and_the_page_are_open() {
        for (method, path, open) in [
            (Method::GET, "/health", true),
            (Method::GET, "/v1/health", true),
            (Method::GET, "/", true),
            (Method::GET, "/page.js", true),
            (Method::OPTIONS, "/v1/chat/completions", true),
            (Method::POST, "/", false),
            (Method::GET, "/v1/models", false),
            (Method::GET, "/v1/models/x", false),
            (Method::GET, "/slots", false),
            (Method::POST, "/slots/0", false),
            (Method::GET, "/props", false),
            (Method::GET, "/metrics", false),
            (Method::POST, "/health", false),
        ] {
            assert_eq!(is_public(&method, path), open, "{method} {path}");
        }
    }
}
