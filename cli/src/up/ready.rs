//! Waiting for a process to say that it is ready.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);
/// A probe that takes longer has failed.
const PROBE: Duration = Duration::from_secs(2);
/// The status line is at the very beginning of an answer.
const HEAD: u64 = 1024;

/// An interval to look again at.
pub fn poll_interval() -> Interval {
    let mut interval = interval(POLL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Waits until `/readyz` at `address` answers 200.
///
/// # Errors
/// When it has not after `limit`; says what came last.
pub async fn wait(what: &str, address: SocketAddr, limit: Duration) -> Result<()> {
    let mut last = "nothing answers".to_owned();
    let ready = async {
        let mut again = poll_interval();
        loop {
            again.tick().await;
            match timeout(PROBE, probe(address)).await {
                Ok(Ok(200)) => return,
                Ok(Ok(status)) => last = format!("it answers {status}"),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => last = "it does not answer in time".into(),
            }
        }
    };
    if timeout(limit, ready).await.is_ok() {
        return Ok(());
    }
    bail!("the {what} is not ready after {limit:?} (http://{address}/readyz: {last})")
}

/// Status of `GET /readyz`.
async fn probe(address: SocketAddr) -> io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    stream.take(HEAD).read_to_end(&mut head).await?;
    status(&head).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it does not speak HTTP"))
}

/// Status code of an HTTP/1.1 answer (RFC 9112 §4).
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|octet| *octet == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line() {
        assert_eq!(status(b"HTTP/1.1 503 Service Unavailable\r\n\r\ndraining"), Some(503));
        for bad in [
            &b""[..],
            b"SIP/2.0 200 OK\r\n",
            b"HTTP/1.1\r\n",
            b"HTTP/1.1 ok\r\n",
            b"\xff",
        ] {
            assert_eq!(status(bad), None);
        }
    }

    #[tokio::test]
    async fn waiting_goes_on_until_the_answer_is_200() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            for answer in ["HTTP/1.1 503 no\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 256];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let (waited, ()) = tokio::join!(wait("test", address, Duration::from_secs(10)), server);
        waited.unwrap();
    }

    #[tokio::test]
    async fn giving_up_says_what_came_last() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = wait("worker", address, Duration::from_millis(200))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("the worker is not ready after"), "{error}");
        assert!(error.contains("refused"), "{error}");
    }
}
