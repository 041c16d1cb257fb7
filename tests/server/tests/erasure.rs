//! Erasing addresses from sessions and from all tables of the extension. Dumps are searched for every word that can be
//! read as the address, and counts are compared with a recount.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use server_tests::database::cluster_with_world;
use server_tests::documentation::grants;
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, Options, Session, database, fresh_database, wait_until};

const TABLES: [(&str, &str); 2] = [("sessions", "ip"), ("session_summaries", "source_ip")];
const ERASED: &str = "The text named an address that was erased.";
const V4: &str = "8.8.8.8";
const V6: &str = "2001:4860:4860::8888";

/// Returns the bytes of an address in hex.
fn hex(address: &str) -> String {
    let octets = match address.parse().expect("an address") {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    octets.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the lines of a dump in which a word can be read as the address, or which contain its bytes in hex.
fn mentions(db: &Database<'_>, address: &str) -> Vec<String> {
    let wanted: IpAddr = address.parse().expect("an address");
    let hex = hex(address);
    let dump = std::fs::read_to_string(db.dump("plain")).expect("a dump");
    let is_it = |word: &str| {
        let words = [word, word.trim_end_matches([':', '.']), word.split(':').next().unwrap_or_default()];
        words.iter().any(|word| word.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == wanted))
    };
    let has_it = |line: &&str| {
        line.split(|c: char| !(c.is_ascii_hexdigit() || c == ':' || c == '.')).any(is_it)
            || line.to_ascii_lowercase().contains(&hex)
    };
    dump.lines().filter(has_it).map(str::to_owned).collect()
}

/// Stores sessions of three addresses in both tables, two of them in one network, and folds them.
fn stored(db: &mut Session) {
    COWRIE.create_attached(db);
    SUMMARIES.create_attached(db);
    db.run("ALTER TABLE sessions ADD note text");
    db.run(&COWRIE.insert(&[
        ("a", Some(V4)),
        ("b", Some("::ffff:8.8.8.8")),
        ("c", Some("8.8.8.9")),
        ("d", Some("139.59.0.1")),
        ("e", Some("2001:4860:4860:0:0:0:0:8888")),
        ("f", Some("not an ip")),
    ]));
    db.run(&SUMMARIES.insert(&[
        ("s", Some(V4)),
        ("t", Some("139.59.0.1")),
        ("u", Some(V6)),
        ("v", Some("::ffff:8.8.8.8")),
    ]));
    db.run("CALL enrich.fold_statistics()");
}

/// Writes an address into every table of the extension that can hold one, in different spellings.
fn spread(db: &mut Session, address: &str, spelling: &str) {
    let (hex, mapped) = (hex(address), format!("00000000000000000000ffff{}", hex(address)));
    let wider = if address.contains(':') { 48 } else { 24 };
    db.run(&format!(
        "INSERT INTO enrich.dead_letter (provider, asn_number, lookup_kind, lookup_key, priority, attempts, last_error, requested_at)
             VALUES ('cymru', 64500 + family('{address}'), 'asn', (64500 + family('{address}'))::text, 0, 5, 'no route to {spelling}', now());
         INSERT INTO enrich.suspended_owner (owner, reason) VALUES ('owner_' || family('{address}'), 'no session for {spelling}');
         INSERT INTO enrich.rejected_row (procedure, relation, row_key, reason) VALUES
             ('import_inventory', 'old', 'a' || family('{address}'), 'bytes \\x{hex}'),
             ('import_inventory', 'old', 'b' || family('{address}'), upper('0x{hex} is no address')),
             ('import_inventory', 'old', 'c' || family('{address}'), CASE family('{address}') WHEN 4 THEN '{mapped}' ELSE '{hex}' END);
         INSERT INTO enrich.blocklist_exception (prefix, note) VALUES
             ('{address}', 'ours'),
             (network(set_masklen('{address}'::inet, {wider}))::cidr, 'the network of {spelling}');
         INSERT INTO enrich.blocklist_exception (asn_number, note)
             VALUES (64500 + family('{address}'), 'it has {address}'), (64510 + family('{address}'), 'kept')"
    ));
    db.run(&format!(
        "INSERT INTO enrich.ip_asn_history VALUES ('{address}', 64501, '2024-01-01', 'cymru');
         INSERT INTO enrich.enrichment_request (ip_address, provider) VALUES ('{address}', 'greynoise');
         INSERT INTO enrich.enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at)
             VALUES ('dshield', 'host', '{address}', 0, now()), ('spur', 'host', '{address}', 0, now());
         INSERT INTO enrich.job_address VALUES ('dshield', '{address}', 'host', '{address}');
         INSERT INTO enrich.enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at, last_error)
             VALUES ('greynoise', 'host', '1.0.0.1', 0, now(), 'no route to [{spelling}]:443') ON CONFLICT DO NOTHING;
         INSERT INTO enrich.dead_letter (provider, ip_address, lookup_kind, lookup_key, priority, attempts, last_error, requested_at)
             VALUES ('greynoise', '{address}', 'host', '{address}', 0, 5, 'bad answer', now()),
                    ('spur', (inet '1.0.0.0' + family('{address}')), 'host', host(inet '1.0.0.0' + family('{address}')), 0, 5,
                     'answer names {spelling}, not the address', now());
         INSERT INTO enrich.block_answer (provider, prefix, document, is_absent, asked_at)
             VALUES ('cymru', '{address}'::inet::cidr, '{{}}', false, now()),
                    ('greynoise', network(set_masklen('{address}'::inet, 24))::cidr,
                     jsonb_build_object('greynoise', jsonb_build_object('ip', '{spelling}')), false, now());
         INSERT INTO enrich.rejected_row (procedure, relation, row_key, reason, content)
             VALUES ('import_inventory', 'old', '{spelling}', 'of no use', NULL),
                    ('import_inventory', 'old', 'x{address}', 'the type is wrong', 'source: \"{spelling}/32\"');
         INSERT INTO enrich.incomplete_session VALUES ('sessions', '{address}');
         INSERT INTO enrich.session_completion (ip_address, rel) VALUES ('{address}', 'sessions');
         INSERT INTO enrich.session_delta VALUES ('{address}', 0, '2024-01-01', '2024-01-01');
         INSERT INTO enrich.procedure_call (procedure, relation, lock_kind, pid, phase, started_at, phase_started_at, updated_at, resume_at)
             VALUES ('old_' || family('{address}'), 0, 1, 1, 'x', now(), now(), now(), '{{\"after\": \"{spelling}\"}}');
         INSERT INTO enrich.block_answer (provider, prefix, document, is_absent, asked_at)
             VALUES ('cymru', network(set_masklen(inet '77.1.0.0' + family('{address}') * 256, 24))::cidr,
                     jsonb_build_object('cymru', jsonb_build_object('peer', 'x:{spelling}')), false, now());
         UPDATE enrich.asn_inventory SET enrichment = enrichment || '{{\"import\": {{\"note\": \"first seen at {spelling}\"}}}}'
             WHERE asn_number = (SELECT max(asn_number) FROM enrich.asn_inventory);
         UPDATE enrich.ip_inventory SET enrichment = enrichment || '{{\"spur\": {{\"ip\": \"{spelling}\"}}}}' WHERE ip_address = '{address}'"
    ));
    // Documents about other addresses.
    let document = format!(
        r#"{{"spur": {{"ip": "139.59.0.1", "peers": ["{spelling}", "1.1.1.1"]}},
            "_meta": {{"spur": {{"state": "failed", "error": "no route to [{spelling}]:443"}}}}}}"#
    );
    db.run(&format!(
        "UPDATE enrich.ip_inventory SET enrichment = enrichment || '{document}' WHERE ip_address = '139.59.0.1';
         BEGIN;
         SET LOCAL session_replication_role = replica;
         UPDATE sessions SET enrichment = COALESCE(enrichment, '{{}}') || '{document}' WHERE trim(id) IN ('d', 'f');
         UPDATE session_summaries SET enrichment = COALESCE(enrichment, '{{}}') || '{document}' WHERE session_id = 't';
         COMMIT"
    ));
}

/// Returns the documents that `spread` has written about other addresses.
fn documents_of_others(db: &mut Session) -> Vec<String> {
    db.rows(
        "SELECT DISTINCT d.enrichment -> 'spur', d.enrichment #> '{_meta,spur}'
         FROM (SELECT enrichment FROM enrich.ip_inventory WHERE ip_address = '139.59.0.1'
               UNION ALL SELECT enrichment FROM sessions WHERE trim(id) IN ('d', 'f')
               UNION ALL SELECT enrichment FROM session_summaries WHERE session_id = 't') d",
    )
}

#[test]
fn a_dump_contains_an_erased_address_in_no_form() {
    for delete in ["false", "true"] {
        let mut db = database();
        stored(&mut db);
        for (address, spelling) in [(V4, "::FFFF:8.8.8.8"), (V6, "2001:4860:4860:0000::8888")] {
            spread(&mut db, address, spelling);
            // Every kind of table has it.
            assert!(mentions(&db, address).len() >= 23, "{:#?}", mentions(&db, address));
            db.run(&format!("CALL erase_address('{address}', {delete})"));
            assert_eq!(mentions(&db, address), [""; 0], "delete_sessions => {delete}");
            // The rest of a document stays.
            assert_eq!(
                documents_of_others(&mut db),
                [format!(
                    r#"{{"ip": "139.59.0.1", "peers": ["{ERASED}", "1.1.1.1"]}}|{{"error": "{ERASED}", "state": "failed"}}"#
                )]
            );
            assert_eq!(
                db.one("SELECT result ->> 'documents' FROM procedure_call WHERE procedure = 'erase_address'"),
                // Three sessions, one address, one network and two blocks.
                "7"
            );
            assert_eq!(
                db.rows(&format!(
                    "SELECT procedure FROM procedure_call c WHERE mentions_address(c::text, '{{{address}}}')"
                )),
                [""; 0]
            );
        }
        assert_counts_are_exact(&mut db, &TABLES);
        // The lookups of other addresses stay.
        assert_eq!(db.number("SELECT count(*) FROM enrichment_job"), 1);
        assert_eq!(db.number("SELECT count(*) FROM dead_letter"), 4);
        // An exception for a wider prefix names a network.
        let note = "The note named an address that was erased.";
        assert_eq!(
            db.rows("SELECT COALESCE(prefix::text, asn_number::text), note FROM blocklist_exception ORDER BY prefix, asn_number"),
            [
                format!("8.8.8.0/24|{note}"),
                format!("2001:4860:4860::/48|{note}"),
                format!("64504|{note}"),
                format!("64506|{note}"),
                "64514|kept".to_owned(),
                "64516|kept".to_owned(),
            ]
        );
        assert_eq!(db.number("SELECT count(*) FROM suspended_owner"), 2);
        let (left, sessions) = if delete == "true" { ("c,d,f", "t") } else { ("a,b,c,d,e,f", "s,t,u,v") };
        assert_eq!(db.one("SELECT string_agg(trim(id), ',' ORDER BY id) FROM sessions"), left);
        assert_eq!(
            db.one("SELECT string_agg(session_id, ',' ORDER BY session_id) FROM session_summaries"),
            sessions
        );
        if delete == "false" {
            assert_eq!(
                db.rows(
                    "SELECT DISTINCT ip, snapshot_asn, snapshot_country, enrichment, enrichment_at FROM sessions
                     WHERE id IN ('a', 'b', 'e')"
                ),
                ["|NULL|NULL|NULL|NULL"]
            );
            assert_eq!(
                db.rows("SELECT DISTINCT source_ip, snapshot_asn FROM session_summaries WHERE session_id IN ('s', 'v')"),
                ["NULL|NULL"]
            );
        }
        assert_eq!(db.rows("SELECT snapshot_asn FROM sessions WHERE id = 'd'"), ["14061"]);
        assert_eq!(db.number("SELECT session_count FROM ip_inventory WHERE ip_address = '139.59.0.1'"), 2);
    }
}

/// A session whose address column has another text than an address belongs to each address that the text mentions.
#[test]
fn texts_in_the_address_column_that_mention_an_address_are_erased() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    let texts = [
        "8.8.8.8:4444",
        "[8.8.8.8]",
        "008.008.008.008",
        "8.8.8.8%eth0",
        "8.8.8.8,10.0.0.1",
        "\"8.8.8.8\"",
        "host-8-8-8-8.example.net",
        "8.8.8.80",
        "not an ip",
    ];
    let rows: Vec<(String, &str)> =
        texts.iter().enumerate().map(|(n, text)| (format!("k{n}"), *text)).collect();
    db.run(&COWRIE.insert(&rows.iter().map(|(key, text)| (key.as_str(), Some(*text))).collect::<Vec<_>>()));
    db.run("CALL erase_address('8.8.8.8')");
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_eq!(
        db.rows("SELECT trim(ip) FROM sessions WHERE trim(ip) <> '' ORDER BY id"),
        ["8.8.8.80", "not an ip"]
    );
    db.run("CALL expire_addresses('1 day', 'sessions')");
    assert_eq!(
        db.number("SELECT count(*) FROM sessions WHERE trim(ip) <> ''"),
        0,
        "the sessions are of 2024"
    );
    db.run("CALL expire_addresses('1 day', 'sessions', true)");
    assert_eq!(db.number("SELECT count(*) FROM sessions"), 0);
}

/// The digits of a build time are also the bytes and the value of an address.
#[test]
fn build_times_of_mmdb_files_are_kept_and_names_of_networks_are_erased() {
    let mut db = database();
    stored(&mut db);
    let documents = "SELECT ip_address::text, enrichment FROM ip_inventory
                     UNION ALL SELECT id, enrichment FROM sessions ORDER BY 1";
    let before = db.rows(documents);
    let epoch: i64 = db.number("SELECT (enrichment #>> '{maxmind,build_epoch}')::bigint FROM ip_inventory WHERE ip_address = '8.8.8.9'");
    let bits = u32::try_from(epoch).expect("a time of this century");
    let digits =
        u32::from_str_radix(&epoch.to_string()[2..], 16).expect("decimal digits are hexadecimal digits");
    for address in [bits, digits].map(std::net::Ipv4Addr::from) {
        db.run(&format!(
            "SELECT ensure_asn_inventory(64500, 'Customer of {address} Ltd');
             UPDATE asn_inventory SET as_name = 'AS-{}, SE' WHERE asn_number = 64500",
            address.to_string().replace('.', "-")
        ));
        db.run(&format!("CALL erase_address('{address}')"));
        assert_eq!(db.rows(documents), before, "{address}");
        assert_eq!(
            db.rows("SELECT organization_name, as_name FROM asn_inventory WHERE asn_number = 64500"),
            ["NULL|NULL"]
        );
        assert_eq!(
            db.one("SELECT result ->> 'documents' FROM procedure_call WHERE procedure = 'erase_address'"),
            "1"
        );
    }
    assert!(db.number("SELECT count(*) FROM asn_inventory WHERE organization_name IS NOT NULL") > 0);
}

#[test]
fn networks_lose_the_address_and_its_sessions() {
    let mut db = database();
    stored(&mut db);
    let of = "SELECT unique_ip_count, total_session_count FROM asn_inventory WHERE asn_number = 15169";
    assert_eq!(db.one(of), "3|7");
    db.run(&format!("CALL erase_address('{V4}')"));
    assert_eq!(db.one(of), "2|3");
    // The same from wrong counts: what the address had is taken off.
    db.run("UPDATE ip_inventory SET session_count = 40 WHERE ip_address = '8.8.8.9'");
    db.run("CALL refresh_session_counts()");
    db.run("CALL erase_address('8.8.8.9')");
    assert_eq!(db.one(of), "1|2");
    assert_counts_are_exact(&mut db, &TABLES);
    db.run("CALL refresh_session_counts()");
    assert_eq!(db.one(of), "1|2");
    // An address that is unknown, and one that is erased already.
    db.run(&format!("CALL erase_address('{V4}')"));
    db.run("CALL erase_address('192.0.2.1')");
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory WHERE ip_address <<= '192.0.2.0/24'"), 0);
    // New sessions of an erased address are ordinary sessions.
    db.run(&COWRIE.insert(&[("again", Some(V4))]));
    assert_eq!(COWRIE.snapshot(&mut db, "again"), "15169|US|NULL");
    assert_counts_are_exact(&mut db, &TABLES);
}

#[test]
fn tables_with_a_foreign_key_and_partitions_are_erased_too() {
    let mut db = database();
    db.run(
        "CREATE TABLE events (at timestamptz NOT NULL, peer inet) PARTITION BY RANGE (at);
         CREATE TABLE events_may PARTITION OF events FOR VALUES FROM ('2024-05-01') TO ('2024-06-01');
         CREATE TABLE events_june PARTITION OF events FOR VALUES FROM ('2024-06-01') TO ('2024-07-01');
         SELECT attach_session_table('events', 'peer', 'at', add_foreign_key => true);
         INSERT INTO events VALUES ('2024-05-03', '8.8.8.8'), ('2024-06-03', '8.8.8.8'), ('2024-06-04', '1.1.1.1')",
    );
    // A table with hand-written triggers may lack the index of the completion.
    db.run(
        "CREATE TABLE plain (peer inet); SELECT attach_session_table('plain', 'peer');
         INSERT INTO plain VALUES ('8.8.8.8');
         DO $$BEGIN EXECUTE (SELECT 'DROP INDEX ' || indexrelid::regclass FROM pg_index WHERE indrelid = 'plain'::regclass); END$$",
    );
    db.run("CALL erase_address('8.8.8.8')");
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_eq!(
        db.rows("SELECT peer, snapshot_asn IS NULL FROM events ORDER BY at"),
        ["NULL|t", "NULL|t", "1.1.1.1|f"]
    );
    assert_counts_are_exact(&mut db, &[("events", "peer"), ("plain", "peer")]);
}

/// Ends the inserts when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn live_inserts_of_the_same_and_of_other_addresses_keep_counts_exact() {
    let mut db = database();
    stored(&mut db);
    let is_over = AtomicBool::new(false);
    let handle = db.handle();
    std::thread::scope(|scope| {
        let inserts: Vec<_> = (0..3)
            .map(|client| {
                let (handle, is_over) = (&handle, &is_over);
                scope.spawn(move || {
                    let mut session = handle.session();
                    let mut stored = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        // Every tenth session is of the address that is being erased.
                        let address = if stored % 10 == 0 {
                            V4.to_owned()
                        } else {
                            format!("8.8.8.{}", 9 + stored % 40)
                        };
                        session.run(&COWRIE.insert(&[(&format!("{client}-{stored}"), Some(&address))]));
                        stored += 1;
                    }
                    stored
                })
            })
            .collect();
        // Also if an assertion fails: otherwise the inserts would never end.
        let over = Over(&is_over);
        for _ in 0..20 {
            db.run(&format!("CALL erase_address('{V4}')"));
            db.run("CALL erase_address('8.8.8.10')");
        }
        drop(over);
        let stored: Vec<i64> =
            inserts.into_iter().map(|insert| insert.join().expect("no insert fails")).collect();
        assert!(stored.iter().sum::<i64>() > 50, "{stored:?}");
        assert_eq!(db.number("SELECT count(*) FROM sessions") - 6, stored.iter().sum::<i64>());
    });
    assert_counts_are_exact(&mut db, &TABLES);
    db.run(&format!("CALL erase_address('{V4}')"));
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_counts_are_exact(&mut db, &TABLES);
    db.run("CALL refresh_session_counts()");
    assert_eq!(
        db.one("SELECT result -> 'addresses_corrected' FROM procedure_call WHERE procedure = 'refresh_session_counts'"),
        "0"
    );
}

#[test]
fn a_call_that_is_killed_and_called_again_ends_as_one_clean_run() {
    let cluster = cluster_with_world(&Options::named("erasure_kills").conf("restart_after_crash = on"));
    let mut db = fresh_database(&cluster);
    stored(&mut db);
    db.run(
        "INSERT INTO sessions (id, starttime, ip) SELECT n, '2024-05-01', '8.8.8.8' FROM generate_series(1, 12000) n",
    );
    let name = db.name.clone();
    drop(db);
    let mut phases = Vec::new();
    for hold in [
        "LOCK TABLE session_summaries",
        "SELECT FROM sessions WHERE id = 'locked' FOR UPDATE",
        "LOCK TABLE enrich.network_delta IN SHARE MODE",
        "SELECT FROM enrich.ip_inventory WHERE ip_address = '8.8.8.8' FOR UPDATE",
        "LOCK TABLE enrich.ip_asn_history IN SHARE MODE",
        "LOCK TABLE enrich.rejected_row IN SHARE MODE",
    ] {
        let mut holder = cluster.session(&name);
        // An earlier call may have erased all other sessions before it waited.
        holder.run(
            "INSERT INTO sessions (id, starttime, ip) VALUES ('locked', '2024-05-01', '8.8.8.8')
             ON CONFLICT (id) DO UPDATE SET ip = '8.8.8.8'",
        );
        holder.run(&format!("BEGIN; {hold}"));
        let mut caller = cluster.session(&name);
        let pid = caller.backend_pid();
        let running = std::thread::spawn(move || caller.try_run("CALL enrich.erase_address('8.8.8.8')"));
        wait_until(
            "the call waits",
            || {
                let waits = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
                (cluster.session(&name).number(&waits), running.is_finished())
            },
            |(waits, finished)| *waits == 1 || *finished,
        );
        assert!(!running.is_finished(), "it did not wait for {hold}: {:?}", running.join());
        phases.extend(cluster.session(&name).rows("SELECT phase FROM enrich.procedure_call"));
        cluster.kill_backend(pid);
        assert!(running.join().expect("the thread ends").is_err());
        drop(holder);
        let mut db = wait_for_server(&cluster, &name);
        assert_counts_are_exact(&mut db, &TABLES);
    }
    assert!(
        phases.contains(&"sessions".to_owned()) && phases.contains(&"inventories".to_owned()),
        "{phases:?}"
    );
    let mut db = Database::reconnected(&cluster, &name);
    db.run("CALL enrich.erase_address('8.8.8.8')");
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_eq!(db.number("SELECT count(*) FROM sessions WHERE ip = ''"), 12_003);
    assert_counts_are_exact(&mut db, &TABLES);
}

/// An address that a trigger of the owner puts back is not erased, and the calls say so.
#[test]
fn a_trigger_that_puts_the_address_back_makes_the_erasure_fail() {
    let mut db = database();
    stored(&mut db);
    db.run(
        "CREATE FUNCTION put_back() RETURNS trigger LANGUAGE plpgsql AS $f$
             BEGIN new.source_ip := coalesce(new.source_ip, old.source_ip); RETURN new; END $f$;
         CREATE TRIGGER a_put_back BEFORE UPDATE ON session_summaries
             FOR EACH ROW EXECUTE FUNCTION put_back()",
    );
    for call in ["CALL erase_address('8.8.8.8')", "CALL expire_addresses('1 day', 'session_summaries')"] {
        let refusal = db.refused(call);
        assert!(refusal.message.contains("session_summaries"), "{call}: {refusal:?}");
    }
    assert_ne!(db.number("SELECT count(*) FROM session_summaries WHERE source_ip = '8.8.8.8'"), 0);
    assert_counts_are_exact(&mut db, &TABLES);
    db.run("DROP TRIGGER a_put_back ON session_summaries");
    db.run("CALL erase_address('8.8.8.8')");
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_counts_are_exact(&mut db, &TABLES);
}

#[test]
fn a_trigger_that_puts_a_document_back_makes_the_erasure_fail() {
    let mut db = database();
    stored(&mut db);
    spread(&mut db, V4, V4);
    db.run(
        "CREATE FUNCTION put_back() RETURNS trigger LANGUAGE plpgsql AS $f$
             BEGIN new.enrichment := old.enrichment; RETURN new; END $f$;
         CREATE TRIGGER zzz_put_back BEFORE UPDATE ON session_summaries
             FOR EACH ROW WHEN (old.session_id = 't') EXECUTE FUNCTION put_back()",
    );
    let refusal = db.refused("CALL erase_address('8.8.8.8')");
    assert!(refusal.message.contains("session_summaries"), "{refusal:?}");
    db.run("DROP TRIGGER zzz_put_back ON session_summaries");
    db.run("CALL erase_address('8.8.8.8')");
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_counts_are_exact(&mut db, &TABLES);
}

/// Waits until a server that restarts after a kill accepts connections.
fn wait_for_server(cluster: &server_tests::Cluster, name: &str) -> Session {
    wait_until("the server is back", || cluster.try_session(name).is_ok(), |is_back| *is_back);
    cluster.session(name)
}

#[test]
fn owners_of_all_session_tables_can_erase_and_others_cannot() {
    let mut db = database();
    stored(&mut db);
    let owner = db.create_role("owner");
    db.run(&grants("docs/security.md", "honeypot_tables", &owner));
    db.run(&format!("ALTER TABLE sessions OWNER TO {owner}"));
    let mut session = db.session_as(&owner);
    let refusal = session.refused("CALL enrich.erase_address('8.8.8.8')");
    assert_eq!(refusal.code, "42501");
    assert!(refusal.message.contains("session_summaries"), "{refusal:?}");
    assert!(refusal.hint.is_some());
    assert_eq!(session.refused("CALL enrich.expire_addresses('1 day')").code, "42501");
    assert_eq!(session.refused("CALL enrich.expire_addresses('1 day', 'session_summaries')").code, "42501");
    assert_eq!(db.number("SELECT count(*) FROM sessions WHERE ip = ''"), 0);

    db.run(&format!("ALTER TABLE session_summaries OWNER TO {owner}"));
    session.run("CALL enrich.erase_address('8.8.8.8')");
    assert_eq!(mentions(&db, V4), [""; 0]);
    session.run("CALL enrich.expire_addresses('1 day')");
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory"), 0);
    assert_counts_are_exact(&mut db, &TABLES);
    let stranger = db.create_role("stranger");
    db.run(&format!("GRANT USAGE ON SCHEMA enrich TO {stranger}"));
    assert_eq!(db.session_as(&stranger).refused("CALL enrich.erase_address('8.8.8.8')").code, "42501");
}

#[test]
fn old_sessions_and_addresses_without_newer_ones_expire() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    for (time, rows) in [
        ("now() - interval '100 days'", "('old', '8.8.8.8'), ('both', '1.1.1.1'), ('twice', '139.59.0.1')"),
        ("now() - interval '1 day'", "('new', '1.1.1.1'), ('other', '89.160.20.1')"),
    ] {
        db.run(&format!(
            "INSERT INTO sessions (id, ip, starttime) SELECT id, ip, {time} FROM (VALUES {rows}) v(id, ip)"
        ));
    }
    db.run(
        "INSERT INTO session_summaries (session_id, source_ip, first_event_at) VALUES
             ('t', '139.59.0.1', now() - interval '80 days'), ('n', '8.8.4.4', NULL);
         SELECT enrich_ip('8.8.8.10');
         INSERT INTO ip_asn_history VALUES ('8.8.8.11', 15169, now() - interval '1 year', 'cymru')",
    );
    let known =
        |db: &mut Database<'_>| db.rows("SELECT host(ip_address) FROM ip_inventory ORDER BY ip_address");
    // One table only: the address with a session in the other table stays.
    db.run("CALL expire_addresses('90 days', 'sessions')");
    assert_eq!(
        db.rows("SELECT trim(id), ip FROM sessions ORDER BY id"),
        ["both|", "new|1.1.1.1", "old|", "other|89.160.20.1", "twice|"]
    );
    assert_eq!(known(&mut db), ["1.1.1.1", "8.8.4.4", "8.8.8.10", "89.160.20.1", "139.59.0.1"]);
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_counts_are_exact(&mut db, &TABLES);

    db.run("CALL expire_addresses('60 days', delete_sessions => true)");
    assert_eq!(mentions(&db, "8.8.8.11"), [""; 0]);
    assert_eq!(db.rows("SELECT session_id FROM session_summaries"), ["n"]);
    assert_eq!(known(&mut db), ["1.1.1.1", "8.8.4.4", "8.8.8.10", "89.160.20.1"]);
    assert_eq!(mentions(&db, "139.59.0.1"), [""; 0]);
    assert_counts_are_exact(&mut db, &TABLES);
    // An address without sessions expires by the time at which it was stored.
    db.run("UPDATE ip_inventory SET created_at = now() - interval '61 days' WHERE ip_address = '8.8.8.10'");
    db.run("CALL expire_addresses('60 days')");
    assert_eq!(known(&mut db), ["1.1.1.1", "8.8.4.4", "89.160.20.1"]);
    // The session whose time is unknown expires by the time at which it was enriched.
    assert_eq!(db.number("SELECT count(*) FROM session_summaries WHERE source_ip IS NOT NULL"), 1);
}

/// Sensors without a clock and hostile sensors send times that cannot be true.
#[test]
fn a_time_that_cannot_be_true_is_not_the_age_of_a_session() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(
        "INSERT INTO sessions (id, ip, starttime) VALUES
             ('past', '8.8.8.1', '1965-01-01'), ('future', '8.8.8.2', '2400-01-01'), ('old', '8.8.8.3', '1970-01-02'),
             ('unknown', '8.8.8.4', '1965-01-01');
         BEGIN;
         SET LOCAL session_replication_role = replica;
         UPDATE sessions SET enrichment_at = NULL WHERE trim(id) = 'unknown';
         COMMIT",
    );
    db.run("CALL expire_addresses('10 days')");
    let left = "SELECT trim(id) FROM sessions WHERE ip <> '' ORDER BY id";
    assert_eq!(db.rows(left), ["future", "past"]);
    db.run(
        "BEGIN;
         SET LOCAL session_replication_role = replica;
         UPDATE sessions SET enrichment_at = now() - interval '11 days';
         COMMIT;
         UPDATE ip_inventory SET created_at = now() - interval '11 days'",
    );
    db.run("CALL expire_addresses('10 days')");
    assert_eq!(db.rows(left), [""; 0]);
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory"), 0);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn documents_lose_addresses_that_expire() {
    let mut db = database();
    stored(&mut db);
    // A client cannot change the document of a session. Only the erasure can.
    db.run("UPDATE sessions SET enrichment = '{}' WHERE trim(id) = 'd'");
    assert_ne!(db.one("SELECT enrichment FROM sessions WHERE trim(id) = 'd'"), "{}");
    db.run("UPDATE sessions SET starttime = now() WHERE trim(id) IN ('c', 'd'); UPDATE session_summaries SET first_event_at = now()");
    db.run("DELETE FROM session_summaries WHERE source_ip <> '139.59.0.1'");
    spread(&mut db, V4, "8[.]8[.]8[.]8");
    db.run("CALL refresh_session_counts()");
    db.run("DELETE FROM blocklist_exception");
    db.run("CALL expire_addresses('1 day')");
    assert_eq!(
        documents_of_others(&mut db),
        [format!(
            r#"{{"ip": "139.59.0.1", "peers": ["{ERASED}", "1.1.1.1"]}}|{{"error": "{ERASED}", "state": "failed"}}"#
        )]
    );
    assert_eq!(mentions(&db, V4), [""; 0]);
}

/// The owner of a session table has no rights on rows of other roles.
#[test]
fn a_call_for_one_table_erases_no_exception_and_no_history_of_other_tables() {
    let mut db = database();
    SUMMARIES.create_attached(&mut db);
    db.run(
        "INSERT INTO session_summaries (session_id, source_ip, first_event_at)
             VALUES ('a', '8.8.8.1', now() - interval '100 days'), ('b', '8.8.8.2', now() - interval '100 days');
         INSERT INTO ip_asn_history VALUES ('8.8.8.11', 15169, now() - interval '1 year', 'cymru');
         INSERT INTO blocklist_exception (prefix, added_at)
             SELECT a, now() - interval '1 year' FROM unnest('{8.8.8.2,192.0.2.7}'::cidr[]) a",
    );
    db.run("CALL expire_addresses('90 days', 'session_summaries')");
    assert_eq!(db.rows("SELECT host(ip_address) FROM ip_inventory"), ["8.8.8.2"]);
    assert_eq!(
        db.rows("SELECT prefix FROM blocklist_exception ORDER BY prefix"),
        ["8.8.8.2/32", "192.0.2.7/32"]
    );
    assert_eq!(db.number("SELECT count(*) FROM ip_asn_history WHERE ip_address = '8.8.8.11'"), 1);
    db.run("CALL expire_addresses('90 days')");
    assert_eq!(db.number("SELECT count(*) FROM blocklist_exception"), 0);
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory"), 0);
}

#[test]
fn an_exception_of_the_blocklist_expires_with_its_address() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(
        "INSERT INTO sessions (id, ip, starttime)
             SELECT 's' || n, '8.8.8.' || n, now() - interval '100 days' FROM generate_series(1, 3) n;
         INSERT INTO sessions (id, ip, starttime) VALUES ('s4', '8.8.8.4', now());
         INSERT INTO blocklist_exception (prefix, added_at) VALUES
             ('8.8.8.1', now() - interval '91 days'),
             -- The entries of these three stay.
             ('8.8.8.2', now() - interval '89 days'), ('8.8.8.3', 'infinity'), ('8.8.8.4', now() - interval '1 year'),
             -- These addresses have no sessions.
             ('8.8.8.5', now() - interval '91 days'), ('8.8.8.6', now()), ('2001:db8::1', now() - interval '91 days'),
             ('8.8.8.0/24', now() - interval '91 days'), ('2001:db8::/64', now() - interval '91 days')",
    );
    db.run("CALL expire_addresses('90 days')");
    assert_eq!(
        db.rows("SELECT prefix FROM blocklist_exception ORDER BY prefix"),
        ["8.8.8.0/24", "8.8.8.2/32", "8.8.8.3/32", "8.8.8.4/32", "8.8.8.6/32", "2001:db8::/64"]
    );
    assert_eq!(
        db.rows("SELECT host(ip_address) FROM ip_inventory ORDER BY ip_address"),
        ["8.8.8.2", "8.8.8.3", "8.8.8.4"]
    );
    assert_eq!(mentions(&db, "8.8.8.1"), [""; 0]);
    assert_eq!(mentions(&db, "8.8.8.5"), [""; 0]);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

const STATUS: &str =
    "SELECT failed_calls, last_expiry IS NOT NULL, is_scheduled FROM enrich.erasure_status()";

#[test]
fn failed_calls_show_until_they_are_repeated() {
    let options = Options::named("erasure_status").with_worker().conf("cowrie_enrich.worker_naptime = 100ms");
    let cluster = cluster_with_world(&options);
    let mut db = fresh_database(&cluster);
    stored(&mut db);
    assert_eq!(db.one(STATUS), "0|f|f");
    // A table cron.job of another owner is ignored.
    db.run(
        "CREATE SCHEMA cron; CREATE TABLE cron.job (active boolean, database text, command text);
         INSERT INTO cron.job VALUES (true, current_database(), 'CALL enrich.expire_addresses(''1 day'')')",
    );
    assert_eq!(db.one(STATUS), "0|f|f");
    db.run("ALTER TABLE sessions DISABLE TRIGGER ALL");
    db.refused("CALL expire_addresses('1 day')");
    assert_eq!(db.one(STATUS), "1|f|f");
    db.refused("CALL erase_address('8.8.8.8')");
    assert_eq!(db.one(STATUS), "2|f|f");
    let metrics = "SELECT string_agg(name || ' ' || (value > 0), ' ' ORDER BY name) FROM enrich.enrich_metrics
                   WHERE (name LIKE 'enrich_era%' OR name LIKE 'enrich_exp%') AND labels ->> 'database' = current_database()";
    let none = "enrich_erasures_failed false enrich_expiry_last_success_timestamp_seconds false enrich_expiry_scheduled false";
    let failed = none.replacen("false", "true", 1);
    wait_until("the metrics show the calls", || db.one(metrics), |shown| *shown == failed);
    db.run("ALTER TABLE sessions ENABLE TRIGGER ALL");

    // A running call does not count as failed.
    let mut holder = db.another();
    holder.run("BEGIN; LOCK TABLE session_summaries");
    let mut caller = db.another();
    let pid = caller.backend_pid();
    let running = std::thread::spawn(move || caller.try_run("CALL enrich.erase_address('8.8.8.8')"));
    let waits = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
    wait_until("the call waits", || db.number(&waits), |waits| *waits == 1);
    assert_eq!(db.one(STATUS), "1|f|f");
    cluster.session(&db.name).run(&format!("SELECT pg_cancel_backend({pid})"));
    assert!(running.join().expect("no panic").is_err());
    assert_eq!(db.one(STATUS), "2|f|f", "a cancelled call has failed");
    holder.run("ROLLBACK");
    // The calls for other addresses do not hide the failed call, and no row has the address.
    db.run("CALL erase_address('8.8.8.9')");
    db.run("CALL erase_address('2001:4860:4860::8888')");
    assert_eq!(db.one(STATUS), "2|f|f");
    let unfinished =
        "SELECT count(*), bool_or(mentions_address(u::text, '{8.8.8.8}')) FROM unfinished_erasure u";
    assert_eq!(db.one(unfinished), "2|f");
    assert!(!std::fs::read_to_string(db.dump("plain")).expect("a dump").contains("erase_address"));
    db.run("CALL erase_address('8.8.8.8')");
    assert_eq!(db.one(STATUS), "1|f|f");
    // A call for a longer age does not repeat the failed call.
    db.run("CALL expire_addresses('2 days')");
    assert_eq!(db.one(STATUS), "1|t|f");

    // A call for one table does not count, because the scheduled job calls the procedure for all tables.
    db.run("CALL expire_addresses('1 day', 'sessions')");
    assert_eq!(db.one(STATUS), "1|t|f");
    db.run("CALL expire_addresses('1 day')");
    assert_eq!(db.one(STATUS), "0|t|f");
    let fine = none.replace("timestamp_seconds false", "timestamp_seconds true");
    wait_until("the metrics show the expiry", || db.one(metrics), |shown| *shown == fine);
    // The end of the last complete call stays known, and a table that is gone has no failed call.
    db.run("ALTER TABLE session_summaries DISABLE TRIGGER ALL");
    db.refused("CALL expire_addresses('1 day')");
    db.refused("CALL expire_addresses('1 day', 'session_summaries')");
    assert_eq!(db.one(STATUS), "2|t|f");
    db.run("DROP TABLE session_summaries");
    db.run("CALL expire_addresses('1 day')");
    assert_eq!(db.one(STATUS), "0|t|f");
}

#[test]
fn a_call_that_could_miss_a_session_is_refused_before_it_erases() {
    let mut db = database();
    stored(&mut db);
    for (call, code) in [
        ("erase_address(NULL)", "22004"),
        ("erase_address('8.8.8.0/24')", "22023"),
        ("erase_address('8.8.8.8', NULL)", "22004"),
        ("expire_addresses(NULL)", "22004"),
        ("expire_addresses('0')", "22023"),
        ("expire_addresses('-1 day')", "22023"),
        ("expire_addresses('300000 years')", "22023"),
        ("expire_addresses('1 day', 'pg_class')", "55000"),
    ] {
        assert_eq!(db.refused(&format!("CALL {call}")).code, code, "{call}");
    }
    assert_eq!(
        db.refused("DO $$BEGIN CALL enrich.erase_address('8.8.8.8'); COMMIT; END$$; SELECT 1").code,
        "25001"
    );
    let third = db.create_role("third");
    for (spoil, repair, code) in [
        ("ALTER TABLE sessions DISABLE TRIGGER ALL", "ALTER TABLE sessions ENABLE TRIGGER ALL", "55000"),
        ("ALTER TABLE sessions RENAME ip TO peer", "ALTER TABLE sessions RENAME peer TO ip", "55000"),
        (
            &format!(
                "CREATE FUNCTION third() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
                 ALTER FUNCTION third() OWNER TO {third};
                 CREATE TRIGGER t BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION third()"
            ),
            "DROP FUNCTION third() CASCADE",
            "55000",
        ),
        (
            "CREATE FUNCTION stays() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER t BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION stays()",
            "DROP FUNCTION stays() CASCADE",
            "55000",
        ),
        ("CREATE RULE r AS ON UPDATE TO sessions DO INSTEAD NOTHING", "DROP RULE r ON sessions", "0A000"),
    ] {
        db.run(spoil);
        let refusal = db.refused("CALL erase_address('8.8.8.8')");
        assert_eq!(refusal.code, code, "{spoil}: {refusal:?}");
        assert!(refusal.hint.is_some(), "{spoil}: {refusal:?}");
        db.run(repair);
        assert_eq!(db.number("SELECT count(*) FROM sessions s WHERE s.ip = ''"), 0, "{spoil}");
    }
    db.run("DELETE FROM session_summaries WHERE source_ip IS NULL; ALTER TABLE session_summaries ALTER source_ip SET NOT NULL");
    let refusal = db.refused("CALL erase_address('8.8.8.8')");
    assert_eq!(refusal.code, "23502");
    assert!(refusal.hint.is_some());
    db.run("CALL erase_address('8.8.8.8', delete_sessions => true)");
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_counts_are_exact(&mut db, &TABLES);
}

/// The unit tests of `engine::mention` have all forms.
#[test]
fn every_spelling_of_an_address_in_a_text_is_found() {
    let mut db = database();
    for (text, is_named) in [
        ("8.8.8.8", true),
        ("{\"ip\": \"8.8.8.8/32\"}", true),
        ("::ffff:808:808", true),
        ("bytes \\x08080808", true),
        ("ff0808080808ff", true),
        ("1.2.3.4:8.8.8.8", true),
        ("hxxp://8[.]8[.]8(.)8/", true),
        ("8.8.8.8.in-addr.arpa", true),
        ("peer:2001:db8::1", true),
        ("2001\\u003adb8%3A%3A1", true),
        ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", true),
        ("20010db8000000000000000000000002", false),
        ("8.8.8.80", false),
        ("18.8.8.8", false),
        ("8.8.8.0/24", false),
        ("", false),
    ] {
        let found = db.one(&format!("SELECT mentions_address('{text}', '{{8.8.8.8,2001:db8::1}}')"));
        assert_eq!(found == "t", is_named, "{text}");
    }
    assert_eq!(
        db.one("SELECT mentions_address(NULL, '{8.8.8.8}'), mentions_address('8.8.8.8', NULL)"),
        "f|f"
    );
}
