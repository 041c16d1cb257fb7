//! Relations that could be attached as a session table: unusual kinds and unusual names. Also policies, triggers,
//! checks and indexes with code of the table's owner, for every place where the extension reads or writes.

use server_tests::hosts::COWRIE;
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, Session, database, hostile};

/// Creates a login role that owns a schema `theirs`.
fn tenant(db: &mut Database<'_>) -> (String, Session) {
    let role = db.own_name("tenant");
    db.run(&format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; CREATE SCHEMA theirs AUTHORIZATION {role}"
    ));
    hostile::create_trap(db, &role);
    let session = db.cluster.session_with(&db.name, &role, "theirs,public");
    (role, session)
}

#[test]
fn what_is_no_session_table_is_refused_and_left_as_it_was() {
    let mut db = database();
    db.run(
        "CREATE TABLE real (id int, source_ip inet);
         CREATE VIEW a_view AS SELECT * FROM real;
         CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM real;
         CREATE SEQUENCE a_sequence; CREATE INDEX an_index ON real (id); CREATE TYPE a_type AS (source_ip inet);
         CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
         CREATE FOREIGN TABLE a_foreign_table (source_ip inet) SERVER s;
         CREATE TABLE parted (id int, source_ip inet) PARTITION BY LIST (id);
         CREATE TABLE part PARTITION OF parted FOR VALUES IN (1);
         SELECT enrich.attach_session_table('parted')",
    );
    let triggers = "SELECT count(*) FROM pg_trigger";
    let columns = "SELECT count(*) FROM pg_attribute WHERE attname LIKE 'snapshot%'";
    let before = [db.one(triggers), db.one(columns)];
    for relation in [
        "a_view",
        "a_matview",
        "a_sequence",
        "an_index",
        "a_foreign_table",
        "part",
        "pg_class",
        "pg_catalog.pg_authid",
        "enrich.ip_inventory",
        "enrich.session_delta",
        "enrich.queue_status",
    ] {
        let refusal = db.refused(&format!("SELECT enrich.attach_session_table('{relation}')"));
        assert_eq!(refusal.code, "42809", "{relation}: {refusal:?}");
        for procedure in ["backfill_sessions", "add_session_foreign_key"] {
            let refusal = db.refused(&format!("CALL enrich.{procedure}('{relation}')"));
            assert!(
                ["55000", "42809", "42501"].contains(&refusal.code.as_str()),
                "{procedure} {relation}: {refusal:?}"
            );
        }
        db.run(&format!("SELECT enrich.detach_session_table('{relation}')"));
    }
    for nothing in ["0", "4294967295"] {
        let refusal = db.refused(&format!("SELECT enrich.attach_session_table({nothing}::oid::regclass)"));
        assert_eq!(refusal.code, "42P01", "{refusal:?}");
    }
    assert_eq!([db.one(triggers), db.one(columns)], before);
}

#[test]
fn tables_of_every_kind_are_counted() {
    for (create, table) in [
        ("CREATE UNLOGGED TABLE s (id int, source_ip inet)", "s"),
        ("CREATE TABLE base (id int, source_ip inet); CREATE TABLE s () INHERITS (base)", "s"),
        ("CREATE TYPE row AS (id int, source_ip varchar(61)); CREATE TABLE s OF row", "s"),
        (
            "CREATE TABLE s (id int, source_ip inet) PARTITION BY RANGE (id);
          CREATE TABLE s1 PARTITION OF s FOR VALUES FROM (0) TO (3); CREATE TABLE s2 PARTITION OF s DEFAULT",
            "s",
        ),
    ] {
        let mut db = database();
        eprintln!("{create}");
        db.run(create);
        if let Err(refusal) = db.try_run(&format!("SELECT enrich.attach_session_table('{table}')")) {
            // A typed table takes no columns. It is refused before anything was changed.
            assert!(create.contains("TABLE s OF") && refusal.code == "42809", "{create}: {refusal:?}");
            assert_eq!(db.one("SELECT count(*) FROM enrich.attached_tables"), "0");
            continue;
        }
        for id in 1..=4 {
            db.run(&format!("INSERT INTO {table} (id, source_ip) VALUES ({id}, '8.8.8.{id}')"));
        }
        db.run(&format!("UPDATE {table} SET id = 5 WHERE id = 2; DELETE FROM {table} WHERE id = 3"));
        assert_counts_are_exact(&mut db, &[(table, "source_ip")]);
        db.run(&format!("CALL enrich.backfill_sessions('{table}')"));
        assert_counts_are_exact(&mut db, &[(table, "source_ip")]);
        db.run(&format!("TRUNCATE {table}"));
        assert_counts_are_exact(&mut db, &[(table, "source_ip")]);
    }
}

/// Quotes an identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[test]
fn names_cannot_break_out_of_their_quotes() {
    let long = "s".repeat(63);
    let wide = "\u{44f}".repeat(25);
    let names = [
        "\"; DROP TABLE victim; --",
        "'; DROP TABLE victim; --",
        "$$; DROP TABLE victim; $$",
        "%s %I %L %1$s",
        "back\\slash\\000",
        "new\nline\t",
        "@extschema@",
        "select",
        "\u{444}\u{43b}\u{430}\u{433}\u{43e}\u{432}\u{44b}\u{439}_\u{430}\u{434}\u{440}\u{435}\u{441}",
        &long,
        &wide,
    ];
    for name in names {
        for kind in ["inet", "varchar(61)"] {
            let mut db = database();
            let q = quoted(name);
            let table = format!("{q}.{q}");
            let rel = format!("'{}'::regclass", table.replace('\'', "''"));
            let literal = format!("'{}'", name.replace('\'', "''"));
            // The name of the time column, one letter longer than that of the address.
            let time = if name.len() == 63 { format!("t{}", &name[1..]) } else { format!("{name}t") };
            let (tq, time_literal) = (quoted(&time), format!("'{}'", time.replace('\'', "''")));
            db.run(&format!(
                "CREATE TABLE victim (id int); CREATE SCHEMA {q};
                 CREATE TABLE {table} (id int PRIMARY KEY, {q} {kind}, {tq} timestamptz DEFAULT '2024-05-01');
                 INSERT INTO {table} (id, {q}) VALUES (1, '8.8.8.8'), (2, '1.1.1.1')"
            ));
            db.run("SET standard_conforming_strings = on");
            db.run(&format!("SELECT enrich.attach_session_table({rel}, {literal}, {time_literal})"));
            assert_eq!(
                db.one(&format!(
                    "SELECT rel = {rel} AND ip_column = {literal} AND time_column = {time_literal} AND is_intact
                     FROM enrich.attached_tables"
                )),
                "t",
                "{name}"
            );
            db.run(&format!("INSERT INTO {table} (id, {q}) VALUES (3, '8.8.8.8')"));
            db.run(&format!("CALL enrich.backfill_sessions({rel})"));
            assert_eq!(
                db.one(&format!("SELECT count(*) FROM {table} WHERE snapshot_asn IS NULL")),
                "0",
                "{name}"
            );
            db.run(&format!("SELECT enrich.set_session_priority({rel}, 's.id')"));
            db.run(&format!("SELECT enrich.index_session_table({rel})"));
            assert_eq!(
                db.one(&format!("SELECT count(*) FROM enrich.campaign_networks({rel})")),
                "2",
                "{name}"
            );
            if kind == "inet" {
                db.run(&format!("CALL enrich.add_session_foreign_key({rel})"));
                assert_eq!(db.one("SELECT has_foreign_key FROM enrich.attached_tables"), "t", "{name}");
            }
            db.run("SELECT * FROM enrich.enrich_metrics; SELECT enrich.prometheus_metrics(), enrich.status_json()");
            assert_counts_are_exact(&mut db, &[(&table, &q)]);
            assert_eq!(
                db.one("SELECT min(first_seen) = '2024-05-01' FROM enrich.ip_inventory"),
                "t",
                "{name}: the time column was not read"
            );
            db.run(&format!("SELECT enrich.detach_session_table({rel})"));
            assert_eq!(
                db.one(&format!(
                    "SELECT (SELECT count(*) FROM pg_trigger WHERE tgrelid = {rel}),
                            (SELECT count(*) FROM pg_index
                             WHERE indrelid = {rel} AND indkey[0] = 0 AND indpred IS NOT NULL)"
                )),
                "0|0",
                "{name}: something was left"
            );
            db.run("SELECT FROM victim");
        }
    }
}

/// Creates an attached table of the role, with sessions that lack their snapshot.
fn old_sessions(db: &mut Database<'_>, role: &str, theirs: &mut Session) {
    theirs.run(
        "CREATE TABLE s (id int PRIMARY KEY, ip text, note text);
         INSERT INTO s SELECT n, '8.8.8.' || n FROM generate_series(1, 20) n",
    );
    db.run("SELECT enrich.attach_session_table('theirs.s', 'ip')");
    db.run(&format!("GRANT USAGE ON SCHEMA enrich TO {role}"));
}

#[test]
fn forced_row_level_security_is_named_where_it_hides_sessions_from_their_owner() {
    let mut db = database();
    let (role, mut theirs) = tenant(&mut db);
    old_sessions(&mut db, &role, &mut theirs);
    theirs.run(
        "ALTER TABLE s ENABLE ROW LEVEL SECURITY;
         CREATE POLICY few ON s USING (id <= 5)",
    );
    // Without FORCE the owner sees everything.
    let said = db.notices("CALL enrich.backfill_sessions('theirs.s')");
    assert!(said.contains("sessions_completed 20, held 0"), "{said}");
    assert!(!said.contains("row-level security"), "{said}");
    theirs.run("ALTER TABLE s FORCE ROW LEVEL SECURITY");
    db.run("ALTER TABLE theirs.s DISABLE TRIGGER ALL; UPDATE theirs.s SET snapshot_asn = NULL; ALTER TABLE theirs.s ENABLE TRIGGER ALL");
    let said = db.notices("CALL enrich.backfill_sessions('theirs.s')");
    assert!(said.contains("sessions_completed 5, held 15"), "{said}");
    assert_eq!(
        said.matches("forced row-level security of theirs.s can hide sessions from the table owner").count(),
        1,
        "{said}"
    );
    assert!(said.contains("NO FORCE ROW LEVEL SECURITY"), "{said}");
    // Counts include all sessions. Policies do not change them.
    assert_counts_are_exact(&mut db, &[("theirs.s", "ip")]);
    theirs.run("ALTER TABLE s NO FORCE ROW LEVEL SECURITY");
    let said = db.notices("CALL enrich.backfill_sessions('theirs.s')");
    assert!(said.contains("sessions_completed 15, held 0"), "{said}");
}

#[test]
fn policies_decide_what_a_reader_sees_of_campaigns_and_not_what_is_counted() {
    let mut db = database();
    let (role, mut theirs) = tenant(&mut db);
    old_sessions(&mut db, &role, &mut theirs);
    db.run("CALL enrich.backfill_sessions('theirs.s')");
    let reader = format!("reader_{role}");
    theirs.run("ALTER TABLE s ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON s FOR SELECT USING (id <= 5)");
    db.run(&format!(
        "DROP ROLE IF EXISTS {reader}; CREATE ROLE {reader} LOGIN; GRANT USAGE ON SCHEMA enrich, theirs TO {reader};
         GRANT SELECT, INSERT, DELETE ON theirs.s TO {reader};
         CREATE POLICY add ON theirs.s FOR INSERT WITH CHECK (id > 100);
         CREATE POLICY take ON theirs.s FOR DELETE USING (id <= 3);
         GRANT SELECT ON enrich.attached_tables TO {reader};
         GRANT EXECUTE ON FUNCTION enrich.campaign_networks(regclass, text, text), enrich.campaign_query(regclass, text, text) TO {reader}"
    ));
    let mut session = db.session_as(&reader);
    assert_eq!(session.one("SELECT sum(sessions) FROM enrich.campaign_networks('theirs.s')"), "5");
    assert_eq!(session.refused("INSERT INTO theirs.s (id, ip) VALUES (50, '1.1.1.1')").code, "42501");
    session.run("INSERT INTO theirs.s (id, ip) VALUES (101, '1.1.1.1')");
    session.run("DELETE FROM theirs.s");
    assert_eq!(db.one("SELECT count(*) FROM theirs.s"), "18");
    assert_counts_are_exact(&mut db, &[("theirs.s", "ip")]);
}

#[test]
fn casts_of_types_that_came_after_attaching_never_run_as_the_reader() {
    let mut db = database();
    let (_, mut theirs) = tenant(&mut db);
    theirs.run("CREATE TABLE s (id int, ip text, at timestamptz)");
    db.run("SELECT enrich.attach_session_table('theirs.s', 'ip', 'at'); INSERT INTO theirs.s VALUES (1, '8.8.8.8', now())");
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    theirs.run(
        "CREATE TYPE evil AS ENUM ('x');
         CREATE FUNCTION to_text(evil) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM trap.visited(); RETURN '8.8.8.8'; END$$;
         CREATE FUNCTION to_inet(evil) RETURNS inet LANGUAGE plpgsql AS $$BEGIN PERFORM trap.visited(); RETURN '8.8.8.8'; END$$;
         CREATE FUNCTION to_time(evil) RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN PERFORM trap.visited(); RETURN now(); END$$;
         CREATE FUNCTION to_number(evil) RETURNS bigint LANGUAGE plpgsql AS $$BEGIN PERFORM trap.visited(); RETURN 1; END$$;
         CREATE CAST (evil AS text) WITH FUNCTION to_text(evil) AS IMPLICIT;
         CREATE CAST (evil AS inet) WITH FUNCTION to_inet(evil) AS IMPLICIT;
         CREATE CAST (evil AS timestamptz) WITH FUNCTION to_time(evil) AS IMPLICIT;
         CREATE CAST (evil AS bigint) WITH FUNCTION to_number(evil) AS IMPLICIT;
         SELECT to_text('x')",
    );
    assert!(hostile::is_armed(&mut db));
    for column in ["ip", "at", "snapshot_asn", "snapshot_country", "snapshot_ip_type"] {
        theirs.run(&format!(
            "ALTER TABLE s RENAME {column} TO kept; ALTER TABLE s ADD {column} evil DEFAULT 'x'"
        ));
        assert_eq!(
            db.one("SELECT is_intact FROM enrich.attached_tables WHERE rel = 'theirs.s'::regclass"),
            "f"
        );
        for call in ["campaign_networks", "campaign_query"] {
            let refusal = db.refused(&format!("SELECT * FROM enrich.{call}('theirs.s')"));
            assert_eq!(refusal.code, "42804", "{column}: {refusal:?}");
        }
        db.run("INSERT INTO theirs.s (id) VALUES (2); UPDATE theirs.s SET id = 3; DELETE FROM theirs.s WHERE id = 2");
        let _ = db.try_run("CALL enrich.backfill_sessions('theirs.s')");
        let _ = db.try_run("SELECT enrich.index_session_table('theirs.s')");
        db.run("CALL enrich.refresh_session_counts()");
        assert!(!hostile::is_sprung(&mut db), "a cast of {column}'s ran as somebody else");
        theirs.run(&format!("ALTER TABLE s DROP {column}; ALTER TABLE s RENAME kept TO {column}"));
    }
}

/// A race: the columns change between the check and the reading.
#[test]
fn columns_cannot_change_while_the_reader_waits_for_the_table() {
    let mut db = database();
    let (_, mut theirs) = tenant(&mut db);
    theirs.run("CREATE TABLE s (id int, ip text)");
    db.run(
        "SELECT enrich.attach_session_table('theirs.s', 'ip'); INSERT INTO theirs.s VALUES (1, '8.8.8.8')",
    );
    theirs.run(
        "CREATE TYPE evil AS ENUM ('x');
         CREATE FUNCTION to_text(evil) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM trap.visited(); RETURN '8.8.8.8'; END$$;
         CREATE CAST (evil AS text) WITH FUNCTION to_text(evil) AS IMPLICIT;
         BEGIN; ALTER TABLE s RENAME ip TO kept; ALTER TABLE s ADD ip evil DEFAULT 'x'",
    );
    let mut reader = db.another();
    let pid = reader.backend_pid();
    let reading =
        std::thread::spawn(move || reader.try_rows("SELECT * FROM enrich.campaign_networks('theirs.s')"));
    server_tests::wait_until(
        "the reader waits for the table",
        || db.one(&format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted")),
        |waiting| waiting == "1",
    );
    theirs.run("COMMIT");
    let refusal = reading.join().expect("the reader ends").expect_err("it is refused");
    assert_eq!(refusal.code, "42804", "{refusal:?}");
    assert!(!hostile::is_sprung(&mut db), "a cast ran as the reader");
}

#[test]
fn triggers_that_raise_swallow_rewrite_and_recurse_leave_exact_counts() {
    let mut db = database();
    db.run("CREATE TABLE s (id serial PRIMARY KEY, ip text, depth int DEFAULT 0); SELECT enrich.attach_session_table('s', 'ip')");
    db.run(
        "CREATE FUNCTION raise_it() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             IF NEW.ip LIKE '%.66' THEN RAISE 'no'; END IF; RETURN NEW; END$$;
         CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             IF NEW.ip LIKE '%.77' THEN RETURN NULL; END IF; RETURN NEW; END$$;
         CREATE FUNCTION rewrite() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             IF NEW.ip LIKE '%.88' THEN NEW.ip := '1.1.1.1'; NEW.snapshot_asn := 666; END IF; RETURN NEW; END$$;
         CREATE FUNCTION recurse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             IF NEW.depth > 0 THEN
                 INSERT INTO s (ip, depth) VALUES (NEW.ip, NEW.depth - 1);
                 UPDATE s SET ip = '8.8.8.9' WHERE id = NEW.id;
                 DELETE FROM s WHERE id = NEW.id AND NEW.depth % 3 = 0;
             END IF; RETURN NULL; END$$;",
    );
    for (timing, function, name) in [
        ("BEFORE INSERT OR UPDATE", "raise_it", "aa"),
        ("AFTER INSERT OR UPDATE", "raise_it", "zzzz"),
        ("BEFORE INSERT OR UPDATE", "swallow", "aa"),
        // Fires after the extension's trigger, so its result is stored.
        ("BEFORE INSERT OR UPDATE", "swallow", "zzzz"),
        ("BEFORE INSERT OR UPDATE", "rewrite", "aa"),
        ("BEFORE INSERT OR UPDATE", "rewrite", "zzzz"),
        ("AFTER INSERT", "recurse", "aa"),
        ("AFTER INSERT", "recurse", "zzzz"),
        ("CONSTRAINT", "raise_it", "zzzz"),
        ("CONSTRAINT", "recurse", "aa"),
    ] {
        let create = if timing == "CONSTRAINT" {
            format!(
                "CREATE CONSTRAINT TRIGGER {name} AFTER INSERT ON s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {function}()"
            )
        } else {
            format!("CREATE TRIGGER {name} {timing} ON s FOR EACH ROW EXECUTE FUNCTION {function}()")
        };
        db.run(&create);
        for ip in ["8.8.8.1", "8.8.8.66", "8.8.8.77", "8.8.8.88"] {
            let _ = db.try_run(&format!("INSERT INTO s (ip, depth) VALUES ('{ip}', 5)"));
            let _ = db.try_run(&format!("INSERT INTO s (ip) VALUES ('8.8.4.4'), ('{ip}'), ('not an ip')"));
            let _ = db.try_run(&format!(
                "DO $$BEGIN INSERT INTO s (ip) VALUES ('1.1.1.2');
                     BEGIN INSERT INTO s (ip, depth) VALUES ('{ip}', 3); EXCEPTION WHEN OTHERS THEN NULL; END; END$$"
            ));
            let _ = db.try_run(&format!("UPDATE s SET ip = '{ip}' WHERE id % 3 = 0"));
        }
        db.run(&format!("DROP TRIGGER {name} ON s"));
        assert_counts_are_exact(&mut db, &[("s", "ip")]);
    }
    // A view before the table.
    db.run(
        "CREATE VIEW v AS SELECT id, ip FROM s;
         CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             IF NEW.ip = '' THEN RAISE 'no'; END IF; INSERT INTO s (ip) VALUES (NEW.ip), (NEW.ip); RETURN NEW; END$$;
         CREATE TRIGGER i INSTEAD OF INSERT ON v FOR EACH ROW EXECUTE FUNCTION instead();
         INSERT INTO v (ip) VALUES ('8.8.8.8')",
    );
    assert_eq!(db.refused("INSERT INTO v (ip) VALUES ('8.8.8.8'), ('')").code, "P0001");
    db.run(
        "CREATE TABLE log (ip text); CREATE RULE copy AS ON INSERT TO log DO ALSO INSERT INTO s (ip) VALUES (NEW.ip);
         CREATE RULE keep AS ON DELETE TO s WHERE OLD.id % 2 = 0 DO INSTEAD UPDATE s SET ip = '1.1.1.1' WHERE id = OLD.id;
         INSERT INTO log VALUES ('9.9.9.9'), ('8.8.8.8'); DELETE FROM s WHERE id % 3 = 0",
    );
    assert_counts_are_exact(&mut db, &[("s", "ip")]);
}

/// Code of a table owner that runs when the extension writes the table with the owner's rights. The code tries to get
/// more rights.
const ESCAPES: &str = r#"
    CREATE TABLE ran (place text, as_who name, session name, tried text, answer text);
    CREATE FUNCTION try_all(place text) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        attempt text;
    BEGIN
        PERFORM trap.visited();
        PERFORM pg_advisory_unlock_all();
        FOREACH attempt IN ARRAY ARRAY['SET ROLE postgres', 'RESET ROLE', 'SET SESSION AUTHORIZATION postgres',
            'RESET SESSION AUTHORIZATION', 'SET ROLE NONE', 'RESET ALL', 'DISCARD ALL', 'COMMIT', 'SET search_path = theirs',
            'SET LOCAL session_replication_role = origin', 'SELECT set_config(''role'', ''postgres'', false)',
            'DELETE FROM enrich.ip_inventory', 'SET cowrie_enrich.worker_enabled = off',
            'CREATE TEMP TABLE pg_temp_thing (id int)', 'LISTEN x', 'ALTER ROLE postgres PASSWORD ''x'''] LOOP
            BEGIN
                EXECUTE attempt;
                INSERT INTO theirs.ran VALUES (place, current_user, session_user, attempt, 'done as ' || current_user);
            EXCEPTION WHEN OTHERS THEN
                INSERT INTO theirs.ran VALUES (place, current_user, session_user, attempt, sqlstate);
            END;
        END LOOP;
    END $$;
    CREATE FUNCTION on_row() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM theirs.try_all(TG_NAME); RETURN NEW; END $$;
    CREATE FUNCTION check_it(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
        BEGIN PERFORM trap.visited(); RETURN true; END $$;
    CREATE FUNCTION check_all(text) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN PERFORM theirs.try_all('check'); RETURN true; END $$;
"#;

#[test]
fn what_an_owner_put_on_their_table_runs_as_them_where_a_backfill_writes_it() {
    let mut db = database();
    let (role, mut theirs) = tenant(&mut db);
    old_sessions(&mut db, &role, &mut theirs);
    theirs.run(ESCAPES);
    theirs.run(
        "CREATE TRIGGER before_row BEFORE UPDATE ON s FOR EACH ROW EXECUTE FUNCTION on_row();
         CREATE TRIGGER after_row AFTER UPDATE ON s FOR EACH ROW EXECUTE FUNCTION on_row();
         ALTER TABLE s ENABLE ALWAYS TRIGGER before_row; ALTER TABLE s ENABLE ALWAYS TRIGGER after_row;
         ALTER TABLE s ADD CHECK (check_all(note));
         ALTER TABLE s ADD generated text GENERATED ALWAYS AS (CASE WHEN theirs.check_it(ip) THEN 'x' END) STORED;
         CREATE INDEX ON s ((check_it(snapshot_country)));
         CREATE INDEX ON s (id) WHERE check_it(note);
         CREATE STATISTICS st ON (check_it(note)), id FROM s",
    );
    db.run("DELETE FROM theirs.ran");
    let said = db.notices("CALL enrich.backfill_sessions('theirs.s')");
    assert!(said.contains("sessions_completed 20"), "{said}");
    assert!(hostile::is_armed(&mut db), "none of it ran");
    assert!(!hostile::is_sprung(&mut db), "some of it ran as somebody else");
    assert_eq!(db.rows(&format!("SELECT DISTINCT as_who FROM theirs.ran WHERE as_who <> '{role}'")), [""; 0]);
    let done = db.rows("SELECT DISTINCT tried, answer FROM theirs.ran WHERE answer LIKE 'done%' ORDER BY 1");
    // Settings that this code changes apply to the code only, and are restored when it returns.
    let harmless = ["SET search_path = theirs", "RESET ALL"].map(|what| format!("{what}|done as {role}"));
    assert!(done.iter().all(|row| harmless.contains(row)), "{done:?}");
    for place in ["before_row", "after_row", "check"] {
        assert_ne!(
            db.one(&format!("SELECT count(*) FROM theirs.ran WHERE place = '{place}'")),
            "0",
            "{place}"
        );
    }
    // If a superuser writes the table, PostgreSQL runs this code as the superuser. This test does not cover that
    // case.
    assert_counts_are_exact(&mut db, &[("theirs.s", "ip")]);
}

#[test]
fn a_table_that_changed_hands_is_written_as_its_new_owner() {
    let mut db = database();
    let (role, mut theirs) = tenant(&mut db);
    old_sessions(&mut db, &role, &mut theirs);
    let heir = format!("heir_{role}");
    db.run(&format!(
        "DROP ROLE IF EXISTS {heir}; CREATE ROLE {heir} LOGIN; GRANT USAGE, CREATE ON SCHEMA theirs TO {heir}"
    ));
    theirs.run(
        "CREATE TABLE ran (as_who name); GRANT INSERT ON ran TO PUBLIC;
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO theirs.ran VALUES (current_user); RETURN NEW; END$$;
         CREATE TRIGGER n BEFORE UPDATE ON s FOR EACH ROW EXECUTE FUNCTION note(); ALTER TABLE s ENABLE ALWAYS TRIGGER n",
    );
    db.run(&format!("ALTER TABLE theirs.s OWNER TO {heir}"));
    let mut session = db.session_as(&role);
    db.run(&format!(
        "GRANT USAGE ON SCHEMA enrich TO {role}; GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA enrich TO {role}"
    ));
    assert_eq!(session.refused("CALL enrich.backfill_sessions('theirs.s')").code, "42501");
    // The trigger's function still belongs to the former owner. It does not run as the new owner, unless that is
    // allowed.
    db.run("CALL enrich.backfill_sessions('theirs.s')");
    assert_eq!(db.rows("SELECT DISTINCT as_who FROM theirs.ran"), [""; 0]);
    db.run("SELECT enrich.set_session_table_options('theirs.s', true, NULL)");
    db.run("CALL enrich.backfill_sessions('theirs.s')");
    assert_eq!(db.rows("SELECT DISTINCT as_who FROM theirs.ran"), [heir]);
    assert_counts_are_exact(&mut db, &[("theirs.s", "ip")]);
}

#[test]
fn an_event_trigger_that_raises_leaves_a_table_unattached() {
    let mut db = database();
    db.run(
        "CREATE TABLE s (id int, source_ip inet);
         CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN
             IF TG_TAG = 'CREATE INDEX' THEN RAISE 'no'; END IF; END$$;
         CREATE EVENT TRIGGER no ON ddl_command_end EXECUTE FUNCTION no()",
    );
    assert_eq!(db.refused("SELECT enrich.attach_session_table('s')").code, "P0001");
    assert_eq!(
        db.one("SELECT count(*) FROM pg_attribute WHERE attrelid = 's'::regclass AND attnum > 0"),
        "2"
    );
    assert_eq!(db.one("SELECT count(*) FROM enrich.attached_tables"), "0");
    db.run(
        "DROP EVENT TRIGGER no; SELECT enrich.attach_session_table('s'); INSERT INTO s VALUES (1, '8.8.8.8')",
    );
    assert_counts_are_exact(&mut db, &[("s", "source_ip")]);
}
