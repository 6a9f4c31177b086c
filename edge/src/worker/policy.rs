//! What administrators decree, on a core: sessions whose token is revoked end, and who is blocked
//! watches no more, whose steps are told, and what is asked of all cores. It owns which policy the core
//! has followed.

use std::{cmp::Reverse, sync::Arc};

use presence::{Core, How, SessionId};
use protocol::{
    CloseCode,
    policy::Issued,
    survey::{About, Found, MAX_NAMED, Named},
};

use super::{Conn, Worker};
use crate::clock;

impl Worker {
    /// With each tick: follows the policy in force, when it is another one.
    pub(super) fn follow_policy(&self) {
        let policy = self.shared.keys.policy();
        let before = self.policy.replace(Arc::clone(&policy));
        if Arc::ptr_eq(&before, &policy) {
            return;
        }
        let news = policy.news_since(&before);
        let mut core = self.core.borrow_mut();
        core.at(clock::now());
        let conns = self.conns.borrow();
        let mut revoked: Vec<SessionId> = Vec::new();
        for (user, before) in &news.users {
            let issued = |id: &SessionId| {
                let conn = conns.get(id.index as usize)?.as_ref()?;
                Some(conn.issued)
            };
            let sessions = core.sessions_of(user).into_iter();
            let is_before = |id: &SessionId| issued(id).is_some_and(|it: Issued| it.at < *before);
            revoked.extend(sessions.filter(is_before));
        }
        if news.are_of_all() {
            let all = conns.iter().flatten();
            revoked.extend(
                all.filter(|conn| news.revoke(conn.issued))
                    .map(|conn| conn.id),
            );
        }
        for id in revoked {
            self.revoke(&mut core, id);
        }
        let traced = policy.traced();
        if traced != before.traced() {
            core.trace_users(&traced);
        }
        for survey in policy.surveys_since(&before) {
            let found = found(&core, &conns, &survey.about);
            self.shared.surveys.answer(survey, found);
        }
        core.follow_policy(policy, &news.watched);
        drop(core);
        self.schedule_pump();
    }

    /// Ends a session whose token is revoked.
    pub(crate) fn revoke(&self, core: &mut presence::Core, id: SessionId) {
        if core.user_of(id).is_some() {
            self.stats.borrow_mut().revoked += 1;
            let reason = "the token was revoked";
            core.close(id, How::Broken, CloseCode::BAD_TOKEN, reason);
        }
    }
}

/// What this core answers.
fn found(core: &Core, conns: &[Option<Box<Conn>>], about: &About) -> Found {
    let (total, sessions): (usize, Vec<Named>) = match about {
        About::Watchers(user) => {
            let watchers = core.watchers_of(user);
            let total = watchers.len();
            (
                total,
                watchers.take(MAX_NAMED).map(|id| named(core, id)).collect(),
            )
        }
        About::Slow => {
            let slow = conns
                .iter()
                .flatten()
                .filter(|conn| !conn.outbox().is_empty());
            let mut slow: Vec<_> = slow
                .map(|conn| {
                    let backlog = core.backlog_of(conn.id);
                    (conn.outbox().len() as u64 + backlog.bytes, conn.id, backlog)
                })
                .collect();
            slow.sort_unstable_by_key(|(bytes, id, _)| Reverse((*bytes, *id)));
            let most = slow.iter().take(MAX_NAMED);
            let most = most.map(|(bytes, id, backlog)| Named {
                bytes: *bytes,
                changes: backlog.changes,
                blocked_ms: backlog.blocked,
                ..named(core, *id)
            });
            (slow.len(), most.collect())
        }
    };
    Found {
        total: total as u64,
        sessions,
    }
}

fn named(core: &Core, id: SessionId) -> Named {
    Named {
        user: core.user_of(id).unwrap_or_default().into(),
        session: core.session_name(id).into(),
        ..Named::default()
    }
}
