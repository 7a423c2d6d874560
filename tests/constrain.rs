//! Constrained answers of the demo model: they hold, whatever the model would rather say, guessed ahead or not.

#[path = "common/demo.rs"]
mod demo;
#[path = "common/texts.rs"]
mod texts;

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use demo::{config, model};
use oxling::chat::{ChatDelta, ChatParser, ReasoningTags, ToolFormat};
use oxling::constrain::{Constrainer, GrammarSpec, Grammars, Start, ToolChoice};
use oxling::engine::sampling::{Constraint, SamplingParams};
use oxling::engine::speculation::{DraftType, Sink, Speculation, SpeculationParams};
use oxling::engine::{Engine, EngineConfig, Finish, GenerateOptions, Timeline};
use oxling::memory::SeqId;
use oxling::model::Model;
use serde_json::{Value, json};
use texts::{sampler, tokens};

const PROMPT: &str =
    "<role>HUMAN</role>Tell me about a dog as JSON.<|role_end|><role>ASSISTANT</role>";
const SEEDS: u64 = 100;

/// Keeps the tokens, and advances the grammar as a server does.
struct Listener {
    grammar: Box<dyn Constrainer>,
}

impl Sink for Listener {
    fn token(&mut self, token: u32) -> ControlFlow<()> {
        assert!(self.grammar.advance(token), "{:?}", self.grammar.failure());
        self.grammar.prepare();
        if self.grammar.is_complete() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn constraint(&mut self) -> Option<&mut dyn Constraint> {
        Some(&mut *self.grammar)
    }
}

struct Runner {
    model: Model,
    engine: Engine,
    timeline: Timeline,
    speculation: Speculation,
}

impl Runner {
    fn new(model: &Model, draft: DraftType) -> Self {
        let config = EngineConfig {
            n_ctx: 1024,
            ..config()
        };
        let engine = Engine::new(model, config).expect("engine");
        let params = SpeculationParams {
            draft,
            n_max: 3,
            adapt: false,
            ..SpeculationParams::default()
        };
        Self {
            model: model.clone(),
            timeline: Timeline::new(SeqId(0), 4),
            speculation: Speculation::new(params, &engine).expect("good parameters"),
            engine,
        }
    }

    /// The answer's text, and whether it is complete.
    fn answer(&mut self, grammar: &dyn Constrainer, prompt: &str, seed: u64) -> (String, bool) {
        let cancel = AtomicBool::new(false);
        let prompt = tokens(&self.model, prompt);
        self.timeline
            .sync(&mut self.engine, &prompt, &cancel, &mut |_, _| {})
            .expect("prompt");
        let sampling = SamplingParams {
            temp: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: Some(seed),
            ..SamplingParams::default()
        };
        let mut listener = Listener {
            grammar: grammar.fork(),
        };
        let done = self.timeline.generate_to(
            &mut self.engine,
            &mut sampler(&self.model, &sampling, &prompt),
            &mut self.speculation,
            GenerateOptions {
                n_predict: Some(400),
            },
            &cancel,
            &mut listener,
        );
        let done = done.unwrap_or_else(|e| panic!("{e}: {:?}", listener.grammar.failure()));
        let text = self.model.tokenizer().decode(&done.tokens, true);
        let text = String::from_utf8(text).expect("a grammar gives whole characters");
        let complete = matches!(done.finish, Finish::Stopped | Finish::EndOfGeneration(_));
        (text, complete)
    }
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "age": {"type": "integer", "minimum": 0, "maximum": 30},
            "good": {"const": true},
            "toys": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,6}$"}, "maxItems": 1},
        },
        "required": ["name", "age", "good"],
        "additionalProperties": false,
    })
}

/// What the schema says, by hand.
fn check(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let object = value.as_object().expect("an object");
    assert!(object.len() <= 4);
    assert!(object["name"].as_str().expect("text").chars().count() <= 6);
    assert!((0..=30).contains(&object["age"].as_i64().expect("number")));
    assert_eq!(object["good"], true);
    for toy in object
        .get("toys")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let toy = toy.as_str().expect("text");
        assert!((1..=6).contains(&toy.len()) && toy.bytes().all(|b| b.is_ascii_lowercase()));
    }
}

#[test]
fn a_schema_always_holds_and_guesses_change_nothing() {
    let model = model();
    let grammars = Grammars::new(model.tokenizer()).expect("vocabulary");
    let spec = GrammarSpec::JsonSchema(schema());
    let grammar = grammars.compile(&spec, Start::Now).expect("good schema");
    let mut plain = Runner::new(&model, DraftType::None);
    let mut guessing = Runner::new(&model, DraftType::Mtp);
    let mut texts = std::collections::BTreeSet::new();
    for seed in 0..SEEDS {
        let (text, complete) = plain.answer(&*grammar, PROMPT, seed);
        assert!(complete, "{seed}: {text}");
        check(&text);
        if seed % 5 == 0 {
            assert_eq!(
                guessing.answer(&*grammar, PROMPT, seed),
                (text.clone(), true),
                "{seed}"
            );
        }
        texts.insert(text);
    }
    // The grammar leaves a choice, and the sampler takes it.
    assert!(texts.len() > SEEDS as usize / 2, "{texts:?}");
    assert!(guessing.speculation.stats().n_drafted() > 0);
}

#[test]
fn other_grammars_hold() {
    let model = model();
    let grammars = Grammars::new(model.tokenizer()).expect("vocabulary");
    let mut runner = Runner::new(&model, DraftType::None);
    type Check = fn(&str) -> bool;
    let holds: [(GrammarSpec, Check); 4] = [
        (
            GrammarSpec::Regex("(Paris|Rome|Lima)\\.".to_owned()),
            |text| ["Paris.", "Rome.", "Lima."].contains(&text),
        ),
        (
            GrammarSpec::Gbnf(
                "root ::= \"- \" word (\" \" word){1,2} \"\\n\"\nword ::= [a-z]{2,6}".to_owned(),
            ),
            |text| {
                let words = text.strip_prefix("- ").and_then(|t| t.strip_suffix('\n'));
                words.is_some_and(|w| (2..=3).contains(&w.split(' ').count()))
            },
        ),
        (
            GrammarSpec::Lark(
                "start: \"(\" start \")\" | NUMBER\nNUMBER: /[0-9]{1,3}/\n".to_owned(),
            ),
            |text| {
                let digits = text.trim_matches(['(', ')']);
                text.matches('(').count() == text.matches(')').count()
                    && digits.parse::<u32>().is_ok()
            },
        ),
        (GrammarSpec::JsonObject, |text| {
            serde_json::from_str::<Value>(text).is_ok_and(|v| v.is_object())
        }),
    ];
    for (spec, is_good) in holds {
        let grammar = grammars.compile(&spec, Start::Now).expect("good grammar");
        let mut n_complete = 0;
        for seed in 0..10 {
            let (text, complete) = runner.answer(&*grammar, PROMPT, seed);
            assert!(!complete || is_good(&text), "{spec:?}: {text:?}");
            n_complete += usize::from(complete);
        }
        assert!(n_complete > 0, "{spec:?}");
    }
}

#[test]
fn calls_of_every_form_come_back() {
    let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Lima"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": false,
    }}}]);
    let model = model();
    let grammars = Grammars::new(model.tokenizer()).expect("vocabulary");
    let mut runner = Runner::new(&model, DraftType::None);
    let formats = [
        ToolFormat::Hermes,
        ToolFormat::QwenXml,
        ToolFormat::ArgTags,
        ToolFormat::DeepSeekV3,
        ToolFormat::DeepSeekV31,
        ToolFormat::BareJson,
    ];
    for format in formats {
        let spec = GrammarSpec::ToolCalls {
            format,
            tools: tools.clone(),
            choice: ToolChoice::Required,
            parallel: false,
            answer: None,
        };
        let grammar = grammars.compile(&spec, Start::Now).expect("good tools");
        for seed in 0..5 {
            let (text, complete) = runner.answer(&*grammar, PROMPT, seed);
            assert!(complete, "{format:?}: {text}");
            let parser = ChatParser::new(format, ReasoningTags::default(), PROMPT, true);
            let mut parser = parser.with_tools(&tools);
            let mut deltas = parser.push(&text);
            deltas.extend(parser.finish());
            let mut arguments = String::new();
            for delta in deltas {
                match delta {
                    ChatDelta::ToolCall { name, index, .. } => {
                        assert_eq!((name.as_str(), index), ("weather", 0))
                    }
                    ChatDelta::Arguments { text, .. } => arguments += &text,
                    other => panic!("{format:?}: {text:?} has {other:?}"),
                }
            }
            let arguments: Value = serde_json::from_str(&arguments).expect("whole arguments");
            assert!(["Rome", "Lima"].contains(&arguments["city"].as_str().expect("text")));
            assert!((1..=9).contains(&arguments["days"].as_i64().expect("number")));
        }
    }
}

#[test]
fn thoughts_are_free_and_the_answer_is_not() {
    let model = model();
    let grammars = Grammars::new(model.tokenizer()).expect("vocabulary");
    let mut runner = Runner::new(&model, DraftType::None);
    let spec = GrammarSpec::Regex("[0-9]{3}".to_owned());
    let open = format!("{PROMPT}<think>\n");
    let tags = ReasoningTags::default();
    for (prompt, start) in [
        (open.as_str(), Start::for_prompt(tags.clone(), &open)),
        (PROMPT, Start::for_prompt(tags.clone(), PROMPT)),
    ] {
        let grammar = grammars
            .compile(&spec, start.clone())
            .expect("good grammar");
        let mut n_complete = 0;
        for seed in 0..10 {
            let (text, complete) = runner.answer(&*grammar, prompt, seed);
            let inside =
                matches!(start, Start::InReasoning(_)) || text.trim_start().starts_with(&tags.open);
            let answer = match text.split_once(&tags.close) {
                Some((_, answer)) if inside => answer.trim_start(),
                _ if inside => {
                    assert!(!complete, "{text}");
                    continue;
                }
                _ => text.as_str(),
            };
            if complete {
                assert!(
                    answer.len() == 3 && answer.bytes().all(|b| b.is_ascii_digit()),
                    "{text}"
                );
                n_complete += 1;
            }
        }
        assert!(n_complete > 0, "{start:?}");
    }
}
