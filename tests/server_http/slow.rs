//! Clients that take their time, and too many of them.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use oxling::server::http::{Limits, ServerConfig};
use serde_json::json;

use crate::played::{Running, answering};
use crate::{chat, config};

/// Most time for a head, or for a rest within a body.
const IDLE: Duration = Duration::from_secs(2);
/// Beyond its time a connection may live this long on a machine that does other work too.
const SLACK: Duration = Duration::from_secs(3);
const SLOW: usize = 200;
/// Time between two bytes of a slow client: shorter than any rest that is allowed.
const PACE: Duration = Duration::from_millis(250);

fn server(connections: usize) -> Running {
    let limits = Limits {
        idle: IDLE,
        connections,
        ..Limits::default()
    };
    answering(ServerConfig { limits, ..config() }, "Hello").0
}

fn connect(server: &Running, head: &str) -> TcpStream {
    let mut socket = TcpStream::connect(server.client.address).expect("the server listens");
    socket.set_nonblocking(true).expect("a socket");
    socket.write_all(head.as_bytes()).expect("sent");
    socket
}

/// What has come by now; `None` as long as the connection is open and silent.
fn heard(socket: &mut TcpStream) -> Option<String> {
    let mut text = [0; 512];
    match socket.read(&mut text) {
        Ok(n) => Some(String::from_utf8_lossy(&text[..n]).into_owned()),
        Err(e) if e.kind() == ErrorKind::WouldBlock => None,
        Err(_) => Some(String::new()),
    }
}

/// Sends a byte on every connection now and then, and asks something else meanwhile; gives what each one heard at its
/// end, and when the last one ended.
fn drip(server: &Running, mut sockets: Vec<TcpStream>) -> (Vec<String>, Duration) {
    let (began, mut ends) = (Instant::now(), Vec::new());
    while !sockets.is_empty() {
        sockets.retain_mut(|socket| match heard(socket) {
            Some(text) => {
                ends.push(text);
                false
            }
            None => {
                // One that is closed already is seen at the next look.
                let _ = socket.write_all(b"x");
                true
            }
        });
        let asked = Instant::now();
        let reply = server.client.post("/v1/chat/completions", &chat(json!({})));
        assert_eq!(reply.status, 200);
        assert!(asked.elapsed() < IDLE, "slow clients keep others waiting");
        assert!(began.elapsed() < IDLE + SLACK, "{} live on", sockets.len());
        std::thread::sleep(PACE);
    }
    (ends, began.elapsed())
}

#[test]
fn slow_heads_and_bodies_end_and_block_nobody() {
    let server = server(2 * SLOW);
    let heads =
        (0..SLOW).map(|_| connect(&server, "GET /health HTTP/1.1\r\nhost: localhost\r\nx: "));
    let (ends, took) = drip(&server, heads.collect());
    assert_eq!(ends.len(), SLOW);
    assert!(took > IDLE / 2, "closed after {took:?} already");

    let head = "POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n";
    let bodies = (0..SLOW).map(|_| connect(&server, head));
    let (ends, took) = drip(&server, bodies.collect());
    assert!(took > IDLE / 2, "closed after {took:?} already");
    for end in ends {
        assert!(end.starts_with("HTTP/1.1 408 "), "{end}");
    }
}

#[test]
fn connections_that_rest_are_closed() {
    let server = server(4);
    let request = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut socket = connect(&server, request);
    let began = Instant::now();
    let mut texts = Vec::new();
    while texts.last().is_none_or(|text: &String| !text.is_empty()) {
        texts.extend(heard(&mut socket));
        assert!(began.elapsed() < IDLE + SLACK, "{texts:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(texts[0].starts_with("HTTP/1.1 200 "), "{texts:?}");
    assert!(began.elapsed() > IDLE / 2);
}

#[test]
fn connections_have_a_bound() {
    let server = server(3);
    let mut held: Vec<TcpStream> = (0..3).map(|_| connect(&server, "GET ")).collect();
    let began = Instant::now();
    let mut one_more = connect(&server, "");
    let text = loop {
        match heard(&mut one_more) {
            Some(text) => break text,
            None => assert!(began.elapsed() < IDLE, "neither served nor refused"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    assert!(text.contains("retry-after: 1\r\n"), "{text}");
    assert!(held.iter_mut().all(|socket| heard(socket).is_none()));
    // A place is free again when a client has left.
    drop(held);
    while TcpStream::connect(server.client.address).is_ok_and(|mut socket| {
        let timeout = socket.set_read_timeout(Some(Duration::from_millis(50)));
        timeout.is_ok() && socket.read(&mut [0; 16]).is_ok_and(|n| n > 0)
    }) {
        assert!(began.elapsed() < IDLE + SLACK, "places do not come back");
    }
    assert_eq!(server.client.get("/health").status, 200);
}
