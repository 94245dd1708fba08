//! `doctor`: what this machine offers to the daemon, and what would make it offer more.
//!
//! Looks; changes nothing. Whether a configuration is right is `config check`'s business.

use super::{OutputArgs, failure::Failure, output};
use crate::{
    device::{MemInfo, Pool},
    storage::{BlockFile, Resources, Uring, in_memory},
    units::BLOCK_ALIGN,
};
use clap::Args;
use rustix::{
    process::{Resource, getrlimit},
    system::uname,
};
use serde::Serialize;
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::NamedTempFile;

/// Large enough for a huge page, whatever its place.
const SAMPLE_BYTES: u64 = 8 << 20;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// A bundle, or any file where bundles lie: whether it can be read past the page cache.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// All that was looked at.
#[derive(Debug, Serialize)]
struct Diagnosis {
    findings: Vec<Finding>,
}

/// One thing.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    /// Whether the daemon is at its best with it.
    good: bool,
    /// What was found.
    found: String,
    /// What would make it better.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

/// Looks, and tells.
pub(super) fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let io_uring = io_uring(args.file.as_deref())?;
    let mut findings = vec![kernel(), io_uring, locked_memory(), memory(), huge_pages()];
    if let Some(path) = &args.file {
        findings.push(direct_reads(path)?);
    }
    let diagnosis = Diagnosis { findings };
    if args.output.json {
        output::print_json(&diagnosis)
    } else {
        output::print(&diagnosis.render())
    }
}

impl Diagnosis {
    fn render(&self) -> String {
        let mut text = String::new();
        for Finding { what, good, found, advice } in &self.findings {
            let mark = if *good { "ok" } else { "--" };
            text += &format!("{mark}  {what}: {found}\n");
            if let Some(advice) = advice {
                text += &format!("    {advice}\n");
            }
        }
        text
    }
}

fn kernel() -> Finding {
    let system = uname();
    let found =
        format!("{} {}", system.release().to_string_lossy(), system.machine().to_string_lossy());
    Finding { what: "kernel", good: true, found, advice: None }
}

/// Reads a file of the temporary folder, or the given one.
fn io_uring(file: Option<&Path>) -> Result<Finding, Failure> {
    let mut sample = NamedTempFile::new().map_err(Failure::failed)?;
    sample.write_all(&[0; BLOCK_ALIGN as usize]).map_err(Failure::failed)?;
    let path = file.unwrap_or(sample.path());
    let failed = |error| Failure::failed(format!("cannot open {}: {error}", path.display()));
    let files = vec![Arc::new(BlockFile::open(path).map_err(failed)?)];
    let resources = Resources { files, pools: Vec::new() };
    let (good, found, advice) = match Uring::start(1, resources, Arc::new(|_| {})) {
        Ok(_) => (true, "can be used".into(), None),
        Err(error) => {
            let advice = "blocks are read by blocking calls on threads instead, which is slower";
            (false, error.to_string(), Some(advice))
        }
    };
    Ok(Finding { what: "io_uring", good, found, advice })
}

fn locked_memory() -> Finding {
    let limit = getrlimit(Resource::Memlock).current;
    let unbound = may_lock_all();
    let found = match limit {
        None => "no limit".into(),
        Some(bytes) if unbound => {
            format!("limit {}, which does not bind this user (CAP_IPC_LOCK)", output::bytes(bytes))
        }
        Some(bytes) => format!("limit {}", output::bytes(bytes)),
    };
    let good = limit.is_none() || unbound;
    let advice = "raise LimitMEMLOCK= (ulimit -l) above the size of the pools, or set `lock_memory: \
                  false`";
    Finding { what: "locked memory", good, found, advice: (!good).then_some(advice) }
}

/// Whether this process has CAP_IPC_LOCK.
fn may_lock_all() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set >> CAP_IPC_LOCK & 1 == 1)
}

fn memory() -> Finding {
    let available = MemInfo::read().available_bytes.unwrap_or_default();
    let found = format!("{} available", output::bytes(available));
    Finding { what: "memory", good: true, found, advice: None }
}

/// Asks for memory as a pool does, and looks what it got.
fn huge_pages() -> Finding {
    let got = Pool::of_slots(SAMPLE_BYTES, 1).map_or(0, |(pool, _)| pool.huge_bytes());
    let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    let setting = setting.unwrap_or_default();
    let chosen = setting.split(['[', ']']).nth(1).unwrap_or("unknown");
    let info = MemInfo::read();
    let found = format!(
        "{} of {} asked for; shmem_enabled is {chosen}, {} reserved pages of {} are free",
        output::bytes(got),
        output::bytes(SAMPLE_BYTES),
        info.free_huge_pages,
        output::bytes(info.huge_page_bytes),
    );
    let good = got > 0;
    let advice = "reads into small pages can take twice as long: write `advise` to \
                  /sys/kernel/mm/transparent_hugepage/shmem_enabled, or reserve pages \
                  (vm.nr_hugepages) for the pools";
    Finding { what: "huge pages", good, found, advice: (!good).then_some(advice) }
}

fn direct_reads(path: &Path) -> Result<Finding, Failure> {
    let failed = |error| Failure::failed(format!("cannot open {}: {error}", path.display()));
    let file = BlockFile::open(path).map_err(failed)?;
    let (found, advice) = match (file.direct(), in_memory(&file)) {
        (true, _) => ("past the page cache (O_DIRECT)", None),
        (false, true) => (
            "the file lies in memory (tmpfs)",
            Some("nothing is gained by a pool of memory before it: put bundles on a disk"),
        ),
        (false, false) => (
            "through the page cache: the file system does not honour O_DIRECT",
            Some("put bundles on another file system, such as ext4 or XFS, without fs-verity"),
        ),
    };
    let good = file.direct();
    Ok(Finding { what: "reads of the file", good, found: found.into(), advice })
}
