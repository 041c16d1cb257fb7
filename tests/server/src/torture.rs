//! Injects random faults into the steps of a worker, and checks the conditions that must hold after the faults have
//! ended.
//!
//! Each seed has a separate database on a shared server. The seed determines the faults that are injected into steps,
//! one after the other: locks, prepared transactions, failing statements, killed processes, and an open transaction
//! that calls `fold_statistics()`. Meanwhile clients store sessions, and no INSERT may fail. When the effect of a fault
//! was seen, the fault is ended. After that, the worker may sleep for at most two naptimes until all work is done.
//! The worker itself counts how long it sleeps, so the speed of the machine does not matter.
//!
//! [`storm`] kills processes, holds locks in prepared transactions and fails over to a standby, while clients store
//! sessions with two-phase commit. In the end every count is compared with a recount.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::cluster::{Cluster, Options, SUPERUSER};
use crate::cymru::{self, member, pointed_at, wait_for_the_queue, worker_pid, worker_pid_now};
use crate::database::{Database, fresh_database};
use crate::hosts::{COWRIE, SUMMARIES};
use crate::http::{Lab, Plan};
use crate::invariants::{Snapshots, assert_invariants};
use crate::random::Random;
use crate::recount::assert_counts_are_exact;
use crate::session::Session;
use crate::traffic::{self, TABLES, Traffic, assert_sessions_are};
use crate::wait::wait_until;
use crate::world::crowd_address;

/// Returns true if this run must show that two naptimes suffice. `COWRIE_ENRICH_SEEDS` requests such a run. A run of
/// all suites cannot show this, because other tests use the machine at the same time.
fn is_proof() -> bool {
    std::env::var_os("COWRIE_ENRICH_SEEDS").is_some()
}

/// Returns how many naptimes the worker may sleep after a fault has ended: two, or ten unless `is_proof()` is true. A
/// limit of ten still finds work that is never resumed.
pub fn naptimes_allowed() -> f64 {
    if is_proof() { 2.0 } else { 10.0 }
}

/// Returns the `worker_naptime` of the test databases. If `is_proof()` is true, the naptime is much longer than a
/// process takes to start. It is still only a tenth of the default value of `worker_naptime`.
fn naptime() -> &'static str {
    if is_proof() { "1s" } else { "200ms" }
}

/// The steps that get faults. Four are left out. `release_jobs` depends on the rate of the whole server and has a
/// separate test. `look_for_restore` reads nothing that can be locked or changed. The suite `commit_locks` tests
/// faults in `look_for_recounts`. `collect` needs Citus, and the suite `citus_collection` tests its faults.
pub const STEPS: [&str; 14] = [
    "take_over",
    "create_jobs",
    "sweep",
    "evaluate_priorities",
    "claim",
    "apply",
    "fold",
    "reclassify",
    "supervise",
    "count",
    "lease",
    "complete",
    "end_leases",
    "evaluate",
];

/// A fault that delays a step or makes it fail.
#[derive(Clone, Copy, Debug)]
enum InjectedFault {
    /// Another transaction has locked a table.
    Locked(&'static str, &'static str),
    /// A prepared transaction has locked a table.
    Prepared(&'static str, &'static str),
    /// A statement of the worker or of an owner process raises an error when this trigger fires.
    Failing(&'static str),
    /// The worker is terminated while it waits for a lock on a table.
    WorkerKilled(&'static str),
    /// An owner process is terminated while it waits for a lock on a session table.
    OwnerKilled,
    /// Another transaction has begun to fold.
    FoldByHand,
    /// Another transaction has locked the rows of addresses.
    AddressesHeld,
    /// Another transaction has locked sessions that are to be completed.
    SessionsHeld,
}

impl InjectedFault {
    fn locks(self, table: &str) -> bool {
        match self {
            InjectedFault::Locked(locked, _)
            | InjectedFault::Prepared(locked, _)
            | InjectedFault::WorkerKilled(locked) => locked == table,
            _ => false,
        }
    }
}

/// Conflicts with every change of a table, and does not conflict with reads.
const CHANGES: &str = "SHARE ROW EXCLUSIVE";
const EVERYTHING: &str = "ACCESS EXCLUSIVE";

fn faults(step: &str) -> Vec<InjectedFault> {
    use InjectedFault::{
        AddressesHeld, Failing, FoldByHand, Locked, OwnerKilled, Prepared, SessionsHeld, WorkerKilled,
    };
    match step {
        "take_over" => vec![
            Locked("enrichment_job", CHANGES),
            Prepared("enrichment_job", CHANGES),
            Failing("BEFORE UPDATE ON enrich.enrichment_job FOR EACH STATEMENT"),
        ],
        "create_jobs" => vec![
            Locked("job_address", CHANGES),
            Prepared("enrichment_job", CHANGES),
            Failing("BEFORE DELETE ON enrich.enrichment_request FOR EACH STATEMENT"),
            Failing("BEFORE DELETE ON enrich.incomplete_session FOR EACH STATEMENT"),
            WorkerKilled("job_address"),
        ],
        "sweep" => vec![
            Locked("block_answer", CHANGES),
            Prepared("session_table_option", CHANGES),
            Failing("BEFORE DELETE ON enrich.block_answer FOR EACH STATEMENT"),
            Failing("BEFORE INSERT ON enrich.enrichment_request FOR EACH STATEMENT"),
        ],
        "evaluate_priorities" => vec![
            Locked("session_priority", CHANGES),
            Prepared("session_priority", CHANGES),
            Failing("BEFORE DELETE ON enrich.session_priority FOR EACH STATEMENT"),
        ],
        "claim" => vec![
            Failing(
                "BEFORE UPDATE ON enrich.enrichment_job FOR EACH ROW
                 WHEN (OLD.leased_by IS NULL AND NEW.leased_by IS NOT NULL)",
            ),
            Failing("BEFORE UPDATE OF leased_by ON enrich.enrichment_job FOR EACH STATEMENT"),
        ],
        "apply" => vec![
            Locked("block_answer", CHANGES),
            Prepared("block_answer", CHANGES),
            Failing("BEFORE INSERT ON enrich.block_answer FOR EACH STATEMENT"),
            Failing("BEFORE DELETE ON enrich.job_address FOR EACH STATEMENT"),
            WorkerKilled("block_answer"),
        ],
        "fold" => vec![
            Locked("ip_inventory", CHANGES),
            Prepared("ip_inventory", CHANGES),
            Failing(
                "BEFORE UPDATE ON enrich.ip_inventory FOR EACH ROW
                 WHEN (OLD.session_count <> NEW.session_count)",
            ),
            Failing("BEFORE DELETE ON enrich.session_delta FOR EACH STATEMENT"),
            WorkerKilled("ip_inventory"),
            FoldByHand,
            AddressesHeld,
        ],
        "reclassify" => vec![
            Failing("BEFORE DELETE ON enrich.network_reclassification FOR EACH STATEMENT"),
            Failing("BEFORE DELETE ON enrich.network_reclassification FOR EACH ROW"),
        ],
        "supervise" => vec![
            Locked("session_completion", CHANGES),
            Prepared("session_completion", CHANGES),
            Failing("BEFORE DELETE ON enrich.session_completion FOR EACH STATEMENT"),
            WorkerKilled("session_completion"),
        ],
        "count" => vec![Locked("dead_letter", EVERYTHING), Prepared("dead_letter", EVERYTHING)],
        "lease" => vec![
            Failing(
                "BEFORE UPDATE ON enrich.session_completion FOR EACH ROW
                 WHEN (OLD.leased_by IS NULL AND NEW.leased_by IS NOT NULL)",
            ),
            Failing("BEFORE UPDATE OF leased_by ON enrich.session_completion FOR EACH STATEMENT"),
        ],
        "complete" => vec![
            SessionsHeld,
            OwnerKilled,
            Failing(
                "BEFORE UPDATE OR DELETE ON enrich.session_completion FOR EACH ROW WHEN (OLD.leased_by IS NOT NULL)",
            ),
        ],
        "end_leases" => vec![Failing(
            "BEFORE UPDATE OR DELETE ON enrich.session_completion FOR EACH ROW WHEN (OLD.leased_by IS NOT NULL)",
        )],
        "evaluate" => vec![Failing(
            "BEFORE UPDATE ON enrich.enrichment_job FOR EACH ROW WHEN (OLD.priority <> NEW.priority)",
        )],
        _ => panic!("no step {step}"),
    }
}

/// Raises an error only in processes of the extension, because the fault is for steps of the worker.
const INJECT_FAULT: &str = "
    CREATE FUNCTION public.inject_fault() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF (SELECT backend_type LIKE 'cowrie_enrich%' FROM pg_catalog.pg_stat_activity
            WHERE pid = pg_catalog.pg_backend_pid()) THEN
            RAISE EXCEPTION 'a fault';
        END IF;
        IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
        RETURN NEW;
    END $$";

/// How often each step got a fault.
#[derive(Default, Debug)]
pub struct FaultCounts(pub BTreeMap<&'static str, u64>);

impl FaultCounts {
    pub fn add(&mut self, others: FaultCounts) {
        for (step, number) in others.0 {
            *self.0.entry(step).or_default() += number;
        }
    }
}

/// Starts a server that can run many seeds at the same time.
pub fn server(name: &str) -> Lab {
    Plan::of(name, "maxmind,cymru,greynoise,spur")
        .with(&format!("worker_naptime = {}", naptime()))
        .with("cymru_batch_size = 5")
        // With this quota, lookups stay in the queue and have the priorities that the rules give them.
        .with("spur_daily_quota = 1")
        .options(|options| options.conf("max_worker_processes = 80").conf("max_prepared_transactions = 60"))
        .start()
}

/// One seed: its database, and its results so far.
struct Torture<'a> {
    db: Database<'a>,
    /// A connection to a database without faults. It reads the metrics.
    watch: Session,
    random: Random,
    serial: u64,
    fault_counts: FaultCounts,
}

/// Injects `faults` faults into steps of the worker of a new database. `turn` selects the steps: runs with
/// consecutive values of `turn` test all steps.
pub fn run(lab: &Lab, watch: Session, seed: u64, turn: usize, faults: usize) -> FaultCounts {
    let mut db = fresh_database(&lab.cluster);
    let name = db.name.clone();
    traffic::prepare(&mut db);
    db.run(INJECT_FAULT);
    db.run("SELECT enrich.set_session_priority('sessions', 's.sensor')");
    let mut torture =
        Torture { db, watch, random: Random::seeded(seed), serial: 0, fault_counts: FaultCounts::default() };
    torture.store_sessions(true);
    worker_pid(&mut torture.db);
    // The first process of an owner gets little time. So on a slow machine, sessions are completed late.
    wait_until("the first sessions are done", || torture.left(), Vec::is_empty);
    for number in 0..faults {
        torture.inject(STEPS[(turn * faults + number) % STEPS.len()], seed);
    }
    torture.recount();
    let Torture { db, fault_counts, .. } = torture;
    drop(db);
    // Ends the worker, which frees a slot for other databases.
    lab.cluster.session(SUPERUSER).run(&format!("DROP DATABASE \"{name}\" WITH (FORCE)"));
    fault_counts
}

impl Torture<'_> {
    /// Stores some sessions of both hosts, each in a separate transaction. `with_keys`: also stores sessions with a
    /// foreign key, which wait for a lock of the whole inventory.
    fn store_sessions(&mut self, with_keys: bool) {
        for _ in 0..2 + self.random.below(4) {
            self.serial += 1;
            let random = &mut self.random;
            let address = match random.below(8) {
                0 => None,
                1 => Some("10.1.2.3".to_owned()),
                2 | 3 => Some(crowd_address(random, 200)),
                _ => Some(member(random.below(60_000) as usize, 1 + random.below(200) as u8).to_string()),
            };
            let host = if with_keys && random.one_in(2) { &SUMMARIES } else { &COWRIE };
            let key = format!("k{}", self.serial);
            let insert = host.insert(&[(&key, address.as_deref())]);
            if random.one_in(3) {
                let name = format!("{} {key}", self.db.name);
                self.db.run(&format!("BEGIN; {insert}; PREPARE TRANSACTION '{name}'"));
                self.db.run(&format!("COMMIT PREPARED '{name}'"));
            } else {
                self.db.run(&insert);
            }
            if random.one_in(6) {
                self.db.run(&format!("DELETE FROM {} WHERE {} = '{key}'", host.table, host.key));
            }
        }
        // At least one session waits for an answer.
        self.serial += 1;
        let address = member(self.random.below(60_000) as usize, 250).to_string();
        self.db.run(&COWRIE.insert(&[(&format!("k{}", self.serial), Some(&address))]));
    }

    /// Stores sessions of addresses that are in the inventory, so that their counts must be folded.
    fn store_sessions_of_known_addresses(&mut self) {
        for address in self.db.rows("SELECT host(ip_address) FROM enrich.ip_inventory LIMIT 3") {
            self.serial += 1;
            self.db.run(&COWRIE.insert(&[(&format!("k{}", self.serial), Some(&address))]));
        }
    }

    /// Returns a metric of this database's worker.
    fn metric(&mut self, name: &str, step: &str) -> f64 {
        let database = &self.db.name;
        let filter =
            if step.is_empty() { String::new() } else { format!("AND labels ->> 'step' = '{step}'") };
        self.watch
            .one(&format!(
                "SELECT coalesce(max(value), 0) FROM enrich.enrich_metrics
                 WHERE name = '{name}' AND labels ->> 'database' = '{database}' {filter}"
            ))
            .parse()
            .expect("a number")
    }

    fn errors(&mut self, step: &str) -> f64 {
        self.metric("enrich_worker_step_errors_total", step)
    }

    fn naptimes(&mut self) -> f64 {
        self.metric("enrich_worker_naptimes_total", "")
    }

    fn inject(&mut self, step: &'static str, seed: u64) {
        let fault = *self.random.pick(&faults(step));
        let what = format!("seed {seed}: {fault:?} in the way of {step}");
        let mut other = self.db.another();
        let prepared = format!("fault {}", self.db.name);
        let before = self.errors(step);
        let pid = worker_pid(&mut self.db);
        let is_of_restore = matches!(step, "sweep" | "take_over");
        if is_of_restore {
            self.leave_work_unannounced();
        }
        match fault {
            InjectedFault::Locked(table, mode) => {
                other.run(&format!("BEGIN; LOCK TABLE enrich.{table} IN {mode} MODE"));
            }
            InjectedFault::WorkerKilled(table) => {
                other.run(&format!("BEGIN; LOCK TABLE enrich.{table} IN {CHANGES} MODE"));
            }
            InjectedFault::Prepared(table, mode) => other.run(&format!(
                "BEGIN; LOCK TABLE enrich.{table} IN {mode} MODE; PREPARE TRANSACTION '{prepared}'"
            )),
            InjectedFault::Failing(trigger) => {
                other.run(&format!(
                    "CREATE TRIGGER raise_fault {trigger} EXECUTE FUNCTION public.inject_fault()"
                ));
            }
            InjectedFault::FoldByHand => other.run("BEGIN; CALL enrich.fold_statistics()"),
            // A foreign key does not wait for this lock.
            InjectedFault::AddressesHeld => {
                other.run("BEGIN; SELECT FROM enrich.ip_inventory FOR NO KEY UPDATE");
            }
            InjectedFault::SessionsHeld | InjectedFault::OwnerKilled => {
                // This lock is taken first, so that no session is completed before the lock of the fault is taken.
                let mut first = self.db.another();
                first.run(&format!("BEGIN; LOCK TABLE enrich.session_completion IN {CHANGES} MODE"));
                self.store_sessions(true);
                other.run(match fault {
                    InjectedFault::OwnerKilled => {
                        "BEGIN; LOCK TABLE sessions, session_summaries IN SHARE MODE"
                    }
                    _ => "BEGIN; SELECT FROM sessions FOR UPDATE; SELECT FROM session_summaries FOR UPDATE",
                });
                first.run("COMMIT");
            }
        }
        if is_of_restore {
            self.pretend_restore();
        }
        if step == "fold" {
            self.store_sessions_of_known_addresses();
        }
        if step == "reclassify" {
            self.db.run(
                "INSERT INTO enrich.known_networks AS k (asn_number, label, asn_type)
                 SELECT COALESCE(max(n.asn_number), 64500), 'Edited', 'ISP' FROM enrich.asn_inventory n
                 ON CONFLICT (asn_number) DO UPDATE SET asn_type = CASE k.asn_type WHEN 'ISP' THEN 'HOSTING' ELSE 'ISP' END",
            );
        }
        if !matches!(fault, InjectedFault::SessionsHeld | InjectedFault::OwnerKilled) {
            self.store_sessions(!fault.locks("ip_inventory"));
        }
        self.wait_for_effect(step, fault, before, &what);
        match fault {
            InjectedFault::WorkerKilled(_) => self.kill("cowrie_enrich worker", &what),
            InjectedFault::OwnerKilled => self.kill("cowrie_enrich owner process", &what),
            _ => {}
        }
        *self.fault_counts.0.entry(step).or_default() += 1;
        match fault {
            InjectedFault::Prepared(..) => {
                let verb = if self.random.one_in(2) { "COMMIT" } else { "ROLLBACK" };
                other.run(&format!("{verb} PREPARED '{prepared}'"));
            }
            InjectedFault::Failing(trigger) => {
                let table = trigger.split_whitespace().find(|word| word.starts_with("enrich."));
                other.run(&format!("DROP TRIGGER raise_fault ON {}", table.expect("a table")));
            }
            _ => other.run(if self.random.one_in(2) { "COMMIT" } else { "ROLLBACK" }),
        }
        if matches!(fault, InjectedFault::WorkerKilled(_)) {
            wait_until(
                &format!("{what}: there is another worker"),
                || worker_pid_now(&mut self.db),
                |now| now.is_some_and(|now| now != pid),
            );
        }
        self.wait_until_done(&what);
    }

    /// Creates work that only the step `sweep` finds, and a lease that only the step `take_over` of a new worker
    /// ends.
    fn leave_work_unannounced(&mut self) {
        let address = member(60_000 + self.random.below(1_000) as usize, 251);
        self.db.run(&format!(
            "INSERT INTO enrich.ip_inventory (ip_address) VALUES ('{address}') ON CONFLICT DO NOTHING"
        ));
        self.db.run("UPDATE enrich.enrichment_job SET leased_by = 1, due_at = now() + interval '1 hour' WHERE provider = 'spur'");
    }

    /// Makes the worker sweep and take over, which it does after it has seen a restore.
    fn pretend_restore(&mut self) {
        let mut restore = self.db.another();
        restore.run("SET application_name = 'pg_restore'");
        let state = format!(
            "SELECT state FROM enrich.worker_status() WHERE role = 'worker' AND database = '{}'",
            self.db.name
        );
        wait_until(
            "the worker has seen the restore",
            || self.watch.rows(&state),
            |states| states == &["waiting for pg_restore to end"],
        );
    }

    /// Waits for the effect of the fault: the step fails, the completion of a session fails, or work is still not done
    /// after a naptime.
    fn wait_for_effect(&mut self, step: &str, fault: InjectedFault, before: f64, what: &str) {
        let what = format!("{what}: it strikes");
        match fault {
            // A fold skips locked rows, so the fault may have an effect without an error.
            _ if step == "fold" => {
                let from = self.naptimes();
                wait_until(&what, || self.naptimes(), |now| *now >= from + 1.0);
                let waits =
                    self.db.number("SELECT count(*) FROM (SELECT FROM enrich.session_delta LIMIT 1) d");
                assert_eq!(waits, 1, "{what}");
            }
            InjectedFault::SessionsHeld => {
                wait_until(
                    &what,
                    || self.db.number("SELECT count(*) FROM enrich.session_completion WHERE attempts > 0"),
                    |number| *number > 0,
                );
            }
            // Does not wait. The effect was already seen, because the process was killed while it waited for the lock.
            InjectedFault::OwnerKilled => {}
            _ => {
                wait_until(&what, || self.errors(step), |now| *now > before);
            }
        }
    }

    fn kill(&mut self, process: &str, what: &str) {
        let waiting = format!(
            "SELECT pid FROM pg_stat_activity
             WHERE datname = current_database() AND backend_type = '{process}' AND wait_event_type = 'Lock'"
        );
        let pids = wait_until(
            &format!("{what}: the process waits for the lock"),
            || self.db.rows(&waiting),
            |pids| !pids.is_empty(),
        );
        self.db.run(&format!("SELECT pg_terminate_backend({}, 10000)", pids[0]));
    }

    /// Returns the kinds of work that are not done yet, each with its number; empty if there is none.
    fn left(&mut self) -> Vec<String> {
        self.db.rows(
            "SELECT what, n FROM (
                 SELECT 'requests', count(*) FROM enrich.enrichment_request
                 UNION ALL SELECT 'jobs', count(*) FROM enrich.enrichment_job WHERE provider <> 'spur'
                 UNION ALL SELECT 'leases', count(*) FROM enrich.enrichment_job WHERE leased_by = 1
                 UNION ALL SELECT 'dead letters', count(*) FROM enrich.dead_letter
                 UNION ALL SELECT 'incomplete sessions', count(*) FROM enrich.incomplete_session
                 UNION ALL SELECT 'completions', count(*) FROM enrich.session_completion WHERE due_at IS NOT NULL
                 UNION ALL SELECT 'counts', count(*) FROM enrich.session_delta
                 UNION ALL SELECT 'counts of networks', count(*) FROM enrich.network_delta
                 UNION ALL SELECT 'edits of known networks', count(*) FROM enrich.asn_inventory n
                           JOIN enrich.known_networks k USING (asn_number) WHERE n.asn_type <> k.asn_type
                 UNION ALL SELECT 'recounts', count(*) FROM enrich.recount_request
                 UNION ALL SELECT 'addresses without a network', count(*) FROM enrich.ip_inventory
                           WHERE current_asn IS NULL AND NOT is_bogon
                 UNION ALL SELECT 'snapshots of sessions', count(*) FROM sessions s
                           JOIN enrich.ip_inventory i ON i.ip_address = enrich.session_address(s.ip)
                           WHERE s.snapshot_asn IS NULL AND i.current_asn IS NOT NULL
                 UNION ALL SELECT 'snapshots of summaries', count(*) FROM session_summaries s
                           JOIN enrich.ip_inventory i ON i.ip_address = s.source_ip
                           WHERE s.snapshot_asn IS NULL AND i.current_asn IS NOT NULL) l(what, n)
             WHERE n > 0",
        )
    }

    /// Returns true if work waits only because the machine is slow. An owner process has a tenth of a second to
    /// complete sessions. If that is not enough, the worker starts it again later, at a time that depends on the
    /// machine.
    fn is_too_slow_for(&mut self, what: &str) -> bool {
        (what.starts_with("completions") || what.starts_with("snapshots"))
            && self.db.one(
                // If no row is due, the owner process has ended meanwhile.
                "SELECT count(*) FILTER (WHERE last_error ~ 'too long') > 0 OR count(due_at) = 0
                 FROM enrich.session_completion",
            ) == "t"
    }

    /// Waits until everything is done. The worker must not sleep more than two naptimes until then.
    #[track_caller]
    fn wait_until_done(&mut self, what: &str) {
        let from = self.naptimes();
        wait_until(
            &format!("{what}: everything is done"),
            || {
                let slept = self.naptimes() - from;
                let left = self.left();
                assert!(
                    slept <= naptimes_allowed() || left.iter().all(|what| self.is_too_slow_for(what)),
                    "{what}: after {slept} naptimes there are left: {left:?}\n{}",
                    cymru::state(&mut self.db)
                );
                left
            },
            Vec::is_empty,
        );
    }

    /// Asserts that the rules were evaluated, that every count is exact, and that all references hold.
    fn recount(&mut self) {
        wait_until(
            "lookups are as urgent as the rule says",
            || {
                self.db.rows(
                    "SELECT j.lookup_key, j.priority FROM enrich.enrichment_job j
                     JOIN sessions s ON enrich.session_address(s.ip) = j.lookup_key::inet
                     WHERE j.provider = 'spur' AND j.priority <> s.sensor AND s.ip LIKE '%.250' LIMIT 3",
                )
            },
            Vec::is_empty,
        );
        assert_counts_are_exact(&mut self.db, &TABLES);
        assert_invariants(&mut self.db, &mut Snapshots::default());
    }
}

/// Kills one process of a kind, if there is one, and waits until the server has recovered. `victim` is a `backend_type` of
/// pg_stat_activity or `postmaster`. Returns whether one was killed.
pub fn kill(cluster: &Cluster, victim: &str, database: &str, random: &mut Random) -> bool {
    if victim == "postmaster" {
        cluster.kill_postmaster();
        cluster.start_again();
        return true;
    }
    let Ok(mut session) = cluster.try_session(database) else { return false };
    let pids = session.rows(&format!(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = '{victim}' AND pid <> pg_backend_pid() ORDER BY pid"
    ));
    drop(session);
    if pids.is_empty() {
        return false;
    }
    let pid = random.pick(&pids).parse().expect("a process number");
    cluster.kill_unless_ended(pid)
}

/// Clients of the storm.
const CLIENTS: usize = 4;

/// The process that a round of the storm kills. `None`: no process is killed, and a prepared transaction holds a
/// lock.
const VICTIMS: [Option<&str>; 6] = [
    Some("client backend"),
    Some("cowrie_enrich worker"),
    None,
    Some("postmaster"),
    Some("cowrie_enrich owner process"),
    None,
];

/// Tables whose lock blocks the worker but no session.
const WORKERS_TABLES: [&str; 4] = ["enrichment_job", "job_address", "session_completion", "block_answer"];

/// Runs `rounds` rounds on the primary, a failover, and the same number on the standby. Returns a summary.
pub fn storm(seed: u64, rounds: u64) -> String {
    let mut random = Random::seeded(seed);
    let sources = "maxmind,cymru,greynoise,dshield";
    let lab = Plan::of("torture-primary", sources)
        .with("worker_naptime = 100ms")
        .with("cymru_batch_size = 20")
        .options(|options| options.durable().conf("fsync = off").conf("restart_after_crash = on"))
        .start();
    let mut db = lab.database();
    let name = db.name.clone();
    traffic::prepare(&mut db);
    drop(db);
    let standby = Options::named("torture-standby").with_worker().durable().conf("fsync = off");
    let standby = lab.cluster.standby(&pointed_at(
        &lab.whois,
        // These lines come after the base settings of tests, in which no provider is enabled.
        [("greynoise", &lab.greynoise), ("dshield", &lab.dshield)]
            .iter()
            .fold(standby, |options, (provider, server)| {
                options.conf(&format!("cowrie_enrich.{provider}_url = '{}'", server.url()))
            })
            .conf(&format!("cowrie_enrich.enabled_sources = '{sources}'"))
            .conf("cowrie_enrich.worker_naptime = 100ms"),
    ));

    let traffic = Traffic::new(&lab.cluster, &name, CLIENTS, seed);
    let mut happened: BTreeMap<String, u32> = BTreeMap::new();
    let mut seen = Snapshots::default();
    traffic.during_without_calls(|| {
        let mut rounds_on = |cluster: &Cluster, random: &mut Random| {
            for round in 0..rounds {
                traffic.wait_for_transactions(20);
                let victim = VICTIMS[(round as usize + random.below(2) as usize) % VICTIMS.len()];
                let what = match victim {
                    Some(victim) if kill(cluster, victim, &name, random) => format!("{victim} killed"),
                    Some(_) => continue,
                    None => {
                        let table = *random.pick(&WORKERS_TABLES);
                        let mut session = cluster.session(&name);
                        session.run(&format!(
                            "BEGIN; LOCK TABLE enrich.{table} IN {CHANGES} MODE; PREPARE TRANSACTION 'fault'"
                        ));
                        traffic.wait_for_transactions(20);
                        session.run("ROLLBACK PREPARED 'fault'");
                        format!("{table} locked")
                    }
                };
                *happened.entry(what).or_default() += 1;
                let held = traffic.hold();
                let mut session = cluster.session(&name);
                assert_invariants(&mut session, &mut seen);
                assert_sessions_are(&mut session, &held.acknowledged());
            }
        };
        rounds_on(&lab.cluster, &mut random);
        let held = traffic.hold();
        fail_over(&lab.cluster, &standby, &name);
        traffic.turn_to(&standby);
        drop(held);
        rounds_on(&standby, &mut random);
        traffic.end();
    });
    let held = traffic.hold();
    let mut session = standby.session(&name);
    worker_pid(&mut session);
    wait_for_the_queue(&mut session);
    assert_invariants(&mut session, &mut seen);
    assert_sessions_are(&mut session, &held.acknowledged());
    let compared = assert_recount_changes_nothing(&mut session);
    assert!(!lab.cluster.whole_log().contains("panicked"), "a process of the primary panicked");
    assert!(!standby.whole_log().contains("panicked"), "a process of the standby panicked");
    let transactions = traffic.transactions.load(Ordering::Relaxed);
    format!("{transactions} transactions; {happened:?}, one failover; {compared}")
}

/// Stops the primary when the standby has replayed everything, and promotes the standby.
fn fail_over(primary: &Cluster, standby: &Cluster, database: &str) {
    let written = primary.session(database).one("SELECT pg_current_wal_lsn()");
    let mut there = standby.session(database);
    // Replay may cancel a statement.
    let _ = wait_until(
        "the standby has everything",
        || there.try_rows(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'")).map_err(|e| e.message),
        |rows| *rows == Ok(vec!["t".to_owned()]),
    );
    primary.kill_postmaster();
    standby.promote();
}

/// Compares every count with a recount of the test and with one of the extension. Returns the numbers of sessions,
/// addresses and networks.
#[track_caller]
fn assert_recount_changes_nothing(session: &mut Session) -> String {
    assert_counts_are_exact(session, &TABLES);
    let counts = "SELECT 'address', host(ip_address), session_count, NULL FROM enrich.ip_inventory
                  UNION ALL SELECT 'network', asn_number::text, total_session_count, unique_ip_count FROM enrich.asn_inventory
                  ORDER BY 1, 2";
    let before = session.rows(counts);
    session.run("CALL enrich.refresh_session_counts()");
    session.run("CALL enrich.fold_statistics()");
    assert_eq!(session.rows(counts), before, "a recount changes counts");
    let sessions = session
        .one("SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM session_summaries)")
        .replace('|', " + ");
    format!("{sessions} sessions, all counts of {} addresses and networks are exact", before.len())
}
