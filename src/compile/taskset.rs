//! Sets of tasks, one bit a task.

use crate::{bundle::MAX_TASKS, units::TaskIndex};

/// Which tasks keep something. Ordered by its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TaskSet(u64);

const _: () = assert!(MAX_TASKS <= 64, "a task set has a bit for every task");

impl TaskSet {
    /// No task.
    pub(super) const EMPTY: Self = Self(0);

    /// The set of one task.
    pub(super) fn of(task: TaskIndex) -> Self {
        Self(1 << task.0)
    }

    /// The bits, task 0 in the lowest.
    pub(super) fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn insert(&mut self, task: TaskIndex) {
        *self = self.union(Self::of(task));
    }

    pub(super) fn contains(self, task: TaskIndex) -> bool {
        !self.intersection(Self::of(task)).is_empty()
    }

    pub(super) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The set with the task if it is without, without it if it is in.
    pub(super) fn toggled(self, task: TaskIndex) -> Self {
        Self(self.0 ^ Self::of(task).0)
    }

    /// Those of the tasks that are not among the others.
    pub(super) fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The task of the lowest index.
    pub(super) fn first(self) -> Option<TaskIndex> {
        (!self.is_empty()).then(|| TaskIndex(self.0.trailing_zeros()))
    }

    /// The tasks, lowest index first.
    pub(super) fn iter(self) -> impl Iterator<Item = TaskIndex> {
        let mut rest = self;
        std::iter::from_fn(move || {
            let task = rest.first()?;
            rest.0 &= rest.0 - 1;
            Some(task)
        })
    }
}

impl FromIterator<TaskIndex> for TaskSet {
    fn from_iter<I: IntoIterator<Item = TaskIndex>>(tasks: I) -> Self {
        tasks.into_iter().fold(Self::EMPTY, |set, task| set.union(Self::of(task)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_task_has_a_bit_too() {
        let mut set = TaskSet::EMPTY;
        assert_eq!(set.first(), None);
        set.insert(TaskIndex(63));
        set.insert(TaskIndex(2));
        assert_eq!(set.iter().collect::<Vec<_>>(), [TaskIndex(2), TaskIndex(63)]);
        assert_eq!((set.len(), set.first()), (2, Some(TaskIndex(2))));
        assert!(set.contains(TaskIndex(63)) && !set.contains(TaskIndex(3)));
    }
}
