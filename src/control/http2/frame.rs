//! Heads of HTTP/2 frames (RFC 9113, section 4.1), and where they are in a stream of bytes.

/// What a client sends before its first frame.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
pub(super) const HEAD_LEN: usize = 9;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const HAS_PRIORITY: u8 = 0x20;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes of the payload.
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    pub(super) fn parse(bytes: [u8; HEAD_LEN]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        let len = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        // The highest bit is reserved.
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
        Self { len, kind, flags, stream }
    }

    pub(super) fn encode(self) -> [u8; HEAD_LEN] {
        let [_, l0, l1, l2] = (self.len as u32).to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Finds the heads in a client's bytes, however these are cut.
pub(super) struct Walker {
    /// Bytes before the next head: the rest of the preface or of a payload.
    skip: usize,
    head: [u8; HEAD_LEN],
    /// Bytes of the head that have come.
    have: usize,
}

impl Walker {
    /// At the begin of a connection.
    pub(super) fn new() -> Self {
        Self { skip: PREFACE.len(), head: [0; HEAD_LEN], have: 0 }
    }

    /// Tells of each head that these bytes complete.
    pub(super) fn walk(&mut self, mut bytes: &[u8], mut found: impl FnMut(Head)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let taken = (HEAD_LEN - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD_LEN {
                let head = Head::parse(self.head);
                (self.skip, self.have) = (head.len, 0);
                found(head);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_found_however_the_bytes_are_cut() {
        let head = |kind, len| Head { len, kind, flags: 0x25, stream: 7 };
        let heads = [head(4, 0), head(HEADERS, 300), head(6, 8), head(DATA, 0)];
        let mut bytes = PREFACE.to_vec();
        for head in heads {
            bytes.extend(head.encode());
            bytes.resize(bytes.len() + head.len, 0xff);
        }
        for cut in [1, 2, 8, 9, 10, 64, bytes.len()] {
            let (mut walker, mut found) = (Walker::new(), Vec::new());
            bytes.chunks(cut).for_each(|part| walker.walk(part, |head| found.push(head)));
            assert_eq!(found, heads, "cut into {cut}");
        }
    }
}
