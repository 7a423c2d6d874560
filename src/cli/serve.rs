//! `oxling serve`: the server, by llama-server's flags.

#![forbid(unsafe_code)]

mod args;
mod loader;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use oxling::chat::ChatTemplate;
use oxling::server::http::{Keys, Limits, Server, ServerConfig, TemplateChoice, serve};

pub use args::ServeArgs;
use loader::Failure;

use super::errors::hinted;
use super::interrupt::Interrupt;
use super::model_args::read_text;
use super::values::chosen;

/// Threads for HTTP if nobody says how many.
const HTTP_THREADS: usize = 2;
/// Threads that convert requests: templates, grammars, tokenising. Each may keep memory of its own.
const CONVERTERS: usize = 8;

/// Runs the command.
pub fn run(args: &ServeArgs) -> Result<ExitCode> {
    oxling::ggml::give_memory_back();
    // What can be wrong with the flags is said before a large model is loaded.
    let keys = keys(args)?;
    let has_keys = !keys.is_empty();
    loader::check_slots(args)?;
    let template = template(args)?;
    let kwargs = args.template.kwargs()?;
    if let Some(folder) = &args.server.slot_save_path {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(chosen(args.server.threads_http).unwrap_or(HTTP_THREADS))
        .max_blocking_threads(CONVERTERS)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(async {
        let server = Server::bind(&args.server.host, args.server.port).await?;
        let config = ServerConfig {
            keys,
            cache_shared: args.server.cache_shared,
            origins: args.server.cors_origins.clone(),
            limits: limits(args),
            ping: Duration::from_secs(u64::try_from(args.server.sse_ping_interval).unwrap_or(0)),
            prefix: prefix(&args.server.api_prefix),
            slots: !args.server.no_slots,
            metrics: args.server.metrics,
            props: args.server.props,
            page: !args.server.no_ui,
            slot_folder: args.server.slot_save_path.clone(),
            n_predict: u32::try_from(args.server.predict).ok(),
            template,
            template_kwargs: kwargs,
            thinking: args.template.thinking(),
            split_thoughts: args.template.split_thoughts(),
            prefill_assistant: !args.chat.no_prefill_assistant,
        };
        args.model.say_demo();
        say_where(args, &server, has_keys);
        let interrupt = Interrupt::listen()?;
        // While this lives, the first signal is an orderly end and the second leaves at once.
        let busy = interrupt.busy();
        let failure = Failure::default();
        let engine = loader::spawn(args, &failure);
        let served = serve(server, config, engine, busy.stopped()).await;
        // What the engine's thread met says more than the server knows.
        if let Some(error) = failure.take() {
            return Err(error);
        }
        served?;
        Ok(ExitCode::SUCCESS)
    })
}

fn say_where(args: &ServeArgs, server: &Server, has_keys: bool) {
    let prefix = prefix(&args.server.api_prefix);
    for address in server.addresses() {
        anstream::eprintln!("listening on http://{address}{prefix}");
    }
    if server.addresses().is_empty() {
        anstream::eprintln!("listening on {}", args.server.host.join(","));
    }
    let open = server.addresses().iter().any(|a| !a.ip().is_loopback());
    if open && !has_keys {
        tracing::warn!("everybody who reaches this address can use the server: set --api-key");
    }
}

fn keys(args: &ServeArgs) -> Result<Keys> {
    let file = match &args.server.api_key_file {
        Some(path) => read_text(path)?,
        None => String::new(),
    };
    let lines = file.lines().map(str::trim);
    let from_file = lines.filter(|line| !line.starts_with('#'));
    let given = args.server.api_key.iter().map(|key| key.expose());
    let keys = Keys::new(given.chain(from_file));
    // An empty variable must not open the server to everybody.
    if keys.is_empty() && args.server.api_key_file.is_some() {
        let hint = "write one key in a line; lines that start with # are notes";
        return Err(hinted("--api-key-file holds no key", hint));
    }
    if keys.is_empty() && !args.server.api_key.is_empty() {
        let hint = "give a key that is not empty; to serve without keys, leave out --api-key and LLAMA_API_KEY";
        return Err(hinted("--api-key: there is no key in it", hint));
    }
    Ok(keys)
}

/// The chat template, which is checked before a model is loaded.
fn template(args: &ServeArgs) -> Result<TemplateChoice> {
    let choice = args.template.choice()?;
    match &choice {
        TemplateChoice::Model => {}
        TemplateChoice::Builtin(name) => drop(ChatTemplate::builtin(name, "", "")?),
        TemplateChoice::Source(source) => drop(ChatTemplate::new(source, "", "")?),
    }
    Ok(choice)
}

fn limits(args: &ServeArgs) -> Limits {
    Limits {
        body: args.server.max_body_mib.saturating_mul(1 << 20),
        body_time: Duration::from_secs(args.server.timeout),
        idle: Duration::from_secs(args.server.timeout_idle),
        connections: args.server.max_connections,
        shutdown: Duration::from_secs(args.server.shutdown_timeout),
    }
}

/// One slash before it and none behind.
fn prefix(given: &str) -> String {
    match given.trim_matches('/') {
        "" => String::new(),
        inner => format!("/{inner}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_have_one_slash() {
        for (given, expected) in [("", ""), ("/", ""), ("llm", "/llm"), ("/a/b/", "/a/b")] {
            assert_eq!(prefix(given), expected);
        }
    }
}
