//! Downloads against a hub on this machine: connections that break, servers that cheat, and what is left on the disk.

#![forbid(unsafe_code)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "common/hub_server.rs"]
mod hub_server;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hub_server::{Answer, COMMIT, Repo, Request, Server, contents_answer, noise, sha256};
use oxling::hub::{Event, Hub, HubError, Pulled, Reference, Settings, Token, Wanted};

const FILE: &str = "m-Q4_K_M.gguf";
const SIZE: usize = 300_000;
const ATTEMPTS: u32 = 4;
/// Where connections break.
const CUT: usize = 123_456;

/// Settings that wait for nothing and know no environment.
fn settings(server: &Server, cache: &Path) -> Settings {
    let none = |name: &str| (name == "HOME").then(|| "unused".to_owned());
    let mut settings = Settings::from_env(none).unwrap();
    settings.endpoint = server.url();
    settings.cache = cache.to_owned();
    settings.proxy = false;
    settings.attempts = ATTEMPTS;
    settings.first_wait = Duration::from_millis(1);
    settings.silence = Duration::from_secs(10);
    settings
}

fn wanted(text: &str) -> Wanted {
    let reference: Reference = text.parse().unwrap();
    Wanted {
        repo: reference.repo,
        tag: reference.tag,
        file: None,
        revision: "main".parse().unwrap(),
    }
}

fn pull_with(settings: Settings, wanted: &Wanted) -> Result<Pulled, HubError> {
    let hub = Hub::new(settings)?;
    hub.pull(wanted, &AtomicBool::new(false), &mut |_| ())
}

fn pull(server: &Server, cache: &Path) -> Result<Pulled, HubError> {
    pull_with(settings(server, cache), &wanted("org/name"))
}

fn folder(cache: &Path) -> PathBuf {
    cache.join("models--org--name")
}

fn partial(cache: &Path, contents: &[u8]) -> PathBuf {
    folder(cache).join(format!("blobs/{}.incomplete", sha256(contents)))
}

/// A repository with one model, and its contents.
fn one() -> (Repo, Vec<u8>) {
    let contents = noise(SIZE, 1);
    let repo = Repo::new("org/name")
        .file("README.md", "read me")
        .file(FILE, contents.clone());
    (repo, contents)
}

/// Asserts that the pull gave these contents, and that nothing unfinished is left.
fn assert_whole(pulled: &Pulled, contents: &[u8], cache: &Path) {
    assert!(fs::read(&pulled.files[0].path).unwrap() == contents);
    assert!(!partial(cache, contents).exists());
}

#[test]
fn a_file_arrives_and_is_found_again() {
    let (repo, contents) = one();
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(move |request, _| repo.answer(request));
    let hub = Hub::new(settings(&server, cache.path())).unwrap();
    let (mut bytes, mut done) = (0, 0);
    let pulled = hub.pull(
        &wanted("org/name"),
        &AtomicBool::new(false),
        &mut |event| match event {
            Event::Advanced(n) => bytes += n,
            Event::Done { name } => done += usize::from(name.as_str() == FILE),
            Event::Downloading { from, bytes, .. } => assert_eq!((from, bytes), (0, SIZE as u64)),
            other => panic!("{other:?}"),
        },
    );
    let pulled = pulled.unwrap();
    assert_eq!((bytes, done), (SIZE as u64, 1));
    assert_whole(&pulled, &contents, cache.path());
    assert!(!pulled.files[0].cached);
    let home = folder(cache.path());
    let snapshot = home.join("snapshots").join(COMMIT).join(FILE);
    assert_eq!(pulled.files[0].path, snapshot);
    let blob = home.join("blobs").join(sha256(&contents));
    assert_eq!(
        fs::canonicalize(&snapshot).unwrap(),
        fs::canonicalize(blob).unwrap()
    );
    assert_eq!(fs::read_to_string(home.join("refs/main")).unwrap(), COMMIT);
    assert!(server.downloads()[0].header("range").is_none());

    let again = pull(&server, cache.path()).unwrap();
    assert!(again.files[0].cached);
    assert_eq!(server.downloads().len(), 1);
}

#[test]
fn what_other_tools_downloaded_is_used() {
    let (repo, contents) = one();
    let server = Server::start(move |request, _| repo.answer(request));
    // A blob without its link, as after an update that did not touch the file; and a plain file instead of a link.
    for place in [
        format!("blobs/{}", sha256(&contents)),
        format!("snapshots/{COMMIT}/{FILE}"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let path = folder(cache.path()).join(&place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &contents).unwrap();
        let pulled = pull(&server, cache.path()).unwrap();
        assert!(pulled.files[0].cached, "{place}");
        assert_whole(&pulled, &contents, cache.path());
    }
    assert!(server.downloads().is_empty());
}

#[test]
fn a_broken_connection_is_resumed() {
    let (repo, contents) = one();
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(move |request, number| match number {
        0 if request.is_download() => repo.answer(request).cut_after(CUT),
        1 if request.is_download() => repo.answer(request).cut_after(0),
        2 if request.is_download() => Answer::new(503, ""),
        _ => repo.answer(request),
    });
    let pulled = pull(&server, cache.path()).unwrap();
    assert_whole(&pulled, &contents, cache.path());
    let etag = format!("\"{}\"", sha256(&contents));
    let downloads = server.downloads();
    assert_eq!(downloads.len(), 4);
    for request in &downloads[1..] {
        assert_eq!(request.start(), CUT);
        assert_eq!(request.header("if-range"), Some(etag.as_str()));
    }
}

#[test]
fn attempts_without_progress_come_to_an_end() {
    let (repo, contents) = one();
    let cache = tempfile::tempdir().unwrap();
    // Ignores ranges and breaks off: each answer brings bytes, none brings new ones.
    let server = Server::start(move |request, _| match request.is_download() {
        true => Answer::new(200, noise(SIZE, 1)).cut_after(CUT),
        false => repo.answer(request),
    });
    let error = pull(&server, cache.path()).unwrap_err();
    assert!(
        matches!(&error, HubError::Cut { .. } | HubError::Connection { .. }),
        "{error:?}"
    );
    assert!(error.hint().is_some());
    assert_eq!(server.downloads().len(), ATTEMPTS as usize);
    assert_eq!(
        fs::read(partial(cache.path(), &contents)).unwrap(),
        contents[..CUT]
    );
    assert!(!folder(cache.path()).join("snapshots").exists());
}

#[test]
fn what_an_earlier_run_left_is_continued_if_it_is_right() {
    let mut damaged = noise(SIZE, 1)[..CUT].to_vec();
    damaged[1000] ^= 1;
    let mut full_of_zeros = noise(SIZE, 1);
    full_of_zeros[CUT..].fill(0);
    // What is there, and where the requests start.
    let cases: [(&str, Vec<u8>, &[usize]); 5] = [
        ("right", noise(SIZE, 1)[..CUT].to_vec(), &[CUT]),
        ("complete", noise(SIZE, 1), &[]),
        ("damaged", damaged, &[CUT, 0]),
        ("as long as it should be", full_of_zeros, &[0]),
        ("too long", noise(SIZE + 1, 1), &[0]),
    ];
    for (what, left, starts) in cases {
        let (repo, contents) = one();
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(move |request, _| repo.answer(request));
        let path = partial(cache.path(), &contents);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, left).unwrap();
        let pulled = pull(&server, cache.path()).unwrap();
        assert_whole(&pulled, &contents, cache.path());
        let downloads = server.downloads();
        let asked: Vec<usize> = downloads.iter().map(|request| request.start()).collect();
        assert_eq!(asked, starts, "{what}");
    }
}

#[test]
fn servers_without_ranges_are_started_over() {
    let (repo, contents) = one();
    let cache = tempfile::tempdir().unwrap();
    let whole = contents.clone();
    let server = Server::start(
        move |request, number| match (request.is_download(), number) {
            (true, 0) => Answer::new(200, whole.clone()).cut_after(CUT),
            (true, _) => Answer::new(200, whole.clone()),
            _ => repo.answer(request),
        },
    );
    let pulled = pull(&server, cache.path()).unwrap();
    assert_whole(&pulled, &contents, cache.path());
    assert_eq!(server.downloads()[1].start(), CUT);
}

#[test]
fn wrong_contents_are_refused_and_removed() {
    let (repo, contents) = one();
    let truth = sha256(&contents);
    let lie = sha256(b"something else");
    let repo = repo.lie(FILE, &lie);
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(move |request, _| repo.answer(request));
    let error = pull(&server, cache.path()).unwrap_err();
    let HubError::Checksum {
        expected, found, ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!((expected, found), (&lie, &truth));
    assert!(error.hint().is_some());
    let blobs = fs::read_dir(folder(cache.path()).join("blobs")).unwrap();
    assert_eq!(blobs.count(), 0);
    assert!(!folder(cache.path()).join("snapshots").exists());
    assert_eq!(server.downloads().len(), 1);
}

#[test]
fn another_version_is_not_taken_for_the_first() {
    let (repo, contents) = one();
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(
        move |request, number| match (request.is_download(), number) {
            (true, 0) => repo.answer(request).cut_after(CUT),
            // Heeds If-Range: the other version comes whole.
            (true, _) => contents_answer(request, &noise(SIZE, 2)),
            _ => repo.answer(request),
        },
    );
    let error = pull(&server, cache.path()).unwrap_err();
    assert!(matches!(error, HubError::Checksum { .. }), "{error:?}");
    assert!(!partial(cache.path(), &contents).exists());
}

#[test]
fn what_does_not_continue_the_first_answer_is_not_appended() {
    let answer = |start: usize, size: usize, etag: &str| {
        let end = SIZE - 1;
        Answer::new(206, &noise(SIZE, 1)[start..])
            .with("ETag", format!("\"{etag}\""))
            .with("Content-Range", format!("bytes {start}-{end}/{size}"))
    };
    let same = sha256(&noise(SIZE, 1));
    let wrong = [
        ("another version", answer(CUT, SIZE, "other")),
        ("another place", answer(CUT - 1, SIZE, &same)),
        ("another size", answer(CUT, SIZE + 1, &same)),
        (
            "no range",
            Answer::new(206, "x").with("ETag", format!("\"{same}\"")),
        ),
        ("nothing", Answer::new(416, "")),
    ];
    for (what, wrong) in wrong {
        let (repo, contents) = one();
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(
            move |request, number| match (request.is_download(), number) {
                (true, 0) => repo.answer(request).cut_after(CUT),
                (true, 1) => wrong.clone(),
                _ => repo.answer(request),
            },
        );
        let hub = Hub::new(settings(&server, cache.path())).unwrap();
        let stop = AtomicBool::new(false);
        let pulled = hub.pull(&wanted("org/name"), &stop, &mut |event| {
            // The checksum would notice as well, after all bytes came once more.
            if let Event::Retrying { because, .. } = event {
                assert!(
                    because.to_string().contains("127.0.0.1"),
                    "{what}: {because}"
                );
            }
        });
        assert_whole(&pulled.unwrap(), &contents, cache.path());
        let starts: Vec<usize> = server.downloads().iter().map(Request::start).collect();
        assert_eq!(starts, [0, CUT, 0], "{what}");
    }
}

#[test]
fn answers_that_contradict_the_list_are_refused() {
    type Change = fn(Answer) -> Answer;
    let cases: [(&str, Change); 2] = [
        ("bytes", |_| Answer::new(200, "<html>sign in</html>")),
        ("contents", |answer| {
            answer.with("X-Linked-Etag", format!("\"{}\"", sha256(b"other")))
        }),
    ];
    for (what, change) in cases {
        let (repo, contents) = one();
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(move |request, _| match request.is_download() {
            true => change(repo.answer(request)),
            false => repo.answer(request),
        });
        let error = pull(&server, cache.path()).unwrap_err();
        assert!(
            matches!(error, HubError::Changed { .. }),
            "{what}: {error:?}"
        );
        assert!(
            !folder(cache.path())
                .join("blobs")
                .join(sha256(&contents))
                .exists()
        );
    }
}

#[test]
fn the_token_goes_to_the_hub_only() {
    let (repo, contents) = one();
    let cache = tempfile::tempdir().unwrap();
    let body = contents.clone();
    let storage = Server::start(move |request, number| match number {
        0 => contents_answer(request, &body).cut_after(CUT),
        _ => contents_answer(request, &body),
    });
    let there = format!("{}/storage/x?signature=s", storage.url());
    let linked = format!("\"{}\"", sha256(&contents));
    let server = Server::start(move |request, _| match request.is_download() {
        true => Answer::new(302, "")
            .with("Location", there.clone())
            .with("X-Linked-Etag", linked.clone()),
        // A move within the hub keeps the token.
        false if request.target.contains("/org/name/") => {
            let target = request.target.replace("/org/name/", "/org/renamed/");
            Answer::new(307, "").with("Location", target)
        }
        false => {
            let mut request = request.clone();
            request.target = request.target.replace("/org/renamed/", "/org/name/");
            repo.answer(&request)
        }
    });
    let mut settings = settings(&server, cache.path());
    settings.token = Some(Token::new("hf_secret").unwrap());
    let pulled = pull_with(settings, &wanted("org/name")).unwrap();
    assert_whole(&pulled, &contents, cache.path());
    assert_eq!(server.log().len(), 6);
    for request in server.log() {
        assert_eq!(request.header("authorization"), Some("Bearer hf_secret"));
    }
    let stored = storage.log();
    assert_eq!((stored.len(), stored[1].start()), (2, CUT));
    for request in stored {
        assert_eq!(request.header("authorization"), None);
        assert!(!format!("{request:?}").contains("hf_secret"));
    }
}

#[test]
fn refusals_say_what_helps() {
    // Status, the hub's code, whether we have a token; words of the message and of the hint.
    let cases = [
        (
            404,
            "RepoNotFound",
            false,
            "has no repository `org/name`",
            "HF_TOKEN",
        ),
        (
            401,
            "RepoNotFound",
            false,
            "has no repository `org/name`",
            "HF_TOKEN",
        ),
        (
            404,
            "RepoNotFound",
            true,
            "has no repository `org/name`",
            "check the name",
        ),
        (
            401,
            "GatedRepo",
            false,
            "denies access to repository `org/name` (HTTP 401)",
            "accept the terms",
        ),
        (403, "GatedRepo", true, "(HTTP 403)", "another token"),
        (
            404,
            "RevisionNotFound",
            false,
            "has no revision `main` of `org/name`",
            "check the name",
        ),
        (500, "", false, "HTTP 500", "--offline"),
    ];
    for (status, code, token, message, hint) in cases {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(move |_, _| Answer::new(status, "").with("X-Error-Code", code));
        let mut settings = settings(&server, cache.path());
        settings.token = token.then(|| Token::new("hf_secret").unwrap());
        let error = pull_with(settings, &wanted("org/name")).unwrap_err();
        assert!(
            error.to_string().contains(message),
            "{status} {code}: {error}"
        );
        assert!(
            error.hint().unwrap().contains(hint),
            "{status} {code}: {:?}",
            error.hint()
        );
    }
}

#[test]
fn a_file_that_vanished_is_named() {
    let (repo, _) = one();
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(move |request, _| match request.is_download() {
        true => Answer::new(404, "").with("X-Error-Code", "EntryNotFound"),
        false => repo.answer(request),
    });
    let error = pull(&server, cache.path()).unwrap_err().to_string();
    assert!(error.contains(FILE), "{error}");
}

#[test]
fn rate_limits_are_waited_for_unless_they_are_long() {
    for (seconds, passes) in [("0", true), ("3600", false)] {
        let (repo, contents) = one();
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(
            move |request, number| match (request.is_download(), number) {
                (true, 0) => Answer::new(429, "").with("Retry-After", seconds),
                _ => repo.answer(request),
            },
        );
        let result = pull(&server, cache.path());
        if passes {
            assert_whole(&result.unwrap(), &contents, cache.path());
            continue;
        }
        let error = result.unwrap_err();
        let seconds = match &error {
            HubError::RateLimited { seconds, .. } => *seconds,
            _ => None,
        };
        assert_eq!(seconds, Some(3600), "{error:?}");
        assert!(error.to_string().contains("again in 3600 s"), "{error}");
        assert_eq!(server.downloads().len(), 1);
    }
}

#[test]
fn nonsense_from_the_hub_is_no_list() {
    for body in ["<html>", "{\"sha\": \"../../x\"}", "{}"] {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(move |_, _| Answer::new(200, body));
        let error = pull(&server, cache.path()).unwrap_err();
        assert!(
            matches!(error, HubError::Answer { .. }),
            "{body}: {error:?}"
        );
    }
}

#[test]
fn all_parts_of_a_split_model_arrive_in_order() {
    let part = |no: usize| format!("Q8/m-Q8_0-{no:05}-of-00003.gguf");
    let mut repo = Repo::new("org/name").file("m-Q6_K.gguf", "another");
    for no in [3, 1, 2] {
        repo = repo.file(&part(no), noise(1000 + no, no as u64));
    }
    let incomplete = repo.clone();
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(move |request, _| repo.answer(request));
    let wanted = wanted("org/name:q8_0");
    let pulled = pull_with(settings(&server, cache.path()), &wanted).unwrap();
    assert_eq!(pulled.files.len(), 3);
    for (no, file) in (1..).zip(&pulled.files) {
        assert_eq!(file.name.as_str(), part(no));
        assert_eq!(fs::read(&file.path).unwrap(), noise(1000 + no, no as u64));
    }
    // One folder holds them, as readers of split models expect.
    assert_eq!(pulled.files[0].path.parent(), pulled.files[2].path.parent());

    let cache = tempfile::tempdir().unwrap();
    let mut repo = incomplete;
    repo.files.remove(&part(2));
    let server = Server::start(move |request, _| repo.answer(request));
    let error = pull_with(settings(&server, cache.path()), &wanted).unwrap_err();
    assert!(error.to_string().contains(&part(2)), "{error}");
    assert!(server.downloads().is_empty());
}

#[test]
fn long_lists_come_in_pages() {
    let (repo, contents) = one();
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(move |request, _| {
        let next = "/api/models/org/name/tree/page?cursor=2";
        if request.target == next {
            return Answer::new(200, repo.tree());
        }
        if request.target.contains("/tree/") {
            // By the name of another host, as behind a mirror.
            let link = format!("<https://elsewhere.invalid{next}>; rel=\"next\"");
            return Answer::new(200, "[]").with("Link", link);
        }
        repo.answer(request)
    });
    let pulled = pull(&server, cache.path()).unwrap();
    assert_whole(&pulled, &contents, cache.path());
}

#[test]
fn offline_is_the_cache_and_nothing_else() {
    let (repo, contents) = one();
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(move |request, _| repo.answer(request));
    let offline = |name: &str| {
        let mut settings = settings(&server, cache.path());
        settings.offline = true;
        pull_with(settings, &wanted(name))
    };
    let miss = offline("org/name").unwrap_err();
    assert!(matches!(miss, HubError::NotCached { .. }), "{miss:?}");
    assert!(miss.hint().unwrap().contains("--offline"));
    assert!(server.log().is_empty());

    pull(&server, cache.path()).unwrap();
    let asked = server.log().len();
    let hit = offline("org/name:Q4_K_M").unwrap();
    assert!(hit.files[0].cached && hit.files[0].bytes == SIZE as u64);
    assert_whole(&hit, &contents, cache.path());
    let other = offline("org/name:Q8_0").unwrap_err();
    assert!(
        other
            .to_string()
            .contains("no GGUF file of `Q8_0` in the cache"),
        "{other}"
    );
    assert_eq!(server.log().len(), asked);
}

#[test]
fn the_cache_helps_out_when_the_hub_is_away() {
    let (repo, contents) = one();
    let cache = tempfile::tempdir().unwrap();
    let settings = {
        let server = Server::start(move |request, _| repo.answer(request));
        pull(&server, cache.path()).unwrap();
        settings(&server, cache.path())
    };
    let mut said = false;
    let hub = Hub::new(settings.clone()).unwrap();
    let pulled = hub.pull(&wanted("org/name"), &AtomicBool::new(false), &mut |event| {
        said |= matches!(event, Event::Cached { .. });
    });
    assert_whole(&pulled.unwrap(), &contents, cache.path());
    assert!(said);
    // What is not there stays the hub's trouble, not the cache's.
    let error = pull_with(settings, &wanted("org/other")).unwrap_err();
    assert!(matches!(error, HubError::Connection { .. }), "{error:?}");
}

#[test]
fn two_at_once_download_once() {
    let (repo, contents) = one();
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(move |request, _| match request.is_download() {
        true => repo.answer(request).slow(Duration::from_millis(3)),
        false => repo.answer(request),
    });
    let waits = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let hub = Hub::new(settings(&server, cache.path())).unwrap();
                let stop = AtomicBool::new(false);
                let pulled = hub.pull(&wanted("org/name"), &stop, &mut |event| {
                    let waiting = matches!(event, Event::Waiting { .. });
                    waits.fetch_add(usize::from(waiting), Ordering::SeqCst);
                });
                results.lock().unwrap().push(pulled.unwrap());
            });
        }
    });
    let results = results.into_inner().unwrap();
    for pulled in &results {
        assert_whole(pulled, &contents, cache.path());
    }
    assert_eq!(server.downloads().len(), 1);
    assert_eq!(waits.into_inner(), 1);
    assert_eq!(results.iter().filter(|p| p.files[0].cached).count(), 1);
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    for name in ["../../../evil.gguf", "/evil.gguf", "a\\..\\evil.gguf"] {
        let cache = tempfile::tempdir().unwrap();
        let repo = Repo::new("org/name").file(name, "evil");
        let server = Server::start(move |request, _| repo.answer(request));
        let error = pull(&server, cache.path()).unwrap_err();
        assert!(
            matches!(error, HubError::UnsafeName { .. }),
            "{name}: {error:?}"
        );
        assert!(server.downloads().is_empty());
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    }
    let cache = tempfile::tempdir().unwrap();
    let (repo, _) = one();
    let repo = repo.lie(FILE, "../../evil");
    let server = Server::start(move |request, _| repo.answer(request));
    let error = pull(&server, cache.path()).unwrap_err();
    assert!(matches!(error, HubError::Answer { .. }), "{error:?}");
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
}

#[test]
fn stopping_keeps_what_arrived() {
    let (repo, contents) = one();
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(
        move |request, number| match (request.is_download(), number) {
            (true, 0) => repo.answer(request).slow(Duration::from_millis(2)),
            _ => repo.answer(request),
        },
    );
    let hub = Hub::new(settings(&server, cache.path())).unwrap();
    let stop = AtomicBool::new(false);
    let mut arrived = 0;
    let stopped = hub.pull(&wanted("org/name"), &stop, &mut |event| {
        if let Event::Advanced(n) = event {
            arrived += n;
            stop.store(arrived > 10_000, Ordering::SeqCst);
        }
    });
    assert!(matches!(stopped, Err(HubError::Stopped)), "{stopped:?}");
    let left = fs::read(partial(cache.path(), &contents)).unwrap();
    assert!(left.len() as u64 == arrived && left == contents[..left.len()]);
    assert!(left.len() < SIZE);
    let pulled = pull(&server, cache.path()).unwrap();
    assert_whole(&pulled, &contents, cache.path());
    assert_eq!(server.downloads()[1].start(), left.len());
}

#[test]
fn a_full_or_closed_disk_is_said() {
    let (repo, _) = one();
    let folder = tempfile::tempdir().unwrap();
    // A file where the cache's folder should be.
    let cache = folder.path().join("file");
    fs::write(&cache, "").unwrap();
    let server = Server::start(move |request, _| repo.answer(request));
    let error = pull(&server, &cache).unwrap_err();
    assert!(matches!(error, HubError::Disk { .. }), "{error:?}");
    let full = HubError::Disk {
        path: cache,
        action: "write the download",
        source: std::io::ErrorKind::StorageFull.into(),
    };
    assert!(full.hint().unwrap().contains("make room"));
}
