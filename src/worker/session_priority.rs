//! When the rules of which sessions matter are evaluated: before a daily quota is spent on what came in since, and now
//! and then, because a session's commands and downloads come after it.
//!
//! The rules are code of table owners, so owner processes evaluate them. This says for which owners an evaluation is under
//! way and how far each one is.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::due::{naptime, retry_pause};
use crate::pg::clock;
use crate::pg::owner_slot::OwnerSlot;
use crate::pg::spi::Connection;
use crate::provider::Provider;
use crate::store::Home;
use crate::store::session_priority::{self, has_quota};

/// How often the rules are evaluated while lookups wait, in microseconds.
const AGAIN_AFTER: i64 = 600_000_000;
/// How long a quota waits for an evaluation to end, in microseconds.
const HOLDS_FOR: i64 = 5_000_000;
/// At most one part in so many of a worker's time.
const SHARE: i64 = 10;

pub struct SessionPriorities {
    /// Lookups came in since the last evaluation began.
    is_wanted: bool,
    /// Not before, and again in any case; microseconds since 2000.
    not_before: i64,
    again_at: i64,
    sweep: Option<Sweep>,
}

/// One evaluation of all rules, under way.
struct Sweep {
    owners: BTreeMap<u32, Progress>,
    began: i64,
    /// Time that the rules took, in microseconds.
    used: i64,
    /// A process left out a table or pages because of a lock or a failed transaction.
    has_gaps: bool,
}

/// An evaluation that a transaction has begun.
pub struct NewSweep {
    owners: BTreeMap<u32, Progress>,
    at: i64,
    /// Whether a provider has a quota.
    again: bool,
}

/// How far the evaluation of an owner's rules is.
struct Progress {
    comes_first: bool,
    /// A process evaluates them at the moment.
    is_running: bool,
    /// Time that code of the owner had taken before, in microseconds.
    used_before: i64,
    /// The next table and page.
    table: u32,
    page: u32,
}

impl SessionPriorities {
    pub fn new() -> SessionPriorities {
        SessionPriorities { is_wanted: true, not_before: 0, again_at: i64::MAX, sweep: None }
    }

    /// Lookups of these providers came in.
    pub fn came_in(&mut self, providers: impl IntoIterator<Item = Provider>) {
        self.is_wanted |= providers.into_iter().any(has_quota);
    }

    /// Rules were set or removed.
    pub fn changed(&mut self) {
        (self.is_wanted, self.not_before) = (true, 0);
    }

    /// Whether a provider's quota is to be spent only after something has been evaluated, which is soon.
    pub fn holds(&self, provider: Provider) -> bool {
        let is_awaited = match &self.sweep {
            Some(sweep) => clock::now() - sweep.began <= HOLDS_FOR,
            None => self.is_due(),
        };
        has_quota(provider) && is_awaited
    }

    /// Returns whether it is time to begin an evaluation.
    pub fn is_due(&self) -> bool {
        self.sweep.is_none() && self.next() <= clock::now()
    }

    /// When it has something to do without being told, microseconds since 2000.
    pub fn next(&self) -> i64 {
        match &self.sweep {
            Some(sweep) if clock::now() - sweep.began <= HOLDS_FOR => sweep.began + HOLDS_FOR + 1_000,
            Some(_) => i64::MAX,
            None if self.is_wanted => self.not_before,
            None => self.again_at,
        }
    }

    /// The step that begins an evaluation failed. Whatever asked for the evaluation still does.
    pub fn could_not_begin(&mut self) {
        (self.is_wanted, self.not_before) = (true, clock::now() + retry_pause());
    }

    /// Finds out which rules are to be evaluated, inside a transaction.
    pub fn begin(home: Home, connection: &Connection) -> NewSweep {
        let providers = session_priority::providers_with_quota();
        let at = clock::now();
        let again = !providers.is_empty();
        if !again || session_priority::waiting(connection, &providers).is_empty() {
            return NewSweep { owners: BTreeMap::new(), at, again };
        }
        let progress =
            |comes_first| Progress { comes_first, is_running: false, used_before: 0, table: 0, page: 0 };
        let owners = session_priority::owners(home, connection)
            .into_iter()
            .map(|(owner, comes_first)| (owner, progress(comes_first)))
            .collect();
        NewSweep { owners, at, again }
    }

    /// The transaction has committed.
    pub fn begun(&mut self, begun: NewSweep) {
        self.is_wanted = false;
        self.again_at = if begun.again { begun.at + AGAIN_AFTER } else { i64::MAX };
        if !begun.owners.is_empty() {
            self.sweep = Some(Sweep { owners: begun.owners, began: begun.at, used: 0, has_gaps: false });
        }
    }

    /// Owners whose rules are still to be evaluated, and whether each comes first.
    pub fn owners(&self) -> Vec<(u32, bool)> {
        let owners = self.sweep.iter().flat_map(|sweep| &sweep.owners);
        owners.map(|(owner, progress)| (*owner, progress.comes_first)).collect()
    }

    /// Returns whether rules of an owner wait for a process.
    pub fn wants(&self, owner: u32) -> bool {
        let progress = self.sweep.as_ref().and_then(|sweep| sweep.owners.get(&owner));
        progress.is_some_and(|progress| !progress.is_running)
    }

    /// Has the process in a slot evaluate them.
    pub fn hand_over(&mut self, owner: u32, slot: &OwnerSlot) {
        let progress = self.sweep.as_mut().and_then(|sweep| sweep.owners.get_mut(&owner));
        if let Some(progress) = progress {
            progress.is_running = true;
            progress.used_before = slot.used.load(Ordering::Relaxed);
            slot.next_table.store(progress.table, Ordering::Relaxed);
            slot.next_page.store(progress.page, Ordering::Relaxed);
            slot.evaluates.store(true, Ordering::Release);
        }
    }

    /// Looks whether a process has come to the end.
    pub fn evaluated(&mut self, owner: u32, slot: &OwnerSlot) {
        let Some(sweep) = &mut self.sweep else { return };
        let Some(progress) = sweep.owners.get(&owner).filter(|progress| progress.is_running) else { return };
        sweep.has_gaps |= slot.has_gaps.swap(false, Ordering::AcqRel);
        if !slot.evaluates.load(Ordering::Acquire) {
            sweep.used += slot.used.load(Ordering::Relaxed) - progress.used_before;
            self.leave_out(owner);
        }
    }

    /// Keeps the progress of a process that has ended. Leaves out a page whose code ended it.
    pub fn process_ended(&mut self, owner: u32, slot: &OwnerSlot) {
        let Some(sweep) = &mut self.sweep else { return };
        if let Some(progress) = sweep.owners.get_mut(&owner).filter(|progress| progress.is_running) {
            progress.is_running = false;
            sweep.used += slot.used.load(Ordering::Relaxed) - progress.used_before;
            progress.table = slot.next_table.load(Ordering::Acquire);
            progress.page = slot.next_page.load(Ordering::Acquire);
            if slot.ended_in_code.load(Ordering::Acquire) {
                progress.page = progress.page.saturating_add(1);
            }
        }
    }

    /// The rules of an owner are evaluated, or are not to be.
    pub fn leave_out(&mut self, owner: u32) {
        let Some(sweep) = &mut self.sweep else { return };
        sweep.owners.remove(&owner);
        if sweep.owners.is_empty() {
            let now = clock::now();
            // Not of the time for which it waited for locks or for a process.
            self.not_before = now + SHARE * sweep.used;
            // Sessions have more commands and downloads by then.
            self.again_at = self.not_before.max(now + AGAIN_AFTER);
            if sweep.has_gaps {
                self.is_wanted = true;
                self.not_before = self.not_before.max(now + naptime());
            }
            self.sweep = None;
        }
    }
}
