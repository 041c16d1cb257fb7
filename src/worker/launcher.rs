//! The launcher: one process per cluster that sees to it that every database with the extension has its worker, and that
//! there is an exporter where one is wanted.
//!
//! It cannot look into databases. So it starts a worker in each one it does not know yet; a worker that finds no
//! extension says so and ends, and is not started again until somebody announces that an extension came. Databases that
//! come from a template announce themselves by the first work that is queued in them, or are found by the next look at
//! the list of databases.
//!
//! On a standby it sees to the exporter alone until the server is promoted.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::{backoff, random};
use pgrx::pg_sys;

use crate::exporter::Keeper;
use crate::guc;
use crate::pg::background::{self, Needs, Presence, Process, Program};
use crate::pg::catalog::{self, Database};
use crate::pg::shared::{self, SEATS, Seat};
use crate::pg::{clock, transaction};
use crate::roster::{self, Announced, Ending};
use crate::telemetry;

const PROGRAM: Program =
    Program { symbol: "cowrie_enrich_launcher_main", kind: "cowrie_enrich launcher", needs: Needs::Reading };

/// How often the list of databases is read without being told to.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How often a standby is asked whether it is one still: nobody tells.
const PROMOTED_WITHIN: Duration = Duration::from_secs(1);
/// Pause before a crashed worker is started again, doubling.
const RESTART_BASE: Duration = Duration::from_secs(1);
const RESTART_CAP: Duration = Duration::from_secs(60);
/// Microseconds after which it is tried again to start a worker for which there was no room.
const START_AGAIN_AFTER: i64 = 10_000_000;
/// Microseconds within which a process that was started sits down.
const STARTS_WITHIN: i64 = 10_000_000;
/// A worker that lived this long (microseconds) has recovered from whatever made its predecessors crash.
const LIVED: i64 = 300_000_000;

/// Registers the launcher with the postmaster; called when the library is loaded.
pub fn register() {
    background::register(PROGRAM);
}

crate::background_process!(cowrie_enrich_launcher_main, run);

/// What is known of a database.
#[derive(Default)]
struct Place {
    /// Index of its seat, and the process that was started for it, unless that was done by an earlier launcher.
    worker: Option<(usize, Option<Process>)>,
    has_no_extension: bool,
    /// Something was announced since the worker was started, which may have looked before.
    is_news: bool,
    crashes: u32,
    started_at: i64,
    /// Not before: microseconds since 2000.
    rests_until: i64,
    /// It is to have a worker, and that worker has read what the database spent of the quotas.
    is_wanted: bool,
    has_told: bool,
    /// What it spent is waited for.
    is_awaited: bool,
}

impl Place {
    /// Whether it has said what it spent of the quotas, or has nothing to say.
    fn has_settled(&self) -> bool {
        !self.is_wanted || self.has_told || self.has_no_extension
    }

    /// Whether it has to be waited for, other than before.
    fn becomes_awaited(&mut self) -> bool {
        let is_awaited = !self.has_settled();
        is_awaited && !std::mem::replace(&mut self.is_awaited, is_awaited)
    }
}

fn run(_argument: i32) {
    background::accept_signals();
    background::connect(None, PROGRAM);
    let own = &shared::block().launcher;
    if !own.take() {
        // An old one is still ending. Whoever ends with an error is started again.
        pgrx::error!("another cowrie_enrich launcher is running");
    }
    let mut places = adopt();
    let mut exporter = Keeper::default();
    loop {
        background::reload_settings();
        own.woken.store(false, Ordering::Release);
        let pause = exporter.see_to_it().min(if catalog::is_standby() {
            PROMOTED_WITHIN
        } else {
            heed_announcements(&mut places);
            collect_ended(&mut places);
            see_to_databases(&mut places)
        });
        background::report_activity(None);
        background::sleep(pause, None);
    }
}

/// Workers that an earlier launcher started and that outlived it.
fn adopt() -> BTreeMap<u32, Place> {
    let mut places = BTreeMap::new();
    for (index, seat) in shared::block().seats.iter().enumerate() {
        let database = seat.database.load(Ordering::Acquire);
        if database != 0 {
            places.insert(database, Place { worker: Some((index, None)), ..Place::default() });
        }
    }
    places
}

fn heed_announcements(places: &mut BTreeMap<u32, Place>) {
    let heed = |place: &mut Place| {
        place.has_no_extension = false;
        place.is_news = true;
        place.rests_until = 0;
    };
    match roster::take_announced() {
        Announced::All => places.values_mut().for_each(heed),
        Announced::These(databases) => {
            databases.iter().for_each(|database| heed(places.entry(*database).or_default()));
        }
    }
}

fn collect_ended(places: &mut BTreeMap<u32, Place>) {
    let now = clock::now();
    for place in places.values_mut() {
        let Some((index, process)) = &place.worker else { continue };
        let seat = &shared::block().seats[*index];
        let gone = match process {
            Some(process) => process.presence() == Presence::Gone,
            // Started by an earlier launcher: it may not have sat down yet.
            None => !seat.is_taken() && now - seat.started_at.load(Ordering::Relaxed) > STARTS_WITHIN,
        };
        if !gone {
            continue;
        }
        match Ending::of(seat) {
            Ending::NoExtension => place.has_no_extension = !place.is_news,
            Ending::Left => {}
            Ending::Crashed => {
                place.crashes =
                    if now - place.started_at > LIVED { 1 } else { place.crashes.saturating_add(1) };
                let pause = backoff::delay(place.crashes, RESTART_BASE, RESTART_CAP, random::unit());
                place.rests_until = now + i64::try_from(pause.as_micros()).unwrap_or(i64::MAX / 2);
            }
        }
        free(seat);
        if let Some((_, Some(process))) = place.worker.take() {
            process.forget();
        }
    }
}

/// Starts what is missing and stops what is not wanted; answers how long there is nothing to do.
fn see_to_databases(places: &mut BTreeMap<u32, Place>) -> Duration {
    let databases = match transaction::run(catalog::databases) {
        Ok(databases) => databases,
        Err(failure) => {
            telemetry::error("the launcher could not list the databases", &failure.message);
            return RESTART_BASE;
        }
    };
    let known: Vec<u32> = databases.iter().map(|database| database.oid.to_u32()).collect();
    places.retain(|oid, place| place.worker.is_some() || known.contains(oid));
    for place in places.iter().filter(|(oid, _)| !known.contains(oid)).map(|(_, place)| place) {
        send_away(place);
    }
    let mut next = clock::now() + i64::try_from(LOOK_EVERY.as_micros()).unwrap_or(i64::MAX);
    let block = shared::block();
    for database in &databases {
        let place = places.entry(database.oid.to_u32()).or_default();
        let is_wanted = guc::worker_enabled() && guc::database_is_wanted(&database.name);
        place.is_wanted = is_wanted;
        if let Some((index, _)) = &place.worker {
            place.has_told |= block.seats[*index].ledger_read.load(Ordering::Acquire);
        }
        if place.becomes_awaited() {
            // Before it has a worker; and the others' wait begins anew.
            block.awaited_since.store(clock::now(), Ordering::Release);
            block.ledgers_known.store(false, Ordering::Release);
        }
        match &place.worker {
            Some(_) if !is_wanted => send_away(place),
            None if is_wanted && !place.has_no_extension => next = next.min(start(database, place)),
            _ => {}
        }
    }
    let has_settled = |database: &Database| places.get(&database.oid.to_u32()).is_none_or(Place::has_settled);
    if databases.iter().all(has_settled) && !block.ledgers_known.swap(true, Ordering::AcqRel) {
        // All at once, or the first one takes what there is.
        block.seats.iter().for_each(Seat::nudge);
    }
    Duration::from_micros(u64::try_from(next - clock::now()).unwrap_or_default())
        .max(Duration::from_millis(10))
}

fn send_away(place: &Place) {
    if let Some((index, _)) = &place.worker {
        let seat = &shared::block().seats[*index];
        seat.leave.store(true, Ordering::Release);
        seat.nudge();
    }
}

/// Starts a worker if it may be started now; answers when to look again.
fn start(database: &Database, place: &mut Place) -> i64 {
    let now = clock::now();
    let not_before = roster::kept_out(database.oid).unwrap_or(0).max(place.rests_until);
    if not_before > now {
        return not_before;
    }
    (place.started_at, place.is_news) = (now, false);
    let problem = match take_seat(database.oid) {
        None => "more than 64 databases have a worker already",
        Some(index) => match super::start(&database.name, index) {
            Some(process) => {
                place.worker = Some((index, Some(process)));
                return i64::MAX;
            }
            None => {
                free(&shared::block().seats[index]);
                "no slot is free; raise max_worker_processes"
            }
        },
    };
    telemetry::log_once_per_burst("a worker could not be started", &format!("{}: {problem}", database.name));
    place.rests_until = now + START_AGAIN_AFTER;
    place.rests_until
}

fn take_seat(database: pg_sys::Oid) -> Option<usize> {
    let seats: &[Seat; SEATS] = &shared::block().seats;
    // An owner process of another database that does not end keeps the place of its worker.
    let is_anothers = |seat: &Seat| {
        let mut running = seat.owner_slots.iter().filter(|slot| slot.pid.load(Ordering::Acquire) != 0);
        running.any(|slot| slot.database.load(Ordering::Acquire) != database.to_u32())
    };
    let is_free =
        |seat: &Seat| seat.database.load(Ordering::Acquire) == 0 && !seat.is_taken() && !is_anothers(seat);
    let is_free = |(_, seat): &(usize, &Seat)| is_free(seat);
    // Where its last worker sat, or else where nobody's numbers would be lost.
    let rank = |(_, seat): &(usize, &Seat)| match seat.report.database.load(Ordering::Acquire) {
        whose if whose == database.to_u32() => 0,
        0 => 1,
        _ => 2,
    };
    let (index, _) = seats.iter().enumerate().filter(is_free).min_by_key(rank)?;
    let seat = &seats[index];
    seat.leave.store(false, Ordering::Release);
    seat.ending.store(Ending::Crashed as u32, Ordering::Release);
    seat.batches.store(0, Ordering::Relaxed);
    seat.errors.store(0, Ordering::Relaxed);
    seat.ledger_read.store(false, Ordering::Release);
    seat.state.store(0, Ordering::Relaxed);
    seat.since.store(clock::now(), Ordering::Relaxed);
    seat.started_at.store(clock::now(), Ordering::Relaxed);
    seat.database.store(database.to_u32(), Ordering::Release);
    Some(index)
}

fn free(seat: &Seat) {
    seat.database.store(0, Ordering::Release);
}
