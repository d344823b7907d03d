//! A program's global allocator, with a pool for what is large.

#![expect(unsafe_code, reason = "a global allocator hands out raw memory")]

use std::alloc::{GlobalAlloc, Layout};
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use recoup_sys::Bytes;
use recoup_sys::home::Home;
use recoup_sys::own::{Backing, Released};

use super::blocks::{Contents, Footprint};
use super::returns::{Background, ReturnSettings, Returned, Serves};
use super::usage::Usage;
use super::{Audit, Owner, OwnerOptions, Pool, Thp};
use crate::inside::Inside;

/// An allocator that has large blocks from a pool and all others from an allocator of the caller's choice.
///
/// ```
/// use std::alloc::System;
/// use recoup::pool::Large;
///
/// #[global_allocator]
/// static ALLOCATOR: Large<System> = Large::new(System);
///
/// let numbers = vec![1_u64; 1 << 20];
/// let usage = ALLOCATOR.usage().expect("a pool");
/// assert_eq!(usage.held.0, 8 << 20);
/// ```
///
/// - **Blocks** of up to 1 MiB take whole pages, longer ones whole chunks of 2 MiB, up to 1 GiB. Whatever
///   the pool refuses (longer blocks; any at all once it is full) comes from the other allocator.
/// - **Freed memory** stays in the pool until [`return_in_background`](Self::return_in_background) or
///   [`trim`](Self::trim) gives it back: without either, the program keeps what it once needed.
/// - **Growth is a copy**: a block that outgrows its chunks moves, where an allocator by mmap(2) would have
///   the kernel move its pages. Shrinking is one only from chunks to pages (1 MiB and less).
/// - **The pool** is made with the first large block. Its own books, and whatever is allocated while this
///   thread is in it, come from the other allocator.
/// - **A forked child** keeps all blocks, as copies. It gets large blocks from the other allocator, and
///   what it frees of the pool's goes back to the kernel, but not its addresses: locks of the pool may have
///   been held by threads that the child does not have. So a program that becomes a daemon should do so before
///   its first large block. As long as a child lives that does not exec, what the parent writes is copied
///   and huge pages come apart, as with any private memory.
#[derive(Debug)]
pub struct Large<A> {
    small: A,
    options: LargeOptions,
    is_being_made: AtomicBool,
    /// The pool, or nothing if it could not be made.
    made: OnceLock<Option<Made>>,
}

/// What is large, and how much of it there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LargeOptions {
    threshold: usize,
    limit: Option<Bytes>,
}

#[derive(Debug)]
struct Made {
    pool: Pool,
    owner: Owner,
    /// Where all of its blocks are, and no others.
    addresses: Range<usize>,
    home: Home,
}

impl LargeOptions {
    /// Blocks from 1 MiB on; up to twice the machine's memory, as some of it may be free in pieces that are
    /// too small.
    #[must_use]
    pub const fn new() -> Self {
        Self { threshold: 1 << 20, limit: None }
    }

    /// Blocks of so many bytes and more are large.
    #[must_use]
    pub const fn threshold(self, bytes: usize) -> Self {
        Self { threshold: bytes, ..self }
    }

    /// At most so much memory, rounded down to whole gigabytes but at least one. The books take 2.5 KiB for
    /// each of them.
    #[must_use]
    pub const fn limit(self, limit: Bytes) -> Self {
        Self { limit: Some(limit), ..self }
    }
}

impl Default for LargeOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl<A> Large<A> {
    /// Large blocks from a pool, others from `small`.
    #[must_use]
    pub const fn new(small: A) -> Self {
        Self::with(small, LargeOptions::new())
    }

    /// The same by these options.
    #[must_use]
    pub const fn with(small: A, options: LargeOptions) -> Self {
        let is_being_made = AtomicBool::new(false);
        Self { small, options, is_being_made, made: OnceLock::new() }
    }

    /// Starts a thread that gives freed memory back, until the result is dropped: to be called once
    /// `main` has begun. A forked child has no such thread.
    ///
    /// # Errors
    /// No thread can be made; `AlreadyExists` if there is one; `Unsupported` where there is no pool: the
    /// process was forked, or has no addresses for one.
    pub fn return_in_background(&self, settings: ReturnSettings) -> io::Result<Background> {
        let none = || {
            let why = "no pool for large blocks: forked, or no addresses left (ulimit -v)";
            io::Error::new(io::ErrorKind::Unsupported, why)
        };
        self.inside(|made| made.pool.start_returning(settings, Serves::Allocator))
            .ok_or_else(none)?
    }

    /// Gives all free memory back now.
    pub fn trim(&self) -> Returned {
        self.inside(|made| made.pool.trim()).unwrap_or_default()
    }

    /// What the pool's memory is used for; nothing where there is no pool.
    pub fn usage(&self) -> Option<Usage> {
        self.inside(|made| made.pool.usage())
    }

    /// Whether the pool's books are true: see [`Pool::audit`]. Nothing where there is no pool.
    pub fn audit(&self) -> Option<recoup_sys::Result<Audit>> {
        self.inside(|made| made.pool.audit())
    }

    /// Does something with the pool, unless this thread is in it already or the process was forked.
    fn inside<T>(&self, work: impl FnOnce(&Made) -> T) -> Option<T> {
        let _inside = Inside::enter()?;
        let no_unwinding = NoUnwinding;
        let made = self.made().filter(|made| made.home.is_here());
        let result = made.map(work);
        std::mem::forget(no_unwinding);
        result
    }

    /// The pool. Whoever comes while it is being made does without it: a forked child would wait for
    /// ever for a thread that it does not have.
    fn made(&self) -> Option<&Made> {
        // Relaxed: it only decides who makes the pool, which the lock hands over.
        if self.made.get().is_none() && !self.is_being_made.swap(true, Ordering::Relaxed) {
            // Nobody else sets it.
            let _ = self.made.set(Made::new(self.options));
        }
        self.made.get()?.as_ref()
    }

    fn new_block(&self, layout: Layout, contents: Contents) -> Option<*mut u8> {
        let block = self.inside(|made| made.owner.block(layout, contents).ok())??;
        Some(block.as_ptr().cast())
    }

    /// Where a block is, if it is the pool's.
    fn in_pool(&self, start: *mut u8, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() < self.options.threshold {
            return None;
        }
        let made = self.made.get()?.as_ref()?;
        let start = NonNull::new(start)?;
        made.addresses.contains(&start.addr().get()).then_some(start)
    }

    /// Takes a block of the pool back.
    ///
    /// # Safety
    /// It is one, of this layout, which nobody uses.
    unsafe fn free(&self, start: NonNull<u8>, layout: Layout) {
        let footprint = Footprint::of(layout);
        // SAFETY: promised by the caller.
        let freed = self.inside(|made| unsafe { made.owner.free_block(start, footprint) });
        if freed.is_none() {
            // In a forked child, which keeps the addresses. In the pool itself no such block is freed.
            // SAFETY: promised by the caller: whole pages of private memory.
            let block =
                unsafe { Released::new(start.as_ptr(), footprint.bytes(), Backing::Private) };
            // What is locked stays.
            let _ = block.discard();
        }
    }
}

impl Made {
    fn new(options: LargeOptions) -> Option<Self> {
        let limit = options.limit.unwrap_or_else(twice_the_memory);
        let pool = Pool::new(Thp::inherited(), limit);
        let owner = pool.owner(OwnerOptions::default()).ok()?;
        let addresses = owner.addresses();
        Some(Self { pool, owner, addresses, home: Home::new().ok()? })
    }
}

// SAFETY: blocks are those of the other allocator, or an owner's, which are theirs until they are freed
// and aligned as asked for. Which it is follows from the length and the address. No panic leaves: the
// pool's end the process.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Large<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let is_large = layout.size() >= self.options.threshold;
        let block = is_large.then(|| self.new_block(layout, Contents::Any)).flatten();
        // SAFETY: promised by the caller.
        block.unwrap_or_else(|| unsafe { self.small.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let is_large = layout.size() >= self.options.threshold;
        let block = is_large.then(|| self.new_block(layout, Contents::Zeroes)).flatten();
        // SAFETY: promised by the caller.
        block.unwrap_or_else(|| unsafe { self.small.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        match self.in_pool(start, layout) {
            // SAFETY: promised by the caller.
            Some(start) => unsafe { self.free(start, layout) },
            // SAFETY: as above: what is not the pool's is the other allocator's.
            None => unsafe { self.small.dealloc(start, layout) },
        }
    }

    unsafe fn realloc(&self, start: *mut u8, old: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the length is one, rounded up to this alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, old.align()) };
        let is_large = size >= self.options.threshold;
        match self.in_pool(start, old) {
            Some(start) if is_large => {
                let resized = self.inside(|made| {
                    // SAFETY: promised by the caller.
                    unsafe { made.owner.resize_block(start, (old, new), Contents::Any) }.ok()
                });
                if let Some(block) = resized.flatten() {
                    return block.as_ptr().cast();
                }
            }
            // What was small becomes large, or the other way round.
            Some(_) => (),
            None if is_large && old.size() < self.options.threshold => (),
            // SAFETY: promised by the caller.
            None => return unsafe { self.small.realloc(start, old, size) },
        }
        // SAFETY: the caller promises that the length is not 0.
        let block = unsafe { self.alloc(new) };
        if !block.is_null() {
            // SAFETY: two different blocks, at least so long.
            unsafe { block.copy_from_nonoverlapping(start, old.size().min(size)) };
            // SAFETY: promised by the caller.
            unsafe { self.dealloc(start, old) };
        }
        block
    }
}

/// Ends the process when it is dropped: nothing may unwind out of an allocator.
struct NoUnwinding;

impl Drop for NoUnwinding {
    fn drop(&mut self) {
        std::process::abort();
    }
}

/// Twice what the machine has (sysinfo(2)).
fn twice_the_memory() -> Bytes {
    let about = rustix::system::sysinfo();
    Bytes(about.totalram.saturating_mul(about.mem_unit.into()).saturating_mul(2))
}
