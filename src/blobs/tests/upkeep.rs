//! What is done to blobs that nobody asks for.

use super::*;

const DAY: Duration = Duration::from_hours(24);

fn expiry(max_age: Option<Duration>, unused_for: Option<Duration>) -> Expiry {
    Expiry {
        max_age,
        unused_for,
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_goes_and_what_is_read_stays() {
    let fixture = Fixture::new();
    let (blobs, clock) = fixture.open_with_clock();
    let [idle, used, read] = [1, 2, 3].map(|seed| digest(&[seed; 10]));
    for seed in 1..=3 {
        fill(&blobs, &clock, seed, 10).await.unwrap();
    }
    clock.advance(DAY);
    held(&blobs, &[2; 10]).await;
    clock.advance(DAY);
    let reader = held(&blobs, &[3; 10]).await;
    clock.advance(2 * DAY);

    assert_eq!(blobs.expire(expiry(None, Some(4 * DAY))).await.unwrap(), 1);
    assert!(!is_held(&blobs, idle).await);
    assert_eq!(blobs.expire(expiry(None, Some(4 * DAY))).await.unwrap(), 0);
    assert_eq!(blobs.expire(expiry(Some(3 * DAY), None)).await.unwrap(), 1);
    assert!(!is_held(&blobs, used).await);
    assert!(is_held(&blobs, read).await, "somebody reads it");
    drop(reader);
    assert_eq!(blobs.expire(expiry(Some(3 * DAY), None)).await.unwrap(), 1);
    assert_eq!(fixture.files(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn more_than_a_page_expires_in_one_pass() {
    let fixture = Fixture::new();
    let (blobs, clock) = fixture.open_with_clock();
    for n in 0..600_u32 {
        keep(&blobs, &n.to_le_bytes()).await.unwrap();
    }
    clock.advance(DAY);
    assert_eq!(
        blobs.expire(expiry(Some(DAY / 2), None)).await.unwrap(),
        600
    );
}

#[tokio::test(start_paused = true)]
async fn a_scrub_finds_what_was_damaged_and_leaves_the_rest() {
    let fixture = Fixture::new();
    let (blobs, clock) = fixture.open_with_clock();
    let large = vec![9; 3 * CHUNK + 1];
    for content in [&large[..], b"small", b"damaged", b"gone"] {
        keep(&blobs, content).await.unwrap();
    }
    flip(&file_of(&fixture, b"damaged"), 3);
    std::fs::remove_file(file_of(&fixture, b"gone")).unwrap();
    blobs.scrub(DAY).await.unwrap();
    assert!(!is_held(&blobs, digest(b"damaged")).await);
    assert!(!is_held(&blobs, digest(b"gone")).await);
    assert!(is_held(&blobs, digest(&large)).await);

    flip(&file_of(&fixture, &large), 2 * CHUNK);
    clock.advance(DAY / 2);
    blobs.scrub(DAY).await.unwrap();
    assert!(is_held(&blobs, digest(&large)).await, "not due again yet");
    clock.advance(DAY / 2);
    blobs.scrub(DAY).await.unwrap();
    assert!(!is_held(&blobs, digest(&large)).await);
    assert_eq!(fixture.files(), [digest(b"small").encoded()]);
}

#[tokio::test(start_paused = true)]
async fn a_scrub_goes_on_where_the_last_process_was() {
    let fixture = Fixture::new();
    let blobs = fixture.open();
    for n in 0..250_u32 {
        keep(&blobs, &n.to_le_bytes()).await.unwrap();
    }
    let before = fixture.disk.performed();
    let unfinished = async {
        while fixture.disk.performed() < before + 450 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = unfinished => {}
        result = blobs.scrub(DAY) => panic!("finished: {result:?}"),
    }
    let place = blobs.index.note("scrub").unwrap().unwrap();
    assert!(place.contains("sha256:"), "{place}");

    let begun = fixture.disk.performed();
    fixture.open().scrub(DAY).await.unwrap();
    let rest = fixture.disk.performed() - begun;
    let listing = 512 + 3;
    assert!(rest < listing + 150 * 4, "{rest} operations for the rest");
    assert!(rest > listing, "{rest}");
}

#[tokio::test(start_paused = true)]
async fn a_scrub_trusts_again_what_it_has_read_after_a_power_cut() {
    let fixture = Fixture::new();
    keep(&reopened(&fixture, "first").await, b"content")
        .await
        .unwrap();
    let blobs = reopened(&fixture, "second").await;
    let (_, trust) = blobs.find(digest(b"content")).unwrap();
    assert_eq!(trust, Trust::Unverified);
    blobs.scrub(DAY).await.unwrap();
    let (_, trust) = blobs.find(digest(b"content")).unwrap();
    assert_eq!(trust, Trust::Verified);
}

#[tokio::test(start_paused = true)]
async fn files_whose_rows_a_power_cut_took_are_removed_after_it() {
    let fixture = Fixture::new();
    let blobs = reopened(&fixture, "first").await;
    keep(&blobs, b"kept").await.unwrap();
    keep(&blobs, b"stray").await.unwrap();
    blobs.index.remove_blob(digest(b"stray")).unwrap();
    blobs.tidy_up(std::future::pending()).await;
    assert_eq!(
        fixture.files().len(),
        1,
        "the very first start tidies as well"
    );

    keep(&reopened(&fixture, "first").await, b"stray")
        .await
        .unwrap();
    let blobs = reopened(&fixture, "first").await;
    blobs.index.remove_blob(digest(b"stray")).unwrap();
    blobs.tidy_up(std::future::pending()).await;
    assert_eq!(fixture.files().len(), 2, "no power was lost");
    let blobs = reopened(&fixture, "second").await;
    blobs.tidy_up(std::future::pending()).await;
    assert_eq!(fixture.files(), [digest(b"kept").encoded()]);
}

/// A cap that was lowered asks for more than one reservation may evict: it goes in steps, and to its end.
#[tokio::test(start_paused = true)]
async fn what_is_over_a_lower_cap_goes_in_steps() {
    let mut fixture = Fixture::new();
    let (blobs, clock) = fixture.open_with_clock();
    let kept = fill(&blobs, &clock, 1, MIB).await.unwrap();
    held(&blobs, &vec![1; MIB as usize]).await;
    blobs.write_uses().await.unwrap();
    for n in 0..5_000_u32 {
        let record = BlobRecord {
            size: BLOCK,
            stored: clock.wall(),
            checksum: Checksum::default(),
            epoch: Epoch(0),
        };
        let digest = digest(&n.to_le_bytes());
        blobs.index.insert_blob(digest, record).unwrap();
    }
    let blob_bytes = blobs.index.usage().unwrap().bytes;
    let rest = blobs.figures().await.unwrap().0 - blob_bytes;
    fixture.limits.max_size = Share::Bytes((rest + 4 * MIB) * 16 / 15);
    drop(blobs);

    let (blobs, _) = fixture.open_with_clock();
    let refused = reserve(&blobs, 1).await.unwrap_err();
    assert!(
        matches!(refused, ReserveError::NoRoom(NoRoom::NotYet { .. })),
        "{refused}"
    );
    assert_eq!(blobs.index.usage().unwrap().blobs, 5_001 - 4 * 1024);
    blobs.make_room().await.unwrap();
    reserve(&blobs, 1).await.unwrap();
    assert!(is_held(&blobs, kept).await, "no more went than had to");
}
