//! Index and counter types that no two modules may mix up.
//!
//! Does not hold sizes in bytes: those are `u64` under a name that ends in `_bytes` or `len`.

use std::fmt;

/// What block bytes and block offsets are multiples of: the strictest O_DIRECT alignment met in
/// practice. It says nothing about memory pages, whose size comes from the system.
pub const BLOCK_ALIGN: u64 = 4096;

/// A block's position among the blocks of its bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u32);

/// A slot's position in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u32);

/// A task's position among the tasks of its bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskIndex(pub u32);

/// Counts the published switches of a session; 0 means that none was published yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl BlockIndex {
    /// The index as a position in a slice.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl SlotId {
    /// The index as a position in a slice.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl TaskIndex {
    /// The index as a position in a slice.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl Generation {
    /// Before the first published switch.
    pub const NONE: Self = Self(0);

    /// The generation that follows.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The smallest multiple of `align` that is not below `value`, or `None` on overflow.
pub fn align_up(value: u64, align: u64) -> Option<u64> {
    value.checked_next_multiple_of(align)
}
