//! How the snapshot columns of a session get their values. Values of clients are kept in trusted tables only. The
//! extension fills null columns by an UPDATE, which fires the owner's triggers and runs no code of a third role.

use cowrie_enrich_upstreams::{synthetic_asn, synthetic_country};
use server_tests::cymru::{Lab, member, wait_for_the_queue};
use server_tests::hosts::{COWRIE, Host, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, Options, Session, database, wait_until};

/// A snapshot that only a client could have written.
const FORGED: &str = r#"666, 'KP', 'forged', '{"maxmind": {"asn": 666, "country": "KP"}}', '2999-01-01'"#;
const COLUMNS: &str = "snapshot_asn, snapshot_country, snapshot_ip_type, enrichment, enrichment_at";

/// Returns all snapshot columns of a session. For the time of the enrichment, returns whether it is plausible.
fn whole(session: &mut Session, host: &Host, key: &str) -> String {
    session.one(&format!(
        "SELECT snapshot_asn, snapshot_country, snapshot_ip_type, enrichment -> 'maxmind' ->> 'asn', enrichment_at <= now()
         FROM {} WHERE {} = '{key}'",
        host.table, host.key
    ))
}

const OF_GOOGLE: &str = "15169|US|NULL|15169|t";
const OF_NOBODY: &str = "NULL|NULL|NULL|NULL|NULL";

fn columns(host: &Host) -> String {
    format!("{}, {}, {}, {COLUMNS}", host.key, host.time, host.address)
}

fn forged(key: &str, address: &str) -> String {
    format!("'{key}', '2024-05-01', {address}, {FORGED}")
}

/// A role of this database that may log in.
fn role(db: &mut Database<'_>, name: &str) -> String {
    let role = db.create_role(name);
    db.run(&format!("GRANT USAGE, CREATE ON SCHEMA public TO {role}"));
    role
}

/// Gives a table to a role that may attach tables.
fn give(db: &mut Database<'_>, table: &str, role: &str) {
    db.run(&format!(
        "ALTER TABLE {table} OWNER TO {role};
         GRANT USAGE ON SCHEMA enrich TO {role};
         GRANT SELECT ON enrich.attached_tables TO {role};
         GRANT EXECUTE ON FUNCTION enrich.attach_session_table(regclass, name, name, boolean, boolean, boolean),
             enrich.detach_session_table(regclass), enrich.enrich_session(), enrich.forget_sessions() TO {role};
         GRANT EXECUTE ON PROCEDURE enrich.backfill_sessions(regclass, integer, boolean) TO {role}"
    ));
}

fn backfill(session: &mut Session, table: &str) {
    session.run(&format!("CALL enrich.backfill_sessions('{table}', progress => false)"));
}

/// Attaches Cowrie's sessions and gives them to a new role. Returns its name.
fn owner_of_sessions(db: &mut Database<'_>) -> String {
    let alice = role(db, "alice");
    COWRIE.create_attached(db);
    give(db, "sessions", &alice);
    alice
}

/// Empties the snapshots as if nothing had been known: the triggers are off meanwhile.
fn empty(db: &mut Database<'_>, table: &str) {
    db.run(&format!(
        "ALTER TABLE {table} DISABLE TRIGGER USER;
         UPDATE {table} SET snapshot_asn = NULL, snapshot_country = NULL, enrichment = NULL, enrichment_at = NULL;
         ALTER TABLE {table} ENABLE TRIGGER USER"
    ));
}

#[test]
fn a_snapshot_that_an_insert_supplies_is_replaced() {
    for host in [&COWRIE, &SUMMARIES] {
        let mut db = database();
        host.create_attached(&mut db);
        let (table, columns, none) = (host.table, columns(host), host.no_address);
        db.run(&format!(
            "INSERT INTO {table} ({columns}) VALUES ({}), ({}), ({});
             CREATE TABLE elsewhere AS SELECT {columns} FROM {table} LIMIT 0;
             INSERT INTO elsewhere VALUES ({}), ({});
             INSERT INTO {table} ({columns}) SELECT * FROM elsewhere",
            forged("known", "'8.8.8.8'"),
            forged("unknown", "'48.0.0.1'"),
            forged("none", none),
            forged("selected", "'8.8.8.8'"),
            forged("selected unknown", "'48.0.0.1'"),
        ));
        let lines =
            "copied\t2024-05-01\t8.8.8.8\t666\tKP\tforged\t{\"maxmind\": {\"asn\": 666}}\t2999-01-01\n";
        db.copy(&format!("{table} ({columns})"), lines);
        for (key, expected) in [
            ("known", OF_GOOGLE),
            ("unknown", OF_NOBODY),
            ("none", OF_NOBODY),
            ("selected", OF_GOOGLE),
            ("selected unknown", OF_NOBODY),
            ("copied", OF_GOOGLE),
        ] {
            assert_eq!(whole(&mut db, host, key), expected, "{table}: {key}");
        }
        assert_counts_are_exact(&mut db, &[(table, host.address)]);
    }
}

#[test]
fn a_malformed_address_keeps_no_supplied_snapshot() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&format!("INSERT INTO sessions ({}) VALUES ({})", columns(&COWRIE), forged("a", "'nonsense'")));
    assert_eq!(whole(&mut db, &COWRIE, "a"), OF_NOBODY);
}

#[test]
fn an_insert_into_columns_that_must_not_be_null_does_not_fail() {
    let mut db = database();
    COWRIE.create(&mut db);
    db.run(
        "ALTER TABLE sessions ADD snapshot_asn bigint NOT NULL DEFAULT 0, ADD snapshot_country char(2) NOT NULL DEFAULT 'XX',
             ADD enrichment jsonb NOT NULL DEFAULT '{}', ADD enrichment_at timestamptz NOT NULL DEFAULT now()",
    );
    COWRIE.attach(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("48.0.0.1")), ("c", None)]));
    db.run(&format!("INSERT INTO sessions ({}) VALUES ({})", columns(&COWRIE), forged("d", "'48.0.0.1'")));
    assert_eq!(
        db.rows(
            "SELECT trim(id), snapshot_asn, snapshot_country, enrichment ? 'maxmind' FROM sessions ORDER BY 1"
        ),
        ["a|15169|US|t", "b|0|XX|f", "c|0|XX|f", "d|666|KP|f"]
    );
}

#[test]
fn no_update_sets_or_changes_a_snapshot() {
    const SET: &str = r#"snapshot_asn = 666, snapshot_country = 'KP', snapshot_ip_type = 'forged',
        enrichment = '{"maxmind": {"asn": 666}}', enrichment_at = '2999-01-01'"#;
    for host in [&COWRIE, &SUMMARIES] {
        let mut db = database();
        host.create_attached(&mut db);
        let owner = role(&mut db, "owner");
        let (table, key, address) = (host.table, host.key, host.address);
        db.run(&format!("ALTER TABLE {table} OWNER TO {owner}"));
        db.run(&host.insert(&[("known", Some("8.8.8.8")), ("unknown", Some("48.0.0.1"))]));
        let columns = columns(host);
        let conflict = format!(
            "INSERT INTO {table} ({columns}) VALUES ({}), ({}) ON CONFLICT ({key}) DO UPDATE SET {SET}",
            forged("known", "'8.8.8.8'"),
            forged("unknown", "'48.0.0.1'"),
        );
        let excluded =
            conflict.replace(SET, "snapshot_asn = excluded.snapshot_asn + 1, snapshot_country = 'KP'");
        let merge = format!(
            "MERGE INTO {table} s USING (VALUES ('known'), ('unknown')) v(k) ON s.{key} = v.k
             WHEN MATCHED THEN UPDATE SET {SET}"
        );
        let own = format!("SET ROLE {owner}; UPDATE {table} SET {SET}; RESET ROLE");
        let update = format!("UPDATE {table} SET {SET}");
        let null = format!("UPDATE {table} SET snapshot_asn = NULL, enrichment = NULL");
        let moved = format!("UPDATE {table} SET {address} = '1.1.1.1', {SET} WHERE {key} = 'unknown'");
        for statement in [&update, &own, &null, &conflict, &excluded, &merge, &moved] {
            db.run(statement);
            assert_eq!(whole(&mut db, host, "known"), OF_GOOGLE, "{statement}");
            assert_eq!(whole(&mut db, host, "unknown"), OF_NOBODY, "{statement}");
        }
        assert_counts_are_exact(&mut db, &[(table, address)]);
    }
}

#[test]
fn an_address_that_arrives_by_update_fills_the_snapshot_with_what_is_known() {
    for host in [&COWRIE, &SUMMARIES] {
        let mut db = database();
        host.create_attached(&mut db);
        db.run(&host.insert(&[("a", None)]));
        db.run(&format!(
            "UPDATE {} SET {} = '8.8.8.8', snapshot_asn = 666, enrichment_at = '2999-01-01'",
            host.table, host.address
        ));
        assert_eq!(whole(&mut db, host, "a"), OF_GOOGLE);
    }
}

#[test]
fn a_trigger_of_the_owner_that_fires_before_supplies_no_snapshot() {
    let mut db = database();
    SUMMARIES.create_attached(&mut db);
    db.run(
        "CREATE FUNCTION public.forge() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN NEW.snapshot_asn := 666; NEW.enrichment := '{\"maxmind\": {\"asn\": 666}}'; RETURN NEW; END $$;
         CREATE TRIGGER forge BEFORE INSERT OR UPDATE ON session_summaries FOR EACH ROW EXECUTE FUNCTION public.forge()",
    );
    db.run(&SUMMARIES.insert(&[("known", Some("8.8.8.8")), ("unknown", Some("48.0.0.1"))]));
    db.run("UPDATE session_summaries SET event_count = 1");
    assert_eq!(whole(&mut db, &SUMMARIES, "known"), OF_GOOGLE);
    assert_eq!(whole(&mut db, &SUMMARIES, "unknown"), OF_NOBODY);
}

/// Simulates how replication applies rows. The extension's triggers are ENABLE ALWAYS, so they fire.
#[test]
fn replicated_rows_bring_their_snapshots_into_trusted_tables_only() {
    for trusted in [false, true] {
        let mut db = database();
        COWRIE.create_attached(&mut db);
        db.run(
            "ALTER TABLE sessions ENABLE ALWAYS TRIGGER zz_cowrie_enrich_snapshot,
                 ENABLE ALWAYS TRIGGER zz_cowrie_enrich_count",
        );
        if trusted {
            db.run("SELECT enrich.set_session_table_options('sessions', NULL, true)");
        }
        db.run(&format!(
            "SET session_replication_role = replica;
             INSERT INTO sessions ({}) VALUES ({});
             RESET session_replication_role",
            columns(&COWRIE),
            forged("a", "'8.8.8.8'")
        ));
        let expected = if trusted { "666|KP|forged|666|f" } else { OF_GOOGLE };
        assert_eq!(whole(&mut db, &COWRIE, "a"), expected);
        assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    }
}

#[test]
fn a_trusted_table_keeps_what_clients_supply_and_fills_the_rest() {
    for host in [&COWRIE, &SUMMARIES] {
        let mut db = database();
        host.create(&mut db);
        let (table, key) = (host.table, host.key);
        db.run(&format!(
            "SELECT enrich.attach_session_table('{table}', '{}', '{}', trust_input => true)",
            host.address, host.time
        ));
        db.run(&format!("INSERT INTO {table} ({}) VALUES ({})", columns(host), forged("a", "'8.8.8.8'")));
        assert_eq!(whole(&mut db, host, "a"), "666|KP|forged|666|f");
        db.run(&format!(
            "INSERT INTO {table} ({key}, {}, {}, snapshot_country) VALUES ('b', '2024-05-01', '8.8.8.8', 'SE')",
            host.time, host.address
        ));
        assert_eq!(whole(&mut db, host, "b"), "15169|SE|NULL|15169|t");
        db.run(&host.insert(&[("c", Some("48.0.0.1"))]));
        db.run(&format!("UPDATE {table} SET snapshot_asn = 64500 WHERE {key} = 'c'"));
        db.run(&format!("UPDATE {table} SET snapshot_asn = 64501 WHERE {key} = 'c'"));
        assert_eq!(host.snapshot(&mut db, "c"), "64500|NULL|NULL", "a value that is set never changes");
    }
}

#[test]
fn a_change_of_trust_reaches_connections_that_have_inserted_already() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    let mut honeypot = db.another();
    let insert = |honeypot: &mut Session, key: &str| {
        honeypot.run(&format!(
            "INSERT INTO sessions ({}) VALUES ({})",
            columns(&COWRIE),
            forged(key, "'8.8.8.8'")
        ));
    };
    insert(&mut honeypot, "before");
    db.run("SELECT enrich.set_session_table_options('sessions', NULL, true)");
    insert(&mut honeypot, "trusted");
    db.run("SELECT enrich.set_session_table_options('sessions', NULL, false)");
    insert(&mut honeypot, "after");
    let asn = |db: &mut Session, key: &str| {
        db.one(&format!("SELECT snapshot_asn FROM sessions WHERE id = '{key}'"))
    };
    assert_eq!(["before", "trusted", "after"].map(|key| asn(&mut db, key)), ["15169", "666", "15169"]);
    // A direct update of the options by a superuser takes effect, too.
    db.run("UPDATE enrich.session_table_option SET trust_input = true");
    insert(&mut honeypot, "by hand");
    assert_eq!(asn(&mut db, "by hand"), "666");
    db.run("DELETE FROM enrich.session_table_option");
    insert(&mut honeypot, "deleted");
    assert_eq!(asn(&mut db, "deleted"), "15169");
}

#[test]
fn an_insert_does_not_wait_for_options_that_are_locked() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    let mut holder = db.another();
    holder.run("BEGIN; LOCK TABLE enrich.session_table_option IN ACCESS EXCLUSIVE MODE");
    db.run("SET statement_timeout = '60s'");
    db.run(&format!("INSERT INTO sessions ({}) VALUES ({})", columns(&COWRIE), forged("a", "'8.8.8.8'")));
    assert_eq!(whole(&mut db, &COWRIE, "a"), OF_GOOGLE);
    holder.run("COMMIT");
}

#[test]
fn partitions_have_the_options_of_their_table_unless_another_role_owns_them() {
    let mut db = database();
    let stranger = role(&mut db, "stranger");
    db.run(&format!(
        "CREATE TABLE parts (id int, ip inet, t timestamptz) PARTITION BY LIST (id);
         CREATE TABLE nested PARTITION OF parts FOR VALUES IN (1) PARTITION BY LIST (id);
         CREATE TABLE part_1 PARTITION OF nested FOR VALUES IN (1);
         CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2);
         SELECT enrich.attach_session_table('parts', 'ip', 't', trust_input => true);
         ALTER TABLE part_2 OWNER TO {stranger};
         INSERT INTO parts (id, ip, snapshot_asn) VALUES (1, '8.8.8.8', 666), (2, '8.8.8.8', 666);
         INSERT INTO part_1 (id, ip, snapshot_asn) VALUES (1, '8.8.8.8', 667);
         INSERT INTO part_2 (id, ip, snapshot_asn) VALUES (2, '8.8.8.8', 667)"
    ));
    assert_eq!(
        db.rows("SELECT id, snapshot_asn FROM parts ORDER BY 1, 2"),
        ["1|666", "1|667", "2|15169", "2|15169"]
    );
}

#[test]
fn only_a_superuser_or_the_extensions_owner_turns_trust_on_and_only_the_owner_allows_triggers() {
    let mut db = database();
    let (owner, other) = (role(&mut db, "owner"), role(&mut db, "other"));
    COWRIE.create_attached(&mut db);
    give(&mut db, "sessions", &owner);
    db.run(&format!(
        "GRANT USAGE ON SCHEMA enrich TO {other};
         GRANT EXECUTE ON FUNCTION enrich.set_session_table_options(regclass, boolean, boolean) TO {owner}, {other}"
    ));
    let (mut theirs, mut others) = (db.session_as(&owner), db.session_as(&other));
    let options = "SELECT run_triggers, trust_input, table_owner FROM enrich.session_table_option";
    let set = |run_triggers: &str, trust_input: &str| {
        format!("SELECT enrich.set_session_table_options('public.sessions', {run_triggers}, {trust_input})")
    };
    for arguments in [("true", "NULL"), ("NULL", "false"), ("NULL", "true"), ("NULL", "NULL")] {
        let refusal = others.refused(&set(arguments.0, arguments.1));
        assert_eq!(refusal.code, "42501", "{refusal:?}");
    }
    let refusal = theirs.refused(&set("NULL", "true"));
    assert_eq!((refusal.code.as_str(), refusal.hint.is_some()), ("42501", true), "{refusal:?}");
    assert_eq!(db.rows(options), Vec::<String>::new());
    theirs.run(&set("true", "NULL"));
    assert_eq!(db.rows(options), [format!("t|f|{owner}")]);
    db.run(&set("NULL", "true"));
    assert_eq!(db.rows(options), [format!("t|t|{owner}")]);
    // Null keeps the option, also when the table is attached again.
    theirs.run("SELECT enrich.attach_session_table('public.sessions', 'ip', 'starttime')");
    assert_eq!(db.rows(options), [format!("t|t|{owner}")]);
    theirs.run(&set("NULL", "false"));
    assert_eq!(db.rows(options), [format!("t|f|{owner}")]);
    // A role with the privileges of the extension's owner.
    db.run(&format!("ALTER TABLE sessions OWNER TO {owner}; GRANT postgres TO {other}"));
    others.run(&set("NULL", "true"));
    assert_eq!(db.rows(options), [format!("t|t|{owner}")]);
    db.run(&format!("REVOKE postgres FROM {other}"));

    db.run("CREATE TABLE bare (ip inet)");
    let refusal = db.refused("SELECT enrich.set_session_table_options('bare', true, NULL)");
    assert_eq!(refusal.code, "55000", "{refusal:?}");
    let refusal = db.refused("SELECT enrich.set_session_table_options(NULL, true, NULL)");
    assert_eq!(refusal.code, "22004", "{refusal:?}");
}

#[test]
fn options_lapse_with_another_owner_and_are_forgotten_with_the_table() {
    let mut db = database();
    let (first, second) = (role(&mut db, "first"), role(&mut db, "second"));
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    db.run(&format!(
        "ALTER TABLE sessions OWNER TO {first};
         SELECT enrich.set_session_table_options('sessions', true, true);
         SELECT enrich.set_session_table_options('session_summaries', true, true);
         ALTER TABLE sessions OWNER TO {second}"
    ));
    db.run(&format!("INSERT INTO sessions ({}) VALUES ({})", columns(&COWRIE), forged("a", "'8.8.8.8'")));
    assert_eq!(whole(&mut db, &COWRIE, "a"), OF_GOOGLE);
    // Setting one option again does not bring back the other.
    db.run("SELECT enrich.set_session_table_options('sessions', true, NULL)");
    assert_eq!(
        db.rows("SELECT rel, run_triggers, trust_input FROM enrich.session_table_option ORDER BY rel::text"),
        ["session_summaries|t|t", "sessions|t|f"]
    );
    db.run("DROP TABLE session_summaries; SELECT enrich.set_session_table_options('sessions', NULL, NULL)");
    assert_eq!(db.rows("SELECT rel FROM enrich.session_table_option"), ["sessions"]);
}

#[test]
fn inheritance_children_have_the_options_of_their_parent() {
    let mut db = database();
    db.run(
        "CREATE TABLE parent (id int, ip inet, t timestamptz);
         SELECT enrich.attach_session_table('parent', 'ip', 't', trust_input => true);
         CREATE TABLE child () INHERITS (parent);
         SELECT enrich.attach_session_table('child', 'ip', 't');
         INSERT INTO child (id, ip, snapshot_asn) VALUES (1, '8.8.8.8', 666)",
    );
    assert_eq!(db.rows("SELECT snapshot_asn FROM child"), ["666"]);
}

/// Case H-1, as it was found: with triggers and keys of every table off, a CHECK deletes what a trigger guards.
#[test]
fn a_backfill_switches_off_no_triggers_and_keys_of_other_tables() {
    for caller in ["owner", "superuser", "superuser as a replica"] {
        let mut db = database();
        let alice = role(&mut db, "alice");
        COWRIE.create(&mut db);
        give(&mut db, "sessions", &alice);
        db.run(&format!(
            "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int REFERENCES parent (id));
             INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1), (2);
             CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'closed'; END $$;
             CREATE TRIGGER guard BEFORE DELETE ON parent FOR EACH ROW EXECUTE FUNCTION guard();
             GRANT SELECT, INSERT, DELETE ON parent TO {alice}"
        ));
        let mut theirs = db.session_as(&alice);
        theirs.run(
            "SELECT enrich.attach_session_table('public.sessions', 'ip', 'starttime');
             CREATE TABLE public.seen (who text, replica text);
             CREATE FUNCTION public.check_it(sessions public.sessions) RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.seen VALUES (current_user, current_setting('session_replication_role'));
                 BEGIN
                     DELETE FROM public.parent WHERE id IN (1, 2);
                 EXCEPTION WHEN OTHERS THEN NULL; END;
                 RETURN true;
             END $$;
             INSERT INTO public.sessions (id, starttime, ip) VALUES ('a', now(), '8.8.8.8')",
        );
        empty(&mut db, "sessions");
        theirs.run(
            "ALTER TABLE public.sessions ADD CONSTRAINT checked CHECK (public.check_it(sessions)) NOT VALID",
        );
        match caller {
            "owner" => backfill(&mut theirs, "public.sessions"),
            "superuser" => backfill(&mut db, "public.sessions"),
            _ => {
                db.run("SET session_replication_role = replica");
                backfill(&mut db, "public.sessions");
                db.run("RESET session_replication_role");
            }
        }
        assert_eq!(db.number("SELECT count(*) FROM parent"), 2, "{caller}");
        assert_eq!(
            db.rows("SELECT DISTINCT who, replica FROM seen"),
            [format!("{alice}|origin")],
            "{caller}"
        );
        assert_eq!(whole(&mut db, &COWRIE, "a"), OF_GOOGLE, "{caller}");
    }
}

/// Puts each kind of trigger on Cowrie's table. Each writes a row when it fires.
fn put_witnesses(session: &mut Session) {
    session.run(
        "CREATE TABLE public.seen (kind text, who text, replica text);
         GRANT INSERT ON public.seen TO PUBLIC;
         ALTER TABLE sessions ADD updated_at timestamptz,
             ADD place text GENERATED ALWAYS AS (coalesce(snapshot_country, 'nowhere')) STORED;
         CREATE FUNCTION public.witness() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO public.seen VALUES (TG_NAME, current_user, current_setting('session_replication_role'));
             IF TG_WHEN = 'BEFORE' THEN NEW.updated_at := now(); END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER before_row BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION public.witness();
         CREATE TRIGGER after_row AFTER UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION public.witness();
         CREATE TRIGGER always AFTER UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION public.witness();
         ALTER TABLE sessions ENABLE ALWAYS TRIGGER always;
         CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON sessions DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION public.witness();
         CREATE TRIGGER replica AFTER UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION public.witness();
         ALTER TABLE sessions ENABLE REPLICA TRIGGER replica;
         CREATE TRIGGER conditional AFTER UPDATE ON sessions FOR EACH ROW
             WHEN (OLD.* IS DISTINCT FROM NEW.* AND pg_trigger_depth() = 0 AND now() > '2024-01-01')
             EXECUTE FUNCTION public.witness()",
    );
}

const WITNESSES: [&str; 5] = ["after_row", "always", "before_row", "conditional", "deferred"];

#[test]
fn triggers_of_the_owner_fire_when_a_backfill_fills_snapshots() {
    let mut db = database();
    let alice = owner_of_sessions(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    empty(&mut db, "sessions");
    put_witnesses(&mut db.session_as(&alice));
    // An audit trigger of a superuser does not count as one of a third role.
    db.run(
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.seen VALUES ('audit', current_user, ''); RETURN NULL; END $$;
         CREATE TRIGGER audit AFTER UPDATE ON sessions EXECUTE FUNCTION audit()",
    );
    backfill(&mut db, "public.sessions");
    assert_eq!(whole(&mut db, &COWRIE, "a"), OF_GOOGLE);
    assert_eq!(db.one("SELECT updated_at IS NOT NULL, place FROM sessions"), "t|US");
    let expected: Vec<String> = WITNESSES.iter().map(|kind| format!("{kind}|{alice}|origin")).collect();
    assert_eq!(db.rows("SELECT * FROM seen WHERE kind <> 'audit' ORDER BY 1"), expected);
    assert_eq!(db.rows("SELECT DISTINCT who FROM seen WHERE kind = 'audit'"), [alice]);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn triggers_of_the_owner_fire_when_the_worker_completes_a_session() {
    let lab = Lab::start(Options::named("input-worker").with_worker());
    let mut db = lab.database();
    let alice = owner_of_sessions(&mut db);
    put_witnesses(&mut db.session_as(&alice));
    let address = member(0, 1);
    db.run(&COWRIE.insert(&[("a", Some(&address.to_string()))]));
    let asn = synthetic_asn(address);
    let expected = format!("{asn}|{}|NULL", synthetic_country(asn));
    wait_until("the session is complete", || COWRIE.snapshot(&mut db, "a"), |now| *now == expected);
    let witnesses: Vec<String> = WITNESSES.iter().map(|kind| format!("{kind}|{alice}|origin")).collect();
    assert_eq!(db.rows("SELECT DISTINCT * FROM seen ORDER BY 1"), witnesses);
    assert_eq!(db.one("SELECT updated_at IS NOT NULL, place FROM sessions").split('|').next(), Some("t"));
    wait_for_the_queue(&mut db);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    lab.assert_nothing_crashed();
}

/// A deferred trigger that stays deferred would fire at the end of the transaction, as another role.
#[test]
fn no_trigger_of_the_owner_fires_as_another_role_at_commit() {
    let mut db = database();
    let alice = owner_of_sessions(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    empty(&mut db, "sessions");
    db.session_as(&alice).run(
        "CREATE TABLE public.seen (who text); GRANT INSERT ON public.seen TO PUBLIC;
         CREATE TABLE public.other (id int);
         CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER note AFTER INSERT ON public.other DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION public.note();
         CREATE FUNCTION public.defer() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN SET CONSTRAINTS ALL DEFERRED; INSERT INTO public.other VALUES (1); RETURN NEW; END $$;
         CREATE TRIGGER defer BEFORE UPDATE ON public.sessions FOR EACH ROW EXECUTE FUNCTION public.defer()",
    );
    backfill(&mut db, "public.sessions");
    let who = db.rows("SELECT DISTINCT who FROM seen");
    assert!(who.is_empty() || who == [alice], "{who:?}");
}

/// Triggers on `sessions` by which a role with the privilege TRIGGER could run code with the rights of the table's
/// owner.
#[rustfmt::skip]
const THIRD_ROLES: &[(&str, &str)] = &[
    ("a function of theirs", "CREATE TRIGGER theirs BEFORE UPDATE ON public.sessions FOR EACH ROW EXECUTE FUNCTION public.theirs()"),
    ("for the statement", "CREATE TRIGGER theirs AFTER UPDATE ON public.sessions EXECUTE FUNCTION public.theirs()"),
    ("of one column", "CREATE TRIGGER theirs AFTER UPDATE OF snapshot_asn ON public.sessions FOR EACH ROW EXECUTE FUNCTION public.theirs()"),
    ("deferred", "CREATE CONSTRAINT TRIGGER theirs AFTER UPDATE ON public.sessions DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.theirs()"),
    ("a condition of theirs", "CREATE TRIGGER theirs BEFORE UPDATE ON public.sessions FOR EACH ROW WHEN (public.noted(NEW.id::text)) EXECUTE FUNCTION suppress_redundant_updates_trigger()"),
    ("an operator of theirs", "CREATE TRIGGER theirs BEFORE UPDATE ON public.sessions FOR EACH ROW WHEN (NEW.id::text OPERATOR(public.@@@) 'x'::text) EXECUTE FUNCTION suppress_redundant_updates_trigger()"),
    ("a domain of theirs", "CREATE TRIGGER theirs BEFORE UPDATE ON public.sessions FOR EACH ROW WHEN (NEW.id::text::public.noting IS NOT NULL) EXECUTE FUNCTION suppress_redundant_updates_trigger()"),
    ("a function of the server that runs statements", "CREATE TRIGGER theirs BEFORE UPDATE ON public.sessions FOR EACH ROW WHEN (query_to_xml('SELECT public.noted(''x'')', true, true, '') IS NOT NULL) EXECUTE FUNCTION suppress_redundant_updates_trigger()"),
];

#[test]
fn a_table_with_code_of_a_third_role_is_left_alone_until_its_owner_allows_it() {
    for (way, trigger) in THIRD_ROLES {
        let mut db = database();
        let (alice, bob) = (role(&mut db, "alice"), role(&mut db, "bob"));
        COWRIE.create_attached(&mut db);
        give(&mut db, "sessions", &alice);
        db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
        empty(&mut db, "sessions");
        db.run(&format!(
            "GRANT TRIGGER ON sessions TO {bob};
             GRANT EXECUTE ON FUNCTION enrich.set_session_table_options(regclass, boolean, boolean) TO {alice};
             CREATE TABLE seen (who text); GRANT INSERT ON seen TO PUBLIC"
        ));
        let mut theirs = db.session_as(&bob);
        theirs.run(
            "CREATE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN NEW; END $$;
             CREATE FUNCTION public.noted(text) RETURNS boolean LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN true; END $$;
             CREATE FUNCTION public.noted(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
                 $$ BEGIN RETURN public.noted($1); END $$;
             CREATE OPERATOR public.@@@ (leftarg = text, rightarg = text, function = public.noted);
             CREATE DOMAIN public.noting AS text CHECK (public.noted(VALUE))",
        );
        theirs.run(trigger);
        let mut owner = db.session_as(&alice);
        for caller in [&mut owner, &mut *db] {
            backfill(caller, "public.sessions");
        }
        assert_eq!(db.rows("SELECT who FROM seen"), Vec::<String>::new(), "{way}");
        assert_eq!(whole(&mut db, &COWRIE, "a"), OF_NOBODY, "{way}");
        let reason = owner.one("SELECT blocked_reason FROM enrich.attached_tables");
        assert!(reason.contains("trigger theirs"), "{way}: {reason}");
        assert!(
            db.cluster.whole_log().contains("snapshot columns of public.sessions are not filled"),
            "{way}"
        );
        assert_counts_are_exact(&mut db, &[("sessions", "ip")]);

        owner.run("SELECT enrich.set_session_table_options('public.sessions', true, NULL)");
        assert_eq!(owner.one("SELECT blocked_reason FROM enrich.attached_tables"), "NULL", "{way}");
        backfill(&mut db, "public.sessions");
        let refused = db.rows("SELECT reason FROM enrich.rejected_row");
        // A server that was built without libxml does not execute the function further.
        if refused.iter().any(|reason| reason.contains("unsupported XML feature")) {
            continue;
        }
        assert_eq!(whole(&mut db, &COWRIE, "a"), OF_GOOGLE, "{way}: {refused:?}");
        assert_eq!(db.rows("SELECT DISTINCT who FROM seen"), [alice], "{way}");
    }
}

#[test]
fn triggers_that_an_update_does_not_fire_block_nothing() {
    let mut db = database();
    let (alice, bob) = (role(&mut db, "alice"), role(&mut db, "bob"));
    COWRIE.create_attached(&mut db);
    give(&mut db, "sessions", &alice);
    db.run(&format!("GRANT TRIGGER ON sessions TO {bob}"));
    db.session_as(&bob).run(
        "CREATE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
         CREATE TRIGGER on_insert BEFORE INSERT ON public.sessions FOR EACH ROW EXECUTE FUNCTION public.theirs();
         CREATE TRIGGER on_delete AFTER DELETE OR TRUNCATE ON public.sessions EXECUTE FUNCTION public.theirs();
         CREATE TRIGGER off BEFORE UPDATE ON public.sessions FOR EACH ROW EXECUTE FUNCTION public.theirs();
         CREATE TRIGGER of_replicas BEFORE UPDATE ON public.sessions FOR EACH ROW EXECUTE FUNCTION public.theirs()",
    );
    db.run("ALTER TABLE sessions DISABLE TRIGGER off, ENABLE REPLICA TRIGGER of_replicas");
    assert_eq!(db.one("SELECT blocked_reason FROM enrich.attached_tables"), "NULL");
}

#[test]
fn a_partition_with_code_of_a_third_role_is_left_alone_and_the_others_are_filled() {
    let mut db = database();
    let (alice, bob) = (role(&mut db, "alice"), role(&mut db, "bob"));
    db.run(
        "CREATE TABLE parts (id int, ip inet, t timestamptz) PARTITION BY LIST (id);
         CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
         CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2);
         SELECT enrich.attach_session_table('parts', 'ip', 't');
         INSERT INTO parts (id, ip) VALUES (1, '8.8.8.8'), (2, '8.8.8.8')",
    );
    empty(&mut db, "parts");
    for table in ["parts", "part_1", "part_2"] {
        give(&mut db, table, &alice);
    }
    db.run(&format!("GRANT TRIGGER ON parts, part_1, part_2 TO {bob}"));
    let mut theirs = db.session_as(&bob);
    theirs.run(
        "CREATE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
         CREATE FUNCTION public.noted(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN true; END $$;
         CREATE TRIGGER theirs BEFORE UPDATE ON public.part_2 FOR EACH ROW EXECUTE FUNCTION public.theirs()",
    );
    let filled = "SELECT id, snapshot_asn FROM parts ORDER BY 1";
    backfill(&mut db, "parts");
    assert_eq!(db.rows(filled), ["1|15169", "2|NULL"]);
    let reason = db.one("SELECT blocked_reason FROM enrich.attached_tables");
    assert!(reason.contains("part_2"), "{reason}");
    db.run("DROP TRIGGER theirs ON part_2");
    // PostgreSQL copies a trigger with its condition from the partitioned table to the partitions, but does not
    // record there that the condition depends on the function.
    theirs.run(
        "CREATE TRIGGER theirs BEFORE UPDATE ON public.parts FOR EACH ROW WHEN (public.noted(NEW.id))
             EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    );
    backfill(&mut db, "parts");
    assert_eq!(db.rows(filled), ["1|15169", "2|NULL"]);
    db.run(&format!(
        "SET ROLE {alice}; RESET ROLE; SELECT enrich.set_session_table_options('parts', true, NULL)"
    ));
    backfill(&mut db, "parts");
    assert_eq!(db.rows(filled), ["1|15169", "2|15169"]);
}

#[test]
fn the_worker_leaves_a_table_with_code_of_a_third_role_alone() {
    let lab = Lab::start(Options::named("input-blocked").with_worker());
    let mut db = lab.database();
    let (alice, bob) = (role(&mut db, "alice"), role(&mut db, "bob"));
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    give(&mut db, "sessions", &alice);
    db.run(&format!(
        "GRANT TRIGGER ON sessions TO {bob}; CREATE TABLE seen (who text); GRANT INSERT ON seen TO PUBLIC"
    ));
    db.session_as(&bob).run(
        "CREATE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN NEW; END $$;
         CREATE TRIGGER theirs BEFORE UPDATE ON public.sessions FOR EACH ROW EXECUTE FUNCTION public.theirs()",
    );
    let address = member(0, 1);
    for host in [&COWRIE, &SUMMARIES] {
        db.run(&host.insert(&[("a", Some(&address.to_string()))]));
    }
    let asn = synthetic_asn(address);
    let expected = format!("{asn}|{}|NULL", synthetic_country(asn));
    wait_until("the other table is complete", || SUMMARIES.snapshot(&mut db, "a"), |now| *now == expected);
    wait_until(
        "the log says why",
        || lab.cluster.log(),
        |log| {
            log.contains("the snapshot columns of a session table are not filled")
                && log.contains("runs code of role bob_")
        },
    );
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "NULL|NULL|NULL");
    assert_eq!(db.rows("SELECT who FROM seen"), Vec::<String>::new());
    lab.assert_nothing_crashed();
}

/// While a backfill fills rows, the owner's triggers cannot get another value into a snapshot.
#[test]
fn only_the_registered_values_get_into_a_snapshot_while_it_is_filled() {
    let mut db = database();
    let alice = owner_of_sessions(&mut db);
    db.run(&COWRIE.insert(&[
        ("a", Some("8.8.8.8")),
        ("b", Some("1.1.1.1")),
        ("c", Some("48.0.0.1")),
        ("d", Some("8.8.8.9")),
    ]));
    empty(&mut db, "sessions");
    db.session_as(&alice).run(
        "CREATE FUNCTION public.forge() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             NEW.snapshot_asn := 666; NEW.snapshot_country := NULL; NEW.snapshot_ip_type := 'forged';
             NEW.enrichment := '{\"maxmind\": {\"asn\": 666}}'; NEW.enrichment_at := '2999-01-01';
             RETURN NEW;
         END $$;
         CREATE TRIGGER forge BEFORE UPDATE ON public.sessions FOR EACH ROW EXECUTE FUNCTION public.forge();
         CREATE FUNCTION public.meddle() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF pg_trigger_depth() = 1 THEN
                 UPDATE public.sessions SET snapshot_asn = 667, snapshot_ip_type = 'meddled' WHERE id = 'c';
             END IF;
             RETURN NULL;
         END $$;
         CREATE TRIGGER meddle AFTER UPDATE ON public.sessions FOR EACH ROW EXECUTE FUNCTION public.meddle();
         ALTER TABLE public.sessions ADD CONSTRAINT not_this_one CHECK (id <> 'd' OR snapshot_asn IS NULL)",
    );
    backfill(&mut db, "public.sessions");
    assert_eq!(whole(&mut db, &COWRIE, "a"), OF_GOOGLE);
    assert_eq!(whole(&mut db, &COWRIE, "b"), "13335|AU|NULL|13335|t");
    assert_eq!(whole(&mut db, &COWRIE, "c"), OF_NOBODY);
    assert_eq!(whole(&mut db, &COWRIE, "d"), OF_NOBODY);
    assert_eq!(db.rows("SELECT row_key FROM enrich.rejected_row"), ["d"]);
    // The register is empty afterwards, although the statement for the last row failed.
    db.run("ALTER TABLE sessions DROP CONSTRAINT not_this_one; UPDATE sessions SET termsize = '1' WHERE id = 'd'");
    assert_eq!(whole(&mut db, &COWRIE, "d"), OF_NOBODY);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn a_session_of_a_table_with_a_foreign_key_is_filled_although_its_triggers_are_deferred() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run("SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at', true)");
    db.run(&SUMMARIES.insert(&[("a", Some("8.8.8.8"))]));
    empty(&mut db, "session_summaries");
    backfill(&mut db, "session_summaries");
    assert_eq!(whole(&mut db, &SUMMARIES, "a"), OF_GOOGLE);
}

/// Case M-7, as it was found. The document is in the row before the table is attached, so that no trigger replaces it.
const DOCUMENT: &str = r#"{"greynoise": {"noise": false, "riot": true, "name": "Google"},
    "cymru": {"asn": 15169, "org": "PWNED INC", "asn_org": "PWNED INC", "registry": "arin", "country": "KP"},
    "maxmind": {"country": "KP", "asn": 15169, "asn_org": "PWNED BY HONEYPOT"}}"#;

fn with_documents(db: &mut Database<'_>, rows: &[(&str, &str, &str)]) {
    COWRIE.create(db);
    db.run("ALTER TABLE sessions ADD enrichment jsonb, ADD enrichment_at timestamptz");
    for (key, address, document) in rows {
        db.run(&format!(
            "INSERT INTO sessions (id, starttime, ip, enrichment) VALUES ('{key}', '2024-05-01', '{address}', '{document}')"
        ));
    }
    COWRIE.attach(db);
}

#[test]
fn documents_of_a_table_that_is_not_trusted_fill_their_own_sessions_and_nothing_else() {
    let mut db = database();
    with_documents(&mut db, &[("a", "45.45.45.45", DOCUMENT)]);
    backfill(&mut db, "sessions");
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "15169|KP|NULL");
    assert_eq!(
        db.rows("SELECT host(ip_address), current_asn, enrichment - '_meta', session_count FROM enrich.ip_inventory"),
        ["45.45.45.45|NULL|{}|1"]
    );
    assert_eq!(
        db.rows(
            "SELECT k FROM enrich.ip_inventory, jsonb_object_keys(enrichment -> '_meta') k
                 WHERE k IN ('cymru', 'greynoise')"
        ),
        Vec::<String>::new(),
        "freshness"
    );
    assert_eq!(db.number("SELECT count(*) FROM enrich.asn_inventory"), 0);
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_asn_history"), 0);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn documents_of_a_trusted_table_name_networks_below_every_other_source() {
    let mut db = database();
    with_documents(&mut db, &[("a", "45.45.45.45", DOCUMENT)]);
    db.run("SELECT enrich.set_session_table_options('sessions', NULL, true)");
    backfill(&mut db, "sessions");
    let network =
        "SELECT organization_name, organization_country, enrichment -> 'provenance' ->> 'organization_name'
                   FROM enrich.asn_inventory WHERE asn_number = 15169";
    assert_eq!(db.one(network), "PWNED INC|KP|document");
    assert_eq!(db.one("SELECT current_asn FROM enrich.ip_inventory"), "15169");
    // A session of the network that the files know.
    db.run(&COWRIE.insert(&[("b", Some("8.8.8.8"))]));
    db.run("SELECT enrich.enrich_ips('{8.8.8.8}', true)");
    backfill(&mut db, "sessions");
    assert_eq!(db.one(network), "GOOGLE|US|maxmind");
    assert_eq!(
        db.one("SELECT array_agg(s ORDER BY enrich.source_rank(s)) FROM unnest('{manual,cymru,maxmind,iana,import,document}'::text[]) s"),
        "{document,import,iana,maxmind,cymru,manual}"
    );
}

#[test]
fn a_value_of_a_document_that_makes_no_sense_is_listed_and_stored_nowhere() {
    let mut db = database();
    with_documents(
        &mut db,
        &[
            (
                "a",
                "48.0.0.1",
                r#"{"maxmind": {"asn": 99999999999999999999, "asn_org": {"a": 1}, "city": "Berlin"}}"#,
            ),
            ("b", "48.0.0.2", r#"{"cymru": {"asn": 64500, "country": "Germany", "registry": "ripencc"}}"#),
        ],
    );
    db.run("SELECT enrich.set_session_table_options('sessions', NULL, true)");
    backfill(&mut db, "sessions");
    assert_eq!(
        db.rows("SELECT row_key, reason FROM enrich.rejected_row ORDER BY 1, 2"),
        [
            "a|maxmind.asn is \"99999999999999999999\", not an ASN",
            "a|maxmind.asn_org is an object or an array, not a name",
            "b|cymru.country is \"Germany\", not a country"
        ]
    );
    assert_eq!(
        db.rows("SELECT host(ip_address), enrichment - '_meta' FROM enrich.ip_inventory ORDER BY 1"),
        [
            "48.0.0.1|{\"maxmind\": {\"city\": \"Berlin\"}}",
            "48.0.0.2|{\"cymru\": {\"asn\": 64500, \"registry\": \"ripencc\"}}"
        ]
    );
}

#[test]
fn an_import_is_for_superusers_and_the_extensions_owner() {
    let mut db = database();
    let alice = role(&mut db, "alice");
    db.run(&format!(
        "CREATE SCHEMA python_system AUTHORIZATION {alice};
         GRANT USAGE ON SCHEMA enrich TO {alice};
         GRANT EXECUTE ON PROCEDURE enrich.import_inventory(name) TO {alice}"
    ));
    let mut theirs = db.session_as(&alice);
    theirs.run(
        "CREATE TABLE python_system.asn_inventory (asn_number int PRIMARY KEY, organization_name text);
         INSERT INTO python_system.asn_inventory VALUES (15169, 'PWNED INC')",
    );
    let refusal = theirs.refused("CALL enrich.import_inventory('python_system')");
    assert_eq!((refusal.code.as_str(), refusal.hint.is_some()), ("42501", true), "{refusal:?}");
    assert_eq!(db.number("SELECT count(*) FROM enrich.asn_inventory"), 0);
}
