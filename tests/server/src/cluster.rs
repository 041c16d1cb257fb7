//! Starts a server, kills it, starts it again and removes it.
//!
//! The postmaster is a child of the test process. A watchdog makes sure that no server is left behind. It is a shell
//! that waits for the end of its standard input. However the test process ends, the pipe closes. Then the watchdog
//! stops the server and removes its files.
//!
//! The servers use no TCP port. Each has a separate socket directory with a short name, because the path of a socket
//! must not be longer than 107 bytes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use postgres::NoTls;

use crate::clock;
use crate::installation::{Installation, installation};
use crate::session::Session;
use crate::wait::wait_until;

/// All servers can have the same port, because it only names the socket file and their socket directories differ.
const PORT: u16 = 5432;

/// The superuser of every test cluster.
pub const SUPERUSER: &str = "postgres";

#[derive(Clone)]
pub struct Options {
    name: String,
    preload: bool,
    worker: bool,
    durable: bool,
    clock: Option<PathBuf>,
    installation: Option<&'static Installation>,
    extension_owner: Option<String>,
    environment: Vec<(String, String)>,
    conf: Vec<String>,
}

/// The environment variable that names the role that owns the extension in the databases of tests.
const EXTENSION_OWNER: &str = "COWRIE_ENRICH_EXTENSION_OWNER";

impl Options {
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            preload: true,
            worker: false,
            durable: false,
            clock: None,
            installation: None,
            extension_owner: std::env::var(EXTENSION_OWNER).ok().filter(|name| !name.is_empty()),
            environment: Vec::new(),
            conf: Vec::new(),
        }
    }

    /// Leaves `shared_preload_libraries` empty.
    #[must_use]
    pub fn without_preload(mut self) -> Self {
        self.preload = false;
        self
    }

    /// Starts the background workers. Without workers, only statements of the test change data.
    #[must_use]
    pub fn with_worker(mut self) -> Self {
        self.worker = true;
        self
    }

    /// Flushes writes to disk, as a production server does. Otherwise a crash of the machine can lose data, but a
    /// crash of PostgreSQL cannot.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Gives the server a separate clock, which a test sets: see `clock::Clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: &clock::Clock) -> Self {
        self.clock = Some(clock.path().to_owned());
        self
    }

    /// Runs another PostgreSQL than the one under test. The data directory must be given, too.
    #[must_use]
    pub fn run_by(mut self, installation: &'static Installation) -> Self {
        self.installation = Some(installation);
        self
    }

    /// Lets a role without SUPERUSER own the extension in the template, as the documentation sets it up. By default the
    /// superuser owns the extension, unless the environment names a role.
    #[must_use]
    pub fn owned_by(mut self, role: &str) -> Self {
        self.extension_owner = Some(role.to_owned());
        self
    }

    /// Lets the superuser own the extension, even if the environment names a role.
    #[must_use]
    pub fn owned_by_superuser(mut self) -> Self {
        self.extension_owner = None;
        self
    }

    /// Sets an environment variable of the server.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds lines to postgresql.conf before the lines that were already added. If a setting occurs twice, the later
    /// line takes precedence.
    #[must_use]
    pub fn conf_before(mut self, lines: &[String]) -> Self {
        self.conf.splice(0..0, lines.iter().cloned());
        self
    }

    /// Adds a line to postgresql.conf.
    #[must_use]
    pub fn conf(mut self, line: &str) -> Self {
        self.conf.push(line.to_owned());
        self
    }
}

pub struct Cluster {
    installation: &'static Installation,
    extension_owner: Option<String>,
    dir: PathBuf,
    socket_dir: PathBuf,
    log: PathBuf,
    /// See `Options::with_clock`.
    clock: Option<PathBuf>,
    environment: Vec<(String, String)>,
    postmaster: Mutex<Option<Child>>,
    watchdog: Mutex<Option<Child>>,
}

impl Cluster {
    pub fn start(options: &Options) -> Self {
        Self::made(options, |data| {
            copy_data(&template(), data);
        })
    }

    /// Returns a standby of this server: a base backup that follows it. It has this server's settings, then those of
    /// `options`. A replication slot keeps the WAL that the standby still needs.
    pub fn standby(&self, options: &Options) -> Self {
        let slot = format!("--slot={}", options.name.replace('-', "_"));
        Self::made(options, |data| self.back_up(data, &["--write-recovery-conf", "--create-slot", &slot]))
    }

    /// Makes a base backup of this server, in a directory next to its data.
    pub fn base_backup(&self, name: &str) -> PathBuf {
        let target = self.dir.join(name);
        // The parent directory belongs to this test's server, so no other test uses the name.
        make_server_dir(&target, 0o700);
        self.back_up(&target, &[]);
        target
    }

    fn back_up(&self, target: &Path, arguments: &[&str]) {
        let mut backup = installation().server_program("pg_basebackup");
        self.introduce(&mut backup);
        let output = backup
            .args(["--checkpoint=fast", "--wal-method=stream", "--no-sync"])
            .args(arguments)
            .arg("-D")
            .arg(target)
            .output()
            .expect("pg_basebackup runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Returns a server that recovers from a base backup. The lines of `options` say how and up to which point.
    pub fn restored(options: &Options, backup: &Path) -> Self {
        Self::made(options, |data| {
            copy_data(backup, data);
            fs::write(data.join("recovery.signal"), "").expect("it can be written");
        })
    }

    /// Returns a new server. `fill` makes its data directory.
    pub fn made(options: &Options, fill: impl FnOnce(&Path)) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let serial = STARTED.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let dir = installation().scratch_dir().join(format!("{}-{pid}", options.name));
        let socket_dir = PathBuf::from(format!("/tmp/cowrie-{pid}-{serial}"));
        make_server_dir(&dir, 0o755);
        // Every user who can enter the directory may connect as superuser.
        make_server_dir(&socket_dir, 0o700);
        fill(&dir.join("data"));

        let server = options.installation.unwrap_or_else(|| installation());
        let cluster = Self {
            installation: server,
            extension_owner: options.extension_owner.clone(),
            log: server.run_dir().join(format!("{}-{}.log", options.name, server.major)),
            clock: options.clock.clone(),
            environment: options.environment.clone(),
            postmaster: Mutex::new(None),
            watchdog: Mutex::new(Some(watchdog(&dir, &socket_dir))),
            dir,
            socket_dir,
        };
        drop(fs::File::create(&cluster.log).expect("the log can be created"));
        cluster.configure(&base_configuration(options, &cluster.socket_dir));
        cluster.start_postmaster();
        cluster
    }

    /// Returns a directory for mmdb files that the server's user can read. It is removed with the cluster.
    pub fn files(&self) -> &Path {
        &self.dir
    }

    /// Returns the role that owns the extension in the template; `None` if that is the superuser.
    pub fn extension_owner(&self) -> Option<&str> {
        self.extension_owner.as_deref()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Returns the PostgreSQL that runs this server.
    pub fn installation(&self) -> &'static Installation {
        self.installation
    }

    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// Appends lines to postgresql.conf. If the file sets a setting twice, PostgreSQL uses the last line.
    pub fn configure(&self, lines: &[String]) {
        let path = self.data_dir().join("postgresql.conf");
        let mut file =
            fs::OpenOptions::new().append(true).open(&path).expect("postgresql.conf can be opened");
        for line in lines {
            writeln!(file, "{line}").expect("postgresql.conf can be written");
        }
    }

    /// Appends lines and makes every backend read them.
    pub fn reconfigure(&self, lines: &[String]) {
        self.configure(lines);
        let mut session = self.session(SUPERUSER);
        session.run("SELECT pg_reload_conf()");
    }

    /// Connects as superuser with `search_path = public, enrich`.
    pub fn session(&self, database: &str) -> Session {
        self.session_with(database, SUPERUSER, "public,enrich")
    }

    /// Connects with the default search path of a role.
    pub fn session_as(&self, database: &str, role: &str) -> Session {
        self.session_with(database, role, "public")
    }

    pub fn session_with(&self, database: &str, role: &str, search_path: &str) -> Session {
        match self.try_session_with(database, role, search_path) {
            Ok(session) => session,
            Err(e) => panic!("could not connect to {database} as {role}: {e}\n{}", self.log()),
        }
    }

    /// Does the same as [`session`](Cluster::session) for a server that may not run.
    pub fn try_session(&self, database: &str) -> Result<Session, postgres::Error> {
        self.try_session_with(database, SUPERUSER, "public,enrich")
    }

    fn try_session_with(
        &self,
        database: &str,
        role: &str,
        search_path: &str,
    ) -> Result<Session, postgres::Error> {
        self.try_session_set(database, role, &[("search_path", &search_path.replace(' ', ""))])
    }

    /// Connects with settings of the session. Their values must not contain a blank.
    pub fn try_session_set(
        &self,
        database: &str,
        role: &str,
        settings: &[(&str, &str)],
    ) -> Result<Session, postgres::Error> {
        let options: Vec<String> =
            settings.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
        postgres::Config::new()
            .host_path(&self.socket_dir)
            .port(PORT)
            .user(role)
            .dbname(database)
            .options(&options.join(" "))
            .connect(NoTls)
            .map(|client| Session { client })
    }

    /// Returns a client program of PostgreSQL that connects to this server.
    pub fn program(&self, name: &str) -> Command {
        let mut command = self.installation.client_program(name);
        self.introduce(&mut command);
        command
    }

    /// Sets the connection parameters for any program that uses libpq.
    pub fn introduce(&self, command: &mut Command) {
        command
            .env("PGHOST", &self.socket_dir)
            .env("PGPORT", PORT.to_string())
            .env("PGUSER", SUPERUSER)
            .env_remove("PGDATABASE");
    }

    fn start_postmaster(&self) {
        let log = fs::OpenOptions::new().append(true).open(&self.log).expect("the log can be opened");
        let spawn = || {
            let mut postgres = match &self.clock {
                None => self.installation.server_program("postgres"),
                Some(file) => with_clock(file),
            };
            postgres
                .envs(self.environment.iter().map(|(name, value)| (name, value)))
                .arg("-D")
                .arg(self.data_dir())
                // Runs in a separate process group, because the watchdog handles an interrupt from the terminal.
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("the log can be shared"))
                .stderr(log.try_clone().expect("the log can be shared"))
                .spawn()
                .expect("postgres starts")
        };
        let mut child = spawn();
        wait_until(
            "the server accepts connections",
            || {
                // Backends of a server that was killed hold its shared memory for a moment.
                if child.try_wait().expect("postgres can be waited for").is_some() {
                    if !self.log().contains("pre-existing shared memory block") {
                        return Err(self.log());
                    }
                    child = spawn();
                }
                self.try_session_with(SUPERUSER, SUPERUSER, "public").map(drop).map_err(|e| e.to_string())
            },
            Result::is_ok,
        )
        .expect("wait_until returns what satisfied it");
        *lock(&self.postmaster) = Some(child);
    }

    pub fn postmaster_pid(&self) -> u32 {
        lock(&self.postmaster).as_ref().expect("the server runs").id()
    }

    /// Stops the server as an administrator does before maintenance.
    pub fn stop_fast(&self) {
        self.end_postmaster("INT");
    }

    /// Kills the postmaster. Its backends notice and end by themselves.
    pub fn kill_postmaster(&self) {
        self.end_postmaster("KILL");
    }

    /// Makes a standby the primary. Does not wait in a statement, because that could hold up the replay before the
    /// promotion, which would cancel the statement.
    pub fn promote(&self) {
        self.session(SUPERUSER).run("SELECT pg_promote(wait => false)");
        let is_standby = || {
            let mut session = self.try_session(SUPERUSER).map_err(|e| e.to_string())?;
            session.try_rows("SELECT pg_is_in_recovery()").map_err(|e| e.message)
        };
        let _ = wait_until("the standby is promoted", is_standby, |rows| *rows == Ok(vec!["f".to_owned()]));
    }

    /// Suspends all processes of the server until the returned value is dropped. The server then accepts connections, because the
    /// kernel does so, but does not answer.
    pub fn suspend(&self) -> Suspended {
        let postmaster = i64::from(self.postmaster_pid());
        signal("STOP", postmaster);
        // The stopped postmaster starts no further process.
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))
            .expect("the postmaster exists");
        let children = children.split_whitespace().map(|pid| pid.parse().expect("a pid"));
        let pids = Suspended([postmaster].into_iter().chain(children).collect());
        // A process that has just ended does not matter.
        pids.0.iter().for_each(|pid| _ = try_signal("STOP", *pid));
        pids
    }

    /// Starts the server again after `stop_fast` or `kill_postmaster`.
    pub fn start_again(&self) {
        self.start_postmaster();
    }

    /// Kills one backend. The postmaster then ends all other backends, and the server recovers. Waits for the end of
    /// the recovery, because connections are unreliable until then.
    pub fn kill_backend(&self, pid: i64) {
        assert!(self.kill_unless_ended(pid), "process {pid} had ended before it was killed");
    }

    /// Kills a backend that may end by itself at the same time. Otherwise does what
    /// [`kill_backend`](Self::kill_backend) does. Returns true if the backend was killed.
    pub fn kill_unless_ended(&self, pid: i64) -> bool {
        let recoveries =
            || self.whole_log().matches("database system is ready to accept connections").count();
        let before = recoveries();
        if !try_signal("KILL", pid) {
            return false;
        }
        let process = PathBuf::from(format!("/proc/{pid}"));
        wait_until("the process is gone", || process.exists(), |is_there| !is_there);
        // The postmaster refuses connections as soon as the process is gone, so a connection shows that the recovery
        // has ended.
        let connect =
            || self.try_session_with(SUPERUSER, SUPERUSER, "public").map(drop).map_err(|e| e.to_string());
        let _ = wait_until("the server has recovered", connect, Result::is_ok);
        recoveries() > before
    }

    fn end_postmaster(&self, signal_name: &str) {
        if let Some(mut child) = lock(&self.postmaster).take() {
            signal(signal_name, i64::from(child.id()));
            let _ = child.wait();
        }
    }

    /// Returns the newest 40 lines of the server's log.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The whole log.
    pub fn whole_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Stops the server at once and removes its files. The log stays for later inspection.
    pub fn remove(&self) {
        self.end_postmaster("QUIT");
        let _ = fs::remove_dir_all(&self.dir);
        let _ = fs::remove_dir_all(&self.socket_dir);
        if let Some(mut watchdog) = lock(&self.watchdog).take() {
            drop(watchdog.stdin.take());
            let _ = watchdog.wait();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Returns the command that runs postgres with another clock. The clock is set for postgres only, not for setpriv.
fn with_clock(file: &Path) -> Command {
    let mut command = installation().server_command("env");
    command
        .arg(format!("LD_PRELOAD={}", clock::library().display()))
        .arg(format!("COWRIE_ENRICH_TEST_CLOCK={}", file.display()))
        .arg(installation().bindir.join("postgres"));
    command
}

/// A directory for one test that a server can write into. It is removed when the value is dropped.
pub struct Scratch(PathBuf);

pub fn scratch_directory(name: &str) -> Scratch {
    let path = installation().scratch_dir().join(format!("{name}-{}", std::process::id()));
    make_server_dir(&path, 0o755);
    Scratch(path)
}

impl Scratch {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Takes a lock even if a test panicked while it held the lock. Otherwise the server could not be stopped.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Processes of a suspended server. They continue when this value is dropped.
pub struct Suspended(Vec<i64>);

impl Drop for Suspended {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| _ = try_signal("CONT", *pid));
    }
}

fn signal(name: &str, pid: i64) {
    assert!(try_signal(name, pid), "could not signal {pid}");
}

/// Sends a signal. Returns true if the process existed.
fn try_signal(name: &str, pid: i64) -> bool {
    let output = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).output();
    output.is_ok_and(|output| output.status.success())
}

fn make_server_dir(path: &Path, mode: u32) {
    let _ = fs::remove_dir_all(path);
    fs::create_dir(path).unwrap_or_else(|e| panic!("could not create {}: {e}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("own directory");
    installation().give_to_server(path);
}

fn copy_data(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to).status();
    assert!(copied.is_ok_and(|s| s.success()), "could not copy {}", from.display());
}

/// Returns an initialised data directory, made once per PostgreSQL version and then copied.
fn template() -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _guard = lock(&MAKING);
    let scratch = installation().scratch_dir();
    let template = scratch.join(format!("template-{}", installation().version));
    if template.exists() {
        return template;
    }
    // Another test process may make the same template at the same time. The process that renames first wins.
    let draft = scratch.join(format!("template-draft-{}", std::process::id()));
    make_server_dir(&draft, 0o700);
    installation().initdb(&draft, &[]);
    if fs::rename(&draft, &template).is_err() {
        let _ = fs::remove_dir_all(&draft);
    }
    template
}

fn base_configuration(options: &Options, socket_dir: &Path) -> Vec<String> {
    let mut lines = vec![
        "listen_addresses = ''".to_owned(),
        format!("unix_socket_directories = '{}'", socket_dir.display()),
        format!("port = {PORT}"),
        "shared_buffers = 64MB".to_owned(),
        "max_connections = 100".to_owned(),
        "max_prepared_transactions = 20".to_owned(),
        "timezone = UTC".to_owned(),
        "log_line_prefix = '%m [%p] %d '".to_owned(),
        "jit = off".to_owned(),
    ];
    if !options.durable {
        lines.push("fsync = off".to_owned());
        lines.push("full_page_writes = off".to_owned());
    }
    if options.preload {
        lines.push("shared_preload_libraries = 'cowrie_enrich'".to_owned());
        lines.push(format!("cowrie_enrich.worker_enabled = {}", options.worker));
    }
    // No test may send requests to the real service.
    lines.push("cowrie_enrich.cymru_whois_host = '127.0.0.1'".to_owned());
    lines.push("cowrie_enrich.cymru_whois_port = 1".to_owned());
    lines.push("cowrie_enrich.cymru_transport = whois".to_owned());
    for (provider, path) in [("greynoise", "v3/community"), ("dshield", "api/ip"), ("spur", "v2/context")] {
        lines.push(format!("cowrie_enrich.{provider}_url = 'http://127.0.0.1:1/{path}'"));
    }
    lines.push("cowrie_enrich.enabled_sources = 'maxmind,cymru'".to_owned());
    // Most tests count the requests about addresses. The tests of lookups of networks switch them on.
    lines.push("cowrie_enrich.cymru_networks = off".to_owned());
    lines.extend(options.conf.iter().cloned());
    lines
}

/// Starts a process that sleeps until its standard input ends. Then the process stops the server of `dir` and removes
/// the files. It finds the server by the working directory, because the system uses process ids again.
fn watchdog(dir: &Path, socket_dir: &Path) -> Child {
    const SCRIPT: &str = r#"
trap '' INT TERM HUP
read -r _
data=$(readlink -f "$1/data")
pid=$(head -n 1 "$data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$data" ]; then
    kill -QUIT "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
fi
rm -rf "$1" "$2"
"#;
    Command::new("sh")
        .arg("-c")
        .arg(SCRIPT)
        .arg("watchdog")
        .arg(dir)
        .arg(socket_dir)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh starts")
}
