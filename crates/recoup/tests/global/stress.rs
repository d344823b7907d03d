//! Threads that allocate, resize, hand over and free blocks of all lengths, each of which says whose it is.

use std::sync::mpsc::{Receiver, Sender, channel};

use recoup_testkit::numbers::Numbers;

/// From a few bytes to 6 MiB.
fn size(random: &mut Numbers) -> usize {
    let order = random.below(22);
    usize::try_from(1 + random.below(3 << order)).expect("64 bits")
}

/// A block with a number in each 1000 bytes, and at its end.
struct Block {
    bytes: Vec<u8>,
    seed: u8,
}

const STEP: usize = 1000;

impl Block {
    fn new(random: &mut Numbers) -> Self {
        let size = size(random);
        let mut block = Self { bytes: Vec::new(), seed: 0 };
        if random.below(2) == 0 {
            block.bytes = vec![0; size];
            block.check();
        } else {
            block.bytes.reserve_exact(size);
            block.bytes.resize(size, 0);
        }
        block.mark(u8::try_from(1 + random.below(255)).expect("a byte"));
        block
    }

    fn mark(&mut self, seed: u8) {
        self.seed = seed;
        self.bytes.iter_mut().step_by(STEP).for_each(|byte| *byte = seed);
        self.bytes.iter_mut().last().into_iter().for_each(|byte| *byte = seed);
    }

    fn check(&self) {
        assert!(
            self.bytes.iter().step_by(STEP).chain(self.bytes.last()).all(|it| *it == self.seed)
        );
    }

    /// Longer or shorter, with what it held.
    fn resize(&mut self, random: &mut Numbers) {
        self.check();
        let (old, size) = (self.bytes.len(), size(random));
        self.bytes.truncate(size);
        self.bytes.reserve_exact(size.saturating_sub(old));
        self.bytes.shrink_to(size);
        let kept = self.bytes.iter().step_by(STEP);
        assert!(kept.take(old.min(size) / STEP).all(|byte| *byte == self.seed));
        self.bytes.resize(size, 0);
        self.mark(self.seed);
    }
}

/// So many threads do so much; all is freed in the end.
pub(crate) fn run(threads: u64, steps: u32) {
    std::thread::scope(|scope| {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| channel()).unzip();
        for (number, mine) in (0..).zip(receivers) {
            let next = senders[(number + 1) % senders.len()].clone();
            scope.spawn(move || {
                work(Numbers::new(0x9E37_79B9 + number as u64), steps, &next, &mine)
            });
        }
    });
}

fn work(mut random: Numbers, steps: u32, next: &Sender<Block>, mine: &Receiver<Block>) {
    let mut blocks = Vec::new();
    for _ in 0..steps {
        blocks.extend(mine.try_iter());
        let place = random.index(40);
        if place >= blocks.len() {
            blocks.push(Block::new(&mut random));
            continue;
        }
        match random.below(4) {
            0 => blocks[place].resize(&mut random),
            1 => {
                let block = blocks.swap_remove(place);
                // Whoever would get it may have ended.
                let _ = next.send(block);
            }
            _ => blocks.swap_remove(place).check(),
        }
    }
    blocks.iter().for_each(Block::check);
}
