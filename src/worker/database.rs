//! What a worker does in its database.
//!
//! A round: take requests in, claim jobs and send them off, write down what came back, fold, sweep. Each step is a
//! short transaction of its own, none is open while the worker sleeps or the network works. Then it sleeps until a
//! commit wakes it, an exchange ends, a job falls due, or it has slept long enough.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::net::Pool;
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_engine::providers::cymru;
use pgrx::pg_sys;

use super::batch::{self, Flight, Landing};
use super::roster::{Doing, Ending};
use crate::guc;
use crate::pg::background;
use crate::pg::role::acting_as;
use crate::pg::shared::{self, Seat};
use crate::pg::spi::Connection;
use crate::pg::{catalog, clock, transaction};
use crate::politeness::{self, Leave, Provider};
use crate::store::queue::{self, Claimed, Lease};
use crate::store::sweep::{self, Progress};
use crate::store::{Home, answers, fold};
use crate::telemetry;

/// How often work is looked for that nobody announced, in microseconds.
const SWEEP_EVERY: i64 = 600_000_000;
/// Pause while the database is being restored, in microseconds, and for how long nobody must have been seen doing that.
const RESTORE_PAUSE: i64 = 500_000;
const RESTORE_IS_OVER: i64 = 2_000_000;
/// Pause after a step that failed.
const FAILED_PAUSE: i64 = 1_000_000;
/// Pause while others ask the provider.
const BUSY_PAUSE: i64 = 250_000;
/// Questions of a probe: enough to see whether the provider is back.
const PROBE_SIZE: usize = 10;

/// Why a round ended before its time.
pub enum Stop {
    /// The database does not have the extension (any more).
    NoExtension,
    /// It is wanted that the worker goes.
    Leave,
    /// A step failed and was rolled back; it was logged.
    Failed,
}

pub struct Worker {
    seat: &'static Seat,
    /// Holder of leases: when this worker was started. There is one at a time per database, so no other has it.
    holder: i64,
    pool: Pool<cymru::Batch>,
    /// Requests that are under way, by ticket.
    flights: BTreeMap<u64, Flight>,
    tickets: u64,
    /// Answers that wait to be written down.
    landings: Vec<Landing>,
    released: bool,
    /// When a step has something to do without being woken, microseconds since 2000.
    next_due: i64,
    next_fold: i64,
    next_sweep: i64,
    /// How far a sweep under way has come.
    sweeping: Option<Progress>,
    /// When pg_restore was last seen in this database.
    restored_at: i64,
}

/// Entry point of the process.
pub fn run(seat: i32) {
    background::accept_signals();
    let seat = &shared::block().seats[usize::try_from(seat).unwrap_or_default() % shared::SEATS];
    if seat.database.load(Ordering::Acquire) == 0 {
        // The launcher that started this worker is gone, and nobody knows of it.
        return;
    }
    background::connect(Some(pg_sys::Oid::from(seat.database.load(Ordering::Acquire))), super::PROGRAM);
    if !seat.take() {
        pgrx::error!("another cowrie_enrich worker is running in this database");
    }
    let mut worker = match Worker::new(seat) {
        Ok(worker) => worker,
        Err(error) => pgrx::error!("could not set the worker up: {error}"),
    };
    loop {
        background::reload_settings();
        seat.woken.store(false, Ordering::Release);
        let pause = match worker.round() {
            Ok(pause) => pause,
            Err(Stop::NoExtension) => worker.end(Ending::NoExtension),
            Err(Stop::Leave) => worker.end(Ending::Left),
            Err(Stop::Failed) => FAILED_PAUSE,
        };
        worker.sleep(pause);
    }
}

impl Worker {
    fn new(seat: &'static Seat) -> std::io::Result<Worker> {
        Ok(Worker {
            seat,
            holder: clock::now(),
            pool: Pool::new()?,
            flights: BTreeMap::new(),
            tickets: 0,
            landings: Vec::new(),
            released: false,
            next_due: 0,
            next_fold: 0,
            next_sweep: 0,
            sweeping: None,
            restored_at: 0,
        })
    }

    /// One round; answers for how many microseconds there is nothing to do. A step that fails does not keep the others
    /// from being made.
    fn round(&mut self) -> Result<i64, Stop> {
        if self.is_being_restored()? {
            return Ok(RESTORE_PAUSE);
        }
        let taken_over = settled(self.take_over())?;
        let more_requests = settled(self.take_in())?;
        let swept = settled(self.sweep())?;
        self.collect();
        let blocked_until = settled(self.send_off())?;
        let landed = settled(self.land())?;
        let folded = settled(self.fold())?;
        background::report_statistics();

        let now = clock::now();
        let failed = taken_over.is_none() || swept.is_none() || landed.is_none() || folded.is_none();
        let (Some(more_requests), Some(blocked_until), false) = (more_requests, blocked_until, failed) else {
            return Ok(FAILED_PAUSE);
        };
        if more_requests || self.sweeping.is_some() {
            return Ok(0);
        }
        // What was written down since the last claim may have made jobs due.
        let ask = self.next_due.max(blocked_until);
        let again = self.landings.iter().map(|landing| landing.not_before).min().unwrap_or(i64::MAX);
        Ok(self.next_fold.min(ask).min(again).saturating_sub(now).clamp(0, naptime()))
    }

    fn sleep(&self, microseconds: i64) {
        let idle = self.flights.is_empty();
        self.says(if idle { Doing::Sleeping } else { Doing::Waiting });
        background::report_activity(None);
        // Also when there is more to do at once: interrupts are accepted in there.
        background::sleep(Duration::from_micros(microseconds.unsigned_abs()), Some(self.pool.ready()));
    }

    fn end(&mut self, ending: Ending) -> ! {
        self.pool.cancel();
        self.seat.ending.store(ending as u32, Ordering::Release);
        background::exit()
    }

    fn says(&self, doing: Doing) {
        if self.seat.state.swap(doing as u32, Ordering::Relaxed) != doing as u32 {
            self.seat.since.store(clock::now(), Ordering::Relaxed);
        }
    }

    /// One transaction as the extension's owner, or `worker_role`. Deferred triggers that somebody put on our tables fire
    /// within it, not as whom the process began as.
    fn step<T>(&self, doing: Doing, work: impl FnOnce(Home, &Connection) -> T) -> Result<T, Stop> {
        if self.seat.leave.load(Ordering::Acquire) {
            return Err(Stop::Leave);
        }
        self.says(doing);
        background::report_activity(Some(doing.activity()));
        let done = transaction::run(|| {
            let mut home = Home::find()?;
            if let Some(name) = guc::worker_role() {
                home.owner =
                    catalog::role(&name).unwrap_or_else(|| pgrx::error!("role \"{name}\" does not exist"));
            }
            Some(acting_as(home.owner, || {
                let result = Connection::with(home.schema, |connection| work(home, connection));
                transaction::fire_deferred_triggers();
                result
            }))
        });
        match done {
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err(Stop::NoExtension),
            Err(failure) => {
                self.seat.errors.fetch_add(1, Ordering::Relaxed);
                telemetry::error("a worker's step failed and will be tried again", &failure.message);
                Err(Stop::Failed)
            }
        }
    }

    /// The tables of a dump arrive one after the other: what a worker wrote meanwhile would collide with rows that come
    /// later.
    fn is_being_restored(&mut self) -> Result<bool, Stop> {
        let seen = self.step(Doing::Waiting, |_, _| catalog::has_superusers_client(c"pg_restore"))?;
        if seen {
            self.restored_at = clock::now();
            // What came may be anything.
            self.next_sweep = 0;
        }
        Ok(clock::now() - self.restored_at < RESTORE_IS_OVER)
    }

    /// The first thing: what a predecessor was doing when it ended is done again.
    fn take_over(&mut self) -> Result<(), Stop> {
        if !self.released {
            let holder = self.holder;
            self.step(Doing::Sweeping, |_, connection| queue::release_others(connection, holder))?;
            self.released = true;
        }
        Ok(())
    }

    /// Requests become jobs. Answers whether there are more.
    fn take_in(&mut self) -> Result<bool, Stop> {
        let (lease, lifetimes) = (self.lease(), guc::cymru_lifetimes());
        let taken = self.step(Doing::TakingIn, |home, connection| {
            let taken = queue::take_in(connection, lease, lifetimes);
            if taken.requests >= queue::MOST_TAKEN_IN {
                queue::analyze(home, connection);
            }
            taken
        })?;
        if taken.requests > 0 {
            self.next_due = 0;
        }
        if !taken.answered.is_empty() {
            self.landings.push(Landing::of_known(taken.answered));
        }
        Ok(taken.requests >= queue::MOST_TAKEN_IN)
    }

    /// Sends jobs off as long as there are some and the provider may be asked. Answers until when it may not, 0 if it may.
    fn send_off(&mut self) -> Result<i64, Stop> {
        self.seat.waits_for_provider.store(false, Ordering::Release);
        if !guc::is_enabled(Provider::Cymru.name()) {
            return Ok(i64::MAX);
        }
        while self.next_due <= clock::now() {
            let limits = guc::cymru_limits();
            let most = match self.may_ask(&limits) {
                Leave::Granted => guc::cymru_batch_size(),
                Leave::Probe => PROBE_SIZE.min(guc::cymru_batch_size()),
                Leave::NotBefore(until) => return Ok(until),
                // Whoever ends wakes this process; this is for the case that nobody does.
                Leave::Busy => return Ok(clock::now() + BUSY_PAUSE),
            };
            let claimed = self.claim(most)?;
            let known = claimed.iter().filter(|claimed| claimed.ask.is_none());
            let known: Vec<Prefix> = known.map(|claimed| claimed.question).collect();
            if !known.is_empty() {
                self.landings.push(Landing::of_known(known));
            }
            let flight = Flight::of(&claimed);
            if flight.is_empty() {
                continue;
            }
            if let Some(until) = self.start(flight, &limits)? {
                return Ok(until);
            }
        }
        Ok(0)
    }

    fn may_ask(&self, limits: &guc::Limits) -> Leave {
        let leave = politeness::look(Provider::Cymru, limits);
        if leave != Leave::Busy {
            return leave;
        }
        self.seat.waits_for_provider.store(true, Ordering::Release);
        // Somebody may have given way before the note was there.
        let leave = politeness::look(Provider::Cymru, limits);
        if leave != Leave::Busy {
            self.seat.waits_for_provider.store(false, Ordering::Release);
        }
        leave
    }

    /// Leases jobs; when there are fewer than asked for, finds out when the next ones fall due.
    fn claim(&mut self, most: usize) -> Result<Vec<Claimed>, Stop> {
        let (lease, lifetimes) = (self.lease(), guc::cymru_lifetimes());
        let (claimed, next) = self.step(Doing::Claiming, |_, connection| {
            let claimed = queue::claim(connection, Provider::Cymru, most, lease, lifetimes);
            let next = (claimed.len() < most).then(|| queue::next_due(connection, Provider::Cymru));
            (claimed, next)
        })?;
        if let Some(next) = next {
            self.next_due = next.unwrap_or(i64::MAX);
        }
        Ok(claimed)
    }

    /// Starts an exchange; if the provider may not be asked after all, gives the jobs back and answers until when.
    fn start(&mut self, mut flight: Flight, limits: &guc::Limits) -> Result<Option<i64>, Stop> {
        let refused = match politeness::ask(Provider::Cymru, limits) {
            Ok((permit, _)) => {
                self.tickets += 1;
                let (ticket, task) = (self.tickets, flight.task(guc::cymru()));
                match background::without_signals(|| self.pool.start(ticket, task)) {
                    Ok(()) => {
                        flight.permit = Some(permit);
                        self.flights.insert(ticket, flight);
                        return Ok(None);
                    }
                    Err(error) => {
                        telemetry::error("a network thread could not be started", &error.to_string());
                        clock::now() + FAILED_PAUSE
                    }
                }
            }
            Err(Leave::NotBefore(until)) => until,
            Err(_) => clock::now() + BUSY_PAUSE,
        };
        let (lease, questions) = (self.lease(), flight.questions());
        self.step(Doing::Claiming, |_, connection| {
            queue::give_back(connection, Provider::Cymru, &questions, lease);
        })?;
        self.next_due = 0;
        Ok(Some(refused))
    }

    /// Takes what came back, which makes room for the next request.
    fn collect(&mut self) {
        for (ticket, reply) in self.pool.finished() {
            if let Some(flight) = self.flights.remove(&ticket) {
                self.landings.push(flight.landed(reply, &guc::cymru_limits()));
                self.next_due = 0;
            }
        }
    }

    /// Writes down what came back, one transaction for each reply a round. What could not be written is kept and tried
    /// again; what needs more than one transaction goes on in the next round.
    fn land(&mut self) -> Result<(), Stop> {
        let (lease, lifetimes) = (self.lease(), guc::cymru_lifetimes());
        let mut landed = Ok(());
        for mut landing in std::mem::take(&mut self.landings) {
            // What came back meanwhile makes room at the provider, perhaps for another database.
            self.collect();
            if landing.not_before > clock::now() {
                self.landings.push(landing);
                continue;
            }
            let written = self.step(Doing::Applying, |home, connection| {
                batch::write_down(home, connection, &landing, lease, lifetimes)
            });
            match written {
                Ok(written) => {
                    (self.next_due, self.next_fold) = (0, 0);
                    if landing.advance(written) {
                        self.seat.batches.fetch_add(1, Ordering::Relaxed);
                    } else {
                        self.landings.push(landing);
                    }
                }
                Err(stop) => {
                    landing.not_before = clock::now() + FAILED_PAUSE;
                    // Past its lease the jobs are claimed anew.
                    if landing.not_before < landing.since + (lease.seconds * 1e6) as i64 {
                        self.landings.push(landing);
                    }
                    landed = Err(stop);
                }
            }
        }
        landed
    }

    /// Adds pending counts to the inventories, when there are some and it is time; one transaction a round.
    fn fold(&mut self) -> Result<(), Stop> {
        let now = clock::now();
        if self.next_fold > now {
            return Ok(());
        }
        let after_work = self.next_fold == 0;
        self.next_fold = now + naptime();
        if self.seat.uncounted.swap(false, Ordering::AcqRel) || after_work {
            let more = self.step(Doing::Folding, fold::batch_if_free)?;
            if more {
                self.next_fold = 0;
            }
        }
        Ok(())
    }

    /// Looks for work that nobody announced; one transaction a round.
    fn sweep(&mut self) -> Result<(), Stop> {
        let now = clock::now();
        let progress = match self.sweeping.take() {
            Some(progress) => progress,
            None if self.next_sweep > now => return Ok(()),
            None => Progress::start(),
        };
        self.next_sweep = now + SWEEP_EVERY;
        // Also jobs that came otherwise than by requests: a restored dump's, or those that somebody made due by hand.
        (self.next_due, self.next_fold, self.released) = (0, 0, false);
        let lifetimes = guc::cymru_lifetimes();
        let asks = guc::is_enabled(Provider::Cymru.name());
        self.sweeping = self.step(Doing::Sweeping, |_, connection| {
            answers::forget_stale(connection, lifetimes);
            asks.then(|| sweep::queue_unplaced(connection, &progress)).flatten()
        })?;
        Ok(())
    }

    /// Longer than any exchange and what comes before and after it.
    fn lease(&self) -> Lease {
        Lease { holder: self.holder, seconds: 2.0 * guc::cymru_limits().longest.as_secs_f64() + 60.0 }
    }
}

/// A step that failed is no result, and no reason to stop.
fn settled<T>(step: Result<T, Stop>) -> Result<Option<T>, Stop> {
    match step {
        Ok(result) => Ok(Some(result)),
        Err(Stop::Failed) => Ok(None),
        Err(stop) => Err(stop),
    }
}

/// In microseconds.
fn naptime() -> i64 {
    i64::try_from(guc::worker_naptime().as_micros()).unwrap_or(i64::MAX / 2)
}
