//! Readers that go around the cache, because the disk cannot take part.

use super::*;

#[tokio::test]
async fn whichever_disk_operation_fails_the_reader_gets_every_byte() {
    let (content, digest) = blob(200_000);
    let mut around = 0;
    for fault in [Fault::Broken, Fault::Full, Fault::ShortWrite] {
        for n in 0..30 {
            let fixture = Fixture::new(0);
            fixture.disk.fail_at(n, 1, fault);
            let source = Scripted::new("a", [whole(&content), from(&content, 0)]);
            let reader = fixture.fetch.join(digest, None, source.clone());
            let read = read(reader, None).await;
            assert!(read.is_ok_and(|read| read == content), "{fault:?} at {n}");
            fixture.settled().await;
            around += usize::from(source.offsets().len() > 1);
            fixture.disk.heal();
            if let Lookup::Held(held) = fixture.blobs.open(digest).await.unwrap() {
                assert_stored(fixture.directory.path(), digest, &content);
                assert_eq!(held.size, content.len() as u64);
            }
        }
    }
    assert!(around > 0, "the loop must have hit something");
}

#[tokio::test]
async fn a_disk_that_fills_in_the_middle_of_a_flight_hands_its_readers_over() {
    let fixture = Fixture::new(0);
    let (content, digest) = blob(2 * MIB);
    let (sender, chunks) = mpsc::channel(1);
    let total = content.len() as u64;
    let first = Scripted::new("0", [Script::Channel { total, chunks }, from(&content, 0)]);
    let mut bodies = vec![
        fixture
            .fetch
            .join(digest, Some(total), first)
            .stream(None, None),
    ];
    for reader in 1..10_usize {
        let source = Scripted::new(&reader.to_string(), [from(&content, 100_000 * reader)]);
        bodies.push(
            fixture
                .fetch
                .join(digest, Some(total), source)
                .stream(None, None),
        );
    }
    sender.send(content.slice(..MIB)).await.unwrap();
    let mut had = Vec::new();
    for (reader, body) in bodies.iter_mut().enumerate() {
        let mut bytes = Vec::new();
        while bytes.len() < 100_000 * reader {
            bytes.extend_from_slice(&next(body).await.unwrap().unwrap());
        }
        had.push(bytes);
    }
    // From here on nothing can be written.
    fixture.disk.fail_at(0, u64::MAX, Fault::Full);
    drop(sender.send(content.slice(MIB..)).await);
    for (mut bytes, mut body) in had.into_iter().zip(bodies) {
        while let Some(chunk) = next(&mut body).await {
            bytes.extend_from_slice(&chunk.unwrap());
        }
        assert_eq!(bytes, content);
    }
    fixture.settled().await;
    fixture.disk.heal();
    assert!(!fixture.cached(digest).await);
}

#[tokio::test]
async fn what_there_is_no_room_for_passes_through_and_is_not_kept() {
    let mut fixture = Fixture::new(0);
    fixture.limit(1000);
    let (content, digest) = blob(MIB);
    let mut wrong = content.to_vec();
    wrong[1000] ^= 1;
    let scripts = [whole(&content), whole(&wrong.into())];
    let source = Scripted::new("a", scripts);
    let mut reader = fixture
        .fetch
        .join(digest, Some(content.len() as u64), source.clone());
    assert_eq!(reader.opened().await.unwrap(), Some(content.len() as u64));
    assert_eq!(reader.bypass(), Some(BypassReason::NoRoom));
    assert_eq!(read(reader, None).await.unwrap(), content);
    let reader = fixture
        .fetch
        .join(digest, Some(content.len() as u64), source.clone());
    let (length, cut) = read(reader, None).await.unwrap_err();
    assert!(
        length <= content.len() - 64 * 1024,
        "the tail is held back: {length}"
    );
    assert!(cut.reason.contains(&digest.to_string()), "{cut}");
    assert_eq!(
        source.offsets(),
        [0, 0],
        "one request each, none for the cache"
    );
    fixture.settled().await;
    assert!(!fixture.cached(digest).await);
    assert_eq!(fixture.spooled(), 0);
}

#[tokio::test]
async fn a_part_of_what_there_is_no_room_for_is_fetched_from_where_it_starts() {
    let mut fixture = Fixture::new(0);
    fixture.limit(1000);
    let (content, digest) = blob(MIB);
    let source = Scripted::new("a", [whole(&content), from(&content, 500_000)]);
    let mut reader = fixture.fetch.join(digest, None, source.clone());
    reader.opened().await.unwrap();
    let span = Span {
        start: 500_000,
        end: 600_000,
    };
    assert_eq!(
        read(reader, Some(span)).await.unwrap(),
        content[500_000..600_000]
    );
    assert_eq!(source.offsets(), [0, 500_000]);
}

#[tokio::test]
async fn a_blob_of_unknown_length_takes_space_as_it_grows() {
    let mut fixture = Fixture::new(0);
    fixture.limit(40 * MIB as u64);
    for (length, is_kept) in [(20 * MIB, true), (60 * MIB, false)] {
        let (content, digest) = blob(length);
        let script = |start: usize| Script::Body {
            start: start as u64,
            total: None,
            chunks: chunked(&content.slice(start..)),
            then_hang: false,
        };
        let source = Scripted::new("a", [script(0), script(0)]);
        let mut reader = fixture.fetch.join(digest, None, source.clone());
        reader.opened().await.unwrap();
        let read = read(reader, None).await;
        fixture.settled().await;
        assert_eq!(fixture.cached(digest).await, is_kept, "{length}");
        if is_kept {
            assert_eq!(read.unwrap(), content);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_begins_again_takes_its_space_once() {
    let mut fixture = Fixture::new(0);
    fixture.limit(3_500_000);
    let (content, digest) = blob(2 * MIB);
    let refusals = (0..3).map(|_| Script::Refuse(reset()));
    let useless = Script::Refuse(UpstreamError::BadAnswer {
        host: "a".to_owned(),
        reason: "the range is not one".to_owned(),
    });
    let scripts = [broken(&content, 0, 1_500_000)]
        .into_iter()
        .chain(refusals)
        .chain([useless, whole(&content)]);
    let source = Scripted::new("a", scripts);
    let join = || {
        let size = Some(content.len() as u64);
        fixture.fetch.join(digest, size, source.clone())
    };
    read(join(), None).await.unwrap_err();
    fixture.settled().await;
    assert_eq!(fixture.spooled(), 1);
    assert_eq!(read(join(), None).await.unwrap(), content);
    fixture.settled().await;
    assert!(fixture.cached(digest).await);
    assert_eq!(source.offsets().last(), Some(&0));
}
