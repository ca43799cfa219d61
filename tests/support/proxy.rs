//! An HTTP proxy on the loopback address that writes down what it is asked.
//!
//! Names are not resolved: whatever the host, the connection goes to the same port of this machine.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy,
    copy_bidirectional,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A request to the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `CONNECT registry.test:443`, or `GET http://registry.test/v2/...`.
    pub line: String,
    /// `Proxy-Authorization`.
    pub authorization: Option<String>,
    /// `Authorization`, which is not for the proxy.
    pub credentials: Option<String>,
}

/// A proxy. Ends when it is dropped.
pub struct TestProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    accepting: JoinHandle<()>,
}

impl TestProxy {
    /// One that asks nobody who they are.
    pub async fn start() -> Self {
        Self::requiring(None).await
    }

    /// One that answers 407 without this `Proxy-Authorization`.
    pub async fn requiring(authorization: Option<&str>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("a bound socket");
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (seen, required) = (Arc::clone(&asked), authorization.map(str::to_owned));
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, required) = (Arc::clone(&seen), required.clone());
                connections
                    .spawn(async move { serve(stream, &seen, required.as_deref()).await.ok() });
            }
        });
        Self {
            address,
            asked,
            accepting,
        }
    }

    /// Accepts nothing any more, and ends what it had accepted.
    pub fn stop(&self) {
        self.accepting.abort();
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What was asked since the last call.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().expect("no one panics with the lock"))
    }

    /// The lines of [`Self::take`].
    pub fn take_lines(&self) -> Vec<String> {
        self.take().into_iter().map(|asked| asked.line).collect()
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    stream: TcpStream,
    asked: &Mutex<Vec<Asked>>,
    required: Option<&str>,
) -> io::Result<()> {
    let mut client = BufReader::new(stream);
    let (mut answers, mut sink) = {
        let head = head(&mut client).await?;
        let (line, allowed) = note(&head, asked, required);
        if !allowed {
            let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
            return client.write_all(refusal.as_bytes()).await;
        }
        if let Some(place) = line.strip_prefix("CONNECT ") {
            let mut there = dial(place).await?;
            client
                .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                .await?;
            copy_bidirectional(&mut client, &mut there).await?;
            return Ok(());
        }
        let place = line
            .split("://")
            .nth(1)
            .and_then(|rest| rest.split('/').next());
        let (answers, mut sink) = dial(place.unwrap_or_default()).await?.into_split();
        sink.write_all(forwarded(&head).as_bytes()).await?;
        (answers, sink)
    };
    // Further requests on this connection are for the same host.
    let (requests, mut back) = client.into_inner().into_split();
    let mut requests = BufReader::new(requests);
    let onward = async {
        loop {
            let head = head(&mut requests).await?;
            note(&head, asked, required);
            sink.write_all(forwarded(&head).as_bytes()).await?;
        }
    };
    tokio::select! {
        ended = onward => { let ended: io::Result<()> = ended; ended?; }
        ended = copy(&mut answers, &mut back) => { ended?; }
    }
    Ok(())
}

/// A request up to its empty line.
async fn head(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.take(64 * 1024).read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

fn note(head: &str, asked: &Mutex<Vec<Asked>>, required: Option<&str>) -> (String, bool) {
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let line = head.lines().next().unwrap_or_default();
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    let authorization = header("proxy-authorization");
    let allowed = required.is_none() || authorization.as_deref() == required;
    asked
        .lock()
        .expect("no one panics with the lock")
        .push(Asked {
            line: line.clone(),
            authorization,
            credentials: header("authorization"),
        });
    (line, allowed)
}

/// The request as the target gets it: with a path, and without what is for the proxy.
fn forwarded(head: &str) -> String {
    let (first, rest) = head.split_once("\r\n").unwrap_or_default();
    let (method, url) = first.split_once(' ').unwrap_or_default();
    let path = url.splitn(4, '/').nth(3).unwrap_or_default();
    let kept = rest
        .split_inclusive("\r\n")
        .filter(|line| !line.to_ascii_lowercase().starts_with("proxy-"));
    let kept: String = kept.collect();
    format!("{method} /{path}\r\n{kept}")
}

async fn dial(place: &str) -> io::Result<TcpStream> {
    let port = place
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .unwrap_or(80);
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await
}
