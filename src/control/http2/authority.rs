//! Replaces authorities that the HTTP/2 library rejects.
//!
//! gRPC clients name a Unix socket by its path, as the authority of each request (`%2Frun%2Fx.sock` or
//! `/run/x.sock`). The library accepts only authorities of URIs and breaks such streams off. The first
//! header block of a connection decides: if its authority is accepted, all bytes of the connection pass
//! unchanged; else every header block is decoded and encoded anew. Header compression has a state for each
//! connection, so there is nothing in between.

use super::frame::{
    CONTINUATION, END_HEADERS, END_STREAM, HAS_PRIORITY, HEAD_LEN, HEADERS, Head, PADDED, PREFACE,
};
use axum::http::uri;
use loona_hpack::{Decoder, encoder::encode_integer_into};
use std::io;
use tokio::io::ReadBuf;

/// What stands in the place of a rejected authority.
const AUTHORITY: &[u8] = b"localhost";
/// Largest frame that the daemon accepts, as it announces by default.
const MAX_FRAME: usize = 16 << 10;
/// Largest header block, and largest list of fields, each field counted with 32 bytes more. A list of this
/// size fits into one frame when it is encoded without compression.
const MAX_BLOCK: usize = 16 << 10;
/// Most fields of a block: decoding one costs up to some microseconds.
const MAX_FIELDS: usize = 128;
/// Most frames of a block.
const MAX_FRAMES: usize = 16;
/// Size of the dynamic table that the daemon announces by default.
const TABLE_SIZE: usize = 4096;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A client's bytes on their way to the HTTP/2 library.
pub(super) struct Authorities {
    mode: Mode,
    decoder: Decoder<'static>,
    /// Payload bytes that pass as they are.
    pass: usize,
    /// A frame that has not come whole.
    frame: Vec<u8>,
    /// A header block that has not come whole.
    block: Option<Block>,
    /// Bytes for the library, and how many of them it has.
    out: Vec<u8>,
    taken: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// No header block has come.
    Undecided,
    Unchanged,
    Rewritten,
}

/// A header block: a HEADERS frame and its CONTINUATION frames.
struct Block {
    first: Head,
    fragments: Vec<u8>,
    frames: usize,
    /// The same as it came.
    raw: Vec<u8>,
}

impl Authorities {
    /// For a new connection.
    pub(super) fn new() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE_SIZE);
        let (mode, pass) = (Mode::Undecided, PREFACE.len());
        Self { mode, decoder, pass, frame: Vec::new(), block: None, out: Vec::new(), taken: 0 }
    }

    /// Whether nothing is left to do: all further bytes pass unchanged.
    pub(super) fn is_done(&self) -> bool {
        self.mode == Mode::Unchanged && self.out.is_empty()
    }

    /// Gives the library what is ready for it; false if nothing is.
    pub(super) fn hand_on(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let ready = &self.out[self.taken..];
        let ready = &ready[..ready.len().min(buffer.remaining())];
        let any = !ready.is_empty();
        buffer.put_slice(ready);
        self.taken += ready.len();
        if self.taken == self.out.len() {
            self.out.clear();
            self.taken = 0;
        }
        any
    }

    /// Takes the client's next bytes in. An error ends the connection.
    pub(super) fn take_in(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.mode == Mode::Unchanged {
                self.out.extend_from_slice(bytes);
                return Ok(());
            }
            if self.pass > 0 {
                let (passed, rest) = bytes.split_at(self.pass.min(bytes.len()));
                self.out.extend_from_slice(passed);
                (self.pass, bytes) = (self.pass - passed.len(), rest);
                continue;
            }
            bytes = self.gather(bytes);
            let Some((head, payload)) = split(&self.frame) else { continue };
            let opens = head.kind == HEADERS && self.block.is_none();
            let goes_on = head.kind == CONTINUATION
                && self.block.as_ref().is_some_and(|block| block.first.stream == head.stream);
            if !opens && !goes_on && self.block.is_none() {
                self.out.append(&mut self.frame);
                self.pass = head.len;
            } else if !(opens || goes_on) || head.len > MAX_FRAME {
                self.give_up("a header block that HTTP/2 does not allow")?;
            } else if payload.len() == head.len {
                self.take_fragment(head)?;
            }
        }
        Ok(())
    }

    /// Adds to the frame what its head, or the payload of a frame of a header block, lacks. Gives the rest.
    fn gather<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let whole = split(&self.frame).map_or(HEAD_LEN, |(head, _)| HEAD_LEN + head.len);
        let (more, rest) = bytes.split_at((whole - self.frame.len()).min(bytes.len()));
        self.frame.extend_from_slice(more);
        rest
    }

    /// Takes a whole frame of a header block in.
    fn take_fragment(&mut self, head: Head) -> io::Result<()> {
        let Some(fragment) = fragment(head, &self.frame[HEAD_LEN..]) else {
            return self.give_up("padding that is longer than its frame");
        };
        let block = self.block.get_or_insert_with(|| Block {
            first: head,
            fragments: Vec::new(),
            frames: 0,
            raw: Vec::new(),
        });
        block.fragments.extend_from_slice(fragment);
        block.frames += 1;
        if block.fragments.len() > MAX_BLOCK || block.frames > MAX_FRAMES {
            return self.give_up("a header block that is too large");
        }
        block.raw.append(&mut self.frame);
        if head.has(END_HEADERS)
            && let Some(block) = self.block.take()
        {
            return self.take_block(block);
        }
        Ok(())
    }

    /// Takes a whole header block in. The first one decides.
    fn take_block(&mut self, block: Block) -> io::Result<()> {
        let fields = decode(&mut self.decoder, &block.fragments);
        if self.mode == Mode::Undecided {
            if !fields.as_ref().is_ok_and(has_rejected_authority) {
                self.mode = Mode::Unchanged;
                self.out.extend_from_slice(&block.raw);
                return Ok(());
            }
            tracing::debug!("the authorities of a connection are replaced: HTTP/2 rejects them");
            self.mode = Mode::Rewritten;
        }
        let encoded = encode(&fields.map_err(broken)?)?;
        let flags = END_HEADERS | block.first.flags & END_STREAM;
        let head = Head { len: encoded.len(), flags, ..block.first };
        self.out.extend_from_slice(&head.encode());
        self.out.extend_from_slice(&encoded);
        Ok(())
    }

    /// Meets what cannot be decoded: before the decision the library may judge it.
    fn give_up(&mut self, what: &'static str) -> io::Result<()> {
        if self.mode == Mode::Rewritten {
            return Err(broken(what));
        }
        self.mode = Mode::Unchanged;
        if let Some(block) = self.block.take() {
            self.out.extend_from_slice(&block.raw);
        }
        self.out.append(&mut self.frame);
        Ok(())
    }
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the client sent {what}"))
}

/// The head of a frame, if that has come, and what has come of the payload.
fn split(frame: &[u8]) -> Option<(Head, &[u8])> {
    let (head, payload) = frame.split_first_chunk()?;
    Some((Head::parse(*head), payload))
}

/// The part of a payload that belongs to the header block.
fn fragment(head: Head, payload: &[u8]) -> Option<&[u8]> {
    if head.kind != HEADERS {
        return Some(payload);
    }
    let (padding, payload) = match head.has(PADDED) {
        true => payload.split_first().map(|(padding, rest)| (usize::from(*padding), rest))?,
        false => (0, payload),
    };
    let payload = if head.has(HAS_PRIORITY) { payload.get(5..)? } else { payload };
    payload.get(..payload.len().checked_sub(padding)?)
}

/// Decodes a block. Its fields are bounded before any of them is decoded.
fn decode(decoder: &mut Decoder<'_>, block: &[u8]) -> Result<Fields, &'static str> {
    let count = count_fields(block).ok_or("a header block that cannot be decoded")?;
    if count > MAX_FIELDS {
        return Err("a header block with too many fields");
    }
    let (mut fields, mut size) = (Fields::new(), 0);
    let keep = |name: std::borrow::Cow<'_, [u8]>, value: std::borrow::Cow<'_, [u8]>| {
        size += name.len() + value.len() + 32;
        if size <= MAX_BLOCK {
            fields.push((name.into_owned(), value.into_owned()));
        }
    };
    decoder.decode_with_cb(block, keep).map_err(|_| "a header block that cannot be decoded")?;
    if size > MAX_BLOCK { Err("a header block that is too large") } else { Ok(fields) }
}

fn has_rejected_authority(fields: &Fields) -> bool {
    let mut authorities = fields.iter().filter(|(name, _)| name == b":authority");
    authorities.any(|(_, value)| uri::Authority::try_from(&value[..]).is_err())
}

/// Encodes fields as literals that no table keeps, with the authority replaced.
fn encode(fields: &Fields) -> io::Result<Vec<u8>> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        let value = if name == b":authority" { AUTHORITY } else { value };
        for text in [name, value] {
            encode_integer_into(text.len(), 7, 0, &mut block)?;
            block.extend_from_slice(text);
        }
    }
    Ok(block)
}

/// How many fields and changes of the table's size a block has (RFC 7541, section 6).
fn count_fields(mut block: &[u8]) -> Option<usize> {
    let mut count = 0;
    while let Some(first) = block.first() {
        block = match first {
            0x80.. => integer(block, 7)?.1,
            0x40..0x80 => after_literal(block, 6)?,
            0x20..0x40 => integer(block, 5)?.1,
            ..0x20 => after_literal(block, 4)?,
        };
        count += 1;
    }
    Some(count)
}

/// What comes after a literal: a name, as an index or a text, and a value.
fn after_literal(bytes: &[u8], prefix: u32) -> Option<&[u8]> {
    let (index, rest) = integer(bytes, prefix)?;
    after_text(if index == 0 { after_text(rest)? } else { rest })
}

fn after_text(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = integer(bytes, 7)?;
    rest.get(len..)
}

/// A number whose first byte has it in so many lower bits, and what comes after it.
fn integer(bytes: &[u8], prefix: u32) -> Option<(usize, &[u8])> {
    let (first, mut rest) = bytes.split_first()?;
    let mask = (1 << prefix) - 1;
    let mut value = usize::from(*first) & mask;
    if value < mask {
        return Some((value, rest));
    }
    for shift in [0, 7, 14, 21] {
        let (next, after) = rest.split_first()?;
        value += usize::from(next & 0x7f) << shift;
        rest = after;
        if next & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::frame::DATA;
    use super::*;
    use loona_hpack::Encoder;

    const PATH: &str = "%2Ftmp%2Fx.sock";

    fn head(kind: u8, flags: u8, stream: u32, len: usize) -> Vec<u8> {
        Head { len, kind, flags, stream }.encode().to_vec()
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        [&head(kind, flags, stream, payload.len()), payload].concat()
    }

    fn request<'a>(authority: &'a str, path: &'a str) -> Vec<(&'a [u8], &'a [u8])> {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("x-secret", "value"),
        ];
        fields.map(|(name, value)| (name.as_bytes(), value.as_bytes())).to_vec()
    }

    /// What comes out when the bytes come in parts of this length.
    fn through(bytes: &[u8], cut: usize) -> io::Result<Vec<u8>> {
        let mut authorities = Authorities::new();
        let mut all = Vec::new();
        for part in bytes.chunks(cut) {
            authorities.take_in(part)?;
            let mut space = [0; 50];
            loop {
                let mut buffer = ReadBuf::new(&mut space);
                if !authorities.hand_on(&mut buffer) {
                    break;
                }
                all.extend_from_slice(buffer.filled());
            }
        }
        Ok(all)
    }

    /// The frames after the preface.
    fn frames(mut bytes: &[u8]) -> Vec<(Head, Vec<u8>)> {
        bytes = bytes.strip_prefix(PREFACE).unwrap();
        let mut frames = Vec::new();
        while let Some((head, rest)) = split(bytes) {
            frames.push((head, rest[..head.len].to_vec()));
            bytes = &rest[head.len..];
        }
        assert!(bytes.is_empty());
        frames
    }

    #[test]
    fn connection_with_a_valid_authority_passes_unchanged() {
        let mut encoder = Encoder::new();
        let mut bytes = [PREFACE, &frame(4, 0, 0, &[])].concat();
        for (stream, authority) in [(1, "localhost"), (3, "localhost"), (5, PATH)] {
            let block = encoder.encode(request(authority, "/a"));
            bytes.extend(frame(HEADERS, END_HEADERS, stream, &block));
            bytes.extend(frame(DATA, END_STREAM, stream, b"data"));
        }
        for cut in [1, 9, 33, 4096] {
            assert_eq!(through(&bytes, cut).unwrap(), bytes);
        }
    }

    #[test]
    fn authorities_that_are_paths_are_replaced_in_every_block() {
        let mut encoder = Encoder::new();
        let mut bytes = [PREFACE, &frame(4, 0, 0, &[0, 3, 0, 0, 0, 9])].concat();
        let first = encoder.encode(request(PATH, "/a"));
        // Padding, a priority, and a block in three frames.
        let padded = [&[3, 0, 0, 0, 0, 16][..], &first[..7], &[0; 3]].concat();
        bytes.extend(frame(HEADERS, PADDED | HAS_PRIORITY, 1, &padded));
        bytes.extend(frame(CONTINUATION, 0, 1, &first[7..30]));
        bytes.extend(frame(CONTINUATION, END_HEADERS, 1, &first[30..]));
        bytes.extend(frame(DATA, END_STREAM, 1, b"data"));
        // A smaller table.
        encoder.set_max_table_size(300);
        let second = [&[0x3f, 0x8d, 0x02][..], &encoder.encode(request(PATH, "/a"))].concat();
        assert!(second.len() < first.len());
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 3, &second));
        let trailers = encoder.encode([(&b"x-end"[..], &b"1"[..])]);
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 5, &trailers));

        for cut in [1, 9, 33, 4096] {
            let frames = frames(&through(&bytes, cut).unwrap());
            let kinds: Vec<_> =
                frames.iter().map(|(head, _)| (head.kind, head.flags, head.stream)).collect();
            let both = END_HEADERS | END_STREAM;
            let expected = [
                (4, 0, 0),
                (HEADERS, END_HEADERS, 1),
                (DATA, END_STREAM, 1),
                (HEADERS, both, 3),
                (HEADERS, both, 5),
            ];
            assert_eq!(kinds, expected, "cut into {cut}");
            assert_eq!(frames[2].1, b"data");
            let decoded = |at: usize| Decoder::new().decode(&frames[at].1).unwrap();
            let owned = |fields: Vec<(&[u8], &[u8])>| -> Fields {
                fields.into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
            };
            assert_eq!(decoded(1), owned(request("localhost", "/a")));
            assert_eq!(decoded(3), owned(request("localhost", "/a")));
            assert_eq!(decoded(4), owned(vec![(b"x-end", b"1")]));
        }
    }

    #[test]
    fn authority_in_the_dynamic_table_is_replaced_too() {
        let literal = [&[0x41, PATH.len() as u8], PATH.as_bytes()].concat();
        let blocks: [&[u8]; 2] = [&literal, &[0xbe]];
        let blocks = blocks.map(|block| frame(HEADERS, END_HEADERS, 1, block)).concat();
        let bytes = [PREFACE, &blocks].concat();
        for (_, block) in frames(&through(&bytes, 9).unwrap()) {
            let fields = Decoder::new().decode(&block).unwrap();
            assert_eq!(fields, [(b":authority".to_vec(), AUTHORITY.to_vec())]);
        }
    }

    #[test]
    fn rejected_authorities_are_those_that_the_library_rejects() {
        for (authority, rejected) in [
            (PATH, true),
            ("/run/x.sock", true),
            ("", true),
            ("a b", true),
            ("localhost", false),
            ("localhost:80", false),
            ("[::1]:80", false),
        ] {
            let fields = vec![(b":authority".to_vec(), authority.as_bytes().to_vec())];
            assert_eq!(has_rejected_authority(&fields), rejected, "{authority:?}");
        }
    }

    /// A connection whose blocks are rewritten already.
    fn rewriting() -> Vec<u8> {
        let block = Encoder::new().encode(request(PATH, "/a"));
        [PREFACE, &frame(HEADERS, END_HEADERS, 1, &block)].concat()
    }

    #[test]
    fn r9_blocks_that_do_not_end_or_are_too_large_end_a_rewritten_connection() {
        let endless = [head(HEADERS, 0, 3, 0), head(CONTINUATION, 0, 3, 0).repeat(MAX_FRAMES)];
        let large = [
            frame(HEADERS, 0, 3, &[0x82; MAX_FRAME]),
            frame(CONTINUATION, END_HEADERS, 3, &[0x82]),
        ];
        let many = [frame(HEADERS, END_HEADERS, 3, &[0x82; MAX_FIELDS + 1]), Vec::new()];
        // One field of 4000 bytes in the table, and then five references to it.
        let bomb = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000], &[0xbe; 5]].concat();
        let bomb = [frame(HEADERS, END_HEADERS, 3, &bomb), Vec::new()];
        let foreign = [head(HEADERS, 0, 3, 0), head(CONTINUATION, END_HEADERS, 5, 0)];
        let other = [head(HEADERS, 0, 3, 0), frame(6, 0, 0, &[0; 8])];
        let padding = [frame(HEADERS, PADDED | END_HEADERS, 3, &[2, 0x82]), Vec::new()];
        let oversize = [head(HEADERS, END_HEADERS, 3, MAX_FRAME + 1), Vec::new()];
        let attacks = [endless, large, many, bomb, foreign, other, padding, oversize];
        for (at, attack) in attacks.iter().enumerate() {
            let bytes = [rewriting(), attack.concat()].concat();
            assert!(through(&bytes, 1000).is_err(), "attack {at}");
            // Before the decision, the library judges.
            let bytes = [PREFACE.to_vec(), attack.concat()].concat();
            assert_eq!(through(&bytes, 1000).unwrap(), bytes, "attack {at}");
        }
    }

    #[test]
    fn r9_no_block_panics() {
        let mut random = fastrand::Rng::with_seed(17);
        let sound = Encoder::new().encode(request(PATH, "/a"));
        for _ in 0..20_000 {
            let mut block = sound.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..block.len());
                block[at] = random.u8(..);
            }
            block.truncate(random.usize(1..=block.len()));
            let bytes = [rewriting(), frame(HEADERS, END_HEADERS, 3, &block)].concat();
            let _ = through(&bytes, 500);
        }
    }
}
