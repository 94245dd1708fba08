//! From missing blocks to requests: blocks that are adjacent on disk are read together.

use crate::units::BlockIndex;
use std::ops::Range;

/// Groups ascending block indices into runs of neighbours, none longer than `longest` blocks.
pub(super) fn extents(
    blocks: impl IntoIterator<Item = usize>,
    longest: usize,
) -> impl Iterator<Item = Range<u32>> {
    let mut blocks = blocks.into_iter().map(|block| block as u32).peekable();
    std::iter::from_fn(move || {
        let start = blocks.next()?;
        let mut end = start + 1;
        while (end - start) < longest as u32 && blocks.next_if_eq(&end).is_some() {
            end += 1;
        }
        Some(start..end)
    })
}

/// The blocks of an extent.
pub(super) fn blocks(extent: Range<u32>) -> impl Iterator<Item = BlockIndex> {
    extent.map(BlockIndex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn neighbours_share_an_extent_up_to_the_longest() {
        let runs: Vec<_> = extents([0, 1, 2, 3, 4, 7, 9, 10], 3).collect();
        assert_eq!(runs, [0..3, 3..5, 7..8, 9..11]);
        assert_eq!(extents([], 3).count(), 0);
    }

    proptest! {
        #[test]
        fn extents_cover_exactly_the_blocks_and_are_as_few_as_can_be(
            set in prop::collection::btree_set(0usize..200, 0..100),
            longest in 1usize..20,
        ) {
            let runs: Vec<_> = extents(set.iter().copied(), longest).collect();
            let covered: Vec<_> = runs.iter().cloned().flatten().map(|b| b as usize).collect();
            prop_assert_eq!(covered.iter().copied().collect::<BTreeSet<_>>(), set);
            for pair in runs.windows(2) {
                let full = pair[0].len() == longest;
                prop_assert!(pair[0].end < pair[1].start || full && pair[0].end == pair[1].start);
            }
            prop_assert!(runs.iter().all(|run| run.len() <= longest));
        }
    }
}
