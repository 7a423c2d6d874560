//! Slots: what they do, and their files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::gate::Whole;
use super::keys::SHARED;
use super::reply::ok;
use super::state::{App, Caller};
use super::status::Answered;
use crate::server::api::request::Fields;
use crate::server::api::request::fields::parse_body;
use crate::server::api::{ApiError, ErrorKind};
use crate::server::protocol::{Command, RequestError, Scope, SlotAction, SlotCommand, SlotView};

/// Longest name of a slot file.
const NAME_BYTES: usize = 200;

/// Query of `/slots`.
#[derive(Debug, Deserialize)]
pub struct ListQuery {
    fail_on_no_slot: Option<String>,
}

/// Query of `/slots/{id}`.
#[derive(Debug, Deserialize)]
pub struct ActQuery {
    action: Option<String>,
}

/// `/slots`.
pub async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ListQuery>,
) -> Answered {
    if !app.config.slots {
        return Err(ApiError::not_supported(
            "This server does not support slots endpoint: start it without --no-slots",
        ));
    }
    app.loaded().await?;
    let slots = app.engine.slots();
    let asked = query.fail_on_no_slot.is_some_and(|value| value != "0");
    if asked && slots.iter().all(|slot| slot.request.is_some()) {
        return Err(ApiError::new(ErrorKind::Unavailable, "no slot available"));
    }
    let shown = slots.iter().map(|slot| view(slot, caller.scope));
    Ok(ok(&shown.collect::<Vec<_>>().into()))
}

/// One slot; names of requests are shown to their owners only.
fn view(slot: &SlotView, scope: Scope) -> Value {
    let own = slot.scope == Some(scope);
    json!({
        "id": slot.id,
        "n_ctx": slot.n_ctx,
        "is_processing": slot.request.is_some(),
        "id_task": slot.request.as_deref().filter(|_| own),
        "n_past": slot.n_past,
        "n_prompt_tokens": slot.n_prompt,
        "n_prompt_tokens_processed": slot.n_prompt_done,
        "next_token": [{
            "has_next_token": slot.request.is_some(),
            "n_decoded": slot.n_decoded,
        }],
    })
}

/// `/slots/{id}?action=`.
pub async fn act(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(query): Query<ActQuery>,
    Whole(body): Whole,
) -> Answered {
    let loaded = app.loaded().await?;
    let slot = id
        .parse::<u32>()
        .ok()
        .filter(|&id| id < loaded.info.n_slots);
    let Some(slot) = slot else {
        let reason = format!("no slot '{}'", id.escape_debug());
        return Err(ApiError::invalid(reason));
    };
    let wanted = query.action.unwrap_or_default();
    let mut name = String::new();
    let action = match wanted.as_str() {
        "erase" => SlotAction::Erase,
        "save" | "restore" => {
            let body = parse_body(&body)?;
            let given = Fields::new(&body).str("filename")?.unwrap_or_default();
            check_name(given)?;
            given.clone_into(&mut name);
            let path = folder(&app, caller.scope).await?.join(given);
            match wanted.as_str() {
                "save" => SlotAction::Save(path),
                _ => SlotAction::Restore(path),
            }
        }
        _ => {
            let reason = "expected action=save, action=restore or action=erase";
            return Err(ApiError::invalid(reason));
        }
    };
    let (reply, answer) = oneshot::channel();
    app.engine.submit(Command::Slot(SlotCommand {
        slot,
        scope: caller.scope,
        action: action.clone(),
        reply,
    }))?;
    let gone = |_| ApiError::from(RequestError::Internal("the engine has ended".to_owned()));
    let report = answer.await.map_err(gone)??;
    let ms = |time: Duration| json!(time.as_secs_f64() * 1e3);
    Ok(ok(&match action {
        SlotAction::Erase => json!({ "id_slot": slot, "n_erased": report.n_tokens }),
        SlotAction::Save(_) => json!({
            "id_slot": slot, "filename": name, "n_saved": report.n_tokens,
            "n_written": report.n_bytes, "timings": { "save_ms": ms(report.time) },
        }),
        SlotAction::Restore(_) => json!({
            "id_slot": slot, "filename": name, "n_restored": report.n_tokens,
            "n_read": report.n_bytes, "timings": { "restore_ms": ms(report.time) },
        }),
    }))
}

/// A plain file name, which cannot leave the folder on any system.
fn check_name(name: &str) -> Result<(), ApiError> {
    let bad = |c: char| c.is_control() || "/\\:*?\"<>|".contains(c);
    let wrong = name.is_empty()
        || name.len() > NAME_BYTES
        || name.starts_with(['.', ' ', '~', '-'])
        || name.ends_with(['.', ' '])
        || name.contains(bad);
    match wrong {
        true => Err(ApiError::field("filename", "Invalid filename")),
        false => Ok(()),
    }
}

/// The folder of a scope's files: files of one key are nothing to another.
async fn folder(app: &App, scope: Scope) -> Result<PathBuf, ApiError> {
    let Some(folder) = &app.config.slot_folder else {
        return Err(ApiError::not_supported(
            "This server does not support slots action: start it with --slot-save-path",
        ));
    };
    if scope == SHARED {
        return Ok(folder.clone());
    }
    let name: String = scope
        .0
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let folder = folder.join(name);
    let made = folder.clone();
    let made = tokio::task::spawn_blocking(move || std::fs::create_dir_all(made)).await;
    match made {
        Ok(Ok(())) => Ok(folder),
        _ => {
            tracing::error!("cannot make the folder {}", folder.display());
            Err(ApiError::internal())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_folder() {
        for good in ["a", "chat-1.bin", "\u{e9}t\u{e9} 2.slot", "a..b"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "../a",
            "a/b",
            "/etc/passwd",
            "a\\b",
            "C:x",
            "a\0b",
            "a\nb",
            ".hidden",
            "a.",
            "a ",
            "-rf",
            "~a",
            "a?",
            &"x".repeat(201),
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
