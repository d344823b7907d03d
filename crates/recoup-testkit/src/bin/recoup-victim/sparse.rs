//! Memory that is nothing but page tables, with a value here and there: `sparse` makes it,
//! `arm-tables` arms a companion that keeps its tables few, `check-sparse` counts wrong values.
//! `touch-sparse` has a thread write to one block after the other, read that back and discard it, over and
//! over; `passes` says how often it has been through, `stop-sparse` how many values were wrong.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use recoup::discard::HugePages;
use recoup::tables::{Limits, Regulator, Settled};
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::{BLOCK, PAGES_PER_BLOCK};
use recoup_sys::{Bytes, Features, Pages};

use crate::{offset, value};

/// One block in so many holds a value.
const KEPT: u64 = 64;

pub(crate) struct Sparse {
    shared: Arc<Shared>,
    /// Who touches it; returns how many values were wrong.
    toucher: Option<JoinHandle<u64>>,
}

struct Shared {
    region: Mutex<Region>,
    blocks: u64,
    passes: AtomicU64,
    over: AtomicBool,
}

impl Sparse {
    pub(crate) fn new(blocks: u64) -> Result<Self, String> {
        let mut region = Region::new(Bytes(blocks * BLOCK.0)).map_err(|e| e.to_string())?;
        let all = region.pages().length();
        // Refused where the kernel has no huge pages: then all pages are base pages.
        let _ = region.advise(Pages(0), all, OwnAdvice::BasePages);
        for block in 0..blocks {
            let page = first_page(block);
            if block % KEPT == 0 {
                region.write(offset(page), &value(offset(page)));
            } else {
                region.touch(page, Pages(1));
                region.release(page, Pages(1)).discard().map_err(|e| e.to_string())?;
            }
        }
        let (passes, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let shared = Shared { region: Mutex::new(region), blocks, passes, over };
        Ok(Self { shared: Arc::new(shared), toucher: None })
    }

    /// What keeps its tables under a mebibyte.
    pub(crate) fn regulator(&self) -> Result<Regulator, String> {
        let features = Features::probe().map_err(|e| e.to_string())?;
        let limits = Limits {
            soft: Bytes(1 << 20),
            hard: Bytes(64 << 20),
            max_pause: Limits::DEFAULT_MAX_PAUSE,
        };
        let pages = self.shared.with(|region| region.pages());
        // SAFETY: the region is kept as it is until this process ends, and nothing is mapped over it.
        let settled = unsafe { Settled::plain(pages, HugePages::Unwanted) };
        Regulator::new(settled, limits, &features).map_err(|e| e.to_string())
    }

    pub(crate) fn wrong(&self) -> usize {
        let mut found = [0; 8];
        let kept = (0..self.shared.blocks).step_by(usize::try_from(KEPT).unwrap_or(1));
        let is_wrong = |page: &Pages| {
            self.shared.with(|region| region.read(offset(*page), &mut found));
            found != value(offset(*page))
        };
        kept.map(first_page).filter(is_wrong).count()
    }

    pub(crate) fn touch(&mut self) {
        let shared = Arc::clone(&self.shared);
        self.toucher = Some(std::thread::spawn(move || shared.touch_until_over()));
    }

    pub(crate) fn passes(&self) -> u64 {
        self.shared.passes.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(&mut self) -> String {
        self.shared.over.store(true, Ordering::Relaxed);
        let wrong = self.toucher.take().map_or(Ok(0), JoinHandle::join);
        format!("{} wrong", wrong.unwrap_or(u64::MAX))
    }
}

impl Shared {
    /// Whoever waits at a fence has the lock meanwhile.
    fn with<T>(&self, work: impl FnOnce(&mut Region) -> T) -> T {
        work(&mut self.region.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn touch_until_over(&self) -> u64 {
        let mut wrong = 0;
        while !self.over.load(Ordering::Relaxed) {
            for block in 0..self.blocks {
                // Beside the page that may hold a value.
                let page = first_page(block) + Pages(1);
                wrong += u64::from(!self.with(|region| is_kept_until_discarded(region, page)));
            }
            self.passes.fetch_add(1, Ordering::Relaxed);
        }
        wrong
    }
}

fn is_kept_until_discarded(region: &mut Region, page: Pages) -> bool {
    let (written, mut found) = (value(offset(page)), [0; 8]);
    region.write(offset(page), &written);
    region.read(offset(page), &mut found);
    let kept = found == written;
    let discarded = region.release(page, Pages(1)).discard().is_ok();
    region.read(offset(page), &mut found);
    // Not even a zero page is left.
    kept && discarded && found == [0; 8] && region.release(page, Pages(1)).discard().is_ok()
}

fn first_page(block: u64) -> Pages {
    Pages(block * PAGES_PER_BLOCK as u64)
}
