//! The companion, and the program that arms it, killed at one point after the other.
//!
//! What a task has done shows outside of itself by its system calls, and in memory by what it wrote in
//! between. So it is stopped before and after each system call of a stretch, and some instructions later,
//! as many as a fixed sequence says, and killed there: the same points in every run, where random moments
//! (`killed`) find the long ones only.
//!
//! `RECOUP_KILLS` says at how many points of each stretch; some dozens spread over it unless set. In the
//! thousands each stop has many, up to 512 instructions apart:
//!
//!     RECOUP_KILLS=5000 cargo test --release -p recoup --test companion stepped -- --nocapture

use std::os::unix::process::ExitStatusExt;

use crate::common::{CGROUP, Victim, eventually};
use recoup_testkit::numbers::Numbers;
use recoup_testkit::tracer::{Call, Moment, Tracee};
use recoup_testkit::workload::charge;
use recoup_testkit::{HostSetting, kernel, require};

/// Requests of userfaultfd: to fence a range, and to lift that fence (`UFFDIO_REGISTER` and `UNREGISTER`).
const FENCE: u64 = 0xc020_aa00;
const LIFT: u64 = 0x8010_aa01;

/// Kills at points spread over a stretch. `round` takes it there, kills, checks what is left, and returns
/// the stops that there were on the way.
fn sweep(usual: u64, what: &str, mut round: impl FnMut(Moment) -> u64) {
    let all = round(Moment { stops: u64::MAX, steps: 0 });
    assert!(all > 10, "{all} stops at system calls: {what}");
    let asked = std::env::var("RECOUP_KILLS").ok().and_then(|text| text.parse().ok());
    let (kills, mut numbers) = (asked.unwrap_or(usual), Numbers::new(0x9e37_79b9_7f4a_7c15));
    let mut reached = 0;
    for kill in 0..kills {
        // Most gaps between system calls are short.
        let longest = 1 << numbers.below(10);
        let moment = Moment { stops: kill * all / kills, steps: numbers.below(longest) };
        reached += u64::from(round(moment) == moment.stops);
    }
    eprintln!("{what}: {kills} kills over {all} stops at system calls, {reached} where meant");
    // The stretch is not quite the same each time.
    assert!(reached * 2 > kills, "{reached} of {kills}");
}

/// Over when the companion goes to sleep for the `times`th time.
fn sleeps(mut times: u64) -> impl FnMut(&Call) -> bool {
    move |call| {
        times -= u64::from(call.number == libc::SYS_ppoll);
        times == 0
    }
}

impl Victim {
    /// Gives a command that arms a companion, which is stopped before its first instruction.
    fn newborn(&mut self, command: &str) -> Tracee {
        let mut program = Tracee::seize(self.program.pid());
        self.program.send(command);
        let companion = program.companion();
        program.let_go();
        companion
    }

    /// The companion was killed, ready or not: the program hears of it and is as before.
    fn goes_on(&mut self) {
        if let Err(why) = self.program.any_answer() {
            assert!(why.contains("staying alive"), "{why}");
        }
        assert_eq!(self.program.tell("alive"), "false");
        self.program.tell("disarm");
        assert_eq!(self.program.tell("check"), "0");
    }

    fn nothing_is_left(&self) {
        eventually("nothing is left", || self.is_empty() && charge(&self.cgroup) < 12 << 20);
    }
}

#[test]
fn killed_at_each_step_of_its_birth_a_companion_leaves_the_program_unharmed() {
    require!(kernel::is_root(), "root");
    let victim = Victim::start("stepped-birth");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    victim.program.tell("map 8 base");
    victim.program.tell("hammer 1");
    sweep(100, "arming, and the task's first calls", |moment| {
        let mut companion = victim.newborn("arm-task");
        let stops = companion.run_to(moment, sleeps(4));
        companion.kill();
        victim.goes_on();
        stops
    });
    let verdict = victim.program.tell("stop");
    assert!(verdict.ends_with(" 0 wrong"), "{verdict}");
    victim.arm();
    victim.program.kill();
    victim.all_is_back();
}

#[test]
fn a_program_killed_at_each_step_of_arming_leaves_nothing() {
    require!(kernel::is_root(), "root");
    require!(Victim::start("stepped-arming").is_some(), CGROUP);
    sweep(60, "the program, arming", |moment| {
        let mut victim = Victim::start("stepped-arming").expect("just checked");
        victim.program.tell("map 8 base");
        let mut program = Tracee::seize(victim.program.pid());
        victim.program.send("arm-task");
        // Over when it answers.
        let answers = |call: &Call| call.number == libc::SYS_write && call.arguments[0] == 1;
        let stops = program.run_to(moment, answers);
        assert_eq!(victim.program.kill().signal(), Some(9));
        victim.nothing_is_left();
        stops
    });
}

#[test]
fn killed_at_each_step_of_the_end_a_companion_leaves_nothing() {
    require!(kernel::is_root(), "root");
    require!(Victim::start("stepped-end").is_some(), CGROUP);
    sweep(40, "noticing the end, and freeing", |moment| {
        let mut victim = Victim::start("stepped-end").expect("just checked");
        victim.program.tell("map 72 base");
        victim.arm();
        let mut companion = Tracee::seize(victim.companion);
        assert_eq!(victim.program.kill().signal(), Some(9));
        let stops = companion.run_to(moment, |_| false);
        companion.kill();
        victim.nothing_is_left();
        stops
    });
}

#[test]
fn killed_at_each_step_of_splitting_a_companion_leaves_all_to_the_program() {
    const BLOCKS: u64 = 6;
    require!(kernel::is_root(), "root");
    let _thp = HostSetting::huge_pages("madvise");
    let victim = Victim::start("stepped-splits");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    let holed = format!("holed {BLOCKS}");
    let huge = victim.program.tell(&holed);
    require!(huge == "true", "memory that is not too fragmented for huge pages");
    sweep(40, "splitting", |moment| {
        assert_eq!(victim.program.tell(&holed), "true");
        victim.companion = victim.program.tell("arm-splits").parse().expect("its number");
        let mut companion = Tracee::seize(victim.companion);
        let before = charge(&victim.cgroup);
        victim.program.tell("give-back");
        let stops = companion.run_to(moment, sleeps(3));
        companion.kill();
        assert_eq!(victim.program.tell("split-rest"), "0");
        let fell = before.saturating_sub(charge(&victim.cgroup));
        assert!(fell > (BLOCKS * 2 - 1) << 20, "the charge fell by {fell}");
        assert_eq!(victim.program.tell("check-holed"), "0");
        victim.program.tell("disarm");
        stops
    });
    victim.program.kill();
    victim.nothing_is_left();
}

#[test]
fn killed_at_each_step_of_a_sweep_a_companion_lets_all_go_on_who_wait_at_its_fence() {
    require!(kernel::is_root(), "root");
    let features = recoup_sys::Features::probe().expect("features");
    let needed = [&features.pagemap_scan, &features.userfaultfd];
    let missing = recoup_sys::Support::first_missing(needed);
    require!(missing.is_none(), "PAGEMAP_SCAN (Linux 6.7) and a userfaultfd for kernel faults");
    let victim = Victim::start("stepped-fence");
    require!(victim.is_some(), CGROUP);
    let mut victim = victim.expect("just checked");
    victim.program.tell("sparse 1024");
    victim.program.tell("touch-sparse");
    let mut fenced = 0;
    sweep(100, "sweeping page tables", |moment| {
        let (mut up, mut enough) = (false, sleeps(4));
        let mut companion = victim.newborn("arm-tables");
        let stops = companion.run_to(moment, |call| {
            up = (up || call.is_ioctl(FENCE)) && !call.is_ioctl(LIFT);
            enough(call)
        });
        companion.kill();
        fenced += u64::from(up);
        victim.goes_on();
        let passes = |victim: &mut Victim| -> u64 {
            victim.program.tell("passes").parse().expect("a number")
        };
        let before = passes(&mut victim);
        // Whoever touches all blocks gets through to the end, and to the next.
        eventually("nobody waits any more", || passes(&mut victim) > before + 1);
        stops
    });
    eprintln!("{fenced} of them with a fence up");
    assert!(fenced > 0);
    assert_eq!(victim.program.tell("stop-sparse"), "0 wrong");
    assert_eq!(victim.program.tell("check-sparse"), "0");
    victim.program.kill();
    victim.nothing_is_left();
}
