//! What every storage backend must do. A new backend gets the whole suite by one line at the end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::Write as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, TryRecvError},
    },
    time::Duration,
};
use synchromesh::{
    config::StorageConfig,
    device::{MemoryError, Pool, PoolLayout, Window},
    storage::{
        Backend, BlockFile, Completion, Preadv, Priority, Read, ReadError, Resources, Sink,
        Started, Storage, Uring, start,
    },
    units::{BLOCK_ALIGN, BlockIndex, SlotId},
};
use tempfile::TempDir;

/// Starts a backend that takes this many reads at a time.
type Make = fn(usize, Sink) -> Box<dyn Storage>;

const BLOCK: usize = BLOCK_ALIGN as usize;
/// How long a completion may be missing before the test gives up. It measures nothing.
const HANG: Duration = Duration::from_secs(120);

/// A running backend and what it completes.
struct Rig {
    storage: Box<dyn Storage>,
    done: Receiver<Completion>,
}

impl Rig {
    fn start(make: Make, capacity: usize) -> Self {
        let (sender, done) = mpsc::channel();
        let sink = move |completion| drop(sender.send(completion));
        Self { storage: make(capacity, Arc::new(sink)), done }
    }

    fn submit(&self, read: Read) {
        self.storage.submit(read).expect("there is room for the read");
    }

    fn wait(&self) -> Completion {
        self.done.recv_timeout(HANG).expect("every read that is taken completes")
    }

    /// Carries out one read, which must succeed.
    fn read(&self, read: Read) -> Read {
        self.submit(read);
        let Completion { read, result } = self.wait();
        result.unwrap();
        read
    }
}

/// A file each of whose 8-byte words is a different number.
struct Source {
    folder: TempDir,
    file: Arc<BlockFile>,
    salt: u64,
}

impl Source {
    /// On a disk, if the build folder is on one.
    fn new(blocks: u64) -> Self {
        Self::in_folder(Path::new(env!("CARGO_TARGET_TMPDIR")), blocks * BLOCK_ALIGN, 0)
    }

    fn in_folder(parent: &Path, bytes: u64, salt: u64) -> Self {
        let folder = tempfile::tempdir_in(parent).unwrap();
        let path = folder.path().join("blocks");
        let mut content: Vec<u8> =
            (0..bytes.div_ceil(8)).flat_map(|at| word(salt, at * 8).to_le_bytes()).collect();
        content.truncate(bytes as usize);
        let mut file = File::create(&path).unwrap();
        file.write_all(&content).unwrap();
        // So that the whole file is on the disk when it is read past the page cache.
        file.sync_all().unwrap();
        Self { file: Arc::new(BlockFile::open(&path).unwrap()), folder, salt }
    }

    /// A read of the blocks from `first` into these windows.
    fn read(&self, first: u32, windows: impl IntoIterator<Item = Window>) -> Read {
        let blocks = (first..).map(BlockIndex).zip(windows).collect();
        let offset = u64::from(first) * BLOCK_ALIGN;
        Read { model: 3, attempt: 1, ..Read::new(self.file.clone(), offset, blocks) }
    }

    /// Whether a window holds the block.
    fn is_in(&self, block: BlockIndex, window: &Window) -> bool {
        let start = u64::from(block.0) * BLOCK_ALIGN;
        let words = (start..).step_by(8).zip(window.bytes().chunks_exact(8));
        words.into_iter().all(|(at, bytes)| bytes == word(self.salt, at).to_le_bytes())
    }

    fn assert_filled(&self, read: &Read) {
        assert!((read.model, read.attempt) == (3, 1), "{read:?} came back changed");
        let first = u32::try_from(read.offset / BLOCK_ALIGN).unwrap();
        for (expected, (block, window)) in (first..).map(BlockIndex).zip(&read.blocks) {
            assert_eq!(*block, expected, "the order is kept");
            assert!(self.is_in(*block, window), "block {block} in slot {}", window.slot().0);
        }
    }
}

/// The word at an offset: an odd factor makes different offsets differ.
fn word(salt: u64, offset: u64) -> u64 {
    (offset + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt
}

/// The windows of a pool; the pool itself is gone, which must not matter to them.
fn windows(slots: u32) -> Vec<Window> {
    Pool::of_slots(BLOCK_ALIGN, slots).unwrap().1
}

fn slots(read: &Read) -> Vec<SlotId> {
    read.blocks.iter().map(|(_, window)| window.slot()).collect()
}

fn a_window_gets_its_block(make: Make) {
    let (rig, source) = (Rig::start(make, 8), Source::new(5));
    let mut window = windows(1);
    for block in [0, 4, 2] {
        let read = rig.read(source.read(block, window));
        source.assert_filled(&read);
        window = read.blocks.into_iter().map(|(_, window)| window).collect();
    }
}

fn scattered_windows_are_filled_in_order_and_no_others(make: Make) {
    let (rig, source) = (Rig::start(make, 8), Source::new(40));
    let mut windows = windows(40);
    windows.iter_mut().for_each(|window| window.bytes_mut().fill(0xa5));
    let mut random = fastrand::Rng::with_seed(1);
    random.shuffle(&mut windows);
    let untouched = windows.split_off(20);
    let order: Vec<_> = windows.iter().map(Window::slot).collect();
    let read = rig.read(source.read(13, windows));
    source.assert_filled(&read);
    assert_eq!(slots(&read), order);
    assert!(untouched.iter().all(|window| window.bytes() == [0xa5; BLOCK]));
}

fn a_read_may_have_more_blocks_than_the_kernel_takes_buffers(make: Make) {
    let (rig, source) = (Rig::start(make, 1), Source::new(2600));
    for count in [1023, 1024, 1025, 2049, 2600] {
        let mut windows = windows(count);
        windows.reverse();
        let read = rig.read(source.read(2600 - count, windows));
        assert_eq!(read.len(), u64::from(count) * BLOCK_ALIGN);
        source.assert_filled(&read);
    }
}

fn gaps_are_read_through_and_written_nowhere(make: Make) {
    let (rig, source) = (Rig::start(make, 2), Source::new(700));
    // The longest gap is larger than what a backend sets aside for what it drops.
    for wanted in [&[3, 4, 7, 12, 13][..], &[0, 2, 4, 6, 8, 10], &[1, 600, 602]] {
        let mut windows = windows(16);
        windows.iter_mut().for_each(|window| window.bytes_mut().fill(0xa5));
        let untouched = windows.split_off(wanted.len());
        let mut read = source.read(wanted[0], windows);
        for ((block, _), &wanted) in read.blocks.iter_mut().zip(wanted) {
            *block = BlockIndex(wanted);
        }
        assert_eq!(read.len(), u64::from(wanted[wanted.len() - 1] - wanted[0] + 1) * BLOCK_ALIGN);
        let read = rig.read(read);
        for (block, window) in &read.blocks {
            assert!(source.is_in(*block, window), "block {block} of {wanted:?}");
        }
        assert!(untouched.iter().all(|window| window.bytes() == [0xa5; BLOCK]));
    }
}

/// S11: what is read ahead gives way, however much of it waits.
fn s11_demand_overtakes_what_is_read_ahead(make: Make) {
    const AHEAD: usize = 40;
    const DEMAND: usize = 8;
    // When the last of the reads on demand has begun, all threads but one may have one that has not
    // ended, and the system may let them wait for long.
    const BEGUN: usize = 3;
    let (gate, (sender, done)) = (Arc::new(Mutex::new(())), mpsc::channel());
    let at_gate = gate.clone();
    let sink = move |completion| {
        let _open = at_gate.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = sender.send(completion);
    };
    let rig = Rig { storage: make(AHEAD + DEMAND, Arc::new(sink)), done };
    let source = Source::new(64);
    let mut free = windows((AHEAD + DEMAND) as u32);
    let closed = gate.lock().unwrap();
    for number in 0..AHEAD + DEMAND {
        let priority = if number < AHEAD { Priority::Ahead } else { Priority::Demand };
        rig.submit(Read { priority, ..source.read(number as u32, free.pop()) });
    }
    drop(closed);
    let completed: Vec<_> = (0..AHEAD + DEMAND).map(|_| rig.wait().read).collect();
    completed.iter().for_each(|read| source.assert_filled(read));
    let demand = completed.iter().enumerate().filter(|(_, r)| r.priority == Priority::Demand);
    let (last, _) = demand.take(DEMAND - BEGUN).last().unwrap();
    // Up to four threads stood at the gate, each with one read done.
    assert!(last < DEMAND + 6, "{last} reads before those on demand");
}

fn a_read_of_nothing_completes(make: Make) {
    let (rig, source) = (Rig::start(make, 1), Source::new(1));
    assert!(rig.read(source.read(0, [])).is_empty());
}

fn reads_at_once_each_complete_exactly_once(make: Make) {
    const READS: usize = 300;
    let rig = Rig::start(make, READS);
    let here = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let files = [7, 8].map(|salt| Source::in_folder(here, 64 * BLOCK_ALIGN, salt));
    let mut random = fastrand::Rng::with_seed(2);
    let mut free = windows(READS as u32 * 8);
    random.shuffle(&mut free);
    let mut expected = HashMap::new();
    for number in 0..READS {
        let first = random.u32(0..56);
        let windows = free.split_off(free.len() - random.usize(1..=8));
        let read = files[number % 2].read(first, windows);
        expected.insert(slots(&read), (number % 2, read.offset));
        rig.submit(read);
    }
    for _ in 0..READS {
        let Completion { read, result } = rig.wait();
        result.unwrap();
        let (file, offset) = expected.remove(&slots(&read)).expect("completed once");
        assert_eq!(read.offset, offset);
        files[file].assert_filled(&read);
    }
    drop(rig.storage);
    assert_eq!(rig.done.try_iter().count(), 0);
}

fn past_the_end_of_the_file_is_told_and_the_windows_come_back(make: Make) {
    let rig = Rig::start(make, 4);
    let here = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let block = BLOCK_ALIGN;
    // Size of the file, first block, blocks, and the first byte that is missing.
    for (bytes, first, count, expected) in [
        (3 * block, 2, 4, 3 * block),
        (3 * block, 3, 1, 3 * block),
        (3 * block, 7, 2, 7 * block),
        (2 * block + 512, 1, 2, 2 * block + 512),
        (2 * block + 24, 1, 4, 2 * block + 24),
        (2 * block + 4095, 2, 1, 2 * block + 4095),
        (0, 0, 1, 0),
        (1500 * block + 1, 0, 1600, 1500 * block + 1),
    ] {
        let source = Source::in_folder(here, bytes, 0);
        rig.submit(source.read(first, windows(count)));
        let Completion { read, result } = rig.wait();
        match result {
            Err(ReadError::Eof { end }) => assert_eq!(end, expected, "of {bytes} bytes"),
            other => panic!("{other:?} for blocks {first} + {count} of {bytes} bytes"),
        }
        assert_eq!(slots(&read), (0..count).map(SlotId).collect::<Vec<_>>());
        // What comes back is good for another read.
        let again = Source::new(u64::from(count));
        let windows = read.blocks.into_iter().map(|(_, window)| window);
        again.assert_filled(&rig.read(again.read(0, windows)));
    }
}

fn a_read_that_the_kernel_refuses_is_told_and_the_windows_come_back(make: Make) {
    let (rig, source) = (Rig::start(make, 4), Source::new(1));
    let folder = Arc::new(BlockFile::open(source.folder.path()).unwrap());
    rig.submit(Read { file: folder, ..source.read(5, windows(2)) });
    let Completion { read, result } = rig.wait();
    match result {
        Err(ReadError::Io { offset, len, .. }) => {
            assert_eq!((offset, len), (5 * BLOCK_ALIGN, 2 * BLOCK_ALIGN));
        }
        other => panic!("{other:?} of a folder"),
    }
    assert_eq!(slots(&read), [SlotId(0), SlotId(1)]);
}

fn a_full_queue_hands_the_read_back_intact_and_has_room_again(make: Make) {
    const CAPACITY: usize = 6;
    let (gate, (sender, done)) = (Arc::new(Mutex::new(())), mpsc::channel());
    let at_gate = gate.clone();
    let sink = move |completion| {
        let _open = at_gate.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = sender.send(completion);
    };
    let rig = Rig { storage: make(CAPACITY, Arc::new(sink)), done };
    let source = Source::new(2);
    let mut free = windows(200);
    let mut next = || source.read(1, free.pop());

    let closed = gate.lock().unwrap();
    let mut taken = 0;
    let refused = loop {
        let read = next();
        let slot = slots(&read);
        match rig.storage.submit(read) {
            Ok(()) => taken += 1,
            Err(read) => {
                assert_eq!(slots(&read), slot);
                assert_eq!((read.model, read.attempt, read.offset), (3, 1, BLOCK_ALIGN));
                assert_eq!(read.blocks[0].0, BlockIndex(1));
                break read;
            }
        }
    };
    // A read may be done, and its place free, before the sink has taken it.
    assert!((CAPACITY..100).contains(&taken), "{taken} reads taken");
    drop(closed);
    let slots: HashSet<_> = (0..taken).map(|_| slots(&rig.wait().read)).collect();
    assert_eq!(slots.len(), taken, "each once");
    source.assert_filled(&rig.read(refused));
    // Over and over: no place in the queue is lost.
    for _ in 0..5 {
        (0..CAPACITY).for_each(|_| rig.submit(next()));
        (0..CAPACITY).for_each(|_| rig.wait().result.unwrap());
    }
}

fn dropped_at_any_moment_it_stops_and_lets_go_of_everything(make: Make) {
    let source = Source::new(256);
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..60 {
        let rig = Rig::start(make, 64);
        let count = random.u32(0..=40);
        let mut free = windows(count * 8);
        for _ in 0..count {
            rig.submit(source.read(random.u32(0..248), free.split_off(free.len() - 8)));
        }
        // Let some complete in some rounds.
        let waited = if round % 3 == 0 { random.u32(0..=count) } else { 0 };
        let mut seen: HashSet<_> = HashSet::new();
        for _ in 0..waited {
            let Completion { read, result } = rig.wait();
            result.unwrap();
            source.assert_filled(&read);
            assert!(seen.insert(slots(&read)), "completed twice");
        }
        drop(rig.storage);
        loop {
            match rig.done.try_recv() {
                Ok(Completion { read, result }) => {
                    result.unwrap();
                    source.assert_filled(&read);
                    assert!(seen.insert(slots(&read)), "completed twice");
                }
                // The sink is gone: nothing is left that could complete or write.
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => panic!("the sink outlives its backend"),
            }
        }
        assert!(seen.len() <= count as usize);
        assert_eq!(Arc::strong_count(&source.file), 1, "no read is held back");
    }
}

fn a_backend_that_had_nothing_to_do_ends(make: Make) {
    for _ in 0..50 {
        drop(Rig::start(make, 1));
    }
}

/// File systems known to read past the page cache when asked: ext2 to 4, XFS, Btrfs.
fn is_ordinary_disk(folder: &Path) -> bool {
    let kind = rustix::fs::statfs(folder).unwrap().f_type as u64;
    [0xef53, 0x5846_5342, 0x9123_683e].contains(&kind)
}

/// Bytes that this process has made the kernel fetch from disks; other tests may add to it.
fn fetched() -> u64 {
    let counters = fs::read_to_string("/proc/self/io").unwrap();
    let line = counters.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    line.unwrap().parse().unwrap()
}

fn a_file_on_a_disk_is_read_past_the_page_cache(make: Make) {
    const BLOCKS: u32 = 1024;
    let (rig, source) = (Rig::start(make, 4), Source::new(u64::from(BLOCKS)));
    if !is_ordinary_disk(source.folder.path()) {
        return;
    }
    assert!(source.file.direct());
    // Now the page cache has it all, so only direct reads go to the disk.
    fs::read(source.folder.path().join("blocks")).unwrap();
    let before = fetched();
    source.assert_filled(&rig.read(source.read(0, windows(BLOCKS))));
    assert!(fetched() - before >= u64::from(BLOCKS) * BLOCK_ALIGN);
}

fn a_file_in_memory_is_read_and_not_called_direct(make: Make) {
    let source = Source::in_folder(Path::new("/dev/shm"), 9 * BLOCK_ALIGN, 5);
    assert!(!source.file.direct(), "a file system in memory has nothing to read past");
    let rig = Rig::start(make, 4);
    source.assert_filled(&rig.read(source.read(2, windows(6))));
    rig.submit(source.read(8, windows(2)));
    let end = 9 * BLOCK_ALIGN;
    assert!(matches!(rig.wait().result, Err(ReadError::Eof { end: e }) if e == end));
}

fn preadv(capacity: usize, sink: Sink) -> Box<dyn Storage> {
    Box::new(Preadv::start(4, capacity, sink).unwrap())
}

fn preadv_on_one_thread(capacity: usize, sink: Sink) -> Box<dyn Storage> {
    Box::new(Preadv::start(1, capacity, sink).unwrap())
}

macro_rules! conformance {
    ($($backend:ident),*) => {
        $(conformance!(@$backend:
            a_window_gets_its_block,
            scattered_windows_are_filled_in_order_and_no_others,
            a_read_may_have_more_blocks_than_the_kernel_takes_buffers,
            gaps_are_read_through_and_written_nowhere,
            s11_demand_overtakes_what_is_read_ahead,
            a_read_of_nothing_completes,
            reads_at_once_each_complete_exactly_once,
            past_the_end_of_the_file_is_told_and_the_windows_come_back,
            a_read_that_the_kernel_refuses_is_told_and_the_windows_come_back,
            a_full_queue_hands_the_read_back_intact_and_has_room_again,
            dropped_at_any_moment_it_stops_and_lets_go_of_everything,
            a_backend_that_had_nothing_to_do_ends,
            a_file_on_a_disk_is_read_past_the_page_cache,
            a_file_in_memory_is_read_and_not_called_direct,
        );)*
    };
    (@$backend:ident: $($case:ident,)*) => {
        mod $backend {
            $(#[test]
            fn $case() {
                super::$case(super::$backend);
            })*
        }
    };
}

/// A ring that knows neither files nor memory beforehand.
fn uring(capacity: usize, sink: Sink) -> Box<dyn Storage> {
    if common::io_uring_is_refused() {
        return preadv(capacity, sink);
    }
    Box::new(Uring::start(capacity, Resources::default(), sink).unwrap().0)
}

conformance!(preadv, preadv_on_one_thread, uring);

#[test]
fn registered_files_and_memory_are_read_from_and_into_all_the_same() {
    if common::io_uring_is_refused() {
        return;
    }
    let sources = [1, 2].map(|salt| {
        Source::in_folder(Path::new(env!("CARGO_TARGET_TMPDIR")), 300 * BLOCK_ALIGN, salt)
    });
    let layout = PoolLayout::new(5000, BLOCK_ALIGN, 256).unwrap();
    let (pool, mut windows) = Pool::create::<MemoryError>(layout, false, |_| Ok(())).unwrap();
    let (sender, done) = mpsc::channel();
    let sink = Arc::new(move |completion| drop(sender.send(completion)));
    let files = sources.iter().map(|source| source.file.clone()).collect();
    let resources = Resources { files, pools: vec![pool] };
    let (uring, unregistered) = Uring::start(8, resources, sink).unwrap();
    assert!(unregistered.is_none(), "{unregistered:?}");
    let rig = Rig { storage: Box::new(uring), done };
    let mut random = fastrand::Rng::with_seed(4);
    for round in 0..40 {
        // In a row, so that the kernel's own account of the memory is used; then apart.
        windows.sort_by_key(Window::slot);
        if round % 2 == 1 {
            random.shuffle(&mut windows);
        }
        let taken = windows.split_off(random.usize(0..250));
        let source = &sources[round % 3 % 2];
        let read = rig.read(source.read(random.u32(0..40), taken));
        source.assert_filled(&read);
        windows.extend(read.blocks.into_iter().map(|(_, window)| window));
    }
    assert_eq!(rig.storage.counters().values().failed, 0);
}

#[test]
fn s16_where_io_uring_cannot_be_used_blocking_calls_serve_and_say_why() {
    // A file that cannot be read makes the first read fail.
    let source = Source::new(4);
    let folder = Arc::new(BlockFile::open(source.folder.path()).unwrap());
    let (sender, done) = mpsc::channel();
    let sink = Arc::new(move |completion| drop(sender.send(completion)));
    let resources = Resources { files: vec![folder], pools: Vec::new() };
    let settings = StorageConfig { read_threads: 2, reads_in_flight: 4, ..Default::default() };
    let Started { storage, fallback, unregistered: _ } = start(&settings, resources, sink).unwrap();
    assert_eq!(storage.backend(), Backend::Preadv);
    let reason = fallback.expect("a reason");
    let refused = common::io_uring_is_refused();
    assert!(refused || reason.starts_with("a first read through io_uring failed: "), "{reason}");
    let rig = Rig { storage, done };
    source.assert_filled(&rig.read(source.read(0, windows(3))));
}
