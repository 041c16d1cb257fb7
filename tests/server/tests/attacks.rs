//! Runs the scripts of an attacker, `tests/attacks/*.sql`, each against a database in the documented set-up.
//! `tests/attacks/README.md` describes the format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use server_tests::cymru::Lab;
use server_tests::documentation::grants;
use server_tests::hosts::COWRIE;
use server_tests::{Cluster, Database, Options, Session};

/// Owns the extension, without SUPERUSER.
const OWNER: &str = "cowrie_owner";

/// Runs only the scripts whose names contain its value.
const ONLY: &str = "COWRIE_ENRICH_ATTACK";

/// Bounds a script that would otherwise hang.
const LIMIT: Duration = Duration::from_secs(40);

const LOGINS: [&str; 7] = ["alice", "bob", "hp", "analyst", "anon", "dbo", "operator"];

const GRANTED: [(&str, &str); 4] = [
    ("docs/security.md", "honeypot_tables"),
    ("docs/security.md", "honeypot_analyst"),
    ("docs/analysis.md", "campaign_analyst"),
    ("docs/security.md", "honeypot_operator"),
];

/// The set-up of every script. `al.note()` records which role runs alice's code, and makes alice a superuser if it can.
const SCENE: &str = "
    CREATE SCHEMA al AUTHORIZATION alice;
    CREATE SCHEMA bo AUTHORIZATION bob;
    GRANT INSERT ON sessions TO hp;
    GRANT honeypot_tables TO alice, bob;
    GRANT honeypot_analyst, campaign_analyst TO analyst;
    GRANT honeypot_operator TO operator;";

const OF_ALICE: &str = "
    GRANT USAGE ON SCHEMA al TO PUBLIC;
    CREATE TABLE al.loot (who name, su name, how text);
    GRANT INSERT ON al.loot TO PUBLIC;
    CREATE FUNCTION al.note(how text) RETURNS boolean LANGUAGE plpgsql AS $note$
    BEGIN
        BEGIN
            INSERT INTO al.loot VALUES (current_user, session_user, how);
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
        IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
            EXECUTE 'ALTER ROLE alice SUPERUSER';
        END IF;
        RETURN true;
    END $note$;
    CREATE TABLE al.sess (id int, ip inet, t timestamptz DEFAULT now());
    SELECT enrich.attach_session_table('al.sess', 'ip', 't');";

const OF_BOB: &str = "
    CREATE TABLE bo.sess (id int, ip inet, t timestamptz DEFAULT now());
    SELECT enrich.attach_session_table('bo.sess', 'ip', 't');";

/// A step of a script.
#[derive(Debug, PartialEq)]
enum Step {
    /// `-- as ROLE`. A number after the role selects a further connection.
    As(String),
    /// `-- wait CONDITION`
    Wait(String),
    Run {
        sql: String,
        may_fail: bool,
        /// `-- background`: the next steps do not wait for it.
        in_background: bool,
    },
}

/// A statement ends with the first line that ends with a semicolon and has no open `$$`.
fn steps_of(script: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let (mut sql, mut may_fail, mut in_background) = (String::new(), false, false);
    for line in script.lines() {
        let text = line.trim();
        if sql.is_empty() {
            if let Some(comment) = text.strip_prefix("-- ") {
                if let Some(role) = comment.strip_prefix("as ") {
                    steps.push(Step::As(role.trim().to_owned()));
                } else if let Some(condition) = comment.strip_prefix("wait ") {
                    steps.push(Step::Wait(condition.to_owned()));
                } else if comment == "fails" {
                    may_fail = true;
                } else if comment == "background" {
                    in_background = true;
                }
                continue;
            }
            if text.is_empty() || text == "--" {
                continue;
            }
        }
        sql.push_str(line);
        sql.push('\n');
        if text.ends_with(';') && sql.matches("$$").count() % 2 == 0 {
            steps.push(Step::Run { sql: std::mem::take(&mut sql), may_fail, in_background });
            (may_fail, in_background) = (false, false);
        }
    }
    assert!(sql.trim().is_empty(), "a statement has no end: {sql}");
    steps
}

enum Connection {
    Free(Box<Session>),
    Busy(JoinHandle<Session>),
}

struct Connections<'a> {
    db: &'a Database<'a>,
    open: BTreeMap<String, Connection>,
}

impl Connections<'_> {
    fn new_connection(&self, name: &str) -> Session {
        let role = name.split_whitespace().next().unwrap_or(name);
        let mut session = if role == OWNER {
            let mut session = self.db.session_as("postgres");
            session.run(&format!("SET SESSION AUTHORIZATION {OWNER}"));
            session
        } else {
            self.db.session_as(role)
        };
        session.run("SET statement_timeout = '20s'");
        session
    }

    /// Waits for the background statement of this connection. Connects again if the connection was lost.
    fn take(&mut self, name: &str) -> Session {
        let session = match self.open.remove(name) {
            Some(Connection::Free(session)) => *session,
            Some(Connection::Busy(thread)) => thread.join().expect("the thread ends"),
            None => return self.new_connection(name),
        };
        if session.client.is_closed() { self.new_connection(name) } else { session }
    }
}

/// Runs a script. An error says which result is wrong.
fn outcome(db: &Database<'_>, script: &str) -> Result<(), String> {
    let mut connections = Connections { db, open: BTreeMap::new() };
    let mut role = "postgres".to_owned();
    let steps = steps_of(script);
    let (last, steps) = steps.split_last().ok_or("the script is empty")?;
    for step in steps {
        match step {
            Step::As(name) => role.clone_from(name),
            Step::Wait(condition) => wait(db, condition)?,
            Step::Run { sql, may_fail, in_background } => {
                let mut session = connections.take(&role);
                let kept = if *in_background {
                    let sql = sql.clone();
                    Connection::Busy(std::thread::spawn(move || {
                        let _ = session.try_run(&sql);
                        session
                    }))
                } else {
                    let end = session.try_run(sql);
                    if let (Err(refusal), false) = (end, may_fail) {
                        return Err(format!("as {role}: {} {} in: {sql}", refusal.code, refusal.message));
                    }
                    Connection::Free(Box::new(session))
                };
                connections.open.insert(role.clone(), kept);
            }
        }
    }
    let Step::Run { sql, .. } = last else { return Err("the last step is no SELECT".to_owned()) };
    let rows = db.session_as("postgres").try_rows(sql).map_err(|e| format!("{} {}", e.code, e.message))?;
    if rows == ["safe"] { Ok(()) } else { Err(format!("{rows:?}")) }
}

fn wait(db: &Database<'_>, condition: &str) -> Result<(), String> {
    let began = Instant::now();
    let mut session = db.session_as("postgres");
    loop {
        match session.try_rows(&format!("SELECT ({condition})::boolean")) {
            Ok(rows) if rows == ["t"] => return Ok(()),
            Ok(_) => {}
            Err(refusal) => return Err(format!("{} in: wait {condition}", refusal.message)),
        }
        if began.elapsed() > LIMIT {
            return Err(format!("gave up the wait: {condition}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn set_up(lab: &Lab) -> Database<'_> {
    let mut db = lab.database();
    for role in LOGINS {
        db.run(&format!("CREATE ROLE {role} LOGIN"));
    }
    let dbo = format!("ALTER ROLE dbo CREATEDB; ALTER DATABASE \"{}\" OWNER TO dbo", db.name);
    db.run(&dbo);
    COWRIE.create_attached(&mut db);
    db.run("CREATE TABLE auth (id int)");
    for (page, role) in GRANTED {
        db.run(&format!("CREATE ROLE {role}"));
        db.run(&grants(page, role, role));
    }
    db.run(SCENE);
    db.session_as("alice").run(OF_ALICE);
    db.session_as("bob").run(OF_BOB);
    db
}

/// Removes the database and the roles, because the next script needs them in their first state.
fn clean_up(cluster: &Cluster, name: &str) {
    let mut admin = cluster.session_as("postgres", "postgres");
    let prepared = format!("SELECT gid FROM pg_prepared_xacts WHERE database = '{name}'");
    for gid in admin.rows(&prepared) {
        cluster.session_as(name, "postgres").run(&format!("ROLLBACK PREPARED '{gid}'"));
    }
    admin.run(&format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)"));
    let others = "SELECT datname FROM pg_database
                  WHERE NOT datistemplate AND datname <> 'postgres' AND datdba <> 10";
    for other in admin.rows(others) {
        admin.run(&format!("DROP DATABASE \"{other}\" WITH (FORCE)"));
    }
    admin.run(&format!("ALTER ROLE {OWNER} NOSUPERUSER NOCREATEROLE NOCREATEDB NOBYPASSRLS NOLOGIN"));
    let roles = "SELECT quote_ident(rolname) FROM pg_roles WHERE oid >= 16384 AND rolname <> 'cowrie_owner'";
    for role in admin.rows(roles) {
        admin.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    }
}

fn scripts() -> Vec<(String, String)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../attacks");
    let only = std::env::var(ONLY).unwrap_or_default();
    let mut scripts: Vec<(String, String)> = std::fs::read_dir(&directory)
        .expect("the directory can be read")
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "sql"))
        .map(|entry| {
            let text = std::fs::read_to_string(entry.path()).expect("the script can be read");
            (entry.file_name().to_string_lossy().into_owned(), text)
        })
        .filter(|(name, _)| name.contains(&only))
        .collect();
    scripts.sort();
    scripts
}

#[test]
fn no_attack_succeeds() {
    let lab = Lab::start(Options::named("attacks").with_worker().owned_by(OWNER));
    let scripts = scripts();
    assert!(!scripts.is_empty(), "there are scripts");
    let mut failures = String::new();
    for (name, script) in &scripts {
        let began = Instant::now();
        let db = set_up(&lab);
        let end = outcome(&db, script);
        let database = db.name.clone();
        drop(db);
        clean_up(&lab.cluster, &database);
        eprintln!("{name}: {} ms, {end:?}", began.elapsed().as_millis());
        if let Err(why) = end {
            let _ = writeln!(failures, "{name}: {why}");
        }
    }
    lab.assert_nothing_crashed();
    assert!(failures.is_empty(), "attacks that succeed:\n{failures}");
    eprintln!("{} attacks, none succeeds", scripts.len());
}

#[test]
fn a_script_is_taken_apart() {
    let run = |sql: &str, may_fail| Step::Run { sql: sql.to_owned(), may_fail, in_background: false };
    assert_eq!(
        steps_of("-- what\n-- as alice\nDO $$ BEGIN\n;\nEND $$;\n-- fails\nSELECT\n1;\n-- wait true\n"),
        [
            Step::As("alice".to_owned()),
            run("DO $$ BEGIN\n;\nEND $$;\n", false),
            run("SELECT\n1;\n", true),
            Step::Wait("true".to_owned()),
        ]
    );
}
