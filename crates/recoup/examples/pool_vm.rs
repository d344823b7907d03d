//! A guest's memory from a pool, as a virtual machine monitor would have it, and as a vhost-user back end sees it.
//!
//!     cargo run --release -p recoup --features vm --example pool_vm

#![expect(unsafe_code, reason = "a promise about the guests' file")]

use std::error::Error;
use std::os::unix::fs::FileExt;

use recoup::pool::{Bytes, OwnerOptions, Pool, Thp};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

fn main() -> Result<(), Box<dyn Error>> {
    // SAFETY: whoever gets the file here only reads it.
    let source = unsafe { Thp::shared() }?;
    let pool = Pool::new(source, Bytes(8 << 30));
    let tenant = pool.owner(OwnerOptions::default().quota(Bytes(4 << 30)))?;
    let memory = tenant.guest_memory(Bytes(3584 << 20))?;
    println!("a guest of {} MiB:", tenant.used().0 >> 20);
    for region in memory.iter() {
        let (start, end) = (region.start_addr().0, region.start_addr().0 + region.len());
        let file = region.file_offset().ok_or("a memfd has a file")?;
        println!("  {start:#11x}..{end:#11x}  at {:#11x} of the memfd", file.start());
    }
    let kernel = b"a kernel at 1 MiB";
    memory.write_slice(kernel, GuestAddress(1 << 20))?;
    let low = memory.find_region(GuestAddress(0)).ok_or("memory at 0")?;
    let file = low.file_offset().ok_or("a memfd has a file")?;
    let mut seen = [0; 17];
    file.file().read_exact_at(&mut seen, file.start() + (1 << 20))?;
    println!("a back end reads: {}", String::from_utf8_lossy(&seen));
    drop(memory);
    let returned = pool.trim();
    println!("the guest has ended: {} gigabytes went back", returned.gigabytes);
    Ok(())
}
