//! One sweep: where tables are that nothing needs, and their end.

use std::ffi::CString;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use recoup_sys::own_maps::{Name, OwnMap, OwnMaps};
use recoup_sys::own_status::OwnStatus;
use recoup_sys::pagemap::{Pagemap, Query, Run};
use recoup_sys::pressure::{self, MemoryPressure};
use recoup_sys::units::{BLOCK, PAGE_BYTES};
use recoup_sys::userfault::{Against, Settled, Userfault};
use recoup_sys::workroom::{Newcomer, Workroom};
use recoup_sys::{Bytes, Errno, Features, PageIdx, PageRange, Support};

use crate::discard::{TableReclaim, table_reclaim};

use super::Outcome;
use super::aside::Aside;
use super::behind::{Behind, Left};
use super::mate::Mate;
use super::pace::Pace;

/// Why tables can't be swept here, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What is missing.
    pub why: String,
    /// The one thing to do for it.
    pub remedy: &'static str,
}

impl Refused {
    /// This kernel frees tables only where memory is mapped anew.
    fn not_plain(features: &Features) -> Self {
        let why = Support::first_missing([&features.table_reclaim]).map_or("", |(why, _)| why);
        Self {
            why: why.to_owned(),
            remedy: "promise that mappings are plain (Settled::plain), or use Linux 6.14 or later with \
                     CONFIG_PT_RECLAIM",
        }
    }

    pub(super) fn thread(error: &std::io::Error) -> Self {
        Self { why: error.to_string(), remedy: "allow one more thread" }
    }

    pub(super) fn room(error: &recoup_sys::Error) -> Self {
        Self { why: error.to_string(), remedy: "allow this process 4 MiB more of address space" }
    }

    pub(super) fn pagemap(error: Errno) -> Self {
        Self {
            why: format!("/proc/self/pagemap: {error}"),
            remedy: "mount /proc, or raise RLIMIT_NOFILE",
        }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "page tables can't be swept: {}: {}", self.why, self.remedy)
    }
}

impl std::error::Error for Refused {}

/// How a sweep goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Looks first and only fences where empty tables are; where the kernel does not show them (since
    /// Linux 7.3), wherever nothing is held, 32 GiB at a time at most.
    Looking,
    /// Fences whole mappings at once, so that no table is added there while some are freed: when
    /// there are too many.
    Fencing,
}

/// Finds empty and zero-page-only page tables of this process and frees them.
///
/// After construction nothing here allocates, takes a lock or panics, so that a helper can use it in
/// an address space whose program has died. After a fork, the child's copy works for the child.
#[derive(Debug)]
pub struct Sweeper {
    place: Option<Place>,
    room: Workroom,
    crew: Crew,
    /// Whose pressure to watch, if any.
    pressure: Option<CString>,
    /// Who frees along, if anybody.
    mate: Option<Mate>,
}

/// What belongs to the process that sweeps.
#[derive(Debug)]
struct Place {
    fault: Userfault,
    maps: [u8; PAGE_BYTES],
    status: OwnStatus,
    pressure: Option<MemoryPressure>,
}

/// What a look tells of tables.
#[derive(Clone, Copy, Debug)]
enum Sight {
    /// Where they are.
    Tables,
    /// Only what is held. Any gap may have some.
    Held,
}

impl Sight {
    fn of(features: &Features) -> Self {
        if features.empty_tables.works() { Self::Tables } else { Self::Held }
    }

    /// Where in a gap between what is held tables begin, as far as that is seen.
    fn first_table(self, pagemap: &Pagemap, gap: PageRange) -> Result<Option<PageIdx>, Errno> {
        match self {
            Self::Tables => pagemap.first_table(gap),
            Self::Held => Ok(Some(gap.start)),
        }
    }
}

/// What a sweep works with besides.
#[derive(Debug)]
struct Crew {
    settled: Settled,
    by: TableReclaim,
    sight: Sight,
    pace: Pace,
    /// Where the last fencing sweep ended: growth usually goes on there.
    resume: PageIdx,
}

impl Sweeper {
    /// For the settled addresses, with a longest pause to aim at.
    ///
    /// # Errors
    /// [`Refused`] where the kernel lacks `PAGEMAP_SCAN` (6.7), or a userfaultfd that covers kernel faults;
    /// and, unless mappings are promised to be plain ([`Settled::plain`]), where it does not free tables
    /// that a discard empties (`CONFIG_PT_RECLAIM`, 6.14).
    pub fn new(
        settled: Settled,
        max_pause: Duration,
        features: &Features,
    ) -> Result<Self, Refused> {
        let by = table_reclaim(features);
        let needed = [&features.base_pages, &features.pagemap_scan, &features.userfaultfd];
        if let Some((why, remedy)) = Support::first_missing(needed) {
            return Err(Refused { why: why.to_owned(), remedy });
        }
        if !settled.allows(by) {
            return Err(Refused::not_plain(features));
        }
        let room = Workroom::new().map_err(|e| Refused::room(&e))?;
        let sight = Sight::of(features);
        let crew = Crew { settled, by, sight, pace: Pace::new(max_pause), resume: PageIdx(0) };
        Ok(Self { place: None, room, crew, pressure: None, mate: None })
    }

    /// The same, that also watches memory pressure where the kernel lets it.
    pub(super) fn watching_pressure(mut self) -> Self {
        self.pressure = Some(pressure::nearest_file());
        self
    }

    /// The same, with a second thread where there is a processor for it. Then a sweep takes locks, and it
    /// is for the process alone that this was called in.
    pub(super) fn with_mate(mut self) -> Self {
        // Without, it does all of it itself.
        self.mate = Mate::start(self.crew.pace.max_pause()).ok().flatten();
        self
    }

    /// Opens what sweeping needs, in the process that is to sweep: that with the program in it, or
    /// one that shares its address space. Otherwise the first use does it, also the first in a
    /// forked child.
    ///
    /// # Errors
    /// Those of open(2) and userfaultfd(2); `EOPNOTSUPP` in a forked child, where tables go only by mapping
    /// anew: the kernel keeps what a child has inherited apart from what is new, so its mappings would
    /// fall to pieces.
    pub fn attach(&mut self) -> Result<(), Errno> {
        if self.crew.by == TableReclaim::Remap && self.room.newcomer() == Newcomer::Child {
            return Err(Errno::OPNOTSUPP);
        }
        let left = self.place.take();
        if self.room.newcomer() == Newcomer::Sharer {
            // The numbers of another process's descriptors: here they may be anybody's.
            std::mem::forget(left);
        } else {
            drop(left);
        }
        self.room.enter();
        self.place = Some(Place {
            fault: Userfault::open()?,
            maps: [0; PAGE_BYTES],
            status: OwnStatus::open()?,
            pressure: self.pressure.as_deref().and_then(|file| MemoryPressure::open(file).ok()),
        });
        Ok(())
    }

    fn place(&mut self) -> Result<&mut Place, Errno> {
        let usable = self.place.as_ref().is_some_and(|place| place.fault.is_usable());
        if !usable || self.room.newcomer() != Newcomer::Same {
            self.attach()?;
        }
        self.place.as_mut().ok_or(Errno::BADF)
    }

    /// Whether memory ran short since the last call, as far as that is watched.
    pub(super) fn pressure_seen(&mut self) -> bool {
        self.place().is_ok_and(|place| place.pressure.as_ref().is_some_and(MemoryPressure::seen))
    }

    /// Bytes of page tables now.
    ///
    /// # Errors
    /// Those of reading `/proc/self/status`.
    pub fn page_tables(&mut self) -> Result<Bytes, Errno> {
        self.place()?.status.page_tables()
    }

    /// Sweeps until page tables are down to `goal`, or all addresses have been seen once.
    ///
    /// Costs some 1.5 us an empty table (looking first: 2.5 us), and 20 ns for each 2 MiB in a
    /// gigabyte that has any table; where tables are not shown, also a millisecond for each 32 GiB.
    ///
    /// # Errors
    /// Those of reading `/proc/self`. What the kernel refuses for one range is counted, not an error.
    pub fn sweep(&mut self, mode: Mode, goal: Bytes) -> Result<Outcome, Errno> {
        self.sweep_below(mode, goal, Bytes(u64::MAX))
    }

    /// The same, but a look ends as soon as page tables reach `alarm`: then others have to be stopped
    /// from adding some.
    pub(super) fn sweep_below(
        &mut self,
        mode: Mode,
        goal: Bytes,
        alarm: Bytes,
    ) -> Result<Outcome, Errno> {
        self.place()?;
        let own = [Aside::stack(), Aside::value(self), self.room.pages()];
        let others = self.mate.as_ref().map(Mate::aside).into_iter().flatten();
        let aside = Aside::new(own.into_iter().chain(others));
        let Self { place: Some(place), room, crew, mate, .. } = self else {
            return Err(Errno::BADF);
        };
        let before = place.status.page_tables()?;
        let outcome = Outcome { before, after: before, sweeps: 1, ..Outcome::default() };
        let Place { fault, maps, status, .. } = place;
        let Crew { settled, by, sight, pace, resume } = crew;
        let from = if mode == Mode::Fencing { *resume } else { PageIdx(0) };
        let (runs, by, sight, mate) = (room.runs(), *by, *sight, mate.as_ref());
        let mut work = Work {
            fault,
            status,
            settled,
            by,
            sight,
            pace,
            resume,
            runs,
            aside,
            mate,
            goal,
            alarm,
            outcome,
        };
        let last = PageIdx(u64::MAX);
        for part in
            [PageRange { start: from, end: last }, PageRange { start: PageIdx(0), end: from }]
        {
            let mut maps = OwnMaps::open(maps).map_err(Errno::from_raw_os_error)?;
            let ended = maps.try_for_each(|mapping| {
                let within = mapping.range.intersection(part);
                if within.is_empty() || !work.is_for(&mapping) {
                    return ControlFlow::Continue(());
                }
                work.mapping(mapping.range, within, mode)
            });
            if ended.is_break() {
                break;
            }
        }
        let mut outcome = work.outcome;
        outcome.after = status.page_tables()?;
        Ok(outcome)
    }
}

/// One sweep under way.
struct Work<'a> {
    fault: &'a mut Userfault,
    status: &'a OwnStatus,
    settled: &'a Settled,
    by: TableReclaim,
    sight: Sight,
    pace: &'a mut Pace,
    resume: &'a mut PageIdx,
    runs: &'a mut [Run],
    /// What the sweep itself uses, which it must not fence.
    aside: Aside,
    mate: Option<&'a Mate>,
    goal: Bytes,
    alarm: Bytes,
    outcome: Outcome,
}

impl Work<'_> {
    /// Whether tables of a mapping can be freed, as far as the kernel shows what it is.
    fn is_for(&self, mapping: &OwnMap) -> bool {
        let plain = mapping.writable && !mapping.executable && mapping.name == Name::Absent;
        mapping.readable
            && mapping.is_private_anonymous()
            && (plain || self.by == TableReclaim::Discard)
    }

    /// Sweeps the part `within` of a mapping.
    fn mapping(&mut self, mapping: PageRange, within: PageRange, mode: Mode) -> ControlFlow<()> {
        let mut left = mapping.intersection(self.settled.pages()).whole_blocks();
        while let Some(piece) = self.aside.first_piece(left) {
            left.start = piece.end;
            let area = piece.intersection(within).whole_blocks();
            match mode {
                _ if area.is_empty() => {}
                Mode::Looking => self.look_and_fence(area)?,
                // All of the mapping is fenced: no table is added anywhere in it, and it is not
                // split, unless the sweep's own memory is part of it.
                Mode::Fencing => self.fence(piece, area, Against::Additions)?,
            }
        }
        ControlFlow::Continue(())
    }

    fn look_and_fence(&mut self, area: PageRange) -> ControlFlow<()> {
        let mut at = area.start;
        while at < area.end {
            let part = self.portion(at, area);
            let began = Instant::now();
            let looked = self.look(part);
            self.pace.took(began.elapsed());
            let Ok((found, until)) = looked else {
                self.outcome.left_alone += 1;
                return ControlFlow::Continue(());
            };
            if let Some((slice, against)) = found {
                self.fence(slice, slice, against)?;
            }
            if self.status.page_tables().is_ok_and(|tables| tables >= self.alarm) {
                return ControlFlow::Break(());
            }
            at = until;
        }
        ControlFlow::Continue(())
    }

    fn portion(&self, start: PageIdx, area: PageRange) -> PageRange {
        PageRange { start, end: area.end.min(start + self.pace.portion()) }
    }

    /// Where in `part` tables are that seem to hold nothing, and how far it looked. Unfenced: only a hint.
    fn look(&mut self, part: PageRange) -> Result<(Option<(PageRange, Against)>, PageIdx), Errno> {
        let looked = self.fault.pagemap().find(Query::HeldNotZero, part, self.runs)?;
        let until =
            looked.looked_until.block_start().max(part.start + BLOCK.whole_pages()).min(part.end);
        let end = PageRange { start: until, end: until };
        let held = looked.runs.iter().map(|run| run.range().blocks());
        let mut hull: Option<PageRange> = None;
        let mut start = part.start;
        for next in held.chain([end]) {
            let gap = PageRange { start, end: next.start };
            start = start.max(next.end);
            if gap.is_empty() {
                continue;
            }
            if let Some(first) = self.sight.first_table(self.fault.pagemap(), gap)? {
                let from = hull.map_or(first, |hull| hull.start);
                hull = Some(PageRange { start: from, end: gap.end });
            }
        }
        let Some(slice) = hull else { return Ok((None, until)) };
        let zero = self.fault.pagemap().find(Query::Zero, slice, &mut self.runs[..1])?.runs.len();
        let against = if zero == 0 { Against::Additions } else { Against::AdditionsAndWrites };
        Ok((Some((slice, against)), until))
    }

    /// Frees what is empty in `slice`, one fence around `cover` after the other, each for as long as
    /// allowed.
    fn fence(&mut self, cover: PageRange, slice: PageRange, against: Against) -> ControlFlow<()> {
        let mut left = Left::of(slice);
        while !left.is_empty() && self.fault.is_usable() {
            let began = Instant::now();
            match self.fault.fence(self.settled, cover, against, self.by) {
                Ok(mut fence) => {
                    let before = self.status.page_tables();
                    let mut behind = Behind { pace: self.pace, runs: self.runs, left_alone: 0 };
                    left = behind.free(&mut fence, left, self.mate);
                    self.outcome.left_alone += behind.left_alone;
                    if let (Ok(before), Ok(after)) = (before, self.status.page_tables()) {
                        self.outcome.freed += before.saturating_sub(after);
                    }
                }
                Err(_) => {
                    self.outcome.left_alone += 1;
                    return ControlFlow::Continue(());
                }
            }
            self.outcome.pauses.add(began.elapsed(), self.pace.max_pause());
            *self.resume = left.start();
            if self.status.page_tables().is_ok_and(|tables| tables <= self.goal) {
                return ControlFlow::Break(());
            }
            // Without libc, which a helper in a dead program's memory has none of.
            recoup_sys::urgency::rest(REST);
        }
        // A fence that could not be lifted has closed its descriptor: the next sweep opens another.
        if self.fault.is_usable() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

/// Between two fences those who waited at the first get on, so that no wait lasts for several.
const REST: Duration = Duration::from_micros(500);
