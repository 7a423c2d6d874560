//! One test, measured.

#![forbid(unsafe_code)]

use anyhow::{Result, ensure};
use oxling::bench::{Comparison, Samples, Test, n_ctx_speculated, profile_test, run_test, warm_up};
use oxling::engine::speculation::{DraftStats, DraftType, SpeculationParams};
use oxling::engine::{Engine, EngineConfig};
use oxling::model::Model;

use super::plan::Setup;
use super::profile::Operations;
use super::{BenchArgs, Progress};

/// What came of a test.
pub struct Measured {
    /// What the engine was made with.
    pub config: EngineConfig,
    /// The repetitions, with guesses if there are any.
    pub samples: Samples,
    /// How the test guessed.
    pub speculation: SpeculationParams,
    /// The repetitions without guesses, and what guesses brought.
    pub compared: Option<(Samples, DraftStats)>,
    /// Time of each operation, if asked for.
    pub profile: Option<Operations>,
}

impl Measured {
    /// Runs a test.
    pub fn new(
        args: &BenchArgs,
        model: &Model,
        setup: &Setup,
        test: Test,
        progress: &Progress,
    ) -> Result<Self> {
        let mut config = setup.compute.engine_config()?;
        let speculation = setup.spec.params(model, &mut config)?;
        let writes = test.n_gen > 0 && speculation.draft != DraftType::None;
        let n_ctx = u32::try_from(if writes {
            n_ctx_speculated(test)
        } else {
            test.n_ctx()
        });
        ensure!(
            n_ctx.is_ok(),
            "{test} needs more tokens than a context can have"
        );
        config.n_ctx = n_ctx.unwrap_or(u32::MAX);
        let say = &mut |run| progress.say(&format!("run {run} of {}", args.repetitions));
        if !writes {
            let mut engine = Engine::new(model, config)?;
            if !args.no_warmup {
                progress.say("warm-up");
                warm_up(&mut engine, test.n_prompt, test.n_gen)?;
            }
            let times = run_test(&mut engine, test, args.repetitions, say)?;
            let profile = args.profile.then(|| profile_test(&mut engine, test));
            return Ok(Self {
                config: engine.config().clone(),
                samples: Samples::new(&times, test.n_tokens()),
                speculation,
                compared: None,
                profile: profile.transpose()?.map(|p| Operations::new(test, &p)),
            });
        }
        progress.say("without guesses and with them");
        let mut comparison = Comparison::new(model, &speculation, &config)?;
        let times = comparison.run(test, args.repetitions, !args.no_warmup, say)?;
        let profile = args.profile.then(|| comparison.profile(test));
        let plain = Samples::new(&times.plain, test.n_tokens());
        Ok(Self {
            config: comparison.engine().config().clone(),
            samples: Samples::new(&times.guessing, test.n_tokens()),
            speculation,
            compared: Some((plain, times.stats)),
            profile: profile.transpose()?.map(|p| Operations::new(test, &p)),
        })
    }
}
