//! The positional arguments, in llama-quantize's order: IN [OUT] TYPE [THREADS].

use std::path::{Path, PathBuf};

use anyhow::Result;
use oxling::quantize::{FileType, UnknownFileType};

use crate::cli::errors::hinted;

/// What is made of what.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// The model.
    pub input: PathBuf,
    /// The file to write.
    pub output: PathBuf,
    /// The type.
    pub file_type: FileType,
    /// Threads.
    pub threads: Option<usize>,
}

impl Target {
    /// Tells two to four arguments apart: the last but the threads is the type.
    pub fn parse(arguments: &[PathBuf]) -> Result<Self> {
        let (input, output, ty, threads) = match arguments {
            [input, ty] => (input, None, ty, None),
            [input, ty, threads] if is_type(ty) && number(threads).is_some() => {
                (input, None, ty, Some(threads))
            }
            [input, output, ty] => (input, Some(output), ty, None),
            [input, output, ty, threads] => (input, Some(output), ty, Some(threads)),
            _ => {
                return Err(hinted(
                    "expected IN [OUT] TYPE [THREADS]",
                    "for example: oxling quantize model-F16.gguf model-Q4_K_M.gguf Q4_K_M",
                ));
            }
        };
        let file_type: FileType = text(ty)
            .parse()
            .map_err(|e: UnknownFileType| hinted(e.to_string(), e.hint().unwrap_or_default()))?;
        let threads = match threads {
            Some(n) => Some(number(n).ok_or_else(|| {
                let message = format!("`{}` is no number of threads", n.display());
                hinted(message, "the order is IN [OUT] TYPE [THREADS]")
            })?),
            None => None,
        };
        let output = match output {
            Some(output) => output.clone(),
            None => beside(input, file_type),
        };
        Ok(Self {
            input: input.clone(),
            output,
            file_type,
            threads,
        })
    }
}

fn text(argument: &Path) -> String {
    argument.to_string_lossy().into_owned()
}

fn is_type(argument: &Path) -> bool {
    text(argument).parse::<FileType>().is_ok()
}

fn number(argument: &Path) -> Option<usize> {
    text(argument).parse().ok().filter(|&n| n > 0)
}

/// A file beside the model: its name with the type, in the place of the type that it had.
fn beside(input: &Path, file_type: FileType) -> PathBuf {
    let stem = input.file_stem().unwrap_or_default().to_string_lossy();
    let stem = match stem.rsplit_once(['-', '.']) {
        Some((name, ty)) if ty.parse::<FileType>().is_ok() && ty.parse::<u32>().is_err() => name,
        _ => &stem,
    };
    input.with_file_name(format!("{stem}-{file_type}.gguf"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oxling::quantize::Mix;

    fn parse(line: &str) -> Result<Target> {
        let arguments: Vec<PathBuf> = line.split(' ').map(PathBuf::from).collect();
        Target::parse(&arguments)
    }

    #[test]
    fn the_order_is_that_of_llama_quantize() {
        let target = |output: &str, mix, threads| Target {
            input: "a-F16.gguf".into(),
            output: output.into(),
            file_type: FileType::Mix(mix),
            threads,
        };
        let cases = [
            (
                "a-F16.gguf q4_k",
                target("a-Q4_K_M.gguf", Mix::Q4_K_M, None),
            ),
            (
                "a-F16.gguf 15 8",
                target("a-Q4_K_M.gguf", Mix::Q4_K_M, Some(8)),
            ),
            ("a-F16.gguf b.gguf Q8_0", target("b.gguf", Mix::Q8_0, None)),
            (
                "a-F16.gguf b.gguf 7 3",
                target("b.gguf", Mix::Q8_0, Some(3)),
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line).unwrap(), expected, "{line}");
        }
        for (line, problem) in [
            ("a.gguf b.gguf Q9", "unknown file type `Q9`"),
            ("a.gguf b.gguf Q8_0 many", "`many` is no number of threads"),
            ("a.gguf", "expected IN [OUT] TYPE"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
