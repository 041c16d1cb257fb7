//! Sessions and tables with an address in every place where it can be, and the search for it in a dump.

use std::net::IpAddr;

use crate::database::Database;
use crate::hosts::{COWRIE, SUMMARIES};
use crate::session::Session;

/// The session tables that [`stored`] creates, and their address columns.
pub const TABLES: [(&str, &str); 2] = [("sessions", "ip"), ("session_summaries", "source_ip")];
/// Replaces a text that mentioned an address.
pub const ERASED: &str = "The text named an address that was erased.";
/// An address that [`stored`] stores.
pub const V4: &str = "8.8.8.8";
/// An IPv6 address that [`stored`] stores.
pub const V6: &str = "2001:4860:4860::8888";

/// Returns the bytes of an address in hex.
fn hex(address: &str) -> String {
    let octets = match address.parse().expect("an address") {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    octets.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the lines of a dump in which a word can be read as the address, or which contain its bytes in hex.
pub fn mentions(db: &Database<'_>, address: &str) -> Vec<String> {
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
pub fn stored(db: &mut Session) {
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
pub fn spread(db: &mut Session, address: &str, spelling: &str) {
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
pub fn documents_of_others(db: &mut Session) -> Vec<String> {
    db.rows(
        "SELECT DISTINCT d.enrichment -> 'spur', d.enrichment #> '{_meta,spur}'
         FROM (SELECT enrichment FROM enrich.ip_inventory WHERE ip_address = '139.59.0.1'
               UNION ALL SELECT enrichment FROM sessions WHERE trim(id) IN ('d', 'f')
               UNION ALL SELECT enrichment FROM session_summaries WHERE session_id = 't') d",
    )
}
