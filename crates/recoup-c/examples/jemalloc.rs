//! jemalloc gives its dirty extents back through recoup, so that no hole of a huge page stays charged.
//!
//!     cargo run --release -p recoup-c --example jemalloc
//!
//! Extent hooks (jemalloc(3), `arena.<i>.extent_hooks`): `purge_forced` is called with extents that
//! jemalloc has no use for at the moment. All other hooks stay jemalloc's own. The hooks belong to an
//! arena of their own, since what recoup allocates meanwhile has to come from another one.

#![expect(unsafe_code, reason = "hooks are called by C, with raw pointers")]

use std::ffi::{CStr, CString, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use recoup_rust::SplitPolicy;
use recoup_rust::discard::{Discarder, Released};
use recoup_sys::own::Backing;
use tikv_jemalloc_sys as jemalloc;

const HUGE: usize = 2 << 20;
const COUNT: usize = 128;
const VALUE: usize = 64 << 10;

static DISCARDER: OnceLock<Discarder> = OnceLock::new();
static HOOKS: OnceLock<Hooks> = OnceLock::new();
static GIVEN_BACK: AtomicUsize = AtomicUsize::new(0);

struct Hooks {
    ours: jemalloc::extent_hooks_t,
    jemallocs: *mut jemalloc::extent_hooks_t,
}

// SAFETY: the hooks are functions; jemalloc's table of them is constant and lives forever.
unsafe impl Send for Hooks {}
// SAFETY: as above.
unsafe impl Sync for Hooks {}

/// jemalloc asks for memory: its own way, with huge pages.
unsafe extern "C" fn alloc(
    _: *mut jemalloc::extent_hooks_t,
    address: *mut c_void,
    size: usize,
    alignment: usize,
    zero: *mut bool,
    commit: *mut bool,
    arena: c_uint,
) -> *mut c_void {
    let Some(hooks) = HOOKS.get() else { return ptr::null_mut() };
    // SAFETY: a table that jemalloc itself handed out.
    let Some(default) = (unsafe { (*hooks.jemallocs).alloc }) else { return ptr::null_mut() };
    // Aligned to huge pages, so that they can be used.
    let alignment = alignment.max(HUGE);
    // SAFETY: exactly the arguments that jemalloc passed, but for a larger alignment.
    let memory = unsafe { default(hooks.jemallocs, address, size, alignment, zero, commit, arena) };
    if !memory.is_null() {
        // SAFETY: memory that jemalloc just mapped; the advice changes no byte.
        unsafe { libc::madvise(memory, size, libc::MADV_HUGEPAGE) };
    }
    memory
}

/// jemalloc gives memory back: here recoup comes in. False means done.
unsafe extern "C" fn purge_forced(
    _: *mut jemalloc::extent_hooks_t,
    extent: *mut c_void,
    _size: usize,
    offset: usize,
    length: usize,
    _arena: c_uint,
) -> bool {
    let Some(discarder) = DISCARDER.get() else { return true };
    let start = extent.cast::<u8>().wrapping_add(offset);
    // SAFETY: jemalloc owns the extent, nobody uses this part, and it waits for the hook's return.
    let released = unsafe { Released::new(start, length, Backing::Private) };
    GIVEN_BACK.fetch_add(length, Ordering::Relaxed);
    discarder.discard(released, SplitPolicy::Sync).is_err()
}

/// Reads and writes one of jemalloc's controls (mallctl(3)).
fn control<T>(name: &CStr, mut new: Option<T>, old: &mut T) -> Result<(), String> {
    let mut size = size_of::<T>();
    let (new, new_size) = new
        .as_mut()
        .map_or((ptr::null_mut(), 0), |new| (ptr::from_mut(new).cast(), size_of::<T>()));
    // SAFETY: both pointers are to values of the type that the control has, or null.
    let error = unsafe {
        jemalloc::mallctl(name.as_ptr(), ptr::from_mut(old).cast(), &mut size, new, new_size)
    };
    if error == 0 { Ok(()) } else { Err(format!("mallctl {name:?}: error {error}")) }
}

/// Makes jemalloc do something.
fn command(name: &CStr) -> Result<(), String> {
    let (none, no_size) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: neither reads nor writes a value.
    let error = unsafe { jemalloc::mallctl(name.as_ptr(), none, no_size, none, 0) };
    if error == 0 { Ok(()) } else { Err(format!("mallctl {name:?}: error {error}")) }
}

/// An arena of its own with our hooks.
fn new_arena() -> Result<c_uint, String> {
    let mut jemallocs: *mut jemalloc::extent_hooks_t = ptr::null_mut();
    control(c"arena.0.extent_hooks", None, &mut jemallocs)?;
    // SAFETY: the table that jemalloc has just handed out, which it never changes.
    let mut ours = unsafe { ptr::read(jemallocs) };
    ours.alloc = Some(alloc);
    ours.purge_forced = Some(purge_forced);
    ours.purge_lazy = None;
    let hooks = HOOKS.get_or_init(|| Hooks { ours, jemallocs });
    let mut arena: c_uint = 0;
    control(c"arenas.create", None, &mut arena)?;
    let name = CString::new(format!("arena.{arena}.extent_hooks")).map_err(|e| e.to_string())?;
    control(&name, Some(ptr::from_ref(&hooks.ours).cast_mut()), &mut jemallocs)?;
    Ok(arena)
}

fn main() -> Result<(), String> {
    let discarder = DISCARDER.get_or_init(Discarder::new);
    let arena = new_arena()?;
    let arena_bits = i32::try_from((arena + 1) << 20).map_err(|e| e.to_string())?;
    let flags = arena_bits | jemalloc::MALLOCX_TCACHE_NONE;

    let values: Vec<*mut c_void> = (0..COUNT * HUGE / VALUE)
        .map(|_| {
            // SAFETY: a plain allocation, freed below.
            let value = unsafe { jemalloc::mallocx(VALUE, flags) };
            assert!(!value.is_null(), "jemalloc has memory");
            // SAFETY: `value` points to this many bytes.
            unsafe { ptr::write_bytes(value.cast::<u8>(), 7, VALUE) };
            value
        })
        .collect();
    let (kept, freed): (Vec<_>, Vec<_>) =
        values.into_iter().enumerate().partition(|(index, _)| index % 10 == 0);
    // SAFETY: each was allocated above, with these flags, and is freed once.
    freed.iter().for_each(|(_, value)| unsafe { jemalloc::dallocx(*value, flags) });
    let purge = CString::new(format!("arena.{arena}.purge")).map_err(|e| e.to_string())?;
    command(&purge)?;

    let given_back = GIVEN_BACK.load(Ordering::Relaxed);
    // SAFETY: these were not freed.
    let intact = kept.iter().all(|(_, value)| unsafe { *value.cast::<u8>() } == 7);
    let mib = |bytes: usize| bytes >> 20;
    println!("freed {} MiB of {}", mib(freed.len() * VALUE), mib(COUNT * HUGE));
    println!("jemalloc gave back {} MiB through recoup", mib(given_back));
    println!("{} bytes are still charged for want of a split", discarder.waiting().0);
    println!("what was kept is {}", if intact { "intact" } else { "damaged" });
    let enough = given_back >= freed.len() * VALUE * 9 / 10;
    if enough && intact { Ok(()) } else { Err("jemalloc did not give everything back".into()) }
}
