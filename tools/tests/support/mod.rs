//! A server and databases for the loader's tests, and the loader as a child process.
//!
//! The tests need the private PostgreSQL. `make test` provides it and sets COWRIE_ENRICH_PG_CONFIG. Without that
//! variable these tests only report that they were skipped.

// Each suite uses a part of this module.
#![allow(dead_code)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postgres::{Client, NoTls};

pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The directory of the one cluster that these tests share.
pub fn server() -> Option<&'static str> {
    static SERVER: OnceLock<Option<String>> = OnceLock::new();
    SERVER.get_or_init(|| cluster("tools-test", || vec!["fsync = off".to_owned()])).as_deref()
}

/// Starts a cluster of this name with these settings. Returns its directory, or `None` if there is no private PostgreSQL.
pub fn cluster(name: &str, settings: impl FnOnce() -> Vec<String>) -> Option<String> {
    if std::env::var_os("COWRIE_ENRICH_PG_CONFIG").is_none() {
        eprintln!("not tested: COWRIE_ENRICH_PG_CONFIG is not set");
        return None;
    }
    let cluster = |action: &str, settings: &[String]| {
        let output = Command::new(checkout().join("scripts/cluster"))
            .args([action, name])
            .args(settings)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "scripts/cluster {action}");
        String::from_utf8(output.stdout).unwrap()
    };
    cluster("start", &settings());
    let environment = cluster("env", &[]);
    let host = environment.split_whitespace().find_map(|pair| pair.strip_prefix("PGHOST=")).unwrap();
    Some(host.to_owned())
}

/// Asserts that systemd accepts a service and finds it hardened. `units` are the names and texts of the service and its other units.
/// The units are written to a directory of this name below target/tmp. Without systemd, only reports that this was not tested.
pub fn assert_systemd_accepts(directory: &str, service: &str, units: &[(&str, String)]) {
    let directory = checkout().join("target/tmp").join(directory);
    std::fs::create_dir_all(&directory).unwrap();
    for (name, text) in units {
        std::fs::write(directory.join(name), text).unwrap();
    }
    let analyze = |arguments: &[&str]| {
        let output =
            Command::new("systemd-analyze").args(arguments).arg(directory.join(service)).output().ok()?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Some((output.status.success(), text.concat()))
    };
    let Some((is_good, said)) = analyze(&["verify", "--man=no"]) else {
        eprintln!("not tested: systemd-analyze is not installed");
        return;
    };
    assert!(is_good && !said.contains(&format!("{service}:")), "{said}");
    // On the scale of systemd, 2.0 and less is OK, and an ordinary service has 9.6.
    let (is_good, said) = analyze(&["security", "--offline=yes", "--threshold=20", "--no-pager"]).unwrap();
    assert!(is_good, "{said}");
}

/// A separate database for one test, with Cowrie's tables.
pub struct Database {
    pub dsn: String,
    pub client: Client,
}

impl Database {
    pub fn new(name: &str) -> Option<Database> {
        let host = server()?;
        let dsn = |name: &str| format!("host={host} port=5432 user=postgres dbname={name}");
        let mut admin = Client::connect(&dsn("postgres"), NoTls).unwrap();
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        let mut client = Client::connect(&dsn(name), NoTls).unwrap();
        client
            .batch_execute(&std::fs::read_to_string(checkout().join("demo/cowrie-schema.sql")).unwrap())
            .unwrap();
        Some(Database { dsn: dsn(name), client })
    }

    pub fn load(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cowrie-load"))
            .args(["--dsn", &self.dsn])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that stops early closes the pipe. Its message gives the reason.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// Loads and returns the report. Fails unless the load succeeds.
    pub fn report(&self, arguments: &[&str], input: &[u8]) -> String {
        let output = self.load(arguments, input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns all stored values except serial numbers, sorted. Two loads of the same log give equal values.
    pub fn contents(&mut self) -> Vec<String> {
        let query = "
            SELECT concat_ws('|', 'session', s.id, starttime, endtime, n.ip, s.ip, termsize, c.version)
            FROM sessions s JOIN sensors n ON n.id = s.sensor LEFT JOIN clients c ON c.id = s.client
            UNION ALL SELECT concat_ws('|', 'auth', session, success, username, password, timestamp) FROM auth
            UNION ALL SELECT concat_ws('|', 'input', session, timestamp, realm, success, input) FROM input
            UNION ALL SELECT concat_ws('|', 'downloads', session, timestamp, url, outfile, shasum) FROM downloads
            UNION ALL SELECT concat_ws('|', 'ttylog', session, ttylog, size) FROM ttylog
            UNION ALL SELECT concat_ws('|', 'params', session, arch) FROM params
            UNION ALL SELECT concat_ws('|', 'key', session, username, fingerprint) FROM keyfingerprints
            UNION ALL SELECT concat_ws('|', 'forward', session, timestamp, dst_ip, dst_port) FROM ipforwards
            UNION ALL SELECT concat_ws('|', 'data', session, timestamp, dst_ip, dst_port, data) FROM ipforwardsdata
            UNION ALL SELECT concat_ws('|', 'sensor', ip) FROM sensors
            UNION ALL SELECT concat_ws('|', 'client', version) FROM clients
            ORDER BY 1";
        self.client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    }

    pub fn one(&mut self, query: &str) -> String {
        self.client.query_one(query, &[]).unwrap().get(0)
    }
}

pub fn bundled() -> String {
    checkout().join("demo/cowrie.json.gz").to_str().unwrap().to_owned()
}

pub fn line(session: &str, second: u32, event: &str, fields: &str) -> String {
    format!(
        "{{\"eventid\":\"cowrie.{event}\",\"session\":\"{session}\",\"sensor\":\"trap\",\"src_ip\":\"192.0.2.1\",\"timestamp\":\"2024-01-01T00:00:{second:02}Z\"{fields}}}\n"
    )
}

/// Calls `fetch` until `predicate` is true for its value, and returns this value.
pub fn wait_until<T: std::fmt::Debug>(
    what: &str,
    mut fetch: impl FnMut() -> T,
    predicate: impl Fn(&T) -> bool,
) -> T {
    let started = Instant::now();
    loop {
        let value = fetch();
        if predicate(&value) {
            return value;
        }
        assert!(started.elapsed() < Duration::from_secs(180), "waited in vain until {what}: {value:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Repeatable random numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// Takes the seed from the variable SEED, or from the clock, and prints it.
    pub fn seeded() -> Random {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 % 1_000_000;
        let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock);
        eprintln!("SEED={seed}");
        Random(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    pub fn one_in(&mut self, number: u64) -> bool {
        self.below(number) == 0
    }
}

impl Database {
    /// Creates a role that has the printed privileges and nothing else, not even those of PUBLIC. Returns the
    /// connection string of the role.
    pub fn role(&mut self, role: &str, program: &str) -> String {
        let database = self.one("SELECT current_database()::text");
        self.client
            .batch_execute(&format!(
                "REVOKE ALL ON DATABASE {database} FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC;
                 DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN"
            ))
            .unwrap();
        let grants = self.printed_grants(role, program);
        self.psql(&grants);
        self.dsn.replace("user=postgres", &format!("user={role}"))
    }

    pub fn printed_grants(&self, role: &str, program: &str) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_cowrie-load"))
            .args(["--print-grants", "sessions", "--role", role, "--for", program])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a script with psql as superuser.
    pub fn psql(&self, script: &str) {
        let config = std::env::var("COWRIE_ENRICH_PG_CONFIG").unwrap();
        let mut child = Command::new(Path::new(&config).with_file_name("psql"))
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.dsn])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A directory of logs that a loader follows, with its state.
pub struct Site {
    pub root: PathBuf,
    pub dsn: String,
}

impl Site {
    pub fn new(name: &str, dsn: &str) -> Site {
        let root = checkout().join("target/tmp").join(format!("follow-{name}"));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(root.join("logs")).unwrap();
        Site { root, dsn: dsn.to_owned() }
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(name)
    }

    pub fn append(&self, name: &str, text: impl AsRef<[u8]>) {
        let mut file = File::options().create(true).append(true).open(self.log(name)).unwrap();
        file.write_all(text.as_ref()).unwrap();
    }

    pub fn start(&self, arguments: &[&str]) -> Follower {
        let errors = File::options().create(true).append(true).open(self.root.join("errors")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_cowrie-load"))
            .args(["--dsn", &self.dsn, "--follow"])
            .arg(self.root.join("logs"))
            .arg("--state")
            .arg(self.root.join("state"))
            .arg("--metrics")
            .arg(self.root.join("metrics.prom"))
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        Follower { child }
    }

    /// Returns everything that loaders have written to standard error.
    pub fn errors(&self) -> String {
        std::fs::read_to_string(self.root.join("errors")).unwrap_or_default()
    }

    /// Returns the value of a metric, or `None` if the file is not there yet.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = std::fs::read_to_string(self.root.join("metrics.prom")).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        Some(value.parse().unwrap())
    }
}

/// A running loader. It is killed when the value is dropped.
pub struct Follower {
    pub child: Child,
}

impl Follower {
    /// Sends SIGKILL, and waits for the end of the process.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
