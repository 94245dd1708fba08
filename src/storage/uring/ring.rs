//! The kernel's ring: set up, restricted to reads, with files and pool memory registered.
//!
//! Knows nothing of reads but where their bytes go.

use super::{
    Kernel, Lost, Unavailable,
    flight::{Flight, Key, Segment},
};
use crate::{
    device::Pool,
    storage::{BlockFile, Resources},
};
use io_uring::{IoUring, opcode, register::Restriction, squeue, types};
use memmap2::MmapMut;
use rustix::io::Errno;
use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Arc,
    thread,
    time::Duration,
};

/// Memory for what is read and dropped.
const DISCARD_BYTES: usize = 64 << 10;
/// Largest piece of memory that the kernel registers.
const MAX_REGION_BYTES: usize = 1 << 30;
/// How often the kernel is asked again when it has no room to be asked, and how long in between.
const MAX_BUSY: u32 = 200;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// A ring that only its own thread uses.
pub(super) struct Ring {
    /// Dropped first: then nothing below is used by the kernel any more.
    uring: IoUring,
    files: Vec<Arc<BlockFile>>,
    /// Registered memory, by its number.
    regions: Vec<Segment>,
    bell: Arc<OwnedFd>,
    /// Where the bell's count is read to.
    rung: Box<u64>,
    discard: MmapMut,
    /// Keep the registered memory mapped.
    _pools: Vec<Pool>,
}

impl Ring {
    /// A ring with room for `depth` reads. Why pool memory could not be registered, if so, comes
    /// beside it: the kernel then looks it up for each read.
    pub(super) fn set_up(
        depth: usize,
        resources: Resources,
        bell: Arc<OwnedFd>,
    ) -> Result<(Self, Option<io::Error>), Unavailable> {
        let Resources { files, pools } = resources;
        let uring = build(depth as u32 + 1).map_err(Unavailable::SetUp)?;
        let submitter = uring.submitter();
        if !files.is_empty() {
            let raw: Vec<_> = files.iter().map(|file| file.file().as_raw_fd()).collect();
            submitter.register_files(&raw).map_err(Unavailable::SetUp)?;
        }
        let mut regions = regions(&pools);
        let unregistered = register_memory(&uring, &regions).err();
        if unregistered.is_some() {
            regions.clear();
        }
        let reads = [opcode::Read::CODE, opcode::Readv::CODE, opcode::ReadFixed::CODE];
        let mut allowed: Vec<_> = reads.into_iter().map(Restriction::sqe_op).collect();
        allowed.push(Restriction::sqe_flags_allowed(squeue::Flags::FIXED_FILE.bits()));
        submitter.register_restrictions(&mut allowed).map_err(Unavailable::SetUp)?;
        submitter.register_enable_rings().map_err(Unavailable::SetUp)?;
        let discard = MmapMut::map_anon(DISCARD_BYTES).map_err(Unavailable::SetUp)?;
        let rung = Box::new(0);
        let ring = Self { uring, files, regions, bell, rung, discard, _pools: pools };
        Ok((ring, unregistered))
    }

    fn target(&self, file: &Arc<BlockFile>) -> Target {
        match self.files.iter().position(|registered| Arc::ptr_eq(registered, file)) {
            Some(number) => Target::Fixed(types::Fixed(number as u32)),
            None => Target::Fd(types::Fd(file.file().as_raw_fd())),
        }
    }

    /// The number of the registered memory that the segment lies in.
    fn region(&self, segment: Segment) -> Option<u16> {
        let start = segment.start.addr();
        let within = |region: &Segment| {
            let first = region.start.addr();
            (first..first + region.len).contains(&start)
                && start + segment.len <= first + region.len
        };
        Some(self.regions.iter().position(within)? as u16)
    }

    fn request(&self, flight: &Flight) -> squeue::Entry {
        let (segments, offset) = (flight.rest(), flight.offset());
        let target = self.target(&flight.read().file);
        if let [segment] = *segments
            && let Some(region) = self.region(segment)
        {
            let len = segment.len as u32;
            return match target {
                Target::Fixed(fd) => opcode::ReadFixed::new(fd, segment.start, len, region),
                Target::Fd(fd) => opcode::ReadFixed::new(fd, segment.start, len, region),
            }
            .offset(offset)
            .build();
        }
        let (list, count) = (segments.as_ptr().cast(), segments.len() as u32);
        match target {
            Target::Fixed(fd) => opcode::Readv::new(fd, list, count),
            Target::Fd(fd) => opcode::Readv::new(fd, list, count),
        }
        .offset(offset)
        .build()
    }

    /// Puts a request into the ring, which has room for all reads under way and the bell.
    #[expect(unsafe_code, reason = "the kernel writes to memory that the request names")]
    fn push(&mut self, request: &squeue::Entry) -> Result<(), Lost> {
        // SAFETY: memory that the request names stays mapped and is nobody else's until the kernel
        // has answered. Of a read, flight and windows rest in `Flights` until then, and are leaked
        // if the ring is lost; of the bell, `rung` is a field of this ring, which outlives `uring`.
        let pushed = unsafe { self.uring.submission().push(request) };
        pushed.map_err(|_| Lost(io::Error::other("the ring has no room for what it must hold")))
    }
}

enum Target {
    Fixed(types::Fixed),
    Fd(types::Fd),
}

impl Kernel for Ring {
    fn discard(&mut self) -> Segment {
        Segment { start: self.discard.as_mut_ptr(), len: self.discard.len() }
    }

    fn read(&mut self, key: Key, flight: &Flight) -> Result<(), Lost> {
        let request = self.request(flight).user_data(key.0);
        self.push(&request)
    }

    fn listen(&mut self, key: Key) -> Result<(), Lost> {
        let fd = types::Fd(self.bell.as_raw_fd());
        let rung = (&raw mut *self.rung).cast();
        let request = opcode::Read::new(fd, rung, size_of::<u64>() as u32).build();
        self.push(&request.user_data(key.0))
    }

    fn wait(&mut self, at_most: Option<Duration>) -> Result<(), Lost> {
        let time = at_most.map(types::Timespec::from);
        for _ in 0..MAX_BUSY {
            let submitter = self.uring.submitter();
            let waited = match &time {
                None => submitter.submit_and_wait(1),
                Some(time) => {
                    submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(time))
                }
            };
            match waited.map_err(|error| (Errno::from_io_error(&error), error)) {
                Ok(_) | Err((Some(Errno::INTR | Errno::TIME), _)) => return Ok(()),
                // The kernel is short of memory, or its answers are to be taken first.
                Err((Some(Errno::AGAIN | Errno::BUSY), _)) => {
                    if !self.uring.completion().is_empty() {
                        return Ok(());
                    }
                    thread::sleep(BUSY_PAUSE);
                }
                Err((_, error)) => return Err(Lost(error)),
            }
        }
        Err(Lost(Errno::BUSY.into()))
    }

    fn answers(&mut self, into: &mut Vec<(Key, i32)>) {
        let entries = self.uring.completion();
        into.extend(entries.map(|entry| (Key(entry.user_data()), entry.result())));
    }
}

/// A ring that takes requests only once it is enabled. Flags that make answers cheaper are used
/// where the kernel (6.1) knows them.
fn build(entries: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_r_disabled().setup_single_issuer().setup_defer_taskrun();
    match builder.build(entries) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
            IoUring::builder().setup_r_disabled().build(entries)
        }
        result => result,
    }
}

/// The slots' memory in pieces that the kernel takes.
fn regions(pools: &[Pool]) -> Vec<Segment> {
    let mut regions = Vec::new();
    for pool in pools {
        let (mut start, mut left) = pool.slots_region();
        while left > 0 {
            let len = left.min(MAX_REGION_BYTES);
            regions.push(Segment { start, len });
            (start, left) = (start.wrapping_add(len), left - len);
        }
    }
    regions
}

#[expect(unsafe_code, reason = "the kernel keeps the memory that it is told of")]
fn register_memory(uring: &IoUring, regions: &[Segment]) -> io::Result<()> {
    if regions.is_empty() {
        return Ok(());
    }
    let list = regions.as_ptr().cast();
    // SAFETY: `Segment` is laid out as an iovec (`repr(C)`, pointer and length).
    let list = unsafe { std::slice::from_raw_parts(list, regions.len()) };
    // SAFETY: the memory is the pools', which the ring keeps mapped for longer than itself.
    unsafe { uring.submitter().register_buffers(list) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::io::Write as _;

    #[test]
    fn the_ring_refuses_what_is_not_a_read() {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let mut ring = match Ring::set_up(4, Resources::default(), bell) {
            Ok((ring, _)) => ring,
            Err(error) => {
                // Past what the test harness captures.
                let told = format!("skipped: io_uring cannot be used here: {error}");
                return writeln!(io::stderr(), "{told}").unwrap();
            }
        };
        let requests = [
            opcode::Nop::new().build(),
            opcode::Write::new(types::Fd(ring.bell.as_raw_fd()), (&raw const *ring.rung).cast(), 8)
                .build(),
            opcode::Close::new(types::Fd(ring.bell.as_raw_fd())).build(),
        ];
        for (number, request) in (1..).zip(requests) {
            ring.push(&request.user_data(number)).unwrap();
        }
        let mut answers = Vec::new();
        while answers.len() < 3 {
            ring.wait(Some(Duration::from_secs(60))).unwrap();
            ring.answers(&mut answers);
        }
        let refused = -Errno::ACCESS.raw_os_error();
        assert_eq!(answers, [1, 2, 3].map(|number| (Key(number), refused)));
        let more = ring.uring.submitter().register_files(&[ring.bell.as_raw_fd()]);
        assert!(more.is_err(), "nothing else is registered any more");
    }
}
