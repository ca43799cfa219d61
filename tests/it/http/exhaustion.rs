//! A process that has no file descriptors left.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use mirror::http::{ListenAddress, Server, Settings};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::server::service;
use super::soon;
use super::stub::Stub;
use super::wire::Client;

/// Enough for the runtime and a few connections.
const FILES: u64 = 32;

/// Ends a child with the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Not a test of its own: the process that [`a_server_without_file_descriptors_recovers`] watches.
#[tokio::test]
#[ignore = "the child of another test"]
async fn child_with_few_file_descriptors() {
    let limit = Rlimit {
        current: Some(FILES),
        maximum: Some(FILES),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let settings = Settings {
        listen: vec!["127.0.0.1:0".parse::<ListenAddress>().unwrap().into()],
        ..Settings::default()
    };
    let service = service(Stub::new(), Arc::default());
    let server = Server::bind(settings, service).await.unwrap();
    let addresses = server.local_addresses().unwrap();
    println!("\nlistening on {}", addresses[0]);
    server.serve(std::future::pending()).await;
}

#[tokio::test]
async fn a_server_without_file_descriptors_recovers() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("http::exhaustion::child_with_few_file_descriptors")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Guard(child);
    let output = BufReader::new(child.0.stdout.take().unwrap());
    let address = output
        .lines()
        .find_map(|line| {
            line.unwrap()
                .strip_prefix("listening on ")
                .map(str::to_owned)
        })
        .unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let mut held = Vec::new();
    for _ in 0..FILES * 2 {
        held.push(Client::connect(address).await);
    }
    // The first ones are served while the rest cannot be accepted.
    assert_eq!(held[0].get("/livez").await.status, 200);
    let mut late = Client::connect(address).await;
    late.write("GET /livez HTTP/1.1\r\nhost: m\r\n\r\n").await;
    drop(held);
    let answer = soon("an answer after the shortage", late.answer(false)).await;
    assert_eq!(answer.status, 200);
}
