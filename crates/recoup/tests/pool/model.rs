//! Random operations, held against what a naive model knows: who has what, what is written there, and
//! how much each owner may have.
//!
//! A failure says how to see it again: `RECOUP_POOL_SEED` and `RECOUP_POOL_OPS`. The latter also makes
//! a soak: ten million steps take some minutes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use recoup::pool::{Error, Extent, Movable, Owner, OwnerOptions, Pool, Source, Thp};
use recoup_core::Chunks;
use recoup_core::units::Pages;
use recoup_sys::Bytes;
use recoup_testkit::numbers::Numbers;

use crate::common::{CHUNK, GIB, assert_clean, assert_empty, memfd, steps};

#[derive(Clone, Copy, Debug)]
enum Op {
    Chunk { owner: usize },
    Run { owner: usize, length: u64 },
    Gigabyte { owner: usize },
    Pages { owner: usize, length: u64 },
    Movable { owner: usize, length: u64 },
    Free { pick: usize },
    Rewrite { pick: usize },
    Pin { pick: usize },
    Quota { owner: usize, chunks: u64 },
    Newcomer { owner: usize },
    Compact,
    Trim,
}

impl Op {
    fn any(random: &mut Numbers, owners: usize) -> Self {
        let (owner, pick) = (random.index(owners), random.index(1 << 20));
        match random.below(4000) {
            0..700 => Self::Chunk { owner },
            700..1000 => Self::Run { owner, length: 1 + random.below(12) },
            1000 => Self::Gigabyte { owner },
            1001..1500 => Self::Pages { owner, length: 1 + random.below(200) },
            1500..1900 => Self::Movable { owner, length: 1 + random.below(6) },
            1900..3900 => Self::Free { pick },
            3900..3960 => Self::Rewrite { pick },
            3960..3980 => Self::Pin { pick },
            3980..3994 => Self::Quota { owner, chunks: random.below(400) },
            3994 | 3995 => Self::Newcomer { owner },
            3996 | 3997 => Self::Compact,
            _ => Self::Trim,
        }
    }
}

enum Memory {
    Still(Extent),
    Pages(Extent),
    Movable(Movable),
}

struct Held {
    memory: Memory,
    owner: usize,
    tag: u64,
}

/// Eight places of some memory, each the start of a page.
fn places(length: usize) -> impl Iterator<Item = Range<usize>> {
    let pages = length >> 12;
    (0..8).map(move |eighth| (eighth * (pages - 1) / 7) << 12).map(|at| at..at + 8)
}

fn write(bytes: &mut [u8], tag: u64) {
    places(bytes.len()).for_each(|place| bytes[place].copy_from_slice(&tag.to_ne_bytes()));
}

fn read(bytes: &[u8]) -> impl Iterator<Item = u64> {
    places(bytes.len()).map(|place| u64::from_ne_bytes(bytes[place].try_into().expect("8 bytes")))
}

impl Held {
    /// What it holds is what was written, wherever it is now.
    fn check(&self) -> Range<u64> {
        let check = |bytes: &[u8]| {
            assert!(read(bytes).all(|word| word == self.tag), "not what was written");
            let start = bytes.as_ptr().addr() as u64;
            start..start + bytes.len() as u64
        };
        match &self.memory {
            Memory::Still(extent) | Memory::Pages(extent) => check(extent),
            Memory::Movable(movable) => check(&movable.read()),
        }
    }

    fn rewrite(&mut self, tag: u64) {
        self.tag = tag;
        match &mut self.memory {
            Memory::Still(extent) | Memory::Pages(extent) => write(extent, tag),
            Memory::Movable(movable) => write(&mut movable.write(), tag),
        }
    }

    fn chunks(&self) -> u64 {
        match &self.memory {
            Memory::Still(extent) => extent.len() as u64 / CHUNK,
            Memory::Pages(_) => 0,
            Memory::Movable(movable) => movable.length().0 / CHUNK,
        }
    }
}

struct Tenant {
    owner: Owner,
    quota: u64,
    /// Of extents and movable ones.
    chunks: u64,
    /// How many extents of pages lie in a chunk.
    desks: BTreeMap<u64, u64>,
}

impl Tenant {
    fn new(pool: &Pool, options: OwnerOptions) -> Self {
        let owner = pool.owner(options).expect("an owner");
        Self { owner, quota: u64::MAX, chunks: 0, desks: BTreeMap::new() }
    }

    fn used(&self) -> u64 {
        self.chunks + self.desks.len() as u64
    }
}

struct Model {
    pool: Pool,
    tenants: Vec<Tenant>,
    held: Vec<Held>,
    seed: u64,
    step: u64,
    last: VecDeque<Op>,
}

impl Drop for Model {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, next) = (self.seed, self.step + 1);
            eprintln!("last: {:?}", self.last);
            eprintln!("again: RECOUP_POOL_SEED={seed} RECOUP_POOL_OPS={next}");
        }
    }
}

impl Model {
    fn new(source: impl Source + 'static, seed: u64) -> Self {
        let pool = Pool::new(source, Bytes(6 * GIB));
        let plain = OwnerOptions::default();
        let tenants = [plain, plain, plain, plain.apart()].map(|it| Tenant::new(&pool, it)).into();
        Self { pool, tenants, held: Vec::new(), seed, step: 0, last: VecDeque::new() }
    }

    fn run(mut self, steps: u64) {
        let mut random = Numbers::new(self.seed);
        for step in 0..steps {
            let op = Op::any(&mut random, self.tenants.len());
            self.step = step;
            self.last.push_back(op);
            if self.last.len() > 12 {
                self.last.pop_front();
            }
            self.apply(op);
            if step % (steps / 100).clamp(500, 50_000) == 0 {
                self.check_all();
            }
            // The pool is mostly half full.
            if self.held.len() > 300 {
                (0..100).for_each(|_| self.free(random.index(self.held.len())));
            }
        }
        self.check_all();
        (0..self.held.len()).for_each(|_| self.free(0));
        assert!(self.tenants.iter().all(|tenant| tenant.owner.used() == Bytes(0)));
        assert_empty(&self.pool);
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Chunk { owner } => self.take(owner, 1, |it| it.chunk().map(Memory::Still)),
            Op::Run { owner, length } => {
                self.take(owner, length, |it| it.chunks(Chunks(length)).map(Memory::Still));
            }
            Op::Gigabyte { owner } => self.take(owner, 512, |it| it.gigabyte().map(Memory::Still)),
            Op::Pages { owner, length } => {
                self.take(owner, 0, |it| it.pages(Pages(length)).map(Memory::Pages));
            }
            Op::Movable { owner, length } => {
                self.take(owner, length, |it| it.movable(Chunks(length)).map(Memory::Movable));
            }
            Op::Free { pick } if !self.held.is_empty() => self.free(pick % self.held.len()),
            Op::Rewrite { pick } if !self.held.is_empty() => {
                let pick = pick % self.held.len();
                let tag = self.tag(self.held[pick].owner);
                self.held[pick].check();
                self.held[pick].rewrite(tag);
            }
            Op::Pin { pick } if !self.held.is_empty() => self.pin(pick % self.held.len()),
            Op::Quota { owner, chunks } => {
                self.tenants[owner].quota = chunks;
                self.tenants[owner].owner.set_quota(Bytes(chunks * CHUNK));
            }
            Op::Newcomer { owner } => self.replace(owner),
            Op::Compact => {
                self.pool.compact();
            }
            Op::Trim => {
                self.pool.trim();
            }
            Op::Free { .. } | Op::Rewrite { .. } | Op::Pin { .. } => {}
        }
    }

    fn tag(&self, owner: usize) -> u64 {
        u64::from(self.tenants[owner].owner.id().get()) << 40 | self.step | 1 << 39
    }

    /// Takes memory of so many chunks; 0 stands for a chunk or none, for pages.
    fn take(
        &mut self,
        owner: usize,
        chunks: u64,
        get: impl FnOnce(&Owner) -> Result<Memory, Error>,
    ) {
        let tag = self.tag(owner);
        let tenant = &mut self.tenants[owner];
        let beyond = tenant.used() + chunks.max(1) > tenant.quota;
        let memory = match get(&tenant.owner) {
            Ok(memory) => memory,
            Err(Error::Quota(_)) => return assert!(beyond, "within its quota"),
            Err(Error::Full { .. }) => return assert!(!beyond, "the quota counts first"),
            Err(error) => panic!("{error}"),
        };
        let number = u64::from(tenant.owner.id().get());
        let fresh = |bytes: &[u8]| {
            let mut own = read(bytes).map(|word| word == 0 || word >> 40 == number);
            assert!(own.all(|own| own), "somebody else's bytes");
            bytes.as_ptr().addr() as u64
        };
        let start = match &memory {
            Memory::Still(extent) | Memory::Pages(extent) => fresh(extent),
            Memory::Movable(movable) => fresh(&movable.read()),
        };
        if let Memory::Pages(_) = &memory {
            let desk = start / CHUNK;
            assert!(!beyond || tenant.desks.contains_key(&desk), "beyond its quota");
            *tenant.desks.entry(desk).or_default() += 1;
        } else {
            assert!(!beyond, "beyond its quota");
            tenant.chunks += chunks;
        }
        let mut held = Held { memory, owner, tag };
        held.rewrite(tag);
        self.held.push(held);
    }

    fn free(&mut self, pick: usize) {
        let held = self.held.swap_remove(pick);
        let range = held.check();
        let tenant = &mut self.tenants[held.owner];
        tenant.chunks -= held.chunks();
        if let Memory::Pages(_) = held.memory {
            let desk = range.start / CHUNK;
            let left = tenant.desks.get_mut(&desk).expect("its chunk");
            *left -= 1;
            if *left == 0 {
                tenant.desks.remove(&desk);
            }
        }
    }

    fn pin(&mut self, pick: usize) {
        let Held { memory, owner, tag } = self.held.swap_remove(pick);
        let memory = match memory {
            Memory::Movable(movable) => match movable.pin() {
                Ok(extent) => Memory::Still(extent),
                Err(back) => Memory::Movable(back.movable),
            },
            other => other,
        };
        self.held.push(Held { memory, owner, tag });
        self.held.last().expect("just pushed").check();
    }

    /// An owner ends, and a new one comes.
    fn replace(&mut self, owner: usize) {
        while let Some(pick) = self.held.iter().position(|held| held.owner == owner) {
            self.free(pick);
        }
        let options = OwnerOptions::default();
        let options = if owner == 3 { options.apart() } else { options };
        self.tenants[owner] = Tenant::new(&self.pool, options);
    }

    fn check_all(&self) {
        let mut ranges = BTreeSet::new();
        for held in &self.held {
            let Range { start, end } = held.check();
            assert!(ranges.insert((start, end)));
        }
        let mut last = 0;
        for (start, end) in ranges {
            assert!(last <= start, "two extents at {start:#x}");
            last = end;
        }
        for tenant in &self.tenants {
            assert_eq!(tenant.owner.used().0 / CHUNK, tenant.used());
        }
        let held: u64 = self.tenants.iter().map(Tenant::used).sum();
        assert_eq!(self.pool.usage().held, Bytes(held * CHUNK));
        assert_clean(&self.pool);
    }
}

fn seed(otherwise: u64) -> u64 {
    let wanted = std::env::var("RECOUP_POOL_SEED").ok();
    wanted.map_or(otherwise, |seed| seed.parse().expect("RECOUP_POOL_SEED is a number"))
}

#[test]
fn private_memory_does_what_a_model_does() {
    Model::new(Thp::private(), seed(0x5eed)).run(steps(20_000));
}

#[test]
fn a_memfd_does_what_a_model_does() {
    Model::new(memfd(), seed(0xfeed)).run(steps(10_000));
}
