//! Values that llama.cpp spells in its own way.

#![forbid(unsafe_code)]

/// A switch of an environment variable, in llama.cpp's words and clap's.
pub fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "enabled" | "true" | "yes" | "y" | "t" => Ok(true),
        "0" | "off" | "disabled" | "false" | "no" | "n" | "f" => Ok(false),
        _ => Err("expected on or off, true or false, 1 or 0".to_owned()),
    }
}

/// A number of threads; 0 stands for the program's own choice, which llama.cpp asks for with -1.
pub fn threads(text: &str) -> Result<usize, String> {
    match text {
        "-1" => Ok(0),
        _ => text
            .parse()
            .map_err(|_| "expected a number of threads, or -1 for the default".to_owned()),
    }
}

/// A largest number of chunks; -1 is all.
pub fn chunks(text: &str) -> Result<usize, String> {
    match text {
        "-1" => Ok(usize::MAX),
        _ => text
            .parse()
            .map_err(|_| "expected a number of chunks, or -1 for all".to_owned()),
    }
}

/// What was asked for, unless that is the program's own choice.
pub fn chosen(threads: Option<usize>) -> Option<usize> {
    threads.filter(|&n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_cpps_words_are_understood() {
        for (text, expected) in [
            ("enabled", Some(true)),
            ("On", Some(true)),
            ("1", Some(true)),
            ("disabled", Some(false)),
            ("0", Some(false)),
            ("", None),
            ("2", None),
        ] {
            assert_eq!(switch(text).ok(), expected, "{text}");
        }
        for (text, expected) in [("-1", None), ("0", None), ("3", Some(3))] {
            assert_eq!(chosen(threads(text).ok()), expected, "{text}");
        }
        assert_eq!((chunks("-1"), chunks("7")), (Ok(usize::MAX), Ok(7)));
        for wrong in ["-2", "x", "", "1.5"] {
            assert!(threads(wrong).is_err() && chunks(wrong).is_err(), "{wrong}");
        }
    }
}
