//! An engine with one small model, and short words for what tests do with it.

use super::{
    bundles::{BLOCK_BYTES, Content},
    client::Client,
    rig::{Answer, Rig, target},
};
use std::{ops::Range, rc::Rc, time::Duration};
use synchromesh::{
    config::PrefetchConfig,
    engine::{
        Action, Command, EngineError, Limits, PrepareCommand, PrepareReport, SessionStatus,
        SwitchCommand, SwitchReport,
    },
    units::BlockIndex,
};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than anything here takes.
pub(crate) const STALL: Duration = Duration::from_secs(3600);
pub(crate) const LIMITS: Limits = Limits {
    reads_in_flight: 4,
    read_bytes: 4 * BLOCK_BYTES,
    stall: STALL,
    switch_timeout: TIMEOUT,
    clients_per_session: 2,
    lease_patience: STALL,
    prefetch: PrefetchConfig::OFF,
};

/// An engine with one model. Its tasks, `city`, `highway`, `parking` and so on, have these blocks.
pub(crate) fn rig(slots: usize, tasks: &[Range<u32>]) -> Rig {
    rig_with(slots, tasks, LIMITS)
}

pub(crate) fn rig_with(slots: usize, tasks: &[Range<u32>], limits: Limits) -> Rig {
    Rig::new(&[(content("alpha", tasks), slots)], limits, 0)
}

pub(crate) fn content(model: &'static str, tasks: &[Range<u32>]) -> Rc<Content> {
    let tasks: Vec<_> = tasks.iter().map(|blocks| blocks.clone().collect()).collect();
    Rc::new(Content::write(model, &tasks))
}

pub(crate) fn attach(rig: &mut Rig, session: &str) -> Client {
    Client::open(0, rig.attach(target(session)).unwrap())
}

pub(crate) fn switch(rig: &mut Rig, session: &str, task: &str) -> Answer<SwitchReport> {
    rig.switch(rig.command(session, task))
}

pub(crate) fn in_place(rig: &mut Rig, session: &str, task: &str) -> Answer<SwitchReport> {
    rig.switch(SwitchCommand { in_place: true, ..rig.command(session, task) })
}

pub(crate) fn prepare(rig: &mut Rig, task: &str, hold: Duration) -> Answer<PrepareReport> {
    let (model, task, arrived) = (String::new(), task.to_owned(), rig.now());
    let command = PrepareCommand { model, task, hold, arrived, deadline: None, caller: None };
    rig.ask(|reply| Command::Prepare(command, reply))
}

/// The generation and the task of the default session.
pub(crate) fn serves(rig: &mut Rig) -> (u64, Option<String>) {
    let session = session(rig, "default");
    (session.generation.0, session.task)
}

pub(crate) fn with_id(rig: &Rig, task: &str, id: &str) -> SwitchCommand {
    SwitchCommand { request_id: Some(id.into()), ..rig.command("", task) }
}

pub(crate) fn detach(rig: &mut Rig, client: &Client) {
    rig.apply(Action::Command(Command::Detach(client.member)));
}

pub(crate) fn session(rig: &mut Rig, name: &str) -> SessionStatus {
    let status = rig.status().remove(0);
    status.sessions.into_iter().find(|session| session.session == name).unwrap()
}

pub(crate) fn active(rig: &mut Rig) -> Option<String> {
    session(rig, "default").task
}

pub(crate) fn resident(client: &Client, blocks: Range<u32>) -> Vec<u32> {
    blocks.filter(|&block| client.table.slot_of(BlockIndex(block)).is_some()).collect()
}

pub(crate) fn no_room(needed: u64, available: u64) -> EngineError {
    let (needed_bytes, available_bytes) = (needed * BLOCK_BYTES, available * BLOCK_BYTES);
    EngineError::NoRoom { needed_bytes, available_bytes }
}

pub(crate) fn emptied(cause: EngineError) -> EngineError {
    EngineError::Emptied(Box::new(cause))
}

pub(crate) fn corrupt(task: &str) -> EngineError {
    EngineError::Corrupt { task: task.into() }
}
