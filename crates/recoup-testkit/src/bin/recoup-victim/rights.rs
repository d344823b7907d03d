//! Fewer rights than a test's own.
//!
//! | `become` | who |
//! |---|---|
//! | `nobody` | a user without any privilege |
//! | `rootless` | root of a user namespace that nobody has made, as in a rootless container |

use std::fs;

use rustix::process::DumpableBehavior;

use crate::Answer;

const NOBODY: u32 = 65534;

pub(crate) fn become_one(who: &str) -> Answer {
    match who {
        "nobody" => nobody()?,
        "rootless" => {
            nobody()?;
            rootless()?;
        }
        _ => return Err(format!("who is {who}?")),
    }
    let user = rustix::process::geteuid().as_raw();
    Ok(format!("{user}"))
}

fn nobody() -> Result<(), String> {
    let done = |result| if result == 0 { Ok(()) } else { Err(last("become nobody")) };
    // SAFETY: takes no memory; there is one thread.
    done(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: takes numbers only.
    done(unsafe { libc::setresgid(NOBODY, NOBODY, NOBODY) })?;
    // SAFETY: as above.
    done(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) })?;
    // Whoever changes his user can't look at himself any more; a program that nobody starts can.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(|e| e.to_string())
}

fn rootless() -> Result<(), String> {
    // SAFETY: takes flags only.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER) } != 0 {
        return Err(last("unshare"));
    }
    let write = |file: &str, text: &str| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|e| format!("{file}: {e}"))
    };
    write("setgroups", "deny")?;
    write("gid_map", &format!("0 {NOBODY} 1"))?;
    write("uid_map", &format!("0 {NOBODY} 1"))
}

fn last(what: &str) -> String {
    format!("{what}: {}", std::io::Error::last_os_error())
}
