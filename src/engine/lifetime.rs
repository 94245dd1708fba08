//! How long a session stays open: until a call closes it, its time to live passes, or the client that
//! owns it goes away.
//!
//! The time to live runs while no client is attached and no switch of the session runs. It starts
//! anew when a call names the session, a switch of it ends, or a client attaches or detaches.

use super::{
    EngineError, EventKind, MemberId, Peer, SessionStatus, check_name,
    model::{Context, Model, SESSION_NAME},
    outlook::Outlook,
    session::Session,
};
use crate::{
    admission::{Limits, is_privileged},
    device::{MAX_SESSIONS, SessionEntry},
};
use std::time::Duration;

/// An owned session without a time to live closes when no client attaches for this long.
const UNOWNED: Duration = Duration::from_secs(30);

/// How long a session is to stay open; by default until a call closes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// The session closes when this long passes without a call that names it.
    pub ttl: Option<Duration>,
    /// Whether the first client that attaches owns the session, which then closes when that client
    /// detaches.
    pub owned: bool,
}

/// Why a session was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// A call closed it: of this process, where the kernel says so.
    Call(Option<Peer>),
    /// Its time to live passed.
    Expired,
    /// The client that owned it detached.
    Owner,
}

/// What keeps a session open.
pub(super) struct Life {
    pub(super) lifetime: Lifetime,
    /// The client that owns the session, once it is attached.
    pub(super) owner: Option<(MemberId, Peer)>,
    /// The process that opened the session in this run of the daemon.
    opener: Option<Peer>,
    /// When the time to live began to run.
    pub(super) renewed: Duration,
    /// The session is closed, but clients are still attached to its place in the table, and may
    /// read under leases. Calls do not find it, and its name is free.
    pub(super) ended: bool,
}

impl Life {
    pub(super) fn new(now: Duration, lifetime: Lifetime) -> Self {
        Self { lifetime, owner: None, opener: None, renewed: now, ended: false }
    }
}

impl Session {
    /// When the session closes if nothing happens; `None` while its time to live does not run.
    fn expires_at(&self) -> Option<Duration> {
        let Life { lifetime: Lifetime { ttl, owned }, renewed, ended, .. } = self.life;
        if ended || self.pending.is_some() || self.clients() > 0 {
            return None;
        }
        let ttl = ttl.or(owned.then_some(UNOWNED))?;
        Some(renewed.saturating_add(ttl))
    }

    /// How long the session stays open if nothing happens; `None` while its time to live does not
    /// run.
    pub(super) fn remaining(&self, now: Duration) -> Option<Duration> {
        self.expires_at().map(|at| at.saturating_sub(now))
    }
}

impl Model {
    pub(super) fn open_session(
        &mut self,
        now: Duration,
        name: &str,
        lifetime: Lifetime,
        opener: Option<Peer>,
    ) -> Result<SessionStatus, EngineError> {
        self.check_share(opener)?;
        let entry = self.add_session(now, name, lifetime)?;
        let Some(session) = self.session(entry) else { return Err(EngineError::Stopped) };
        session.life.opener = opener;
        let opened = EventKind::Opened { session: session.name.clone(), caller: opener };
        self.events.push(opened);
        let session = self.sessions[entry.number() as usize].as_ref();
        session.map(|session| self.session_status(now, session)).ok_or(EngineError::Stopped)
    }

    /// Refuses a process or a user that has opened its share of the model's sessions. Root and the
    /// daemon's own user have no share: they open sessions for others.
    fn check_share(&self, opener: Option<Peer>) -> Result<(), EngineError> {
        let Some(opener) = opener.filter(|opener| !is_privileged(opener.uid)) else {
            return Ok(());
        };
        let Limits { per_user, per_process, .. } = Limits::shared(MAX_SESSIONS);
        let of_user = self.open_sessions().filter_map(|session| session.life.opener);
        let of_user: Vec<_> = of_user.filter(|other| other.uid == opener.uid).collect();
        if of_user.len() >= per_user {
            return Err(EngineError::TooManySessionsOf { whom: "user", limit: per_user });
        }
        if of_user.iter().filter(|other| other.pid == opener.pid).count() >= per_process {
            return Err(EngineError::TooManySessionsOf { whom: "process", limit: per_process });
        }
        Ok(())
    }

    /// Opens a session that starts above all generations of earlier runs.
    pub(super) fn add_session(
        &mut self,
        now: Duration,
        name: &str,
        lifetime: Lifetime,
    ) -> Result<SessionEntry, EngineError> {
        check_name(SESSION_NAME, name)?;
        if self.served_sessions().any(|session| &*session.name == name) {
            return Err(EngineError::SessionExists(name.into()));
        }
        let full = EngineError::TooManySessions(MAX_SESSIONS);
        let place = self.sessions.iter().position(Option::is_none).ok_or(full.clone())?;
        let entry = SessionEntry::new(place as u32).ok_or(full)?;
        let life = Life::new(now, lifetime);
        let mut session = Session::new(name, entry, self.shelf.take(name), life);
        session.active.generation = self.generations.first;
        self.residency.table().publish(entry, session.active);
        // A daemon after this one has nothing to do with a session whose owner ends with this one.
        if !lifetime.owned {
            self.roster.note(entry, Some(name));
        }
        self.sessions[place] = Some(session);
        Ok(entry)
    }

    /// The session that a call names, whose time to live starts anew.
    pub(super) fn called_session(
        &mut self,
        now: Duration,
        name: &str,
    ) -> Result<SessionEntry, EngineError> {
        let entry = self.find_session(name)?;
        if let Some(session) = self.session(entry) {
            session.life.renewed = now;
        }
        Ok(entry)
    }

    /// When the first session closes if nothing happens.
    pub(super) fn next_session_end(&self) -> Option<Duration> {
        self.open_sessions().filter_map(Session::expires_at).min()
    }

    /// Closes sessions whose time to live has passed.
    pub(super) fn close_expired(&mut self, cx: &mut Context<'_>) {
        let is_over = |session: &&Session| session.expires_at().is_some_and(|at| at <= cx.now);
        let over: Vec<_> = self.open_sessions().filter(is_over).map(|s| s.entry).collect();
        over.into_iter().for_each(|entry| self.end_session(cx, entry, SessionEnd::Expired));
    }

    /// Closes a session. Clients that are still attached learn that their attachment has ended. What
    /// they read under a lease stays pinned until they let go of it or detach, and until all have
    /// detached, no other session gets the place in the table that they look at.
    pub(super) fn end_session(&mut self, cx: &Context<'_>, entry: SessionEntry, end: SessionEnd) {
        // Nobody is left who would want the task back that it may have given up.
        self.forget_given_up(entry);
        self.fail(entry, &EngineError::SessionClosed);
        self.withdraw();
        self.settle_leases(cx);
        let fresh = Outlook::new(self.shelf.fresh());
        let Some(session) = self.session(entry) else { return };
        let (name, outlook) =
            (session.name.clone(), std::mem::replace(&mut session.outlook, fresh));
        session.life.ended = true;
        session.end_members(|_| true);
        self.serve(cx.now, entry, None);
        self.roster.note(entry, None);
        self.shelf.put(&name, outlook);
        self.foresight.changed(cx.now);
        self.events.push(EventKind::Closed { session: name, end });
        self.vacate(entry);
    }

    /// Ends the attachments of a process to a session. Its leases are still respected, and its places
    /// are taken until it closes its connections.
    pub(super) fn end_attachment(
        &mut self,
        cx: &Context<'_>,
        session: &str,
        pid: u32,
        caller: Option<Peer>,
    ) -> Result<usize, EngineError> {
        let entry = self.find_session(session)?;
        let Some(session) = self.session(entry) else { return Err(EngineError::Stopped) };
        let name = session.name.clone();
        let ended = session.end_members(|peer| peer.pid == pid);
        if ended.is_empty() {
            return Err(EngineError::NotAttached { session: name.to_string(), pid });
        }
        session.life.renewed = cx.now;
        let owner = session.life.owner.map(|(owner, _)| owner);
        let closes = ended.iter().any(|(member, _)| Some(*member) == owner);
        let told = ended.iter().map(|(_, peer)| EventKind::AttachmentEnded {
            session: name.clone(),
            peer: *peer,
            caller,
        });
        self.events.extend(told);
        if closes {
            self.end_session(cx, entry, SessionEnd::Owner);
        }
        Ok(ended.len())
    }

    /// Frees the place of a session that has ended, if no client is attached any more.
    fn vacate(&mut self, entry: SessionEntry) {
        let is_over = |session: &mut Session| session.life.ended && session.is_vacant();
        let place = &mut self.sessions[entry.number() as usize];
        let Some(session) = place.take_if(is_over) else { return };
        for draining in session.draining {
            self.residency.unpin(draining.old.task);
        }
        self.residency.table().publish(entry, Session::START);
    }

    /// Takes note that a client has detached. A session that it owned closes.
    pub(super) fn detach(&mut self, cx: &Context<'_>, member: MemberId) {
        let left = self.sessions.iter_mut().flatten().find_map(|session| {
            let peer = session.leave(member)?;
            session.life.renewed = cx.now;
            let owner = session.life.owner.is_some_and(|(owner, _)| owner == member);
            let owner = owner && !session.life.ended;
            Some((session.entry, session.name.clone(), peer, owner))
        });
        let Some((entry, session, peer, owner)) = left else { return };
        self.events.push(EventKind::Detached { session, peer });
        if owner {
            self.end_session(cx, entry, SessionEnd::Owner);
        } else {
            self.vacate(entry);
        }
    }
}
