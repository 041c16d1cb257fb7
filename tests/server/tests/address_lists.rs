//! `lookup_ips()` reads lists of addresses: the accepted lines and the returned rows. The call writes nothing and queues no lookup.

use cowrie_enrich_test_mmdb::types::TypesFile;
use server_tests::database;
use server_tests::documentation::sql_with;
use server_tests::hosts::COWRIE;
use server_tests::type_files::{DAY, HOUR, ago, server, with_file};

#[test]
fn each_line_of_a_list_gets_a_row_in_the_order_of_the_list() {
    let mut db = database();
    assert_eq!(
        db.rows(
            "SELECT line, input, ip_address, error
             FROM lookup_ips(ARRAY['8.8.8.8', '# a comment', '', NULL, ' [2001:db8::7]:22 ', '8.8.8.8:53', '10.0.0.0/8',
                 'example.com', '1.2.3.04', '1[.]1[.]1[.]1', '8.8.8.8 DNS', '::ffff:8.8.4.4', '8.8.8.8:x'])"
        ),
        [
            "1|8.8.8.8|8.8.8.8|NULL",
            "2|# a comment|NULL|NULL",
            "3||NULL|NULL",
            "4|NULL|NULL|NULL",
            "5| [2001:db8::7]:22 |2001:db8::7|NULL",
            "6|8.8.8.8:53|8.8.8.8|NULL",
            "7|10.0.0.0/8|NULL|text is a prefix, not a single address",
            "8|example.com|NULL|text is not an IPv4 or IPv6 address",
            "9|1.2.3.04|NULL|IPv4 address has a number with a leading zero",
            "10|1[.]1[.]1[.]1|1.1.1.1|NULL",
            "11|8.8.8.8 DNS|NULL|text follows the address",
            "12|::ffff:8.8.4.4|8.8.4.4|NULL",
            "13|8.8.8.8:x|NULL|port is not a number from 0 to 65535",
        ]
    );
    assert_eq!(db.rows("SELECT * FROM lookup_ips('{}')"), [""; 0]);
    assert_eq!(db.rows("SELECT * FROM lookup_ips(NULL)"), [""; 0]);
}

const EVERYTHING: &str =
    "ip_address, is_bogon, bogon_reason, ip_types, country, region, city, latitude, longitude, asn_number,
     organization_name, asn_type, rir_registry, is_scanner, is_known, session_count, first_seen, last_seen";

#[test]
fn an_address_has_the_data_of_the_files_and_of_the_inventories() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert_at("2024-05-01", &[("a", Some("8.8.8.8"))]));
    db.run(&COWRIE.insert_at("2024-05-03", &[("b", Some("8.8.8.8"))]));
    db.run("CALL fold_statistics()");
    assert_eq!(
        db.rows(&format!(
            "SELECT {EVERYTHING} FROM lookup_ips('{{8.8.8.8,139.59.0.1,10.0.0.1,48.0.0.1,x}}')"
        )),
        [
            "8.8.8.8|f|NULL|{}|US|California|Mountain View|12.5|-7.25|15169|GOOGLE|HOSTING|ARIN|f|t|2|2024-05-01 00:00:00+00|2024-05-03 00:00:00+00",
            "139.59.0.1|f|NULL|{}|IN|NULL|Bengaluru|12.5|-7.25|14061|DIGITALOCEAN-ASN|NULL|ARIN|NULL|f|0|NULL|NULL",
            "10.0.0.1|t|private-use (RFC 1918)|{}|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|f|0|NULL|NULL",
            "48.0.0.1|f|NULL|{}|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|f|0|NULL|NULL",
            "NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL",
        ]
    );
    db.run(
        "SELECT ensure_asn_inventory(64500, 'Example VPN', 'SE', 'RIPE');
         INSERT INTO ip_inventory (ip_address, current_asn, session_count, enrichment) VALUES
             ('48.0.0.1', 64500, 7, '{\"spur\": {\"infrastructure\": \"DATACENTER\", \"tunnels\": [{\"type\": \"VPN\"}]},
              \"cymru\": {\"country\": \"SE\"}, \"greynoise\": {\"noise\": true}}')",
    );
    assert_eq!(
        db.rows(&format!("SELECT {EVERYTHING} FROM lookup_ips('{{48.0.0.1}}')")),
        [
            "48.0.0.1|f|NULL|{VPN,DATACENTER}|SE|NULL|NULL|NULL|NULL|64500|Example VPN|UNKNOWN|RIPE|t|t|7|NULL|NULL"
        ]
    );
    // The inventory is newer than the file of networks.
    db.run("UPDATE ip_inventory SET current_asn = 64500 WHERE ip_address = '8.8.8.8'");
    assert_eq!(
        db.rows("SELECT asn_number, organization_name, country FROM lookup_ips('{8.8.8.8}')"),
        ["64500|Example VPN|US"]
    );
}

#[test]
fn the_types_of_files_and_of_answers_are_returned_once_by_precedence() {
    let cluster = server("address-list-types");
    let file = TypesFile::new()
        .list("tor", "TOR", ago(HOUR))
        .list("aws", "DATACENTER", ago(HOUR))
        .list("mine", "MINE", ago(HOUR))
        .list("stale", "PROXY", ago(8 * DAY));
    let file = ["tor", "aws", "mine", "stale"].iter().fold(file, |file, list| file.entry(list, "8.8.8.0/24"));
    let mut db = with_file(&cluster, &file.entry("mine", "10.0.0.0/8").entry("tor", "48.0.0.2/32"));
    db.run(
        "INSERT INTO ip_inventory (ip_address, enrichment) VALUES
             ('8.8.8.8', '{\"spur\": {\"infrastructure\": \"DATACENTER\", \"tunnels\": [{\"type\": \"VPN\"}, {\"type\": \"OTHER\"}]}}'),
             ('48.0.0.1', '{\"spur\": {\"infrastructure\": \"DATACENTER\"}}')",
    );
    assert_eq!(
        db.rows("SELECT ip_types FROM lookup_ips('{8.8.8.8,8.8.8.9,48.0.0.1,48.0.0.2,48.0.0.3,10.0.0.1,x}')"),
        [
            "{VPN,TOR,DATACENTER,OTHER,MINE}",
            "{TOR,DATACENTER,MINE}",
            "{DATACENTER}",
            "{TOR}",
            "{}",
            "{}",
            "NULL"
        ]
    );
}

#[test]
fn a_list_is_looked_up_without_a_write_and_without_a_request() {
    let mut db = database();
    db.run("BEGIN TRANSACTION READ ONLY");
    assert_eq!(db.number("SELECT asn_number FROM lookup_ips('{8.8.8.8,48.0.0.1}') WHERE line = 1"), 15169);
    assert_eq!(db.one("SELECT pg_current_xact_id_if_assigned()"), "NULL");
    db.run("COMMIT");
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory"), 0);
    assert_eq!(db.number("SELECT count(*) FROM enrichment_request"), 0);
}

#[test]
fn a_long_list_keeps_its_order_and_reads_the_inventory_by_its_key() {
    let mut db = database();
    db.run(
        "INSERT INTO ip_inventory (ip_address, session_count)
             SELECT '16.0.0.0'::inet + n, n FROM generate_series(0, 19999) n;
         ANALYZE ip_inventory",
    );
    assert_eq!(
        db.one(
            "SELECT count(*), count(*) FILTER (WHERE l.line = l.position), sum(session_count)
             FROM (SELECT *, row_number() OVER () AS position FROM lookup_ips(ARRAY(
                 SELECT host('16.0.0.0'::inet + n * 7 % 10000) FROM generate_series(0, 9999) n))) l"
        ),
        "10000|10000|49995000"
    );
    let mut session = db.another();
    session.run("BEGIN");
    session.run("SELECT count(*) FROM lookup_ips('{16.0.0.1,16.0.0.2}')");
    assert_eq!(
        session.one(
            "SELECT seq_scan, idx_scan > 0 FROM pg_stat_xact_all_tables WHERE relid = 'ip_inventory'::regclass"
        ),
        "0|t"
    );
}

/// The commands of the page, with a file that has everything that makes COPY stumble.
#[test]
fn the_commands_of_the_page_read_a_file_and_write_a_file() {
    let db = database();
    let commands = sql_with("docs/enrich-a-list.md", "\\copy").replace("cowrie_enrich.", "enrich.");
    let directory = db.cluster.files().join(&db.name);
    std::fs::create_dir_all(&directory).expect("the directory can be created");
    std::fs::write(directory.join("commands.sql"), commands).expect("the file can be written");
    std::fs::write(
        directory.join("addresses.txt"),
        "8.8.8.8\r\n# list\r\n\r\n\\N\r\n\"1.1.1.1\",\r\n10.0.0.1\tx\r\n",
    )
    .expect("the file can be written");
    let output = db
        .cluster
        .program("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "commands.sql", "-d", &db.name])
        .current_dir(&directory)
        .output()
        .expect("psql runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let written = std::fs::read_to_string(directory.join("enriched.csv")).expect("the file was written");
    let rows: Vec<&str> = written.lines().collect();
    assert!(rows[0].starts_with("line,input,ip_address,error,is_bogon,"), "{written}");
    assert_eq!(
        rows[1..],
        [
            "1,8.8.8.8,8.8.8.8,,f,,{},US,California,Mountain View,12.5,-7.25,15169,GOOGLE,,ARIN,,f,0,,",
            "2,# list,,,,,,,,,,,,,,,,,,,",
            "3,,,,,,,,,,,,,,,,,,,,",
            "4,\\N,,text is not an IPv4 or IPv6 address,,,,,,,,,,,,,,,,,",
            "5,\"\"\"1.1.1.1\"\",\",1.1.1.1,,f,,{},AU,,Sydney,12.5,-7.25,13335,CLOUDFLARENET,,ARIN,,f,0,,",
            "6,10.0.0.1\tx,,text follows the address,,,,,,,,,,,,,,,,,",
        ]
    );
}

#[test]
fn a_role_needs_rights_on_the_inventories_only() {
    let mut db = database();
    let role = db.create_role("lister");
    let mut session = db.session_as(&role);
    db.run(&format!("GRANT USAGE ON SCHEMA enrich TO {role}"));
    let call = "SELECT asn_number FROM enrich.lookup_ips('{8.8.8.8}')";
    assert_eq!(session.refused(call).code, "42501");
    db.run(&format!("GRANT EXECUTE ON FUNCTION lookup_ips(text[]) TO {role}"));
    let refusal = session.refused(call);
    assert_eq!(
        (refusal.code.as_str(), refusal.message.as_str()),
        ("42501", "permission denied for table ip_inventory")
    );
    db.run(&format!("GRANT SELECT ON ip_inventory, asn_inventory TO {role}"));
    assert_eq!(session.number(call), 15169);
}
