use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use super::*;
use crate::protocol::uuid::Uuid;
use crate::server::Party;

fn open(limits: DbLimits) -> (tempfile::TempDir, Db) {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(folder.path(), &["CREATE TABLE t (x)"], limits).unwrap();
    (folder, db)
}

fn clients(db: &Db) -> [Db; 2] {
    [1, 2].map(|id| db.on_behalf_of(Party::Connection(Uuid::from_random([id; 16]))))
}

/// A read that reports that it has started, and ends when it is released.
fn blocked() -> (impl FnOnce(&View<'_>) -> Result<(), WireError> + Send + 'static, Receiver<()>, Sender<()>) {
    let (started, starts) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let job = move |_: &View<'_>| {
        started.send(()).unwrap();
        let _: Result<(), _> = released.recv();
        Ok(())
    };
    (job, starts, release)
}

/// Waits without blocking the runtime.
async fn received(starts: Receiver<()>) {
    tokio::task::spawn_blocking(move || starts.recv().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_read_by_key_waits_for_no_search_and_for_no_other_client() {
    let (_folder, db) = open(DbLimits { max_readers: 2, max_searches: 1, ..DbLimits::default() });
    let [busy, other] = clients(&db);
    // Two searches and two reads: of each lane one is started, because one client cannot have all places of several.
    let mut releases = Vec::new();
    for search in [true, false] {
        for is_first in [true, false] {
            let (job, starts, release) = blocked();
            let db = busy.clone();
            tokio::spawn(async move { if search { db.search(job).await } else { db.read(job).await } });
            if is_first {
                received(starts).await;
            }
            releases.push(release);
        }
    }
    assert_eq!(other.read(|_| Ok(7)).await.unwrap(), 7);
    drop(releases);
    assert_eq!(other.search(|_| Ok(8)).await.unwrap(), 8);
    db.close().await;
    assert_eq!(other.read(|_| Ok(9)).await.unwrap_err().message, closed().message);
}

#[tokio::test]
async fn a_read_ends_soon_after_its_caller_has_left() {
    let (_folder, db) = open(DbLimits { max_readers: 1, read_timeout: Duration::MAX, ..DbLimits::default() });
    let (started, starts) = mpsc::channel();
    let endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
    let reading = tokio::spawn({
        let db = db.clone();
        async move {
            let read = db.read(move |view| {
                started.send(()).unwrap();
                Ok(view.connection.query_row(endless, [], |row| row.get::<_, i64>(0))?)
            });
            read.await
        }
    });
    received(starts).await;
    reading.abort();
    assert_eq!(db.read(|_| Ok(7)).await.unwrap(), 7);
}

#[tokio::test]
async fn a_write_that_waits_for_its_place_is_dropped_with_its_caller_and_a_queued_one_is_done() {
    let (_folder, db) = open(DbLimits { max_queued_writes: 1, ..DbLimits::default() });
    let [a, b] = clients(&db);
    let (started, starts) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let insert = |db: Db, x: i64| {
        tokio::spawn(async move {
            db.write(move |change| Ok(change.connection.execute("INSERT INTO t VALUES (?)", [x])?)).await
        })
    };
    let blocking = tokio::spawn({
        let db = a.clone();
        async move {
            let write = db.write(move |_| {
                started.send(()).unwrap();
                let _: Result<(), _> = released.recv();
                Ok(())
            });
            write.await
        }
    });
    received(starts).await;
    // The blocked write has left the queue, so the next one has its place, and the third one waits for it.
    let queued = insert(a.clone(), 1);
    tokio::task::yield_now().await;
    let waiting = insert(b.clone(), 2);
    tokio::task::yield_now().await;
    queued.abort();
    waiting.abort();
    assert!(queued.await.is_err() && waiting.await.is_err());
    drop(release);
    blocking.await.unwrap().unwrap();
    insert(b, 3).await.unwrap().unwrap();
    let stored = db.read(|view| {
        let mut rows = view.connection.prepare("SELECT x FROM t ORDER BY x")?;
        let rows = rows.query_map([], |row| row.get::<_, i64>(0))?;
        Ok(rows.collect::<Result<Vec<_>, _>>()?)
    });
    assert_eq!(stored.await.unwrap(), [1, 3]);
}

#[tokio::test]
async fn large_payloads_of_queued_writes_are_bounded_in_bytes() {
    let (_folder, db) = open(DbLimits::default());
    // One that is larger than all of it gets all of it, and small ones need none.
    let first = db.room_for(2 * MAX_QUEUED_BYTES).await;
    assert!(first.is_some() && db.room_for(SMALL_BYTES).await.is_none());
    let mut second = Box::pin(db.room_for(SMALL_BYTES + 1));
    let waits = tokio::time::timeout(Duration::ZERO, &mut second).await;
    assert!(waits.is_err(), "there is no room");
    drop(first);
    assert!(second.await.is_some());
}

#[tokio::test]
async fn clients_take_turns_for_the_room_of_large_writes() {
    let (_folder, db) = open(DbLimits::default());
    let [busy, other] = clients(&db);
    let (order, mut rooms) = tokio::sync::mpsc::unbounded_channel();
    let all = db.room_for(MAX_QUEUED_BYTES).await;
    for (client, name) in [(&busy, "busy"), (&busy, "busy"), (&busy, "busy"), (&other, "other")] {
        let (client, order) = (client.clone(), order.clone());
        tokio::spawn(async move {
            let room = client.room_for(MAX_QUEUED_BYTES).await;
            order.send(name).unwrap();
            drop(room);
        });
        tokio::task::yield_now().await;
    }
    drop(all);
    let mut given = Vec::new();
    while given.len() < 4 {
        given.extend(rooms.recv().await);
    }
    // The first two had their turns before the other client came.
    assert_eq!(given, ["busy", "busy", "other", "busy"]);
}
