//! What the truth is told: which sessions begin and end, who ended them, and what a process heard
//! of a user while it had the vnode. It knows the store and the maps; no client and no core asks it.

use protocol::{Activity, CloseCode, Mode};
use ring::{Epoch, Vnode};
use serde_json::Value;

use super::{
    truth::{Held, Truth},
    world::World,
};

impl World {
    /// Brings what the truth says of a user up to now.
    pub(crate) fn pass(&mut self, user: usize) {
        let vnode = self.count().vnode(&format!("u{user}"));
        let processes = &self.processes;
        let accepted = self.accepted[vnode.index()];
        // Who does not reach the store hears of a successor from the bus alone, unless that was deleted.
        let away = self.store.away;
        let links = self.plan.links.then_some(&self.mesh);
        let mute = processes
            .get(accepted.by)
            .is_some_and(|owner| links.map_or(owner.kafka_cut, |mesh| mesh.is_cut(accepted.by)));
        self.truths[user].pass(self.now, |pid| {
            let process = &processes[pid];
            let deaf = (mute && process.redis_cut) || (away && process.missed);
            let deaf = deaf && accepted.by != pid;
            process.gone.or(deaf.then_some(accepted.at))
        });
    }

    pub(crate) fn pass_all(&mut self) {
        for user in 0..self.truths.len() {
            self.pass(user);
        }
    }

    /// The truth about a client's user, as of now.
    pub(super) fn truth_of(&mut self, client: usize) -> &mut Truth {
        let user = self.user(&self.clients[client].name);
        self.pass(user);
        &mut self.truths[user]
    }

    /// A client has read its welcome; whether its session's process has the vnode.
    pub(super) fn truth_begins(&mut self, client: usize, process: usize) -> bool {
        // A session of a process that has lost the vnode already is soon cut off.
        let vnode = self.count().vnode(&self.clients[client].name);
        let proper = self.has(process, vnode);
        let held = Held {
            process,
            away: self.clients[client].opening.status == Some(Activity::Away),
            forsaken: !proper,
        };
        let truth = self.truth_of(client);
        truth.sessions.insert(client, held);
        truth.cuts.remove(&client);
        if proper {
            truth.unknown = false;
        }
        proper
    }

    /// The process of the connection `conn` is no more.
    pub(crate) fn loses_process(&mut self, client: usize, conn: u64) {
        if self.clients[client]
            .line
            .as_ref()
            .is_some_and(|line| line.id == conn)
        {
            self.truth_is_cut(client);
        }
    }

    /// Notes that the server has closed the client's session.
    pub(super) fn closed(&mut self, client: usize, code: u16) {
        if code == CloseCode::MOVED.get() {
            self.truth_is_cut(client);
        } else {
            self.truth_leaves(client, true);
        }
    }

    /// A core of the process has lost a vnode: what it had not written it need not know, should it get
    /// the vnode again.
    pub(super) fn truth_is_fenced(&mut self, pid: usize, vnode: Vnode) {
        let accepted = &mut self.accepted[vnode.index()];
        accepted.let_go |= accepted.taken_by == pid;
        self.fenced.insert((pid, vnode));
        for index in self.users_of(vnode) {
            let truth = &mut self.truths[index];
            if truth.text_by == pid {
                let stored = self.store.stored(vnode, &format!("u{index}"));
                truth.lost |= stored.is_none_or(|stored| *stored.record.text != *truth.text);
            }
        }
    }

    pub(super) fn truth_leaves(&mut self, client: usize, graced: bool) {
        let taken = self.taken(client);
        self.truth_ends(client, graced, taken);
    }

    /// When and by which process the vnode of the client's user was last taken.
    fn taken(&self, client: usize) -> (u64, usize) {
        let vnode = self.count().vnode(&self.clients[client].name);
        let accepted = &self.accepted[vnode.index()];
        (accepted.since, accepted.by)
    }

    /// The cluster, not the client, has ended the session.
    pub(super) fn truth_is_cut(&mut self, client: usize) {
        let now = self.now;
        let taken = self.taken(client);
        let truth = self.truth_of(client);
        if let Some(held) = truth.sessions.get(&client).filter(|held| !held.forsaken) {
            let (at, by) = taken;
            let cut = if held.process == by { now } else { now.min(at) };
            truth.cuts.insert(client, cut);
        }
        self.truth_ends(client, true, taken);
    }

    fn truth_ends(&mut self, client: usize, graced: bool, taken: (u64, usize)) {
        let user = self.user(&self.clients[client].name);
        self.pass(user);
        let processes = &self.processes;
        let gone = |pid: usize| processes[pid].gone;
        self.truths[user].leave(client, self.now, graced, taken, gone);
    }

    /// Whether the process has the vnode now, as far as the store knows.
    fn has(&self, pid: usize, vnode: Vnode) -> bool {
        let accepted = &self.accepted[vnode.index()];
        let let_go = accepted.taken_by == pid && accepted.let_go;
        accepted.by == pid && !let_go && self.may_have(pid, vnode)
    }

    /// Whether nobody has taken the vnode from the process, in which its home core follows a map
    /// that gives it to it.
    fn may_have(&self, pid: usize, vnode: Vnode) -> bool {
        let process = &self.processes[pid];
        let seat = &process.seats[self.home(pid, vnode)];
        seat.followed.as_ref().is_some_and(|map| {
            map.owner(vnode).is_some_and(|(node, epoch)| {
                node.boot == process.boot && epoch >= self.accepted[vnode.index()].highest
            })
        })
    }

    fn epoch_of(&self, pid: usize, vnode: Vnode) -> Epoch {
        let seat = &self.processes[pid].seats[self.home(pid, vnode)];
        let followed = seat.followed.as_ref();
        followed.map_or(Epoch::default(), |map| map.epoch(vnode))
    }

    /// A process gets a message of a session: from now on that is how its user is.
    pub(crate) fn heeds(&mut self, pid: usize, conn: u64, client: usize, text: &str) {
        let state = &self.processes[pid].conns[&conn];
        let Some(session) = state.session else {
            return;
        };
        let core = &self.processes[pid].seats[state.core].core;
        let vnode = self.count().vnode(&self.clients[client].name);
        let fenced = !self.may_have(pid, vnode);
        if core.user_of(session).is_none() {
            return;
        }
        let message: Value = serde_json::from_str(text).expect("clients speak well");
        if message["type"] != "status" {
            return;
        }
        let now = self.now;
        self.note(|| {
            format!(
                "p{pid} hears {text} of {}, fenced: {fenced}",
                self.who(client)
            )
        });
        // Of its own session a process knows how the device is, should it get the vnode again.
        let line = self.clients[client].line.as_ref();
        let is_newest = line.is_some_and(|line| line.id == conn);
        if let Some(word) = message["status"].as_str().filter(|_| !fenced || is_newest)
            && let Some(held) = self.truth_of(client).sessions.get_mut(&client)
        {
            held.away = word == "away";
        }
        if fenced {
            if let Some(mode) = message["mode"].as_str() {
                // It is what the user wants, even if only the one who lost it hears it.
                let truth = self.truth_of(client);
                truth.hidden_by = (mode == "invisible").then_some(pid);
                if mode == "invisible" {
                    truth.rightly_offline = now;
                }
            }
            if let Some(text) = message["text"].as_str() {
                self.truth_of(client).kept = Some((pid, text.to_owned()));
            }
            self.truth_of(client).set_at = now;
            let there = self.store.epoch(vnode);
            let accepts = there > Epoch::default() && self.epoch_of(pid, vnode) >= there;
            if message["mode"].is_string() && accepts {
                // A store that lost the claim takes it all the same.
                let nobody = (usize::MAX, Mode::Auto);
                self.truth_of(client).early.get_or_insert(nobody);
            }
            return;
        }
        let has = self.has(pid, vnode);
        let truth = self.truth_of(client);
        if let Some(text) = message["text"].as_str() {
            truth.set_at = now;
            truth.text = text.to_owned();
            truth.text_at = now;
            truth.text_by = pid;
            truth.text_had = has;
            truth.kept = None;
            truth.lost = false;
        }
        if let Some(mode) = message["mode"].as_str().and_then(Mode::parse) {
            truth.mode = mode;
            truth.mode_lost = false;
            truth.kept_mode = None;
            truth.mode_by = has.then_some(pid);
            truth.set_at = now;
            if !has {
                truth.early = Some((pid, mode));
            } else if truth.early.is_some_and(|(by, _)| by == pid) {
                truth.early = None;
            }
        }
        // What it is now it was until now as well.
        self.truth_of(client);
    }
}
