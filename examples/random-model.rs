//! Writes random models of the common architectures, for comparison with other runtimes.
//!
//! `random-model list [ARCH]` names what there is, `random-model ARCH SHAPE TYPE FILE` writes one.

#[path = "../tests/common/random_model.rs"]
mod random_model;
#[path = "../tests/common/random_shapes.rs"]
mod random_shapes;

use std::path::Path;
use std::process::ExitCode;

use oxling::gguf::GgmlType;
use random_model::RandomModel;

const USAGE: &str = "usage: random-model list [ARCH] | random-model ARCH SHAPE TYPE FILE";

/// The shapes of an architecture that results are compared on, the wide one last.
fn shapes(arch: &'static str) -> Vec<RandomModel> {
    let mut all = random_shapes::shapes(arch);
    all.extend(random_shapes::wide(arch));
    all
}

/// A model to measure speed with: the widths of `wide`, and the layers and vocabulary of a small real one.
fn bench(arch: &'static str) -> Option<RandomModel> {
    let mut m = random_shapes::wide(arch)?;
    (m.name, m.n_layer, m.n_vocab) = ("bench", 8, 32768);
    Some(m)
}

/// As [`bench`], as wide as Ling-2.6-flash.
fn flash(arch: &'static str) -> Option<RandomModel> {
    let mut m = random_shapes::wide(arch)?;
    (m.name, m.n_layer, m.n_embd, m.n_vocab) = ("flash", 4, 4096, 32768);
    (m.n_head, m.n_head_kv, m.head_dim, m.n_rot) = (32, 4, 128, 64);
    let e = m.experts.as_mut()?;
    (e.n, e.used, e.n_ff) = (64, 8, 1024);
    (arch == "bailingmoe2").then_some(m)
}

/// Shapes to measure speed with, which no list names.
fn large(arch: &'static str) -> impl Iterator<Item = RandomModel> {
    let bench = bench(arch).into_iter();
    bench.chain(flash(arch))
}

fn run(args: &[&str]) -> Result<(), String> {
    let architectures = random_shapes::ARCHITECTURES;
    match args {
        ["list", wanted @ ..] => {
            let wanted = |arch: &&str| wanted.is_empty() || wanted.contains(arch);
            for arch in architectures.into_iter().filter(wanted) {
                for shape in shapes(arch) {
                    println!("{arch} {}", shape.name);
                }
            }
            Ok(())
        }
        [arch, shape, ty, file] => {
            let arch = architectures.into_iter().find(|a| a == arch);
            let arch = arch.ok_or("no random models of this architecture")?;
            let mut model = shapes(arch)
                .into_iter()
                .chain(large(arch))
                .find(|m| m.name == *shape)
                .ok_or("no such shape")?;
            model.weight_type = GgmlType::ALL
                .iter()
                .copied()
                .find(|t| t.name().eq_ignore_ascii_case(ty))
                .ok_or("no such type")?;
            model.write(Path::new(file));
            Ok(())
        }
        _ => Err(USAGE.to_owned()),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
