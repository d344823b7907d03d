//! The ways to end.
//!
//! | `die` | how |
//! |---|---|
//! | `return` | returns 7 from `main` |
//! | `exit` | exit(3) with 7 |
//! | `segv`, `abort` | by SIGSEGV, by abort(3) |
//! | `out-of-memory` | takes memory until it is killed |
//! | `group` | kills its process group |
//! | `exec` | becomes a new victim |
//! | `exec-held` | the same, while a child has inherited all descriptors |
//! | `fork` | a forked child goes on for 0.3 s and checks its memory; ends with 7 at once |
//! | `vfork` | a child borrows this memory until its input ends, and answers how many pages are wrong |
//! | `daemon` | ends with 7; a grandchild in its own session goes on following its input |
//! | `first-thread` | ends the first thread only; another one goes on following its input |

use std::ffi::c_void;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::{Bytes, Pages};

use crate::{Answer, STATUS, State};

pub(crate) fn die(how: &str, state: &mut State) -> Answer {
    match how {
        "exit" => std::process::exit(STATUS.into()),
        "abort" => std::process::abort(),
        "segv" => crash(),
        "out-of-memory" => loop {
            let mut region = Region::new(Bytes(32 << 20)).map_err(|e| e.to_string())?;
            let all = region.pages().length();
            region.advise(Pages(0), all, OwnAdvice::BasePages).map_err(|e| e.to_string())?;
            region.touch(Pages(0), all);
            std::mem::forget(region);
        },
        "group" => {
            rustix::process::setpgid(None, None).map_err(|e| e.to_string())?;
            let kill = rustix::process::Signal::KILL;
            rustix::process::kill_current_process_group(kill).map_err(|e| e.to_string())?;
            Err("alive after SIGKILL".to_owned())
        }
        "exec" => Err(become_new()),
        "exec-held" => {
            if !fork()? {
                // An orphan, so that the new program has no child.
                if !fork()? {
                    state.regions.clear();
                    std::thread::sleep(Duration::from_millis(1500));
                }
                end_here(0);
            }
            // SAFETY: no status is wanted; the child is known here only.
            unsafe { libc::wait(std::ptr::null_mut()) };
            Err(become_new())
        }
        "fork" => {
            if fork()? {
                end_here(STATUS.into());
            }
            std::thread::sleep(Duration::from_millis(300));
            println!("{} wrong in the child", state.wrong());
            end_here(0);
        }
        "vfork" => borrow_memory(state),
        "daemon" => {
            if fork()? {
                end_here(STATUS.into());
            }
            rustix::process::setsid().map_err(|e| e.to_string())?;
            if fork()? {
                end_here(0);
            }
            Ok(std::process::id().to_string())
        }
        "first-thread" => {
            let wrong = go_on_in_thread(state);
            Err(wrong)
        }
        _ => Err(format!("no way to die: {how}")),
    }
}

fn crash() -> Answer {
    let nowhere = std::ptr::without_provenance_mut::<u8>(8);
    // SAFETY: it is not: nothing is mapped there, and the process ends by SIGSEGV.
    unsafe { nowhere.write_volatile(1) };
    Err("alive after SIGSEGV".to_owned())
}

fn become_new() -> String {
    let error = match std::env::current_exe() {
        Ok(own) => Command::new(own).exec(),
        Err(error) => error,
    };
    error.to_string()
}

/// fork(2): whether this is the parent.
fn fork() -> Result<bool, String> {
    // SAFETY: the child only does what a forked child of several threads may do, or is one whose
    // parent had no other threads.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error().to_string()),
        child => Ok(child != 0),
    }
}

/// Ends without running what was registered for the end of the program.
fn end_here(status: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// What a forked child says.
pub(crate) fn in_forked_child(say: impl FnOnce() -> String) -> Answer {
    let (mut reader, mut writer) = std::io::pipe().map_err(|e| e.to_string())?;
    if !fork()? {
        let _ = writer.write_all(say().as_bytes());
        end_here(0);
    }
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).map_err(|e| e.to_string())?;
    // SAFETY: no status is wanted; the child is known here only.
    unsafe { libc::wait(std::ptr::null_mut()) };
    Ok(text)
}

/// What waitpid(-1) says.
pub(crate) fn wait_for_any() -> String {
    // SAFETY: no status is wanted.
    let child = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
    match child {
        -1 => std::io::Error::last_os_error().to_string(),
        child => format!("child {child}"),
    }
}

pub(crate) fn close_all() -> Answer {
    // SAFETY: not allowed by Rust's rules for descriptors, and what some programs do; nothing here
    // uses the closed ones again.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    if result == 0 { Ok(String::new()) } else { Err(std::io::Error::last_os_error().to_string()) }
}

/// Lets a child run in this memory as vfork(2) does; meanwhile this thread stands still.
fn borrow_memory(state: &mut State) -> Answer {
    let mut stack = vec![0_u128; 1 << 14];
    let end = stack.as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child has its own stack, and this thread, whose TLS it uses, waits for its end.
    let child = unsafe { libc::clone(borrow, end.cast(), flags, std::ptr::from_mut(state).cast()) };
    Err(format!("the parent goes on after child {child}"))
}

/// A child by vfork: waits for the end of its input and says whether the memory is as it was.
extern "C" fn borrow(state: *mut c_void) -> i32 {
    // SAFETY: the parent handed over its state and stands still.
    let state = unsafe { &*state.cast::<State>() };
    let say = |text: String| {
        // Not by Rust's standard output, whose lock the parent may have held.
        // SAFETY: writes a borrowed text.
        unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
    };
    say("ok borrowed\n".to_owned());
    let mut byte = 0_u8;
    loop {
        // SAFETY: reads into one byte of this stack.
        let length = unsafe { libc::read(0, (&raw mut byte).cast(), 1) };
        if length <= 0 {
            break;
        }
        if byte == b'?' {
            say(format!("ok {}\n", state.wrong()));
        }
    }
    0
}

/// Lets another thread answer lines while the first one has ended.
fn go_on_in_thread(state: &mut State) -> String {
    let state = std::mem::take(state);
    std::thread::spawn(move || {
        println!("ok");
        let mut byte = [0_u8];
        // The first thread holds the lock of standard input for ever.
        // SAFETY: reads into one byte of this stack.
        while unsafe { libc::read(0, byte.as_mut_ptr().cast(), 1) } == 1 {
            if byte == *b"?" {
                println!("ok {}", state.wrong());
            }
        }
        end_here(STATUS.into());
    });
    // SAFETY: ends this thread only, without unwinding: whatever it owns is leaked.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    "the first thread goes on".to_owned()
}
