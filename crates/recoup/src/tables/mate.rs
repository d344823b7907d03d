//! A second thread that frees behind a keeper's fence: all who add tables wait there, so a processor is
//! free, and they wait half as long.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use recoup_sys::userfault::{Fence, Second, Shared};
use recoup_sys::workroom::Workroom;
use recoup_sys::{PageIdx, PageRange, urgency};

use super::Refused;
use super::aside::Aside;
use super::behind::Behind;
use super::desk::Desk;
use super::pace::Pace;

/// What to free, and when to stop.
#[derive(Debug)]
struct Job {
    shared: Shared,
    area: PageRange,
    until: Instant,
}

/// What came of a job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    /// How far it was done.
    pub(super) until: PageIdx,
    /// Ranges that the kernel refused.
    pub(super) left_alone: u64,
}

/// The thread, until it is dropped. A forked child has no such thread.
#[derive(Debug)]
pub(super) struct Mate {
    second: Arc<Second>,
    desk: Arc<Desk<Job, Done>>,
    thread: Option<JoinHandle<()>>,
    /// What the thread uses: no fence that it works behind may cover it.
    aside: [PageRange; 3],
}

impl Mate {
    /// Starts it, if there is a processor for it.
    ///
    /// # Errors
    /// If no thread can be made, or memory for its work; those of opening `/proc/self/pagemap`.
    pub(super) fn start(max_pause: Duration) -> Result<Option<Self>, Refused> {
        if std::thread::available_parallelism().is_ok_and(|processors| processors.get() < 2) {
            return Ok(None);
        }
        let room = Workroom::new().map_err(|e| Refused::room(&e))?;
        let second = Second::open().map_err(Refused::pagemap)?;
        let rooms = room.pages();
        let desk = Arc::new(Desk::new());
        let (theirs, (tell, told)) = (Arc::clone(&desk), mpsc::channel());
        let pace = Pace::new(max_pause);
        let thread = std::thread::Builder::new()
            .name("recoup-tables/2".to_owned())
            .spawn(move || {
                // It is waited for, so it is heard.
                let _ = tell.send(Aside::stack());
                work(&theirs, room, pace);
            })
            .map_err(|e| Refused::thread(&e))?;
        let stack = told.recv().unwrap_or_default();
        let aside = [stack, rooms, Aside::value(&*desk)];
        Ok(Some(Self { second: Arc::new(second), desk, thread: Some(thread), aside }))
    }

    pub(super) fn aside(&self) -> [PageRange; 3] {
        self.aside
    }

    /// Leaves it a part of what is fenced, which it begins to free as soon as it gets a processor.
    pub(super) fn free(&self, fence: &mut Fence<'_>, area: PageRange, until: Instant) {
        // Refused: nobody begins, which `collect` says.
        if let Ok(shared) = fence.share(&self.second, area) {
            self.desk.give(Job { shared, area, until });
        }
    }

    /// What it did, once that is done; nothing if it has not begun.
    pub(super) fn collect(&self) -> Option<Done> {
        self.desk.collect()
    }
}

impl Drop for Mate {
    fn drop(&mut self) {
        self.desk.close();
        // It has nothing to report that a panic could take along.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Closes the desk when dropped.
struct Closing<'a>(&'a Desk<Job, Done>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn work(desk: &Desk<Job, Done>, mut room: Workroom, mut pace: Pace) {
    // Nobody waits for a thread that has panicked.
    let _closing = Closing(desk);
    urgency::short_bursts();
    while let Some(Job { mut shared, area, until }) = desk.take() {
        let mut behind = Behind { pace: &mut pace, runs: room.runs(), left_alone: 0 };
        let until = behind.free_area(|part, runs| shared.free_empty(part, runs), area, until);
        let left_alone = behind.left_alone;
        // Before the fence's owner hears of it: he need not wait for this as well.
        drop(shared);
        desk.done(Done { until, left_alone });
    }
}

#[cfg(test)]
mod tests {
    use recoup_testkit::kernel;

    use super::*;

    /// The stack pointer of the mate that sleeps, as the kernel says.
    fn stack_pointer() -> Option<u64> {
        let thread = kernel::own_thread("recoup-tables/2")?;
        let call = std::fs::read_to_string(thread.join("syscall")).ok()?;
        let pointer = call.split(' ').nth_back(1)?.strip_prefix("0x")?.to_owned();
        u64::from_str_radix(&pointer, 16).ok()
    }

    #[test]
    fn no_fence_covers_the_stack_it_works_on() {
        let Some(mate) = Mate::start(Duration::ZERO).unwrap() else { return };
        let deadline = Instant::now() + Duration::from_secs(10);
        let pointer = loop {
            if let Some(pointer) = stack_pointer() {
                break pointer;
            }
            assert!(Instant::now() < deadline, "the mate never slept");
        };
        assert!(mate.aside()[0].contains(PageIdx::containing(pointer)), "{pointer:#x}");
        drop(mate);
        // The kernel shows a thread for a moment after who waits for it goes on.
        while kernel::own_thread("recoup-tables/2").is_some() {
            assert!(Instant::now() < deadline, "its thread is still there");
        }
    }
}
