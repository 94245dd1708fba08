//! The picture of a pool as the page gets it: small, and right in a language that has no integers of
//! 64 bits. Cells that look the same share a look; sets of tasks are written in hexadecimal digits.

use crate::proto::{self, SlotState};
use serde::Serialize;
use std::collections::HashMap;

/// A pool to be drawn, and how its tasks follow one another.
#[derive(Serialize)]
pub(super) struct PagePicture {
    /// Names; others are told by their place in this list.
    tasks: Vec<String>,
    slots_per_cell: u32,
    /// Each look that a cell has.
    looks: Vec<Look>,
    /// Cells in their order: how many have which look.
    runs: Vec<(u32, usize)>,
    transitions: Vec<proto::Transition>,
}

/// What a cell looks like, told as a list. With many tasks there are nearly as many looks as cells.
#[derive(Serialize)]
struct Look(
    /// What is in it.
    &'static str,
    /// The tasks that need what is there, in hexadecimal digits: the first task is the lowest bit.
    String,
    /// Whether it is pinned.
    u8,
    /// Whether it was loaded ahead.
    u8,
);

impl From<proto::Picture> for PagePicture {
    fn from(picture: proto::Picture) -> Self {
        let proto::Picture { tasks, cells, slots_per_cell, transitions } = picture;
        let (mut looks, mut places) = (Vec::new(), HashMap::new());
        let mut run = |cell: &proto::CellRun| {
            let key = (cell.state, cell.task_words.clone(), cell.pinned, cell.ahead);
            let look = *places.entry(key).or_insert_with(|| {
                looks.push(Look::of(cell));
                looks.len() - 1
            });
            (cell.count, look)
        };
        let runs = cells.iter().map(&mut run).collect();
        Self { tasks, slots_per_cell, looks, runs, transitions }
    }
}

impl Look {
    fn of(cell: &proto::CellRun) -> Self {
        let state = match cell.state() {
            SlotState::Unspecified => "unknown",
            SlotState::Free => "free",
            SlotState::Filling => "filling",
            SlotState::Verifying => "verifying",
            SlotState::Resident => "resident",
            SlotState::Lost => "lost",
        };
        Self(state, hexadecimal(&cell.task_words), cell.pinned.into(), cell.ahead.into())
    }
}

/// A number whose words are given, the lowest first.
fn hexadecimal(words: &[u64]) -> String {
    let last = words.iter().rposition(|word| *word != 0).unwrap_or(0);
    let highest = format!("{:x}", words.get(last).unwrap_or(&0));
    let below = words.iter().take(last).rev().map(|word| format!("{word:016x}"));
    std::iter::once(highest).chain(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::CellRun;

    #[test]
    fn more_tasks_than_a_word_has_bits_are_written_in_one_number() {
        assert_eq!(hexadecimal(&[]), "0");
        assert_eq!(hexadecimal(&[0, 0]), "0");
        assert_eq!(hexadecimal(&[10, 0]), "a");
        assert_eq!(hexadecimal(&[0, 1 << 4, 0]), "100000000000000000");
    }

    #[test]
    fn cells_share_looks_and_the_sixty_fourth_task_is_told_right() {
        let task_words = vec![1 << 63 | 1];
        let last = CellRun { count: 3, state: 4, task_words, pinned: true, ahead: false };
        let free = CellRun { count: 2, state: 1, ..CellRun::default() };
        let cells = vec![last.clone(), free, CellRun { count: 5, ..last }];
        let picture = proto::Picture { cells, slots_per_cell: 1, ..proto::Picture::default() };
        let told = serde_json::to_value(PagePicture::from(picture)).unwrap();
        let looks =
            serde_json::json!([["resident", "8000000000000001", 1, 0], ["free", "0", 0, 0],]);
        assert_eq!(told["looks"], looks);
        assert_eq!(told["runs"], serde_json::json!([[3, 0], [2, 1], [5, 0]]));
    }
}
