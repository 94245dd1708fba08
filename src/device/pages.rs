//! What the kernel tells of memory: how much there is for this process, and in which pages.

use rustix::system::sysinfo;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// Bytes that can be had without pushing others out, or at least the size of the machine; never more
/// than the control groups of this process have room for.
pub(super) fn available_memory() -> u64 {
    let total = sysinfo();
    let known = MemInfo::read().available_bytes;
    let known = known.unwrap_or(total.totalram * u64::from(total.mem_unit));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    room_of_groups(Path::new(GROUPS), &groups).map_or(known, |room| room.min(known))
}

/// Bytes that may be had within the limits of all control groups that a process is in (`memory.max`,
/// version 2). Their file cache gives way.
fn room_of_groups(root: &Path, groups: &str) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own: PathBuf = root.join(own);
    let within = own.ancestors().take_while(|group| group.starts_with(root));
    within.filter_map(room_of).min()
}

fn room_of(group: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    let cache = |text: String| {
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let files = lines.filter(|(key, _)| ["active_file", "inactive_file"].contains(key));
        files.filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok()).sum()
    };
    let cache = read("memory.stat").map_or(0, cache);
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

/// Rounding memory up to whole huge pages may waste one part in this many. Kernels with base pages of
/// 64 KiB have huge pages of 512 MiB, so rounding up could double a pool.
const WASTE_DIVISOR: u64 = 16;

/// The size of a reserved huge page, if enough of them are free for so many bytes, and rounding up to
/// whole pages wastes at most one part in [`WASTE_DIVISOR`].
pub(super) fn reserved_huge_pages(bytes: u64) -> Option<u64> {
    MemInfo::read().huge_pages_for(bytes)
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

    fn huge_pages_for(&self, bytes: u64) -> Option<u64> {
        let page_bytes = self.huge_page_bytes;
        let pages = bytes.checked_div(page_bytes)? + u64::from(!bytes.is_multiple_of(page_bytes));
        let waste = pages.checked_mul(page_bytes)? - bytes;
        let fits = bytes > 0 && pages <= self.free_huge_pages && waste <= bytes / WASTE_DIVISOR;
        fits.then_some(page_bytes)
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
    fn the_tightest_control_group_decides_and_its_file_cache_gives_way() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("system.slice/synchromesh.service");
        fs::create_dir_all(&inner).unwrap();
        let say =
            |folder: &Path, name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        let room = || room_of_groups(root.path(), "0::/system.slice/synchromesh.service\n");
        assert_eq!(room(), None, "nothing is known of groups");
        say(&inner, "memory.max", "max\n");
        say(&inner, "memory.current", "700\n");
        assert_eq!(room(), None, "nothing is bounded");
        say(&inner, "memory.max", "1000\n");
        assert_eq!(room(), Some(300));
        say(&inner, "memory.stat", "anon 400\ninactive_file 150\nactive_file 50\nshmem 100\n");
        assert_eq!(room(), Some(500));
        let outer = root.path().join("system.slice");
        say(&outer, "memory.max", "900\n");
        say(&outer, "memory.current", "800\n");
        assert_eq!(room(), Some(100));
        say(&outer, "memory.current", "1800\n");
        assert_eq!(room(), Some(0));
        assert_eq!(room_of_groups(root.path(), "1:cpu:/\n"), None, "version 1");
    }

    #[test]
    fn huge_pages_that_would_waste_more_than_a_sixteenth_are_not_used() {
        let large =
            MemInfo { free_huge_pages: 64, huge_page_bytes: 512 << 20, available_bytes: None };
        let mib = 1u64 << 20;
        assert_eq!(large.huge_pages_for(513 * mib), None, "nearly half would be wasted");
        assert_eq!(large.huge_pages_for(600 * mib), None);
        assert_eq!(large.huge_pages_for(512 * mib), Some(512 * mib));
        assert_eq!(large.huge_pages_for(1000 * mib), Some(512 * mib), "24 of 1000 are wasted");
        assert_eq!(large.huge_pages_for(8200 * mib), Some(512 * mib));
        let small = MemInfo { huge_page_bytes: 2 * mib, ..large };
        assert_eq!(small.huge_pages_for(5 * mib), None, "1 of 5 would be wasted");
        assert_eq!(small.huge_pages_for(33 * mib), Some(2 * mib));
        assert_eq!(small.huge_pages_for(129 * mib), None, "65 pages are not free");
        for none in [0, 1, u64::MAX] {
            assert_eq!(small.huge_pages_for(none), None);
        }
        assert_eq!(MemInfo::default().huge_pages_for(mib), None, "the kernel has none");
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
