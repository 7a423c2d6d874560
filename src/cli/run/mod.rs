//! `oxling run`: completes a text, or chats.

#![forbid(unsafe_code)]

mod args;
mod command;
mod conversation;
mod editor;
mod repl;
mod screen;
mod session;
mod settings;
mod stream;
mod turns;

use std::borrow::Cow;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use oxling::chat::ChatTemplate;
use oxling::engine::speculation::Speculation;
use oxling::engine::{Engine, Finish};
use oxling::ggml::Device;
use oxling::model::Model;
use oxling::server::http::TemplateChoice;

use crate::cli::interrupt::{Interrupt, exit_code};
pub use args::RunArgs;
use conversation::Conversation;
use editor::Reader;
use repl::Chat;
use screen::{Screen, note};
use session::{AnswerOptions, Prompt, Session};

use super::devices::list_devices;
use super::errors::hinted;
use super::escapes::unescape;
use super::model_args::{OnOffAuto, read_text};

/// Template for models that have none, when a chat is asked for.
const FALLBACK_TEMPLATE: &str = "chatml";
/// Longest first turn that a chat repeats in full.
const ECHOED_CHARS: usize = 400;

/// Runs the command.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    set_colors(args.output.color);
    if args.output.list_devices {
        list_devices(&args.model.rpc)?;
        return Ok(ExitCode::SUCCESS);
    }
    // What can be wrong with the flags is said before a large model is loaded.
    let texts = Texts::read(args)?;
    let kwargs = args.template.kwargs()?;
    let grammar = args.grammar.spec()?;
    let gguf = args.model.open()?;
    let sampling = args.sampling.params(gguf.metadata())?;
    let mut config = args.compute.engine_config()?;
    // Between two batches Ctrl-C is heard; smaller ones cost nothing, as graphs are cut at the micro-batch anyway.
    config.n_batch = config.n_batch.min(config.n_ubatch);
    let model = args.model.load_for(gguf, args.spec.wants_head())?;
    let spec = args.spec.params(&model, &mut config)?;
    let template = chat_template(args, &model)?;
    let engine = Engine::new(&model, config)?;
    let options = AnswerOptions {
        n_predict: u32::try_from(args.prompt.predict).ok(),
        stops: texts.stops,
        special: args.output.special,
        verbose_prompt: args.output.verbose_prompt,
        timings: args.output.timings(template.is_some()),
    };
    let spec = Speculation::new(spec, &engine)?;
    let mut session = Session::new(engine, Interrupt::listen()?, sampling, spec, options)?;
    if let Some(grammar) = grammar {
        session.constrain(grammar)?;
    }
    let done = match template {
        None => complete(args, session, texts.prompt, texts.system),
        Some(template) => {
            let mut conversation = Conversation::new(template, kwargs);
            conversation.set_system(texts.system.as_deref().unwrap_or_default());
            chat(args, session, conversation, texts.prompt)
        }
    };
    match done {
        // The reader of a pipe has what it wanted.
        Err(e) if repl::is_output_gone(&e) => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

/// Texts of the command line, after their escape sequences.
struct Texts {
    prompt: Option<String>,
    system: Option<String>,
    stops: Vec<String>,
}

impl Texts {
    fn read(args: &RunArgs) -> Result<Self> {
        let plain = |text: &String| {
            if args.prompt.no_escape {
                Ok(text.clone())
            } else {
                unescape(text)
            }
        };
        let file = |path: &PathBuf| text_file(path);
        let (prompt, system) = (&args.prompt, &args.chat);
        Ok(Self {
            prompt: prompt
                .prompt
                .as_ref()
                .map(plain)
                .or(prompt.file.as_ref().map(file))
                .transpose()?,
            system: system
                .system_prompt
                .as_ref()
                .map(plain)
                .or(system.system_prompt_file.as_ref().map(file))
                .transpose()?,
            stops: prompt
                .reverse_prompt
                .iter()
                .map(plain)
                .collect::<Result<_>>()?,
        })
    }
}

/// The text of a file (`-`: of stdin) without the line end at its end, which is the editor's and not the author's.
fn text_file(path: &Path) -> Result<String> {
    let mut text = read_text(path)?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

fn set_colors(when: OnOffAuto) {
    let choice = match when {
        OnOffAuto::On => anstream::ColorChoice::Always,
        OnOffAuto::Off => anstream::ColorChoice::Never,
        OnOffAuto::Auto => anstream::ColorChoice::Auto,
    };
    choice.write_global();
}

/// The template of the chat, `None` if the text is to be completed.
fn chat_template(args: &RunArgs, model: &Model) -> Result<Option<ChatTemplate>> {
    if args.chat.no_conversation {
        return Ok(None);
    }
    let tokenizer = model.tokenizer();
    let text = |id: Option<u32>| id.map_or("", |id| tokenizer.token_text(id));
    let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.eos()));
    match args.template.choice()? {
        TemplateChoice::Model => {}
        TemplateChoice::Builtin(name) => {
            return Ok(Some(ChatTemplate::builtin(&name, bos, eos)?));
        }
        TemplateChoice::Source(source) => return Ok(Some(ChatTemplate::new(&source, bos, eos)?)),
    }
    let own = ChatTemplate::from_metadata(model.gguf().metadata(), tokenizer, None)?;
    if own.is_none() && args.chat.conversation {
        note("the model has no chat template: using chatml; --chat-template chooses another");
        return Ok(Some(ChatTemplate::builtin(FALLBACK_TEMPLATE, bos, eos)?));
    }
    Ok(own)
}

/// Completes a text without a template.
fn complete(
    args: &RunArgs,
    mut session: Session,
    prompt: Option<String>,
    system: Option<String>,
) -> Result<ExitCode> {
    if system.is_some() {
        return Err(hinted(
            "a system prompt needs a chat",
            "leave out -no-cnv, or choose a --chat-template",
        ));
    }
    let prompt = match prompt {
        Some(prompt) => prompt,
        None if std::io::stdin().is_terminal() => {
            return Err(hinted(
                "there is no text to complete",
                "give it with -p TEXT or -f FILE; a chat needs a model with a chat template, or --chat-template",
            ));
        }
        None => text_file(Path::new("-"))?,
    };
    let mut screen = Screen::new();
    let tokens = session.encode(&prompt, true);
    let stable = tokens.len();
    if !args.output.no_display_prompt {
        screen.content(&prompt)?;
    }
    let answer = session.answer(
        &Prompt {
            text: prompt,
            tokens,
            stable,
            thoughtless: false,
        },
        None,
        0,
        &mut screen,
    )?;
    Ok(match answer.finish {
        None | Some(Finish::Cancelled) => exit_code(),
        Some(_) => ExitCode::SUCCESS,
    })
}

/// Chats.
fn chat(
    args: &RunArgs,
    session: Session,
    mut conversation: Conversation,
    first: Option<String>,
) -> Result<ExitCode> {
    if let Some(think) = args.template.thinking() {
        conversation.set_thinking(Some(think))?;
    }
    let split_thoughts = args.template.split_thoughts();
    let interactive = std::io::stdin().is_terminal();
    let single = args.chat.single_turn;
    let first = match first {
        // One turn is all there is, so it may have several lines.
        None if single && !interactive => Some(text_file(Path::new("-"))?),
        first => first,
    };
    if single && let Some(text) = first {
        return Chat::new(session, conversation, split_thoughts, false).once(&text);
    }
    if interactive {
        banner(&session);
        if let Some(text) = first.as_ref().filter(|_| !args.output.no_display_prompt) {
            note(&format!("> {}", shortened(text)));
        }
    }
    let reader = Reader::new(args.chat.multiline_input, args.chat.simple_io)?;
    Chat::new(session, conversation, split_thoughts, interactive).run(first, single, reader)
}

/// The start of a text that is too long to be repeated.
fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(ECHOED_CHARS) {
        None => Cow::Borrowed(text),
        Some((at, _)) => format!("{}... ({} bytes in all)", &text[..at], text.len()).into(),
    }
}

/// What a chat starts with: the model and its place.
fn banner(session: &Session) {
    let engine = session.engine();
    let model = engine.model();
    let devices: Vec<String> = model.devices().iter().map(Device::name).collect();
    let (params, mib) = (model.n_params() as f64 / 1e6, model.n_bytes() >> 20);
    note(&format!(
        "{} ({}, {params:.1} M parameters, {mib} MiB)",
        model.name(),
        model.architecture().name
    ));
    note(&format!(
        "context {} tokens, on {}",
        engine.n_ctx(),
        devices.join(", ")
    ));
    note("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves");
}
