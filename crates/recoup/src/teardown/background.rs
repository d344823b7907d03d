//! Freeing while the caller goes on.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use recoup_sys::Bytes;
use recoup_sys::mapped::OwnedMapping;
use recoup_sys::own::Released;
use recoup_sys::slices::{SMALLEST, slices};

use super::{Freed, Options, Workers, free_parallel};

/// What a background job and its handle share. Both words are only ever looked at by themselves, so
/// no order between them and other memory matters (Relaxed).
#[derive(Debug, Default)]
struct Shared {
    done: AtomicU64,
    cancelled: AtomicBool,
}

impl Shared {
    fn note(&self, done: Bytes) -> ControlFlow<()> {
        // Workers may report in any order.
        self.done.fetch_max(done.0, Ordering::Relaxed);
        if self.cancelled.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// Memory that is being freed by other threads. Dropping the handle doesn't stop them.
#[derive(Debug)]
pub struct Background {
    shared: Arc<Shared>,
    thread: JoinHandle<Freed<'static>>,
}

impl Background {
    /// How much is done.
    #[must_use]
    pub fn done(&self) -> Bytes {
        Bytes(self.shared.done.load(Ordering::Relaxed))
    }

    /// Asks the workers to begin nothing more. What is begun is ended; [`wait`](Self::wait) hands
    /// back the rest.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether all is over.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until all is over.
    #[must_use]
    pub fn wait(self) -> Freed<'static> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Frees disjoint ranges of memory by other threads. The promise that nobody needs their contents
/// has to hold until [`Background::wait`] returns or [`Background::is_finished`] says so.
///
/// # Errors
/// Where no thread can be made. Nothing was freed then.
pub fn free_in_background(
    ranges: Vec<Released<'static>>,
    workers: Workers,
) -> io::Result<Background> {
    let shared = Arc::new(Shared::default());
    let theirs = Arc::clone(&shared);
    let thread = thread::Builder::new().name("recoup-free".to_owned()).spawn(move || {
        let progress = |done| theirs.note(done);
        free_parallel(ranges, &Options { workers, progress: Some(&progress) })
    })?;
    Ok(Background { shared, thread })
}

/// Unmaps a mapping in the background: its caller waits for a thread to be made (30 us), whatever
/// the size. One thread gives the memory back and unmaps it in slices of 32 to 64 MiB, so that others of
/// the program wait for the mmap lock no longer than for one slice (some milliseconds).
///
/// Dropping the handle doesn't stop it.
///
/// # Errors
/// Where no thread can be made. The mapping was unmapped before this returned, as by munmap(2).
pub fn unmap_later(mapping: OwnedMapping) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("recoup-unmap".to_owned()).spawn(move || {
        for mut part in parts(mapping) {
            if let Some(contents) = part.contents() {
                // What is refused here (locked memory) is freed by unmapping it.
                let _ = contents.discard();
            }
        }
    })
}

/// A mapping in the smallest slices, from its start on: so each unmapping leaves one mapping, not two.
fn parts(mut mapping: OwnedMapping) -> impl Iterator<Item = OwnedMapping> {
    let unit = SMALLEST.max(mapping.backing().page_size().whole_pages());
    let slices = slices(mapping.pages(), unit);
    slices.map(move |slice| mapping.take_before(slice.end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use recoup_sys::own::Backing;
    use recoup_sys::region::Region;

    #[test]
    #[cfg_attr(miri, ignore = "maps shared memory, and gigabytes")]
    fn no_part_of_a_mapping_keeps_others_waiting() {
        for backing in [Backing::Private, Backing::Shared] {
            // Nothing of it is touched.
            let region = Region::of(backing, Bytes(5 << 30)).expect("addresses");
            let mapping = OwnedMapping::from(region);
            let length = mapping.length();
            let parts: Vec<Bytes> = parts(mapping).map(|part| part.length()).collect();
            assert_eq!(parts.iter().copied().sum::<Bytes>(), length);
            assert!(parts.iter().all(|&part| part < Bytes(64 << 20)), "{parts:?}");
        }
    }
}
