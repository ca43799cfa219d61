use super::*;

#[tokio::test]
async fn a_port_in_use_is_named_with_the_next_step() {
    let taken = tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = ListenAddress::from(taken.local_addr().unwrap());
    let error = Listener::bind(&address).await.err().unwrap();
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains(&address.to_string()) && text.contains("--listen"),
        "{text}"
    );
}

#[tokio::test]
async fn an_address_of_another_machine_is_explained() {
    let address = "192.0.2.1:0".parse().unwrap();
    let error = Listener::bind(&address).await.err().unwrap();
    assert!(matches!(error, BindError::NotLocal { .. }), "{error:?}");
}

#[tokio::test]
async fn a_host_name_is_looked_up_when_binding() {
    let listeners = Listener::bind(&"localhost:0".parse().unwrap())
        .await
        .unwrap();
    assert!(!listeners.is_empty());
}

#[tokio::test]
async fn all_addresses_include_both_families() {
    let Ok(listener) = tcp("[::]:0".parse().unwrap()) else {
        return; // This machine has no IPv6.
    };
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect(("127.0.0.1", port));
    let (client, accepted) = tokio::join!(client, Accept::accept(&listener));
    client.unwrap();
    assert_eq!(accepted.unwrap().1, Some([127, 0, 0, 1].into()));
}

#[tokio::test]
async fn the_socket_file_of_a_dead_process_is_replaced_and_removed_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mirror.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "the file of a dead process");
    let address = ListenAddress::Unix(path.clone());
    let listeners = Listener::bind(&address).await.unwrap();
    UnixStream::connect(&path).await.unwrap();
    let error = Listener::bind(&address).await.err().unwrap();
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    drop(listeners);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let address = ListenAddress::Unix(file.path().into());
    let error = Listener::bind(&address).await.err().unwrap();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error:?}");
    assert!(file.path().exists());
}

#[tokio::test]
async fn a_socket_in_a_directory_that_is_missing_is_named() {
    let address: ListenAddress = "unix:/nonexistent/mirror.sock".parse().unwrap();
    let error = Listener::bind(&address).await.err().unwrap();
    let text = error.to_string();
    assert!(
        text.contains("unix:/nonexistent/mirror.sock: No such file") && text.contains("--listen"),
        "{text}"
    );
}
