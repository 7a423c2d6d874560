//! Which files of a repository make up the model that was asked for.

#![forbid(unsafe_code)]

use super::Wanted;
use super::error::HubError;
use super::name::printable;

/// Quantisations that are looked for when none is named, as llama.cpp does.
const DEFAULT_TAGS: [&str; 2] = ["Q4_K_M", "Q8_0"];
/// Marks of GGUF files that are no model of their own.
const COMPANIONS: [&str; 6] = ["mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-"];

/// A part of a split model: `PREFIX-00001-of-00003.gguf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part<'a> {
    prefix: &'a str,
    no: u32,
    count: u32,
}

impl<'a> Part<'a> {
    fn of(name: &'a str) -> Option<Self> {
        const DIGITS: usize = 5;
        let stem = strip_gguf(name)?;
        let number = |text: &str| {
            let sound = text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_digit());
            sound.then(|| text.parse().ok()).flatten()
        };
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, no) = rest.rsplit_once('-')?;
        Some(Self {
            prefix,
            no: number(no)?,
            count: number(count)?,
        })
    }

    fn name(&self, no: u32) -> String {
        format!("{}-{no:05}-of-{:05}.gguf", self.prefix, self.count)
    }
}

/// Indices into `names` of the file wanted, or of all parts of it in order; `place` is for messages.
///
/// # Errors
/// No such file or quantisation, or a part is missing.
pub(super) fn choose(
    names: &[&str],
    wanted: &Wanted,
    place: &'static str,
) -> Result<Vec<usize>, HubError> {
    let first = match (&wanted.file, &wanted.tag) {
        (Some(file), _) => names.iter().position(|name| *name == file.as_str()),
        (None, Some(tag)) => by_tag(names, tag),
        (None, None) => DEFAULT_TAGS
            .iter()
            .find_map(|tag| by_tag(names, tag))
            .or_else(|| names.iter().position(|name| is_model(name))),
    };
    let Some(first) = first else {
        return Err(missing(names, wanted, place));
    };
    let Some(part) = Part::of(names[first]) else {
        return Ok(vec![first]);
    };
    // An absurd count in a name ends here, at the first part that does not exist.
    (1..=part.count.max(1))
        .map(|no| {
            let name = part.name(no);
            let found = names.iter().position(|n| n.eq_ignore_ascii_case(&name));
            found.ok_or(HubError::MissingPart {
                name: printable(&name),
                place,
            })
        })
        .collect()
}

/// The first model with the quantisation in its name, preferably as a word of its own.
fn by_tag(names: &[&str], tag: &str) -> Option<usize> {
    let tag = tag.to_ascii_lowercase();
    let matches = |name: &str, whole: bool| {
        let name = name.to_ascii_lowercase();
        name.match_indices(&tag).any(|(at, _)| {
            let before = name[..at].chars().next_back();
            let after = name[at + tag.len()..].chars().next();
            after.is_some_and(|c| c == '.' || c == '-')
                && (!whole || before.is_none_or(|c| !c.is_alphanumeric()))
        })
    };
    let find = |whole| {
        names
            .iter()
            .position(|name| is_model(name) && matches(name, whole))
    };
    find(true).or_else(|| find(false))
}

/// Whether the file is a model, or the first part of one.
fn is_model(name: &str) -> bool {
    let base = name.rsplit('/').next().unwrap_or(name);
    strip_gguf(name).is_some()
        && !COMPANIONS.iter().any(|mark| base.contains(mark))
        && Part::of(name).is_none_or(|part| part.no == 1)
}

fn strip_gguf(name: &str) -> Option<&str> {
    name.strip_suffix(".gguf")
        .or_else(|| name.strip_suffix(".GGUF"))
}

fn missing(names: &[&str], wanted: &Wanted, place: &'static str) -> HubError {
    let models: Vec<String> = names
        .iter()
        .filter(|name| is_model(name))
        .map(|name| printable(name))
        .collect();
    let what = match (&wanted.file, &wanted.tag) {
        (Some(file), _) => format!("file `{file}`"),
        (None, Some(tag)) => format!("GGUF file of `{tag}`"),
        (None, None) => "GGUF file".to_owned(),
    };
    HubError::NoSuchFile {
        repo: wanted.repo.to_string(),
        what,
        place,
        models,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 12] = [
        "README.md",
        "mmproj-Q4_K_M.gguf",
        "a-BF16-00001-of-00002.gguf",
        "a-BF16-00002-of-00002.gguf",
        "a-IQ4_XS.gguf",
        "a-Q4_K_M.gguf",
        "a-Q4_XS.gguf",
        "a-q8_0.gguf",
        "big/a-Q6_K-00002-of-00003.gguf",
        "big/a-Q6_K-00001-of-00003.gguf",
        "big/a-Q6_K-00003-of-00003.gguf",
        "broken-Q2_K-00001-of-00002.gguf",
    ];

    fn wanted(tag: Option<&str>, file: Option<&str>) -> Wanted {
        Wanted {
            repo: "org/name".parse().unwrap(),
            tag: tag.map(str::to_owned),
            file: file.map(|file| file.parse().unwrap()),
            revision: crate::hub::Revision::default(),
        }
    }

    fn chosen(
        names: &[&str],
        tag: Option<&str>,
        file: Option<&str>,
    ) -> Result<Vec<String>, HubError> {
        let found = choose(names, &wanted(tag, file), "the repository")?;
        Ok(found.iter().map(|&i| names[i].to_owned()).collect())
    }

    #[test]
    fn files_are_found_by_quantisation() {
        let cases: [(Option<&str>, &[&str]); 7] = [
            (None, &["a-Q4_K_M.gguf"]),
            (Some("q4_k_m"), &["a-Q4_K_M.gguf"]),
            (Some("Q8_0"), &["a-q8_0.gguf"]),
            (Some("Q4_XS"), &["a-Q4_XS.gguf"]),
            (Some("iq4_xs"), &["a-IQ4_XS.gguf"]),
            (Some("bf16"), &[NAMES[2], NAMES[3]]),
            (Some("Q6_K"), &[NAMES[9], NAMES[8], NAMES[10]]),
        ];
        for (tag, expected) in cases {
            assert_eq!(chosen(&NAMES, tag, None).unwrap(), expected, "{tag:?}");
        }
        // Without the usual ones, the first model.
        assert_eq!(chosen(&NAMES[..5], None, None).unwrap(), NAMES[2..4]);
        assert_eq!(
            chosen(&["a-IQ4_XS.gguf"], Some("Q4_XS"), None).unwrap(),
            ["a-IQ4_XS.gguf"]
        );
    }

    #[test]
    fn files_are_found_by_name() {
        let file = |name| chosen(&NAMES, Some("Q8_0"), Some(name));
        assert_eq!(file(NAMES[1]).unwrap(), [NAMES[1]]);
        assert_eq!(file("README.md").unwrap(), ["README.md"]);
        // Any part stands for all.
        assert_eq!(file(NAMES[3]).unwrap(), NAMES[2..4]);
        assert!(matches!(file("b.gguf"), Err(HubError::NoSuchFile { .. })));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = chosen(&NAMES, Some("Q2_K"), None).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("broken-Q2_K-00002-of-00002.gguf"),
            "{error}"
        );
        let error = chosen(&NAMES, Some("Q5_K"), None).unwrap_err();
        assert!(error.to_string().contains("Q5_K"), "{error}");
        assert!(error.hint().unwrap().contains("a-q8_0.gguf"));
        let error = chosen(&["README.md", "mmproj-f16.gguf"], None, None).unwrap_err();
        assert!(matches!(&error, HubError::NoSuchFile { models, .. } if models.is_empty()));
        assert!(chosen(&["a-00001-of-99999.gguf"], None, None).is_err());
        // A name that counts no parts is an ordinary file.
        assert_eq!(chosen(&["a-1-of-2.gguf"], None, None).unwrap().len(), 1);
    }
}
