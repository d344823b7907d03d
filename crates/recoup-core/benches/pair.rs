//! What the book alone costs, without the memory that it is about.

use std::hint::black_box;

use recoup_core::book::BYTES_PER_POOL;
use recoup_core::hints::{HintMap, Word};
use recoup_core::superchunk::{BYTES_PER_SUPERCHUNK, Backing};
use recoup_core::units::{CHUNKS_PER_SUPERCHUNK, SUPERCHUNK_BYTES};
use recoup_core::{Account, Alignment, ChunkIdx, Chunks, OwnerId, PoolBook};
use recoup_core::{Superchunk, SuperchunkIdx};
use recoup_testkit::figure::note;
use recoup_testkit::ratio::{cpu_time, median};
use recoup_testkit::{Figure, Size};

/// What `HugeTlb1G` may cost for all metadata, which the book is a part of.
const TARGET_PERCENT: f64 = 0.01;

fn main() {
    let Some(size) = Size::asked_for() else {
        return;
    };
    let bench = Bench { pairs: size.pick(1_000_000, 1_000), rounds: size.pick(11, 1) };
    bench.print("allocate and free a backed chunk, 1 GiB", 1, 0, Hints::Off);
    bench.print("the same with a hint for each", 1, 0, Hints::On);
    bench.print("allocate and free a backed chunk, 1 TiB, half full", 1024, 512 * 512, Hints::Off);
    for gib in [1, 16, 1024] {
        print_bookkeeping(gib);
    }
}

/// Whether freed chunks are hinted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hints {
    On,
    Off,
}

struct Bench {
    pairs: u32,
    rounds: u32,
}

impl Bench {
    /// Prints the median time of a pair, in a pool of so many superchunks with so many chunks of
    /// somebody else.
    fn print(&self, what: &str, superchunks: u64, taken: u64, hints: Hints) {
        let (mut book, mut account) = pool(superchunks, taken);
        let words = if hints == Hints::On { superchunks * 8 } else { 0 };
        let map = HintMap::new((0..words).map(|_| Word::new(0)).collect::<Vec<_>>());
        let mut pair = || {
            let grant = book.allocate(&mut account, Chunks(1), Alignment::Chunk).expect("a chunk");
            let extent = black_box(grant.extent);
            book.free(&mut account, extent).expect("it was just allocated");
            if hints == Hints::On {
                let ChunkIdx(freed) = extent.start();
                let freed = usize::try_from(freed).expect("few chunks");
                black_box(map.hint(freed..freed + 1));
            }
        };
        let mut time = || cpu_time(|| (0..self.pairs).for_each(|_| pair()));
        let times = (0..self.rounds).map(|_| time().as_secs_f64() * 1e9 / f64::from(self.pairs));
        let value = median(times.collect());
        // The pool's bench has the target: there an owner mostly needs no book.
        let made_from = format!("median of {} times {} pairs", self.rounds, self.pairs);
        note(what, &format!("{value:.1} ns a pair, {made_from}"));
    }
}

/// A backed pool, of which another owner has so many chunks.
fn pool(superchunks: u64, taken: u64) -> (PoolBook<Vec<Superchunk>>, Account) {
    let storage: Vec<_> = (0..superchunks).map(|_| Superchunk::default()).collect();
    let mut book = PoolBook::new(storage).expect("few superchunks");
    for superchunk in 0..superchunks {
        book.attach(SuperchunkIdx(superchunk), Backing::Zeroed).expect("a new superchunk");
    }
    let [first, second] = [1, 2].map(|number| OwnerId::new(number).expect("not 0"));
    let mut other = Account::new(second, Chunks(taken));
    for _ in 0..taken {
        book.allocate(&mut other, Chunks(1), Alignment::Chunk).expect("a chunk");
    }
    (book, Account::new(first, Chunks(1)))
}

/// Prints what the book of so many GiB takes, by the size of its types.
fn print_bookkeeping(gib: usize) {
    let hints = gib * CHUNKS_PER_SUPERCHUNK / 8;
    let bytes = BYTES_PER_POOL + gib * BYTES_PER_SUPERCHUNK + hints;
    let figure = Figure {
        what: &format!("bookkeeping of {gib} GiB"),
        value: bytes as f64 * 100.0 / (gib as f64 * SUPERCHUNK_BYTES as f64),
        target: TARGET_PERCENT,
        unit: "%",
    };
    figure.print(&format!("{bytes} bytes, {BYTES_PER_POOL} of them once a pool"));
}
