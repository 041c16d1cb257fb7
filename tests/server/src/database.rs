//! All tests of a binary share one server, and each test has its own database. Such a database has the extension in the
//! schema `enrich`, and is ready in the time of a file copy. No test sees the rows of another test.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::cluster::{Cluster, Options, SUPERUSER};
use crate::documentation;
use crate::session::Session;
use crate::world::{self, Files};

/// The database that is copied for every test. No connection to it may be open, because then the copy fails.
pub const TEMPLATE: &str = "with_extension";

pub struct Database<'a> {
    pub cluster: &'a Cluster,
    pub name: String,
    session: Session,
}

/// The location of a database, without a connection. Threads share it and open connections to it.
#[derive(Clone)]
pub struct DatabaseHandle<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl DatabaseHandle<'_> {
    /// Opens a connection as superuser.
    pub fn session(&self) -> Session {
        self.cluster.session(&self.name)
    }
}

impl<'a> Database<'a> {
    /// Returns a name for an object of the whole server, such as a role. No other test's database uses the name.
    pub fn own_name(&self, name: &str) -> String {
        format!("{name}_{}", self.name.rsplit('_').next().expect("a number"))
    }

    /// Creates a role that can connect. Returns its name.
    pub fn create_role(&mut self, name: &str) -> String {
        let role = self.own_name(name);
        self.run(&format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN"));
        role
    }

    /// Runs a statement in psql as superuser and returns the notices that it raised, as psql prints them.
    #[track_caller]
    pub fn notices(&self, statement: &str) -> String {
        let mut psql = self.cluster.program("psql");
        let output = psql.args(["-X", "-q", "-d", &self.name, "-c", statement]).output().expect("psql runs");
        let notices = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{notices}");
        notices
    }

    pub fn handle(&self) -> DatabaseHandle<'a> {
        DatabaseHandle { cluster: self.cluster, name: self.name.clone() }
    }

    /// Returns a new connection to a database whose server was started again.
    pub fn reconnected(cluster: &'a Cluster, name: &str) -> Database<'a> {
        Database { session: cluster.session(name), cluster, name: name.to_owned() }
    }

    /// Dumps the database in one of pg_dump's formats, into the cluster's directory `files`.
    #[track_caller]
    pub fn dump(&self, format: &str) -> PathBuf {
        let dump = self.cluster.files().join(format!("{}.dump", self.name));
        let status = self
            .cluster
            .program("pg_dump")
            .args(["--format", format, "--file"])
            .arg(&dump)
            .arg(&self.name)
            .status()
            .expect("pg_dump runs");
        assert!(status.success());
        dump
    }

    /// Opens another connection as superuser.
    pub fn another(&self) -> Session {
        self.cluster.session(&self.name)
    }

    /// Opens a connection of a role with its default search path.
    pub fn session_as(&self, role: &str) -> Session {
        self.cluster.session_as(&self.name, role)
    }
}

impl Deref for Database<'_> {
    type Target = Session;
    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Database<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

/// Returns the server that the tests of this binary share.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    kept_until_exit(&SHARED, || cluster_with_world(&Options::named(&binary_name())))
}

/// Returns a server of this binary with these options, made by the first test that needs it.
pub fn kept(server: &'static OnceLock<Cluster>, options: &Options) -> &'static Cluster {
    kept_until_exit(server, || cluster_with_world(options))
}

/// Returns a server of this binary whose worker works often and uses no provider.
pub fn server_without_providers(server: &'static OnceLock<Cluster>, name: &str) -> &'static Cluster {
    let options = Options::named(name)
        .with_worker()
        .conf("cowrie_enrich.worker_naptime = 200ms")
        .conf("cowrie_enrich.enabled_sources = 'maxmind'")
        .conf("max_worker_processes = 40");
    kept_until_exit(server, || cluster_with_world(&options))
}

/// Returns the server in a static variable. The first test that needs the server starts it. The server is removed when
/// the test process exits.
fn kept_until_exit(server: &'static OnceLock<Cluster>, make: impl FnOnce() -> Cluster) -> &'static Cluster {
    static KEPT: Mutex<Vec<&'static OnceLock<Cluster>>> = Mutex::new(Vec::new());
    extern "C" fn stop() {
        let kept = KEPT.lock().map(|kept| kept.clone()).unwrap_or_default();
        kept.into_iter().filter_map(OnceLock::get).for_each(Cluster::remove);
    }
    server.get_or_init(|| {
        let mut kept = KEPT.lock().expect("no test panics here");
        if kept.is_empty() {
            // SAFETY: `stop` is a plain function that needs nothing but the static above. If it is never called, the
            // watchdog does the same work.
            unsafe { libc::atexit(stop) };
        }
        kept.push(server);
        drop(kept);
        make()
    })
}

/// Returns a new server with the template and with the fixture databases in service.
pub fn cluster_with_world(options: &Options) -> Cluster {
    let cluster = cluster_with_unread_world(options);
    let mut db = fresh_database(&cluster);
    db.run("SELECT reload_mmdb()");
    cluster
}

/// Returns a new server with the template. The fixture databases were not imported yet.
pub fn cluster_with_unread_world(options: &Options) -> Cluster {
    let cluster = Cluster::start(options);
    let files = Files::below(cluster.files());
    world::city_database().write(&files.city);
    world::asn_database().write(&files.asn);
    cluster.reconfigure(&files.settings());
    make_template(&cluster);
    cluster
}

/// Creates the template: the database from which the databases of tests are copied.
pub fn make_template(cluster: &Cluster) {
    let mut admin = cluster.session(SUPERUSER);
    admin.run(&format!("CREATE DATABASE {TEMPLATE}"));
    let mut template = cluster.session(TEMPLATE);
    match cluster.extension_owner() {
        None => template.run("CREATE SCHEMA enrich; CREATE EXTENSION cowrie_enrich SCHEMA enrich"),
        Some(owner) => {
            template.run(&format!("CREATE ROLE {owner} NOLOGIN"));
            create_extension_as(&mut template, owner);
        }
    }
    drop(template);
    admin.run(&format!("ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false IS_TEMPLATE true"));
}

/// Creates the extension with an owner without SUPERUSER, by the statements of docs/installation.md.
pub fn create_extension_as(session: &mut Session, owner: &str) {
    session.run(&set_up(owner));
}

/// Returns the documented statements except the one that creates the role, with the schema and the owner of a test.
pub fn set_up(owner: &str) -> String {
    let create_role = "CREATE ROLE cowrie_enrich NOLOGIN;";
    let page = documentation::page("docs/installation.md");
    let blocks = documentation::blocks_of(&page);
    let block = blocks.into_iter().find(|block| block.sql.contains(create_role));
    let block = block.unwrap_or_else(|| panic!("docs/installation.md has no block with {create_role}"));
    block
        .sql
        .replace(create_role, "")
        .replace(
            "CREATE EXTENSION cowrie_enrich SCHEMA cowrie_enrich",
            "CREATE EXTENSION the_extension SCHEMA enrich",
        )
        .replace("CREATE SCHEMA cowrie_enrich", "CREATE SCHEMA enrich")
        .replace("cowrie_enrich", owner)
        .replace("the_extension", "cowrie_enrich")
}

/// Returns a new database on the shared server.
pub fn database() -> Database<'static> {
    fresh_database(shared())
}

/// Returns a new database on any server made by `cluster_with_world`.
pub fn fresh_database(cluster: &Cluster) -> Database<'_> {
    copy_from(cluster, TEMPLATE)
}

/// Returns an empty database without the extension.
pub fn bare_database(cluster: &Cluster) -> Database<'_> {
    copy_from(cluster, "template0")
}

/// Returns a new database into which a dump was restored: by psql if the format is `plain`, otherwise by pg_restore.
#[track_caller]
pub fn restored_from<'a>(cluster: &'a Cluster, dump: &Path, format: &str) -> Database<'a> {
    let restored = bare_database(cluster);
    let mut command = if format == "plain" {
        let mut psql = cluster.program("psql");
        psql.args(["-q", "-X", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-f"]);
        psql.arg(dump).arg("-d").arg(&restored.name);
        psql
    } else {
        let mut restore = cluster.program("pg_restore");
        restore.arg("--exit-on-error").arg("-d").arg(&restored.name);
        restore.arg(dump);
        restore
    };
    let output = command.output().expect("the restore runs");
    assert!(output.status.success(), "{format}: {}", String::from_utf8_lossy(&output.stderr));
    restored
}

/// Returns a copy of any other database that has no connections.
pub fn copy_from<'a>(cluster: &'a Cluster, template: &str) -> Database<'a> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let serial = MADE.fetch_add(1, Ordering::Relaxed);
    let thread = std::thread::current();
    let test: String = thread
        .name()
        .unwrap_or("unnamed")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    // A name has at most 63 bytes. The number is at the end, because names of tests can have the same beginning.
    let name = format!("{}_{serial}", &test[..test.len().min(55)]);
    cluster.session(SUPERUSER).run(&format!("CREATE DATABASE \"{name}\" TEMPLATE {template}"));
    Database { session: cluster.session(&name), cluster, name }
}

fn binary_name() -> String {
    let program = std::env::current_exe().expect("a test has a program");
    let stem = program.file_stem().unwrap_or_default().to_string_lossy();
    // Cargo adds a hash: `counts-0123456789abcdef`.
    stem.rsplit_once('-').map_or_else(|| stem.to_string(), |(name, _)| name.to_owned())
}
