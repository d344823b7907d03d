//! What these tests share: units, looks at the kernel's own files, and children.

use std::os::unix::fs::{FileExt, MetadataExt};

use recoup::pool::{HugeTlb, Owner, OwnerOptions, Pool, Thp};
use recoup_sys::Bytes;

pub(crate) const CHUNK: u64 = 2 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// Memory of a memfd.
pub(crate) fn memfd() -> Thp {
    // SAFETY: who looks for the file here changes only what is his.
    unsafe { Thp::shared() }.expect("a memfd")
}

/// The same huge pages from a memfd.
pub(crate) fn shared(pages: HugeTlb) -> HugeTlb {
    // SAFETY: as above.
    unsafe { pages.shared() }.expect("a memfd")
}

pub(crate) fn owner(pool: &Pool) -> Owner {
    pool.owner(OwnerOptions::default()).expect("an owner")
}

/// The addresses of the gigabyte that an address is in.
pub(crate) fn gigabyte_around(bytes: &[u8]) -> std::ops::Range<u64> {
    let start = bytes.as_ptr().addr() as u64 / GIB * GIB;
    start..start + GIB
}

/// How much is in memory at some addresses, as `pagemap` says.
pub(crate) fn in_memory(addresses: std::ops::Range<u64>) -> u64 {
    let length = usize::try_from((addresses.end - addresses.start) >> 12).expect("a length");
    let mut words = vec![0; length * 8];
    let pagemap = std::fs::File::open("/proc/self/pagemap").expect("pagemap");
    pagemap.read_exact_at(&mut words, (addresses.start >> 12) * 8).expect("all of them");
    let present = words.chunks(8).filter(|word| word[7] & 0x80 != 0).count();
    (present as u64) << 12
}

/// The file that is mapped at an address: its device, as text, and inode.
pub(crate) fn file_at(bytes: &[u8]) -> (String, u64) {
    let start = bytes.as_ptr().addr();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let line = maps.lines().find(|line| {
        let (from, to) = line.split(' ').next().and_then(|it| it.split_once('-')).expect("a range");
        let number = |text| usize::from_str_radix(text, 16).expect("an address");
        (number(from)..number(to)).contains(&start)
    });
    let mut words = line.expect("a mapping").split(' ').skip(3);
    let device = words.next().expect("a device").to_owned();
    (device, words.next().expect("an inode").parse().expect("a number"))
}

/// What a file of this process takes on its file system, in bytes; 0 if it is closed.
pub(crate) fn file_takes((device, inode): &(String, u64)) -> u64 {
    let files = std::fs::read_dir("/proc/self/fd").expect("fds").flatten();
    let is_it = |about: &std::fs::Metadata| {
        let (major, minor) = (libc::major(about.dev()), libc::minor(about.dev()));
        about.ino() == *inode && format!("{major:02x}:{minor:02x}") == *device
    };
    let mut about = files.filter_map(|file| std::fs::metadata(file.path()).ok());
    about.find(is_it).map_or(0, |about| about.blocks() * 512)
}

/// Whether all bytes are this one.
pub(crate) fn all_are(bytes: &[u8], value: u8) -> bool {
    bytes.chunks(4096).all(|page| page == [value; 4096])
}

#[track_caller]
pub(crate) fn assert_clean(pool: &Pool) {
    assert_eq!(pool.audit().expect("pagemap").violations, []);
}

/// The end of a pool's test: nobody has anything, and after a trim nothing is left.
#[track_caller]
pub(crate) fn assert_empty(pool: &Pool) {
    assert_clean(pool);
    pool.trim();
    let usage = pool.usage();
    let left = [usage.attached, usage.held, usage.spare, usage.warm];
    assert_eq!(left, [Bytes(0); 4], "{usage:?}");
}

/// How a child has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exit(i32),
    Signal(i32),
}

/// Runs it in a forked child, which is ended if it takes long; exits with 0 if it returned true.
pub(crate) fn child(work: impl FnOnce() -> bool) -> End {
    wait(start(work))
}

/// Starts such a child.
pub(crate) fn start(work: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child has a copy of this thread alone, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: takes a number; the signal ends the child.
        unsafe { libc::alarm(20) };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let status = result.map_or(101, |right| i32::from(!right));
        // SAFETY: ends the child without anything of the parent's.
        unsafe { libc::_exit(status) }
    }
    child
}

/// The end of a child.
pub(crate) fn wait(child: i32) -> End {
    let mut status = -1;
    // SAFETY: the status is a place of this function's.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    if libc::WIFSIGNALED(status) {
        End::Signal(libc::WTERMSIG(status))
    } else {
        End::Exit(libc::WEXITSTATUS(status))
    }
}

/// How many steps to make: so many, or what `RECOUP_POOL_OPS` says.
pub(crate) fn steps(usually: u64) -> u64 {
    let wanted = std::env::var("RECOUP_POOL_OPS").ok();
    wanted.map_or(usually, |wanted| wanted.parse().expect("RECOUP_POOL_OPS is a number"))
}
