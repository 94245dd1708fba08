//! Checksums bound to the place they belong to, so that a block that is intact but in the wrong
//! place, or from another bundle, is told from the right one.

use super::BundleId;
use crate::units::BlockIndex;
use crc_fast::{CrcAlgorithm, Digest};

/// What the checksummed bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The block of this index.
    Block(BlockIndex),
    /// The base tensor of this position.
    Base(u32),
}

impl Subject {
    /// Blocks and base tensors are numbered apart: the top bit marks the base.
    fn tag(self) -> u64 {
        match self {
            Self::Block(index) => u64::from(index.0),
            Self::Base(position) => u64::from(position) | 1 << 63,
        }
    }
}

/// CRC-64/NVME over bundle id, subject (u64, little endian) and bytes.
pub fn checksum(id: BundleId, subject: Subject, bytes: &[u8]) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&id.0);
    digest.update(&subject.tag().to_le_bytes());
    digest.update(bytes);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc64_nvme_gives_the_published_check_value() {
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        digest.update(b"123456789");
        assert_eq!(digest.finalize(), 0xae8b_1486_0a79_9888);
    }

    #[test]
    fn bytes_place_kind_and_bundle_all_count() {
        let id = BundleId([1; 16]);
        let block = |i| Subject::Block(BlockIndex(i));
        let reference = checksum(id, block(7), b"bytes");
        assert_ne!(reference, checksum(id, block(8), b"bytes"));
        assert_ne!(reference, checksum(id, Subject::Base(7), b"bytes"));
        assert_ne!(reference, checksum(BundleId([2; 16]), block(7), b"bytes"));
        assert_ne!(reference, checksum(id, block(7), b"Bytes"));
    }
}
