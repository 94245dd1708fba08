//! S14: a daemon without descriptors.

use crate::common::{
    calls::{assert_serves, bundle, runtime, switch},
    daemon::Daemon,
    seqpacket,
};
use rustix::process::{Pid, Resource, prlimit};
use std::{collections::BTreeSet, fs, os::unix::net::UnixStream, thread, time::Duration};
use synchromesh::{
    client::{AttachError, Attachment},
    storage::Backend,
    units::TaskIndex,
    wire::{Hello, Welcome, WireError},
};

/// What an attaching client costs: its connection, copies of pool, table and bundle, its cell and a
/// copy of that, and both ends of its doorbell.
const OF_A_CLIENT: usize = 8;

fn daemon(backend: Backend, bundle: &str) -> Daemon {
    let backend = if backend == Backend::Preadv { "preadv" } else { "auto" };
    Daemon::with_config(|_| {
        format!(
            "storage: {{backend: {backend}}}\n\
             models: [{{bundle: {bundle}, pool_bytes: 1MiB}}]\n"
        )
    })
}

fn descriptors(daemon: &Daemon) -> BTreeSet<u64> {
    let all = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    all.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// Lets the daemon open no descriptor of this number or a higher one; tells what was its limit.
fn limit(daemon: &Daemon, number: Option<u64>) -> Option<u64> {
    let pid = Pid::from_raw(daemon.pid() as i32);
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = number;
    prlimit(pid, Resource::Nofile, limit).unwrap().current
}

fn s14_without_descriptors_switching_goes_on_and_newcomers_wait(backend: Backend) {
    let (folder, fixture, bundle) = bundle();
    let path = folder.path().join("small.mesh").display().to_string();
    let mut daemon = daemon(backend, &path);
    let mut attached = Attachment::connect(&daemon.attach(), "", "").unwrap();
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        client.switch_task(switch("city")).await.unwrap();
        let before = limit(&daemon, Some(0));
        let newcomer = seqpacket::connect(&daemon.attach());
        Hello::default().send(&newcomer).unwrap();
        let stranger = UnixStream::connect(daemon.control()).unwrap();
        assert!(daemon.wait_for("an attaching client was not accepted"), "{:?}", daemon.log());
        assert!(daemon.wait_for("a connection was not accepted"), "{:?}", daemon.log());
        for name in ["highway", "parking", "city", "parking"] {
            client.switch_task(switch(name)).await.unwrap();
            let lease = attached.lease().unwrap();
            let task = bundle.find_task(name).unwrap();
            assert_eq!(lease.task(), task);
            for (position, tensor) in bundle.tensors().iter().enumerate() {
                let expected = fixture.expected_dense(task, position);
                assert_eq!(lease.sparse(tensor).to_dense().unwrap(), expected);
            }
        }
        limit(&daemon, before);
        Welcome::receive(&newcomer).expect("its turn comes");
        drop(stranger);
        client.switch_task(switch("city")).await.unwrap();
        daemon.connect().await.switch_task(switch("city")).await.unwrap();
    });
    assert_serves(&daemon, &fixture, TaskIndex(0));
}

fn s14_a_client_for_whom_there_are_too_few_descriptors_is_refused_and_costs_none(backend: Backend) {
    let (folder, fixture, bundle) = bundle();
    let path = folder.path().join("small.mesh").display().to_string();
    let daemon = daemon(backend, &path);
    let before = descriptors(&daemon);
    let settles = || {
        (0..10_000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            descriptors(&daemon) == before
        })
    };
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    assert!(settles(), "{:?}", descriptors(&daemon));
    for left in 1..=OF_A_CLIENT {
        let next = (0..).filter(|number| !before.contains(number)).nth(left).unwrap();
        let unlimited = limit(&daemon, Some(next));
        let attached = Attachment::connect(&daemon.attach(), "", "");
        limit(&daemon, unlimited);
        match attached {
            Ok(attached) => {
                assert_eq!(left, OF_A_CLIENT);
                drop(attached);
            }
            Err(AttachError::Wire(WireError::Refused { text: why, .. })) => {
                assert!(left < OF_A_CLIENT && why.contains("out of descriptors"), "{why}");
            }
            Err(other) => panic!("{other}"),
        }
        assert!(settles(), "with {left} left: {:?}", descriptors(&daemon));
        assert_serves(&daemon, &fixture, TaskIndex(0));
        assert!(settles(), "{:?}", descriptors(&daemon));
    }
    drop(bundle);
}

on_both_backends! {
    s14_without_descriptors_switching_goes_on_and_newcomers_wait,
    s14_a_client_for_whom_there_are_too_few_descriptors_is_refused_and_costs_none,
}
