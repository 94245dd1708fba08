//! What the kernel tells of memory: how much there is, and in which pages.

use rustix::system::sysinfo;
use std::fs;

/// Bytes that can be had without pushing others out, or at least the size of the machine.
pub(super) fn available_memory() -> u64 {
    let total = sysinfo();
    let known = MemInfo::read().available_bytes;
    known.unwrap_or(total.totalram * u64::from(total.mem_unit))
}

/// The size of a reserved huge page, if enough of them are free for so many bytes, and little of
/// the last one would be wasted.
pub(super) fn reserved_huge_pages(bytes: u64) -> Option<u64> {
    let info = MemInfo::read();
    if info.huge_page_bytes > bytes {
        return None;
    }
    let enough =
        info.huge_page_bytes > 0 && info.free_huge_pages >= bytes.div_ceil(info.huge_page_bytes);
    (enough && info.free_huge_pages > 0).then_some(info.huge_page_bytes)
}

/// Bytes of the mapping at this address that lie in huge pages.
pub(super) fn huge_bytes(address: usize) -> u64 {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    huge_bytes_of(&maps, address)
}

/// What `/proc/meminfo` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemInfo {
    /// Bytes that can be had without pushing others out.
    pub available_bytes: Option<u64>,
    /// Reserved huge pages that nobody uses.
    pub free_huge_pages: u64,
    /// Bytes of one.
    pub huge_page_bytes: u64,
}

impl MemInfo {
    /// Asks the kernel.
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Self {
            available_bytes: value("MemAvailable").map(|kib| kib * 1024),
            free_huge_pages: value("HugePages_Free")
                .unwrap_or_default()
                .saturating_sub(value("HugePages_Rsvd").unwrap_or_default()),
            huge_page_bytes: value("Hugepagesize").unwrap_or_default() * 1024,
        }
    }
}

fn huge_bytes_of(maps: &str, address: usize) -> u64 {
    let start = format!("{address:x}-");
    let fields = maps.lines().skip_while(|line| !line.starts_with(&start)).skip(1);
    // The next mapping begins with its addresses, all else with a name and a colon.
    let own =
        fields.take_while(|line| line.split(' ').next().is_some_and(|key| key.ends_with(':')));
    let huge = ["ShmemPmdMapped:", "Shared_Hugetlb:", "Private_Hugetlb:"];
    let kib = own.filter_map(|line| {
        let mut words = line.split_whitespace();
        huge.contains(&words.next()?).then(|| words.next()?.parse::<u64>().ok())?
    });
    kib.sum::<u64>() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_counted_for_the_mapping_at_the_address_only() {
        let maps = "7f0000000000-7f0000200000 rw-s 0 00:01 9 /memfd:pool (deleted)\n\
                    Size: 2048 kB\nShmemPmdMapped: 2048 kB\nVmFlags: rd wr\n\
                    7f0000200000-7f0000400000 rw-s 0 00:01 9 /memfd:pool (deleted)\n\
                    Size: 2048 kB\nShmemPmdMapped: 0 kB\nShared_Hugetlb: 4096 kB\n";
        assert_eq!(huge_bytes_of(maps, 0x7f00_0000_0000), 2 << 20);
        assert_eq!(huge_bytes_of(maps, 0x7f00_0020_0000), 4 << 20);
        assert_eq!(huge_bytes_of(maps, 0x7f00_0040_0000), 0);
    }

    #[test]
    fn the_kernels_account_is_read_and_reserved_pages_are_not_free() {
        let text = "MemAvailable:   1000 kB\nHugePages_Free:       5\nHugePages_Rsvd:       2\n\
                    Hugepagesize:       2048 kB\n";
        let expected = MemInfo {
            available_bytes: Some(1_024_000),
            free_huge_pages: 3,
            huge_page_bytes: 2 << 20,
        };
        assert_eq!(MemInfo::parse(text), expected);
        assert_eq!(MemInfo::parse(""), MemInfo::default());
    }
}
