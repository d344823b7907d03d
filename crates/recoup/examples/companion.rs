//! Lets the end of a large program be seen before its memory is freed.
//!
//!     cargo build --release -p recoup --example companion
//!     time target/release/examples/companion

#[cfg(target_arch = "x86_64")]
fn main() -> recoup::Result<()> {
    use recoup::companion::{Companion, Options, arm};
    use recoup::{Bytes, Pages, Region};

    // At most 1 GiB, and no more than a quarter of what there is.
    let room = recoup::headroom(Bytes::ZERO)?.bytes.0 / 4;
    let length = Bytes(room.min(1 << 30) >> 21 << 21);
    match arm(&Options::default()) {
        Ok(companion) => {
            println!("armed: process {}, shown as recoup/{}", companion.pid(), std::process::id());
            // The handle would end it when dropped.
            Companion::keep(companion);
        }
        // The program goes on as without it.
        Err(refusal) => println!("{refusal}"),
    }
    let mut memory = Region::new(length)?;
    let all = memory.pages().length();
    memory.touch(Pages(0), all);
    println!("{} MiB are in use; the end follows", length.0 >> 20);
    println!("to observe: the shell has its prompt back at once, `ps -e | grep recoup/` shows the");
    println!(
        "companion for some milliseconds more (as a zombie until init reaps it), and `free -m`"
    );
    println!("then has the memory back");
    // Not unmapped here, which would take as long as the end without a companion.
    std::mem::forget(memory);
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("companions exist on x86-64 only");
}
