//! Models from a hub: flags that several commands share, and what a download looks like on a terminal.

#![forbid(unsafe_code)]

use std::fmt;

use anyhow::Result;
use clap::{ArgAction, Args};
use indicatif::ProgressBar;
use oxling::hub::{Event, FileName, Hub, Pulled, Settings, Token, Wanted};

use super::interrupt::Interrupt;
use super::progress::byte_bar;
use super::table::human_bytes;
use super::values::switch;

/// How to reach the hub.
#[derive(Debug, Clone, Args)]
pub struct HubArgs {
    /// Use what is downloaded already, and no network.
    #[arg(long, action = ArgAction::SetTrue, value_parser = switch, env = "LLAMA_ARG_OFFLINE")]
    pub offline: bool,
    /// Access token for repositories that need one [-hft].
    #[arg(
        long = "hf-token",
        value_name = "TOKEN",
        allow_hyphen_values = true,
        env = "HF_TOKEN"
    )]
    pub hf_token: Option<Secret>,
}

/// A text that is not shown.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl HubArgs {
    /// Downloads what is missing, and shows it. Ctrl-C stops it and keeps what is here. `listen` hears it too.
    pub fn pull(&self, wanted: &Wanted, listen: &mut dyn FnMut(&Event<'_>)) -> Result<Pulled> {
        let mut settings = Settings::from_env(|name| std::env::var(name).ok())?;
        settings.offline |= self.offline;
        settings.token = match &self.hf_token {
            Some(Secret(text)) if !text.is_empty() => Some(Token::new(text)?),
            _ => None,
        };
        let hub = Hub::new(settings)?;
        // Without a listener Ctrl-C ends the program at once; what is here stays all the same.
        let interrupt = Interrupt::listen().ok();
        let busy = interrupt.as_ref().map(Interrupt::busy);
        let never = std::sync::atomic::AtomicBool::new(false);
        let stop = busy.as_ref().map_or(&never, |busy| busy.stop());
        let mut shown = Shown(None);
        let mut listen = |event: Event<'_>| {
            shown.show(&event);
            listen(&event);
        };
        Ok(hub.pull(wanted, stop, &mut listen)?)
    }
}

/// The bar of the file that arrives.
struct Shown(Option<ProgressBar>);

impl Shown {
    fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Advanced(bytes) => {
                if let Some(bar) = &self.0 {
                    bar.inc(*bytes);
                }
            }
            Event::Downloading { name, from, bytes } => {
                self.say(&downloading(name, *from, *bytes));
                let bar = byte_bar("downloading", *bytes);
                bar.set_position(*from);
                // Else what was here already would count as speed.
                bar.reset_eta();
                self.0 = Some(bar);
            }
            Event::Checking { name, bytes } => {
                self.say(&format!("checking what is here of {name}"));
                self.0 = Some(byte_bar("checking", *bytes));
            }
            Event::Waiting { name } => {
                self.say(&format!("another program downloads {name}; waiting for it"));
            }
            Event::Retrying { because, seconds } => {
                self.say(&format!("{because}; trying again in {seconds:.0} s"));
            }
            Event::Cached { because } => {
                self.say(&format!("{because}; using what is in the cache"));
            }
            _ => self.clear(),
        }
    }

    fn say(&mut self, text: &str) {
        self.clear();
        anstream::eprintln!("{text}");
    }

    fn clear(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.clear();
    }
}

fn downloading(name: &FileName, from: u64, bytes: u64) -> String {
    let base = name.base();
    let size = human_bytes(bytes);
    match from {
        0 => format!("downloading {base} ({size})"),
        _ => format!(
            "downloading {base} ({size}), {} are here",
            human_bytes(from)
        ),
    }
}
