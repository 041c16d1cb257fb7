//! Tables that inherit from others, as TimescaleDB's chunks do: each session has one snapshot, is counted once and is shown
//! once.

use cowrie_enrich_upstreams::{synthetic_asn, synthetic_country};
use server_tests::cymru::{Lab, member, wait_for_the_queue};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, Options, database, wait_until};

/// Creates a parent, two children and a grandchild, and attaches the parent.
fn family(db: &mut Database<'_>) {
    db.run(
        "CREATE TABLE hyper (id int, ip inet, t timestamptz);
         CREATE TABLE chunk1 () INHERITS (hyper); CREATE TABLE chunk2 () INHERITS (hyper);
         CREATE TABLE grandchild () INHERITS (chunk2);
         SELECT enrich.attach_session_table('hyper', 'ip', 't')",
    );
}

const FAMILY: [&str; 4] = ["chunk1", "chunk2", "grandchild", "hyper"];

fn insert_into_each(db: &mut Database<'_>) {
    for (n, table) in FAMILY.iter().enumerate() {
        db.run(&format!(
            "INSERT INTO {table} VALUES ({n}, '8.8.8.8', '2026-01-01'), ({n}, '1.1.1.{n}', '2026-07-01')"
        ));
    }
}

fn shown(db: &mut Database<'_>, table: &str) -> i64 {
    db.number(&format!("SELECT coalesce(sum(sessions), 0) FROM enrich.campaign_networks('{table}')"))
}

/// A query of the parent table returns each session of the children once.
const EACH: &[(&str, &str)] = &[("hyper", "ip")];

#[test]
fn sessions_of_a_parent_and_its_children_have_one_snapshot_and_are_counted_and_shown_once() {
    let mut db = database();
    family(&mut db);
    insert_into_each(&mut db);
    assert_eq!(db.rows("SELECT rel::text FROM enrich.attached_tables WHERE is_intact ORDER BY 1"), FAMILY);
    assert_eq!(
        db.rows("SELECT rel::text, inherits_from FROM enrich.attached_tables ORDER BY 1"),
        ["chunk1|hyper", "chunk2|hyper", "grandchild|chunk2", "hyper|NULL"]
    );
    assert_eq!(
        db.rows("SELECT snapshot_asn, count(*) FROM hyper GROUP BY 1 ORDER BY 1"),
        ["13335|4", "15169|4"]
    );
    assert_counts_are_exact(&mut db, EACH);
    assert_eq!([shown(&mut db, "hyper"), shown(&mut db, "chunk1"), shown(&mut db, "chunk2")], [8, 2, 4]);
    db.run("CALL enrich.refresh_session_counts()");
    assert_counts_are_exact(&mut db, EACH);
    db.run("UPDATE hyper SET id = id + 1; DELETE FROM ONLY hyper; DELETE FROM hyper WHERE id = 1");
    assert_counts_are_exact(&mut db, EACH);
    assert_eq!(shown(&mut db, "hyper"), 4);
    db.run("TRUNCATE hyper");
    assert_counts_are_exact(&mut db, EACH);
}

#[test]
fn old_sessions_of_children_are_filled_and_counted_by_a_backfill_of_the_parent() {
    let mut db = database();
    db.run(
        "CREATE TABLE hyper (id int, ip inet, t timestamptz);
         CREATE TABLE chunk1 () INHERITS (hyper); CREATE TABLE chunk2 () INHERITS (hyper);
         CREATE TABLE grandchild () INHERITS (chunk2)",
    );
    insert_into_each(&mut db);
    db.run("SELECT enrich.attach_session_table('hyper', 'ip', 't')");
    db.run("CALL enrich.backfill_sessions('hyper')");
    assert_eq!(
        db.rows(
            "SELECT tableoid::regclass::text, snapshot_asn, count(*) FROM hyper GROUP BY 1, 2 ORDER BY 1, 2"
        ),
        FAMILY.map(|table| [format!("{table}|13335|1"), format!("{table}|15169|1")]).concat()
    );
    assert_counts_are_exact(&mut db, EACH);
    assert_eq!(
        db.rows("SELECT min(first_seen), max(last_seen) FROM enrich.ip_inventory"),
        ["2026-01-01 00:00:00+00|2026-07-01 00:00:00+00"]
    );
    db.run("SELECT enrich.index_session_table('hyper')");
    for table in FAMILY {
        assert_eq!(db.rows(&format!("SELECT enrich.session_index_commands('{table}')")), [""; 0], "{table}");
    }
}

/// TimescaleDB copies triggers and indexes of the parent to each new chunk.
#[test]
fn a_child_that_gets_copies_of_the_triggers_is_attached() {
    let mut db = database();
    family(&mut db);
    db.run(
        "CREATE TABLE chunk3 () INHERITS (hyper);
         CREATE TRIGGER zz_cowrie_enrich_snapshot BEFORE INSERT OR UPDATE ON chunk3
             FOR EACH ROW EXECUTE FUNCTION enrich.enrich_session('ip', 't');
         CREATE TRIGGER zz_cowrie_enrich_count AFTER INSERT OR DELETE OR UPDATE ON chunk3
             FOR EACH ROW EXECUTE FUNCTION enrich.enrich_session('ip', 't');
         CREATE INDEX chunk3_hyper_cowrie_enrich_waiting ON chunk3 ((ip::text::enrich.parsed_address::inet))
             WHERE snapshot_asn IS NULL OR snapshot_country IS NULL;
         INSERT INTO chunk3 VALUES (9, '8.8.8.8', '2026-01-01')",
    );
    insert_into_each(&mut db);
    assert_eq!(db.one("SELECT bool_and(is_intact) FROM enrich.attached_tables"), "t");
    assert_counts_are_exact(&mut db, EACH);
    assert_eq!(shown(&mut db, "hyper"), 9);
    // Attaching again replaces the triggers.
    db.run("SELECT enrich.attach_session_table('hyper', 'ip', 't')");
    assert_eq!(db.number("SELECT count(*) FROM pg_index WHERE indrelid = 'chunk3'::regclass"), 1);
    db.run("INSERT INTO chunk3 VALUES (10, '8.8.8.8', '2026-01-01')");
    assert_counts_are_exact(&mut db, EACH);
    db.run("SELECT enrich.detach_session_table('hyper')");
    assert_eq!(
        db.rows(
            "SELECT tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE '%cowrie%'
                 AND tgrelid::regclass::text = ANY ('{hyper,chunk1,chunk2,chunk3,grandchild}')"
        ),
        [""; 0]
    );
    assert_eq!(
        db.rows("SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'chunk3'::regclass"),
        [""; 0]
    );
}

#[test]
fn a_child_that_is_added_later_is_noticed_and_attached_with_its_parent() {
    for add in [
        "CREATE TABLE late () INHERITS (hyper)",
        "CREATE TABLE late (LIKE hyper); ALTER TABLE late INHERIT grandchild",
    ] {
        let mut db = database();
        family(&mut db);
        db.run(add);
        assert_eq!(
            db.one("SELECT is_intact FROM enrich.attached_tables WHERE rel = 'hyper'::regclass"),
            "f",
            "{add}"
        );
        let refusal = db.refused("SELECT * FROM enrich.campaign_networks('hyper')");
        assert_eq!(
            (refusal.code.as_str(), refusal.hint.as_deref()),
            (
                "55000",
                Some(
                    "Call attach_session_table() for the parent table again, with all arguments of the earlier call. The call also covers the inheritance children."
                )
            ),
            "{refusal:?}"
        );
        db.run("INSERT INTO late VALUES (1, '8.8.8.8', '2026-01-01')");
        db.run("SELECT enrich.attach_session_table('hyper', 'ip', 't')");
        db.run("CALL enrich.backfill_sessions('hyper')");
        assert_eq!(db.one("SELECT bool_and(is_intact) FROM enrich.attached_tables"), "t", "{add}");
        assert_eq!(db.rows("SELECT snapshot_asn FROM late"), ["15169"], "{add}");
        assert_counts_are_exact(&mut db, EACH);
        assert_eq!(shown(&mut db, "hyper"), 1, "{add}");
    }
}

#[test]
fn a_child_of_another_owner_or_kind_is_refused_with_a_hint() {
    for (child, why) in [
        (
            "CREATE TABLE child () INHERITS (hyper); ALTER TABLE child OWNER TO {role}",
            "The inheritance child has a different owner than the parent.",
        ),
        (
            "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
             CREATE FOREIGN TABLE child () INHERITS (hyper) SERVER s",
            "The inheritance child is not a table.",
        ),
    ] {
        let mut db = database();
        let role = db.own_name("stranger");
        db.run(&format!(
            "DROP ROLE IF EXISTS {role}; CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role}"
        ));
        db.run("CREATE TABLE hyper (id int, ip inet, t timestamptz)");
        db.run(&child.replace("{role}", &role));
        let refusal = db.refused("SELECT enrich.attach_session_table('hyper', 'ip', 't')");
        assert_eq!((refusal.code.as_str(), refusal.detail.as_deref()), ("42809", Some(why)), "{refusal:?}");
        assert!(refusal.hint.is_some_and(|hint| hint.contains("NO INHERIT")), "{child}");
        assert_eq!(db.rows("SELECT attname FROM pg_attribute WHERE attname LIKE 'snapshot%' AND attrelid = 'hyper'::regclass"), [""; 0]);
    }
}

/// A child that gets another owner keeps its snapshots and is left alone. The parent can still be read.
#[test]
fn a_child_that_changes_its_owner_is_left_alone() {
    let mut db = database();
    let role = db.own_name("stranger");
    db.run(&format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role}"
    ));
    family(&mut db);
    db.run(&format!(
        "ALTER TABLE chunk1 DISABLE TRIGGER ALL; INSERT INTO chunk1 VALUES (1, '8.8.8.8', now());
         INSERT INTO hyper VALUES (1, '8.8.8.8', now());
         ALTER TABLE chunk1 ENABLE TRIGGER ALL; ALTER TABLE chunk1 OWNER TO {role}"
    ));
    assert_eq!(db.one("SELECT is_intact FROM enrich.attached_tables WHERE rel = 'hyper'::regclass"), "f");
    db.run("CALL enrich.backfill_sessions('hyper')");
    assert_eq!(db.rows("SELECT snapshot_asn FROM ONLY hyper"), ["15169"]);
    assert_eq!(db.rows("SELECT snapshot_asn FROM ONLY chunk1"), ["NULL"]);
    assert_eq!(db.refused("SELECT * FROM enrich.campaign_networks('hyper')").code, "55000");
    db.run("SELECT enrich.detach_session_table('hyper')");
    assert_eq!(db.rows("SELECT rel FROM enrich.attached_tables"), ["chunk1"]);
}

/// Rows in different tables have the same ctid.
#[test]
fn sessions_of_children_get_no_snapshots_of_their_parents_addresses() {
    let lab = Lab::start(Options::named("inheritance-worker").with_worker());
    let mut db = lab.database();
    db.run(
        "CREATE TABLE par (ip inet, t timestamptz);
         SELECT enrich.attach_session_table('par', 'ip', 't');
         CREATE TABLE chd () INHERITS (par); INSERT INTO chd VALUES ('1.1.1.1', now())",
    );
    let address = member(0, 1);
    db.run(&format!("INSERT INTO par VALUES ('{address}', now())"));
    let asn = synthetic_asn(address);
    wait_until(
        "the session is complete",
        || db.rows("SELECT snapshot_asn, snapshot_country FROM ONLY par"),
        |rows| *rows == [format!("{asn}|{}", synthetic_country(asn))],
    );
    wait_for_the_queue(&mut db);
    assert_eq!(db.rows("SELECT snapshot_asn, snapshot_country FROM chd"), ["NULL|NULL"]);

    // When the parent is attached, the child is attached too. Its sessions then get the networks of their addresses.
    db.run("SELECT enrich.attach_session_table('par', 'ip', 't')");
    let other = member(1, 1);
    db.run(&format!("INSERT INTO chd VALUES ('{other}', now())"));
    let asn = synthetic_asn(other);
    wait_until(
        "the child's session is complete",
        || db.rows(&format!("SELECT snapshot_asn FROM chd WHERE ip = '{other}'")),
        |rows| *rows == [asn.to_string()],
    );
    wait_for_the_queue(&mut db);
    lab.assert_nothing_crashed();
}

/// Code on a child of another owner must not run as the owner of the parent.
#[test]
fn the_owner_of_a_child_runs_no_code_as_the_owner_of_the_parent() {
    let mut db = database();
    let (alice, bob) = (db.own_name("alice"), db.own_name("bob"));
    db.run(&format!(
        "DROP ROLE IF EXISTS {alice}; DROP ROLE IF EXISTS {bob}; CREATE ROLE {alice}; CREATE ROLE {bob};
         CREATE SCHEMA al AUTHORIZATION {alice}; GRANT USAGE, CREATE ON SCHEMA al TO {bob};
         CREATE TABLE al.loot (who text); ALTER TABLE al.loot OWNER TO {alice}; GRANT INSERT ON al.loot TO PUBLIC;
         CREATE TABLE al.par (ip inet, t timestamptz); ALTER TABLE al.par OWNER TO {alice};
         SELECT enrich.attach_session_table('al.par', 'ip', 't');
         CREATE TABLE al.chd () INHERITS (al.par);
         ALTER TABLE al.par DISABLE TRIGGER ALL;
         INSERT INTO al.par VALUES ('8.8.8.8', now()); INSERT INTO al.chd VALUES ('1.1.1.1', now());
         ALTER TABLE al.par ENABLE TRIGGER ALL;
         CREATE FUNCTION al.who(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO al.loot VALUES (current_user); RETURN true; END $$;
         ALTER TABLE al.chd ADD CONSTRAINT c CHECK (al.who(snapshot_country)) NOT VALID;
         ALTER TABLE al.chd OWNER TO {bob}; ALTER FUNCTION al.who(text) OWNER TO {bob}"
    ));
    db.run("CALL enrich.backfill_sessions('al.par')");
    assert_eq!(db.rows("SELECT snapshot_asn FROM ONLY al.par"), ["15169"]);
    assert_eq!(db.rows("SELECT snapshot_asn FROM al.chd"), ["NULL"]);
    assert_eq!(db.rows("SELECT who FROM al.loot"), [""; 0]);
}

/// R2: cannot attach a partition, on any level, of an attached table, nor a partitioned table with an attached
/// partition.
#[test]
fn a_table_is_not_attached_twice_through_its_partitions() {
    let mut db = database();
    db.run(
        "CREATE TABLE root (id int, ip inet) PARTITION BY LIST (id);
         CREATE TABLE mid PARTITION OF root FOR VALUES IN (1, 2) PARTITION BY LIST (id);
         CREATE TABLE leaf PARTITION OF mid FOR VALUES IN (1);
         SELECT enrich.attach_session_table('root', 'ip')",
    );
    for part in ["mid", "leaf"] {
        let refusal = db.refused(&format!("SELECT enrich.attach_session_table('{part}', 'ip')"));
        assert_eq!(refusal.code, "42809", "{refusal:?}");
        assert!(
            refusal.hint.is_some_and(|hint| hint.contains("detach_session_table('public.root')")),
            "{part}"
        );
    }
    db.run("SELECT enrich.detach_session_table('root'); SELECT enrich.attach_session_table('leaf', 'ip')");
    for above in ["root", "mid"] {
        let refusal = db.refused(&format!("SELECT enrich.attach_session_table('{above}', 'ip')"));
        assert_eq!(refusal.code, "42809", "{refusal:?}");
        assert_eq!(
            refusal.hint.as_deref(),
            Some("First call detach_session_table('public.leaf')."),
            "{above}"
        );
    }
}
