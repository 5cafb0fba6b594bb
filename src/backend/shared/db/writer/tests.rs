use std::pin::pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};

use super::*;
use crate::protocol::uuid::Uuid;
use crate::server::{Party, Places};

/// A job that logs its calls.
struct LoggedJob {
    name: char,
    event_bytes: usize,
    log: Arc<Mutex<String>>,
}

impl Job for LoggedJob {
    fn run(&mut self, connection: &Connection) -> bool {
        assert!(!connection.is_autocommit());
        self.log.lock().unwrap().push(self.name);
        true
    }

    fn event_bytes(&self) -> usize {
        self.event_bytes
    }

    fn leaves_work(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>, committed: Result<(), &str>, _: &Emitter) {
        assert_eq!(committed, Ok(()));
        self.log.lock().unwrap().push('.');
    }
}

fn writer() -> (Writer, mpsc::Sender<Order>) {
    let (orders, receiver) = mpsc::channel();
    (Writer::new(Connection::open_in_memory().unwrap(), receiver, Emitter::default()), orders)
}

fn place(places: &Places<Owner>, owner: Owner) -> Place<Owner> {
    match pin!(places.acquire(owner)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(place) => place,
        Poll::Pending => panic!("a place is free"),
    }
}

/// Writes jobs with the given sizes of their events, each `ms_per_job`. Returns the order of the runs, and a dot for each end.
fn order_of(jobs: &[(Owner, char, usize)], ms_per_job: usize) -> String {
    let (mut writer, orders) = writer();
    let places = Places::new(1000);
    let log = Arc::new(Mutex::new(String::new()));
    for (owner, name, event_bytes) in jobs {
        let job = LoggedJob { name: *name, event_bytes: *event_bytes, log: log.clone() };
        let order = Order::Write(*owner, Box::new(job), place(&places, *owner));
        orders.send(order).unwrap();
    }
    writer.take_orders();
    while !writer.waiting.is_empty() {
        let before = log.lock().unwrap().len();
        let elapsed = || Duration::from_millis((ms_per_job * (log.lock().unwrap().len() - before)) as u64);
        writer.batch_time = BATCH_TIME;
        writer.write_batch(elapsed);
    }
    let log = log.lock().unwrap();
    log.clone()
}

#[test]
fn writes_share_a_transaction_until_their_events_are_large_or_it_has_taken_long() {
    const HALF: usize = MAX_BATCH_EVENT_BYTES / 2;
    for (event_bytes, ms_per_job, expected) in [
        (&[0; 5][..], 0, "rrrrr....."),
        (&[HALF - 1; 5], 0, "rrr...rr.."),
        (&[HALF; 5], 0, "rr..rr..r."),
        (&[0, 9 * HALF, 9 * HALF], 0, "rr..r."),
        (&[0; 5], 1, "rrrrr....."),
        (&[0; 6], 1, "rrrrr.....r."),
        (&[0; 3], 5, "r.r.r."),
    ] {
        let jobs: Vec<_> = event_bytes.iter().map(|bytes| (Owner::Server, 'r', *bytes)).collect();
        assert_eq!(order_of(&jobs, ms_per_job), expected);
    }
}

#[test]
fn a_write_waits_for_one_transaction_of_a_client_that_has_queued_many() {
    let [busy, other] = [1, 2].map(|id| Owner::Client(Party::Connection(Uuid::from_random([id; 16]))));
    let mut jobs = vec![(busy, 'b', MAX_BATCH_EVENT_BYTES); 4];
    jobs.push((other, 'o', 0));
    assert_eq!(order_of(&jobs, 0), "b.ob..b.b.");
}

/// Counts down the one row of its table.
fn count_down(connection: &Connection) -> Result<Progress, WireError> {
    connection.execute("UPDATE work SET rest = rest - 1 WHERE rest > 0", [])?;
    let has_more = connection.query_row("SELECT rest > 0 FROM work", [], |row| row.get(0))?;
    Ok(if has_more { Progress::More } else { Progress::Done })
}

fn rest(writer: &Writer) -> i64 {
    writer.connection.query_row("SELECT rest FROM work", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_chore_that_fails_is_kept_and_a_closing_writer_does_no_steps() {
    let (mut writer, orders) = writer();
    orders.send(Order::Chore(count_down)).unwrap();
    writer.take_orders();
    // Without its table it fails, which changes nothing else.
    writer.step_if_due();
    assert_eq!(writer.due.len(), 1);
    assert!(writer.connection.is_autocommit() && writer.step_at > Instant::now());

    writer.connection.execute_batch("CREATE TABLE work (rest); INSERT INTO work VALUES (3)").unwrap();
    writer.step_at = Instant::now();
    orders.send(Order::Close).unwrap();
    writer.take_orders();
    writer.step_if_due();
    assert_eq!(rest(&writer), 3);

    writer.closing = false;
    while !writer.due.is_empty() {
        writer.step_at = Instant::now();
        writer.step_if_due();
    }
    assert_eq!(rest(&writer), 0);
    assert!(!writer.is_synced);
    writer.write_batch(|| Duration::ZERO);
    let synchronous: i64 =
        writer.connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
    assert_eq!((synchronous, writer.is_synced), (2, true), "writes are synced to the disk again");
}
