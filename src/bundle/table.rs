//! The tables of an index where they lie: in memory that the bundle owns, or in a mapping that
//! cannot change.
//!
//! Knows where a table lies and how its values are read, but no rule of the format: `validate`
//! checks those, on these very tables.

use fixedbitset::FixedBitSet;
use safetensors::Dtype;
use std::{
    fmt,
    marker::PhantomData,
    ops::{Deref, Range},
    sync::{Arc, OnceLock},
};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, little_endian as le};

/// The bytes of an index, from its first table to the end of the file. They are checked once and
/// used ever after, so whoever hands them out vouches that they stay the same.
pub type IndexBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// What a table may hold: values that can lie anywhere and be of any bits.
pub(super) trait Value: FromBytes + Immutable + KnownLayout + Unaligned {
    const DTYPE: Dtype;
}

impl Value for u8 {
    const DTYPE: Dtype = Dtype::U8;
}

impl Value for le::U32 {
    const DTYPE: Dtype = Dtype::U32;
}

impl Value for le::U64 {
    const DTYPE: Dtype = Dtype::U64;
}

/// A run of values in an index.
pub(super) struct Table<T> {
    bytes: IndexBytes,
    range: Range<usize>,
    values: PhantomData<T>,
}

impl<T: Value> Table<T> {
    /// The values at this range of the index; `None` if they do not lie within it.
    pub(super) fn new(bytes: &IndexBytes, range: Range<usize>) -> Option<Self> {
        let found = (**bytes).as_ref().get(range.clone())?;
        <[T]>::ref_from_bytes(found).ok()?;
        Some(Self { bytes: bytes.clone(), range, values: PhantomData })
    }
}

impl<T: Value> Deref for Table<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let bytes = (*self.bytes).as_ref().get(self.range.clone());
        // `new` has found the bytes there, and their number right.
        bytes.and_then(|bytes| <[T]>::ref_from_bytes(bytes).ok()).unwrap_or_default()
    }
}

/// The index is shared and large: what lies where says enough.
impl<T> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.range).finish()
    }
}

/// A task's set of blocks.
#[derive(Debug)]
pub(super) struct TaskSet {
    bits: Table<u8>,
    /// The same, for who computes with sets; made when it is first asked for, because a client
    /// never asks.
    set: OnceLock<FixedBitSet>,
}

impl TaskSet {
    pub(super) fn new(bits: Table<u8>) -> Self {
        Self { bits, set: OnceLock::new() }
    }

    /// Number of blocks in it.
    pub(super) fn count(&self) -> u64 {
        words(&self.bits).map(|word| u64::from(word.count_ones())).sum()
    }

    /// The set, of `blocks` blocks in all.
    pub(super) fn as_set(&self, blocks: usize) -> &FixedBitSet {
        let set = || FixedBitSet::with_capacity_and_blocks(blocks, words(&self.bits));
        self.set.get_or_init(set)
    }

    /// Tells which blocks are in the set, without making one.
    pub(super) fn members(&self) -> Members<'_> {
        Members(&self.bits)
    }
}

/// A set that is read bit by bit.
#[derive(Clone, Copy)]
pub(super) struct Members<'a>(&'a [u8]);

impl Members<'_> {
    pub(super) fn contain(self, block: u32) -> bool {
        self.0.get(block as usize / 8).is_some_and(|byte| byte >> (block % 8) & 1 != 0)
    }
}

fn words(bits: &[u8]) -> impl Iterator<Item = usize> {
    bits.chunks(size_of::<usize>()).map(|chunk| {
        let mut word = [0; size_of::<usize>()];
        word[..chunk.len()].copy_from_slice(chunk);
        usize::from_le_bytes(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_where_it_lies_and_refused_where_there_is_none() {
        let index: IndexBytes = Arc::new([9, 1, 0, 0, 0, 2, 0, 0, 0, 9]);
        let table = Table::<le::U32>::new(&index, 1..9).unwrap();
        assert_eq!(table.iter().map(|value| value.get()).collect::<Vec<_>>(), [1, 2]);
        for range in [1..8, 7..11, 20..24] {
            assert!(Table::<le::U32>::new(&index, range).is_none());
        }
    }

    #[test]
    fn bits_and_sets_agree() {
        let index: IndexBytes = Arc::new([0b1000_0001, 0, 0, 0, 0, 0, 0, 0, 0b10, 0b1]);
        let task = TaskSet::new(Table::new(&index, 0..10).unwrap());
        let members: Vec<_> =
            (0..80).filter(|&block| task.members().contain(block as u32)).collect();
        assert_eq!(members, [0, 7, 65, 72]);
        assert_eq!(task.as_set(73).ones().collect::<Vec<_>>(), members);
        assert_eq!(task.count(), 4);
        assert!(!task.members().contain(80) && !task.members().contain(u32::MAX));
    }
}
