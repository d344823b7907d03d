//! All orders in which a keeper and its mate can meet at their desk, as loom explores them. Run by
//! `RUSTFLAGS="--cfg loom" cargo test -p recoup --release --lib orders`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

// What the mate notes is std's: no order of it is explored.
use std::sync::{Arc, Mutex};

use loom::thread::{self, JoinHandle};

use super::desk::Desk;

type Jobs = Arc<Mutex<Vec<u32>>>;

/// Does jobs until the desk is closed, and notes them.
fn mate(desk: &Arc<Desk<u32, u32>>) -> (JoinHandle<()>, Jobs) {
    let (desk, done) = (Arc::clone(desk), Jobs::default());
    let noted = Arc::clone(&done);
    let thread = thread::spawn(move || {
        while let Some(job) = desk.take() {
            noted.lock().unwrap().push(job);
            desk.done(job * 10);
        }
    });
    (thread, done)
}

#[test]
fn each_job_is_done_by_exactly_one() {
    loom::model(|| {
        let desk = Arc::new(Desk::new());
        let (thread, theirs) = mate(&desk);
        let mut own = Vec::new();
        for job in [1, 2] {
            desk.give(job);
            match desk.collect() {
                Some(result) => assert_eq!(result, job * 10),
                None => own.push(job),
            }
        }
        desk.close();
        thread.join().unwrap();
        let mut all = theirs.lock().unwrap().clone();
        all.extend(own);
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
    });
}

#[test]
fn a_closed_desk_ends_whoever_waits_at_it() {
    loom::model(|| {
        let desk = Arc::new(Desk::new());
        let (thread, theirs) = mate(&desk);
        desk.close();
        thread.join().unwrap();
        desk.give(1);
        assert_eq!(desk.collect(), None);
        assert!(theirs.lock().unwrap().is_empty());
    });
}
