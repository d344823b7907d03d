//! Memory that holds zeroes, without touching what does anyway.

use recoup_core::Chunks;
use recoup_core::bits::Bits512;
use recoup_core::book::Grant;

use super::error::Result;
use super::extent::{Extent, Place};
use super::mapping::CHUNK;
use super::owner::Owner;
use super::zone::Granted;

impl Owner {
    /// As [`chunks`](Self::chunks), and holding zeroes. What the owner had there before is overwritten,
    /// at the speed of memset(3); memory that comes from the source is zero, and stays untouched.
    ///
    /// # Errors
    /// The quota, the pool or its source is exhausted; or no extent has that length.
    pub fn zeroed_chunks(&self, length: Chunks) -> Result<Extent> {
        let spare = if length == Chunks(1) { self.0.take_spare() } else { None };
        let (mut span, run, own) = match spare {
            Some((span, run)) => (span, run, Bits512::FULL),
            None => {
                let Granted { span, grant } = self.0.run(length)?;
                let Grant { extent, foreign, cold } = grant;
                (span, extent, !(foreign | cold))
            }
        };
        for (slot, chunk) in run.slots().zip(span.as_mut_slice().chunks_mut(CHUNK)) {
            if own.contains(slot) {
                chunk.fill(0);
            }
        }
        Ok(self.extent(span, Place::Chunks(run)))
    }
}
