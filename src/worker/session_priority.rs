//! Determines when session priorities are evaluated. The rules are evaluated before a daily quota is used for new lookups. They are
//! evaluated repeatedly, because the commands and downloads of a session are stored later than the session.
//!
//! The rules are code of table owners, so owner processes evaluate them. This file records the owners whose rules are being
//! evaluated, and how far the evaluation has come for each owner.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::timestamp::Timestamp;

use super::step_schedule::{AT_ONCE, NEVER, naptime, retry_pause};
use crate::pg::clock;
use crate::pg::spi::Connection;
use crate::provider::Provider;
use crate::shared_state::OwnerSlot;
use crate::store::ExtensionOids;
use crate::store::session_priority::{self, has_quota};

/// Interval between two evaluations of the rules while lookups wait.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Maximum time for which the use of a quota waits for the end of an evaluation.
const HOLDS_FOR: Duration = Duration::from_secs(5);
/// Evaluations use at most a tenth of a worker's time.
const SHARE: u32 = 10;

pub struct SessionPriorities {
    /// True if new lookups arrived after the last evaluation began.
    is_wanted: bool,
    /// Earliest time of the next evaluation.
    not_before: Timestamp,
    /// Latest time of the next evaluation.
    again_at: Timestamp,
    sweep: Option<Sweep>,
}

/// One evaluation of all rules that is in progress.
struct Sweep {
    owners: BTreeMap<u32, Progress>,
    began: Timestamp,
    /// Time that the rules have used in this evaluation.
    used: Duration,
    /// True if a process left out a table or pages, because of a lock or a failed transaction.
    has_gaps: bool,
}

/// A new evaluation. A transaction has found the rules to evaluate, but has not committed yet.
pub struct NewSweep {
    owners: BTreeMap<u32, Progress>,
    at: Timestamp,
    /// True if at least one provider has a quota.
    again: bool,
}

/// How far the evaluation of one owner's rules has come.
struct Progress {
    comes_first: bool,
    /// True if a process is evaluating the rules of the owner.
    is_running: bool,
    /// Time that the code of the owner had used in the slot before this evaluation began.
    used_before: Duration,
    /// The table and the page with which the evaluation continues.
    table: u32,
    page: u32,
}

impl SessionPriorities {
    pub fn new() -> SessionPriorities {
        SessionPriorities { is_wanted: true, not_before: AT_ONCE, again_at: NEVER, sweep: None }
    }

    /// Records that there are new lookups at these providers.
    pub fn note_new_lookups(&mut self, providers: impl IntoIterator<Item = Provider>) {
        self.is_wanted |= providers.into_iter().any(has_quota);
    }

    /// Requests an evaluation, because rules were set or removed.
    pub fn changed(&mut self) {
        (self.is_wanted, self.not_before) = (true, AT_ONCE);
    }

    /// Returns true if the quota of a provider may not be used yet, because an evaluation must end first.
    pub fn holds(&self, provider: Provider) -> bool {
        let is_awaited = match &self.sweep {
            Some(sweep) => clock::now() - sweep.began <= HOLDS_FOR,
            None => self.is_due(),
        };
        has_quota(provider) && is_awaited
    }

    /// Returns true if an evaluation must begin now.
    pub fn is_due(&self) -> bool {
        self.sweep.is_none() && self.next() <= clock::now()
    }

    /// Returns the time when the worker must check the evaluation again, even if no event wakes the worker.
    pub fn next(&self) -> Timestamp {
        match &self.sweep {
            Some(sweep) if clock::now() - sweep.began <= HOLDS_FOR => {
                sweep.began + HOLDS_FOR + Duration::from_millis(1)
            }
            Some(_) => NEVER,
            None if self.is_wanted => self.not_before,
            None => self.again_at,
        }
    }

    /// Postpones an evaluation, because the step that begins it failed. The evaluation stays requested.
    pub fn could_not_begin(&mut self) {
        (self.is_wanted, self.not_before) = (true, clock::now() + retry_pause());
    }

    /// Finds the rules that must be evaluated. Called inside a transaction.
    pub fn begin(oids: ExtensionOids, connection: &Connection) -> NewSweep {
        let providers = session_priority::providers_with_quota();
        let at = clock::now();
        let again = !providers.is_empty();
        if !again || session_priority::waiting(connection, &providers).is_empty() {
            return NewSweep { owners: BTreeMap::new(), at, again };
        }
        let progress = |comes_first| Progress {
            comes_first,
            is_running: false,
            used_before: Duration::ZERO,
            table: 0,
            page: 0,
        };
        let owners = session_priority::owners(oids, connection)
            .into_iter()
            .map(|(owner, comes_first)| (owner, progress(comes_first)))
            .collect();
        NewSweep { owners, at, again }
    }

    /// Begins an evaluation after the transaction that found the rules has committed.
    pub fn begun(&mut self, begun: NewSweep) {
        self.is_wanted = false;
        self.again_at = if begun.again { begun.at + AGAIN_AFTER } else { NEVER };
        if !begun.owners.is_empty() {
            self.sweep =
                Some(Sweep { owners: begun.owners, began: begun.at, used: Duration::ZERO, has_gaps: false });
        }
    }

    /// Returns the owners whose rules are not evaluated yet. The flag of an owner is true if this owner must be served before the
    /// owners whose flag is false.
    pub fn owners(&self) -> Vec<(u32, bool)> {
        let owners = self.sweep.iter().flat_map(|sweep| &sweep.owners);
        owners.map(|(owner, progress)| (*owner, progress.comes_first)).collect()
    }

    /// Returns true if the rules of an owner must be evaluated and no process evaluates them.
    pub fn wants(&self, owner: u32) -> bool {
        let progress = self.sweep.as_ref().and_then(|sweep| sweep.owners.get(&owner));
        progress.is_some_and(|progress| !progress.is_running)
    }

    /// Makes the process in a slot evaluate the rules of an owner.
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

    /// Checks whether the process in a slot has evaluated all rules of its owner.
    pub fn evaluated(&mut self, owner: u32, slot: &OwnerSlot) {
        let Some(sweep) = &mut self.sweep else { return };
        let Some(progress) = sweep.owners.get(&owner).filter(|progress| progress.is_running) else { return };
        sweep.has_gaps |= slot.has_gaps.swap(false, Ordering::AcqRel);
        if !slot.evaluates.load(Ordering::Acquire) {
            sweep.used += slot.used.load(Ordering::Relaxed).saturating_sub(progress.used_before);
            self.skip_owner(owner);
        }
    }

    /// Stores how far a process had come when it ended. If code of the owner ended the process, the next process skips the page
    /// that was being evaluated.
    pub fn process_ended(&mut self, owner: u32, slot: &OwnerSlot) {
        let Some(sweep) = &mut self.sweep else { return };
        if let Some(progress) = sweep.owners.get_mut(&owner).filter(|progress| progress.is_running) {
            progress.is_running = false;
            sweep.used += slot.used.load(Ordering::Relaxed).saturating_sub(progress.used_before);
            progress.table = slot.next_table.load(Ordering::Acquire);
            progress.page = slot.next_page.load(Ordering::Acquire);
            if slot.ended_in_code.load(Ordering::Acquire) {
                progress.page = progress.page.saturating_add(1);
            }
        }
    }

    /// Removes an owner whose rules are already evaluated, or will not be evaluated.
    pub fn skip_owner(&mut self, owner: u32) {
        let Some(sweep) = &mut self.sweep else { return };
        sweep.owners.remove(&owner);
        if sweep.owners.is_empty() {
            let now = clock::now();
            // The length of the pause depends on the time that the rules used. The time during which an evaluation waited for locks
            // or for a process is not included.
            self.not_before = now + sweep.used.saturating_mul(SHARE);
            // The rules are evaluated again at this time, because the sessions will have more commands and downloads by then.
            self.again_at = self.not_before.max(now + AGAIN_AFTER);
            if sweep.has_gaps {
                self.is_wanted = true;
                self.not_before = self.not_before.max(now + naptime());
            }
            self.sweep = None;
        }
    }
}
