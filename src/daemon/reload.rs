//! Another configuration while the daemon runs: what can change does, and where anything differs that
//! cannot, nothing does.
//!
//! Where configurations come from is not known here.

use super::{
    aside::aside,
    hangups::Hangups,
    limits,
    status::{Remarks, cut},
    systemd::Notifier,
};
use crate::{
    admission::{Admission, Limits},
    config::{Config, ConfigError, Listen, LogConfig, Role},
    engine::{Command, Handle, Peer, RunError},
    observe::{FilterError, Hub, LogGuard},
    proto::{ConfigReloaded, event::Kind},
};
use sd_notify::NotifyState;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::watch;

/// Longest text of an error.
const MOST_BYTES: usize = 1024;

/// Reads the configuration again.
pub type Reread = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Why a configuration is not taken over.
#[derive(Debug, Error)]
enum Refused {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{} cannot change while the daemon runs: restart it for that", .0.join(", "))]
    Fixed(Vec<&'static str>),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("the configuration cannot be read: {0}")]
    Thread(#[from] RunError),
}

/// What goes by the configuration and can change with it.
pub(super) struct Reloader<'a> {
    pub(super) config: Config,
    /// Nothing is loaded ahead, whatever the configuration says.
    pub(super) safe_mode: bool,
    pub(super) reread: Reread,
    pub(super) log: &'a LogGuard,
    pub(super) engine: Handle,
    pub(super) admissions: Admissions,
    pub(super) remarks: watch::Sender<Remarks>,
    pub(super) hub: Arc<Hub>,
    /// Reloads that were refused.
    pub(super) refused: u64,
}

/// Who may connect to each socket.
#[derive(Clone, Debug)]
pub(super) struct Admissions {
    pub(super) control: Admission,
    pub(super) tcp: Admission,
    pub(super) attach: Admission,
}

impl Admissions {
    pub(super) fn new(config: &Config) -> Self {
        let (control, attach) = limits_of(config);
        let new = |name, needed, limits| Admission::new(name, needed, config.peers.clone(), limits);
        Self {
            control: new("control", Role::Observe, control),
            tcp: new("tcp", Role::Observe, control),
            attach: new("attach", Role::Attach, attach),
        }
    }

    fn change(&self, config: &Config) {
        let (control, attach) = limits_of(config);
        for (admission, limits) in
            [(&self.control, control), (&self.tcp, control), (&self.attach, attach)]
        {
            admission.change(config.peers.clone(), limits);
        }
    }
}

/// The limits of the control and of the attach socket.
fn limits_of(config: &Config) -> (Limits, Limits) {
    let shared = Limits::shared(config.limits.connections);
    (shared, Limits { per_process: config.limits.attachments_per_process, ..shared })
}

impl Reloader<'_> {
    /// Reloads whenever SIGHUP comes.
    pub(super) async fn attend(&mut self, hangups: &mut Hangups, notifier: &Notifier) {
        loop {
            let sender = hangups.next().await;
            self.reload(sender, notifier).await;
        }
    }

    /// Takes the configuration over as it is now, or says why not and goes on with the old one.
    async fn reload(&mut self, sender: Option<Peer>, notifier: &Notifier) {
        let mut reloading = vec![NotifyState::Reloading];
        reloading.extend(NotifyState::monotonic_usec_now());
        notifier.tell(&reloading).await;
        let (caller_pid, caller_uid) = (sender.map(|peer| peer.pid), sender.map(|peer| peer.uid));
        let (outcome, error) = match self.take_over().await {
            Ok(()) => {
                tracing::info!(caller_pid, caller_uid, "reloaded");
                ("reloaded".to_owned(), String::new())
            }
            Err(error) => {
                self.refused += 1;
                // A configuration has a line for each problem; a log has one for all.
                let error = brief(error.to_string().replace('\n', "; "));
                let what = "reload refused: the old configuration stays";
                tracing::error!(caller_pid, caller_uid, refused = self.refused, %error, "{what}");
                (format!("reload refused ({} so far): {error}", self.refused), error)
            }
        };
        self.hub
            .tell(Kind::ConfigReloaded(ConfigReloaded { error, caller: sender.map(Into::into) }));
        self.remarks.send_modify(|remarks| remarks.reload = Some(outcome));
        let serving = self.engine.serving().await.unwrap_or_default();
        let line = super::status::line(&serving, &self.remarks.borrow());
        notifier.tell(&[NotifyState::Ready, NotifyState::Status(&line)]).await;
    }

    async fn take_over(&mut self) -> Result<(), Refused> {
        let reread = self.reread.clone();
        // It reads files, whose device may be slow.
        let config = aside("reload", move || reread()).await??;
        let fixed = fixed(&self.config, &config);
        if !fixed.is_empty() {
            return Err(Refused::Fixed(fixed));
        }
        // First of all, as nothing else can be refused.
        self.log.set_filter(&config.log.filter)?;
        self.engine.tell(Command::Configure(limits(&config, self.safe_mode))).await;
        self.admissions.change(&config);
        self.config = config;
        Ok(())
    }
}

/// As much of an error as a notice has room for beside what is served: see `status`.
fn brief(mut error: String) -> String {
    if cut(&mut error, MOST_BYTES) {
        error += "… (`config check` tells all)";
    }
    error
}

/// Keys whose values differ, and that cannot change while the daemon runs.
fn fixed(old: &Config, new: &Config) -> Vec<&'static str> {
    let Config {
        listen: Listen { control, attach, tcp, metrics, metrics_socket, reflection, mode, group },
        models,
        lock_memory,
        storage,
        state_dir,
        log: LogConfig { format, filter: _ },
        peers: _,
        prefetch: _,
        limits: _,
    } = old;
    let differs = [
        ("listen.control", *control != new.listen.control),
        ("listen.attach", *attach != new.listen.attach),
        ("listen.tcp", *tcp != new.listen.tcp),
        ("listen.metrics", *metrics != new.listen.metrics),
        ("listen.metrics_socket", *metrics_socket != new.listen.metrics_socket),
        ("listen.reflection", *reflection != new.listen.reflection),
        ("listen.mode", *mode != new.listen.mode),
        ("listen.group", *group != new.listen.group),
        ("models", *models != new.models),
        ("lock_memory", *lock_memory != new.lock_memory),
        ("storage", *storage != new.storage),
        ("state_dir", *state_dir != new.state_dir),
        ("log.format", *format != new.log.format),
    ];
    differs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{Monotonic, Runtime},
        observe::log_to,
    };
    use std::{io, path::Path};

    fn config(more: &str) -> Config {
        let text = format!("models: [{{bundle: /m, pool_bytes: 1MiB}}]\n{more}\n");
        Config::parse(&text, Path::new("test.yaml")).unwrap()
    }

    #[test]
    fn c7_a_filter_that_is_none_is_refused_and_changes_nothing_else() {
        let old = config("");
        let log = log_to(io::sink(), &old.log);
        // Whoever checks configurations lets none through that has such a filter.
        let mut bad = config("limits: {attachments_per_process: 1}");
        bad.log.filter = "=x=y".into();
        let (engine, _runtime) = Runtime::with_storage(&[], |_, _| unreachable!()).unwrap();
        let mut reloader = Reloader {
            admissions: Admissions::new(&old),
            config: old.clone(),
            safe_mode: false,
            reread: Arc::new(move || Ok(bad.clone())),
            log: &log,
            engine: engine.clone(),
            remarks: watch::Sender::new(Remarks::default()),
            hub: Hub::new(Arc::new(Monotonic::start())),
            refused: 0,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let refused = runtime.block_on(reloader.take_over()).unwrap_err();
        assert!(matches!(refused, Refused::Filter(_)), "{refused}");
        assert!(refused.to_string().starts_with("log.filter: "), "{refused}");
        assert_eq!(reloader.config.limits, old.limits);
        assert_eq!(engine.commands_waiting(), 0, "the engine hears nothing of it");
    }
}
