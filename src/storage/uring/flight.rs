//! Reads in the kernel's hands, and what its answers make of them. Makes no system call.
//!
//! ```text
//!          rest read, or failed
//! begun ───────────────────────► ended
//!  │ ▲ less than asked for, interrupted: asked again at once
//!  └─┘ no room in the kernel: asked again later, a bounded number of times
//! ```

use crate::storage::{Completion, Piece, Read, ReadError};
use rustix::io::Errno;
use std::{io, time::Instant};

/// Most segments that the kernel takes in one request (`UIO_MAXIOV`).
const MAX_SEGMENTS: usize = 1024;
/// How often a request for which the kernel has no room is made again.
pub(super) const MAX_AGAIN: u32 = 64;

/// A piece of memory that the kernel writes, laid out as its `iovec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Segment {
    pub(super) start: *mut u8,
    pub(super) len: usize,
}

/// A read that the kernel works on. It stays where the kernel's answer finds it, and so do the
/// windows and the list of segments that the kernel uses.
#[derive(Debug)]
pub(super) struct Flight {
    read: Read,
    /// When it was taken up.
    begun: Instant,
    /// All memory that the read fills, in the order of the file.
    segments: Vec<Segment>,
    /// Segments that are full. The next one may be so in part, and is then cut.
    full: usize,
    done: u64,
    again: u32,
}

/// Names one request of a flight to the kernel. The upper half is never used twice for one place,
/// not even when the rest of a read is asked for, so that an answer that comes twice, or late,
/// finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(pub(super) u64);

/// What an answer means.
#[derive(Debug)]
pub(super) enum Answer {
    /// The read has ended, that was taken up then.
    Ended(Completion, Instant),
    /// The kernel gave less than was asked for, or was interrupted: ask for the rest.
    Short(Key),
    /// The kernel has no room: ask again a little later.
    Later(Key),
    /// No read waits for this answer.
    Stray,
}

/// All reads that the kernel works on.
#[derive(Debug, Default)]
pub(super) struct Flights {
    places: Vec<Place>,
    vacant: Vec<u32>,
    serial: u32,
    bytes: u64,
}

#[derive(Debug)]
struct Place {
    key: Key,
    flight: Option<Flight>,
}

impl Flight {
    /// Takes a read on. What it drops goes to `discard`, over and over.
    fn begin(mut read: Read, discard: Segment) -> Self {
        let mut segments = Vec::<Segment>::new();
        for piece in read.pieces() {
            match piece {
                Piece::Block(window) => {
                    let bytes = window.bytes_mut();
                    extend(&mut segments, Segment { start: bytes.as_mut_ptr(), len: bytes.len() });
                }
                Piece::Gap(mut bytes) => {
                    while bytes > 0 {
                        let len = bytes.min(discard.len as u64);
                        segments.push(Segment { start: discard.start, len: len as usize });
                        bytes -= len;
                    }
                }
            }
        }
        Self { read, begun: Instant::now(), segments, full: 0, done: 0, again: 0 }
    }

    /// The read.
    pub(super) fn read(&self) -> &Read {
        &self.read
    }

    /// Where in the file the rest begins.
    pub(super) fn offset(&self) -> u64 {
        self.read.offset + self.done
    }

    /// Memory that is still to be filled, as much of it as one request takes.
    pub(super) fn rest(&self) -> &[Segment] {
        let rest = &self.segments[self.full..];
        &rest[..rest.len().min(MAX_SEGMENTS)]
    }

    fn advance(&mut self, mut bytes: usize) {
        self.done += bytes as u64;
        while let Some(segment) = self.segments.get_mut(self.full) {
            if bytes < segment.len {
                segment.start = segment.start.wrapping_add(bytes);
                segment.len -= bytes;
                return;
            }
            bytes -= segment.len;
            self.full += 1;
        }
    }

    fn end(self, result: Result<(), ReadError>) -> Answer {
        Answer::Ended(Completion { read: self.read, result }, self.begun)
    }

    fn fail(self, errno: Errno) -> Answer {
        let (offset, len) = (self.read.offset, self.read.len());
        self.end(Err(ReadError::Io { offset, len, source: io::Error::from(errno) }))
    }
}

/// Adds memory; what adjoins the last segment prolongs it.
fn extend(segments: &mut Vec<Segment>, next: Segment) {
    match segments.last_mut() {
        Some(last) if last.start.wrapping_add(last.len) == next.start => last.len += next.len,
        _ => segments.push(next),
    }
}

impl Flights {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.vacant.len()
    }

    /// Bytes that they read.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes a read on and names it.
    pub(super) fn begin(&mut self, read: Read, discard: Segment) -> Key {
        self.bytes += read.len();
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(Place { key: Key(0), flight: None });
            self.places.len() as u32 - 1
        });
        let key = self.fresh(place);
        self.places[place as usize] = Place { key, flight: Some(Flight::begin(read, discard)) };
        key
    }

    /// A name that was never used.
    fn fresh(&mut self, place: u32) -> Key {
        self.serial = self.serial.wrapping_add(1);
        Key(u64::from(self.serial) << 32 | u64::from(place))
    }

    /// All reads, and when they were taken up, as the ring is lost. Memory that they name stays mapped for ever: the kernel may
    /// still write there.
    pub(super) fn lose(self) -> impl Iterator<Item = (Read, Instant)> {
        let flights = self.places.into_iter().filter_map(|place| place.flight);
        flights.map(|flight| {
            // Used by the kernel until it has answered.
            std::mem::forget(flight.segments);
            flight.read.blocks.iter().for_each(|(_, window)| window.keep_mapped());
            (flight.read, flight.begun)
        })
    }

    /// The flight of this name.
    pub(super) fn get(&self, key: Key) -> Option<&Flight> {
        self.places.get(key.place()).filter(|place| place.key == key)?.flight.as_ref()
    }

    /// Takes the kernel's answer to a request: bytes, or a negative error number.
    pub(super) fn answer(&mut self, key: Key, result: i32) -> Answer {
        let again = self.fresh(key.place() as u32);
        let Some(place) = self.places.get_mut(key.place()).filter(|place| place.key == key) else {
            return Answer::Stray;
        };
        let Some(flight) = &mut place.flight else { return Answer::Stray };
        let step = match result {
            0 => Step::Eof,
            1.. => {
                flight.advance(result as usize);
                flight.again = 0;
                if flight.rest().is_empty() { Step::Done } else { Step::Short }
            }
            ..0 => match errno(result) {
                Errno::INTR => Step::Short,
                Errno::AGAIN if flight.again < MAX_AGAIN => {
                    flight.again += 1;
                    Step::Later
                }
                errno => Step::Failed(errno),
            },
        };
        match step {
            Step::Short => {
                place.key = again;
                return Answer::Short(again);
            }
            Step::Later => {
                place.key = again;
                return Answer::Later(again);
            }
            Step::Done | Step::Eof | Step::Failed(_) => {}
        }
        let Some(flight) = place.flight.take() else { return Answer::Stray };
        self.vacant.push(key.place() as u32);
        self.bytes -= flight.read.len();
        let end = flight.offset();
        match step {
            Step::Failed(errno) => flight.fail(errno),
            Step::Eof => flight.end(Err(ReadError::Eof { end })),
            _ => flight.end(Ok(())),
        }
    }
}

/// The error in a negative answer; what no kernel says is an I/O error.
fn errno(result: i32) -> Errno {
    match result.checked_neg() {
        Some(number @ 1..=4095) => Errno::from_raw_os_error(number),
        _ => Errno::IO,
    }
}

/// What an answer does to its flight.
enum Step {
    Done,
    Short,
    Later,
    Eof,
    Failed(Errno),
}

impl Key {
    fn place(self) -> usize {
        self.0 as u32 as usize
    }
}
