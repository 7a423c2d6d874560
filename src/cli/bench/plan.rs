//! Which tests are run, with which settings, in which order.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Result;
use oxling::bench::Test;
use oxling::engine::speculation::DraftType;

use super::super::counts::{Counts, all};
use super::super::errors::hinted;
use super::super::model_args::{
    CacheType, ComputeArgs, GpuLayers, KernelChoice, LoadMode, ModelArgs, OnOffAuto,
    different_types,
};
use super::super::spec_args::{SpecArgs, SpecType};
use super::{BenchArgs, GuessArgs, SetupArgs};

const NO_GUESSES: SpecType = SpecType::Of(DraftType::None);

/// A prompt and generation, `512,128`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptGen {
    n_prompt: u32,
    n_gen: u32,
}

impl FromStr for PromptGen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected two numbers, as in 512,128".to_owned();
        let (n_prompt, n_gen) = text.split_once(',').ok_or_else(wrong)?;
        let number = |text: &str| text.parse().map_err(|_| wrong());
        Ok(Self {
            n_prompt: number(n_prompt)?,
            n_gen: number(n_gen)?,
        })
    }
}

/// One combination of models and settings.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Setups of the same number share a loaded model.
    pub load: usize,
    pub model: ModelArgs,
    pub compute: ComputeArgs,
    pub spec: SpecArgs,
}

/// All tests of all setups.
pub struct Plan {
    setups: Vec<Setup>,
    n_depth: Vec<u32>,
    tests: Vec<PromptGen>,
    /// Names of the fields that are not at their defaults throughout.
    varied: Vec<&'static str>,
}

impl Plan {
    /// Lays out what the flags ask for.
    pub fn new(args: &BenchArgs) -> Result<Self> {
        let one = |n_prompt, n_gen| PromptGen { n_prompt, n_gen };
        let mut tests: Vec<PromptGen> =
            all(&args.n_prompt).into_iter().map(|n| one(n, 0)).collect();
        tests.extend(all(&args.n_gen).into_iter().map(|n| one(0, n)));
        tests.extend(&args.pg);
        tests.retain(|test| (test.n_prompt, test.n_gen) != (0, 0));
        let plan = Self {
            setups: setups(&args.setups)?,
            n_depth: all(&args.n_depth),
            tests,
            varied: varied(&args.setups),
        };
        if plan.len() == 0 {
            return Err(hinted(
                "there is nothing to measure",
                "name a number above 0 with -p or -n",
            ));
        }
        Ok(plan)
    }

    /// Number of tests.
    pub fn len(&self) -> usize {
        self.setups.len() * self.n_depth.len() * self.tests.len()
    }

    /// Whether any test may guess ahead.
    pub fn speculates(&self) -> bool {
        self.setups.iter().any(|s| s.spec.spec_type != NO_GUESSES)
    }

    /// Whether a test of those that share this loaded model wants its MTP head.
    pub fn wants_head(&self, load: usize) -> bool {
        let mut sharing = self.setups.iter().filter(|s| s.load == load);
        sharing.any(|s| s.spec.wants_head())
    }

    /// Whether a field deserves a column in a table.
    pub fn varies(&self, field: &str) -> bool {
        self.varied.contains(&field)
    }

    /// The tests in llama-bench's order: those of one depth stay together.
    pub fn runs(&self) -> impl Iterator<Item = (Setup, Test)> {
        self.setups.iter().flat_map(move |setup| {
            self.n_depth.iter().flat_map(move |&n_depth| {
                self.tests.iter().map(move |test| {
                    let test = Test {
                        n_prompt: test.n_prompt,
                        n_gen: test.n_gen,
                        n_depth,
                    };
                    (setup.clone(), test)
                })
            })
        })
    }
}

/// Every value of `values` for every setup so far, the later lists varying faster.
fn cross<T: Clone>(setups: Vec<Setup>, values: &[T], set: impl Fn(&mut Setup, T)) -> Vec<Setup> {
    let with = |setup: &Setup, value: &T| {
        let mut setup = setup.clone();
        set(&mut setup, value.clone());
        setup
    };
    setups
        .iter()
        .flat_map(|setup| {
            values
                .iter()
                .map(|value| with(setup, value))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn setups(args: &SetupArgs) -> Result<Vec<Setup>> {
    if !args.cache_type_v.is_empty() && args.cache_type_v != args.cache_type_k {
        return Err(different_types());
    }
    let mut models: Vec<Option<PathBuf>> = args.model.iter().cloned().map(Some).collect();
    if models.is_empty() {
        models.push(None);
    }
    let mut setups = vec![first(args)];
    setups = cross(setups, &models, |s, v| s.model.model = v);
    setups = cross(setups, &args.n_gpu_layers, |s, v| s.model.n_gpu_layers = v);
    setups = cross(setups, &all(&args.n_cpu_moe), |s, v| s.model.n_cpu_moe = v);
    setups = cross(setups, &load_modes(args), |s, v| s.model.load_mode = v);
    for (i, setup) in setups.iter_mut().enumerate() {
        setup.load = i;
    }
    setups = cross(setups, &all(&args.batch_size), |s, v| {
        s.compute.batch_size = v
    });
    setups = cross(setups, &all(&args.ubatch_size), |s, v| {
        s.compute.ubatch_size = v
    });
    setups = cross(setups, &args.cache_type_k, |s, v| {
        s.compute.cache_type_k = v
    });
    setups = cross(setups, &args.flash_attn, |s, v| s.compute.flash_attn = v);
    setups = cross(setups, &args.kernels, |s, v| s.compute.kernels = v);
    let threads = all(&args.threads);
    if threads.contains(&0) {
        return Err(hinted("-t 0: no thread, no measurement", "name at least 1"));
    }
    if !threads.is_empty() {
        setups = cross(setups, &threads, |s, v| {
            s.compute.threads = Some(v as usize)
        });
    }
    setups = cross(setups, &ways_to_guess(&args.guesses), |s, (ty, n_max)| {
        s.spec.spec_type = ty;
        s.spec.spec_draft_n_max = n_max;
    });
    Ok(setups)
}

/// How weights get into memory, by whichever flag says so.
fn load_modes(args: &SetupArgs) -> Vec<LoadMode> {
    let mode = |&mapped: &bool| match mapped {
        true => LoadMode::Auto,
        false => LoadMode::None,
    };
    match args.mmap.as_slice() {
        [] => args.load_mode.clone(),
        maps => maps.iter().map(mode).collect(),
    }
}

/// Every type with every number of guesses; none is one way only.
fn ways_to_guess(args: &GuessArgs) -> Vec<(SpecType, u32)> {
    let most = all(&args.spec_draft_n_max);
    let numbers = |ty: SpecType| match ty {
        NO_GUESSES => vec![0],
        _ => most.clone(),
    };
    let types = args.spec_type.iter();
    types
        .flat_map(|&ty| numbers(ty).into_iter().map(move |n| (ty, n)))
        .collect()
}

/// A setup whose lists are still to be filled in.
fn first(args: &SetupArgs) -> Setup {
    Setup {
        load: 0,
        model: ModelArgs {
            model: None,
            hf_repo: args.hf_repo.clone(),
            hf_file: args.hf_file.clone(),
            hub: args.hub.clone(),
            n_gpu_layers: GpuLayers::Auto,
            cpu_moe: false,
            n_cpu_moe: 0,
            device: args.device.clone(),
            rpc: args.rpc.clone(),
            load_mode: LoadMode::Auto,
        },
        compute: ComputeArgs {
            ctx_size: 0,
            batch_size: 0,
            ubatch_size: 0,
            threads: None,
            threads_batch: None,
            flash_attn: OnOffAuto::Auto,
            kernels: KernelChoice::Own,
            cache_type_k: CacheType(oxling::ggml::DType::F16),
            cache_type_v: None,
        },
        spec: SpecArgs {
            spec_type: NO_GUESSES,
            spec_draft_n_max: 0,
            spec_draft_n_min: 0,
            spec_draft_p_min: 0.0,
            spec_draft_vocab: args.guesses.spec_draft_vocab,
            no_spec_adapt: args.guesses.no_spec_adapt,
            spec_synth_rates: args.guesses.spec_synth_rates.clone(),
        },
    }
}

fn varied(args: &SetupArgs) -> Vec<&'static str> {
    let counts = |list: &[Counts], default: u32| all(list) != [default];
    let type_k = CacheType(oxling::ggml::DType::F16);
    let candidates = [
        ("n_gpu_layers", args.n_gpu_layers != [GpuLayers::Auto]),
        ("n_cpu_moe", counts(&args.n_cpu_moe, 0)),
        ("n_threads", !args.threads.is_empty()),
        ("n_batch", counts(&args.batch_size, 2048)),
        ("n_ubatch", counts(&args.ubatch_size, 512)),
        ("type_k", args.cache_type_k != [type_k]),
        ("flash_attn", args.flash_attn != [OnOffAuto::Auto]),
        ("kernels", args.kernels != [KernelChoice::Own]),
        ("devices", !args.device.is_empty()),
        ("load_mode", load_modes(args) != [LoadMode::Auto]),
        ("spec_type", args.guesses.spec_type != [NO_GUESSES]),
        ("spec_n_max", args.guesses.spec_type != [NO_GUESSES]),
    ];
    candidates.iter().filter(|c| c.1).map(|c| c.0).collect()
}
