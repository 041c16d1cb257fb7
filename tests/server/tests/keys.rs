//! Foreign keys to tables of the extension. PostgreSQL checks a key with the rights of the referenced table's owner,
//! and may call an implicit cast of another role. So no role may create such a key by hand, and existing keys are
//! listed.

use server_tests::cluster::Options;
use server_tests::cymru::{Lab, worker_pid};
use server_tests::database::{bare_database, create_extension_as};
use server_tests::documentation::grants;
use server_tests::hosts::COWRIE;
use server_tests::installation::installation;
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, Session, database, shared, wait_until};

/// A role that owns a schema and session tables in it, with the documented grants.
struct Tenant {
    role: String,
    schema: String,
    session: Session,
}

fn tenant(db: &mut Database<'_>, name: &str) -> Tenant {
    let role = format!("{}_{}", db.own_name(&format!("keys_{name}")), std::process::id());
    let schema = format!("of_{name}");
    db.run(&format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; CREATE SCHEMA {schema} AUTHORIZATION {role}"
    ));
    db.run(&grants("docs/security.md", "honeypot_tables", &role));
    let mut session = db.session_as(&role);
    session.run(&format!("SET search_path = {schema}"));
    Tenant { role, schema, session }
}

impl Tenant {
    /// A type with an implicit cast to inet that makes its owner a superuser, if it runs as a superuser.
    fn create_evil_type(&mut self) {
        let role = &self.role;
        self.session.run(&format!(
            "CREATE TYPE evil AS ENUM ('a');
             CREATE FUNCTION evil_to_inet(evil) RETURNS inet LANGUAGE plpgsql AS $$
             BEGIN
                 EXECUTE 'ALTER ROLE {role} SUPERUSER';
                 RETURN '8.8.8.8'::inet;
             END $$;
             CREATE CAST (evil AS inet) WITH FUNCTION evil_to_inet(evil) AS IMPLICIT"
        ));
    }

    fn is_superuser(&self, db: &mut Session) -> bool {
        db.one(&format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{}'", self.role)) == "t"
    }

    /// Grants the privilege by mistake, as an administrator might, and revokes it afterwards.
    fn with_references(&mut self, db: &mut Session, work: impl FnOnce(&mut Session)) {
        db.run(&format!("GRANT REFERENCES ON enrich.ip_inventory TO {}", self.role));
        work(&mut self.session);
        db.run(&format!("REVOKE REFERENCES ON enrich.ip_inventory FROM {}", self.role));
    }
}

const LISTED: &str = "SELECT rel, constraint_name, referenced, types, drop_command
                      FROM enrich.unsafe_foreign_keys ORDER BY rel::text, constraint_name";

/// Counts the roles other than the owner that have the privilege REFERENCES.
const REFERENCES: &str = "
    SELECT count(*) FROM (
        SELECT (aclexplode(c.relacl)).*, c.relowner FROM pg_class c WHERE c.oid = 'enrich.ip_inventory'::regclass
        UNION ALL
        SELECT (aclexplode(a.attacl)).*, c.relowner FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.oid = 'enrich.ip_inventory'::regclass) acl
    WHERE acl.privilege_type = 'REFERENCES' AND acl.grantee <> acl.relowner";

#[test]
fn a_cast_of_a_type_of_a_table_owner_never_runs_as_the_owner_of_the_extension() {
    let mut db = database();
    let mut alice = tenant(&mut db, "alice");
    alice.session.run(
        "CREATE TABLE sess (ip text, t timestamptz);
         SELECT enrich.attach_session_table('sess', 'ip', 't');
         INSERT INTO sess (ip, t) VALUES ('8.8.8.8', now())",
    );
    alice.create_evil_type();
    let created =
        alice.session.try_run("CREATE TABLE t (a evil REFERENCES enrich.ip_inventory (ip_address))");
    let _ = alice.session.try_run("INSERT INTO t VALUES ('a')");
    assert!(!alice.is_superuser(&mut db), "the cast ran as the owner of the extension");
    assert_eq!(created.expect_err("nobody may create such a key").code, "42501");
}

#[test]
fn owners_of_tables_create_the_key_without_the_privilege_references() {
    let mut db = database();
    let mut alice = tenant(&mut db, "alice");
    let alice = &mut alice.session;
    alice.run(
        "CREATE TABLE plain (ip inet, t timestamptz);
         CREATE TABLE later (ip inet, t timestamptz);
         CREATE TABLE parts (ip inet, t timestamptz) PARTITION BY RANGE (t);
         CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
         CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY RANGE (t);
         CREATE TABLE part_2a PARTITION OF part_2 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
         SELECT enrich.attach_session_table('plain', 'ip', 't', add_foreign_key => true);
         SELECT enrich.attach_session_table('parts', 'ip', 't', add_foreign_key => true);
         SELECT enrich.attach_session_table('later', 'ip', 't')",
    );
    alice.run("CALL enrich.add_session_foreign_key('later')");
    assert_eq!(db.number(REFERENCES), 0);
    let keys = "SELECT conrelid::regclass FROM pg_constraint
                WHERE contype = 'f' AND confrelid = 'enrich.ip_inventory'::regclass ORDER BY conrelid::regclass::text";
    alice.run("SET search_path = of_alice");
    assert_eq!(alice.rows(keys), ["later", "part_1", "part_2", "part_2a", "parts", "plain"]);
    for table in ["plain", "later", "parts"] {
        alice.run(&format!(
            "INSERT INTO {table} VALUES ('8.8.8.8', '2025-05-01'), ('::ffff:1.1.1.1', '2024-05-01')"
        ));
    }
    // The new partition inherits the foreign key.
    alice.run("CREATE TABLE part_3 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')");
    alice.run("INSERT INTO parts VALUES ('9.9.9.9', '2026-05-01')");
    for address in ["8.8.8.8", "1.1.1.1", "9.9.9.9"] {
        let delete = format!("SELECT enrich.delete_addresses('{{{address}}}')");
        assert_eq!(db.refused(&delete).code, "23503", "{address}");
    }
    assert_counts_are_exact(
        &mut db,
        &[("of_alice.plain", "ip"), ("of_alice.later", "ip"), ("of_alice.parts", "ip")],
    );
    assert_eq!(db.rows(LISTED), [""; 0]);
    for table in ["plain", "later", "parts"] {
        alice.run(&format!("SELECT enrich.detach_session_table('{table}')"));
    }
    assert_eq!(alice.rows(keys), [""; 0]);
}

#[test]
fn a_key_stays_harmless_whatever_its_owner_alters() {
    let mut db = database();
    let mut alice = tenant(&mut db, "alice");
    alice.create_evil_type();
    let role = alice.role.clone();
    let superuser =
        |db: &mut Session| db.one(&format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'"));
    let alice = &mut alice.session;
    alice.run(
        "CREATE DOMAIN address AS inet;
         CREATE TABLE s (ip inet, t timestamptz);
         CREATE TABLE parts (ip inet, t timestamptz) PARTITION BY RANGE (t);
         SELECT enrich.attach_session_table('s', 'ip', 't', add_foreign_key => true);
         SELECT enrich.attach_session_table('parts', 'ip', 't', add_foreign_key => true)",
    );
    let refused = |alice: &mut Session, statement: &str| alice.refused(statement).code;
    // The extension's triggers also prevent a change of the column's type, so they are dropped. Only the foreign key
    // then prevents it.
    for trigger in
        alice.rows("SELECT tgname FROM pg_trigger WHERE tgrelid = 's'::regclass AND NOT tgisinternal")
    {
        alice.run(&format!("DROP TRIGGER \"{trigger}\" ON s"));
    }
    for index in alice.rows("SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 's'::regclass") {
        alice.run(&format!("DROP INDEX {index}"));
    }
    assert_eq!(refused(alice, "ALTER TABLE s ALTER ip TYPE evil USING 'a'"), "42501");
    assert_eq!(refused(alice, "ALTER TABLE s ALTER ip TYPE address"), "42501");
    assert_eq!(refused(alice, "ALTER TABLE s ALTER ip TYPE cidr USING ip::cidr"), "42501");
    // A partition has the types of its table.
    alice.run("CREATE TABLE other (ip evil, t timestamptz)");
    let attach = "ALTER TABLE parts ATTACH PARTITION other FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')";
    assert_eq!(refused(alice, attach), "42804");
    // Keys made by hand, of all kinds.
    let other_keys = [
        "ALTER TABLE other ADD FOREIGN KEY (ip) REFERENCES enrich.ip_inventory (ip_address)",
        "ALTER TABLE other ADD FOREIGN KEY (ip) REFERENCES enrich.ip_inventory (ip_address) NOT VALID",
        "ALTER TABLE other ADD FOREIGN KEY (ip) REFERENCES enrich.ip_inventory ON DELETE CASCADE ON UPDATE SET DEFAULT",
        "CREATE TABLE n (a bigint REFERENCES enrich.asn_inventory)",
        "CREATE TABLE q (p text, d date, FOREIGN KEY (p, d) REFERENCES enrich.provider_quota)",
        "CREATE TABLE k (a bigint REFERENCES enrich.known_networks)",
        "CREATE TABLE l (LIKE s INCLUDING ALL, FOREIGN KEY (ip) REFERENCES enrich.ip_inventory)",
    ];
    for statement in other_keys {
        assert_eq!(refused(alice, statement), "42501", "{statement}");
    }
    if installation().major >= 18 {
        let not_enforced =
            "ALTER TABLE other ADD FOREIGN KEY (ip) REFERENCES enrich.ip_inventory NOT ENFORCED";
        assert_eq!(refused(alice, not_enforced), "42501");
        let period =
            "CREATE TABLE p (a inet, d daterange, FOREIGN KEY (a, PERIOD d) REFERENCES enrich.ip_inventory)";
        assert!(["42501", "42830"].contains(&refused(alice, period).as_str()));
    }
    assert_eq!(db.rows(LISTED), [""; 0]);
    assert_eq!(superuser(&mut db), "f");
}

#[test]
fn a_key_is_created_for_nothing_but_an_address_column_of_the_caller() {
    let mut db = database();
    let mut bob = tenant(&mut db, "bob");
    bob.session.run("CREATE TABLE s (ip inet)");
    let mut alice = tenant(&mut db, "alice");
    alice.create_evil_type();
    let alice = &mut alice.session;
    alice.run(
        "CREATE DOMAIN address AS inet;
         CREATE TABLE s (good inet, kind evil, dom address, net cidr, words text, at timestamptz,
             made inet GENERATED ALWAYS AS ('8.8.8.8'::inet) STORED);
         CREATE VIEW v AS SELECT * FROM s;
         CREATE TABLE parts (ip inet, t timestamptz) PARTITION BY RANGE (t);
         CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
    );
    for (table, column, code) in [
        ("'s'", "'kind'", "42804"),
        ("'s'", "'dom'", "42804"),
        ("'s'", "'net'", "42804"),
        ("'s'", "'words'", "42804"),
        ("'s'", "'made'", "42804"),
        ("'s'", "'missing'", "42703"),
        ("'s'", "'ctid'", "42703"),
        ("'v'", "'good'", "42809"),
        ("'parts'", "'ip'", "55000"),
        ("'of_bob.s'::regclass::oid", "'ip'", "42501"),
        ("0", "'ip'", "42809"),
        ("NULL", "'ip'", "22004"),
        ("'s'", "NULL", "22004"),
    ] {
        let table = table.replace("'of_bob.s'::regclass::oid", &db.one("SELECT 'of_bob.s'::regclass::oid"));
        let refusal = alice.refused(&format!("SELECT enrich.create_address_key({table}, {column})"));
        assert_eq!(refusal.code, code, "{table} {column}: {refusal:?}");
    }
    alice.run("SELECT enrich.create_address_key('s', 'good')");
    assert_eq!(alice.refused("SELECT enrich.create_address_key('s', 'good')").code, "42710");
    // A key that is rolled back leaves nothing behind.
    alice.run("ALTER TABLE s DROP CONSTRAINT cowrie_enrich_address; BEGIN; SAVEPOINT a; SELECT enrich.create_address_key('s', 'good')");
    assert_eq!(alice.refused("CREATE TABLE x (a evil REFERENCES enrich.ip_inventory)").code, "42501");
    alice.run("ROLLBACK TO a; CREATE TABLE y (id int); COMMIT");
    assert_eq!(db.number(REFERENCES), 0);
    assert_eq!(db.number("SELECT count(*) FROM pg_constraint WHERE conname = 'cowrie_enrich_address'"), 0);
}

/// Code of the table's owner that the server runs by itself: during planning, in checks, in policies.
#[test]
fn no_code_of_the_table_owner_runs_while_the_privilege_is_there() {
    let mut db = database();
    let mut alice = tenant(&mut db, "alice");
    db.run(&format!("GRANT SELECT ON enrich.ip_inventory TO {}", alice.role));
    alice.session.run(
        "CREATE TABLE seen (may_reference boolean);
         CREATE FUNCTION note() RETURNS boolean LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO of_alice.seen VALUES (has_column_privilege(current_user, 'enrich.ip_inventory', 'ip_address', 'REFERENCES'));
             RETURN true;
         END $$;
         CREATE FUNCTION look(inet) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN of_alice.note(); END';
         CREATE TABLE plain (ip inet, t timestamptz, CHECK (look('1.1.1.1')));
         CREATE TABLE parts (ip inet, t timestamptz) PARTITION BY RANGE (t);
         CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
         CREATE INDEX ON plain (ip) WHERE look('1.1.1.1');
         CREATE INDEX ON part_1 (ip) WHERE look('1.1.1.1');
         ALTER TABLE part_1 ADD CHECK (look(ip));
         ALTER TABLE plain ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON plain USING (look(ip));
         SELECT enrich.attach_session_table('plain', 'ip', 't');
         SELECT enrich.attach_session_table('parts', 'ip', 't');
         INSERT INTO plain VALUES ('8.8.8.8', now());
         INSERT INTO parts VALUES ('8.8.8.8', '2024-05-01')",
    );
    alice.session.run("TRUNCATE seen");
    for table in ["plain", "parts"] {
        alice.session.run(&format!(
            "SELECT enrich.attach_session_table('{table}', 'ip', 't', add_foreign_key => true)"
        ));
    }
    alice.session.run("CALL enrich.backfill_sessions('plain')");
    alice.session.run("CALL enrich.add_session_foreign_key('plain')");
    assert!(db.number("SELECT count(*) FROM of_alice.seen") > 0, "the function never ran");
    assert_eq!(db.number("SELECT count(*) FROM of_alice.seen WHERE may_reference"), 0);
    let valid = "SELECT bool_and(convalidated) FROM pg_constraint WHERE conname = 'cowrie_enrich_address'";
    assert_eq!(db.one(valid), "t");
    assert_eq!(db.number(REFERENCES), 0);
}

/// An event trigger simulates a concurrent rename: it renames the table between the check of the table and the
/// statement.
#[test]
fn a_table_that_takes_the_name_at_the_last_moment_gets_no_key() {
    let mut db = database();
    let mut alice = tenant(&mut db, "alice");
    alice.create_evil_type();
    alice.session.run("CREATE TABLE s (ip inet); SELECT enrich.attach_session_table('s', 'ip')");
    db.run(
        "CREATE SCHEMA of_mallory; CREATE TABLE of_mallory.s (ip inet);
         CREATE FUNCTION public.swap() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN
             IF current_query() LIKE '%create_address_key%' AND to_regnamespace('of_kept') IS NULL THEN
                 ALTER SCHEMA of_alice RENAME TO of_kept;
                 ALTER SCHEMA of_mallory RENAME TO of_alice;
             END IF;
         END $$",
    );
    db.run(&format!(
        "ALTER TABLE of_mallory.s OWNER TO {0}; ALTER SCHEMA of_mallory OWNER TO {0}",
        alice.role
    ));
    db.run("CREATE EVENT TRIGGER swap ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION public.swap()");
    let refusal = alice.session.refused("SELECT enrich.create_address_key('s', 'ip')");
    db.run("DROP EVENT TRIGGER swap");
    assert_eq!(refusal.code, "42P01", "{refusal:?}");
    assert_eq!(db.number("SELECT count(*) FROM pg_constraint WHERE conname = 'cowrie_enrich_address'"), 0);
    assert_eq!(db.number(REFERENCES), 0);
}

#[test]
fn keys_of_several_tables_are_created_at_the_same_time() {
    let mut db = database();
    let mut alice = tenant(&mut db, "alice");
    for n in 0..4 {
        alice.session.run(&format!("CREATE TABLE s{n} (ip inet)"));
    }
    std::thread::scope(|scope| {
        for n in 0..4 {
            let mut session = db.session_as(&alice.role);
            scope.spawn(move || {
                for _ in 0..10 {
                    session.run(&format!(
                        "SELECT enrich.attach_session_table('of_alice.s{n}', 'ip', add_foreign_key => true)"
                    ));
                    session.run(&format!("INSERT INTO of_alice.s{n} VALUES ('8.8.{n}.8')"));
                }
            });
        }
    });
    assert_eq!(db.number("SELECT count(*) FROM pg_constraint WHERE conname = 'cowrie_enrich_address'"), 4);
    assert_eq!(db.number(REFERENCES), 0);
}

#[test]
fn every_kind_of_unsafe_key_is_listed_and_no_other() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    let mut alice = tenant(&mut db, "alice");
    alice.create_evil_type();
    db.run(
        "CREATE SCHEMA k; CREATE DOMAIN k.address AS inet; CREATE DOMAIN k.number AS bigint;
         SET search_path = k;
         CREATE TABLE safe_1 (a inet REFERENCES enrich.ip_inventory);
         CREATE TABLE safe_2 (a bigint REFERENCES enrich.asn_inventory, b int REFERENCES enrich.asn_inventory);
         CREATE TABLE safe_3 (p text, d date, FOREIGN KEY (p, d) REFERENCES enrich.provider_quota);
         CREATE TABLE a_domain (a address CONSTRAINT k REFERENCES enrich.ip_inventory);
         CREATE TABLE b_network (a number CONSTRAINT k REFERENCES enrich.asn_inventory ON DELETE CASCADE);
         CREATE TABLE c_evil (a of_alice.evil CONSTRAINT k REFERENCES enrich.ip_inventory);
         CREATE TABLE d_parts (a of_alice.evil CONSTRAINT \"any name\" REFERENCES enrich.ip_inventory) PARTITION BY LIST (a);
         CREATE TABLE d_parts_1 PARTITION OF d_parts FOR VALUES IN ('a');
         CREATE TABLE e_several (p text, d date, n k.number, CONSTRAINT k FOREIGN KEY (p, d) REFERENCES enrich.provider_quota,
             CONSTRAINT l FOREIGN KEY (n) REFERENCES enrich.known_networks);
         CREATE TABLE f_not_valid (a cidr);
         ALTER TABLE f_not_valid ADD CONSTRAINT k FOREIGN KEY (a) REFERENCES enrich.ip_inventory NOT VALID",
    );
    let mut listed = vec![
        "a_domain|k|enrich.ip_inventory|{address}|ALTER TABLE a_domain DROP CONSTRAINT k",
        "b_network|k|enrich.asn_inventory|{number}|ALTER TABLE b_network DROP CONSTRAINT k",
        "c_evil|k|enrich.ip_inventory|{of_alice.evil}|ALTER TABLE c_evil DROP CONSTRAINT k",
        "d_parts|any name|enrich.ip_inventory|{of_alice.evil}|ALTER TABLE d_parts DROP CONSTRAINT \"any name\"",
        "d_parts_1|any name|enrich.ip_inventory|{of_alice.evil}|NULL",
        "e_several|l|enrich.known_networks|{number}|ALTER TABLE e_several DROP CONSTRAINT l",
        "f_not_valid|k|enrich.ip_inventory|{cidr}|ALTER TABLE f_not_valid DROP CONSTRAINT k",
    ];
    if installation().major >= 18 {
        db.run(
            "CREATE TABLE g_not_enforced (a of_alice.evil CONSTRAINT k REFERENCES enrich.ip_inventory NOT ENFORCED)",
        );
        listed.push(
            "g_not_enforced|k|enrich.ip_inventory|{of_alice.evil}|ALTER TABLE g_not_enforced DROP CONSTRAINT k",
        );
    }
    let found: Vec<String> = db.rows(LISTED);
    // The name of a partition's own constraint differs between versions.
    let found: Vec<String> = found.iter().map(|row| row.replace("d_parts_a_fkey", "any name")).collect();
    assert_eq!(found, listed);
    // While unsafe keys exist, the extension adds no key of its own.
    db.run("SET search_path = public, enrich; CREATE TABLE public.own (ip inet); SELECT attach_session_table('own', 'ip')");
    let refusal = db.refused("SELECT enrich.create_address_key('own', 'ip')");
    assert_eq!(refusal.code, "55000", "{refusal:?}");
    for command in
        db.rows("SELECT drop_command FROM enrich.unsafe_foreign_keys WHERE drop_command IS NOT NULL")
    {
        db.run(&command.replace("TABLE ", "TABLE k.").replace("k.k.", "k."));
    }
    assert_eq!(db.rows(LISTED), [""; 0]);
}

/// Version 18 also has keys that are not enforced yet: `ALTER CONSTRAINT … ENFORCED` needs no privilege.
#[test]
fn the_worker_stops_while_there_is_an_unsafe_key_and_says_so() {
    let lab =
        Lab::start(Options::named("keys-worker").with_worker().conf("cowrie_enrich.worker_naptime = 100ms"));
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    worker_pid(&mut db);
    let state =
        "SELECT state FROM enrich.worker_status WHERE role = 'worker' AND database = current_database()";
    let metric = "SELECT value FROM enrich.enrich_metrics
                  WHERE name = 'enrich_unsafe_foreign_keys' AND labels ->> 'database' = current_database()";
    wait_until("the worker sleeps", || db.one(state), |state| state == "sleeping");
    wait_until("the metric is there", || db.rows(metric), |value| *value == ["0"]);
    let mut alice = tenant(&mut db, "alice");
    alice.create_evil_type();
    let enforced = if installation().major >= 18 { "NOT ENFORCED" } else { "" };
    alice.with_references(&mut db.another(), |session| {
        session
            .run(&format!("CREATE TABLE t (a evil CONSTRAINT k REFERENCES enrich.ip_inventory {enforced})"));
    });
    wait_until("the worker stops", || db.one(state), |state| state == "stopped by an unsafe foreign key");
    wait_until("the metric says so", || db.rows(metric), |value| *value == ["1"]);
    assert!(lab.cluster.whole_log().contains("found 1 unsafe foreign keys, for example k of of_alice.t"));
    // Sessions are still stored.
    db.run(&COWRIE.insert(&[("a", Some("60.0.1.7"))]));
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "NULL|NULL|NULL");
    let drop = db.one("SELECT drop_command FROM enrich.unsafe_foreign_keys");
    db.run(&drop);
    wait_until(
        "the worker goes on",
        || COWRIE.snapshot(&mut db, "a"),
        |snapshot| !snapshot.starts_with("NULL"),
    );
    wait_until(
        "all is counted",
        || db.number("SELECT count(*) FROM enrich.session_delta"),
        |rows| *rows == 0,
    );
    assert_eq!(db.one(metric), "0");
    // A worker that starts while there is such a key reports it as well.
    lab.reconfigure(&["worker_enabled = off"]);
    alice.with_references(&mut db.another(), |session| {
        session
            .run(&format!("CREATE TABLE t2 (a evil CONSTRAINT k REFERENCES enrich.ip_inventory {enforced})"));
    });
    lab.reconfigure(&["worker_enabled = on"]);
    let states = format!("SELECT coalesce(({state}), '')");
    wait_until("it stops at once", || db.one(&states), |state| state == "stopped by an unsafe foreign key");
    assert!(!alice.is_superuser(&mut db));
    lab.assert_nothing_crashed();
}

/// The administrator has granted the privilege in spite of the documentation.
#[test]
fn in_the_documented_set_up_an_unsafe_key_gives_no_more_than_the_rights_of_the_owner() {
    let mut db = bare_database(shared());
    let owner = format!("keys_owner_{}", std::process::id());
    db.run(&format!("DROP ROLE IF EXISTS {owner}; CREATE ROLE {owner} NOLOGIN"));
    create_extension_as(&mut db, &owner);
    // The cast is called for each existing row.
    db.run("SELECT enrich.enrich_ip('8.8.8.8')");
    let mut alice = tenant(&mut db, "alice");
    alice.create_evil_type();
    alice.with_references(&mut db.another(), |session| {
        session.run("CREATE TABLE t (a evil REFERENCES enrich.ip_inventory)");
    });
    let refusal = alice.session.refused("INSERT INTO t VALUES ('a')");
    assert_eq!(refusal.code, "42501", "{refusal:?}");
    assert!(!alice.is_superuser(&mut db));
    // The code did run, as that owner.
    alice.session.run(
        "CREATE OR REPLACE FUNCTION evil_to_inet(evil) RETURNS inet LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'runs as %', current_user; END $$",
    );
    assert_eq!(alice.session.refused("INSERT INTO t VALUES ('a')").message, format!("runs as {owner}"));
}

/// When a row of `ip_inventory` is deleted, the server checks the foreign keys of session tables. The session that
/// deletes plans this check with the rights of the session table's owner.
#[test]
fn deleting_an_address_leaves_nothing_of_a_table_owner_to_run_as_whoever_deletes() {
    let mut db = database();
    let mut alice = tenant(&mut db, "alice");
    alice.session.run(
        "CREATE TABLE loot (who text); GRANT USAGE ON SCHEMA of_alice TO public; GRANT INSERT ON loot TO public;
         CREATE FUNCTION steal() RETURNS bigint LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO of_alice.loot VALUES (current_user); RETURN 1; END $$;
         CREATE FUNCTION prepare() RETURNS boolean LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO of_alice.loot VALUES (current_user);
             IF NOT EXISTS (SELECT FROM pg_cursors WHERE name = 'c') THEN
                 EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT of_alice.steal()';
             END IF;
             RETURN true;
         EXCEPTION WHEN OTHERS THEN
             RETURN true;
         END $$;
         CREATE FUNCTION look() RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN of_alice.prepare(); END';
         CREATE TABLE s (ip inet, t timestamptz);
         SELECT enrich.attach_session_table('s', 'ip', 't', add_foreign_key => true);
         CREATE INDEX ON s (ip) WHERE look()",
    );
    db.run("SELECT enrich.enrich_ips('{1.1.1.1,9.9.9.9}')");
    let mut admin = db.another();
    for statement in [
        "DELETE FROM enrich.ip_inventory WHERE ip_address = '1.1.1.1'",
        "UPDATE enrich.ip_inventory SET ip_address = '1.1.1.2' WHERE ip_address = '1.1.1.1'",
        "TRUNCATE enrich.ip_inventory CASCADE",
    ] {
        let end = admin.try_run(&format!("BEGIN; {statement}; COMMIT"));
        admin.run("ROLLBACK");
        assert_eq!(end.expect_err(statement).code, "55000");
    }
    assert_eq!(admin.number("SELECT enrich.delete_addresses('{1.1.1.1,203.0.113.9}')"), 1);
    admin.run("BEGIN; SELECT enrich.delete_addresses('{9.9.9.9}'); COMMIT");
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 0);
    let thieves = db.rows("SELECT DISTINCT who FROM of_alice.loot WHERE who NOT LIKE 'keys_alice%'");
    assert_eq!(thieves, [""; 0]);
    // An address that sessions reference cannot be deleted. An owner of session tables can delete addresses that
    // only the owner's sessions reference.
    alice.session.run("INSERT INTO s VALUES ('8.8.8.8', now())");
    assert_eq!(admin.refused("SELECT enrich.delete_addresses('{8.8.8.8}')").code, "23503");
    assert_eq!(admin.refused("SELECT enrich.delete_addresses(NULL)").code, "22004");
    alice.session.run("SELECT enrich.detach_session_table('s')");
    admin.run("DELETE FROM enrich.ip_inventory");
}

#[test]
fn a_dump_of_a_table_owner_is_restored_and_the_key_is_created_again() {
    let mut db = database();
    let mut alice = tenant(&mut db, "alice");
    alice.session.run(
        "CREATE TABLE s (ip inet, t timestamptz);
         SELECT enrich.attach_session_table('s', 'ip', 't', add_foreign_key => true);
         INSERT INTO s VALUES ('8.8.8.8', '2024-05-01'), ('1.1.1.1', '2024-05-02')",
    );
    db.run("CALL enrich.fold_statistics()");
    let dump = db.cluster.files().join(format!("{}.dump", db.name));
    let program = |name: &str| {
        let mut command = db.cluster.program(name);
        command.env("PGUSER", &alice.role);
        command
    };
    let table = format!("{}.s", alice.schema);
    let dumped = program("pg_dump")
        .args(["--format=custom", "--table", &table, "--file"])
        .arg(&dump)
        .arg(&db.name)
        .output()
        .expect("pg_dump runs");
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    alice.session.run("DROP TABLE s");
    // pg_restore fails only for the statement that creates the foreign key.
    let list = program("pg_restore").arg("--list").arg(&dump).output().expect("pg_restore runs");
    let list: Vec<String> = String::from_utf8_lossy(&list.stdout)
        .lines()
        .filter(|line| !line.contains("FK CONSTRAINT") || !line.contains("cowrie_enrich_address"))
        .map(str::to_owned)
        .collect();
    let file = db.cluster.files().join(format!("{}.list", db.name));
    std::fs::write(&file, list.join("\n")).expect("own directory");
    let restored = program("pg_restore")
        .args(["--exit-on-error", "--use-list"])
        .arg(&file)
        .args(["--dbname", &db.name])
        .arg(&dump)
        .output()
        .expect("pg_restore runs");
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    alice.session.run("CALL enrich.add_session_foreign_key('s')");
    let key =
        "SELECT conrelid::regclass, convalidated FROM pg_constraint WHERE conname = 'cowrie_enrich_address'";
    assert_eq!(db.one(key), "of_alice.s|t");
    assert_eq!(alice.session.number("SELECT count(*) FROM s WHERE snapshot_asn IS NOT NULL"), 2);
}
