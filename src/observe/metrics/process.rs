//! Metrics of the process, by the names that every program has for them. What the kernel does not
//! tell is left out, as where there is no `/proc`.

use super::families::{Families, bytes, numbers, seconds};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// Where the kernel tells about a process.
pub(super) struct Source {
    folder: PathBuf,
    /// When the process was started, by the time of day at the beginning: if that is set later, a
    /// process that goes on must not look like another one.
    started_at: Option<f64>,
}

/// The process at one moment.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Process {
    cpu_seconds: Option<f64>,
    started_at: Option<f64>,
    threads: Option<f64>,
    virtual_bytes: Option<f64>,
    resident_bytes: Option<f64>,
    open_fds: Option<f64>,
    max_fds: Option<f64>,
}

impl Source {
    /// The folder of a process, in that of its machine.
    pub(super) fn open(process: &Path, machine: &Path) -> Self {
        let booted = fs::read_to_string(machine.join("stat")).ok().and_then(|stat| {
            stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok())
        });
        let after = Stat::read(process).seconds(22);
        let started_at = booted.zip(after).map(|(booted, after)| booted + after);
        Self { folder: process.to_owned(), started_at }
    }

    /// The process as it is now.
    pub(super) fn read(&self) -> Process {
        let stat = Stat::read(&self.folder);
        let spent = stat.seconds(14).zip(stat.seconds(15));
        Process {
            cpu_seconds: spent.map(|(user, system)| user + system),
            threads: stat.field(20),
            started_at: self.started_at,
            virtual_bytes: stat.field(23),
            resident_bytes: stat.field(24).map(|pages| pages * page_size() as f64),
            // One of them is the folder's own while it is read.
            open_fds: fs::read_dir(self.folder.join("fd"))
                .ok()
                .map(|fds| fds.count().saturating_sub(1) as f64),
            max_fds: getrlimit(Resource::Nofile).current.map(|limit| limit as f64),
        }
    }
}

/// What the kernel tells of a process in a line; nothing if there is none.
struct Stat(String);

impl Stat {
    fn read(process: &Path) -> Self {
        Self(fs::read_to_string(process.join("stat")).unwrap_or_default())
    }

    /// A field as numbered in proc_pid_stat(5), where the program's name is the second. It stands in
    /// parentheses and may hold anything.
    fn field(&self, number: usize) -> Option<f64> {
        let (_, rest) = self.0.rsplit_once(')')?;
        rest.split_whitespace().nth(number - 3)?.parse().ok()
    }

    /// One that counts the clock's ticks.
    fn seconds(&self, number: usize) -> Option<f64> {
        Some(self.field(number)? / clock_ticks_per_second() as f64)
    }
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut to = Families(encoder);
        let cpu = seconds("process_cpu", "User and system time spent");
        to.counter::<f64>(cpu, self.cpu_seconds)?;
        let gauges = [
            (
                seconds("process_start_time", "When the process started, since 1970"),
                self.started_at,
            ),
            (numbers("process_threads", "Threads"), self.threads),
            (bytes("process_virtual_memory", "Virtual memory"), self.virtual_bytes),
            (
                bytes("process_resident_memory", "Resident memory, the pool included"),
                self.resident_bytes,
            ),
            (numbers("process_open_fds", "Open file descriptors"), self.open_fds),
            (numbers("process_max_fds", "Most file descriptors that may be open"), self.max_fds),
        ];
        for (family, value) in gauges {
            to.gauge(family, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p12_without_proc_there_is_only_what_needs_none() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("proc");
        let process = Source::open(&missing.join("self"), &missing).read();
        let without = Process { max_fds: process.max_fds, ..Process::default() };
        assert_eq!(process, without);
    }

    #[test]
    fn what_is_not_as_it_should_be_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "1", "1 (a b) c) R", "1 (x) R 1 2 3", ")", "btime x\nbtime"] {
            fs::write(folder.path().join("stat"), text).unwrap();
            let process = Source::open(folder.path(), folder.path()).read();
            assert_eq!((process.cpu_seconds, process.started_at), (None, None), "{text:?}");
        }
    }

    #[test]
    fn the_fields_are_those_of_this_process() {
        let process = Source::open(Path::new("/proc/self"), Path::new("/proc")).read();
        assert!(process.threads >= Some(1.0));
        assert!(process.resident_bytes > Some(4096.0));
        assert!(process.virtual_bytes >= process.resident_bytes);
        assert!(process.open_fds >= Some(3.0) && process.open_fds < process.max_fds);
        assert!(process.started_at > Some(1.5e9), "{process:?}");
    }

    #[test]
    fn when_the_time_of_day_is_set_the_process_was_started_when_it_was() {
        let [process, machine] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let fields = ["0"; 18].join(" ");
        let stat = format!("1 (x) R {fields} {} 0 0\n", 30 * clock_ticks_per_second());
        fs::write(process.path().join("stat"), stat).unwrap();
        let booted = |at: u64| {
            fs::write(machine.path().join("stat"), format!("cpu 0\nbtime {at}\n")).unwrap();
        };
        booted(1_700_000_000);
        let source = Source::open(process.path(), machine.path());
        booted(1_400_000_000);
        assert_eq!(source.read().started_at, Some(1_700_000_030.0));
    }
}
