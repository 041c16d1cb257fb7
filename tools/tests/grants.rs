//! The printed privileges are enough to store every kind of row, and each of them is needed.

mod support;

use cowrie_enrich_tools::follow::writer::{Inserted, Writer};
use cowrie_enrich_tools::grants::{Program, missing, table_privileges};
use cowrie_enrich_tools::load::{Loader, TABLES};
use cowrie_enrich_tools::log::{self, Entry};
use cowrie_enrich_tools::session::{Session, SessionAssembler};
use postgres::error::SqlState;
use postgres::{Client, Error, NoTls};
use support::{Database, line};

/// A log with a row for each column of each table.
fn every_event(id: &str) -> Vec<Entry> {
    [
        line(id, 1, "session.connect", ""),
        line(id, 2, "client.version", &format!(",\"version\":\"SSH-2.0-{id}\"")),
        line(id, 2, "client.size", ",\"width\":80,\"height\":24"),
        line(id, 2, "client.fingerprint", ",\"username\":\"u\",\"fingerprint\":\"f\""),
        line(id, 3, "login.failed", ",\"username\":\"u\",\"password\":\"p\""),
        line(id, 4, "login.success", ",\"username\":\"u\",\"password\":\"p\""),
        line(id, 5, "session.params", ",\"arch\":\"linux\""),
        line(id, 5, "command.input", ",\"input\":\"ls\""),
        line(id, 5, "session.input", ",\"realm\":\"passwd\",\"input\":\"x\""),
        line(id, 6, "session.file_download", ",\"url\":\"http://u\",\"outfile\":\"o\",\"shasum\":\"s\""),
        line(id, 7, "direct-tcpip.request", ",\"dst_ip\":\"192.0.2.2\",\"dst_port\":25"),
        line(id, 7, "direct-tcpip.data", ",\"dst_ip\":\"192.0.2.2\",\"dst_port\":25,\"data\":\"EHLO\""),
        line(id, 8, "log.closed", ",\"ttylog\":\"t\",\"size\":1"),
        line(id, 9, "session.closed", ""),
    ]
    .iter()
    .map(|line| log::parse(line.as_bytes()).unwrap())
    .collect()
}

fn session(entries: Vec<Entry>, sensor: &str) -> Session {
    let mut assembler = SessionAssembler::new(Default::default());
    for entry in entries {
        assembler.push(Entry { sensor: sensor.to_owned(), ..entry });
    }
    assembler.finish().remove(0)
}

/// Stores a new session, with a new sensor and a new client, and a late row.
fn follow(dsn: &str, round: usize) -> Result<(), Error> {
    let mut writer = Writer::new(Client::connect(dsn, NoTls)?)?;
    let session = session(every_event(&format!("f{round}")), &format!("trap {round}"));
    match writer.insert(std::slice::from_ref(&session))? {
        Inserted::AllNew(prepared) => prepared.commit()?,
        _ => panic!("the session was stored before"),
    }
    assert!(matches!(writer.insert(std::slice::from_ref(&session))?, Inserted::NoneNew));
    let (prepared, transaction) = writer.insert_late(&[session])?;
    prepared.commit()?;
    writer.outcome(transaction)?;
    assert!(writer.has_unique_key()?);
    Ok(())
}

/// Stores a part of a session, and then the rest.
fn files(dsn: &str, round: usize) -> Result<(), Error> {
    let mut loader = Loader::new(Client::connect(dsn, NoTls)?)?;
    let mut entries = every_event(&format!("b{round}"));
    let sensor = format!("trap {round}");
    let whole = session(entries.clone(), &sensor);
    entries.truncate(1);
    loader.store(&[session(entries, &sensor)])?;
    loader.store(&[whole])?;
    Ok(())
}

/// The statements that the plugin `output_postgresql` sends, as Cowrie's src/cowrie/output/postgresql.py has them.
fn plugin(dsn: &str, round: usize) -> Result<(), Error> {
    let mut client = Client::connect(dsn, NoTls)?;
    let text = |text: &str| text.replace("$round", &round.to_string());
    for statement in [
        "SELECT id FROM sensors WHERE ip = 'trap $round'",
        "INSERT INTO sensors (ip) VALUES ('trap $round') RETURNING id",
        "INSERT INTO sessions (id, starttime, sensor, ip) VALUES ('p$round', TO_TIMESTAMP(1714521600.5), 1, '192.0.2.1') RETURNING id",
        "INSERT INTO auth (session, success, username, password, timestamp) VALUES ('p$round', true, 'u', 'p', TO_TIMESTAMP(1714521600.5))  RETURNING id",
        "INSERT INTO params (session, arch) VALUES ('p$round', 'linux') RETURNING id",
        "INSERT INTO input (session, timestamp, success, input) VALUES ('p$round', TO_TIMESTAMP(1714521600.5), true , 'ls') RETURNING id",
        "INSERT INTO downloads (session, timestamp, url, outfile, shasum) VALUES ('p$round', TO_TIMESTAMP(1714521600.5), 'u', 'o', 's') RETURNING id",
        "INSERT INTO input (session, timestamp, realm, input) VALUES ('p$round', TO_TIMESTAMP(1714521600.5), 'passwd' , 'x') RETURNING id",
        "SELECT id FROM clients WHERE version = 'SSH-2.0-$round'",
        "INSERT INTO clients (version) VALUES ('SSH-2.0-$round') RETURNING id",
        "UPDATE sessions SET client = 1 WHERE id = 'p$round' RETURNING id",
        "UPDATE sessions SET termsize = '80x24' WHERE id = 'p$round' RETURNING id",
        "UPDATE sessions SET endtime = TO_TIMESTAMP(1714521609.5) WHERE id = 'p$round' RETURNING id",
        "INSERT INTO ttylog (session, ttylog, size) VALUES ('p$round', 't', 1) RETURNING id",
        "INSERT INTO keyfingerprints (session, username, fingerprint) VALUES ('p$round', 'u', 'f') RETURNING id",
        "INSERT INTO ipforwards (session, timestamp, dst_ip, dst_port) VALUES ('p$round', TO_TIMESTAMP(1714521600.5), '192.0.2.2', 25) RETURNING id",
        "INSERT INTO ipforwardsdata (session, timestamp, dst_ip, dst_port, data) VALUES ('p$round', TO_TIMESTAMP(1714521600.5), '192.0.2.2', 25, 'EHLO') RETURNING id",
    ] {
        client.simple_query(&text(statement))?;
    }
    Ok(())
}

/// Returns each privilege by itself, as pairs of a REVOKE and the GRANT that undoes it.
fn single_privileges(program: Program, role: &str, database: &str) -> Vec<(String, String)> {
    let mut all = vec![format!("CONNECT ON DATABASE {database}"), "USAGE ON SCHEMA public".to_owned()];
    if program == Program::Files {
        all.push(format!("TEMPORARY ON DATABASE {database}"));
    }
    for privilege in table_privileges(program) {
        let table = privilege.table;
        for column in privilege.columns {
            all.push(format!("{} ({column}) ON {table}", privilege.privilege));
        }
        if table != "sessions" && privilege.privilege == "INSERT" {
            all.push(format!("USAGE ON SEQUENCE {table}_id_seq"));
        }
    }
    all.into_iter().map(|it| (format!("REVOKE {it} FROM {role}"), format!("GRANT {it} TO {role}"))).collect()
}

fn each_privilege_is_needed(program: Program, store: fn(&str, usize) -> Result<(), Error>) {
    let name = format!("grants_{}", program.name());
    let role = format!("role_{name}");
    let Some(mut database) = Database::new(&name) else {
        return;
    };
    let dsn = database.role(&role, program.name());
    store(&dsn, 0).unwrap_or_else(|error| panic!("the privileges are not enough: {error:?}"));
    for table in TABLES {
        let rows = database.one(&format!("SELECT count(*)::text FROM {}", table.name()));
        assert_ne!(rows, "0", "{} is not tested", table.name());
    }
    let privileges = single_privileges(program, &role, &name);
    assert!(privileges.len() > 40, "{}", privileges.len());
    for (round, (revoke, grant)) in privileges.iter().enumerate() {
        database.client.batch_execute(revoke).unwrap();
        let error = store(&dsn, round + 1).expect_err(revoke);
        // Without USAGE on the schema the table is not found.
        let expected = match revoke.contains("SCHEMA") {
            true => SqlState::UNDEFINED_TABLE,
            false => SqlState::INSUFFICIENT_PRIVILEGE,
        };
        assert_eq!(error.code(), Some(&expected), "{revoke}: {error:?}");
        database.client.batch_execute(grant).unwrap();
    }
    store(&dsn, privileges.len() + 1).unwrap();
}

#[test]
fn following_needs_each_printed_privilege_and_no_other() {
    each_privilege_is_needed(Program::Follow, follow);
}

#[test]
fn loading_files_needs_each_printed_privilege_and_no_other() {
    each_privilege_is_needed(Program::Files, files);
}

#[test]
fn the_plugin_of_cowrie_needs_each_printed_privilege_and_no_other() {
    each_privilege_is_needed(Program::OutputPostgresql, plugin);
}

#[test]
fn missing_privileges_are_named_at_the_start() {
    let Some(mut database) = Database::new("grants_missing") else {
        return;
    };
    let dsn = database.role("role_grants_missing", "follow");
    let mut client = Client::connect(&dsn, NoTls).unwrap();
    assert_eq!(missing(&mut client, Program::Follow).unwrap(), Vec::<String>::new());
    database
        .client
        .batch_execute(
            "REVOKE INSERT (termsize) ON sessions FROM role_grants_missing;
             REVOKE USAGE ON SEQUENCE auth_id_seq FROM role_grants_missing",
        )
        .unwrap();
    assert_eq!(
        missing(&mut client, Program::Follow).unwrap(),
        ["INSERT (termsize) on table sessions", "USAGE on sequence public.auth_id_seq"]
    );
    // An identity column needs no privilege on its sequence, and tables of newer versions may be missing.
    database
        .client
        .batch_execute(
            "ALTER TABLE auth ALTER id DROP DEFAULT; DROP SEQUENCE auth_id_seq;
             ALTER TABLE auth ALTER id ADD GENERATED ALWAYS AS IDENTITY;
             DROP TABLE ipforwardsdata",
        )
        .unwrap();
    assert_eq!(missing(&mut client, Program::Follow).unwrap(), ["INSERT (termsize) on table sessions"]);
}
