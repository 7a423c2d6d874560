//! Writing has an end: a client that takes nothing of its answer loses its connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A connection whose writes fail once the other side has taken nothing for so long. Time in which there was nothing to
/// write does not count.
pub(super) struct Patient<I> {
    io: I,
    most: Duration,
    /// Runs while a write waits.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<I> Patient<I> {
    pub fn new(io: I, most: Duration) -> Self {
        Self {
            io,
            most,
            timer: None,
        }
    }
}

impl<I: Unpin> Patient<I> {
    /// What becomes of an attempt that may have to wait.
    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        attempt: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if attempt.is_ready() {
            self.timer = None;
            return attempt;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.most)));
        ready!(timer.as_mut().poll(cx));
        let why = "the client takes nothing of its answer";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, to)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patient<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.judge(cx, attempt)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        self.judge(cx, attempt)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets keep nothing back: this says nothing about a write that waits.
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const MOST: Duration = Duration::from_millis(200);
    const ROOM: usize = 64;

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.expect("a runtime").block_on(work)
    }

    #[test]
    fn a_write_that_nobody_takes_fails_in_time() {
        run(async {
            let (io, other) = duplex(ROOM);
            let mut io = Patient::new(io, MOST);
            let began = std::time::Instant::now();
            let outcome = io.write_all(&[0; 2 * ROOM]).await;
            assert_eq!(
                outcome.expect_err("no room").kind(),
                io::ErrorKind::TimedOut
            );
            assert!(began.elapsed() >= MOST);
            drop(other);
        });
    }

    #[test]
    fn a_slow_reader_is_waited_for_as_long_as_it_takes_something() {
        run(async {
            let (io, mut other) = duplex(ROOM);
            let mut io = Patient::new(io, MOST);
            let reader = async {
                let mut taken = 0;
                // In all this takes several times as long as one write may.
                for _ in 0..8 {
                    sleep(MOST / 2).await;
                    taken += other.read(&mut [0; ROOM]).await.expect("bytes");
                }
                taken
            };
            let (sent, taken) = tokio::join!(io.write_all(&[0; 8 * ROOM]), reader);
            sent.expect("all is taken in the end");
            assert_eq!(taken, 8 * ROOM);
            // Silence is no waiting.
            sleep(2 * MOST).await;
            io.write_all(&[0; ROOM]).await.expect("there is room");
        });
    }
}
