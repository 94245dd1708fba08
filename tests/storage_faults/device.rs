//! S7 to S10: a device that is slow, does not answer, or is gone; S19: answers in another order.

use crate::{
    common::faulty::Fault,
    rig::{Answer, IN_FLIGHT, Rig},
};
use rustix::io::Errno;
use std::time::Duration;
use synchromesh::{
    engine::{EngineError, Outcome, SwitchReport},
    storage::{Backend, Completion},
};

/// Blocks of a read.
const READ: usize = 4;
/// Blocks of `highway`.
const MISSING: usize = 20;

/// `parking` is active, `tunnel` resident; both are apart from the others. `highway` takes more
/// reads than are under way at once.
fn rig(backend: Backend) -> Rig {
    let rig = Rig::new(backend, &[0..8, 4..24, 28..34, 34..40]);
    rig.load("tunnel");
    rig.load("parking");
    rig
}

/// Sends for `highway` and waits until as many of its reads as can be are held.
fn held(rig: &Rig, deadline: Option<Duration>) -> Answer<SwitchReport> {
    rig.faults.all(Fault::Held);
    let answer = rig.begin_within("highway", deadline);
    rig.wait_held(IN_FLIGHT);
    assert_eq!(rig.slot_counts().filling, MISSING, "one read has not begun");
    answer
}

/// The device answers nothing until the engine has noticed.
fn stalled(rig: &Rig) {
    let answer = held(rig, None);
    assert_ends_in_time(rig, answer, EngineError::StorageUnavailable);
    assert_eq!(rig.slot_counts().filling, IN_FLIGHT * READ, "what has not begun is withdrawn");
}

/// Whatever must be read is refused at once, as the clock stands still; what is there goes on.
fn assert_only_resident_tasks_can_be_had(rig: &Rig) {
    for resident in ["tunnel", "parking"] {
        for missing in ["city", "highway"] {
            assert_eq!(rig.switch(missing), Err(EngineError::StorageUnavailable), "{missing}");
            rig.check();
        }
        assert_eq!(rig.switch(resident).unwrap().outcome, Outcome::Resident);
        rig.assert_serves(resident);
    }
}

/// Lets time pass until a switch ends with this error.
fn assert_ends_in_time(rig: &Rig, answer: Answer<SwitchReport>, error: EngineError) {
    rig.clock.run();
    assert_eq!(rig.wait(answer), Err(error));
    rig.clock.stop();
}

fn s7_a_slow_device_ends_the_switch_at_its_deadline_and_what_it_fills_is_kept(backend: Backend) {
    let rig = rig(backend);
    let answer = held(&rig, Some(Duration::from_millis(20)));
    assert_ends_in_time(&rig, answer, EngineError::DeadlineExceeded);
    let filling = rig.slot_counts().filling;
    assert_eq!(filling, IN_FLIGHT * READ, "the device may still write there");
    rig.assert_serves("parking");
    rig.faults.clear();
    rig.faults.release(|_| {});
    rig.settle();
    assert_eq!(rig.slot_counts().resident, 12 + filling, "what came late is kept");
    let report = rig.load("highway");
    assert_eq!((report.read, report.reused), (MISSING - filling, filling));
    rig.finish();
}

fn s7_a_switch_that_comes_while_reads_are_slow_waits_for_the_same_reads(backend: Backend) {
    let rig = rig(backend);
    let first = held(&rig, Some(Duration::from_millis(20)));
    assert_ends_in_time(&rig, first, EngineError::DeadlineExceeded);
    rig.faults.clear();
    let second = rig.begin("highway");
    rig.check();
    rig.faults.release(|_| {});
    assert_eq!(rig.wait(second).unwrap().read, MISSING);
    assert_eq!(rig.faults.asked(), 12 + MISSING, "no block is read twice");
    rig.finish();
}

fn s8_a_device_that_never_answers_stops_only_what_must_be_read(backend: Backend) {
    let rig = rig(backend);
    stalled(&rig);
    assert_only_resident_tasks_can_be_had(&rig);
    let filling = rig.slot_counts().filling;
    assert_eq!(filling, IN_FLIGHT * READ, "slots stay taken for as long as it may write there");
    // It wakes up.
    rig.faults.clear();
    rig.faults.release(|_| {});
    rig.settle();
    let report = rig.load("highway");
    assert_eq!((report.read, report.reused), (MISSING - filling, filling));
    rig.finish();
}

fn s8_one_read_that_never_ends_is_a_stall_once_nothing_else_ends(backend: Backend) {
    let rig = rig(backend);
    rig.faults.always(8, Fault::Held);
    let answer = rig.begin("highway");
    rig.wait_held(1);
    assert_ends_in_time(&rig, answer, EngineError::StorageUnavailable);
    rig.settle_but(READ);
    assert_only_resident_tasks_can_be_had(&rig);
    rig.finish();
}

fn s9_reads_that_are_aborted_in_the_end_leave_nothing_behind(backend: Backend) {
    for errno in [Errno::IO, Errno::TIME, Errno::TIMEDOUT, Errno::NODEV] {
        let rig = rig(backend);
        stalled(&rig);
        rig.faults.clear();
        rig.faults.release_failed(errno);
        rig.settle();
        let status = rig.status();
        assert_eq!(status.pool.slots.resident, 12, "{errno}: what failed is not kept");
        assert_eq!((status.quarantined, status.read_again), (0, 0), "nobody waits for it");
        rig.assert_serves("parking");
        rig.load("highway");
        rig.finish();
    }
}

fn s9_a_second_try_that_stalls_and_is_aborted_can_be_tried_again(backend: Backend) {
    let rig = rig(backend);
    rig.faults.once(8, Fault::Before(Errno::IO));
    rig.faults.always(8, Fault::Held);
    let answer = rig.begin("highway");
    rig.wait_held(1);
    assert_ends_in_time(&rig, answer, EngineError::StorageUnavailable);
    rig.faults.clear();
    rig.faults.release_failed(Errno::IO);
    rig.settle();
    rig.assert_serves("parking");
    rig.load("highway");
    rig.finish();
}

fn s9_a_device_that_answers_before_it_was_missed_is_not_missed(backend: Backend) {
    let rig = rig(backend);
    let answer = held(&rig, None);
    rig.faults.clear();
    rig.faults.release_failed(Errno::TIME);
    assert_eq!(rig.wait(answer).unwrap().read, MISSING, "each block is tried again");
    assert_eq!(rig.status().read_again, (IN_FLIGHT * READ) as u64);
    rig.assert_serves("highway");
    rig.finish();
}

fn s10_a_device_that_is_gone_is_told_at_once_and_no_block_is_blamed(backend: Backend) {
    for gone in [
        Fault::Before(Errno::NODEV),
        Fault::After(Errno::NODEV),
        Fault::Before(Errno::NXIO),
        Fault::After(Errno::NXIO),
        Fault::Refused,
    ] {
        let rig = rig(backend);
        rig.faults.all(gone);
        assert_only_resident_tasks_can_be_had(&rig);
        rig.settle();
        let status = rig.status();
        assert_eq!((status.quarantined, status.read_again), (0, 0), "{gone:?}");
        rig.faults.clear();
        rig.load("highway");
        rig.finish();
    }
}

fn s10_a_device_that_goes_while_reads_are_under_way_is_told(backend: Backend) {
    let rig = rig(backend);
    let answer = held(&rig, None);
    rig.faults.release_failed(Errno::NODEV);
    assert_eq!(rig.wait(answer), Err(EngineError::StorageUnavailable));
    rig.assert_serves("parking");
    rig.finish();
}

fn s19_answers_in_any_order_each_fill_their_own_blocks(backend: Backend) {
    for seed in 0..20 {
        let rig = rig(backend);
        let answer = held(&rig, None);
        rig.faults.clear();
        let mut rng = fastrand::Rng::with_seed(seed);
        let order = |held: &mut [Completion]| match seed {
            0 => held.sort_by_key(|completion| completion.read.offset),
            1 => held.sort_by_key(|completion| u64::MAX - completion.read.offset),
            _ => rng.shuffle(held),
        };
        rig.faults.release(order);
        let report = rig.wait(answer).unwrap();
        assert_eq!((report.outcome, report.read), (Outcome::Loaded, MISSING));
        rig.assert_serves("highway");
        rig.finish();
    }
}

on_both_backends! {
    s7_a_slow_device_ends_the_switch_at_its_deadline_and_what_it_fills_is_kept,
    s7_a_switch_that_comes_while_reads_are_slow_waits_for_the_same_reads,
    s8_a_device_that_never_answers_stops_only_what_must_be_read,
    s8_one_read_that_never_ends_is_a_stall_once_nothing_else_ends,
    s9_reads_that_are_aborted_in_the_end_leave_nothing_behind,
    s9_a_second_try_that_stalls_and_is_aborted_can_be_tried_again,
    s9_a_device_that_answers_before_it_was_missed_is_not_missed,
    s10_a_device_that_is_gone_is_told_at_once_and_no_block_is_blamed,
    s10_a_device_that_goes_while_reads_are_under_way_is_told,
    s19_answers_in_any_order_each_fill_their_own_blocks,
}
