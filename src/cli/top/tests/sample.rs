//! What a daemon might tell.

use crate::{
    cli::top::state::{News, Now, State},
    proto::{self, event::Kind},
};
use std::time::Duration;

/// The time of all samples.
pub(super) const NOW: Now =
    Now { running: Duration::from_secs(100), wall_us: 1_700_000_000_000_000 };

pub(super) fn blocks(blocks: u64) -> Option<proto::Amount> {
    Some(proto::Amount { blocks, bytes: blocks * 16_384 })
}

fn session(name: &str, task: &str, likely: &[(&str, f64, u64)]) -> proto::SessionStatus {
    let likely = likely.iter().map(|&(task, probability, expected_ms)| proto::LikelyTask {
        task: task.into(),
        probability,
        expected_ms,
    });
    proto::SessionStatus {
        model: "minilm".into(),
        session: name.into(),
        task: task.into(),
        generation: 17,
        clients: 2,
        likely: likely.collect(),
        confidence: 0.8,
        ..Default::default()
    }
}

pub(super) fn run(
    count: u32,
    state: proto::SlotState,
    tasks: u64,
    pinned: bool,
    ahead: bool,
) -> proto::CellRun {
    proto::CellRun { count, state: state.into(), task_words: vec![tasks], pinned, ahead }
}

fn picture() -> proto::Picture {
    use proto::SlotState::{Filling, Free, Resident, Verifying};
    let mut cells = vec![
        run(602, Resident, 0b111, true, false),
        run(9, Resident, 0b001, false, false),
        run(168, Resident, 0b011, true, false),
        run(131, Resident, 0b100, false, false),
        run(54, Resident, 0b010, true, false),
        run(88, Resident, 0b100, false, true),
        run(1, Free, 0, false, false),
        run(24, Filling, 0b100, false, false),
        run(2, Verifying, 0b100, false, false),
    ];
    let taken: u32 = cells.iter().map(|run| run.count).sum();
    cells.push(run(1536 - taken, Free, 0, false, false));
    let tasks = ["highway", "night", "parking"].map(str::to_owned).to_vec();
    proto::Picture { tasks, cells, slots_per_cell: 1, transitions: Vec::new() }
}

/// A model as it might be when the daemon has been up for so many seconds.
pub(super) fn model(uptime_s: u64) -> proto::ModelStatus {
    let mut rear = session("rear", "parking", &[("night", 0.44, 8_200), ("city", 0.21, 31_000)]);
    rear.pending_task = "night".into();
    rear.leases = vec![proto::Lease { kept: blocks(40), ..Default::default() }];
    let front = [("parking", 0.62, 2_100), ("night", 0.18, 8_000), ("city", 0.09, 125_000)];
    proto::ModelStatus {
        name: "minilm".into(),
        bundle_id: "00".repeat(16),
        pool: Some(proto::PoolStatus {
            slot_bytes: 16_384,
            base_bytes: 1 << 20,
            slots: 1536,
            free: 458,
            filling: 24,
            verifying: 2,
            resident: 1052,
            pinned: 824,
            locked: true,
            ..Default::default()
        }),
        sessions: vec![session("default", "highway", &front), rear],
        direct_io: true,
        storage: Some(proto::StorageStatus {
            backend: "io_uring".into(),
            reads: 31 * uptime_s,
            read_bytes: 12_900_000 * uptime_s,
            ..Default::default()
        }),
        prefetch: Some(proto::PrefetchStatus {
            loaded: blocks(200 * uptime_s),
            used: blocks(120 * uptime_s),
            wasted: blocks(3 * uptime_s),
            waiting: blocks(88),
            ..Default::default()
        }),
        picture: Some(picture()),
        ..Default::default()
    }
}

pub(super) fn status(uptime_s: u64) -> proto::GetStatusResponse {
    proto::GetStatusResponse {
        version: "0.1.0".into(),
        state: proto::DaemonState::Serving.into(),
        uptime_ms: uptime_s * 1000,
        models: vec![model(uptime_s)],
        ..Default::default()
    }
}

/// A switch that took so long.
pub(super) fn switched(sequence: u64, total_us: u64) -> proto::Event {
    let read_us = total_us * 3 / 4;
    let timing = proto::SwitchTiming {
        queue_us: 5.min(total_us),
        plan_us: total_us / 50,
        read_us,
        verify_us: (total_us - read_us) / 2,
        publish_us: 3.min(total_us),
        total_us,
    };
    let loaded = total_us > 1000;
    use proto::SwitchOutcome::{Loaded, Resident};
    let result = proto::SwitchTaskResponse {
        generation: 0,
        outcome: if loaded { Loaded } else { Resident }.into(),
        needed: blocks(760),
        read: blocks(if loaded { 81 } else { 0 }),
        timing: Some(timing),
        ..Default::default()
    };
    event(
        sequence,
        Kind::Switched(proto::TaskSwitched {
            from: "city".into(),
            task: "highway".into(),
            result: Some(result),
            ..Default::default()
        }),
    )
}

pub(super) fn failed(sequence: u64) -> proto::Event {
    event(
        sequence,
        Kind::SwitchFailed(proto::SwitchFailed {
            from: "city".into(),
            task: "night".into(),
            reason: "POOL_FULL".into(),
            ..Default::default()
        }),
    )
}

pub(super) fn event(sequence: u64, kind: Kind) -> proto::Event {
    proto::Event {
        sequence,
        time_us: NOW.wall_us - 3_400_000,
        model: "minilm".into(),
        session: "default".into(),
        kind: Some(kind),
    }
}

pub(super) fn told(instance: &str, events: Vec<proto::Event>) -> News {
    News::Events(proto::WatchEventsResponse { instance: instance.into(), events })
}

/// A daemon that has been watched for half a minute.
pub(super) fn watched() -> State {
    let mut state = State::default();
    for second in 0..30 {
        let mut status = status(273_600 + second);
        // Reading comes in bursts.
        if let Some(storage) = &mut status.models[0].storage {
            storage.read_bytes += second * second % 13 * 4_000_000;
            storage.reads += second * second % 13 * 7;
        }
        if let Some(prefetch) = &mut status.models[0].prefetch {
            prefetch.loaded = blocks(200_000 + 90 * (second / 3));
            prefetch.used = blocks(100_000 + 70 * (second / 5));
            prefetch.wasted = blocks(1000 + 4 * (second / 12));
        }
        state.take(News::Status(Box::new(status)), NOW);
    }
    let mut events = Vec::new();
    for sequence in 1..=90 {
        events.push(match sequence % 30 {
            0 => failed(sequence),
            7 | 8 | 19 => switched(sequence, 9_000 + sequence * 61),
            _ => switched(sequence, 40 + sequence * 37 % 160),
        });
    }
    events.push(switched(91, 12_130));
    state.take(told("one", events), NOW);
    state
}
