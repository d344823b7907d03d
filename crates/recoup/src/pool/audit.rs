//! Whether what the books say is true: against each other, and against what the kernel says.

mod witness;

use std::collections::BTreeMap;
use std::fmt;

use recoup_core::superchunk::ChunkState;
use recoup_core::units::{CHUNK_BYTES, CHUNKS_PER_SUPERCHUNK, PAGES_PER_CHUNK};
use recoup_core::{ChunkIdx, ChunkRun, Chunks, OwnerId, Superchunk, SuperchunkIdx};
use recoup_sys::{PageIdx, Pages};

use super::Pool;
use super::mapping;
use super::source::Metadata;
use super::zone::Zone;
use super::zones::Movability;
use witness::Witness;

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Everything that is wrong.
    pub violations: Vec<Violation>,
    /// How many gigabytes were looked at.
    pub gigabytes: u64,
    /// How many pages of them are in memory, but for the kernel's page of zeroes, and for memory without struct
    /// pages.
    pub present: Pages,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A book contradicts itself.
    Book(recoup_core::superchunk::Violation),
    /// An owner's account is not what the books say that it has.
    Account {
        /// Whose.
        owner: OwnerId,
        /// What its account says.
        kept: Chunks,
        /// What the books say.
        counted: Chunks,
    },
    /// What an owner keeps at hand, or uses in pages, is not its own in the book.
    NotHeld {
        /// Who keeps it.
        owner: OwnerId,
        /// What.
        run: ChunkRun,
    },
    /// A handle to movable memory, or such memory, without the other.
    Handle(ChunkRun),
    /// A page that somebody else has too, or that is behind two places of the pool.
    Shared(PageIdx),
    /// Memory where nobody has any: something was written there that was not handed out.
    Stray(PageIdx),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Book(violation) => violation.fmt(f),
            Self::Account { owner, kept, counted } => {
                write!(f, "{owner}: {} chunks by its account, {} by the books", kept.0, counted.0)
            }
            Self::NotHeld { owner, run } => write!(f, "{owner} keeps {run}, which is not its own"),
            Self::Handle(run) => write!(f, "{run}: movable memory and its handle do not match"),
            Self::Shared(page) => write!(f, "page {page}: mapped a second time"),
            Self::Stray(page) => write!(f, "page {page}: in memory, but handed out to nobody"),
        }
    }
}

impl Pool {
    /// Checks the books against each other, and every page of the pool against the kernel's view:
    /// that nobody else maps it, and that there is none where nobody has memory.
    ///
    /// Costs 1 ms a gigabyte in huge pages, 13 ms in base pages, and 1 us for each owner and gigabyte.
    /// Meanwhile those who ask the book of the gigabyte that is looked at wait, and so does the owner that
    /// is.
    ///
    /// As root it also asks how often frames are mapped: the first one of each row of frames in a chunk,
    /// which is all there is to know of a huge page mapped in one piece. That adds 0.5 ms a gigabyte in
    /// huge pages, 11 ms in base pages as they come, and some 50 ms where no two lie in a row. The other
    /// frames of a row are only seen by what pagemap says of each page, which on kernels with
    /// `CONFIG_NO_PAGE_MAPCOUNT` (6.15) does not tell that this process has mapped a page twice.
    ///
    /// Of memory without [struct pages](super::source::Metadata::None) the kernel does not know who maps it, and
    /// pagemap shows nothing. There `/proc/self/maps` has to show that this process maps each gigabyte
    /// once; other processes' mappings are not seen.
    ///
    /// Needs no privilege; but before Linux 6.7 only root can tell private memory that is shared from
    /// memory that was only read, and nobody else is told of it. What other processes map on purpose, as
    /// a virtual machine's back ends do, is reported as shared.
    ///
    /// # Errors
    /// `/proc/self/pagemap` cannot be read.
    pub fn audit(&self) -> recoup_sys::Result<Audit> {
        let mut audit = Audit::default();
        let _no_moves = self.0.moving();
        let witness = Witness::new()?;
        self.check_accounts(&mut audit);
        for (key, zone) in self.0.zones.all() {
            zone.check_book(&mut audit);
            if key.movability == Movability::Movable {
                zone.check_handles(&mut audit);
            }
            zone.check_pages(&witness, &mut audit)?;
        }
        Ok(audit)
    }

    fn check_accounts(&self, audit: &mut Audit) {
        for holder in self.0.holders() {
            let local = holder.local();
            let owner = holder.id();
            // Looked up now: it may have got a zone since the last one.
            let zones = self.0.zones.all();
            let counted = zones.iter().map(|(_, zone)| zone.state().book.held_by(owner).0).sum();
            let (kept, counted) = (local.account.used(), Chunks(counted));
            if kept != counted {
                audit.violations.push(Violation::Account { owner, kept, counted });
            }
            let desks = local.desks.chunks().map(|(chunk, _)| ChunkRun::single(chunk));
            let state = holder.zone().state();
            for run in local.spares.places().chain(desks) {
                let holds = |it: &Superchunk| it.owner(run.start().slot()) == Some(owner);
                if !state.book.superchunk(run.superchunk()).is_some_and(holds) {
                    audit.violations.push(Violation::NotHeld { owner, run });
                }
            }
        }
    }
}

impl Zone {
    fn check_book(&self, audit: &mut Audit) {
        if let Err(violation) = self.state().book.validate() {
            audit.violations.push(Violation::Book(violation));
        }
    }

    /// Each extent has a handle, and each handle an extent.
    fn check_handles(&self, audit: &mut Audit) {
        let state = self.state();
        let superchunks = state.book.superchunks().iter().enumerate();
        let extents: BTreeMap<ChunkIdx, ChunkRun> = superchunks
            .flat_map(|(index, superchunk)| {
                let at = SuperchunkIdx(index as u64);
                superchunk.extents().map(move |slots| mapping::part(at, slots))
            })
            .map(|run| (run.start(), run))
            .collect();
        let lost = extents.iter().filter(|(start, _)| !state.movables.contains_key(start));
        audit.violations.extend(lost.map(|(_, &run)| Violation::Handle(run)));
        let bare = state.movables.keys().filter(|start| !extents.contains_key(start));
        audit.violations.extend(bare.map(|&start| Violation::Handle(ChunkRun::single(start))));
    }

    fn check_pages(&self, witness: &Witness, audit: &mut Audit) -> recoup_sys::Result<()> {
        let superchunks = self.state().book.superchunks().len() as u64;
        let mut words = vec![0; PAGES_PER_CHUNK];
        for at in (0..superchunks).map(SuperchunkIdx) {
            // Locked, so that nothing comes or goes meanwhile.
            let state = self.state();
            let superchunk = state.book.superchunk(at).filter(|it| it.is_present());
            let Some(superchunk) = superchunk else { continue };
            audit.gigabytes += 1;
            if self.kind().metadata == Metadata::None {
                witness::check_places(self.mapping().pages(mapping::whole(at)), audit)?;
                continue;
            }
            let whole_page = self.kind().page.0 > CHUNK_BYTES && superchunk.backed() > 0;
            for slot in 0..CHUNKS_PER_SUPERCHUNK {
                let run = mapping::part(at, slot..slot + 1);
                let pages = self.mapping().pages(run);
                witness.read(pages, &mut words)?;
                audit.present += witness::present(pages, &words);
                witness.check_words(pages, &words, audit)?;
                if superchunk.state(slot) == ChunkState::Cold && !whole_page {
                    witness::check_absence(pages, &words, audit);
                }
            }
        }
        Ok(())
    }
}
