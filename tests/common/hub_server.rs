//! A small hub on this machine, that misbehaves when told to.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

/// The commit that every test repository is at.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// Path and query.
    pub target: String,
    /// Headers by their names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Whether it asks for the contents of a file.
    pub fn is_download(&self) -> bool {
        self.target.contains("/resolve/") || self.target.starts_with("/storage/")
    }

    /// First byte asked for.
    pub fn start(&self) -> usize {
        let range = self.header("range").unwrap_or("bytes=0-");
        let start = range.strip_prefix("bytes=").unwrap();
        start.strip_suffix('-').unwrap().parse().unwrap()
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Closes the connection after so many bytes of the body.
    pub cut: Option<usize>,
    /// Time between two kilobytes of the body.
    pub pace: Duration,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    pub fn slow(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }
}

/// Answers a request; the number counts downloads, from 0.
type Script = dyn Fn(&Request, usize) -> Answer + Send + Sync;

/// Listens on a port of this machine until dropped.
pub struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(script: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (script, seen, ended): (Arc<Script>, _, _) =
            (Arc::new(script), Arc::clone(&log), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                let stream = stream.unwrap();
                // A client that goes away is part of the tests.
                std::thread::spawn(move || drop(serve(stream, script.as_ref(), &seen)));
            }
        });
        Self {
            address,
            log,
            stop,
            thread: Some(thread),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub fn log(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// The requests for contents.
    pub fn downloads(&self) -> Vec<Request> {
        let mut log = self.log();
        log.retain(Request::is_download);
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread from `accept`.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn serve(stream: TcpStream, script: &Script, log: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let Some(target) = line.split(' ').nth(1).map(str::to_owned) else {
        return Ok(());
    };
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let request = Request { target, headers };
    let number = {
        let mut log = log.lock().unwrap();
        let number = log.iter().filter(|r| r.is_download()).count();
        log.push(request.clone());
        number
    };
    write(stream, &script(&request, number))
}

fn write(mut stream: TcpStream, answer: &Answer) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Word\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", answer.body.len());
    stream.write_all(head.as_bytes())?;
    let sent = &answer.body[..answer.cut.unwrap_or(answer.body.len())];
    if answer.pace.is_zero() {
        stream.write_all(sent)?;
    } else {
        for chunk in sent.chunks(1024) {
            stream.write_all(chunk)?;
            stream.flush()?;
            std::thread::sleep(answer.pace);
        }
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // What the client still sends would otherwise reset the connection before it has read everything.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).map(|_| ())
}

/// A repository with files, as a hub serves it.
#[derive(Debug, Clone)]
pub struct Repo {
    pub id: String,
    pub files: BTreeMap<String, Vec<u8>>,
    /// Names that the list gives for other contents than the true ones.
    pub lies: BTreeMap<String, String>,
}

impl Repo {
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            files: BTreeMap::new(),
            lies: BTreeMap::new(),
        }
    }

    pub fn file(mut self, name: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.files.insert(name.to_owned(), contents.into());
        self
    }

    /// Lists a file under a checksum that it does not have.
    pub fn lie(mut self, name: &str, contents: &str) -> Self {
        self.lies.insert(name.to_owned(), contents.to_owned());
        self
    }

    /// What a well-behaved hub answers.
    pub fn answer(&self, request: &Request) -> Answer {
        let api = format!("/api/models/{}", self.id);
        if request.target == format!("{api}/revision/main") {
            return Answer::new(200, format!("{{\"sha\": \"{COMMIT}\"}}"));
        }
        if request.target == format!("{api}/tree/{COMMIT}?recursive=true") {
            return Answer::new(200, self.tree());
        }
        let file = request
            .target
            .strip_prefix(&format!("/{}/resolve/{COMMIT}/", self.id))
            .and_then(|name| self.files.get(name));
        match file {
            Some(contents) => contents_answer(request, contents),
            None => Answer::new(404, "{}").with("X-Error-Code", "RepoNotFound"),
        }
    }

    /// The list of files.
    pub fn tree(&self) -> String {
        let entry = |(name, contents): (&String, &Vec<u8>)| {
            let sha = self.lies.get(name).cloned();
            serde_json::json!({
                "type": "file",
                "path": name,
                "size": contents.len(),
                "oid": "89abcdef89abcdef89abcdef89abcdef89abcdef",
                "lfs": { "oid": sha.unwrap_or_else(|| sha256(contents)), "size": contents.len() },
            })
        };
        let folder = serde_json::json!({"type": "directory", "path": "folder", "oid": "x"});
        let mut entries = vec![folder];
        entries.extend(self.files.iter().map(entry));
        serde_json::Value::Array(entries).to_string()
    }
}

/// The contents from where they are asked for, with an etag.
pub fn contents_answer(request: &Request, contents: &[u8]) -> Answer {
    let etag = format!("\"{}\"", sha256(contents));
    let start = request.start();
    let same = request.header("if-range").is_none_or(|tag| tag == etag);
    if start == 0 || !same {
        return Answer::new(200, contents).with("ETag", etag);
    }
    if start >= contents.len() {
        return Answer::new(416, "");
    }
    let range = format!("bytes {start}-{}/{}", contents.len() - 1, contents.len());
    Answer::new(206, &contents[start..])
        .with("ETag", etag)
        .with("Content-Range", range)
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes without a pattern that a mix-up of offsets could hide in.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..bytes).map(next).collect()
}
