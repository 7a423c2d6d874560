//! ggml's log lines go to `tracing`, never to stderr.

use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, Once};

use ggml_sys as sys;

static ONCE: Once = Once::new();
static PARTIAL: Mutex<String> = Mutex::new(String::new());

/// Sends everything ggml logs to `tracing` (target `ggml`). Call it before any other use of ggml; later calls do nothing.
pub fn route_logs_to_tracing() {
    ONCE.call_once(|| {
        // SAFETY: the callback is a plain function that never unwinds into C and needs no user data.
        unsafe { sys::ggml_log_set(Some(on_log), std::ptr::null_mut()) }
    });
}

/// ggml logs in fragments; a line is handed on when its newline arrives.
unsafe extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: ggml passes a NUL-terminated string that lives for the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let Ok(mut partial) = PARTIAL.lock() else {
        return;
    };
    partial.push_str(&text);
    while let Some(end) = partial.find('\n') {
        let line: String = partial.drain(..=end).collect();
        emit(level, line.trim_end());
    }
}

fn emit(level: sys::ggml_log_level, line: &str) {
    if line.is_empty() {
        return;
    }
    match level {
        sys::GGML_LOG_LEVEL_ERROR => tracing::error!(target: "ggml", "{line}"),
        sys::GGML_LOG_LEVEL_WARN => tracing::warn!(target: "ggml", "{line}"),
        sys::GGML_LOG_LEVEL_INFO => tracing::debug!(target: "ggml", "{line}"),
        _ => tracing::trace!(target: "ggml", "{line}"),
    }
}
