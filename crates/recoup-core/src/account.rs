//! Who an owner is, and how much it may have.

use core::fmt;
use core::num::NonZeroU32;

use crate::units::Chunks;

/// An owner of memory: an arena, a tenant, a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(NonZeroU32);

// "Nobody" takes no room of its own.
const _: () = assert!(size_of::<Option<OwnerId>>() == 4);

impl OwnerId {
    /// The owner of this number; 0 and `u32::MAX` are no owners.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) if number.get() < Self::STRANGER.get() => Some(Self(number)),
            _ => None,
        }
    }

    /// Nobody in this pool: whoever had the memory before it came here.
    pub const STRANGER: Self = Self(NonZeroU32::MAX);

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "owner {}", self.0)
    }
}

/// What an owner has and may have. Whoever holds the account acts as its owner.
#[derive(Debug)]
pub struct Account {
    owner: OwnerId,
    limit: Chunks,
    used: Chunks,
}

impl Account {
    /// An owner that has nothing, and may have up to `limit` chunks.
    #[must_use]
    pub const fn new(owner: OwnerId, limit: Chunks) -> Self {
        Self { owner, limit, used: Chunks::ZERO }
    }

    /// Whose account this is.
    #[must_use]
    pub const fn owner(&self) -> OwnerId {
        self.owner
    }

    /// How many chunks it may have.
    #[must_use]
    pub const fn limit(&self) -> Chunks {
        self.limit
    }

    /// How many chunks it has.
    #[must_use]
    pub const fn used(&self) -> Chunks {
        self.used
    }

    /// Changes how much it may have. What it has beyond that it keeps.
    pub const fn set_limit(&mut self, limit: Chunks) {
        self.limit = limit;
    }

    /// Whether so much more is within the limit.
    pub(crate) fn admit(&self, asked: Chunks) -> Result<(), QuotaExceeded> {
        let Self { owner, limit, used } = *self;
        if used.saturating_add(asked) > limit {
            return Err(QuotaExceeded { owner, limit, used, asked });
        }
        Ok(())
    }

    pub(crate) fn charge(&mut self, amount: Chunks) {
        self.used += amount;
    }

    pub(crate) fn refund(&mut self, amount: Chunks) {
        self.used = self.used.saturating_sub(amount);
    }
}

/// An owner asked for more than it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaExceeded {
    /// Who asked.
    pub owner: OwnerId,
    /// What it may have.
    pub limit: Chunks,
    /// What it has.
    pub used: Chunks,
    /// What it asked for in addition.
    pub asked: Chunks,
}

impl fmt::Display for QuotaExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, limit, used, asked } = self;
        write!(
            f,
            "{owner} has {} of at most {} chunks and asked for {} more",
            used.0, limit.0, asked.0
        )
    }
}

impl core::error::Error for QuotaExceeded {}
