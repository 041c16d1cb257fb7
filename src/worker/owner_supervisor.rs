//! The supervisor of the owner processes. An owner process runs code of one table owner. The supervisor chooses the next owner. If
//! a process does not end, the supervisor abandons it.
//!
//! At most two processes run code of owners at the same time. Abandoned processes are not included in this limit. If code has not
//! ended five seconds after its cancellation, the supervisor abandons the process and starts another one. There are two additional
//! slots for abandoned processes. If all slots are used, no process starts until a process has ended. The worker itself never waits
//! for these processes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::timestamp::Timestamp;
use cowrie_enrich_engine::{backoff, random};

use super::session_priority::SessionPriorities;
use super::step_schedule::{AT_ONCE, Due, NEVER, naptime, retry_pause};
use super::steps::{Steps, Stop, none_if_failed};
use crate::owner;
use crate::pg::background::{self, Process, ProcessState};
use crate::pg::{catalog, clock};
use crate::shared_state::{self, OWNER_SLOTS, OwnerSlot, worker_process};
use crate::store::completions::{self, Owner};
use crate::telemetry;
use crate::worker::activity::{Activity, StepKind};

/// Maximum number of owner processes that run at the same time. Abandoned processes are not included.
const MOST_RUNNING: usize = 2;
/// If a process does not end by itself when it should, the supervisor waits for this additional time. Then the supervisor
/// terminates the process.
const TERMINATED_AFTER: Duration = Duration::from_millis(400);
/// The supervisor abandons a process if the owner's code still runs this long after the code was cancelled.
const ABANDONED_AFTER: Duration = Duration::from_secs(5);
/// An owner is suspended if code of this owner has ended this number of processes in a row.
const MAX_CRASHES: u32 = 3;
/// Longest pause between two reads of the pending rows. New rows can make the pause shorter.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Shortest pause between two reads of the pending rows.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// The longest backoff of a session after an owner process ended in code of the owner of the session's table.
const LONGEST_AFTER_CODE: Duration = Duration::from_secs(300);
/// A process that an earlier worker started must take its slot within this time.
const STARTS_WITHIN: Duration = Duration::from_secs(10);
/// Deadlines are checked with this delay, because a process may end by itself exactly at its deadline.
const MARGIN: Duration = Duration::from_millis(1);

/// Half-life of the recorded time that code of an owner has used. Each time this duration has passed, the recorded time is
/// halved.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// Expected duration of the first process of a new owner. The real duration is not known before that process has ended.
const UNKNOWN_COST: Duration = Duration::from_secs(5);
/// Weight of an owner's waiting time in the owner's sort key. The time that the owner's code has used has the weight 1.
const WAITING: f64 = 0.1;

/// What the supervisor has recorded about earlier processes of an owner.
#[derive(Default)]
struct History {
    /// Recent time that code of the owner has used, computed at `used_at`. Earlier use counts less: see [`HALF_LIFE`].
    used: Duration,
    used_at: Timestamp,
    /// Mean time that code of the owner used in one process.
    cost: Option<Duration>,
    /// True if the owner's last process ended by itself, and the owner's code exceeded its time in at most a fifth of the batches.
    behaves: bool,
    /// Time since when the owner has been waiting for a process. Unset if the owner does not wait.
    waits_since: Option<Timestamp>,
    /// Number of consecutive processes that ended while they were running code of the owner.
    crashes: u32,
    /// True if the owner's last process was terminated from outside, and a new process was started without a pause.
    was_restarted: bool,
    /// Earliest time at which the next process of the owner may start.
    not_before: Timestamp,
    /// True if the last process could not connect as the owner. In this case, the next process connects as superuser.
    cannot_connect: bool,
}

impl History {
    /// Returns the recent time that code of the owner has used, computed for the time `now`.
    fn used(&self, now: Timestamp) -> Duration {
        let half_lives = (now - self.used_at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.used.mul_f64(0.5_f64.powf(half_lives))
    }

    /// Adds the time of a process that has ended.
    fn count(&mut self, time: Duration, now: Timestamp) {
        self.used = self.used(now) + time;
        self.used_at = now;
        self.cost = Some(self.cost.map_or(time, |cost| cost.mul_f64(0.7) + time.mul_f64(0.3)));
    }

    /// Returns the sort key of the owner. The owner with the lowest key gets the next process. The key is the recent used time,
    /// plus the expected time of the next process, minus a fraction of the waiting time.
    fn key(&self, now: Timestamp) -> i64 {
        let waited = self.waits_since.map_or(Duration::ZERO, |since| now - since);
        let expected = self.used(now) + self.cost.unwrap_or(UNKNOWN_COST);
        ((expected.as_secs_f64() - WAITING * waited.as_secs_f64()) * 1e6) as i64
    }
}

pub struct Owners {
    /// Index of this worker's slot.
    worker_slot: usize,
    database: u32,
    /// For each slot, the handle of its process. Unset if this worker did not start the process.
    processes: [Option<Process>; OWNER_SLOTS],
    /// The owners for whom the last check found pending rows.
    pending: Vec<Owner>,
    histories: HashMap<u32, History>,
    /// Owners that must be suspended, each with the reason.
    to_suspend: BTreeMap<u32, String>,
    /// Processes whose leases must end. Each has the longest backoff for the sessions that the process had leased.
    to_release: Vec<(i64, Duration)>,
    /// True if the next process is for an owner whose last process behaved well. If no such owner waits, this flag has no effect.
    behaved_is_next: bool,
    /// Time of the next read of the pending rows.
    look: Due,
    /// Time at which the supervisor must check the next deadline.
    next: Timestamp,
}

impl Owners {
    pub fn new(steps: &Steps) -> Owners {
        Owners {
            worker_slot: worker_process::number_of(steps.worker_slot),
            database: catalog::own_database().to_u32(),
            processes: std::array::from_fn(|_| None),
            pending: Vec::new(),
            histories: HashMap::new(),
            to_suspend: BTreeMap::new(),
            to_release: Vec::new(),
            behaved_is_next: true,
            look: Due::now(),
            next: AT_ONCE,
        }
    }

    /// Requests a read of the pending rows, because new rows may be pending.
    pub fn look(&mut self) {
        self.look.request();
    }

    /// Returns the time when the supervisor must run again, even if no event wakes the worker.
    pub fn next(&self) -> Timestamp {
        self.next.min(self.look.at())
    }

    /// Checks the running processes, and starts new processes.
    pub fn step(&mut self, steps: &Steps, session_priorities: &mut SessionPriorities) -> Result<(), Stop> {
        self.next = NEVER;
        for index in 0..OWNER_SLOTS {
            self.watch(steps, index, session_priorities);
        }
        self.store_decisions(steps)?;
        if self.look.is_now() {
            let pending = steps.step(StepKind::Supervise, completions::owners);
            self.look.attempted(&pending, |pending| {
                let now = clock::now();
                let next = pending.iter().filter_map(|owner| owner.next).min().unwrap_or(NEVER);
                let latest = LOOK_EVERY.min(naptime());
                next.clamp(now + latest.min(LOOK_AGAIN_AFTER), now + latest)
            });
            self.pending = pending?;
        }
        self.start(steps, session_priorities)
    }

    /// Returns the ids under which the running processes hold leases.
    pub fn holders(&self) -> Vec<i64> {
        let running = self.slots().iter().filter(|slot| slot.pid.load(Ordering::Acquire) != 0);
        running.map(|slot| slot.holder.load(Ordering::Acquire)).collect()
    }

    /// Returns true if at least one process is starting or working. Abandoned processes are not included.
    pub fn are_working(&self) -> bool {
        self.slots().iter().any(|slot| {
            !slot.is_free()
                && !slot.is_idle.load(Ordering::Acquire)
                && !slot.is_abandoned.load(Ordering::Acquire)
        })
    }

    fn slots(&self) -> &'static [OwnerSlot; OWNER_SLOTS] {
        &shared_state::block().worker_slots[self.worker_slot].owner_slots
    }

    /// Checks one process. If the process has ended, frees its slot. If the process has exceeded a deadline, terminates or abandons
    /// it.
    fn watch(&mut self, steps: &Steps, index: usize, session_priorities: &mut SessionPriorities) {
        let slot = &self.slots()[index];
        if slot.is_free() {
            return;
        }
        let owner = slot.owner.load(Ordering::Acquire);
        session_priorities.evaluated(owner, slot);
        let now = clock::now();
        let is_gone = match &self.processes[index] {
            Some(process) => process.state() == ProcessState::Gone,
            // An earlier worker started the process of this slot. This process may not have taken the slot yet.
            None => {
                let has_begun = slot.has_begun.load(Ordering::Acquire);
                let starts_until = slot.started_at.load(Ordering::Relaxed) + STARTS_WITHIN;
                if !has_begun {
                    self.next = self.next.min(starts_until);
                }
                slot.pid.load(Ordering::Acquire) == 0 && (has_begun || now > starts_until)
            }
        };
        if is_gone {
            self.collect(index, session_priorities);
            return;
        }
        let since = slot.code_since.load(Ordering::Acquire).if_set();
        let Some(since) = since.filter(|_| !slot.is_abandoned.load(Ordering::Acquire)) else { return };
        let lasts = now - since;
        let (ends_within, abandoned_after) = deadlines(slot);
        if lasts > abandoned_after {
            slot.is_abandoned.store(true, Ordering::Release);
            telemetry::error(
                "abandoned a process that runs code of a table owner",
                &format!(
                    "the code in process {} did not end after cancellation",
                    slot.pid.load(Ordering::Relaxed)
                ),
            );
            self.to_suspend.insert(
                owner,
                "code of the owner, such as a trigger, did not end after the code was cancelled".to_owned(),
            );
            return;
        }
        if lasts > ends_within {
            slot.is_terminated.store(true, Ordering::Release);
            background::terminate(slot.pid.load(Ordering::Acquire));
            steps.set_activity(Activity::Supervising);
        }
        let deadline = if lasts > ends_within { abandoned_after } else { ends_within };
        self.next = self.next.min(since + deadline + MARGIN);
    }

    /// Records the end of a process and frees its slot.
    fn collect(&mut self, index: usize, session_priorities: &mut SessionPriorities) {
        let slot = &self.slots()[index];
        let owner = slot.owner.load(Ordering::Acquire);
        let was_abandoned = slot.is_abandoned.load(Ordering::Acquire);
        let has_finished = slot.has_finished.load(Ordering::Acquire);
        session_priorities.process_ended(owner, slot);
        let history = self.histories.entry(owner).or_default();
        let now = clock::now();
        history.count(slot.used.load(Ordering::Relaxed), now);
        let (overruns, batches) =
            (slot.overruns.load(Ordering::Relaxed), slot.batches.load(Ordering::Relaxed));
        history.behaves = has_finished && overruns * 5 <= batches;
        if has_finished || batches > 0 {
            history.was_restarted = false;
        }
        if has_finished {
            history.crashes = 0;
        } else if !slot.is_connected.load(Ordering::Acquire) {
            history.cannot_connect = !history.cannot_connect;
            history.not_before = now + retry_pause();
            telemetry::error(
                "a process for the code of a table owner could not connect to the database",
                "see the server log for the error",
            );
        } else if slot.ended_in_code.load(Ordering::Acquire) && !was_abandoned {
            history.crashes += 1;
            let pause = backoff::delay(
                history.crashes,
                Duration::from_secs(1),
                Duration::from_secs(60),
                random::unit(),
            );
            history.not_before = now + pause;
            if history.crashes >= MAX_CRASHES {
                history.crashes = 0;
                let reason = format!(
                    "code of the owner, such as a trigger, ended its background process {MAX_CRASHES} times in a row"
                );
                self.to_suspend.insert(owner, reason);
            }
        } else {
            if batches > 0 {
                history.crashes = 0;
            }
            // If a role terminates a process for the first time, the next process starts at once. If a role terminates processes
            // repeatedly, the worker pauses before it starts the next one.
            let was_restarted = std::mem::replace(&mut history.was_restarted, true);
            history.not_before = if was_restarted { now + retry_pause() } else { now };
        }
        self.next = self.next.min(history.not_before.max(now));
        let holder = slot.holder.load(Ordering::Acquire);
        if holder != 0 && !has_finished {
            let by_code = slot.ended_in_code.load(Ordering::Acquire) || was_abandoned;
            self.to_release.push((holder, if by_code { LONGEST_AFTER_CODE } else { naptime() }));
        }
        slot.free();
        if let Some(process) = self.processes[index].take() {
            process.forget();
        }
        self.look();
    }

    /// Stores the decisions of earlier rounds: suspends the owners and ends the leases that these rounds have listed. If a step
    /// fails, the next round retries it.
    fn store_decisions(&mut self, steps: &Steps) -> Result<(), Stop> {
        for (role, reason) in self.to_suspend.clone() {
            let suspended = steps.step(StepKind::Supervise, |oids, connection| {
                let role = completions::role(oids, connection, role)?;
                completions::suspend(connection, &role.name, &reason);
                Some(role.name)
            });
            if let Some(name) = none_if_failed(suspended)? {
                self.to_suspend.remove(&role);
                self.look();
                telemetry::error(
                    "an owner of session tables is suspended until resume_owner() is called",
                    &format!("{}: {reason}", name.unwrap_or_else(|| role.to_string())),
                );
            }
        }
        while let Some((holder, longest)) = self.to_release.last().copied() {
            let released = steps.step(StepKind::Supervise, |_, connection| {
                completions::release(connection, holder, longest);
            });
            if none_if_failed(released)?.is_none() {
                break;
            }
            self.to_release.pop();
            self.look();
        }
        if !self.to_suspend.is_empty() || !self.to_release.is_empty() {
            self.next = self.next.min(clock::now() + retry_pause());
        }
        Ok(())
    }

    /// Starts processes for waiting owners, as long as a slot is free.
    fn start(&mut self, steps: &Steps, session_priorities: &mut SessionPriorities) -> Result<(), Stop> {
        let now = clock::now();
        let mut wanted: BTreeMap<u32, bool> = self
            .pending
            .iter()
            .filter(|owner| owner.is_due)
            .map(|owner| (owner.role, owner.comes_first))
            .collect();
        wanted.extend(session_priorities.owners());
        for slot in self.slots().iter().filter(|slot| !slot.is_free()) {
            let owner = slot.owner.load(Ordering::Acquire);
            if wanted.remove(&owner).is_some() && !slot.is_abandoned.load(Ordering::Acquire) {
                if session_priorities.wants(owner) {
                    session_priorities.hand_over(owner, slot);
                }
                if slot.is_idle.load(Ordering::Acquire) {
                    slot.set_latch();
                }
            }
        }
        wanted.retain(|role, _| {
            let not_before = self.histories.get(role).map_or(AT_ONCE, |history| history.not_before);
            if not_before > now {
                self.next = self.next.min(not_before);
            }
            not_before <= now && !self.to_suspend.contains_key(role)
        });
        for (role, history) in &mut self.histories {
            if !wanted.contains_key(role) {
                history.waits_since = None;
            }
        }
        // There are two queues. The first one contains the owners whose last process behaved well. The second one contains new
        // owners and owners whose code was cancelled. The supervisor takes owners from the two queues in turn. Otherwise many
        // hostile owners could keep another owner waiting.
        let mut queues: [Vec<(bool, i64, u32)>; 2] = Default::default();
        for (role, comes_first) in &wanted {
            let history = self.histories.entry(*role).or_default();
            history.waits_since.get_or_insert(now);
            let behaves = *comes_first || history.behaves;
            queues[usize::from(!behaves)].push((!comes_first, history.key(now), *role));
        }
        let mut queues = queues.map(|mut queue| {
            queue.sort_unstable();
            queue.into_iter().map(|(.., role)| role).collect::<VecDeque<u32>>()
        });
        while queues.iter().any(|queue| !queue.is_empty()) {
            let running = self.slots().iter().filter(|slot| !slot.is_free() && !is_overdue(slot, now));
            let free = self.slots().iter().position(|s| s.is_free() && s.pid.load(Ordering::Acquire) == 0);
            let Some(free) = free.filter(|_| running.count() < MOST_RUNNING) else { break };
            let first = usize::from(!self.behaved_is_next);
            let taken = if queues[first].is_empty() { 1 - first } else { first };
            let Some(role) = queues[taken].pop_front() else { break };
            self.behaved_is_next = taken == 1;
            if !self.start_one(steps, role, free, session_priorities)? {
                break;
            }
        }
        // This flag is set if other owners wait. A working process then ends after its share of the time, and an idle process ends
        // at once.
        let others_wait = queues.iter().any(|queue| !queue.is_empty());
        for slot in self.slots().iter().filter(|slot| !slot.is_free()) {
            slot.others_wait.store(others_wait, Ordering::Relaxed);
            if others_wait && slot.is_idle.load(Ordering::Acquire) {
                slot.set_latch();
            }
        }
        Ok(())
    }

    /// Starts the process of an owner. Returns true if the supervisor may start another process after that.
    fn start_one(
        &mut self,
        steps: &Steps,
        role: u32,
        index: usize,
        session_priorities: &mut SessionPriorities,
    ) -> Result<bool, Stop> {
        let known =
            steps.step(StepKind::Supervise, |oids, connection| completions::role(oids, connection, role))?;
        let Some(known) = known.filter(|known| !known.is_suspended) else {
            session_priorities.skip_owner(role);
            self.look();
            return Ok(true);
        };
        let history = self.histories.entry(role).or_default();
        let slot = &shared_state::block().worker_slots[self.worker_slot].owner_slots[index];
        slot.reserve(self.database, role, background::own_pid());
        slot.is_trial.store(history.cost.is_none(), Ordering::Relaxed);
        slot.connects_as_superuser.store(!known.may_connect || history.cannot_connect, Ordering::Relaxed);
        if session_priorities.wants(role) {
            session_priorities.hand_over(role, slot);
        }
        if let Some(process) = owner::start(&known.name, self.worker_slot, index) {
            self.processes[index] = Some(process);
            return Ok(true);
        }
        slot.free();
        session_priorities.process_ended(role, slot);
        steps.worker_slot.report.launch_failures.fetch_add(1, Ordering::Relaxed);
        telemetry::log_once_per_burst(
            "could not start a process for the code of a table owner",
            "no background worker slot is free; raise max_worker_processes",
        );
        self.next = self.next.min(clock::now() + retry_pause());
        Ok(false)
    }
}

/// Returns two time limits for the code that runs in a slot. At the first limit, the supervisor terminates the process. At the
/// second limit, it abandons the process.
fn deadlines(slot: &OwnerSlot) -> (Duration, Duration) {
    let limit = slot.code_limit();
    (2 * limit + TERMINATED_AFTER, limit + ABANDONED_AFTER)
}

/// Returns true if the process of a slot is abandoned, or if it has run longer than the first limit of [`deadlines`]. In this case,
/// another process may start in another slot.
fn is_overdue(slot: &OwnerSlot, now: Timestamp) -> bool {
    let since = slot.code_since.load(Ordering::Acquire).if_set();
    slot.is_abandoned.load(Ordering::Acquire) || since.is_some_and(|since| now - since > deadlines(slot).0)
}
