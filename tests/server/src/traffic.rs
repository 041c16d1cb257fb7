//! Clients that write sessions into both hosts' tables concurrently. Each client knows which of its sessions the server
//! acknowledged.
//!
//! After any kill, a statement of a client may fail only because its connection is lost. Then the client does not know
//! whether the transaction has committed. It later looks for the mark of the transaction. Either all rows of the
//! transaction are stored, or none.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use crate::cymru::member;
use crate::hosts::{COWRIE, Host, SUMMARIES};
use crate::random::Random;
use crate::session::{Refusal, Session};
use crate::world::crowd_address;
use crate::{Cluster, wait_until};

const HOSTS: [&Host; 2] = [&COWRIE, &SUMMARIES];

/// The tables and their address columns, as `recount` takes them.
pub const TABLES: [(&str, &str); 2] = [("sessions", "ip"), ("session_summaries", "source_ip")];

/// The table into which each transaction of a client writes its mark.
const MARKS: &str = "CREATE TABLE IF NOT EXISTS kept (mark text PRIMARY KEY)";

/// The final address of each session, by host and key.
pub type Sessions = BTreeMap<(usize, String), Option<String>>;

/// Makes both hosts' tables and the table of marks.
pub fn prepare(session: &mut Session) {
    // One of the two hosts has the foreign key. The other host cannot have it, because its address column has another
    // type.
    make_tables(session, true);
}

/// Makes the tables like [`prepare`], but without the foreign key. Adding the foreign key needs objects of the same
/// version as the library.
pub fn prepare_without_key(session: &mut Session) {
    make_tables(session, false);
}

fn make_tables(session: &mut Session, with_key: bool) {
    COWRIE.create_attached(session);
    SUMMARIES.create(session);
    session.run(&format!(
        "SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at', {with_key})"
    ));
    session.run(MARKS);
}

/// Returns true if the connection was lost because a process was killed, or the server stops, starts or is not running.
pub fn is_connection_lost(refusal: &Refusal) -> bool {
    refusal.code.starts_with("08") || ["57P01", "57P02", "57P03"].contains(&refusal.code.as_str())
}

/// The statements of a transaction, and the sessions after its commit.
struct Plan {
    statements: Vec<String>,
    after: Sessions,
}

enum TransactionEnd {
    Committed,
    RolledBack,
    Unknown,
}

/// A transaction whose end is unknown: prepared, or in doubt.
struct Open {
    mark: String,
    after: Sessions,
}

pub struct Client {
    number: usize,
    random: Random,
    serial: u64,
    known: Sessions,
    open: Option<Open>,
    session: Option<Session>,
    /// True if the client also calls functions. Otherwise it only stores sessions.
    calls: bool,
}

impl Client {
    fn new(number: usize, seed: u64) -> Client {
        let random = Random::seeded(seed.wrapping_mul(1000).wrapping_add(number as u64));
        Client { number, random, serial: 0, known: Sessions::new(), open: None, session: None, calls: true }
    }

    fn address(&mut self) -> Option<String> {
        let random = &mut self.random;
        match random.below(12) {
            0 => None,
            // All addresses of the crowd are in the mmdb files. The addresses of the next two arms are not.
            1..6 => Some(crowd_address(random, 400)),
            6 => Some("10.1.2.3".to_owned()),
            _ => Some(member(random.skewed_below(600) as usize, random.below(3) as u8).to_string()),
        }
    }

    /// Returns the key of a stored session that this client knows, or a new key.
    fn key(&mut self, host: usize, now: &Sessions) -> String {
        let known: Vec<&(usize, String)> = now.keys().filter(|(of, _)| *of == host).collect();
        if !known.is_empty() && self.random.one_in(3) {
            return self.random.pick(&known).1.clone();
        }
        self.serial += 1;
        format!("c{}-{}", self.number, self.serial)
    }

    fn statement(&mut self, after: &mut Sessions) -> String {
        let of = self.random.below(2) as usize;
        let host = HOSTS[of];
        let known: Vec<String> = after.keys().filter(|(o, _)| *o == of).map(|(_, key)| key.clone()).collect();
        match self.random.below(10) {
            0..6 => {
                let upserts = self.random.one_in(2);
                // The honeypot writes one row per statement.
                let number = if of == 0 { 1 } else { 1 + self.random.below(6) };
                let mut rows: BTreeMap<String, Option<String>> = BTreeMap::new();
                for _ in 0..number {
                    rows.insert(self.key(of, after), self.address());
                }
                for (key, address) in &rows {
                    let place = (of, key.clone());
                    if upserts || !after.contains_key(&place) {
                        after.insert(place, address.clone());
                    }
                }
                let rows: Vec<(&str, Option<&str>)> =
                    rows.iter().map(|(key, address)| (key.as_str(), address.as_deref())).collect();
                let (key, address) = (host.key, host.address);
                let conflict = match upserts {
                    true => format!("({key}) DO UPDATE SET {address} = EXCLUDED.{address}"),
                    false => "DO NOTHING".to_owned(),
                };
                format!("{} ON CONFLICT {conflict}", host.insert(&rows))
            }
            6 if !known.is_empty() => {
                let key = self.random.pick(&known).clone();
                after.remove(&(of, key.clone()));
                format!("DELETE FROM {} WHERE {} = '{key}'", host.table, host.key)
            }
            7 | 8 if !known.is_empty() => {
                let key = self.random.pick(&known).clone();
                let address = self.address();
                let value = address.as_ref().map_or_else(|| host.no_address.to_owned(), |a| format!("'{a}'"));
                after.insert((of, key.clone()), address);
                format!("UPDATE {} SET {} = {value} WHERE {} = '{key}'", host.table, host.address, host.key)
            }
            _ => "SELECT count(*) FROM enrich.attached_tables".to_owned(),
        }
    }

    /// Returns statements with savepoints, some of which are rolled back.
    fn plan(&mut self) -> Plan {
        let mut after = self.known.clone();
        let mut statements = Vec::new();
        if self.calls && self.random.one_in(6) {
            // This call gets a transaction of its own. After other statements, the call would lock rows in the wrong
            // order.
            let address = self.address().unwrap_or_else(|| "48.0.0.1".to_owned());
            statements.push(format!("SELECT enrich.enrich_ip('{address}')"));
            return Plan { statements, after };
        }
        let mut open: Vec<(u64, Sessions)> = Vec::new();
        for step in 0..=self.random.below(6) {
            match self.random.below(6) {
                0 => {
                    statements.push(format!("SAVEPOINT s{step}"));
                    open.push((step, after.clone()));
                }
                1 if !open.is_empty() => {
                    let (step, before) = open.pop().expect("one is open");
                    if self.random.one_in(2) {
                        after = before;
                        statements.push(format!("ROLLBACK TO s{step}"));
                    }
                    statements.push(format!("RELEASE s{step}"));
                }
                _ => statements.push(self.statement(&mut after)),
            }
        }
        Plan { statements, after }
    }

    /// Plans a transaction and runs it. Opens a connection if there is none. If the connection fails, does nothing.
    fn transact(&mut self, connect: impl FnOnce() -> Option<Session>) -> bool {
        if self.session.is_none() {
            self.session = connect();
        }
        let Some(mut session) = self.session.take() else { return false };
        if self.open.is_some() && !self.resolve_open_transaction(&mut session) {
            return false;
        }
        let plan = self.plan();
        let mark = format!("m{}-{}", self.number, self.serial);
        self.serial += 1;
        let way = self.random.below(8);
        match self.make(&mut session, plan, mark, way) {
            TransactionEnd::Unknown => false,
            TransactionEnd::Committed | TransactionEnd::RolledBack => {
                self.session = Some(session);
                true
            }
        }
    }

    /// Runs a statement. Asserts that the statement fails only if the connection is lost.
    fn run(&self, session: &mut Session, sql: &str) -> bool {
        match session.try_run(sql) {
            Ok(()) => true,
            Err(refusal) if is_connection_lost(&refusal) => false,
            Err(refusal) => panic!("a client's statement was refused: {refusal:?}\n{sql}"),
        }
    }

    fn make(&mut self, session: &mut Session, plan: Plan, mark: String, way: u64) -> TransactionEnd {
        if !self.run(session, "BEGIN") {
            return TransactionEnd::Unknown;
        }
        for statement in plan.statements.iter().chain([&format!("INSERT INTO kept VALUES ('{mark}')")]) {
            if !self.run(session, statement) {
                return TransactionEnd::Unknown;
            }
        }
        match way {
            0 => {
                if !self.run(session, "ROLLBACK") {
                    return TransactionEnd::Unknown;
                }
                TransactionEnd::RolledBack
            }
            1 | 2 => {
                self.open = Some(Open { mark: mark.clone(), after: plan.after });
                if !self.run(session, &format!("PREPARE TRANSACTION '{mark}'")) {
                    return TransactionEnd::Unknown;
                }
                // Leaves the transaction prepared for a while, so that other transactions or a crash can happen before
                // its end.
                std::thread::sleep(std::time::Duration::from_millis(self.random.below(30)));
                if !self.resolve_open_transaction(session) {
                    return TransactionEnd::Unknown;
                }
                TransactionEnd::Committed
            }
            _ => {
                self.open = Some(Open { mark, after: plan.after });
                if !self.run(session, "COMMIT") {
                    return TransactionEnd::Unknown;
                }
                self.known = self.open.take().expect("it was put there").after;
                TransactionEnd::Committed
            }
        }
    }

    /// Ends the transaction if it is prepared. Otherwise finds out whether it has committed.
    fn resolve_open_transaction(&mut self, session: &mut Session) -> bool {
        let Some(open) = &self.open else { return true };
        let mark = &open.mark;
        let prepared = session.try_rows(&format!("SELECT FROM pg_prepared_xacts WHERE gid = '{mark}'"));
        let Ok(prepared) = prepared else { return false };
        if !prepared.is_empty() {
            let keep = !self.random.one_in(3);
            let verb = if keep { "COMMIT" } else { "ROLLBACK" };
            if !self.run(session, &format!("{verb} PREPARED '{mark}'")) {
                return false;
            }
        }
        match session.try_rows(&format!("SELECT FROM kept WHERE mark = '{mark}'")) {
            Ok(marks) => {
                let open = self.open.take().expect("it is open");
                if !marks.is_empty() {
                    self.known = open.after;
                }
                true
            }
            Err(_) => false,
        }
    }
}

/// The clients and the server that they connect to.
pub struct Traffic<'a> {
    clients: Vec<Mutex<Client>>,
    server: RwLock<&'a Cluster>,
    database: String,
    is_held: AtomicBool,
    is_over: AtomicBool,
    /// Set if a client met an unexpected error.
    gave_up: AtomicBool,
    pub transactions: AtomicU64,
}

/// Ends the clients when this value is dropped, also if the test panics.
pub struct EndOnDrop<'a, 'b>(&'a Traffic<'b>);

impl Drop for EndOnDrop<'_, '_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Keeps all clients stopped while this value exists. The clients have no open transaction.
pub struct PausedClients<'a>(&'a Traffic<'a>, Vec<MutexGuard<'a, Client>>);

impl<'a> Traffic<'a> {
    pub fn new(server: &'a Cluster, database: &str, clients: usize, seed: u64) -> Traffic<'a> {
        Traffic {
            clients: (0..clients).map(|number| Mutex::new(Client::new(number, seed))).collect(),
            server: RwLock::new(server),
            database: database.to_owned(),
            is_held: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            gave_up: AtomicBool::new(false),
            transactions: AtomicU64::new(0),
        }
    }

    /// Runs all clients, one thread each, during `work`.
    pub fn during<T>(&'a self, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|threads| {
            let _ends = self.ends();
            for number in 0..self.clients.len() {
                threads.spawn(move || self.drive(number));
            }
            work()
        })
    }

    /// Runs all clients during `work`, like [`during`](Self::during). The clients only store sessions and call no
    /// function.
    pub fn during_without_calls<T>(&'a self, work: impl FnOnce() -> T) -> T {
        (0..self.clients.len()).for_each(|number| self.client(number).calls = false);
        self.during(work)
    }

    pub fn ends(&self) -> EndOnDrop<'_, 'a> {
        EndOnDrop(self)
    }

    fn drive(&self, number: usize) {
        struct PanicWatch<'a>(&'a AtomicBool);
        impl Drop for PanicWatch<'_> {
            fn drop(&mut self) {
                self.0.fetch_or(std::thread::panicking(), Ordering::AcqRel);
            }
        }
        let _watch = PanicWatch(&self.gave_up);
        while !self.is_over() {
            if self.is_held.load(Ordering::Acquire) {
                std::thread::yield_now();
                continue;
            }
            self.step(number);
        }
    }

    /// Waits until this number of further transactions was made.
    #[track_caller]
    pub fn wait_for_transactions(&self, number: u64) {
        let made = || {
            assert!(!self.gave_up.load(Ordering::Acquire), "a client gave up");
            self.transactions.load(Ordering::Relaxed)
        };
        let before = made();
        wait_until("sessions come in", made, |now| *now >= before + number);
    }

    /// Runs one transaction of a client that calls no function.
    pub fn step_without_calls(&self, number: usize) {
        self.client(number).calls = false;
        self.step(number);
    }

    /// Runs one transaction of a client.
    pub fn step(&self, number: usize) {
        let mut client = self.client(number);
        if client.transact(|| self.try_connect()) {
            self.transactions.fetch_add(1, Ordering::Relaxed);
        } else {
            drop(client);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn client(&self, number: usize) -> MutexGuard<'_, Client> {
        self.clients[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn try_connect(&self) -> Option<Session> {
        let server = *self.server.read().unwrap_or_else(PoisonError::into_inner);
        server.try_session(&self.database).ok()
    }

    /// Makes the clients connect to the other server from now on.
    pub fn turn_to(&self, server: &'a Cluster) {
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = server;
    }

    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Stops all clients. If the end of a client's transaction is unknown, finds out whether the transaction has
    /// committed.
    pub fn hold(&'a self) -> PausedClients<'a> {
        self.is_held.store(true, Ordering::Release);
        assert!(!self.gave_up.load(Ordering::Acquire), "a client gave up");
        let mut guards: Vec<MutexGuard<'a, Client>> =
            (0..self.clients.len()).map(|number| self.client(number)).collect();
        for client in &mut guards {
            client.session = None;
            wait_until(
                "a client has learned what was kept",
                || {
                    self.try_connect()
                        .is_some_and(|mut session| client.resolve_open_transaction(&mut session))
                },
                |is_resolved| *is_resolved,
            );
        }
        PausedClients(self, guards)
    }
}

impl PausedClients<'_> {
    /// Returns the sessions that the server acknowledged.
    pub fn acknowledged(&self) -> Sessions {
        self.1.iter().flat_map(|client| client.known.clone()).collect()
    }
}

impl Drop for PausedClients<'_> {
    fn drop(&mut self) {
        self.0.is_held.store(false, Ordering::Release);
    }
}

/// Asserts that the tables have exactly the acknowledged sessions, each with its address.
#[track_caller]
pub fn assert_sessions_are(session: &mut Session, expected: &Sessions) {
    let mut found = Sessions::new();
    for (of, host) in HOSTS.iter().enumerate() {
        let address = if of == 0 { host.address.to_owned() } else { format!("host({})", host.address) };
        for row in session.rows(&format!(
            "SELECT trim({}), {address}, {address} IS NULL OR {address}::text = '' FROM {}",
            host.key, host.table
        )) {
            let columns: Vec<&str> = row.split('|').collect();
            let address = (columns[2] == "f").then(|| columns[1].to_owned());
            found.insert((of, columns[0].to_owned()), address);
        }
    }
    let lost: Vec<_> = expected.iter().filter(|(key, address)| found.get(key) != Some(address)).collect();
    let surplus: Vec<_> = found.keys().filter(|key| !expected.contains_key(key)).collect();
    assert!(
        lost.is_empty() && surplus.is_empty(),
        "of {} sessions {} are lost or changed, {} should not be there: {:?} {:?}",
        expected.len(),
        lost.len(),
        surplus.len(),
        &lost[..lost.len().min(5)],
        &surplus[..surplus.len().min(5)]
    );
}
