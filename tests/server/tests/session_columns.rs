//! Which tables and columns can be attached, and what happens when columns change later: generated columns, domains,
//! temporary and distributed tables.

use server_tests::installation::named_major;
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Cluster, Database, Options, database, wait_until};

/// Returns the kinds of generated columns that the server has.
fn kinds() -> &'static [&'static str] {
    if named_major() >= 18 { &["STORED", "VIRTUAL"] } else { &["STORED"] }
}

fn errors(db: &mut Database<'_>) -> i64 {
    db.number("SELECT errors FROM enrich.enrich_stats()")
}

#[test]
fn a_generated_address_column_is_refused_with_a_hint() {
    for kind in kinds() {
        for (column, foreign_key) in [
            (format!("ip text GENERATED ALWAYS AS (raw) {kind}"), false),
            (format!("ip inet GENERATED ALWAYS AS ('8.8.8.8'::inet) {kind}"), true),
        ] {
            let mut db = database();
            db.run(&format!("CREATE TABLE g (raw text, {column}, t timestamptz DEFAULT now())"));
            let refusal =
                db.refused(&format!("SELECT enrich.attach_session_table('g', 'ip', 't', {foreign_key})"));
            assert_eq!(refusal.code, "0A000", "{refusal:?}");
            assert!(refusal.message.contains("address column ip of public.g is generated"), "{refusal:?}");
            assert!(refusal.hint.is_some_and(|hint| hint.contains("BEFORE trigger")), "{column}");
            assert_eq!(db.number("SELECT count(*) FROM enrich.attached_tables"), 0);
        }
    }
}

/// Does what the hint of the error advises.
#[test]
fn a_trigger_can_fill_the_address_column_instead() {
    let mut db = database();
    db.run(
        "CREATE TABLE ev (doc jsonb NOT NULL, src_ip text, at timestamptz DEFAULT now());
         CREATE FUNCTION fill_address() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.src_ip := NEW.doc ->> 'src_ip'; RETURN NEW; END $$;
         CREATE TRIGGER fill BEFORE INSERT OR UPDATE ON ev FOR EACH ROW EXECUTE FUNCTION fill_address();
         SELECT enrich.attach_session_table('ev', 'src_ip', 'at');
         INSERT INTO ev (doc) SELECT jsonb_build_object('src_ip', '8.8.8.' || g) FROM generate_series(1, 20) g",
    );
    assert_eq!(db.rows("SELECT count(*), count(snapshot_country) FROM ev"), ["20|20"]);
    assert_counts_are_exact(&mut db, &[("ev", "src_ip")]);
}

#[test]
fn a_generated_snapshot_column_is_refused_with_a_hint() {
    for kind in kinds() {
        for (column, value) in [
            ("snapshot_asn bigint", "1::bigint"),
            ("snapshot_country text", "'DE'::text"),
            ("snapshot_ip_type text", "'VPN'::text"),
            ("enrichment jsonb", "'{}'::jsonb"),
            ("enrichment_at timestamptz", "'2024-01-01 00:00:00+00'::timestamptz"),
        ] {
            let mut db = database();
            db.run(&format!("CREATE TABLE g (ip inet, {column} GENERATED ALWAYS AS ({value}) {kind})"));
            let refusal = db.refused("SELECT enrich.attach_session_table('g', 'ip')");
            assert_eq!(refusal.code, "0A000", "{column}: {refusal:?}");
            assert!(refusal.hint.is_some_and(|hint| hint.starts_with("Drop the column.")), "{column}");
        }
    }
}

#[test]
fn a_stored_generated_time_column_gives_the_time_of_the_session() {
    let mut db = database();
    db.run(
        "CREATE TABLE st (id int, ip inet, epoch bigint DEFAULT 1700000000,
             t timestamp GENERATED ALWAYS AS ('epoch'::timestamp + epoch * interval '1 second') STORED);
         INSERT INTO st (id, ip) VALUES (1, '1.1.1.1');
         SELECT enrich.attach_session_table('st', 'ip', 't');
         INSERT INTO st (id, ip) VALUES (2, '8.8.8.8');
         CALL enrich.fold_statistics()",
    );
    let seen = "SELECT host(ip_address), first_seen, last_seen FROM enrich.ip_inventory ORDER BY ip_address";
    assert_eq!(db.rows(seen), ["8.8.8.8|2023-11-14 22:13:20+00|2023-11-14 22:13:20+00"]);
    db.run("CALL enrich.backfill_sessions('st')");
    assert_eq!(
        db.rows(seen),
        [
            "1.1.1.1|2023-11-14 22:13:20+00|2023-11-14 22:13:20+00",
            "8.8.8.8|2023-11-14 22:13:20+00|2023-11-14 22:13:20+00"
        ]
    );
    assert_eq!(
        db.rows("SELECT sessions, first_seen FROM enrich.campaign_networks('st') WHERE asn_number = 15169"),
        ["1|2023-11-14 22:13:20+00"]
    );
    assert_eq!(db.one("SELECT is_intact FROM enrich.attached_tables"), "t");
    assert_counts_are_exact(&mut db, &[("st", "ip")]);
}

#[test]
fn a_virtual_time_column_is_refused_with_a_hint() {
    if named_major() < 18 {
        return;
    }
    let mut db = database();
    db.run(
        "CREATE TABLE vt (id int, ip inet, epoch bigint DEFAULT 1700000000,
             t timestamp GENERATED ALWAYS AS ('epoch'::timestamp + epoch * interval '1 second') VIRTUAL)",
    );
    let refusal = db.refused("SELECT enrich.attach_session_table('vt', 'ip', 't')");
    assert_eq!(refusal.code, "0A000", "{refusal:?}");
    assert_eq!(
        refusal.hint.as_deref(),
        Some("Use an ordinary column, or a generated column that is STORED.")
    );
}

/// A generated column of another name may use the snapshot columns.
#[test]
fn generated_columns_of_other_names_may_use_the_snapshot() {
    for kind in kinds() {
        let mut db = database();
        db.run(&format!(
            "CREATE TABLE own (id int, ip inet);
             SELECT enrich.attach_session_table('own', 'ip');
             ALTER TABLE own ADD is_us boolean GENERATED ALWAYS AS (snapshot_country = 'US') {kind};
             INSERT INTO own VALUES (1, '8.8.8.8'), (2, '1.1.1.1')"
        ));
        assert_eq!(db.rows("SELECT id, is_us FROM own ORDER BY id"), ["1|t", "2|f"], "{kind}");
        assert_eq!(
            db.rows("SELECT sessions FROM enrich.campaign_networks('own', 's.is_us')"),
            ["1"],
            "{kind}"
        );
        db.run("ALTER TABLE own DISABLE TRIGGER ALL; INSERT INTO own VALUES (3, '8.8.8.8'); ALTER TABLE own ENABLE TRIGGER ALL");
        db.run("CALL enrich.backfill_sessions('own')");
        assert_eq!(db.rows("SELECT id, is_us FROM own ORDER BY id"), ["1|t", "2|f", "3|t"], "{kind}");
        assert_eq!(db.one("SELECT is_intact FROM enrich.attached_tables"), "t", "{kind}");
    }
}

#[test]
fn a_column_that_becomes_generated_later_is_noticed() {
    for kind in kinds() {
        for (column, type_name, value) in [
            ("ip", "inet", "raw"),
            ("snapshot_asn", "bigint", "1::bigint"),
            ("snapshot_country", "text", "'DE'::text"),
            ("snapshot_ip_type", "text", "'VPN'::text"),
        ] {
            let mut db = database();
            db.run("CREATE TABLE g (id int, raw inet DEFAULT '8.8.8.8', ip inet DEFAULT '8.8.8.8'); SELECT enrich.attach_session_table('g', 'ip')");
            assert_eq!(db.one("SELECT is_intact FROM enrich.attached_tables"), "t");
            db.run(&format!(
                "DROP INDEX g_cowrie_enrich_waiting; ALTER TABLE g RENAME {column} TO former;
                 ALTER TABLE g ADD {column} {type_name} GENERATED ALWAYS AS ({value}) {kind}"
            ));
            assert_eq!(db.one("SELECT is_intact FROM enrich.attached_tables"), "f", "{column} {kind}");
            let before = errors(&mut db);
            // The session is still stored.
            let mut other = db.another();
            other.run("INSERT INTO g (id) VALUES (1)");
            wait_until("the error is counted", || errors(&mut db), |now| *now > before);
            assert_eq!(db.number("SELECT count(*) FROM g"), 1);
            let refusal = db.refused("SELECT * FROM enrich.campaign_networks('g')");
            assert_eq!(refusal.code, "42804", "{column} {kind}: {refusal:?}");
            // Triggers and recount have the same result.
            db.run("CALL enrich.fold_statistics()");
            let counted = "SELECT coalesce(sum(session_count), 0) FROM enrich.ip_inventory";
            let by_trigger = db.number(counted);
            db.run("CALL enrich.refresh_session_counts()");
            assert_eq!(db.number(counted), by_trigger, "{column} {kind}");
            let refusal = db.refused("SELECT enrich.attach_session_table('g', 'ip')");
            assert_eq!(refusal.code, "0A000", "{column} {kind}: {refusal:?}");
        }
    }
}

/// G2: the inventory has one spelling of an address, and a generated column cannot be rewritten.
#[test]
fn a_foreign_key_on_a_column_that_became_generated_is_refused() {
    let mut db = database();
    db.run(
        "CREATE TABLE gu (raw text, ip inet, t timestamptz DEFAULT now()); SELECT enrich.attach_session_table('gu', 'ip', 't');
         DROP INDEX gu_cowrie_enrich_waiting; ALTER TABLE gu DROP ip;
         ALTER TABLE gu ADD ip inet GENERATED ALWAYS AS (raw::inet) STORED",
    );
    let refusal = db.refused("CALL enrich.add_session_foreign_key('gu')");
    assert_eq!(refusal.code, "0A000", "{refusal:?}");
    assert!(refusal.hint.is_some());
    db.run("INSERT INTO gu (raw) VALUES ('::ffff:200.3.2.3')");
}

#[test]
fn a_domain_is_another_type() {
    let mut db = database();
    db.run(
        "CREATE DOMAIN address AS inet; CREATE DOMAIN word AS text; CREATE DOMAIN moment AS timestamptz;
         CREATE DOMAIN number AS bigint;
         CREATE TABLE d (ip address, name word, at moment, plain inet, snapshot_asn number)",
    );
    for (arguments, what) in [
        ("'d', 'ip'", "address column ip has type public.address"),
        ("'d', 'name'", "address column name has type public.word"),
        ("'d', 'plain', 'at'", "time column at has type public.moment"),
        ("'d', 'plain'", "column snapshot_asn of public.d has type public.number, but must have type bigint"),
    ] {
        let refusal = db.refused(&format!("SELECT enrich.attach_session_table({arguments})"));
        assert_eq!((refusal.code.as_str(), refusal.message.as_str()), ("42804", what));
        assert!(refusal.hint.is_some(), "{arguments}");
    }
}

#[test]
fn temporary_tables_are_refused_with_a_hint() {
    let mut db = database();
    db.run("CREATE TEMP TABLE own (source_ip inet)");
    let refusal = db.refused("SELECT enrich.attach_session_table('own')");
    assert_eq!(
        (refusal.code.as_str(), refusal.hint.as_deref()),
        ("42809", Some("Call attach_session_table() for a permanent table."))
    );
    // A temporary child in the tree is refused as well, because other connections cannot read it.
    db.run("CREATE TABLE parent (source_ip inet); CREATE TEMP TABLE child () INHERITS (parent)");
    let refusal = db.refused("SELECT enrich.attach_session_table('parent')");
    assert_eq!(refusal.code, "42809", "{refusal:?}");
}

/// Simulates Citus by a table with the name and columns of Citus's catalog. The suite `citus` uses Citus itself.
#[test]
fn tables_that_citus_cannot_enrich_are_refused_with_a_hint() {
    let mut db = database();
    db.run(
        "SET allow_system_table_mods = on;
         CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass, partmethod \"char\", repmodel \"char\");
         CREATE TABLE local (source_ip inet); CREATE TABLE shared (source_ip inet); CREATE TABLE copied (source_ip inet);
         INSERT INTO pg_catalog.pg_dist_partition VALUES ('shared', 'h', 's'), ('copied', 'n', 't')",
    );
    for (table, code, hint) in [
        ("copied", "0A000", "create_distributed_table()"),
        ("shared", "55000", "citus.enable_unsafe_triggers"),
    ] {
        let refusal = db.refused(&format!("SELECT enrich.attach_session_table('{table}')"));
        assert_eq!(refusal.code, code, "{refusal:?}");
        assert!(refusal.hint.is_some_and(|text| text.contains(hint)));
    }
    db.run("SELECT enrich.attach_session_table('local')");
}

#[test]
fn only_tables_are_listed_as_attached() {
    let mut db = database();
    db.run(
        "CREATE TABLE base (ip inet, t timestamptz); CREATE VIEW v AS SELECT * FROM base;
         CREATE TRIGGER x INSTEAD OF INSERT ON v FOR EACH ROW EXECUTE FUNCTION enrich.enrich_session('ip', 't')",
    );
    assert_eq!(db.rows("SELECT rel FROM enrich.attached_tables"), [""; 0]);
    for call in ["campaign_networks('v')", "campaign_query('v')", "session_index_commands('v')"] {
        let refusal = db.refused(&format!("SELECT enrich.{call}"));
        assert_eq!(refusal.code, "55000", "{call}: {refusal:?}");
    }
}

/// I-2.
#[test]
fn a_foreign_key_for_a_table_that_is_not_attached_is_refused_with_a_hint() {
    let mut db = database();
    db.run("CREATE TABLE plain (ip inet)");
    for whole in [true, false] {
        let refusal = db.refused(&format!("SELECT enrich.reference_addresses('plain', {whole})"));
        assert_eq!(
            (refusal.code.as_str(), refusal.message.as_str(), refusal.hint.as_deref()),
            (
                "55000",
                "public.plain is not an attached session table",
                Some("Call attach_session_table() for the table first.")
            )
        );
    }
}

const COLUMNS: &str = "snapshot_asn bigint, snapshot_country text, snapshot_ip_type text, enrichment jsonb, enrichment_at timestamptz";

#[test]
fn attaching_reports_the_columns_that_it_adds_and_the_sessions_that_wait() {
    let mut db = database();
    db.run(
        "CREATE TABLE s (ip text, seen timestamptz, snapshot_asn bigint);
         INSERT INTO s SELECT '1.1.1.' || n % 250, now() FROM generate_series(1, 1200) n",
    );
    assert_eq!(
        db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen')"),
        "NOTICE:  public.s is now an attached session table\n\
         DETAIL:  Columns were added: snapshot_country, snapshot_ip_type, enrichment, enrichment_at.\n\
         Rows with a null network or country: about 1200.\n\
         HINT:  Call backfill_sessions('public.s').\n\
         In each COPY and INSERT statement, name the columns that the client writes.\n"
    );
    // The columns were added by the first call, so the second does not report them. The rows still wait.
    let again = db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen')");
    assert!(!again.contains("added") && again.contains("about 1200"), "{again}");
    db.run("CALL enrich.backfill_sessions('s')");
    // The index also has row versions that a snapshot of another transaction may still see.
    wait_until(
        "no row of the index waits",
        || db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen')"),
        String::is_empty,
    );
}

#[test]
fn attaching_counts_the_waiting_sessions_of_partitions_and_children() {
    let mut db = database();
    db.run(&format!(
        "CREATE TABLE parted (ip inet, seen timestamptz, {COLUMNS}) PARTITION BY RANGE (seen);
         CREATE TABLE p1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
         CREATE TABLE p2 PARTITION OF parted DEFAULT PARTITION BY RANGE (seen);
         CREATE TABLE p3 PARTITION OF p2 DEFAULT;
         INSERT INTO parted SELECT '1.1.1.1', '2026-01-31'::timestamptz + n * interval '1 day' FROM generate_series(0, 9) n;
         CREATE TABLE parent (ip inet, seen timestamptz, {COLUMNS});
         CREATE TABLE child () INHERITS (parent);
         INSERT INTO parent SELECT '1.1.1.1', now() FROM generate_series(1, 3);
         INSERT INTO child SELECT '1.1.1.1', now() FROM generate_series(1, 4)"
    ));
    for (table, rows) in [("parted", 10), ("parent", 7)] {
        let notices = db.notices(&format!("SELECT enrich.attach_session_table('{table}', 'ip', 'seen')"));
        assert!(
            notices.contains(&format!("DETAIL:  Rows with a null network or country: about {rows}.\nHINT")),
            "{notices}"
        );
    }
}

#[test]
fn attaching_is_silent_where_nothing_is_found() {
    let mut db = database();
    db.run(&format!(
        "CREATE TABLE s (ip inet, seen timestamptz, {COLUMNS});
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER a_before BEFORE INSERT ON s FOR EACH ROW EXECUTE FUNCTION f();
         CREATE TRIGGER zzz_after AFTER INSERT ON s FOR EACH ROW EXECUTE FUNCTION f();
         CREATE TRIGGER zzz_statement BEFORE INSERT ON s FOR EACH STATEMENT EXECUTE FUNCTION f();
         CREATE TRIGGER zzz_delete BEFORE DELETE ON s FOR EACH ROW EXECUTE FUNCTION f();
         CREATE TRIGGER zzz_off BEFORE INSERT ON s FOR EACH ROW EXECUTE FUNCTION f();
         ALTER TABLE s DISABLE TRIGGER zzz_off"
    ));
    assert_eq!(db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen')"), "");
}

#[test]
fn attaching_reports_what_keeps_snapshots_from_being_filled() {
    let mut db = database();
    db.run(
        "CREATE TABLE s (ip inet, snapshot_asn bigint NOT NULL DEFAULT 0, snapshot_country char(3), snapshot_ip_type varchar(5),
             enrichment jsonb DEFAULT '{}', enrichment_at timestamptz);
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER \"zzz last\" BEFORE UPDATE ON s FOR EACH ROW EXECUTE FUNCTION f()",
    );
    assert_eq!(
        db.notices("SELECT enrich.attach_session_table('s', 'ip')"),
        "NOTICE:  public.s is now an attached session table\n\
         DETAIL:  No time column is named, so the time of a session is the time of its INSERT.\n\
         Column snapshot_country of public.s accepts exactly 3 characters. The extension leaves the column null if a value does not fit.\n\
         Column snapshot_ip_type of public.s accepts at most 5 characters. The extension leaves the column null if a value does not fit.\n\
         Column enrichment of public.s has a default. The extension treats the default as a value that the client wrote.\n\
         Column snapshot_asn of public.s has a default. The extension treats the default as a value that the client wrote.\n\
         Column snapshot_asn of public.s is NOT NULL, so an INSERT fails if neither the client nor the extension has a value.\n\
         The extension does not see the changes that trigger \"zzz last\" on public.s makes, because that trigger fires after the trigger of the extension.\n\
         HINT:  ALTER TABLE public.s ALTER COLUMN enrichment DROP DEFAULT;\n\
         ALTER TABLE public.s ALTER COLUMN snapshot_asn DROP DEFAULT;\n\
         ALTER TABLE public.s ALTER COLUMN snapshot_asn DROP NOT NULL;\n\
         ALTER TABLE public.s ALTER COLUMN snapshot_country TYPE text;\n\
         ALTER TABLE public.s ALTER COLUMN snapshot_ip_type TYPE text;\n\
         Call attach_session_table() again with the time column as the third argument, and repeat all other arguments.\n\
         Rename trigger \"zzz last\" on public.s to a name that sorts before zz_cowrie_enrich_snapshot.\n"
    );
    // Does what the hints of the errors advise.
    db.run(
        "ALTER TABLE s ALTER enrichment DROP DEFAULT, ALTER snapshot_asn DROP DEFAULT, ALTER snapshot_asn DROP NOT NULL,
             ALTER snapshot_country TYPE text, ALTER snapshot_ip_type TYPE text, ADD seen timestamptz;
         ALTER TRIGGER \"zzz last\" ON s RENAME TO first",
    );
    assert_eq!(db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen')"), "");
}

#[test]
fn attaching_reports_that_no_mmdb_file_is_in_service() {
    let cluster = Cluster::start(&Options::named("columns-no-mmdb"));
    let mut db = server_tests::database::bare_database(&cluster);
    db.run(&format!(
        "CREATE SCHEMA enrich; CREATE EXTENSION cowrie_enrich SCHEMA enrich; CREATE TABLE s (ip inet, seen timestamptz, {COLUMNS})"
    ));
    assert_eq!(
        db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen')"),
        "NOTICE:  public.s is now an attached session table\n\
         DETAIL:  No mmdb file is loaded for cowrie_enrich.asn_database.\n\
         No mmdb file is loaded for cowrie_enrich.city_database.\n\
         HINT:  Name mmdb files in cowrie_enrich.city_database and cowrie_enrich.asn_database; mmdb_status() shows why a file is refused.\n"
    );
    assert_eq!(db.one("SELECT enrich.mmdb_in_service('other')"), "NULL");
    // With other sources the mmdb files do not matter.
    cluster.reconfigure(&["cowrie_enrich.enabled_sources = 'cymru'".to_owned()]);
    wait_until(
        "the setting is read",
        || db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen')"),
        |said| {
            said == "NOTICE:  public.s is now an attached session table\n\
                     DETAIL:  The setting cowrie_enrich.enabled_sources does not contain maxmind, so no mmdb file is used.\n\
                     HINT:  Add maxmind to cowrie_enrich.enabled_sources.\n"
        },
    );
}

#[test]
fn attaching_reports_what_keeps_sessions_from_being_counted() {
    let mut db = database();
    db.run(&format!(
        "CREATE UNLOGGED TABLE s (ip inet, seen timestamptz, {COLUMNS});
         CREATE TABLE real (ip inet, seen timestamptz);
         CREATE RULE \"move it\" AS ON INSERT TO s DO INSTEAD INSERT INTO real VALUES (NEW.ip, NEW.seen);
         CREATE RULE beside AS ON UPDATE TO s DO ALSO NOTIFY x"
    ));
    assert_eq!(
        db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen')"),
        "NOTICE:  public.s is now an attached session table\n\
         DETAIL:  public.s is UNLOGGED: a crash empties the table, but its sessions stay in the counts.\n\
         Rule \"move it\" on public.s replaces INSERT, so the triggers of the extension see only rows that the rule stores in the table itself.\n\
         HINT:  ALTER TABLE public.s SET LOGGED, or call refresh_session_counts() after a crash.\n\
         Call attach_session_table() for the table in which rule \"move it\" stores sessions.\n"
    );
    db.run("DROP RULE \"move it\" ON s; ALTER TABLE s SET LOGGED");
    assert_eq!(db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen')"), "");
}

#[test]
fn snapshot_columns_are_neither_address_nor_time() {
    let mut db = database();
    db.run(&format!("CREATE TABLE s (ip inet, seen timestamptz, {COLUMNS})"));
    for arguments in ["'s', 'snapshot_country'", "'s', 'ip', 'enrichment_at'"] {
        let refusal = db.refused(&format!("SELECT enrich.attach_session_table({arguments})"));
        assert_eq!(refusal.code, "22023", "{refusal:?}");
    }
    db.run("SET standard_conforming_strings = off");
    assert_eq!(db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen')"), "");
    assert_eq!(db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen')"), "");
    assert_eq!(db.notices("SELECT enrich.detach_session_table('s')"), "");
}

#[test]
fn attaching_without_the_foreign_key_that_there_was_is_reported() {
    for partition in ["", "PARTITION BY RANGE (seen)"] {
        let mut db = database();
        db.run(&format!("CREATE TABLE s (ip inet, seen timestamptz, {COLUMNS}) {partition}"));
        if !partition.is_empty() {
            db.run("CREATE TABLE p PARTITION OF s DEFAULT");
        }
        assert_eq!(db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen', true)"), "");
        assert_eq!(db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen', true)"), "");
        assert_eq!(
            db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen')"),
            "NOTICE:  public.s is now an attached session table\n\
             DETAIL:  The foreign key to ip_inventory was dropped.\n\
             HINT:  To restore the foreign key, call attach_session_table() again with add_foreign_key => true, and repeat all other arguments.\n"
        );
        assert_eq!(db.notices("SELECT enrich.attach_session_table('s', 'ip', 'seen')"), "");
    }
}

#[test]
fn a_foreign_table_is_refused_with_a_hint() {
    let mut db = database();
    db.run(
        "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;
         CREATE FOREIGN TABLE remote (source_ip inet) SERVER elsewhere",
    );
    let refusal = db.refused("SELECT enrich.attach_session_table('remote')");
    assert_eq!(
        (refusal.code.as_str(), refusal.hint.as_deref()),
        ("42809", Some("Call attach_session_table() for the table into which the sessions are inserted."))
    );
}
