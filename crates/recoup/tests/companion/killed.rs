//! The companion and the program killed at random moments, over and over.
//!
//! `RECOUP_KILLS` says how often the companion is killed; 150 times unless set, the program a third of
//! that. Thousands take minutes:
//!
//!     RECOUP_KILLS=5000 cargo test --release -p recoup --test companion killed -- --nocapture

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::{CGROUP, Victim, await_end, eventually};
use recoup_testkit::numbers::Numbers;
use recoup_testkit::workload::charge;
use recoup_testkit::{kernel, require};
use rustix::process::{Pid, Signal};

fn rounds() -> u64 {
    std::env::var("RECOUP_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(150)
}

/// Moments up to 4 ms, half of them below 0.5 ms.
struct Moments(Numbers);

impl Moments {
    fn next(&mut self) -> Duration {
        let longest = if self.0.below(2) == 0 { 500 } else { 4000 };
        Duration::from_micros(self.0.below(longest))
    }

    /// Waits without sleeping, which would take longer.
    fn pass(&mut self) {
        let (began, moment) = (Instant::now(), self.next());
        while began.elapsed() < moment {
            std::thread::yield_now();
        }
    }
}

/// Stops the killer also where the test panics: the scope waits for it.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_companion_killed_at_any_moment_leaves_the_program_unharmed() {
    require!(kernel::is_root(), "root");
    let victim = Victim::armed("killed-companion", "base");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    victim.program.tell("disarm");
    victim.program.tell("hammer 2");
    let (own, over, killed) = (victim.program.pid(), AtomicBool::new(false), AtomicU64::new(0));
    let cgroup = &victim.cgroup;
    let (mut armed, mut died_early) = (0, 0);
    let program = &mut victim.program;
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&over);
        // Kills whatever appears beside the program, also before it is ready.
        scope.spawn(|| {
            let mut moments = Moments(Numbers::new(0x9e37_79b9_7f4a_7c15));
            while !over.load(Ordering::Relaxed) {
                let pids = cgroup.pids().unwrap_or_default();
                for pid in pids.into_iter().filter(|&pid| pid != own).filter_map(Pid::from_raw) {
                    moments.pass();
                    if rustix::process::kill_process(pid, Signal::KILL).is_ok() {
                        killed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        for _ in 0..rounds() {
            program.send("arm-task");
            match program.any_answer() {
                Ok(_) => armed += 1,
                Err(why) => {
                    assert!(why.contains("staying alive"), "{why}");
                    died_early += 1;
                }
            }
            eventually("is_alive() says that it was killed", || program.tell("alive") == "false");
            program.tell("disarm");
        }
    });
    let killed = killed.into_inner();
    eprintln!("{killed} kills: {armed} after arming, {died_early} before");
    assert!(armed > 0 && killed >= rounds());
    let verdict = victim.program.tell("stop");
    assert!(verdict.ends_with(" 0 wrong"), "{verdict}");
    assert_eq!(victim.program.tell("check"), "0");
    victim.arm();
    victim.program.kill();
    victim.all_is_back();
}

#[test]
fn a_program_killed_at_any_moment_leaves_nothing() {
    require!(kernel::is_root(), "root");
    let mut moments = Moments(Numbers::new(0x2545_f491_4f6c_dd1d));
    let (mut with, mut without) = (0, 0);
    for round in 0..rounds() / 3 {
        let victim = Victim::start("killed-program");
        require!(victim.is_some(), CGROUP);
        let mut victim = victim.expect("just checked");
        victim.program.tell("map 24 base");
        if round % 2 == 0 {
            victim.program.tell("hammer 1");
        }
        victim.program.send("arm-task");
        // Arming takes some milliseconds where tests are not optimised.
        (0..=round % 4).for_each(|_| moments.pass());
        victim.program.kill();
        match victim.program.any_answer() {
            Ok(companion) => {
                with += 1;
                let status = await_end(companion.parse().expect("its number"));
                assert_eq!(status.exit_status(), Some(0), "{status:?}");
            }
            // Killed before it could say so: there may be one all the same.
            Err(_) => without += 1,
        }
        eventually("nothing is left", || victim.is_empty() && charge(&victim.cgroup) < 12 << 20);
    }
    eprintln!("killed with a companion {with} times, on the way to one {without} times");
}
