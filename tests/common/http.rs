//! A small HTTP client: one connection per request, bodies whole or as they arrive.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// No answer takes longer; a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The events of a stream: names (perhaps none) and data.
    pub fn events(&self) -> Vec<(String, String)> {
        let mut events = Vec::new();
        for block in self.text().split("\n\n").filter(|block| !block.is_empty()) {
            let field = |name: &str| {
                let lines = block.lines().filter_map(|line| line.strip_prefix(name));
                lines.collect::<Vec<_>>().join("\n")
            };
            if block.starts_with(':') {
                continue;
            }
            events.push((field("event: "), field("data: ")));
        }
        events
    }

    /// The JSON of a stream's events, without `[DONE]`.
    pub fn chunks(&self) -> Vec<Value> {
        let data = self.events().into_iter().map(|(_, data)| data);
        let json = data.filter(|data| data != "[DONE]");
        json.map(|data| serde_json::from_str(&data).expect("JSON"))
            .collect()
    }
}

/// A server to talk to.
#[derive(Debug, Clone)]
pub struct Client {
    pub address: SocketAddr,
    pub headers: Vec<(String, String)>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            headers: Vec::new(),
        }
    }

    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, body.to_string().as_bytes())
    }

    pub fn send(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        self.open(method, path, body).rest()
    }

    /// Sends a request and reads the head of its answer.
    pub fn open(&self, method: &str, path: &str, body: &[u8]) -> Open {
        let mut stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !self.headers.iter().any(|(name, _)| name == "host") {
            head += &format!("host: {}\r\n", self.address);
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if method != "GET" {
            head += &format!(
                "content-type: application/json\r\ncontent-length: {}\r\n",
                body.len()
            );
        }
        head += "\r\n";
        stream.write_all(head.as_bytes()).expect("sent");
        // A server that refuses a body by its length does not read it.
        let _ = stream.write_all(body);
        Open::read(stream)
    }
}

/// An answer whose body is still to come.
pub struct Open {
    reader: BufReader<TcpStream>,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    chunked: bool,
    left: Option<usize>,
}

impl Open {
    fn read(stream: TcpStream) -> Self {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).expect("a status line");
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status in {line:?}"));
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("headers");
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let find = |name: &str| {
            headers
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
        };
        Self {
            chunked: find("transfer-encoding").is_some_and(|v| v == "chunked"),
            left: find("content-length").and_then(|v| v.parse().ok()),
            reader,
            status,
            headers,
        }
    }

    /// The next piece of the body; empty at its end.
    pub fn piece(&mut self) -> Vec<u8> {
        if !self.chunked {
            let mut body = Vec::new();
            match self.left.take() {
                Some(n) => {
                    body.resize(n, 0);
                    self.reader.read_exact(&mut body).expect("the body");
                }
                None => drop(self.reader.read_to_end(&mut body)),
            }
            return body;
        }
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a chunk's size");
        let n = usize::from_str_radix(line.trim(), 16).expect("a size");
        let mut chunk = vec![0; n + 2];
        self.reader.read_exact(&mut chunk).expect("a chunk");
        chunk.truncate(n);
        chunk
    }

    pub fn rest(mut self) -> Reply {
        let mut body = Vec::new();
        loop {
            let piece = self.piece();
            if piece.is_empty() {
                break;
            }
            body.extend(piece);
        }
        Reply {
            status: self.status,
            headers: self.headers,
            body,
        }
    }
}
