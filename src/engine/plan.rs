//! From missing blocks to requests: blocks that lie near each other on disk are read together.
//!
//! A gap is read through where that costs less than another request. Which slots the blocks go to
//! is `residency`'s business.

use crate::units::BlockIndex;

/// What requests may look like, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Longest request, at least one block.
    pub(super) longest: u32,
    /// Longest gap that is read through.
    pub(super) gap: u32,
}

impl Shape {
    /// For requests of at most `read_bytes`, each of which costs as much as `request_bytes`.
    pub(super) fn new(block_bytes: u64, read_bytes: u64, request_bytes: u64) -> Self {
        let blocks = |bytes: u64| u32::try_from(bytes / block_bytes).unwrap_or(u32::MAX);
        Self { longest: blocks(read_bytes).max(1), gap: blocks(request_bytes) }
    }

    /// Groups ascending blocks into as few requests as the shape allows.
    pub(super) fn requests(
        self,
        blocks: impl IntoIterator<Item = BlockIndex>,
    ) -> impl Iterator<Item = Vec<BlockIndex>> {
        let mut blocks = blocks.into_iter().peekable();
        std::iter::from_fn(move || {
            let first = blocks.next()?;
            let mut request = vec![first];
            let mut last = first;
            let fits = |last: BlockIndex, next: &BlockIndex| {
                next.0 - last.0 - 1 <= self.gap && next.0 - first.0 < self.longest
            };
            while let Some(next) = blocks.next_if(|next| fits(last, next)) {
                request.push(next);
                last = next;
            }
            Some(request)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn requests(shape: Shape, blocks: impl IntoIterator<Item = u32>) -> Vec<Vec<u32>> {
        let requests = shape.requests(blocks.into_iter().map(BlockIndex));
        requests.map(|request| request.into_iter().map(|block| block.0).collect()).collect()
    }

    #[test]
    fn neighbours_share_a_request_up_to_the_longest() {
        let shape = Shape { longest: 3, gap: 0 };
        let expected = [vec![0, 1, 2], vec![3, 4], vec![7], vec![9, 10]];
        assert_eq!(requests(shape, [0, 1, 2, 3, 4, 7, 9, 10]), expected);
        assert_eq!(requests(shape, []), Vec::<Vec<u32>>::new());
    }

    #[test]
    fn gaps_are_read_through_where_another_request_would_cost_more() {
        let shape = Shape::new(4096, 64 << 10, 9000);
        assert_eq!(shape, Shape { longest: 16, gap: 2 });
        assert_eq!(requests(shape, [0, 3, 7, 9]), [vec![0, 3], vec![7, 9]]);
        assert_eq!(Shape::new(16 << 20, 1 << 20, 9000), Shape { longest: 1, gap: 0 });
    }

    proptest! {
        #[test]
        fn requests_hold_exactly_the_blocks_and_are_as_few_as_can_be(
            set in prop::collection::btree_set(0u32..200, 0..100),
            longest in 1u32..20,
            gap in 0u32..4,
        ) {
            let requests = requests(Shape { longest, gap }, set.iter().copied());
            let covered: Vec<_> = requests.iter().flatten().copied().collect();
            prop_assert_eq!(covered, set.iter().copied().collect::<Vec<_>>());
            for request in &requests {
                let near = request.windows(2).all(|pair| pair[1] - pair[0] <= gap + 1);
                prop_assert!(near && request[request.len() - 1] - request[0] < longest);
            }
            // From the left, no request could have taken one block more: the fewest there can be.
            for pair in requests.windows(2) {
                let (first, last) = (pair[0][0], pair[0][pair[0].len() - 1]);
                let next = pair[1][0];
                prop_assert!(next - last > gap + 1 || next - first >= longest);
            }
            prop_assert!(set.is_empty() || requests.iter().all(|request| !request.is_empty()));
            prop_assert_eq!(set.len(), requests.iter().map(Vec::len).sum::<usize>());
            let _: BTreeSet<u32> = set;
        }
    }
}
