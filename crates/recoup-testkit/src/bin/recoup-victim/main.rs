//! A process with a companion, which ends in all the ways that processes do. It follows the lines of
//! its standard input and answers each with `ok ...` or `failed: ...`; at the end of its input it
//! returns from `main`.
//!
//! | command | does |
//! |---|---|
//! | `hello` | nothing but answer |
//! | `map MIB base` or `huge` | maps memory and writes into each page |
//! | `check` | counts its pages with a wrong value |
//! | `arm` | arms a companion; answers its number |
//! | `arm-task` | the same, with a task that counts its calls; `task` answers how many |
//! | `sparse BLOCKS`, `arm-tables`, `check-sparse`, `touch-sparse`, `passes`, `stop-sparse` | see [`sparse`] |
//! | `holed BLOCKS`, `arm-splits`, `give-back`, `waiting`, `split-rest`, `check-holed` | see [`holed`] |
//! | `arm-again` | tries to arm a second one; answers the refusal |
//! | `alive`, `disarm` | whether the companion lives; ends it |
//! | `wait` | calls waitpid(-1) and answers its error |
//! | `forked` | answers what a forked child sees: of its companion and of its memory |
//! | `hammer THREADS`, `stop` | see [`hammer`]; answers rounds and wrong values |
//! | `close-all` | closes all descriptors but standard input and output |
//! | `die HOW` | see [`death`] |
//! | `become WHO` | see [`rights`] |

#![expect(unsafe_code, reason = "fork(2) and worse: what a test's victim does")]

mod death;
mod hammer;
mod holed;
mod rights;
mod sparse;

use std::ffi::c_void;
use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use recoup::companion::{self, Chores, Companion, Options, Task};
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::PAGE_BYTES;
use recoup_sys::{Bytes, Pages};

use holed::Holed;
use sparse::Sparse;

type Answer = Result<String, String>;

/// What a victim returns from `main`, and gives to exit(3).
const STATUS: u8 = 7;

fn main() -> ExitCode {
    let mut state = State::default();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if line == "die return" {
            break;
        }
        let answer = match state.follow(&line) {
            Ok(text) => format!("ok {text}"),
            Err(why) => format!("failed: {why}"),
        };
        if writeln!(std::io::stdout(), "{answer}").is_err() {
            break;
        }
    }
    // A dropped handle would end it.
    state.companions.into_iter().for_each(Companion::keep);
    ExitCode::from(STATUS)
}

#[derive(Default)]
struct State {
    regions: Vec<Region>,
    companions: Vec<Companion>,
    hammer: Option<hammer::Hammer>,
    sparse: Option<Sparse>,
    holed: Option<Holed>,
}

/// How often the task was called.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// A task: counts.
unsafe extern "C" fn count(calls: *mut c_void) -> u64 {
    // SAFETY: `follow` hands over the static counter.
    let calls = unsafe { &*calls.cast::<AtomicU64>() };
    calls.fetch_add(1, Ordering::Relaxed);
    5_000_000
}

impl State {
    fn follow(&mut self, line: &str) -> Answer {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["hello"] => Ok(String::new()),
            ["map", mib, pages] => self.map(mib, pages),
            ["check"] => Ok(format!("{}", self.wrong())),
            ["arm"] => self.arm(&Options::default()),
            ["arm-task"] => {
                let calls = (&raw const CALLS).cast_mut().cast();
                // SAFETY: `count` is written for this, and the counter is static.
                let task = unsafe { Task::new(count, calls) };
                self.arm(&Options { task: Some(task), ..Options::default() })
            }
            ["arm-again"] => match companion::arm(&Options::default()) {
                Ok(_) => Err("two companions".to_owned()),
                Err(refusal) => Ok(refusal.to_string()),
            },
            ["task"] => Ok(CALLS.load(Ordering::Relaxed).to_string()),
            ["alive"] => Ok(self.companions.iter().any(Companion::is_alive).to_string()),
            ["disarm"] => {
                self.companions.clear();
                Ok(String::new())
            }
            ["wait"] => Ok(death::wait_for_any()),
            ["forked"] => death::in_forked_child(|| {
                let alive = self.companions.iter().any(Companion::is_alive);
                self.companions.clear();
                format!("alive {alive} wrong {}", self.wrong())
            }),
            ["hammer", threads] => {
                let threads = threads.parse().map_err(|e| format!("{threads}: {e}"))?;
                self.hammer = Some(hammer::Hammer::start(threads));
                Ok(String::new())
            }
            ["stop"] => self.hammer.take().map_or(Err("no hammer".to_owned()), |h| Ok(h.stop())),
            ["close-all"] => death::close_all(),
            ["die", how] => death::die(how, self),
            ["become", who] => rights::become_one(who),
            _ => self.follow_special(&words),
        }
    }

    /// What is about memory of a kind of its own.
    fn follow_special(&mut self, words: &[&str]) -> Answer {
        match *words {
            ["sparse", blocks] => self.sparse(blocks),
            ["check-sparse"] => Ok(self.sparse.as_ref().map_or(0, Sparse::wrong).to_string()),
            ["touch-sparse"] => {
                self.sparse.as_mut().ok_or("nothing sparse")?.touch();
                Ok(String::new())
            }
            ["passes"] => Ok(self.sparse.as_ref().map_or(0, Sparse::passes).to_string()),
            ["stop-sparse"] => Ok(self.sparse.as_mut().ok_or("nothing sparse")?.stop()),
            ["arm-tables"] => {
                let sparse = self.sparse.as_ref().ok_or("nothing sparse")?;
                let chores = Chores { tables: Some(sparse.regulator()?), ..Chores::default() };
                let task = Some(chores.into_task());
                self.arm(&Options { task, ..Options::default() })
            }
            ["holed", blocks] => self.holed(blocks),
            ["arm-splits"] => {
                let holed = self.holed.as_ref().ok_or("nothing holed")?;
                let chores = Chores { splits: Some(holed.helper()), ..Chores::default() };
                self.arm(&Options { task: Some(chores.into_task()), ..Options::default() })
            }
            ["give-back"] => {
                self.holed.as_mut().ok_or("nothing holed")?.give_back().map(|()| String::new())
            }
            ["give-back-within", bytes] => {
                let bound = bytes.parse().map_err(|e| format!("{bytes}: {e}"))?;
                let holed = self.holed.as_mut().ok_or("nothing holed")?;
                holed.give_back_within(Bytes(bound)).map(|()| String::new())
            }
            ["waiting"] => Ok(self.holed.as_mut().map_or(0, Holed::waiting).to_string()),
            ["split-rest"] => {
                let left = self.holed.as_ref().ok_or("nothing holed")?.split_rest()?;
                Ok(left.to_string())
            }
            ["check-holed"] => Ok(self.holed.as_ref().map_or(0, Holed::wrong).to_string()),
            _ => Err(format!("what is {words:?}")),
        }
    }

    fn arm(&mut self, options: &Options) -> Answer {
        let companion = companion::arm(options).map_err(|e| e.to_string())?;
        let pid = companion.pid();
        self.companions.push(companion);
        Ok(pid.to_string())
    }

    fn holed(&mut self, blocks: &str) -> Answer {
        let holed = Holed::new(blocks.parse().map_err(|e| format!("{blocks}: {e}"))?)?;
        let huge = holed.is_huge().to_string();
        self.holed = Some(holed);
        Ok(huge)
    }

    fn sparse(&mut self, blocks: &str) -> Answer {
        let blocks = blocks.parse().map_err(|e| format!("{blocks}: {e}"))?;
        self.sparse = Some(Sparse::new(blocks)?);
        Ok(String::new())
    }

    fn map(&mut self, mib: &str, pages: &str) -> Answer {
        let mib: u64 = mib.parse().map_err(|e| format!("{mib}: {e}"))?;
        let mut region = Region::new(Bytes(mib << 20)).map_err(|e| e.to_string())?;
        let all = region.pages().length();
        let advice = if pages == "huge" { OwnAdvice::HugePages } else { OwnAdvice::BasePages };
        // Refused where the kernel has no huge pages: then all pages are base pages.
        let _ = region.advise(Pages(0), all, advice);
        for page in 0..offset(all) / PAGE_BYTES {
            region.write(page * PAGE_BYTES, &value(page));
        }
        self.regions.push(region);
        Ok(String::new())
    }

    /// Pages with a wrong value.
    fn wrong(&self) -> usize {
        let wrong_in = |region: &Region| {
            let pages = offset(region.pages().length()) / PAGE_BYTES;
            let mut found = [0; 8];
            let is_wrong = |&page: &usize| {
                region.read(page * PAGE_BYTES, &mut found);
                found != value(page)
            };
            (0..pages).filter(is_wrong).count()
        };
        self.regions.iter().map(wrong_in).sum()
    }
}

fn offset(pages: Pages) -> usize {
    usize::try_from(pages.bytes().0).unwrap_or(usize::MAX)
}

/// What a page begins with.
fn value(page: usize) -> [u8; 8] {
    (page as u64 | 1 << 63).to_ne_bytes()
}
