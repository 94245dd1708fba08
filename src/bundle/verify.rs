//! Comparing a whole file with its checksums.

use super::{Bundle, Subject, checksum};
use crate::units::BlockIndex;
use std::{fs::File, io, ops::ControlFlow, os::unix::fs::FileExt as _};
use thiserror::Error;

/// Bytes read at once, unless a block or tensor is larger.
const CHUNK_BYTES: u64 = 8 << 20;

/// What does not match its checksum.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Blocks.
    pub blocks: Vec<BlockIndex>,
    /// Base tensors, by name.
    pub base: Vec<String>,
}

/// Why a file was not verified to its end.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// It cannot be read.
    #[error("cannot read the bundle: {0}")]
    Io(#[from] io::Error),
    /// The caller wanted to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Bundle {
    /// Bytes of blocks and base tensors.
    pub fn payload_bytes(&self) -> u64 {
        self.len() as u64 * self.block().bytes() + self.base().bytes()
    }

    /// Compares every block and base tensor with its checksum. `progress` is told of bytes that
    /// were read, and may stop.
    pub fn verify(
        &self,
        file: &File,
        mut progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Damage, VerifyError> {
        let mut damage = Damage::default();
        let mut tell = |bytes| match progress(bytes) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(VerifyError::Interrupted),
        };
        let longest = (CHUNK_BYTES / self.block().bytes()).max(1) as usize;
        let blocks: Vec<_> = (0..self.len() as u32).map(BlockIndex).collect();
        let mut buffer = Vec::new();
        for chunk in blocks.chunks(longest) {
            buffer.resize(chunk.len() * self.block().len(), 0);
            file.read_exact_at(&mut buffer, self.block_offset(chunk[0]))?;
            for (&block, bytes) in chunk.iter().zip(buffer.chunks(self.block().len())) {
                if !self.block_matches(block, bytes) {
                    damage.blocks.push(block);
                }
            }
            tell(buffer.len() as u64)?;
        }
        for (position, tensor) in (0..).zip(&self.base().tensors) {
            buffer.resize((tensor.range.end - tensor.range.start) as usize, 0);
            file.read_exact_at(&mut buffer, self.base().region.start + tensor.range.start)?;
            if checksum(self.id(), Subject::Base(position), &buffer) != tensor.checksum {
                damage.base.push(tensor.name.clone());
            }
            tell(buffer.len() as u64)?;
        }
        Ok(damage)
    }
}
