//! The thread against a kernel of our own, which answers as badly as it may.

use super::*;
use crate::device::Window;
use std::{fs, sync::mpsc::Receiver};
use tempfile::TempDir;

const BLOCK: usize = BLOCK_ALIGN as usize;
const HANG: Duration = Duration::from_secs(60);

/// What the kernel was asked for.
#[derive(Clone, Debug)]
struct Asked {
    key: Key,
    offset: u64,
    bytes: usize,
}

/// What a kernel does when it is waited for: it is told what it was asked for and not yet
/// answered, and gives answers.
type Script = Box<dyn FnMut(&mut Vec<Asked>) -> Result<Vec<(Key, i32)>, Lost> + Send>;

struct Fake {
    script: Script,
    asked: Vec<Asked>,
    answers: Vec<(Key, i32)>,
    bell: Arc<OwnedFd>,
    discard: Vec<u8>,
}

impl Kernel for Fake {
    fn discard(&mut self) -> Segment {
        Segment { start: self.discard.as_mut_ptr(), len: self.discard.len() }
    }

    fn read(&mut self, key: Key, flight: &Flight) -> Result<(), Lost> {
        let bytes = flight.rest().iter().map(|segment| segment.len).sum();
        self.asked.push(Asked { key, offset: flight.offset(), bytes });
        Ok(())
    }

    fn listen(&mut self, _: Key) -> Result<(), Lost> {
        Ok(())
    }

    fn wait(&mut self, at_most: Option<Duration>) -> Result<(), Lost> {
        self.answers = (self.script)(&mut self.asked)?;
        if self.answers.is_empty() && at_most.is_none() {
            rustix::io::read(&self.bell, &mut [0; 8]).unwrap();
            self.answers.push((BELL, 8));
        }
        Ok(())
    }

    fn answers(&mut self, into: &mut Vec<(Key, i32)>) {
        into.append(&mut self.answers);
    }
}

struct Rig {
    uring: Uring,
    done: Receiver<Completion>,
    file: Arc<BlockFile>,
    windows: Vec<Window>,
    _folder: TempDir,
}

impl Rig {
    fn new(script: Script) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blocks");
        fs::write(&path, vec![7; 64 * BLOCK]).unwrap();
        let (sender, done) = mpsc::channel();
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let kernel = Fake {
            script,
            asked: Vec::new(),
            answers: Vec::new(),
            bell: bell.clone(),
            discard: vec![0; BLOCK],
        };
        let sink = Arc::new(move |completion| drop(sender.send(completion)));
        let (shared, thread) = spawn(16, bell, sink, move |_| Some(kernel)).unwrap();
        let (_, windows) = Pool::of_slots(BLOCK_ALIGN, 64).unwrap();
        Self {
            uring: Uring { shared, thread: Some(thread) },
            done,
            file: Arc::new(BlockFile::open(&path).unwrap()),
            windows,
            _folder: folder,
        }
    }

    /// Submits a read of so many blocks from `first` on.
    fn submit(&mut self, first: u32, count: usize) {
        let windows = self.windows.split_off(self.windows.len() - count);
        let blocks = (first..).map(BlockIndex).zip(windows).collect();
        let read = Read::new(self.file.clone(), u64::from(first) * BLOCK_ALIGN, blocks);
        self.uring.submit(read).unwrap();
    }

    fn wait(&self) -> Completion {
        self.done.recv_timeout(HANG).expect("every read that is taken completes")
    }

    fn counters(&self) -> super::super::CounterValues {
        self.uring.counters().values()
    }
}

/// Answers all that was asked, with this for each.
fn each(
    mut answer: impl FnMut(&Asked) -> i32 + Send + 'static,
) -> impl FnMut(&mut Vec<Asked>) -> Result<Vec<(Key, i32)>, Lost> + Send {
    move |asked| Ok(asked.drain(..).map(|asked| (asked.key, answer(&asked))).collect())
}

fn errno(errno: Errno) -> i32 {
    -errno.raw_os_error()
}

#[test]
fn what_is_missing_of_a_short_read_is_asked_for_where_it_begins() {
    let (tell, told) = mpsc::channel();
    let mut rig = Rig::new(Box::new(each(move |asked| {
        tell.send((asked.offset as usize, asked.bytes)).unwrap();
        asked.bytes.min(BLOCK + 512) as i32
    })));
    rig.submit(2, 3);
    rig.wait().result.unwrap();
    let step = BLOCK + 512;
    let expected = [
        (2 * BLOCK, 3 * BLOCK),
        (2 * BLOCK + step, 3 * BLOCK - step),
        (4 * BLOCK + 1024, BLOCK - 1024),
    ];
    assert_eq!(told.try_iter().collect::<Vec<_>>(), expected);
    assert_eq!(rig.counters().short, 2);
}

#[test]
fn s1_an_interrupted_read_goes_on_and_one_that_fails_is_told() {
    let mut answers = [errno(Errno::INTR), errno(Errno::IO)].into_iter();
    let mut rig = Rig::new(Box::new(each(move |_| answers.next().unwrap())));
    rig.submit(0, 2);
    match rig.wait().result {
        Err(ReadError::Io { offset: 0, len, source }) => {
            assert_eq!((len, Errno::from_io_error(&source)), (2 * BLOCK_ALIGN, Some(Errno::IO)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.counters().failed, 1);
}

#[test]
fn s17_a_kernel_without_room_is_asked_again_but_not_for_ever() {
    let mut left = 3;
    let mut rig = Rig::new(Box::new(each(move |asked| {
        left -= 1;
        if left >= 0 { errno(Errno::AGAIN) } else { asked.bytes as i32 }
    })));
    rig.submit(0, 1);
    rig.wait().result.unwrap();
    assert_eq!(rig.counters().again, 3);

    let mut rig = Rig::new(Box::new(each(|_| errno(Errno::AGAIN))));
    rig.submit(0, 1);
    assert!(matches!(rig.wait().result, Err(ReadError::Io { .. })));
    assert_eq!(rig.counters().again, u64::from(flight::MAX_AGAIN));
}

#[test]
fn s17_when_the_ring_is_lost_blocks_are_read_all_the_same() {
    let (tell, lost) = mpsc::channel();
    let mut rig = Rig::new(Box::new(move |asked: &mut Vec<Asked>| match asked.len() {
        0 => Ok(Vec::new()),
        _ => {
            tell.send(()).unwrap();
            Err(Lost(Errno::BADFD.into()))
        }
    }));
    rig.submit(0, 1);
    lost.recv_timeout(HANG).unwrap();
    assert!(matches!(rig.wait(), Completion { result: Err(ReadError::Lost), .. }));
    for first in 1..9 {
        rig.submit(first, 2);
    }
    for _ in 1..9 {
        let Completion { read, result } = rig.wait();
        result.unwrap();
        assert!(read.offset > 0);
        assert!(read.blocks.iter().all(|(_, window)| window.bytes() == [7; BLOCK]));
    }
    drop(rig.uring);
    assert!(rig.done.try_recv().is_err(), "nothing else completes");
}

#[test]
fn s19_an_answer_to_the_first_part_that_comes_twice_is_not_one_to_the_rest() {
    let mut asks = 0;
    let mut rig = Rig::new(Box::new(move |asked: &mut Vec<Asked>| {
        let Some(Asked { key, bytes, .. }) = asked.pop() else { return Ok(Vec::new()) };
        asks += 1;
        Ok(match asks {
            // The first block of two; it is asked for the second under another name.
            1 => vec![(key, BLOCK as i32), (key, BLOCK as i32)],
            _ => vec![(key, bytes as i32)],
        })
    }));
    rig.submit(0, 2);
    rig.wait().result.unwrap();
    let counters = rig.counters();
    assert_eq!((counters.short, counters.stray, counters.reads), (1, 1, 1));
    assert!(rig.done.try_recv().is_err());
}

#[test]
fn s16_each_refusal_of_a_ring_names_its_likely_cause() {
    for (errno, cause) in [
        (Errno::PERM, "kernel.io_uring_disabled or a seccomp filter"),
        (Errno::NOSYS, "the kernel or a seccomp filter does not have it"),
        (Errno::NOMEM, "LimitMEMLOCK="),
        (Errno::MFILE, "open files"),
        (Errno::INVAL, "older than"),
    ] {
        let text = Unavailable::SetUp(errno.into()).to_string();
        assert!(text.contains(cause), "{text}");
    }
}

#[test]
fn what_no_kernel_says_is_an_error_and_no_panic() {
    let mut answers = [i32::MIN, -100_000].into_iter();
    let mut rig = Rig::new(Box::new(each(move |_| answers.next().unwrap())));
    for first in 0..2 {
        rig.submit(first, 1);
        assert!(matches!(rig.wait().result, Err(ReadError::Io { .. })));
    }
}

#[test]
fn s19_answers_in_any_order_twice_or_for_nobody_complete_each_read_once() {
    const READS: usize = 8;
    let mut held = Vec::new();
    let mut rig = Rig::new(Box::new(move |asked: &mut Vec<Asked>| {
        held.append(asked);
        if held.len() < READS {
            return Ok(Vec::new());
        }
        let mut answers: Vec<_> = held.drain(..).map(|a| (a.key, a.bytes as i32)).collect();
        answers.reverse();
        answers.extend(answers.clone());
        answers.insert(2, (Key(0), 4096));
        answers.insert(5, (Key(u64::MAX - 1), 4096));
        Ok(answers)
    }));
    (0..READS).for_each(|first| rig.submit(first as u32, 1));
    let mut offsets: Vec<_> = (0..READS).map(|_| rig.wait().read.offset).collect();
    assert!(offsets.is_sorted_by(|a, b| a > b), "as they were answered");
    offsets.dedup();
    assert_eq!(offsets.len(), READS);
    let counters = rig.uring.counters();
    drop(rig.uring);
    assert_eq!(counters.values().stray, READS as u64 + 2);
    assert!(rig.done.try_recv().is_err(), "none completes twice");
}
