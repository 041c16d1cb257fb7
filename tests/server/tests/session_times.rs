//! Impossible session times: the row of the session keeps them, and the extension treats them as unknown.

use std::path::PathBuf;

use server_tests::database::restored_from;
use server_tests::documentation::sql_with;
use server_tests::hosts::COWRIE;
use server_tests::installation::{Installation, files_below, installation, workspace};
use server_tests::python_system::{self, PythonSchema};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Cluster, Database, Options, Session, database};

/// The type of a time column, a time as a literal, and whether the extension accepts the time. Each time is tested
/// together with a session of 2024.
const TIMES: &[(&str, &str, bool)] = &[
    ("timestamptz", "1970-01-01 00:00:00+00", true),
    ("timestamptz", "1969-12-31 23:59:59+00", false),
    ("timestamptz", "4714-11-24 00:00:00+00 BC", false),
    ("timestamptz", "294276-12-31 23:59:59+00", false),
    ("timestamptz", "infinity", false),
    ("timestamptz", "-infinity", false),
    ("timestamptz", "tomorrow", true),
    ("timestamptz", "2100-01-01 00:00:00+00", false),
    ("timestamp", "1970-01-03", true),
    ("timestamp", "4714-11-24 00:00:00 BC", false),
    ("timestamp", "294276-12-31 23:59:59", false),
    ("timestamp", "infinity", false),
    ("timestamp", "-infinity", false),
    ("date", "1970-01-03", true),
    ("date", "4714-11-24 BC", false),
    ("date", "5874897-12-31", false),
    ("date", "infinity", false),
    ("date", "-infinity", false),
];

/// Time zones in which the same moment has the earliest and the latest date.
const ZONES: [&str; 3] = ["UTC", "Etc/GMT+12", "Pacific/Kiritimati"];

fn seen(db: &mut Session, address: &str) -> String {
    db.one(&format!("SELECT first_seen, last_seen FROM enrich.ip_inventory WHERE ip_address = '{address}'"))
}

/// The networks were seen when their addresses were.
fn networks(db: &mut Session) -> Vec<String> {
    db.rows(
        "SELECT n.asn_number FROM enrich.asn_inventory n
         JOIN (SELECT current_asn, min(first_seen) AS first, max(last_seen) AS last FROM enrich.ip_inventory GROUP BY 1) i
           ON i.current_asn = n.asn_number
         WHERE (n.first_seen, n.last_seen) IS DISTINCT FROM (i.first, i.last)",
    )
}

/// Returns the expected first_seen and last_seen of two addresses. 8.8.8.8 has one session, with this time. 1.1.1.1
/// also has a session of 2024.
fn expected(db: &mut Session, time: &str, type_name: &str, believed: bool) -> [String; 2] {
    let shown = |db: &mut Session, time: &str| db.one(&format!("SELECT '{time}'::{type_name}::timestamptz"));
    if !believed {
        let one = shown(db, "2024-05-01");
        return ["NULL|NULL".to_owned(), format!("{one}|{one}")];
    }
    let (own, other) = (shown(db, time), shown(db, "2024-05-01"));
    let (first, last) = if time == "tomorrow" { (&other, &own) } else { (&own, &other) };
    [format!("{own}|{own}"), format!("{first}|{last}")]
}

const SESSIONS: &str = "INSERT INTO s (id, ip, at) VALUES (1, '8.8.8.8', '@'), (2, '1.1.1.1', '@'), (3, '1.1.1.1', '2024-05-01')";

#[test]
fn trigger_recount_backfill_and_import_believe_the_same_times() {
    for (n, (type_name, time, believed)) in TIMES.iter().enumerate() {
        let zone = ZONES[n % ZONES.len()];
        let mut db = database();
        db.run(&format!("SET timezone = '{zone}'; CREATE TABLE s (id int, ip inet, at {type_name})"));
        let expected = expected(&mut db, time, type_name, *believed);
        let what = format!("{type_name} '{time}' in {zone}");
        let check = |db: &mut Session, by: &str| {
            db.run("CALL enrich.fold_statistics()");
            assert_eq!([seen(db, "8.8.8.8"), seen(db, "1.1.1.1")], expected, "{by}: {what}");
            assert_eq!(networks(db), [""; 0], "{by}: {what}");
            assert_eq!(db.one("SELECT count(*) FROM enrich.session_delta"), "0");
            let kept = format!("SELECT count(*) FROM s WHERE at = '{time}'::{type_name}");
            assert_eq!(db.one(&kept), "2", "{by}: {what} stays as written");
        };
        let forget = "UPDATE enrich.ip_inventory SET first_seen = NULL, last_seen = NULL;
                      UPDATE enrich.asn_inventory SET first_seen = NULL, last_seen = NULL";

        db.run("SELECT enrich.attach_session_table('s', 'ip', 'at')");
        db.run(&SESSIONS.replace('@', time));
        check(&mut db, "trigger");
        db.run(forget);
        db.run("CALL enrich.refresh_session_counts()");
        check(&mut db, "recount");
        db.run("DELETE FROM s; CALL enrich.fold_statistics(); DELETE FROM enrich.ip_inventory");
        db.run("CALL enrich.fold_statistics()");
        db.run(forget);

        // Sessions from before the table was attached.
        db.run("SELECT enrich.detach_session_table('s')");
        db.run(&SESSIONS.replace('@', time));
        db.run("SELECT enrich.attach_session_table('s', 'ip', 'at')");
        db.run("CALL enrich.backfill_sessions('s')");
        check(&mut db, "backfill");
        // The functions and views for analysts do not fail either, and return the same times.
        let campaign = db.one(
            "SELECT min(first_seen), max(last_seen), sum(sessions)
                  FROM enrich.campaign_networks('s', stored_time_zone => current_setting('TimeZone'))",
        );
        let all =
            db.one("SELECT min(first_seen), max(last_seen), sum(session_count) FROM enrich.ip_inventory");
        assert_eq!(campaign, all, "{what}");
        db.run("SELECT * FROM enrich.persistent_addresses; SELECT * FROM enrich.network_activity");
    }
    for time in TIMES.iter().filter(|(type_name, ..)| *type_name == "timestamptz") {
        import(time);
    }
}

fn import((type_name, time, believed): &(&str, &str, bool)) {
    let mut db = database();
    python_system::create(&mut db, "old", PythonSchema::Orm);
    db.run(&format!(
        "INSERT INTO old.asn_inventory (asn_number, organization_name, asn_type, first_seen, last_seen, enrichment) VALUES
             (64500, 'Example', 'ISP', '{time}', '{time}', '{{}}');
         INSERT INTO old.ip_inventory (ip_address, current_asn, first_seen, last_seen, enrichment) VALUES
             ('8.8.8.8', 64500, '{time}', '{time}', '{{}}')"
    ));
    db.run("CALL enrich.import_inventory('old')");
    let [expected, _] = expected(&mut db, time, type_name, *believed);
    assert_eq!(seen(&mut db, "8.8.8.8"), expected, "import: {time}");
    let network = "SELECT first_seen, last_seen FROM enrich.asn_inventory WHERE asn_number = 64500";
    assert_eq!(db.one(network), expected, "import: {time}");
}

/// A session cannot be later than its enrichment by more than a day.
#[test]
fn a_time_more_than_a_day_after_the_enrichment_is_unknown() {
    let mut db = database();
    db.run("CREATE TABLE s (id int, ip inet, at timestamptz)");
    // With `trust_input`, the trigger keeps the `enrichment_at` of the test.
    db.run("SELECT enrich.attach_session_table('s', 'ip', 'at'); SET timezone = 'UTC'");
    db.run("INSERT INTO enrich.session_table_option (rel, trust_input, table_owner) VALUES ('s', true, current_user)");
    db.run(
        "INSERT INTO s (id, ip, at, enrichment_at) VALUES
             (1, '8.8.8.8', '2024-05-02 12:00:00+00', '2024-05-01 12:00:00+00'),
             (2, '1.1.1.1', '2024-05-02 12:00:01+00', '2024-05-01 12:00:00+00'),
             (3, '23.1.0.1', '2024-05-02 12:00:00+00', 'infinity'),
             (4, '23.1.0.2', '2024-05-02 12:00:00+00', '-infinity')",
    );
    for by in ["CALL enrich.fold_statistics()", "CALL enrich.backfill_sessions('s')"] {
        db.run(by);
        let time = "2024-05-02 12:00:00+00|2024-05-02 12:00:00+00";
        assert_eq!(seen(&mut db, "8.8.8.8"), time, "{by}");
        assert_eq!(seen(&mut db, "1.1.1.1"), "NULL|NULL", "{by}");
        assert_eq!(seen(&mut db, "23.1.0.1"), time, "{by}");
        assert_eq!(seen(&mut db, "23.1.0.2"), time, "{by}");
    }
}

/// The case that stopped all counting of a database.
#[test]
fn two_sessions_with_extreme_times_stop_no_counting() {
    let pairs =
        [("4714-11-24 00:00:00 BC", "294276-12-31 23:59:59"), ("1970-01-01", "294276-12-31 23:59:59")];
    for (first, last) in pairs {
        let mut db = database();
        COWRIE.create_attached(&mut db);
        db.run("SET timezone = 'UTC'");
        db.run(&COWRIE.insert(&[("known", Some("1.1.1.1"))]));
        db.run(&COWRIE.insert_at(first, &[("x1", Some("8.8.8.8"))]));
        db.run(&COWRIE.insert_at(last, &[("x2", Some("8.8.8.8"))]));
        db.run(&COWRIE.insert(&[("n1", Some("1.1.1.1"))]));
        db.run("CALL enrich.fold_statistics()");
        db.run("CALL enrich.refresh_session_counts()");
        db.run("CALL enrich.backfill_sessions('sessions')");
        assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
        assert_eq!(
            db.one("SELECT count(*) FROM enrich.ip_inventory WHERE last_seen > now() OR first_seen < '1970-01-01'"),
            "0"
        );
        // Both in one statement, of an address that is new.
        let times = format!("'{first}', '8.8.8.9'), ('y2', '{last}', '8.8.8.9'");
        db.run(&format!("INSERT INTO sessions (id, starttime, ip) VALUES ('y1', {times})"));
        assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
        db.run("DELETE FROM sessions");
        assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
        db.run("SELECT * FROM enrich.persistent_addresses");
    }
}

/// Times as an earlier version stored them.
const STORED: &str = "
    UPDATE enrich.ip_inventory SET first_seen = '4714-11-24 BC', last_seen = '294276-12-31 23:59:59+00'
    WHERE ip_address = '8.8.8.8';
    UPDATE enrich.asn_inventory SET first_seen = '-infinity', last_seen = '294276-12-31 23:59:59+00'
    WHERE asn_number = 15169;
    INSERT INTO enrich.session_delta (ip_address, sessions, first_seen, last_seen) VALUES
        ('1.1.1.1', 1, '4714-11-24 BC', '294276-12-31 23:59:59+00'), ('1.1.1.1', -1, NULL, 'infinity');
    INSERT INTO enrich.network_delta (asn_number, addresses, sessions, first_seen, last_seen) VALUES
        (13335, 0, 0, '4714-11-24 BC', 'infinity')";

fn with_stored_times(db: &mut Session) {
    COWRIE.create_attached(db);
    db.run("SET timezone = 'UTC'");
    for (key, address) in [("a", "8.8.8.8"), ("b", "8.8.8.9"), ("c", "1.1.1.1")] {
        db.run(&COWRIE.insert(&[(key, Some(address))]));
    }
    db.run("CALL enrich.fold_statistics()");
    db.run(STORED);
}

const FALSE_TIMES: &str = "
    SELECT count(*) FROM (
        SELECT first_seen, last_seen FROM enrich.ip_inventory UNION ALL
        SELECT first_seen, last_seen FROM enrich.asn_inventory) s
    WHERE first_seen < '1970-01-01' OR last_seen > now() + interval '1 day'";

#[test]
fn times_that_were_stored_before_fold_and_are_healed_by_a_recount() {
    let mut db = database();
    with_stored_times(&mut db);
    db.run("SELECT * FROM enrich.persistent_addresses");
    db.run("CALL enrich.fold_statistics()");
    let noon = "2024-05-01 12:00:00+00|2024-05-01 12:00:00+00";
    assert_eq!(seen(&mut db, "1.1.1.1"), noon);
    assert_eq!(networks(&mut db), ["15169"], "only what a fold adds to is healed by it");
    // A session of the address.
    db.run(&COWRIE.insert(&[("d", Some("8.8.8.8"))]));
    db.run("CALL enrich.fold_statistics()");
    assert_eq!(seen(&mut db, "8.8.8.8"), noon);
    assert_eq!(db.one(FALSE_TIMES), "0");

    db.run(STORED);
    db.run("CALL enrich.refresh_session_counts()");
    assert_eq!(db.one(FALSE_TIMES), "0");
    assert_eq!([seen(&mut db, "8.8.8.8"), seen(&mut db, "1.1.1.1")], [noon, noon]);
    assert_eq!(networks(&mut db), [""; 0]);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// Newer installations that have the extension.
fn newer() -> Vec<&'static Installation> {
    let known = |path: PathBuf| -> &'static Installation { Box::leak(Box::new(Installation::of(path))) };
    let places = (16..=18).map(|major| workspace().join(format!("target/postgres/{major}/bin/pg_config")));
    let mut all: Vec<_> = places.filter(|place| place.exists()).map(known).collect();
    all.retain(|there| {
        there.major > installation().major
            && there.sharedir.join("extension/cowrie_enrich.control").exists()
            && there.pkglibdir.join("cowrie_enrich.so").exists()
    });
    all
}

#[test]
fn a_dump_with_such_times_is_restored_into_newer_versions() {
    let mut db = database();
    with_stored_times(&mut db);
    let query = sql_with("docs/upgrade.md", "first_seen").replace("cowrie_enrich.", "enrich.");
    let found = db.rows(&query);
    assert!(found.len() >= 2, "the query of docs/upgrade.md finds them: {found:?}");
    let dumps = [("custom", db.dump("custom"))];
    for new in newer() {
        let server = Cluster::made(&Options::named(&format!("times-{}", new.major)).run_by(new), |data| {
            new.initdb(data, &[]);
        });
        for (format, dump) in &dumps {
            let mut restored: Database<'_> = restored_from(&server, dump, format);
            restored.run("SET search_path = public, enrich; SET timezone = 'UTC'");
            restored.run("SELECT * FROM enrich.persistent_addresses");
            restored.run("CALL enrich.refresh_session_counts()");
            assert_eq!(restored.one(FALSE_TIMES), "0");
            assert_counts_are_exact(&mut restored, &[("sessions", "ip")]);
        }
    }
}

/// The difference of two times can be out of range. Only `seen_over()` subtracts session times, because it checks
/// them first.
#[test]
fn nothing_else_subtracts_the_times_of_sessions() {
    let mut places = Vec::new();
    for folder in ["sql/install", "sql/queries"] {
        for path in files_below(&workspace().join(folder), "sql") {
            let text = std::fs::read_to_string(&path).expect("SQL is text");
            for line in text.lines().map(|line| line.replace("OPERATOR(pg_catalog.-)", "-")) {
                let code = line.split("--").next().unwrap_or_default();
                let is_time = |side: &str| side.contains("_seen") || side.contains("starttime");
                if code.split_once(" - ").is_some_and(|(left, right)| is_time(left) && is_time(right)) {
                    places.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert_eq!(places.len(), 1, "{places:#?}");
    assert!(places[0].contains("THEN last_seen - first_seen END"), "{places:?}");
}
