//! `oxling pull` and `-hf` as their users meet them, against a hub on this machine.

#![forbid(unsafe_code)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "common/hub_server.rs"]
mod hub_server;

#[allow(dead_code, reason = "shared with other tests")]
#[path = "common/http.rs"]
mod http;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use hub_server::{Answer, COMMIT, Repo, Server};
use serde_json::Value;

const DEMO: &str = "tiny-ling-IQ4_NL.gguf";
/// What has not happened by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

fn demo() -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    std::fs::read(folder.join(DEMO)).unwrap()
}

/// Variables that would lead elsewhere than to the hub of the test.
fn leads_away(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let starts = ["LLAMA_", "OXLING_", "HF_", "HUGGING", "SSL_CERT_", "XDG_"];
    starts.iter().any(|start| name.starts_with(start))
        || name.ends_with("_PROXY")
        || name == "MODEL_ENDPOINT"
}

/// `oxling` with these arguments, that hub and that cache.
fn oxling(server: &Server, cache: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin!("oxling"));
    for (name, _) in std::env::vars().filter(|(name, _)| leads_away(name)) {
        command.env_remove(name);
    }
    command
        .env("LLAMA_ARG_THREADS", "1")
        .env("NO_COLOR", "1")
        .env("HF_ENDPOINT", server.url())
        .env("HF_HUB_CACHE", cache)
        .args(args);
    command
}

/// Exit code, stdout and stderr.
fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    (output.status.code(), stdout, stderr)
}

#[test]
fn pull_prints_where_the_files_are() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::new("org/name").file(DEMO, demo());
    let server = Server::start(move |request, _| repo.answer(request));
    let (code, stdout, stderr) = outcome(&mut oxling(
        &server,
        cache.path(),
        &["pull", "org/name:iq4_nl"],
    ));
    assert_eq!(code, Some(0), "{stderr}");
    let path = Path::new(stdout.trim_end());
    assert!(
        path.starts_with(cache.path()) && path.ends_with(DEMO),
        "{stdout}"
    );
    assert!(std::fs::read(path).unwrap() == demo());
    assert!(stderr.contains(&format!("downloading {DEMO}")), "{stderr}");

    let args = ["pull", "org/name", "--file", DEMO, "--offline", "--json"];
    let (code, stdout, stderr) = outcome(&mut oxling(&server, cache.path(), &args));
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["repo"], "org/name");
    assert_eq!(report["commit"], COMMIT);
    assert_eq!(report["files"][0]["name"], DEMO);
    assert_eq!(report["files"][0]["bytes"], demo().len());
    assert_eq!(report["files"][0]["cached"], true);
    assert_eq!(report["files"][0]["path"], path.to_str().unwrap());
    assert_eq!(server.downloads().len(), 1);
}

#[test]
fn a_model_of_the_hub_is_used_by_its_name() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::new("org/name").file(DEMO, demo());
    let server = Server::start(move |request, _| repo.answer(request));
    // -hf brings it, the others find it.
    for flags in [
        ["-hf", "org/name:IQ4_NL", "-v"],
        ["-hfr", "org/name", "--offline"],
        ["--hf-repo=org/name", "-hff", DEMO],
    ] {
        let mut args = vec!["tokenize", "-p", "Hello"];
        args.extend(flags);
        let (code, stdout, stderr) = outcome(&mut oxling(&server, cache.path(), &args));
        assert_eq!(code, Some(0), "{flags:?}: {stderr}");
        assert!(
            !stdout.is_empty() && !stderr.contains("demo model"),
            "{stderr}"
        );
    }
    assert_eq!(server.downloads().len(), 1);
    let args = [
        "run",
        "-hf",
        "org/name",
        "-st",
        "-p",
        "The capital of France is",
    ];
    let (code, stdout, stderr) = outcome(&mut oxling(&server, cache.path(), &args));
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "The capital of France is Paris.\n"),
        "{stderr}"
    );
}

#[test]
fn parts_of_a_split_model_are_found_beside_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("split.gguf");
    let made = Command::new(cargo_bin!("oxling"))
        .args([
            "synth",
            "--like",
            "tiny-ling",
            "--split-max-size",
            "4M",
            "--out",
        ])
        .arg(&out)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut repo = Repo::new("org/name");
    let mut parts = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        repo = repo.file(
            &format!("IQ4_NL/{name}"),
            std::fs::read(entry.path()).unwrap(),
        );
        parts += 1;
    }
    assert!(parts > 1);
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(move |request, _| repo.answer(request));
    let (code, stdout, stderr) = outcome(&mut oxling(&server, cache.path(), &["pull", "org/name"]));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout.lines().count(), parts);
    let first = stdout.lines().next().unwrap();
    let (code, stdout, stderr) = outcome(&mut oxling(
        &server,
        cache.path(),
        &["inspect", first, "--json"],
    ));
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["files"].as_array().unwrap().len(), parts);
}

#[test]
fn refusals_have_a_hint_and_keep_the_token_to_themselves() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Answer::new(403, "").with("X-Error-Code", "GatedRepo"));
    // Arguments, words of the error, words of the hint.
    let cases: [(&[&str], &str, &str); 7] = [
        (
            &["pull", "org/name"],
            "denies access to repository `org/name`",
            "another token",
        ),
        (
            &["pull", "org/name", "--offline"],
            "is not in the cache",
            "without --offline",
        ),
        (&["pull", "name"], "`name` names no repository", ""),
        (
            &["pull", "org/name", "--file", "../x"],
            "refused the file name `../x`",
            "",
        ),
        (
            &["pull", "org/name", "--revision", "/x"],
            "names no revision",
            "",
        ),
        (
            &["tokenize", "-p", "x", "-hf", "a/b", "-m", "c"],
            "-m and -hf both name a model",
            "leave one",
        ),
        (
            &["tokenize", "-p", "x", "-hff", "a.gguf"],
            "-hff names a file of no repository",
            "-hf ORG/NAME",
        ),
    ];
    for (args, message, hint) in cases {
        let mut command = oxling(&server, cache.path(), args);
        let (code, stdout, stderr) = outcome(command.env("HF_TOKEN", "hf_secret"));
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{args:?}: {stderr}");
        let line = |start: &str| stderr.lines().find(|line| line.starts_with(start)).unwrap();
        assert!(line("error: ").contains(message), "{args:?}: {stderr}");
        assert!(line("hint: ").contains(hint), "{args:?}: {stderr}");
        assert!(!stderr.contains("hf_secret"), "{args:?}: {stderr}");
    }
    let sent = server.log();
    assert_eq!(sent[0].header("authorization"), Some("Bearer hf_secret"));
}

#[test]
fn a_server_answers_while_its_model_arrives() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::new("org/name").file(DEMO, demo());
    let hub = Server::start(move |request, _| match request.is_download() {
        true => repo.answer(request).slow(Duration::from_micros(200)),
        false => repo.answer(request),
    });
    let flags = ["serve", "-hf", "org/name", "--port", "0", "-np", "1"];
    let mut command = oxling(&hub, cache.path(), &flags);
    let mut child = command.args(["-c", "256"]).stderr(Stdio::piped()).spawn();
    let child = child.as_mut().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().expect("an address").unwrap();
        if let Some((_, address)) = line.split_once("http://") {
            break address.parse().unwrap();
        }
    };
    let client = http::Client::new(address);
    let (start, mut arrived) = (Instant::now(), Vec::new());
    loop {
        let reply = client.get("/health");
        if reply.status == 200 {
            break;
        }
        assert_eq!(reply.status, 503);
        let error = reply.json()["error"].clone();
        if error["progress"]["what"] == format!("downloading {DEMO}") {
            assert_eq!(error["progress"]["total"], demo().len());
            arrived.extend(error["progress"]["done"].as_u64());
        }
        assert!(start.elapsed() < PATIENCE, "{error}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(arrived.is_sorted());
    arrived.dedup();
    assert!(arrived.len() > 2, "{arrived:?}");
    let body = serde_json::json!({ "prompt": "The capital of France is", "n_predict": 2 });
    assert_eq!(client.post("/completion", &body).status, 200);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_server_without_its_model_ends() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Server::start(|_, _| Answer::new(403, "").with("X-Error-Code", "GatedRepo"));
    let flags = ["serve", "-hf", "org/name", "--port", "0"];
    let (code, _, stderr) = outcome(&mut oxling(&hub, cache.path(), &flags));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("error: "), "{stderr}");
    assert!(
        stderr.contains("denies access to repository `org/name`"),
        "{stderr}"
    );
    assert!(stderr.contains("hint: "), "{stderr}");
}

/// Ctrl-C on a download that goes on for minutes.
#[cfg(unix)]
#[test]
fn ctrl_c_stops_and_the_next_run_goes_on() {
    let cache = tempfile::tempdir().unwrap();
    let repo = Repo::new("org/name").file(DEMO, demo());
    let server = Server::start(
        move |request, number| match (request.is_download(), number) {
            (true, 0) => repo.answer(request).slow(Duration::from_millis(20)),
            _ => repo.answer(request),
        },
    );
    let mut command = oxling(&server, cache.path(), &["pull", "org/name"]);
    let mut child = command
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let partial = cache
        .path()
        .join("models--org--name/blobs")
        .join(format!("{}.incomplete", hub_server::sha256(&demo())));
    let arrived = || std::fs::metadata(&partial).map_or(0, |m| m.len());
    let start = Instant::now();
    while arrived() < 4096 {
        assert!(start.elapsed() < PATIENCE, "nothing arrived");
        std::thread::sleep(Duration::from_millis(10));
    }
    let id = child.id().to_string();
    let killed = Command::new("kill").args(["-INT", &id]).status();
    assert!(killed.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let left = arrived();
    assert!(left >= 4096 && left < demo().len() as u64);

    let (code, stdout, stderr) = outcome(&mut oxling(&server, cache.path(), &["pull", "org/name"]));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(std::fs::read(stdout.trim_end()).unwrap() == demo());
    assert_eq!(server.downloads()[1].start() as u64, left);
}
