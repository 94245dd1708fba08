//! One measurement at a time. Each leaves the daemon with task `from` or `to` active, and brings
//! about what it needs itself, untimed.

use super::{Pair, daemon::Client, fio::Fio};
use crate::{
    bundle::Bundle,
    cli::{failure::Failure, interrupt::Interrupt, reader::Reader},
    proto::{SwitchOutcome, SwitchTaskResponse},
};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// Calls of a round.
const CALLS: usize = 200;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Reading as many bytes as the difference has, in one piece, from where it begins.
    Sequential,
    /// The same by four threads that call `preadv`.
    Pread,
    /// The same by fio.
    Fio,
    /// A switch that reads the whole difference.
    Cold,
    /// A switch of which half is there.
    Half,
    /// Reading as many bytes as the whole task has, in one piece.
    Reload,
    /// Switches between resident tasks, and empty calls between them.
    Calls,
}

/// What was measured under one name.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) bytes: u64,
    pub(super) samples: Vec<Duration>,
}

/// Everything that measuring needs.
pub(super) struct Bench<'a> {
    pub(super) pair: Pair,
    pub(super) bundle: &'a Bundle,
    pub(super) path: &'a Path,
    pub(super) reader: Reader<'a>,
    pub(super) blocking: Reader<'a>,
    pub(super) fio: Option<Fio>,
    pub(super) interrupt: &'a Interrupt,
    pub(super) series: Vec<Series>,
}

impl What {
    /// All of them.
    pub(super) fn all(with_fio: bool) -> Vec<Self> {
        let mut all =
            vec![Self::Sequential, Self::Pread, Self::Cold, Self::Half, Self::Reload, Self::Calls];
        all.extend(with_fio.then_some(Self::Fio));
        all
    }
}

impl Bench<'_> {
    /// Measures once.
    pub(super) async fn measure(&mut self, client: &mut Client, what: What) -> Result<(), Failure> {
        self.interrupt.check()?;
        let Pair { diff, task, first, .. } = self.pair;
        match what {
            What::Sequential => {
                let time = self.reader.read(first.0, diff, self.interrupt)?;
                self.note("sequential", diff, time);
            }
            What::Pread => {
                let time = self.blocking.read(first.0, diff, self.interrupt)?;
                self.note("pread4", diff, time);
            }
            What::Reload => {
                let time = self.reader.read(0, task, self.interrupt)?;
                self.note("reload", task, time);
            }
            What::Fio => {
                let offset = self.bundle.block_offset(first);
                let bytes = diff as u64 * self.bundle.block().bytes();
                let time = self.fio.as_ref().map(|fio| fio.read(self.path, offset, bytes));
                if let Some(time) = time.transpose()? {
                    self.note("fio", diff, time);
                }
            }
            What::Cold => self.cold(client, "cold", diff).await?,
            What::Half => self.cold(client, "half", diff / 2).await?,
            What::Calls => self.calls(client).await?,
        }
        Ok(())
    }

    /// A switch of which so many blocks are not there.
    async fn cold(
        &mut self,
        client: &mut Client,
        name: &'static str,
        missing: usize,
    ) -> Result<(), Failure> {
        self.bring_both(client).await?;
        // Only what `from` has not is cached, so all of it can go.
        client.trim(missing).await?;
        let (answer, time) = self.switch_to(client).await?;
        let read = answer.read.unwrap_or_default().blocks as usize;
        if read != missing {
            return Err(Failure::failed(format!(
                "a switch that should have read {missing} blocks has read {read}"
            )));
        }
        self.note(name, missing, time);
        if missing == self.pair.diff {
            let timing = answer.timing.unwrap_or_default();
            let phases = [
                ("cold: plan", timing.plan_us),
                ("cold: read", timing.read_us),
                ("cold: verify", timing.verify_us),
            ];
            for (name, us) in phases {
                self.note(name, 0, Duration::from_micros(us));
            }
        }
        Ok(())
    }

    /// Both tasks are resident and `from` is active.
    async fn bring_both(&mut self, client: &mut Client) -> Result<(), Failure> {
        client.switch(&self.pair.to).await?;
        client.switch(&self.pair.from).await.map(drop)
    }

    async fn switch_to(
        &mut self,
        client: &mut Client,
    ) -> Result<(SwitchTaskResponse, Duration), Failure> {
        let begun = Instant::now();
        let answer = client.switch(&self.pair.to).await?;
        Ok((answer, begun.elapsed()))
    }

    async fn calls(&mut self, client: &mut Client) -> Result<(), Failure> {
        self.bring_both(client).await?;
        for call in 0..CALLS {
            self.interrupt.check()?;
            let begun = Instant::now();
            client.empty_call().await?;
            self.note("rpc_empty", 0, begun.elapsed());
            let task = if call % 2 == 0 { self.pair.to.clone() } else { self.pair.from.clone() };
            let begun = Instant::now();
            let answer = client.switch(&task).await?;
            self.note("rpc_switch", 0, begun.elapsed());
            if answer.outcome() != SwitchOutcome::Resident {
                let outcome = answer.outcome().as_str_name();
                return Err(Failure::failed(format!("a resident switch was {outcome}")));
            }
            let timing = answer.timing.unwrap_or_default();
            let engine = timing.total_us.saturating_sub(timing.queue_us);
            self.note("resident", 0, Duration::from_micros(engine));
        }
        Ok(())
    }

    fn note(&mut self, name: &'static str, blocks: usize, time: Duration) {
        let bytes = blocks as u64 * self.bundle.block().bytes();
        match self.series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.samples.push(time),
            None => self.series.push(Series { name, bytes, samples: vec![time] }),
        }
    }
}
