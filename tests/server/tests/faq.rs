//! The statements of docs/faq.md on personal data. They are run on stored sessions. No table contains the erased
//! address afterwards, and the counts equal a recount. Also docs/scaling.md on dropped partitions, and the times of
//! repeated requests for an address.

use server_tests::database::{cluster_with_world, fresh_database};
use server_tests::documentation::{blocks_of, page, section};
use server_tests::hosts::{COWRIE, cowries_other_tables};
use server_tests::recount::assert_counts_are_exact;
use server_tests::world::{self, Files};
use server_tests::{Database, Options, database};

const SESSIONS: &[(&str, &str)] = &[("sessions", "ip")];
const ERASED: &str = "8.8.8.8";

/// Cowrie's tables with rows of sessions.
const TABLES_OF_ROWS: [&str; 8] =
    ["auth", "input", "downloads", "ttylog", "params", "keyfingerprints", "ipforwards", "ipforwardsdata"];

/// Returns the blocks below a heading, for the schema of the tests and the address that is erased.
fn blocks(file: &str, words: &str) -> Vec<String> {
    let text = page(file);
    let found: Vec<String> = blocks_of(section(&text, words))
        .into_iter()
        .map(|block| block.sql.replace("cowrie_enrich.", "enrich.").replace("203.0.113.7", ERASED))
        .collect();
    assert!(!found.is_empty(), "{file} has no statements below {words}");
    found
}

/// Runs the statements of a block one by one, as psql does. Otherwise procedures could not commit.
fn run(db: &mut Database<'_>, block: &str) {
    for statement in block.split_inclusive(';').filter(|s| !s.trim().is_empty()) {
        db.run(statement);
    }
}

/// Stores sessions of other addresses, and sessions of the address to erase, which is written in several spellings.
/// Adds a row about this address to every table, and rows of one of its sessions and of another session to Cowrie's other tables.
fn traces(db: &mut Database<'_>) {
    COWRIE.create_attached(db);
    db.run(&cowries_other_tables());
    db.run(&COWRIE.insert(&[
        ("a", Some(ERASED)),
        ("b", Some(" 8.8.8.8 ")),
        ("c", Some("::ffff:8.8.8.8")),
        ("d", Some("8.8.8.80")),
        ("e", Some("1.1.1.1")),
    ]));
    db.run(
        "INSERT INTO auth (session, success, username, password, timestamp)
             SELECT id, false, 'root', 'root', '2024-05-01' FROM unnest('{a,e}'::text[]) id;
         INSERT INTO input (session, timestamp, input) SELECT id, '2024-05-01', 'ls' FROM unnest('{a,e}'::text[]) id;
         INSERT INTO downloads (session, timestamp, url)
             SELECT id, '2024-05-01', 'http://example.com/' FROM unnest('{a,e}'::text[]) id;
         INSERT INTO ttylog (session, ttylog, size) SELECT id, 'tty', 1 FROM unnest('{a,e}'::text[]) id;
         INSERT INTO params (session, arch) SELECT id, 'linux-x64-lsb' FROM unnest('{a,e}'::text[]) id;
         INSERT INTO keyfingerprints (session, username, fingerprint) SELECT id, 'root', '0a' FROM unnest('{a,e}'::text[]) id;
         INSERT INTO ipforwards (session, timestamp, dst_port) SELECT id, '2024-05-01', 80 FROM unnest('{a,e}'::text[]) id;
         INSERT INTO ipforwardsdata (session, timestamp, dst_port, data)
             SELECT id, '2024-05-01', 80, 'GET /' FROM unnest('{a,e}'::text[]) id",
    );
    db.run("CALL enrich.fold_statistics()");
    db.run(
        "UPDATE enrich.ip_inventory SET enrichment = enrichment || '{\"spur\": {\"ip\": \"8.8.8.8\", \"infrastructure\": \"VPN\"}}'
         WHERE ip_address = '8.8.8.8';
         INSERT INTO sessions (id, starttime, ip) VALUES ('f', '2024-05-02', '8.8.8.8');
         SELECT enrich.request_enrichment('8.8.8.8', 'greynoise'), enrich.request_enrichment('8.8.8.8', 'cymru');
         INSERT INTO enrich.enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at)
             VALUES ('greynoise', 'host', '8.8.8.8', 0, now()), ('cymru', 'prefix', '8.8.8.0/24', 0, now());
         INSERT INTO enrich.job_address (provider, ip_address, lookup_kind, lookup_key)
             VALUES ('greynoise', '8.8.8.8', 'host', '8.8.8.8'), ('cymru', '8.8.8.8', 'prefix', '8.8.8.0/24');
         INSERT INTO enrich.dead_letter
             (provider, ip_address, lookup_kind, lookup_key, priority, attempts, last_error, requested_at)
             VALUES ('spur', '8.8.8.8', 'host', '8.8.8.8', 0, 3, 'timed out', now());
         INSERT INTO enrich.rejected_row (procedure, relation, row_key, reason, content)
             VALUES ('backfill_sessions', 'sessions', 'a', 'a document', '{\"8.8.8.8\": 7}')",
    );
}

/// Returns the tables that contain the address, with the numbers of rows.
fn found_in(db: &mut Database<'_>) -> Vec<String> {
    let tables = db.rows(
        "SELECT c.oid::regclass FROM pg_class c
         WHERE c.relkind = 'r' AND c.relnamespace IN ('enrich'::regnamespace, 'public'::regnamespace) ORDER BY 1",
    );
    let mut found = Vec::new();
    for table in tables {
        // Compares the whole address, because 8.8.8.80 is another one.
        let rows = db.number(&format!(
            "SELECT count(*) FROM {table} t WHERE t::text ~ '(^|[^0-9.])8\\.8\\.8\\.8($|[^0-9])'"
        ));
        if rows > 0 {
            found.push(format!("{table}: {rows}"));
        }
    }
    found
}

#[test]
fn an_address_is_erased_with_its_sessions() {
    let mut db = database();
    traces(&mut db);
    assert!(found_in(&mut db).len() >= 8, "{:?}", found_in(&mut db));
    let [delete, _, rest] = &blocks("docs/faq.md", "How do I erase one address?")[..] else {
        panic!("three blocks")
    };
    run(&mut db, delete);
    run(&mut db, rest);
    assert_eq!(found_in(&mut db), [] as [&str; 0]);
    assert_eq!(db.rows("SELECT trim(id) FROM sessions ORDER BY 1"), ["d", "e"]);
    for table in TABLES_OF_ROWS {
        assert_eq!(db.rows(&format!("SELECT trim(session) FROM {table}")), ["e"], "{table}");
    }
    assert_counts_are_exact(&mut db, SESSIONS);
    assert_eq!(
        db.rows("SELECT provider FROM enrich.enrichment_job"),
        ["cymru"],
        "a lookup of a prefix is no address's"
    );
}

#[test]
fn an_address_is_erased_and_its_sessions_stay() {
    let mut db = database();
    traces(&mut db);
    let [_, keep, rest] = &blocks("docs/faq.md", "How do I erase one address?")[..] else {
        panic!("three blocks")
    };
    run(&mut db, keep);
    run(&mut db, rest);
    assert_eq!(found_in(&mut db), [] as [&str; 0]);
    assert_eq!(
        db.rows("SELECT trim(id), ip, snapshot_asn FROM sessions ORDER BY 1"),
        ["a||15169", "b||15169", "c||15169", "d|8.8.8.80|15169", "e|1.1.1.1|13335", "f||15169"]
    );
    assert_counts_are_exact(&mut db, SESSIONS);
}

#[test]
fn addresses_of_last_year_go_and_counts_stay_exact() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(
        "INSERT INTO sessions (id, starttime, ip)
         SELECT n, now() - n * interval '40 days', '23.0.0.' || n % 7 + 1 FROM generate_series(1, 20) n;
         INSERT INTO sessions (id, starttime, ip) VALUES ('old', now() - interval '2 years', '8.8.8.8')",
    );
    db.run("CALL enrich.fold_statistics()");
    for block in blocks("docs/faq.md", "How do I keep addresses for a year?") {
        run(&mut db, &block);
    }
    assert_counts_are_exact(&mut db, SESSIONS);
    assert_eq!(db.number("SELECT count(*) FROM sessions"), 9);
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 7);
    assert_eq!(found_in(&mut db), [] as [&str; 0]);
    assert_eq!(db.rows("SELECT asn_number FROM enrich.asn_inventory WHERE unique_ip_count > 0"), ["200000"]);
}

#[test]
fn partitions_go_as_the_page_on_scaling_says_and_counts_stay_exact() {
    let mut db = database();
    let all = blocks("docs/scaling.md", "Partitioned session tables");
    let [make, drop, detach, attach] = &all[..] else { panic!("four blocks: {all:?}") };
    let exact = |db: &mut Database<'_>| assert_counts_are_exact(db, &[("sessions_by_month", "ip")]);
    run(&mut db, make);
    db.run(
        "INSERT INTO sessions_by_month (id, ip, starttime)
         SELECT n, ('23.0.0.' || n % 9 + 1)::inet, '2026-01-01'::timestamptz + n * interval '1 day' FROM generate_series(0, 50) n",
    );
    db.run("UPDATE sessions_by_month SET starttime = starttime + interval '20 days' WHERE id::int BETWEEN 15 AND 25");
    exact(&mut db);
    run(&mut db, drop);
    exact(&mut db);
    assert!(db.number("SELECT count(*) FROM sessions_by_month") > 10);
    run(&mut db, detach);
    exact(&mut db);
    assert_eq!(
        db.number("SELECT count(*) FROM sessions_2026_02 WHERE snapshot_asn IS NULL"),
        0,
        "snapshots stay"
    );
    run(&mut db, attach);
    exact(&mut db);
    assert_eq!(db.rows("SELECT id, snapshot_asn FROM sessions_by_month"), ["early|15169"]);
}

#[test]
fn a_session_asks_again_only_past_the_lifetime_and_after_newer_files_came() {
    let sources = "cowrie_enrich.enabled_sources = 'maxmind,greynoise'";
    let cluster = cluster_with_world(&Options::named("faq-again").conf(sources));
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let asked = |db: &mut Database<'_>, session: &str| {
        db.run("DELETE FROM enrich.enrichment_request");
        db.run(&COWRIE.insert(&[(session, Some(ERASED))]));
        db.number("SELECT count(*) FROM enrich.enrichment_request")
    };
    let answered = |db: &mut Database<'_>, before: &str| {
        db.run(&format!(
            "UPDATE enrich.ip_inventory SET enrichment = enrichment || jsonb_build_object(
                 'greynoise', jsonb_build_object('noise', true, 'cached_at', now() - interval '{before}'),
                 '_meta', enrichment -> '_meta' || jsonb_build_object('greynoise',
                     jsonb_build_object('state', 'value', 'asked_at', now() - interval '{before}')))"
        ));
    };
    assert_eq!(asked(&mut db, "new"), 1);
    answered(&mut db, "8 days");
    assert_eq!(asked(&mut db, "past its lifetime"), 0);
    let newer = |db: &mut Database<'_>, epoch| {
        world::city_database().build_epoch(epoch).write(&Files::below(cluster.files()).city);
        db.run("SELECT reload_mmdb()");
    };
    newer(&mut db, 1_800_000_000);
    assert_eq!(asked(&mut db, "newer files"), 1);
    answered(&mut db, "6 days");
    newer(&mut db, 1_800_000_001);
    assert_eq!(asked(&mut db, "within its lifetime"), 0);
}
