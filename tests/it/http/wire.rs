//! A client that writes what it is told and shows what came back.

use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpStream, UnixStream};

use super::soon;

/// A connection.
pub(super) struct Client<Io = TcpStream>(BufReader<Io>);

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.unwrap()))
    }
}

impl Client<UnixStream> {
    pub(super) async fn connect_unix(path: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(path).await.unwrap()))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Client<Io> {
    /// Writes exactly these bytes.
    pub(super) async fn write(&mut self, text: &str) {
        soon("a write", self.0.write_all(text.as_bytes()))
            .await
            .unwrap();
    }

    /// Asks and returns the answer. `headers` are whole lines, each with its line end.
    pub(super) async fn ask(&mut self, method: &str, target: &str, headers: &str) -> Received {
        self.write(&format!(
            "{method} {target} HTTP/1.1\r\nhost: mirror\r\n{headers}\r\n"
        ))
        .await;
        self.answer(method == "HEAD").await
    }

    pub(super) async fn get(&mut self, target: &str) -> Received {
        self.ask("GET", target, "").await
    }

    /// The page of metrics.
    pub(super) async fn metrics(&mut self) -> String {
        let answer = self.get("/metrics").await;
        assert_eq!(answer.status, 200);
        String::from_utf8(answer.body).unwrap()
    }

    /// Reads one answer, whose body must be whole.
    pub(super) async fn answer(&mut self, to_head: bool) -> Received {
        soon("an answer", async {
            let mut received = self.head().await.expect("an answer's head");
            if !to_head && received.status != 304 {
                received.body = self.body(&received).await.expect("a whole body");
            }
            received
        })
        .await
    }

    /// Reads a head; `None` when the connection ends instead.
    pub(super) async fn head(&mut self) -> Option<Received> {
        let status = self.line().await?;
        let status = status
            .strip_prefix("HTTP/1.1 ")
            .unwrap()
            .get(..3)
            .unwrap()
            .parse()
            .unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            match line.split_once(": ") {
                Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
                None => break,
            }
        }
        let body = Vec::new();
        Some(Received {
            status,
            headers,
            body,
        })
    }

    /// Everything until the server closes, which it must; a reset is as good.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        soon("the end of the connection", async {
            _ = self.0.read_to_end(&mut bytes).await;
        })
        .await;
        bytes
    }

    /// Reads `length` bytes of a body.
    pub(super) async fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        soon("bytes", self.0.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    async fn body(&mut self, head: &Received) -> Option<Vec<u8>> {
        if head.header("transfer-encoding") == Some("chunked") {
            return self.chunks().await;
        }
        let length = head
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.ok()?;
        Some(body)
    }

    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let length = usize::from_str_radix(&self.line().await?, 16).unwrap();
            let mut chunk = vec![0; length];
            self.0.read_exact(&mut chunk).await.ok()?;
            body.extend(chunk);
            self.line().await?;
            if length == 0 {
                return Some(body);
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).await.ok()?;
        Some(line.strip_suffix("\r\n")?.to_owned())
    }
}

impl Received {
    /// A header that may occur once.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(found, _)| found == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} occurs twice in {self:?}");
        value
    }

    /// The headers but for those that differ from answer to answer.
    pub(super) fn stable_headers(&self) -> Vec<(String, String)> {
        let mut headers = self.headers.clone();
        headers.retain(|(name, _)| name != "date" && name != "x-request-id");
        headers.sort();
        headers
    }

    /// The code of the OCI error that this is.
    pub(super) fn code(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "{self:?}"
        );
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(body["errors"].as_array().unwrap().len(), 1, "{body}");
        assert!(body["errors"][0]["message"].is_string(), "{body}");
        body["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}
