//! Metrics of the process, by the names that every program has for them. What the kernel does not
//! tell is left out, as where there is no `/proc`.

use super::families::{Families, bytes, numbers, seconds};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};
use std::{fmt, fs, path::Path};

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

impl Process {
    /// Reads what the folder of a process tells, and when the machine was started.
    pub(super) fn read(process: &Path, machine: &Path) -> Self {
        let stat = fs::read_to_string(process.join("stat")).ok();
        // The program's name stands in parentheses and may hold anything.
        let fields = stat.as_deref().and_then(|stat| stat.rsplit_once(')'));
        let fields: Vec<_> = fields.map_or("", |(_, rest)| rest).split_whitespace().collect();
        // As numbered in proc_pid_stat(5), where the name is the second.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks = clock_ticks_per_second() as f64;
        let booted = fs::read_to_string(machine.join("stat")).ok().and_then(|stat| {
            stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok())
        });
        let spent = field(14).zip(field(15));
        Self {
            cpu_seconds: spent.map(|(user, system)| (user + system) / ticks),
            threads: field(20),
            started_at: booted.zip(field(22)).map(|(booted, after)| booted + after / ticks),
            virtual_bytes: field(23),
            resident_bytes: field(24).map(|pages| pages * page_size() as f64),
            // One of them is the folder's own while it is read.
            open_fds: fs::read_dir(process.join("fd"))
                .ok()
                .map(|fds| fds.count().saturating_sub(1) as f64),
            max_fds: getrlimit(Resource::Nofile).current.map(|limit| limit as f64),
        }
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
        let process = Process::read(&missing.join("self"), &missing);
        let without = Process { max_fds: process.max_fds, ..Process::default() };
        assert_eq!(process, without);
    }

    #[test]
    fn what_is_not_as_it_should_be_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "1", "1 (a b) c) R", "1 (x) R 1 2 3", ")", "btime x\nbtime"] {
            fs::write(folder.path().join("stat"), text).unwrap();
            let process = Process::read(folder.path(), folder.path());
            assert_eq!((process.cpu_seconds, process.started_at), (None, None), "{text:?}");
        }
    }

    #[test]
    fn the_fields_are_those_of_this_process() {
        let process = Process::read(Path::new("/proc/self"), Path::new("/proc"));
        assert!(process.threads >= Some(1.0));
        assert!(process.resident_bytes > Some(4096.0));
        assert!(process.virtual_bytes >= process.resident_bytes);
        assert!(process.open_fds >= Some(3.0) && process.open_fds < process.max_fds);
        assert!(process.started_at > Some(1.5e9), "{process:?}");
    }
}
