//! Clients have the daemon's memory, not copies of it: what ten of them add does not depend on the
//! size of the model. The clients are this program, run again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]
#![allow(clippy::print_stdout, reason = "the figures are worth a look: cargo test -- --nocapture")]

mod common;

use common::{
    Fixture,
    calls::{runtime, switch, whole},
    daemon::Daemon,
};
use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};
use synchromesh::client::Attachment;

/// Names the attach socket for the clients.
const CHILD: &str = "SYNCHROMESH_TEST_ATTACH";
const CLIENTS: usize = 10;
/// What a client may add.
const MOST_KIB: u64 = 10 << 10;

/// Memory of a process in KiB: what is its own, and all that it has mapped and touched.
#[derive(Clone, Copy)]
struct Memory {
    own: u64,
    resident: u64,
}

impl Memory {
    fn of_this_process() -> Self {
        let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let field = |name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let own = field("Private_Clean:") + field("Private_Dirty:");
        Self { own, resident: field("Rss:") }
    }
}

#[test]
fn ten_clients_add_less_than_ten_mebibytes_each_whatever_the_size_of_the_model() {
    for blocks in [2_000, 20_000] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wide.mesh");
        let bundle = Fixture::wide(blocks).write(&path);
        let daemon = Daemon::start(&path, whole(&bundle));
        runtime().block_on(async {
            daemon.connect().await.switch_task(switch("city")).await.unwrap();
        });
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| start(&daemon)).collect();
        for client in &mut clients {
            let [own, resident, read] = grown(client);
            println!("{blocks} blocks: {own} KiB of its own, {resident} KiB resident, {read} read");
            assert!(read > u64::from(blocks) * 13 / 20 * 4096, "it reads the whole task");
            assert!(resident * 1024 > read, "all that it reads is mapped: {resident} KiB");
            assert!(own < MOST_KIB, "a client adds {own} KiB of its own");
        }
    }
}

/// A client, which is attached until its input ends.
fn start(daemon: &Daemon) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "a_client_that_reads_everything", "--ignored", "--nocapture"]);
    command.env(CHILD, daemon.attach()).stdin(Stdio::piped()).stdout(Stdio::piped());
    // Once it has told, nobody reads what else the harness says.
    command.stderr(Stdio::null());
    command.spawn().unwrap()
}

/// What a client's memory has grown by, and the bytes that it has read.
fn grown(client: &mut Child) -> [u64; 3] {
    let out = client.stdout.as_mut().unwrap();
    let mut lines = BufReader::new(out).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("grown ")).expect("it tells");
    let (_, figures) = line.split_once("grown ").unwrap();
    let figures: Vec<_> = figures.split(' ').map(|figure| figure.parse().unwrap()).collect();
    figures.try_into().unwrap()
}

/// The client of the test above.
#[test]
#[ignore = "a client of another test, in a process of its own"]
fn a_client_that_reads_everything() {
    let attach = env::var_os(CHILD).expect("the test that starts it says where to attach");
    let before = Memory::of_this_process();
    let mut attached = Attachment::connect(Path::new(&attach), "", "").unwrap();
    let lease = attached.lease().unwrap();
    let mut read = 0;
    let mut sum = 0_u64;
    let mut look = |bytes: &[u8]| {
        read += bytes.len();
        sum = bytes.iter().fold(sum, |sum, &byte| sum + u64::from(byte));
    };
    for tensor in lease.bundle().tensors() {
        lease.sparse(tensor).blocks().for_each(|block| look(block.unwrap().bytes));
    }
    lease.bundle().base().tensors.iter().for_each(|tensor| look(lease.base(tensor).bytes()));
    assert!(std::hint::black_box(sum) > 0);
    let after = Memory::of_this_process();
    // Pages of the program itself become shared when another client starts.
    let own = after.own.saturating_sub(before.own);
    let resident = after.resident.saturating_sub(before.resident);
    let mut out = std::io::stdout();
    writeln!(out, "grown {own} {resident} {read}").unwrap();
    out.flush().unwrap();
    // All are attached at once: until the parent ends or closes the pipe.
    let _ = std::io::stdin().read(&mut [0]);
}
