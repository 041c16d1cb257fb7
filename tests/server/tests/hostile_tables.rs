//! Session tables and transactions that are difficult by intent or by accident. Each test covers a fault that a review
//! found.

use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, database, wait_until};

const SESSIONS: &str = "CREATE TABLE s (id serial PRIMARY KEY, source_ip inet, day date, host text);
                        SELECT enrich.attach_session_table('s', 'source_ip', 'day')";

fn attached() -> Database<'static> {
    let mut db = database();
    db.run(SESSIONS);
    db
}

#[test]
fn a_tables_owner_cannot_have_truncate_run_their_code_as_the_extensions_owner() {
    let mut db = database();
    let role = format!("honeypot_{}", db.name);
    db.run(&format!(
        "CREATE ROLE {role} LOGIN; CREATE SCHEMA hp AUTHORIZATION {role};
         CREATE TABLE hp.sessions (id int, ip text); ALTER TABLE hp.sessions OWNER TO {role};
         SELECT enrich.attach_session_table('hp.sessions', 'ip');
         SET SESSION AUTHORIZATION {role};
         ALTER TABLE hp.sessions RENAME ip TO ip_old;
         CREATE TYPE hp.evil AS ENUM ('x');
         CREATE TABLE hp.ran_as (who name);
         CREATE FUNCTION hp.evil(hp.evil) RETURNS inet LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO hp.ran_as VALUES (current_user); RETURN '1.2.3.4'; END$$;
         CREATE CAST (hp.evil AS inet) WITH FUNCTION hp.evil(hp.evil) AS IMPLICIT;
         ALTER TABLE hp.sessions ADD ip hp.evil DEFAULT 'x';
         INSERT INTO hp.sessions (id) VALUES (1);
         TRUNCATE hp.sessions;
         RESET SESSION AUTHORIZATION"
    ));
    assert_eq!(db.rows("SELECT who FROM hp.ran_as"), [""; 0]);
    db.run(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"));
}

#[test]
fn a_snapshot_column_of_another_type_is_left_alone() {
    let mut db = attached();
    for (column, kind) in [
        ("snapshot_asn", "text"),
        ("snapshot_country", "int"),
        ("enrichment", "xml"),
        ("enrichment_at", "text"),
    ] {
        db.run(&format!("ALTER TABLE s RENAME {column} TO old_{column}; ALTER TABLE s ADD {column} {kind}"));
        db.run("INSERT INTO s (source_ip) VALUES ('8.8.8.8')");
        assert_eq!(db.one(&format!("SELECT {column} FROM s ORDER BY id DESC LIMIT 1")), "NULL", "{column}");
    }
    assert_ne!(db.one("SELECT errors FROM enrich.enrich_stats()"), "0");
}

#[test]
fn a_value_that_its_column_would_not_take_is_left_out() {
    let mut db = database();
    db.run(
        "CREATE TABLE s (id int, source_ip inet, snapshot_country varchar(1));
         SELECT enrich.attach_session_table('s');
         INSERT INTO s VALUES (1, '8.8.8.8')",
    );
    assert_eq!(db.one("SELECT snapshot_country, snapshot_asn FROM s"), "NULL|15169");
}

#[test]
fn a_commit_does_not_wait_for_an_open_transaction_that_creates_the_same_network() {
    let mut db = attached();
    let mut idle = db.another();
    idle.run("BEGIN; SELECT enrich.enrich_ip('8.8.8.8')");
    let mut other = db.another();
    let insert = std::thread::spawn(move || other.run("INSERT INTO s (source_ip) VALUES ('8.8.8.9')"));
    wait_until("the insert has returned", || insert.is_finished(), |finished| *finished);
    insert.join().expect("the insert succeeded");
    idle.run("COMMIT");
    assert_counts_are_exact(&mut db, &[("s", "source_ip")]);
    assert_eq!(db.one("SELECT current_asn FROM enrich.ip_inventory WHERE ip_address = '8.8.8.9'"), "15169");
}

#[test]
fn the_extension_can_be_dropped_by_the_transaction_that_inserted() {
    let mut db = attached();
    db.run(
        "BEGIN; INSERT INTO s (source_ip) VALUES ('8.8.8.8'); DROP EXTENSION cowrie_enrich CASCADE; COMMIT",
    );
    assert_eq!(db.one("SELECT count(*) FROM s"), "1");
}

#[test]
fn a_time_that_timestamptz_cannot_hold_loses_no_session() {
    let mut db = attached();
    db.run("INSERT INTO s (source_ip, day) VALUES ('8.8.8.8', '5874897-12-31')");
    assert_counts_are_exact(&mut db, &[("s", "source_ip")]);
    assert_eq!(db.one("SELECT first_seen, last_seen FROM enrich.ip_inventory"), "NULL|NULL", "it is unknown");
}

#[test]
fn an_answer_that_changed_during_a_transaction_is_not_remembered_after_it() {
    let mut db = attached();
    let mut other = db.another();
    db.run("INSERT INTO s (source_ip) VALUES ('8.8.8.8'), ('1.1.1.1')");
    db.run("BEGIN; INSERT INTO s (source_ip) VALUES ('8.8.8.8')");
    other.run(
        "UPDATE enrich.ip_inventory SET enrichment = enrichment || '{\"spur\": {\"tunnels\": [{\"type\": \"VPN\"}]}}'
         WHERE ip_address = '8.8.8.8'",
    );
    db.run("INSERT INTO s (source_ip) VALUES ('1.1.1.1'); COMMIT");
    db.run("INSERT INTO s (source_ip) VALUES ('8.8.8.8')");
    assert_eq!(db.one("SELECT snapshot_ip_type FROM s ORDER BY id DESC LIMIT 1"), "VPN");
}

#[test]
fn serializable_sessions_do_not_fail_each_other() {
    let mut db = attached();
    db.run("ALTER SEQUENCE s_id_seq INCREMENT 1 CACHE 1");
    let mut other = db.another();
    for round in 0..40 {
        for (session, net) in [(&mut *db, 16), (&mut other, 17)] {
            session.run(&format!(
                "BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO s (id, source_ip) VALUES ({}, '9.{net}.0.{round}')",
                1000 * net + round
            ));
        }
        db.run("COMMIT");
        other.run("COMMIT");
    }
    assert_counts_are_exact(&mut db, &[("s", "source_ip")]);
    assert_eq!(db.one("SELECT count(*) FROM enrich.ip_inventory"), "80");
}

#[test]
fn a_session_may_be_deleted_and_stored_again_under_the_foreign_key() {
    let mut db = database();
    db.run(
        "CREATE TABLE f (id int PRIMARY KEY, source_ip inet);
         INSERT INTO f VALUES (1, '8.8.8.8');
         SELECT enrich.attach_session_table('f', add_foreign_key => true);
         BEGIN; DELETE FROM f WHERE id = 1; INSERT INTO f VALUES (2, '8.8.8.8'); COMMIT",
    );
    assert_eq!(db.one("SELECT count(*) FROM enrich.ip_inventory"), "1");
}

#[test]
fn an_address_that_the_users_own_trigger_changes_is_followed() {
    let mut db = attached();
    db.run(
        "CREATE FUNCTION resolve() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN NEW.source_ip := NEW.host::inet; RETURN NEW; END$$;
         CREATE TRIGGER resolve BEFORE UPDATE ON s FOR EACH ROW EXECUTE FUNCTION resolve();
         INSERT INTO s (host) VALUES ('nobody');
         UPDATE s SET host = '8.8.8.8'",
    );
    assert_eq!(db.one("SELECT snapshot_asn, snapshot_country FROM s"), "15169|US");
    assert_counts_are_exact(&mut db, &[("s", "source_ip")]);
}

#[test]
fn deferred_triggers_on_the_inventories_fire_for_rows_that_sessions_create() {
    let mut db = attached();
    db.run(
        "CREATE TABLE told (ip inet);
         CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
             $$BEGIN INSERT INTO public.told VALUES (NEW.ip_address); RETURN NULL; END$$;
         CREATE CONSTRAINT TRIGGER tell AFTER INSERT ON enrich.ip_inventory DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION tell();
         INSERT INTO s (source_ip) VALUES ('8.8.8.8')",
    );
    assert_eq!(db.rows("SELECT ip FROM told"), ["8.8.8.8"]);
}

#[test]
fn a_column_that_is_gone_is_an_error_counted_and_not_an_insert_lost() {
    let mut db = attached();
    let before = db.number("SELECT errors FROM enrich.enrich_stats()");
    db.run("ALTER TABLE s RENAME source_ip TO peer; INSERT INTO s (peer) VALUES ('8.8.8.8')");
    assert_eq!(db.one("SELECT count(*) FROM s"), "1");
    assert!(db.number("SELECT errors FROM enrich.enrich_stats()") > before);
}

#[test]
fn truncate_of_a_partitioned_table_takes_its_sessions_out_of_the_counts() {
    let mut db = database();
    db.run(
        "CREATE TABLE p (id int, source_ip text) PARTITION BY LIST (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
         SELECT enrich.attach_session_table('p');
         INSERT INTO p VALUES (1, '8.8.8.8'), (2, '8.8.8.8'), (2, '1.1.1.1');
         TRUNCATE p; INSERT INTO p VALUES (1, '8.8.8.8')",
    );
    assert_counts_are_exact(&mut db, &[("p", "source_ip")]);
}
