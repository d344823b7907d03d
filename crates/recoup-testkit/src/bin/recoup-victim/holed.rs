//! Huge pages of which all but the first page is given back, while a companion splits them: `holed`
//! makes them and answers whether they are huge, `arm-splits` arms the companion, `give-back` does so,
//! `give-back-within` gives back a half of each with so many bytes as the bound, `waiting` answers the
//! bytes that wait for a split, `split-rest` splits them itself, `check-holed` counts
//! wrong values.

use std::sync::Arc;

use recoup::SplitPolicy;
use recoup::discard::{Discarder, SplitQueue};
use recoup_sys::region::{OwnAdvice, Region};
use recoup_sys::units::{BLOCK, PAGES_PER_BLOCK};
use recoup_sys::{Bytes, Pages};
use recoup_testkit::kernel;

use crate::{offset, value};

pub(crate) struct Holed {
    region: Region,
    blocks: u64,
    discarder: Discarder,
}

impl Holed {
    pub(crate) fn new(blocks: u64) -> Result<Self, String> {
        let mut region = Region::new(Bytes(blocks * BLOCK.0)).map_err(|e| e.to_string())?;
        let all = region.pages().length();
        region.advise(Pages(0), all, OwnAdvice::HugePages).map_err(|e| e.to_string())?;
        region.touch(Pages(0), all);
        for page in Self::kept(blocks) {
            region.write(offset(page), &value(offset(page)));
        }
        Ok(Self { region, blocks, discarder: Discarder::new() })
    }

    pub(crate) fn is_huge(&self) -> bool {
        let pages = self.region.pages();
        let addresses = pages.start.address()..pages.end.address();
        kernel::smaps_bytes_in(kernel::own_pid(), addresses, "AnonHugePages")
            == self.blocks * BLOCK.0
    }

    /// The first page of each block.
    fn kept(blocks: u64) -> impl Iterator<Item = Pages> {
        (0..blocks).map(|block| Pages(block * PAGES_PER_BLOCK as u64))
    }

    pub(crate) fn helper(&self) -> Arc<SplitQueue> {
        self.discarder.helped(Bytes::ZERO)
    }

    pub(crate) fn give_back(&mut self) -> Result<(), String> {
        for page in Self::kept(self.blocks) {
            let rest = Pages(PAGES_PER_BLOCK as u64 - 1);
            let released = self.region.release(page + Pages(1), rest);
            let unbounded = SplitPolicy::Bounded(Bytes(u64::MAX));
            self.discarder.discard(released, unbounded).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    pub(crate) fn give_back_within(&mut self, bound: Bytes) -> Result<(), String> {
        for page in Self::kept(self.blocks) {
            let half = self.region.release(page + Pages(1), Pages(PAGES_PER_BLOCK as u64 / 2));
            let bounded = SplitPolicy::Bounded(bound);
            self.discarder.discard(half, bounded).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// What waits, after the discarder has had a chance to see what was done.
    pub(crate) fn waiting(&mut self) -> u64 {
        let bound = SplitPolicy::Bounded(Bytes(u64::MAX));
        // Of a page that is given back already, which changes nothing.
        let nothing_new = self.discarder.discard(self.region.release(Pages(1), Pages(1)), bound);
        nothing_new.map_or(u64::MAX, |()| self.discarder.waiting().0)
    }

    /// Splits all that waits, whatever the companion has done of it, and says what waits then.
    pub(crate) fn split_rest(&self) -> Result<u64, String> {
        self.discarder.split_waiting(Bytes::ZERO).map_err(|e| e.to_string())?;
        Ok(self.discarder.waiting().0)
    }

    pub(crate) fn wrong(&self) -> usize {
        let mut found = [0; 8];
        let is_wrong = |page: &Pages| {
            self.region.read(offset(*page), &mut found);
            found != value(offset(*page))
        };
        Self::kept(self.blocks).filter(is_wrong).count()
    }
}
