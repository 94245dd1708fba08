//! The lease protocol in the orders of steps that the memory model allows, by the crate `loom`: the
//! functions that daemon and clients run, over words whose loads may be as stale as can be. With one
//! client it is every order; with two, those with few interruptions.
//!
//! Slots are cells that must not be written while they are read, so a race is a failure by itself;
//! besides, each client checks that it reads what its lease names. Models that are wrong, and must
//! fail, show that the check can. Names begin with the fault that they are about. (M10, a slot that is
//! reused while its read is under way, has no model here: the right to write is a value that the read
//! owns, so there is nothing to race. `tests/engine.rs` has its tests.)

use loom::{
    cell::UnsafeCell,
    model::Builder,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    thread,
};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use synchromesh::{
    device::{
        Active, ActiveTask,
        lease::{Word, acquire, is_leased, publish, release},
    },
    units::{Generation, TaskIndex},
};

/// How often a thread that could go on is stopped, in one execution, if there are several clients.
/// (A thread that waits, or that starts or ends, does not count.)
const PREEMPTIONS: usize = 3;
/// How often the daemon looks whether a lease has ended, before it leaves the slot alone.
const LOOKS: usize = 2;

/// A shared word. A fence of it may be one that does nothing.
struct Shared<const FENCED: bool>(AtomicU64);

impl<const FENCED: bool> Word for Shared<FENCED> {
    fn load(&self, ordering: Ordering) -> u64 {
        self.0.load(ordering)
    }

    fn store(&self, value: u64, ordering: Ordering) {
        self.0.store(value, ordering);
    }

    fn fence(ordering: Ordering) {
        if FENCED {
            fence(ordering);
        }
    }
}

/// A slot of the pool. A task has one block, whose content is the task's number.
struct Slot {
    /// Stands for the slot's bytes: loom tells accesses that nothing orders.
    bytes: UnsafeCell<()>,
    /// Not seen by loom: threads take turns, so this is what was written last.
    content: AtomicU32,
}

impl Slot {
    fn write(&self, task: TaskIndex) {
        self.bytes.with_mut(|_| self.content.store(task.0, Relaxed));
    }

    fn assert_holds(&self, task: TaskIndex) {
        self.bytes.with(|_| assert_eq!(self.content.load(Relaxed), task.0, "what the lease names"));
    }
}

/// What daemon and clients share.
struct Memory<const FENCED: bool> {
    session: Shared<FENCED>,
    epochs: [Shared<FENCED>; 2],
    /// That a client's connection has ended. The kernel tells it after all that the client did.
    ended: [AtomicBool; 2],
    slots: [Slot; 2],
}

/// What a client does, given its number.
type Client<const FENCED: bool> = fn(&Memory<FENCED>, usize);
const READER: Client<true> = Memory::compute_and_release;
const UNFENCED_READER: Client<false> = Memory::compute_and_release;
const MORTAL: Client<true> = Memory::compute_and_die;

const FIRST: TaskIndex = TaskIndex(0);

impl<const FENCED: bool> Memory<FENCED> {
    /// The first task is active, in the first slot.
    fn new() -> Self {
        let word = || Shared(AtomicU64::new(0));
        let slot = |content| Slot { bytes: UnsafeCell::new(()), content: AtomicU32::new(content) };
        let memory = Self {
            session: word(),
            epochs: [word(), word()],
            ended: [AtomicBool::new(false), AtomicBool::new(false)],
            slots: [slot(0), slot(99)],
        };
        memory.publish(1, Some(FIRST));
        memory
    }

    fn publish(&self, generation: u64, task: Option<TaskIndex>) {
        publish(&self.session, Active { generation: Generation(generation), task });
    }

    /// Tasks take turns in the slots.
    fn slot(&self, task: TaskIndex) -> &Slot {
        &self.slots[task.index() % 2]
    }

    /// Whether a client that is still there holds a generation.
    fn is_leased(&self, generation: u64) -> bool {
        let clients = self.epochs.iter().zip(&self.ended);
        let there = clients.filter(|(_, ended)| !ended.load(Ordering::Acquire));
        is_leased(there.map(|(epoch, _)| epoch), Generation(generation))
    }

    /// Whether a lease on a generation ends while the daemon looks.
    fn ends(&self, generation: u64) -> bool {
        (0..LOOKS).any(|_| {
            let ends = !self.is_leased(generation);
            thread::yield_now();
            ends
        })
    }

    /// A client takes a lease and computes.
    fn compute(&self, client: usize) -> Option<ActiveTask> {
        let leased = acquire(&self.session, &self.epochs[client])?;
        self.slot(leased.task).assert_holds(leased.task);
        Some(leased)
    }

    fn compute_and_release(&self, client: usize) {
        self.compute(client);
        release(&self.epochs[client]);
    }

    fn compute_and_die(&self, client: usize) {
        self.compute(client);
        self.ended[client].store(true, Ordering::Release);
    }
}

/// Runs a daemon and clients in every order, and tells in how many.
#[allow(clippy::print_stdout, reason = "how much was looked at: cargo test -- --nocapture")]
fn explore<const FENCED: bool>(
    name: &str,
    daemon: fn(&Memory<FENCED>),
    clients: &'static [Client<FENCED>],
) {
    let executions = std::sync::Arc::new(AtomicUsize::new(0));
    let count = executions.clone();
    let mut builder = Builder::new();
    builder.preemption_bound = (clients.len() > 1).then_some(PREEMPTIONS);
    builder.check(move || {
        count.fetch_add(1, Relaxed);
        let memory = Arc::new(Memory::new());
        let threads: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(number, client)| {
                let memory = memory.clone();
                thread::spawn(move || client(&memory, number))
            })
            .collect();
        daemon(&memory);
        threads.into_iter().for_each(|thread| drop(thread.join()));
    });
    println!("{name}: {} executions", executions.load(Relaxed));
}

/// Switches to the second task, and to the third in the slot of the first, once nobody reads that.
fn switches<const FENCED: bool>(memory: &Memory<FENCED>) {
    let [second, third] = [1, 2].map(TaskIndex);
    memory.slot(second).write(second);
    memory.publish(2, Some(second));
    if memory.ends(1) {
        memory.slot(third).write(third);
        memory.publish(3, Some(third));
    }
}

/// The session gives up its task, and has the third one in the same slot, once nobody reads that.
fn switches_in_place(memory: &Memory<true>) {
    let third = TaskIndex(2);
    memory.publish(2, None);
    if memory.ends(1) {
        memory.slot(third).write(third);
        memory.publish(3, Some(third));
    }
}

fn reuses_without_a_look(memory: &Memory<true>) {
    let third = TaskIndex(2);
    memory.publish(2, None);
    memory.slot(third).write(third);
}

fn looks_before_it_publishes(memory: &Memory<true>) {
    let third = TaskIndex(2);
    if memory.ends(1) {
        memory.publish(2, None);
        memory.slot(third).write(third);
    }
}

#[test]
fn m12_no_slot_is_reused_under_two_leases() {
    explore("switches", switches::<true>, &[READER, READER]);
}

#[test]
fn m12_no_slot_is_reused_under_a_lease_in_any_order() {
    explore("switches, one client", switches::<true>, &[READER]);
    explore("a death, one client", switches::<true>, &[MORTAL]);
    explore("in place, one client", switches_in_place, &[READER]);
}

#[test]
fn m12_a_client_that_dies_in_the_middle_of_a_lease_ends_it_for_good() {
    explore("a death", switches::<true>, &[MORTAL, READER]);
}

#[test]
fn m12_a_session_in_place_waits_for_leases_on_what_it_gave_up() {
    explore("in place", switches_in_place, &[READER, READER]);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn m12_without_the_fences_the_check_fails() {
    explore("no fence", switches::<false>, &[UNFENCED_READER]);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn m12_a_daemon_that_does_not_look_fails_the_check() {
    explore("no look", reuses_without_a_look, &[READER]);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn m12_a_daemon_that_looks_too_early_fails_the_check() {
    explore("an early look", looks_before_it_publishes, &[READER]);
}
