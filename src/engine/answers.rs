//! Answers of a session's switches that carried a request id, so that a repeat gets the same one.
//!
//! A running request is not here: it is the session's pending switch.

use super::{EngineError, SwitchReport};
use crate::units::TaskIndex;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// The newest answers, which are kept however old they are.
const KEPT: usize = 1024;
/// How long every answer is kept.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// Most answers of a session, about 30 MiB: beyond a thousand fresh ids a second the oldest goes
/// before its minute is over.
const MOST: usize = 65_536;

pub(super) type SwitchResult = Result<SwitchReport, EngineError>;

/// The answers of a session.
#[derive(Default)]
pub(super) struct Answers {
    by_id: HashMap<Arc<str>, Box<Answer>>,
    /// When each was given, the oldest first.
    given: VecDeque<(Duration, Arc<str>)>,
}

/// The answer to a request.
pub(super) struct Answer {
    pub(super) task: TaskIndex,
    pub(super) result: SwitchResult,
}

impl Answers {
    pub(super) fn get(&self, id: &str) -> Option<&Answer> {
        self.by_id.get(id).map(|answer| &**answer)
    }

    /// Keeps an answer, unless it is a failure that may pass: then a repeat is a new attempt.
    pub(super) fn put(&mut self, now: Duration, id: &str, answer: Answer) {
        if answer.result.as_ref().is_err_and(EngineError::may_pass) {
            return;
        }
        let id: Arc<str> = id.into();
        self.by_id.insert(id.clone(), Box::new(answer));
        self.given.push_back((now, id));
        while let Some((given, id)) = self.given.front() {
            let is_old = now.saturating_sub(*given) >= KEPT_FOR;
            if self.given.len() <= KEPT || !(is_old || self.given.len() > MOST) {
                return;
            }
            self.by_id.remove(id);
            self.given.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(answers: &mut Answers, now: Duration, ids: std::ops::Range<usize>) {
        for id in ids {
            let answer = Answer { task: TaskIndex(0), result: Err(EngineError::Superseded) };
            answers.put(now, &id.to_string(), answer);
        }
    }

    #[test]
    fn an_answer_is_forgotten_when_it_is_old_and_not_among_the_newest() {
        let mut answers = Answers::default();
        put(&mut answers, Duration::ZERO, 0..2000);
        put(&mut answers, KEPT_FOR - Duration::from_nanos(1), 2000..2001);
        assert!(answers.get("0").is_some(), "it is not old yet");
        put(&mut answers, KEPT_FOR, 2001..2002);
        assert_eq!(answers.by_id.len(), KEPT);
        assert!(answers.get("977").is_none() && answers.get("978").is_some());
        put(&mut answers, 9 * KEPT_FOR, 2002..2003);
        assert!(answers.get("979").is_some(), "it is among the newest");
    }

    #[test]
    fn a_flood_of_ids_takes_bounded_memory() {
        let mut answers = Answers::default();
        put(&mut answers, Duration::ZERO, 0..MOST + 10);
        assert_eq!((answers.by_id.len(), answers.given.len()), (MOST, MOST));
        assert!(answers.get("9").is_none() && answers.get("10").is_some());
    }
}
