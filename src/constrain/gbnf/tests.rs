//! What is converted, and what is refused.

#![forbid(unsafe_code)]

use super::*;

fn lark(text: &str) -> String {
    to_lark(text, &|text| (text == "<think>").then_some(5)).unwrap()
}

#[test]
fn errors_name_line_and_column() {
    let cases = [
        ("", 1, 1, "there is no rule `root`"),
        ("a ::= \"x\"", 1, 10, "there is no rule `root`"),
        ("root ::= a\n\nb ::= c", 1, 10, "there is no rule `a`"),
        ("root ::= \"a\n", 2, 1, "ends too early"),
        ("root ::= \"\\q\"", 1, 11, "`\\q` is no escape"),
        ("root = \"a\"", 1, 6, "expected `::=`, found `=`"),
        (
            "root ::= (\"a\"\n  | b\nb ::= \"b\"",
            3,
            3,
            "expected `)`, found `:`",
        ),
        ("root ::= *", 1, 10, "nothing to repeat"),
        ("root ::= \"\u{e9}\" {2,1}", 1, 14, "repetitions must rise"),
        ("root ::= \"a\"{3000}", 1, 13, "repetitions must rise"),
        ("root ::= \"a\"{x}", 1, 14, "expected a number"),
        ("root ::= [z-a]", 1, 11, "the range z-a falls"),
        ("root ::= []", 1, 10, "no character"),
        ("root ::= [\\uD800]", 1, 13, "4 hexadecimal digits"),
        (
            "root ::= \"a\" )",
            1,
            14,
            "expected the end of the line, found `)`",
        ),
        (
            "root ::= <nothing>",
            1,
            10,
            "`<nothing>` is no single token",
        ),
        ("root ::= <x", 1, 10, "expected a token"),
        ("# only\n  ::= \"a\"", 2, 3, "expected the name of a rule"),
    ];
    for (text, line, column, message) in cases {
        match to_lark(text, &|_| None) {
            Err(ConstrainError::Gbnf {
                line: l,
                column: c,
                message: m,
            }) => {
                assert_eq!((l, c), (line, column), "{text}: {m}");
                assert!(m.contains(message), "{text}: {m}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(100), ")".repeat(100));
    assert!(to_lark(&deep, &|_| None).is_err());
    let many: String = (0..5000).map(|i| format!("r{i} ::= \"a\"\n")).collect();
    assert!(to_lark(&many, &|_| None).is_err());
    assert!(to_lark(&" ".repeat(1 << 20), &|_| None).is_err());
}

#[test]
fn regular_grammars_are_one_word() {
    let text = "root ::= (\"yes\" | no) ws # comment\nno ::= \"no\" [!?]{1,3}\nws ::= ([ \\t] ws)?";
    let lark = lark(text);
    assert!(lark.contains("rule0: WORD"), "{lark}");
    assert_eq!(lark.matches("WORD").count(), 2, "{lark}");
}

#[test]
fn words_are_taken_apart_where_the_longest_is_wrong() {
    // Within `x`, "ab" must end although "abc" could go on.
    let apart = lark("root ::= \"(\" root \")\" | (\"ab\" | \"abc\") \"cd\"");
    // The whole alternative is one word, so nothing is cut.
    assert!(apart.contains("\"abc\""), "{apart}");
    let apart = lark("root ::= x root \"z\" | \"z\"\nx ::= \"a\" | \"ab\" | \"b\"");
    assert!(!apart.contains("\"ab\""), "{apart}");
    // Here it is not wrong.
    let whole = lark("root ::= x root \"z\" | \"z\"\nx ::= \"a\" | \"ac\" | \"b\"");
    assert!(whole.contains("\"ac\""), "{whole}");
}

#[test]
fn tokens_are_found_by_name_and_number() {
    let lark = lark("root ::= <think> !<[7]>+ <[9]>");
    assert!(
        lark.contains("<[5]>") && lark.contains("<[^7]>") && lark.contains("<[9]>"),
        "{lark}"
    );
}
