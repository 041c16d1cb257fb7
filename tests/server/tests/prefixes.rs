//! Sessions by prefix: which prefix an address belongs to, and how densely a prefix attacks.

use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::{Database, database};

/// Stores the answer of Team Cymru about an address.
fn announce(db: &mut Database<'_>, address: &str, prefix: &str) {
    db.run(&format!(
        "UPDATE ip_inventory SET enrichment = enrichment || jsonb_build_object('cymru', jsonb_build_object('prefix', '{prefix}'))
         WHERE ip_address = '{address}'"
    ));
}

fn sessions(db: &mut Database<'_>, day: &str, addresses: &[&str]) {
    let before = db.number("SELECT count(*) FROM sessions");
    let keys: Vec<String> = (0..addresses.len()).map(|n| format!("s{}", n as i64 + before)).collect();
    let rows: Vec<_> = keys.iter().zip(addresses).map(|(key, ip)| (key.as_str(), Some(*ip))).collect();
    db.run(&COWRIE.insert_at(day, &rows));
    db.run("CALL fold_statistics()");
}

const ALL: &str = "prefix, is_announced, asn_number, organization_name, sessions, addresses, density, first_seen, last_seen";

#[test]
fn sessions_are_grouped_by_the_announced_prefix_or_else_by_24_and_48() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    sessions(
        &mut db,
        "2024-05-01",
        &["8.8.8.8", "8.8.8.8", "8.8.8.9", "139.59.0.1", "2001:4860::1", "not an ip"],
    );
    sessions(
        &mut db,
        "2024-05-03",
        &["8.8.4.4", "::ffff:8.8.8.8", "2001:4860::2", "2001:4860:0:1::1", "10.0.0.1"],
    );
    announce(&mut db, "8.8.8.8", "8.8.0.0/20");
    assert_eq!(
        db.rows(&format!("SELECT {ALL} FROM prefix_activity('sessions')")),
        [
            // 8.8.4.4 and 8.8.8.9 have no answer, and are in a known prefix.
            "8.8.0.0/20|t|15169|GOOGLE|5|3|0.000732421875|2024-05-01 00:00:00+00|2024-05-03 00:00:00+00",
            // Of three addresses, two are in the same /64.
            "2001:4860::/48|f|15169|GOOGLE|3|3|3.0517578125e-05|2024-05-01 00:00:00+00|2024-05-03 00:00:00+00",
            "10.0.0.0/24|f|NULL|NULL|1|1|0.00390625|2024-05-03 00:00:00+00|2024-05-03 00:00:00+00",
            "139.59.0.0/24|f|14061|DIGITALOCEAN-ASN|1|1|0.00390625|2024-05-01 00:00:00+00|2024-05-01 00:00:00+00",
        ]
    );
    assert_eq!(
        db.rows("SELECT prefix, sessions, addresses FROM prefix_activity('sessions', '2024-05-02')"),
        ["8.8.0.0/20|2|2", "2001:4860::/48|2|2", "10.0.0.0/24|1|1"]
    );
}

#[test]
fn the_longest_known_prefix_of_documents_and_block_answers_wins() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    sessions(&mut db, "2024-05-01", &["8.8.8.8", "8.8.8.9", "8.8.4.4", "9.9.9.9"]);
    announce(&mut db, "8.8.8.8", "8.8.0.0/20");
    db.run(
        "INSERT INTO block_answer (provider, prefix, document, is_absent, asked_at) VALUES
             ('cymru', '8.8.4.0/24', '{\"cymru\": {\"prefix\": \"8.8.4.0/22\"}}', false, now()),
             ('cymru', '9.9.9.0/24', '{\"cymru\": {\"prefix\": \"0.0.0.0/0\"}}', false, now())",
    );
    assert_eq!(
        db.rows("SELECT prefix, is_announced, addresses FROM prefix_activity('sessions') ORDER BY prefix"),
        ["8.8.0.0/20|t|2", "8.8.4.0/22|t|1", "9.9.9.0/24|f|1"]
    );
    // A document with any values makes no query fail.
    for prefix in ["nonsense", "8.8.8.8", "8.8.8.0/99", "", "1.0.0.0/8"] {
        announce(&mut db, "8.8.8.8", prefix);
        assert_eq!(
            db.one("SELECT prefix FROM prefix_activity('sessions') WHERE prefix >>= '8.8.8.8'"),
            "8.8.8.0/24",
            "{prefix}"
        );
    }
    assert_eq!(
        db.rows(
            "SELECT announced_prefix(d::jsonb) FROM (VALUES ('{}'), ('[]'), ('{\"cymru\": 1}'), ('{\"cymru\": {\"prefix\": 24}}'),
                 ('{\"cymru\": {\"prefix\": \"8.0.0.0/7\"}}'), ('{\"cymru\": {\"prefix\": \"8.0.0.0/8\"}}'),
                 ('{\"cymru\": {\"prefix\": \"2000::/15\"}}'), ('{\"cymru\": {\"prefix\": \"2600::/16\"}}')) v(d)"
        ),
        ["NULL", "NULL", "NULL", "NULL", "NULL", "8.0.0.0/8", "NULL", "2600::/16"]
    );
}

#[test]
fn sizes_are_addresses_of_ipv4_and_64s_of_ipv6() {
    let mut db = database();
    assert_eq!(
        db.rows(
            "SELECT p, prefix_size(p::cidr) FROM (VALUES ('8.8.8.8/32'), ('8.8.8.0/24'), ('8.0.0.0/8'), ('2600::/48'), ('2600::/64'),
                 ('2600::1/128'), ('2600::/16')) v(p)"
        ),
        [
            "8.8.8.8/32|1",
            "8.8.8.0/24|256",
            "8.0.0.0/8|16777216",
            "2600::/48|65536",
            "2600::/64|1",
            "2600::1/128|1",
            "2600::/16|281474976710656"
        ]
    );
}

#[test]
fn a_table_without_a_time_column_has_no_since() {
    let mut db = database();
    db.run("CREATE TABLE bare (ip inet); SELECT attach_session_table('bare', 'ip'); INSERT INTO bare VALUES ('8.8.8.8')");
    assert_eq!(db.rows("SELECT prefix, sessions FROM prefix_activity('bare')"), ["8.8.8.0/24|1"]);
    let refusal = db.refused("SELECT * FROM prefix_activity('bare', '2024-05-01')");
    assert_eq!(
        (refusal.code.as_str(), refusal.message.as_str()),
        ("22023", "could not select the sessions of \"bare\" by time")
    );
    db.run("CREATE TABLE other (ip inet)");
    for call in ["prefix_activity('other')", "prefix_activity('other', '2024-05-01')"] {
        assert_eq!(db.refused(&format!("SELECT * FROM {call}")).code, "55000");
    }
    assert_eq!(db.refused("SELECT * FROM prefix_activity(NULL)").code, "22004");
}

#[test]
fn partitions_and_column_names_with_quotes_have_a_since() {
    let mut db = database();
    db.run(
        "CREATE TABLE events (\"at %'\" timestamp NOT NULL, \"peer s\" varchar(61)) PARTITION BY RANGE (\"at %'\");
         CREATE TABLE events_may PARTITION OF events FOR VALUES FROM ('2024-05-01') TO ('2024-06-01');
         CREATE TABLE events_june PARTITION OF events FOR VALUES FROM ('2024-06-01') TO ('2024-07-01');
         SELECT attach_session_table('events', 'peer s', 'at %''');
         INSERT INTO events VALUES ('2024-05-03', '8.8.8.8'), ('2024-06-03', '8.8.8.8'), ('2024-06-09', '8.8.8.8')",
    );
    for (rel, since, sessions) in [
        ("events", "2024-05-04", 2),
        ("events_june", "2024-06-04", 1),
        ("events", "-infinity", 3),
        ("events", "2024-06-03 00:00:00.000001+00", 1),
    ] {
        for style in ["ISO", "SQL, DMY", "German", "Postgres, MDY"] {
            db.run(&format!("SET datestyle = '{style}'"));
            let found =
                db.number(&format!("SELECT sum(sessions)::bigint FROM prefix_activity('{rel}', '{since}')"));
            assert_eq!(found, sessions, "{rel} {since} {style}");
        }
        db.run("RESET datestyle");
    }
    assert_eq!(db.rows("SELECT * FROM prefix_activity('events', 'infinity')"), [""; 0]);
}

#[test]
fn policies_and_rights_of_the_reader_hold() {
    let mut db = database();
    SUMMARIES.create_attached(&mut db);
    db.run(&SUMMARIES.insert(&[("a", Some("8.8.8.8")), ("b", Some("139.59.0.1"))]));
    let role = db.create_role("reader");
    db.run(&format!(
        "GRANT USAGE ON SCHEMA enrich TO {role};
         GRANT EXECUTE ON FUNCTION prefix_activity(regclass, timestamptz, text) TO {role}"
    ));
    let mut session = db.session_as(&role);
    let call = "SELECT prefix, sessions FROM enrich.prefix_activity('session_summaries')";
    for grant in [
        "EXECUTE ON FUNCTION session_prefixes(regclass, timestamptz, text)",
        "EXECUTE ON FUNCTION campaign_addresses(regclass, text, text, timestamptz)",
        "SELECT ON ip_inventory",
        "SELECT ON asn_inventory",
        "SELECT ON block_answer",
        "SELECT ON session_summaries",
    ] {
        assert_eq!(session.refused(call).code, "42501", "without {grant}");
        db.run(&format!("GRANT {grant} TO {role}"));
    }
    assert_eq!(session.rows(call), ["8.8.8.0/24|1", "139.59.0.0/24|1"]);
    db.run(&format!(
        "ALTER TABLE session_summaries ENABLE ROW LEVEL SECURITY;
         CREATE POLICY indian ON session_summaries TO {role} USING (snapshot_country = 'IN')"
    ));
    assert_eq!(session.rows(call), ["139.59.0.0/24|1"]);
}
