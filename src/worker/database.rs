//! What a worker does in its database.
//!
//! A round: take requests in, find out which matter, claim jobs and send them off, write down what came back, fold, sweep. Each step is a
//! short transaction of its own, none is open while the worker sleeps or the network works. Then it sleeps until a
//! commit wakes it, an exchange ends, a job falls due, or it has slept long enough.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::net::Pool;
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_engine::providers::Exchange;
use pgrx::pg_sys;

use super::flight::Flight;
use super::landing::{self, Landing};
use super::ranking::Ranking;
use super::roster::{Doing, Ending};
use crate::guc;
use crate::pg::background;
use crate::pg::role::acting_as;
use crate::pg::shared::{self, Seat};
use crate::pg::spi::Connection;
use crate::pg::{catalog, clock, transaction};
use crate::politeness::{self, Leave, Permit, quota};
use crate::provider::{Limits, Provider, Providers};
use crate::store::queue::{self, Claimed, Lease};
use crate::store::sweep::{self, Progress};
use crate::store::{Home, answers, fold, ledger};
use crate::telemetry;

/// How often work is looked for that nobody announced, in microseconds.
const SWEEP_EVERY: i64 = 600_000_000;
/// Pause while the database is being restored, in microseconds, and for how long nobody must have been seen doing that.
const RESTORE_PAUSE: i64 = 500_000;
const RESTORE_IS_OVER: i64 = 2_000_000;
/// How often pg_restore is looked for.
const RESTORE_CHECKED_EVERY: i64 = 250_000;
/// How often it is looked whether a refused key was replaced.
const CREDENTIALS_EVERY: i64 = 1_000_000;
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
    pool: Pool<Exchange>,
    /// Requests that are under way, by ticket.
    flights: BTreeMap<u64, Flight>,
    tickets: u64,
    /// One for each provider.
    lanes: Vec<Lane>,
    ranking: Ranking,
    released: bool,
    /// When a step has something to do without being woken, microseconds since 2000.
    next_take_in: i64,
    next_fold: i64,
    next_sweep: i64,
    /// How far a sweep under way has come.
    sweeping: Option<Progress>,
    /// When pg_restore was last looked for and last seen in this database.
    restore_checked_at: i64,
    restored_at: i64,
}

/// One provider's jobs: the providers share nothing but the process, so that none waits for another.
struct Lane {
    provider: Provider,
    /// When there are jobs to claim, and until when the provider may not be asked; microseconds since 2000.
    next_due: i64,
    blocked_until: i64,
    /// When it is looked at again whether a stopped provider may be asked.
    next_credentials: i64,
    /// Answers that wait to be written down.
    landings: Vec<Landing>,
}

impl Lane {
    fn of(provider: Provider) -> Lane {
        Lane { provider, next_due: 0, blocked_until: 0, next_credentials: 0, landings: Vec::new() }
    }

    fn add(&mut self, landing: Landing) {
        let landing = match self.landings.last_mut() {
            Some(last) => last.absorb(landing),
            None => Some(landing),
        };
        self.landings.extend(landing);
    }

    fn asks_at(&self) -> i64 {
        self.next_due.max(self.blocked_until)
    }
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
        if seat.woken.swap(false, Ordering::AcqRel) {
            worker.next_take_in = 0;
        }
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
            lanes: Provider::all().map(Lane::of).collect(),
            ranking: Ranking::new(),
            released: false,
            next_take_in: 0,
            next_fold: 0,
            next_sweep: 0,
            sweeping: None,
            restore_checked_at: 0,
            restored_at: 0,
        })
    }

    /// One round; answers for how many microseconds there is nothing to do. A step that fails does not keep the others
    /// from being made.
    fn round(&mut self) -> Result<i64, Stop> {
        if self.seat.leave.load(Ordering::Acquire) {
            return Err(Stop::Leave);
        }
        if self.is_being_restored()? {
            return Ok(RESTORE_PAUSE);
        }
        let mut steps = Vec::new();
        steps.push(settled(self.take_over())?.is_some());
        steps.push(settled(self.take_in())?.is_some());
        steps.push(settled(self.sweep())?.is_some());
        steps.push(settled(self.rank())?.is_some());
        self.collect();
        for lane in 0..self.lanes.len() {
            steps.push(settled(self.send_off(lane))?.is_some());
        }
        for lane in 0..self.lanes.len() {
            steps.push(settled(self.land(lane))?.is_some());
        }
        steps.push(settled(self.fold())?.is_some());
        background::report_statistics();

        if steps.contains(&false) {
            return Ok(FAILED_PAUSE);
        }
        if self.sweeping.is_some() {
            return Ok(0);
        }
        let next = self.lanes.iter().map(|lane| lane.asks_at().min(self.lands_at(lane))).min();
        let next = next.unwrap_or(i64::MAX).min(self.next_take_in).min(self.next_fold).min(self.ranking.next());
        Ok(next.saturating_sub(clock::now()).clamp(0, naptime()))
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
        let now = clock::now();
        if now - self.restore_checked_at >= RESTORE_CHECKED_EVERY {
            if self.step(Doing::Waiting, |_, _| catalog::has_superusers_client(c"pg_restore"))? {
                self.restored_at = now;
                // What came may be anything.
                self.next_sweep = 0;
            }
            self.restore_checked_at = now;
        }
        Ok(now - self.restored_at < RESTORE_IS_OVER)
    }

    /// The first thing: what a predecessor was doing when it ended is done again, and what this database spent of the
    /// quotas is made known.
    fn take_over(&mut self) -> Result<(), Stop> {
        if !self.released {
            let holder = self.holder;
            self.step(Doing::Sweeping, |_, connection| {
                queue::release_others(connection, holder);
                ledger::publish(connection);
            })?;
            self.released = true;
            self.seat.ledger_read.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Requests become jobs.
    fn take_in(&mut self) -> Result<(), Stop> {
        if self.next_take_in > clock::now() {
            return Ok(());
        }
        let lease = self.lease(self.lanes.iter().map(|lane| lane.provider));
        let taken = self.step(Doing::TakingIn, |home, connection| {
            let taken = queue::take_in(connection, lease);
            if taken.requests >= queue::MOST_TAKEN_IN {
                queue::analyze(home, connection);
            }
            taken
        })?;
        self.next_take_in =
            if taken.requests >= queue::MOST_TAKEN_IN { 0 } else { clock::now().saturating_add(naptime()) };
        self.ranking.came_in(taken.jobs.keys().copied());
        for lane in &mut self.lanes {
            let Some(answered) = taken.jobs.get(&lane.provider) else { continue };
            lane.next_due = 0;
            if !answered.is_empty() {
                lane.add(Landing::of_known(lane.provider, answered.iter().copied()));
            }
        }
        Ok(())
    }

    /// Finds out which sessions matter; one step a round.
    fn rank(&mut self) -> Result<(), Stop> {
        if !self.ranking.is_due() {
            return Ok(());
        }
        let mut ranking = std::mem::replace(&mut self.ranking, Ranking::new());
        let ranked = self.step(Doing::Ranking, |_, connection| ranking.step(connection));
        // A step that failed as a whole is no reason to try it again at once.
        self.ranking = if ranked.is_ok() { ranking } else { ranking.given_up() };
        ranked
    }

    /// Sends a provider's jobs off as long as there are some and it may be asked.
    fn send_off(&mut self, lane: usize) -> Result<(), Stop> {
        let provider = self.lanes[lane].provider;
        self.lanes[lane].blocked_until = 0;
        self.seat.waits_no_more(provider.place());
        let is_able = provider.is_enabled() && provider.declared().obstacle(&provider.settings()).is_none();
        if !is_able {
            self.lanes[lane].blocked_until = i64::MAX;
            return Ok(());
        }
        self.see_to_credentials(lane);
        let limits = provider.limits();
        while self.lanes[lane].next_due <= clock::now() {
            // Before a quota is spent, it is found out on what.
            let held = self.ranking.holds(provider);
            let (leave, permits) = if held { (Leave::NotBefore(0), 0) } else { self.may_ask(provider, &limits) };
            let most = match leave {
                Leave::Granted => permits.saturating_mul(limits.batch),
                Leave::Probe => PROBE_SIZE.min(limits.batch),
                Leave::NotBefore(until) => {
                    self.lanes[lane].blocked_until = until;
                    break;
                }
                // Whoever ends wakes this process; this is for the case that nobody does.
                Leave::Busy => {
                    self.lanes[lane].blocked_until = clock::now() + BUSY_PAUSE;
                    break;
                }
            };
            let claimed = self.claim(lane, most, &limits)?;
            let known: Vec<Prefix> =
                claimed.jobs.iter().filter(|job| job.ask.is_none()).map(|job| job.question).collect();
            if !known.is_empty() {
                self.lanes[lane].add(Landing::of_known(provider, known));
            }
            let flights = Flight::of(provider, &claimed.jobs, limits.batch);
            if !self.start(lane, flights, claimed.day, &limits)? {
                break;
            }
        }
        Ok(())
    }

    /// A provider that refused a key is asked again when there is another.
    fn see_to_credentials(&mut self, lane: usize) {
        let Lane { provider, next_credentials, .. } = &mut self.lanes[lane];
        let now = clock::now();
        if *next_credentials > now {
            return;
        }
        *next_credentials = now + CREDENTIALS_EVERY;
        let refused = politeness::stopped_with(*provider);
        if refused.is_some_and(|refused| provider.declared().credentials(&provider.settings()) != refused) {
            politeness::resume(*provider);
        }
    }

    fn may_ask(&self, provider: Provider, limits: &Limits) -> (Leave, usize) {
        let (leave, permits) = politeness::look(provider, limits);
        if leave != Leave::Busy {
            return (leave, permits);
        }
        self.seat.waits_for(provider.place());
        // Somebody may have given way before the note was there.
        let (leave, permits) = politeness::look(provider, limits);
        if leave != Leave::Busy {
            self.seat.waits_no_more(provider.place());
        }
        (leave, permits)
    }

    /// Leases jobs, and takes what asking them costs out of the day's quota; when there are fewer than asked for, finds
    /// out when the next ones fall due.
    fn claim(&mut self, lane: usize, most: usize, limits: &Limits) -> Result<Ask, Stop> {
        let provider = self.lanes[lane].provider;
        let lease = self.lease([provider]);
        let mut reserved = None;
        let step = self.step(Doing::Claiming, |_, connection| {
            let mut jobs = queue::claim(connection, provider, most, lease);
            let next = (jobs.len() < most).then(|| queue::next_due(connection, provider));
            let asked = jobs.iter().filter(|job| job.ask.is_some()).count();
            if asked > 0 {
                reserved = quota::reserve(provider, asked.div_ceil(limits.batch), limits);
            }
            if let Some(reserved) = &reserved {
                let affordable = reserved.requests as usize * limits.batch;
                let (kept, excess) = within(jobs, affordable);
                let excess: Vec<Prefix> = excess.iter().map(|job| job.question).collect();
                queue::give_back(connection, provider, &excess, lease);
                ledger::spend(connection, provider, reserved);
                jobs = kept;
            }
            (jobs, next)
        });
        let (jobs, next) = match step {
            Ok(claimed) => claimed,
            Err(stop) => {
                if let Some(reserved) = reserved {
                    quota::give_back(provider, reserved.day, reserved.requests as usize);
                }
                return Err(stop);
            }
        };
        if let Some(next) = next {
            self.lanes[lane].next_due = next.unwrap_or(i64::MAX);
        }
        Ok(Ask { jobs, day: reserved.map(|reserved| reserved.day) })
    }

    /// Starts exchanges. Those for which the provider may not be asked after all give back their jobs and what they were
    /// to cost of the `day`'s quota; answers whether all were started.
    fn start(
        &mut self,
        lane: usize,
        flights: Vec<Flight>,
        day: Option<i32>,
        limits: &Limits,
    ) -> Result<bool, Stop> {
        let provider = self.lanes[lane].provider;
        let mut flights = flights.into_iter();
        let refused = loop {
            let Some(flight) = flights.next() else { return Ok(true) };
            match politeness::ask(provider, limits) {
                Ok((permit, _)) => match self.fly(flight, permit) {
                    None => {}
                    Some(grounded) => break (grounded, clock::now() + FAILED_PAUSE),
                },
                Err(Leave::NotBefore(until)) => break (flight, until),
                Err(_) => break (flight, clock::now() + BUSY_PAUSE),
            }
        };
        let (flight, until) = refused;
        let left: Vec<Flight> = std::iter::once(flight).chain(flights).collect();
        let questions: Vec<Prefix> = left.iter().flat_map(Flight::questions).collect();
        let lease = self.lease([provider]);
        self.step(Doing::Claiming, |_, connection| {
            queue::give_back(connection, provider, &questions, lease);
            if let Some(day) = day {
                ledger::unspend(connection, provider, day, left.len());
            }
        })?;
        if let Some(day) = day {
            quota::give_back(provider, day, left.len());
        }
        (self.lanes[lane].next_due, self.lanes[lane].blocked_until) = (0, until);
        Ok(false)
    }

    /// Has a thread make the exchange; gives the flight back where there is none to be had.
    fn fly(&mut self, mut flight: Flight, permit: Permit) -> Option<Flight> {
        self.tickets += 1;
        let (ticket, task) = (self.tickets, flight.task());
        match background::without_signals(|| self.pool.start(ticket, task)) {
            Ok(()) => {
                flight.permit = Some(permit);
                self.flights.insert(ticket, flight);
                None
            }
            Err(error) => {
                telemetry::error("a network thread could not be started", &error.to_string());
                Some(flight)
            }
        }
    }

    /// Takes what came back, which makes room for the next request.
    fn collect(&mut self) {
        for (ticket, reply) in self.pool.finished() {
            let Some(flight) = self.flights.remove(&ticket) else { continue };
            let provider = flight.provider;
            let landing = flight.landed(reply, &provider.limits());
            if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.provider == provider) {
                lane.add(landing);
                (lane.next_due, lane.blocked_until) = (0, 0);
            }
        }
    }

    /// When an answer of a provider is to be written down: there is nothing to gather once nothing is under way.
    fn lands_at(&self, lane: &Lane) -> i64 {
        let next = lane.landings.iter().map(|landing| landing.not_before).min().unwrap_or(i64::MAX);
        let is_busy = self.flights.values().any(|flight| flight.provider == lane.provider);
        let first = lane.landings.iter().filter(|landing| landing.is_gathering()).map(|landing| landing.since);
        if is_busy { next } else { first.min().unwrap_or(next).min(next) }
    }

    /// Writes down what came back, one transaction for each reply a round. What could not be written is kept and tried
    /// again; what needs more than one transaction goes on in the next round.
    fn land(&mut self, lane: usize) -> Result<(), Stop> {
        let provider = self.lanes[lane].provider;
        if self.lands_at(&self.lanes[lane]) > clock::now() {
            return Ok(());
        }
        let lease = self.lease([provider]);
        let is_busy = self.flights.values().any(|flight| flight.provider == provider);
        let mut landed = Ok(());
        for mut landing in std::mem::take(&mut self.lanes[lane].landings) {
            // What came back meanwhile makes room at the provider, perhaps for another database.
            self.collect();
            if landing.not_before > clock::now() && (is_busy || !landing.is_gathering()) {
                self.lanes[lane].landings.push(landing);
                continue;
            }
            let written = self.step(Doing::Applying, |home, connection| {
                landing::write_down(home, connection, &landing, lease)
            });
            match written {
                Ok(written) => {
                    (self.lanes[lane].next_due, self.next_fold) = (0, 0);
                    if landing.advance(written) {
                        self.seat.batches.fetch_add(1, Ordering::Relaxed);
                    } else {
                        self.lanes[lane].landings.push(landing);
                    }
                }
                Err(stop) => {
                    landing.put_off(clock::now() + FAILED_PAUSE);
                    // Past its lease the jobs are claimed anew.
                    if landing.not_before < landing.since + (lease.seconds * 1e6) as i64 {
                        self.lanes[lane].landings.push(landing);
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
        (self.next_fold, self.released) = (0, false);
        self.lanes.iter_mut().for_each(|lane| lane.next_due = 0);
        self.sweeping = self.step(Doing::Sweeping, |_, connection| {
            Provider::all().filter(|provider| provider.declared().shares_answers()).for_each(|provider| {
                answers::forget_stale(connection, provider);
            });
            let enabled = Providers::enabled();
            (!enabled.is_empty()).then(|| sweep::queue_unasked(connection, enabled, progress)).flatten()
        })?;
        Ok(())
    }

    /// Longer than any exchange with one of these, and what comes before and after it.
    fn lease(&self, providers: impl IntoIterator<Item = Provider>) -> Lease {
        let longest = providers.into_iter().map(|provider| provider.limits().longest).max();
        Lease { holder: self.holder, seconds: 2.0 * longest.unwrap_or_default().as_secs_f64() + 60.0 }
    }
}

/// Jobs to ask, and the day whose quota paid for it.
struct Ask {
    jobs: Vec<Claimed>,
    day: Option<i32>,
}

/// As many jobs as may be asked, with those that need no asking, and the rest.
fn within(jobs: Vec<Claimed>, affordable: usize) -> (Vec<Claimed>, Vec<Claimed>) {
    let mut left = affordable;
    jobs.into_iter().partition(|job| {
        let is_affordable = job.ask.is_none() || left > 0;
        left -= usize::from(job.ask.is_some() && left > 0);
        is_affordable
    })
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
