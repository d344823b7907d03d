//! A process that does to its memory what a test tells it, line by line on standard input, and
//! answers each line with `ok ...` or `failed: ...`. It ends with its input.
//!
//! Amounts are in pages of 4 KiB; FIRST counts from the region's start.
//!
//! | command | does |
//! |---|---|
//! | `hello` | nothing but answer |
//! | `map NAME PAGES huge` or `base` | maps a region aligned to 2 MiB; answers its addresses |
//! | `unmap NAME` | unmaps it |
//! | `fill NAME` | writes each page's own value into it |
//! | `touch NAME FIRST COUNT STEP TIMES` | writes one byte into each of COUNT pages, every STEP |
//! | `peek NAME FIRST STEP TIMES` | reads a byte of a page, every STEP |
//! | `discard`, `free NAME FIRST COUNT STEP TIMES` | `MADV_DONTNEED`, `MADV_FREE` |
//! | `verify NAME FIRST COUNT STEP TIMES` | counts pages without their own value |
//! | `base NAME FIRST COUNT STEP TIMES` | `MADV_NOHUGEPAGE`, which divides mappings |
//! | `lock NAME FIRST COUNT STEP TIMES` | mlock(2) |
//! | `hugetlb NAME PAGES` | maps a memfd of 2 MiB hugetlb pages shared; answers its addresses |
//! | `shared NAME PAGES`, `touch-shared NAME FIRST STEP TIMES` | maps a memfd shared; writes to it |
//! | `fork` | forks a child that keeps all memory until this process ends |
//! | `leave` | ends the first thread; another one keeps the memory until the process is killed |
//! | `rename` | takes a name that is neither UTF-8 nor harmless on a terminal |
//! | `exec` | becomes a new program that does the same |
//! | `hammer THREADS`, `stop` | see [`hammer`]; answers operations and wrong values |

#![expect(unsafe_code, reason = "fork(2) and mremap(2): what a test's victim does")]

mod hammer;
mod shared;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;

use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::PAGE_BYTES;
use recoup_sys::{Bytes, Pages};

type Answer = Result<String, String>;

fn main() {
    let mut state = State::default();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let answer = match state.follow(&line) {
            Ok(text) => format!("ok {text}"),
            Err(why) => format!("failed: {why}"),
        };
        if writeln!(std::io::stdout(), "{answer}").is_err() {
            break;
        }
    }
    state.end();
}

#[derive(Default)]
struct State {
    regions: BTreeMap<String, Region>,
    shared: BTreeMap<String, shared::Shared>,
    hammer: Option<hammer::Hammer>,
    children: Vec<libc::pid_t>,
}

impl State {
    fn follow(&mut self, line: &str) -> Answer {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
        let numbers =
            |texts: &[&str]| texts.iter().map(|t| number(t)).collect::<Result<Vec<_>, _>>();
        match words.as_slice() {
            ["map", name, pages, kind] => self.map(name, number(pages)?, kind),
            ["unmap", name] => {
                self.regions.remove(*name);
                Ok(String::new())
            }
            ["hammer", threads] => {
                self.hammer = Some(hammer::Hammer::start(number(threads)?));
                Ok(String::new())
            }
            ["stop"] => self.hammer.take().map(hammer::Hammer::stop).ok_or("no hammer".to_owned()),
            ["shared" | "hugetlb", name, pages] => {
                let new = if words[0] == "shared" {
                    shared::Shared::new
                } else {
                    shared::Shared::of_hugetlb
                };
                let mapping = new(number(pages)?).map_err(|e| e.to_string())?;
                let addresses = mapping.addresses();
                self.shared.insert((*name).to_owned(), mapping);
                Ok(addresses)
            }
            ["touch-shared", name, rest @ ..] => {
                let mapping = self.shared.get_mut(*name).ok_or(format!("no mapping {name}"))?;
                mapping.touch(&numbers(rest)?);
                Ok(String::new())
            }
            ["hello"] => Ok(String::new()),
            ["rename"] => rename(),
            ["leave"] => leave(),
            ["fork"] => self.fork(),
            ["exec"] => {
                let program = std::env::current_exe().map_err(|e| e.to_string())?;
                // Answered first: what comes after the answer is read by the new program.
                writeln!(std::io::stdout(), "ok").map_err(|e| e.to_string())?;
                Err(std::process::Command::new(program).exec().to_string())
            }
            [command, name, rest @ ..] => {
                let region = self.regions.get_mut(*name).ok_or(format!("no region {name}"))?;
                on_region(region, command, &numbers(rest)?)
            }
            _ => Err(format!("no command {line:?}")),
        }
    }

    fn map(&mut self, name: &str, pages: u64, kind: &str) -> Answer {
        let advice = match kind {
            "huge" => OwnAdvice::HugePages,
            "base" => OwnAdvice::BasePages,
            other => return Err(format!("huge or base, not {other}")),
        };
        let mut region = Region::new(Pages(pages).bytes()).map_err(|e| e.to_string())?;
        region.advise(Pages(0), Pages(pages), advice).map_err(|e| e.to_string())?;
        let addresses = region.pages().to_string();
        self.regions.insert(name.to_owned(), region);
        Ok(addresses)
    }

    fn fork(&mut self) -> Answer {
        // SAFETY: no other thread runs while commands are followed (a hammer forks by itself), and
        // the child only sleeps until it is killed.
        match unsafe { libc::fork() } {
            -1 => Err(std::io::Error::last_os_error().to_string()),
            0 => {
                // SAFETY: takes numbers only. The child dies with this process, however that ends.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                loop {
                    std::thread::park();
                }
            }
            child => {
                self.children.push(child);
                Ok(child.to_string())
            }
        }
    }

    fn end(self) {
        for child in self.children {
            // SAFETY: a child that was not reaped yet still has its number.
            unsafe { libc::kill(child, libc::SIGKILL) };
            // SAFETY: a null status pointer is allowed.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        }
    }
}

fn rename() -> Answer {
    let name = c"\xff\x1b[31m(1) x";
    rustix::thread::set_name(name).map_err(|e| e.to_string())?;
    Ok(String::new())
}

fn leave() -> Answer {
    std::thread::spawn(|| {
        loop {
            std::thread::park();
        }
    });
    writeln!(std::io::stdout(), "ok").map_err(|e| e.to_string())?;
    // SAFETY: ends this thread only; nothing that it owns is used by another one.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    Ok(String::new())
}

fn on_region(region: &mut Region, command: &str, numbers: &[u64]) -> Answer {
    let length = region.pages().length().0;
    let (first, count, step, times) = match *numbers {
        [] => (0, length, length, 1),
        [first, step, times] => (first, 1, step, times),
        [first, count, step, times] => (first, count, step, times),
        _ => return Err(format!("{command} takes other numbers")),
    };
    let ranges = (0..times).map(|i| (first + i * step, count));
    let mut wrong = 0;
    for (first, count) in ranges {
        let advise = |region: &mut Region, advice| {
            region.advise(Pages(first), Pages(count), advice).map_err(|e| e.to_string())
        };
        match command {
            "fill" => (first..first + count).for_each(|page| fill_page(region, page)),
            "touch" => region.touch(Pages(first), Pages(count)),
            "peek" => _ = region.peek(offset(first)),
            "discard" => advise(region, OwnAdvice::Discard)?,
            "free" => advise(region, OwnAdvice::FreeLazily)?,
            "verify" => wrong += (first..first + count).filter(|&p| !is_right(region, p)).count(),
            "base" => advise(region, OwnAdvice::BasePages)?,
            "lock" => region.lock(Pages(first), Pages(count)).map_err(|e| e.to_string())?,
            _ => return Err(format!("no command {command}")),
        }
    }
    Ok(if command == "verify" { format!("{wrong} wrong") } else { String::new() })
}

fn offset(page: u64) -> usize {
    usize::try_from(Bytes(Pages(page).bytes().0).0).unwrap_or(usize::MAX)
}

/// The bytes of a page: each its own.
fn value(page: u64) -> [u8; PAGE_BYTES] {
    let mut bytes = [0; PAGE_BYTES];
    for (i, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        let word = (page << 9 | i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn fill_page(region: &mut Region, page: u64) {
    region.write(offset(page), &value(page));
}

fn is_right(region: &Region, page: u64) -> bool {
    let mut bytes = [0; PAGE_BYTES];
    region.read(offset(page), &mut bytes);
    bytes == value(page)
}
