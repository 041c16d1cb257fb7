//! Every statement on a user's table hits the table that was locked and checked, even if the table or its schema is renamed. It
//! reaches neither inheritance children of another owner nor code that runs with the rights of another role.
//!
//! `PLACES` lists what the extension does with users' tables. `every_statement_on_a_users_table_is_in_the_list` compares
//! it with what `scripts/user-relations` finds in the sources.

use std::collections::BTreeSet;
use std::path::Path;

use server_tests::hosts::SUMMARIES;
use server_tests::http::Plan;
use server_tests::installation::workspace;
use server_tests::session::Refusal;
use server_tests::{Database, Session, database, hostile, wait_until};

/// A place in the sources that names a user's table.
struct Place {
    name: &'static str,
    /// The lines of `scripts/user-relations` for the statements of this place.
    statements: &'static [&'static str],
    /// The call, for a table `mine.s`.
    call: &'static str,
    /// SQL that runs before the call, when the table is attached and filled.
    before: &'static str,
    /// True if the call writes rows of the table.
    fills: bool,
}

const PLACES: &[Place] = &[
    Place {
        name: "backfill_sessions",
        statements: &["sql/queries/sessions/sessions_complete.sql", "src/store/complete_sessions.rs sessions_complete"],
        call: "CALL enrich.backfill_sessions('mine.s')",
        before: "",
        fills: true,
    },
    Place {
        name: "set_session_priority",
        statements: &["sql/queries/priority/priority_values.sql", "src/store/session_priority.rs priority_values"],
        call: "SELECT enrich.set_session_priority('mine.s', 's.id')",
        before: "",
        fills: false,
    },
    Place {
        name: "add_session_foreign_key",
        statements: &[
            "sql/queries/foreign_key/foreign_key_validate.sql",
            "src/store/session_foreign_key.rs run_utility",
            "sql/install/45_lock_session_table.sql reference_addresses",
        ],
        call: "CALL enrich.add_session_foreign_key('mine.s')",
        before: "CALL enrich.backfill_sessions('mine.s')",
        fills: false,
    },
    Place {
        name: "campaign_networks",
        statements: &["sql/queries/analysis/campaign.sql", "src/store/campaigns.rs campaign"],
        call: "SELECT * FROM enrich.campaign_networks('mine.s')",
        before: "",
        fills: false,
    },
    Place {
        name: "campaign_addresses",
        statements: &[
            "sql/queries/analysis/campaign_addresses.sql",
            "src/store/campaigns.rs campaign_addresses",
        ],
        call: "SELECT * FROM enrich.campaign_addresses('mine.s')",
        before: "",
        fills: false,
    },
    Place {
        name: "session_timeline",
        statements: &["sql/queries/analysis/timeline.sql", "src/store/timelines.rs timeline"],
        call: "SELECT * FROM enrich.session_timeline('mine.s', '1 day', 'id')",
        before: "",
        fills: false,
    },
    Place {
        name: "erase_address",
        statements: &[
            "sql/queries/erase/sessions_anonymise.sql",
            "src/store/erase.rs sessions_anonymise",
            "sql/queries/erase/sessions_documents.sql",
            "src/store/erase_session_documents.rs sessions_documents",
        ],
        call: "CALL enrich.erase_address('8.8.8.7')",
        // Documents of other addresses mention the erased one.
        before: "UPDATE mine.s SET enrichment = '{\"seen\": \"8.8.8.7\"}' WHERE id IN (1, 2)",
        fills: false,
    },
    Place {
        name: "prefix_activity",
        statements: &[],
        call: "SELECT * FROM enrich.prefix_activity('mine.s')",
        before: "",
        fills: false,
    },
    Place {
        name: "expire_addresses",
        statements: &["sql/queries/erase/sessions_delete.sql", "src/store/erase.rs sessions_delete"],
        call: "CALL enrich.expire_addresses('30 days', 'mine.s', true)",
        before: "",
        fills: false,
    },
    Place {
        name: "blocklist",
        statements: &[],
        call: "SELECT * FROM enrich.blocklist('mine.s', '2024-01-01', unit => 'asn')",
        before: "",
        fills: false,
    },
    Place {
        name: "address_profile",
        statements: &[],
        call: "SELECT enrich.address_profile('8.8.8.1', 'mine.s')",
        before: "",
        fills: false,
    },
    Place {
        name: "campaign_query",
        statements: &[],
        call: "SELECT enrich.campaign_query('mine.s')",
        before: "",
        fills: false,
    },
    Place {
        name: "index_session_table",
        statements: &["sql/install/76_analysis.sql index_session_table"],
        call: "SELECT enrich.index_session_table('mine.s')",
        before: "",
        fills: false,
    },
    Place {
        name: "session_index_commands",
        statements: &["sql/install/76_analysis.sql session_index_commands"],
        call: "SELECT enrich.session_index_commands('mine.s')",
        before: "",
        fills: false,
    },
    Place {
        name: "attach_session_table",
        statements: &["sql/install/46_attach_session_table.sql attach_session_table"],
        call: "SELECT enrich.attach_session_table('mine.s', 'source_ip', 'first_event_at')",
        before: "SELECT enrich.detach_session_table('mine.s')",
        fills: false,
    },
    Place {
        name: "detach_session_table",
        statements: &["sql/install/46_attach_session_table.sql detach_session_table"],
        call: "SELECT enrich.detach_session_table('mine.s')",
        before: "",
        fills: false,
    },
    Place {
        name: "import_inventory",
        statements: &[
            "sql/queries/import/import_read.sql",
            "src/store/import_inventory/source.rs import_read",
            "sql/queries/import/import_count.sql",
            "src/store/import_inventory/source.rs import_count",
            "sql/queries/import/import_session_documents.sql",
            "src/store/import_inventory/sessions.rs import_session_documents",
            "src/store/import_inventory/sessions.rs run_utility",
        ],
        call: "CALL enrich.import_inventory('mine')",
        before: "SELECT enrich.detach_session_table('mine.s');
                 ALTER TABLE mine.s RENAME TO session_summaries;
                 ALTER TABLE mine.session_summaries ALTER enrichment TYPE text USING '{\"a\": \"\\u0000\"}', ALTER snapshot_asn TYPE int",
        fills: true,
    },
];

/// Calls that neither attach the table nor fill its rows.
const READS_AS_CALLER: [&str; 8] = [
    "campaign_networks",
    "campaign_addresses",
    "session_timeline",
    "prefix_activity",
    "blocklist",
    "address_profile",
    "erase_address",
    "expire_addresses",
];

/// Statements that only a worker runs; they have a separate test.
const WORKER: &[&str] = &[
    "sql/queries/sessions/sessions_completed.sql",
    "src/store/complete_sessions.rs sessions_completed",
    "sql/queries/priority/priority_addresses.sql",
    "src/store/session_priority.rs priority_addresses",
];

/// Commands of the extension whose text names no relation of a user.
const WITHOUT_RELATION: &[&str] = &[
    "src/store/addresses.rs run_utility",
    // These functions name only tables of the extension citus.
    "sql/install/81_cluster.sql collect_from_nodes",
    "sql/install/81_cluster.sql distribute_inventories",
    "sql/install/81_cluster.sql nodes_without_owner",
    "sql/install/81_cluster.sql undistribute_inventories",
    // The function contains the word only as the name of a right.
    "sql/install/81_cluster.sql cluster_findings",
];

/// Statements that run only in a cluster of Citus. The suite `citus` runs them. Before them, `lock_session_table()` locks the table.
const CITUS: &[&str] = &["sql/install/81_cluster.sql correct_distributed_counts"];

/// A role that owns a schema `mine` with an attached table `mine.s` of sessions without snapshots.
fn tenant(db: &mut Database<'_>) -> String {
    let role = db.own_name("tenant");
    db.run(&format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; CREATE SCHEMA mine AUTHORIZATION {role};
         GRANT USAGE ON SCHEMA enrich TO {role};
         CREATE TABLE mine.s (id int, session_id varchar(64) PRIMARY KEY, source_ip inet, first_event_at timestamptz);
         ALTER TABLE mine.s OWNER TO {role};
         INSERT INTO mine.s SELECT n, 's' || n, ('8.8.8.' || n)::inet, '2024-05-01' FROM generate_series(1, 50) n;
         SELECT enrich.attach_session_table('mine.s', 'source_ip', 'first_event_at')"
    ));
    role
}

impl Place {
    fn prepare(&self, db: &mut Database<'_>) {
        db.run(self.before);
    }

    /// The table's name within its schema.
    fn table(&self) -> &'static str {
        if self.name == "import_inventory" { "session_summaries" } else { "s" }
    }
}

/// Returns all properties of a table that a statement could change: rows, constraints, triggers and others.
fn contents(session: &mut Session, table: &str) -> Vec<String> {
    session.rows(&format!(
        "SELECT md5(string_agg(t::text, ',' ORDER BY t.ctid)) FROM {table} t
         UNION ALL SELECT tgname::text FROM pg_trigger WHERE tgrelid = '{table}'::regclass
         UNION ALL SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = '{table}'::regclass
         UNION ALL SELECT conname::text FROM pg_constraint WHERE conrelid = '{table}'::regclass
         UNION ALL SELECT attname || atttypid::regtype::text FROM pg_attribute
                   WHERE attrelid = '{table}'::regclass AND attnum > 0"
    ))
}

/// Changes of the name while a call waits for the table.
const RENAMES: &[(&str, &str)] = &[
    (
        "the table is renamed",
        "ALTER TABLE mine.@s@ RENAME TO old; CREATE TABLE mine.@s@ (LIKE mine.old INCLUDING ALL)",
    ),
    (
        "the schema is renamed",
        "ALTER SCHEMA mine RENAME TO away; CREATE SCHEMA mine AUTHORIZATION @role@; CREATE TABLE mine.@s@ (LIKE away.@s@ INCLUDING ALL)",
    ),
    (
        "both are renamed",
        "ALTER TABLE mine.@s@ RENAME TO old; ALTER SCHEMA mine RENAME TO away; CREATE SCHEMA mine AUTHORIZATION @role@;
         CREATE TABLE mine.@s@ (LIKE away.old INCLUDING ALL)",
    ),
];

#[test]
fn a_call_that_waits_never_reaches_the_table_that_took_the_name() {
    // This one returns commands, and does not run them.
    for place in PLACES.iter().filter(|place| place.name != "session_index_commands") {
        for (what, rename) in RENAMES {
            let mut db = database();
            let role = tenant(&mut db);
            place.prepare(&mut db);
            let table = place.table();
            let checked = db.number(&format!("SELECT 'mine.{table}'::regclass::oid"));
            let mut blocker = db.another();
            blocker.run(&format!("BEGIN; LOCK TABLE mine.{table} IN ACCESS EXCLUSIVE MODE"));
            let handle = db.handle();
            let decoy = format!("mine.{table}");
            let ended = std::thread::scope(|scope| {
                let call = scope.spawn(|| handle.session().try_run(place.call));
                wait_until(
                    "the call waits for the table",
                    || {
                        let waiting = db.number(&format!(
                            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = {checked}"
                        ));
                        (waiting, place.name, *what)
                    },
                    |(waiting, _, _)| *waiting > 0,
                );
                blocker.run(&format!(
                    "{}; INSERT INTO {decoy} (id, session_id, source_ip, first_event_at)
                     SELECT n, 's' || n, ('1.1.1.' || n)::inet, '2024-05-01' FROM generate_series(1, 50) n;
                     ALTER TABLE {decoy} OWNER TO {role}",
                    rename.replace("@s@", table).replace("@role@", &role)
                ));
                let before = contents(&mut blocker, &decoy);
                blocker.run("COMMIT");
                (call.join().expect("the thread ends"), before)
            });
            let (result, before) = ended;
            assert_eq!(contents(&mut db, &decoy), before, "{}: {what}: {result:?}", place.name);
            if let Err(Refusal { code, message, .. }) = &result {
                // If the call resolves the name later, the name no longer exists, or belongs to a table that is not
                // attached.
                let known = ["55006", "55000", "42P01", "3F000", "42809", "42704"];
                assert!(known.contains(&code.as_str()), "{}: {what}: {code} {message}", place.name);
            }
            if place.fills && result.is_ok() {
                let read: String = db.one(&format!("SELECT {checked}::oid::regclass"));
                assert_eq!(
                    db.number(&format!(
                        "SELECT count(*) FROM {read} WHERE snapshot_asn = 15169 OR enrichment IS NOT NULL"
                    )),
                    50,
                    "{}: {what}: the sessions that were read are those that were filled",
                    place.name
                );
            }
        }
    }
}

/// A rename of a schema needs no lock on its tables, so it can happen at any time.
#[test]
fn schemas_that_change_places_again_and_again_never_exchange_snapshots() {
    let mut db = database();
    let role = tenant(&mut db);
    db.run(&format!(
        "ALTER TABLE mine.s DISABLE TRIGGER ALL; ALTER TABLE mine.s ADD pad text;
         INSERT INTO mine.s (id, session_id, source_ip, first_event_at, pad)
         SELECT n, 's' || n, ('8.8.8.' || n % 250)::inet, '2024-05-01', repeat('x', 1500) FROM generate_series(51, 3000) n;
         ALTER TABLE mine.s ENABLE TRIGGER ALL;
         CREATE SCHEMA decoy AUTHORIZATION {role}; CREATE TABLE decoy.s (LIKE mine.s INCLUDING ALL);
         ALTER TABLE decoy.s OWNER TO {role}; INSERT INTO decoy.s SELECT * FROM mine.s ORDER BY ctid"
    ));
    let (checked, decoy) =
        (db.number("SELECT 'mine.s'::regclass::oid"), db.number("SELECT 'decoy.s'::regclass::oid"));
    let before = contents(&mut db, "decoy.s");
    let handle = db.handle();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            let mut session = handle.session();
            for _ in 0..50 {
                let ended = session
                    .try_run(&format!("CALL enrich.backfill_sessions({checked}::oid::regclass, 1, false)"));
                if let Err(refusal) = &ended {
                    assert!(["55006", "42P01", "3F000"].contains(&refusal.code.as_str()), "{refusal:?}");
                }
                let read = session.one(&format!("SELECT {checked}::oid::regclass"));
                let left =
                    session.try_rows(&format!("SELECT count(*) FROM {read} WHERE snapshot_asn IS NULL"));
                if ended.is_ok() && left.is_ok_and(|rows| rows == ["0"]) {
                    return;
                }
            }
        });
        let mut swaps = 0;
        while !call.is_finished() || swaps == 0 {
            db.run("BEGIN; ALTER SCHEMA mine RENAME TO t; ALTER SCHEMA decoy RENAME TO mine; ALTER SCHEMA t RENAME TO decoy; COMMIT");
            swaps += 1;
        }
        if swaps % 2 == 1 {
            db.run("BEGIN; ALTER SCHEMA mine RENAME TO t; ALTER SCHEMA decoy RENAME TO mine; ALTER SCHEMA t RENAME TO decoy; COMMIT");
        }
        call.join().expect("the call ends");
    });
    assert_eq!(db.number("SELECT 'decoy.s'::regclass::oid"), decoy);
    assert_eq!(contents(&mut db, "decoy.s"), before);
    db.run("CALL enrich.backfill_sessions('mine.s', 10000, false)");
    assert_eq!(db.rows("SELECT DISTINCT snapshot_asn FROM mine.s"), ["15169"]);
}

/// Commands such as CREATE TRIGGER look names up while they run.
#[test]
fn a_schema_keeps_its_name_while_commands_by_name_run() {
    for place in PLACES.iter().filter(|place| {
        ["attach_session_table", "detach_session_table", "index_session_table"].contains(&place.name)
    }) {
        let mut db = database();
        let role = tenant(&mut db);
        place.prepare(&mut db);
        let mut call = db.another();
        call.run(&format!("BEGIN; {}", place.call));
        // Privileges on the schema do not matter here.
        db.run(&format!("GRANT USAGE ON SCHEMA mine TO PUBLIC; ALTER SCHEMA mine OWNER TO {role}"));
        for change in ["ALTER SCHEMA mine RENAME TO away", "DROP SCHEMA mine CASCADE"] {
            let refusal = db.refused(&format!("SET lock_timeout = '100ms'; {change}"));
            assert_eq!(refusal.code, "55P03", "{}: {change}: {refusal:?}", place.name);
        }
        call.run("COMMIT");
        db.run("ALTER SCHEMA mine RENAME TO away");
    }
}

#[test]
fn a_call_waits_for_a_transaction_that_renames_the_schema() {
    let mut db = database();
    tenant(&mut db);
    db.run("SELECT enrich.detach_session_table('mine.s')");
    let mut renamer = db.another();
    renamer.run("BEGIN; ALTER SCHEMA mine RENAME TO away");
    let handle = db.handle();
    std::thread::scope(|scope| {
        let call = scope
            .spawn(|| handle.session().try_run("SELECT enrich.attach_session_table('mine.s', 'source_ip')"));
        wait_until(
            "the call waits for the other transaction",
            || {
                // Other tests on the shared server wait for transactions, too.
                db.number(
                    "SELECT count(*) FROM pg_locks JOIN pg_stat_activity a USING (pid)
                     WHERE NOT granted AND locktype = 'transactionid' AND a.datname = current_database()",
                )
            },
            |waiting| *waiting == 1,
        );
        renamer.run("CREATE SCHEMA mine; CREATE TABLE mine.s (LIKE away.s); COMMIT");
        call.join().expect("the thread ends").expect("the table is attached under its new name");
    });
    assert_eq!(db.rows("SELECT rel FROM enrich.attached_tables"), ["away.s"]);
}

/// The owner's code runs as the owner, and the table's children stay as they are.
#[test]
fn code_on_the_table_runs_as_its_owner_and_children_are_not_reached() {
    for place in PLACES {
        let mut db = database();
        let role = tenant(&mut db);
        place.prepare(&mut db);
        let table = place.table();
        hostile::create_trap(&mut db, &role);
        let other = format!("other_{role}");
        db.run(&format!(
            "DROP ROLE IF EXISTS {other}; CREATE ROLE {other}; GRANT CREATE ON SCHEMA mine TO {other};
             CREATE TABLE mine.child (CHECK (trap.visited())) INHERITS (mine.{table});
             INSERT INTO mine.child (id, session_id, source_ip, first_event_at)
             SELECT n, 's' || n, '1.1.1.1', '2024-05-01' FROM generate_series(1, 50) n;
             SELECT setval('trap.others', 1, false), setval('trap.own', 1, false);
             ALTER TABLE mine.child OWNER TO {other}"
        ));
        // Other calls attach or change the table, so this code would make them fail.
        if place.fills || READS_AS_CALLER.contains(&place.name) {
            db.run(&format!(
                "ALTER TABLE mine.{table} ADD CHECK (trap.visited()) NOT VALID;
                 ALTER TABLE mine.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
                 CREATE POLICY p ON mine.{table} TO {role} USING (trap.visited())"
            ));
        }
        let before = contents(&mut db, "mine.child");
        let ended = db.try_run(place.call);
        assert_eq!(contents(&mut db, "mine.child"), before, "{}: {ended:?}", place.name);
        assert!(!hostile::is_sprung(&mut db), "{}: code ran as another role", place.name);
        if let Err(refusal) = &ended {
            let known = ["42809", "55000", "42501"];
            assert!(known.contains(&refusal.code.as_str()), "{}: {refusal:?}", place.name);
            assert!(
                refusal.hint.is_some() || refusal.code == "42501",
                "{}: the refusal says what to do: {refusal:?}",
                place.name
            );
        }
    }
}

/// A rule can make an UPDATE change another table, or nothing.
#[test]
fn a_table_with_a_rule_for_update_keeps_its_sessions_as_they_are() {
    for rule in [
        "ON UPDATE TO mine.s DO INSTEAD UPDATE mine.victim SET snapshot_asn = new.snapshot_asn",
        "ON UPDATE TO mine.s DO ALSO UPDATE mine.victim SET snapshot_asn = new.snapshot_asn",
        "ON UPDATE TO mine.s DO INSTEAD NOTHING",
        "ON UPDATE TO mine.s WHERE old.id > 10 DO ALSO DELETE FROM mine.victim",
    ] {
        let mut db = database();
        tenant(&mut db);
        db.run(&format!(
            "CREATE TABLE mine.victim (LIKE mine.s); INSERT INTO mine.victim (id, session_id) VALUES (1, 'v'); CREATE RULE r AS {rule};
             ALTER TABLE mine.s ENABLE ALWAYS RULE r"
        ));
        db.run("CALL enrich.backfill_sessions('mine.s')");
        assert_eq!(db.number("SELECT count(snapshot_asn) FROM mine.s"), 0, "{rule}");
        assert_eq!(db.rows("SELECT id, snapshot_asn FROM mine.victim"), ["1|NULL"], "{rule}");
        assert_eq!(
            db.rows("SELECT DISTINCT reason FROM enrich.rejected_row"),
            ["the snapshot columns could not be filled: table \"s\" has a rule for UPDATE"],
            "{rule}"
        );
        db.run("DROP RULE r ON mine.s");
        db.run("CALL enrich.backfill_sessions('mine.s')");
        assert_eq!(db.rows("SELECT DISTINCT snapshot_asn FROM mine.s"), ["15169"], "{rule}");
    }
}

/// Completion and priority rules run in the background, as the owner.
#[test]
fn the_worker_never_reaches_a_table_that_took_the_name() {
    let lab =
        Plan::of("identity-worker", "maxmind,cymru,greynoise").with("greynoise_daily_quota = 1000").start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    db.run(
        "CREATE SCHEMA decoy; CREATE SCHEMA real; ALTER TABLE session_summaries SET SCHEMA real;
         SELECT enrich.set_session_priority('real.session_summaries', 's.command_count');
         CREATE TABLE decoy.session_summaries (LIKE real.session_summaries INCLUDING ALL);
         INSERT INTO decoy.session_summaries (session_id, source_ip) SELECT 's' || n, '1.1.1.1' FROM generate_series(1, 60) n",
    );
    let decoy = db.number("SELECT 'decoy.session_summaries'::regclass::oid");
    let real = db.number("SELECT 'real.session_summaries'::regclass::oid");
    let before = contents(&mut db, "decoy.session_summaries");
    let swap = "BEGIN; ALTER SCHEMA real RENAME TO t; ALTER SCHEMA decoy RENAME TO real; ALTER SCHEMA t RENAME TO decoy; COMMIT";
    for n in 0..60 {
        let table = db.one(&format!("SELECT {real}::oid::regclass"));
        let address = server_tests::cymru::member(n, 1);
        db.run(&format!(
            "INSERT INTO {table} (session_id, source_ip, command_count) VALUES ('s{n}', '{address}', {n})"
        ));
        db.run(swap);
    }
    let mut swaps = 60;
    wait_until(
        "the sessions are complete",
        || {
            db.run(swap);
            swaps += 1;
            let table = db.one(&format!("SELECT {real}::oid::regclass"));
            db.number(&format!("SELECT count(*) FROM {table} WHERE snapshot_asn IS NULL"))
        },
        |left| *left == 0,
    );
    if swaps % 2 == 1 {
        db.run(swap);
    }
    assert_eq!(db.number("SELECT 'decoy.session_summaries'::regclass::oid"), decoy);
    assert_eq!(contents(&mut db, "decoy.session_summaries"), before);
    lab.assert_nothing_crashed();
}

fn places_found(tree: &Path) -> BTreeSet<String> {
    let output = std::process::Command::new(workspace().join("scripts/user-relations"))
        .arg(tree)
        .output()
        .expect("the script runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn places_listed() -> BTreeSet<String> {
    let statements =
        PLACES.iter().flat_map(|place| place.statements).chain(WORKER).chain(WITHOUT_RELATION).chain(CITUS);
    statements.map(|statement| (*statement).to_owned()).collect()
}

#[test]
fn every_statement_on_a_users_table_is_in_the_list() {
    let (found, listed) = (places_found(&workspace()), places_listed());
    let unlisted: Vec<_> = found.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(
        unlisted.is_empty() && gone.is_empty(),
        "without a test: {unlisted:#?}\nnot in the sources: {gone:#?}"
    );
}

/// The script must find each of these additions.
#[test]
fn a_statement_that_goes_round_the_check_is_found() {
    for (file, planted) in [
        ("src/store/fold.rs", "fn f() { pgrx::Spi::run(\"UPDATE t SET a = 1\"); }"),
        ("src/store/fold.rs", "fn f() { unsafe { pg_sys::SPI_execute(text, false, 0); } }"),
        ("src/pg/scan.rs", "fn f() { unsafe { pg_sys::SPI_prepare(text, 0, types); } }"),
        (
            "src/store/refresh_stale.rs",
            "const S: TableStatement<'static, (), ()> = TableStatement::new(\"planted\", \"\");",
        ),
        (
            "src/store/refresh_stale.rs",
            "fn f() { frozen.run_utility(connection, \"ALTER TABLE @table@\", &[]); }",
        ),
        ("sql/queries/procedures/stale_queue.sql", "SELECT FROM @table@ s"),
        (
            "sql/install/72_refresh.sql",
            "CREATE FUNCTION planted(rel regclass) AS $$ BEGIN EXECUTE format('DROP TABLE %s', rel); END $$;",
        ),
        (
            "sql/install/72_refresh.sql",
            "CREATE FUNCTION planted(rel regclass) AS $$ BEGIN RETURN QUERY EXECUTE 'SELECT'; END $$;",
        ),
    ] {
        let tree = server_tests::cluster::scratch_directory("planted");
        for folder in ["src", "sql"] {
            let copied = std::process::Command::new("cp")
                .arg("-r")
                .arg(workspace().join(folder))
                .arg(tree.path())
                .status()
                .expect("cp runs");
            assert!(copied.success());
        }
        let path = tree.path().join(file);
        let text = std::fs::read_to_string(&path).expect("the file is there");
        std::fs::write(&path, format!("{text}\n{planted}\n")).expect("the file can be written");
        let found = places_found(tree.path());
        let new: Vec<_> = found.difference(&places_listed()).cloned().collect();
        assert!(new.iter().any(|place| place.starts_with(file)), "{planted} is not found: {new:?}");
    }
}
