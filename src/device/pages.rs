//! What the kernel tells of memory: how much there is for this process, and in which pages.

use rustix::system::sysinfo;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";
/// Reserved huge pages waste at most one part in so many of a pool. With pages of 64 KiB, a huge page
/// has 512 MiB.
const WASTE_PARTS: u64 = 16;

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

/// The size of a reserved huge page, if enough of them are free for so many bytes, and the last one
/// wastes at most one part in [`WASTE_PARTS`] of them.
pub(super) fn reserved_huge_pages(bytes: u64) -> Option<u64> {
    MemInfo::read().reserved_for(bytes)
}

/// The first of so many bytes, as many as fill whole transparent huge pages. The kernel may be asked
/// to find huge pages for these: one beyond the end would be wasted.
pub(super) fn whole_huge_pages(bytes: u64) -> u64 {
    let size = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
    let page_bytes = size.ok().and_then(|text| text.trim().parse().ok());
    whole_pages(bytes, page_bytes.unwrap_or_default())
}

fn whole_pages(bytes: u64, page_bytes: u64) -> u64 {
    bytes.checked_rem(page_bytes).map_or(0, |rest| bytes - rest)
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

    /// The size of a reserved huge page, if they serve so many bytes well.
    fn reserved_for(self, bytes: u64) -> Option<u64> {
        let pages = bytes.checked_div(self.huge_page_bytes)?;
        let rest = bytes - pages * self.huge_page_bytes;
        let (pages, wasted) =
            if rest == 0 { (pages, 0) } else { (pages + 1, self.huge_page_bytes - rest) };
        let is_good = pages > 0 && pages <= self.free_huge_pages && wasted <= bytes / WASTE_PARTS;
        is_good.then_some(self.huge_page_bytes)
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
    fn reserved_huge_pages_waste_at_most_a_sixteenth_of_a_pool() {
        const MIB: u64 = 1 << 20;
        let info = |page: u64, free_huge_pages| MemInfo {
            huge_page_bytes: page * MIB,
            free_huge_pages,
            available_bytes: None,
        };
        assert_eq!(info(512, 100).reserved_for(513 * MIB), None, "511 of 513 MiB would be wasted");
        assert_eq!(info(512, 100).reserved_for(1024 * MIB), Some(512 * MIB), "none is wasted");
        assert_eq!(info(2, 100).reserved_for(17 * MIB), Some(2 * MIB), "1 of 17 MiB");
        assert_eq!(info(2, 100).reserved_for(15 * MIB), None, "1 of 15 MiB");
        assert_eq!(info(2, 8).reserved_for(17 * MIB), None, "one page is lacking");
        assert_eq!(info(512, 100).reserved_for(2 * MIB), None, "smaller than a page");
        assert_eq!(info(0, 0).reserved_for(MIB), None, "there are none");
        assert_eq!(info(2, 1).reserved_for(0), None, "nothing is wanted");
        assert_eq!(info(2, u64::MAX).reserved_for(u64::MAX), Some(2 * MIB), "no overflow");
    }

    #[test]
    fn transparent_huge_pages_are_asked_for_within_the_memory_only() {
        assert_eq!(whole_pages(5 << 20, 2 << 20), 4 << 20);
        assert_eq!(whole_pages(513 << 20, 512 << 20), 512 << 20);
        assert_eq!(whole_pages(3 << 20, 512 << 20), 0);
        assert_eq!(whole_pages(3 << 20, 0), 0, "the kernel has none");
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
