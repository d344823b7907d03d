//! Memory that is nothing but page tables, with a value here and there: `sparse` makes it,
//! `arm-tables` arms a companion that keeps its tables few, `check-sparse` counts wrong values.

use recoup::tables::{Limits, Regulator, Settled};
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::{BLOCK, PAGES_PER_BLOCK};
use recoup_sys::{Bytes, Features, Pages};

use crate::{offset, value};

/// One block in so many holds a value.
const KEPT: u64 = 64;

pub(crate) struct Sparse {
    region: Region,
    blocks: u64,
}

impl Sparse {
    pub(crate) fn new(blocks: u64) -> Result<Self, String> {
        let mut region = Region::new(Bytes(blocks * BLOCK.0)).map_err(|e| e.to_string())?;
        let all = region.pages().length();
        // Refused where the kernel has no huge pages: then all pages are base pages.
        let _ = region.advise(Pages(0), all, OwnAdvice::BasePages);
        for block in 0..blocks {
            let page = Pages(block * PAGES_PER_BLOCK as u64);
            if block % KEPT == 0 {
                region.write(offset(page), &value(offset(page)));
            } else {
                region.touch(page, Pages(1));
                region.release(page, Pages(1)).discard().map_err(|e| e.to_string())?;
            }
        }
        Ok(Self { region, blocks })
    }

    /// What keeps its tables under a mebibyte.
    pub(crate) fn regulator(&self) -> Result<Regulator, String> {
        let features = Features::probe().map_err(|e| e.to_string())?;
        let limits = Limits {
            soft: Bytes(1 << 20),
            hard: Bytes(64 << 20),
            max_pause: Limits::DEFAULT_MAX_PAUSE,
        };
        // SAFETY: the region is kept until this process ends, and nothing is mapped over it.
        let settled = unsafe { Settled::new(self.region.pages()) };
        Regulator::new(settled, limits, &features).map_err(|e| e.to_string())
    }

    pub(crate) fn wrong(&self) -> usize {
        let mut found = [0; 8];
        let kept = (0..self.blocks).step_by(usize::try_from(KEPT).unwrap_or(1));
        let pages = kept.map(|block| Pages(block * PAGES_PER_BLOCK as u64));
        let is_wrong = |page: &Pages| {
            self.region.read(offset(*page), &mut found);
            found != value(offset(*page))
        };
        pages.filter(is_wrong).count()
    }
}
