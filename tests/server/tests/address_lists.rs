//! `lookup_ips()` reads lists of addresses: the accepted lines and the returned rows. The call writes nothing and queues no lookup.

use cowrie_enrich_test_mmdb::types::TypesFile;
use serde_json::json;
use server_tests::documentation::sql_with;
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::type_files::{DAY, HOUR, ago, server, with_file};
use server_tests::world::{self, Files, asn_record};
use server_tests::{Cluster, Database, database};

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

/// Texts of address columns: forms of IPv4 addresses in IPv6, bogons and texts that are not addresses.
const FORMS: &[&str] = &[
    "8.8.8.8",
    " 8.8.8.8 ",
    "8.8.8.8/32",
    "::ffff:8.8.8.8",
    "::FFFF:0808:0808",
    "0:0:0:0:0:ffff:8.8.8.8",
    "::ffff:8.8.8.8/128",
    "::ffff:10.0.0.1",
    // IPv4-compatible. In the tree of an mmdb file, the IPv4 address is at the same place.
    "::8.8.8.8",
    "::808:808",
    "::ffff:0:8.8.8.8",
    // NAT64
    "64:ff9b::8.8.8.8",
    "64:ff9b::808:808",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::8.8.8.8",
    // 6to4, Teredo, ISATAP
    "2002:808:808::1",
    "2002:a00:1::1",
    "2001:0:808:808::1",
    "2001:4860::5efe:8.8.8.8",
    "fe80::5efe:8.8.8.8",
    "2001:4860::1",
    "2001:4860::1/128",
    "2001:4860::1%eth0",
    "fe80::1%eth0",
    "10.0.0.1",
    "127.0.0.1",
    "100.64.0.1",
    "192.0.0.9",
    "192.88.99.1",
    "224.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "::",
    "::1",
    "2001:db8::1",
    "2001:20::1",
    "2620:4f:8000::1",
    "5f00::1",
    "4000::1",
    "fc00::1",
    "ff02::1",
    "48.0.0.1",
    "",
    "8.8.8.0/24",
    "8.8.8.8%eth0",
    "8.8.8.08",
    "8.8.8",
    "not an address",
];

/// Blocks of bogons, and of addresses with the well-known NAT64 prefix, for which the files of the next test have records.
const ODD_BLOCKS: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "192.0.0.0/24",
    "192.88.99.0/24",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::ffff:0:0:0/96",
    "64:ff9b::/32",
    "100::/16",
    "2001::/32",
    "2001:20::/28",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "4000::/3",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

/// Writes files with records for all blocks. All values depend on `build`.
fn write_odd_files(cluster: &Cluster, build: u64) {
    let files = Files::below(cluster.files());
    let (mut city, mut asn) = (world::city_database(), world::asn_database());
    for (number, block) in (1..).zip(ODD_BLOCKS) {
        city.insert(block, json!({"country": {"iso_code": (["FR", "PL"][build as usize % 2])}}));
        asn.insert(block, asn_record(300_000 + 1_000 * build + number, "Odd"));
    }
    for block in ["8.8.8.0/24", "2001:4860::/32"] {
        city.insert(block, json!({"country": {"iso_code": (["ES", "PT"][build as usize % 2])}}));
        asn.insert(block, asn_record(400_000 + build, "Changed"));
    }
    city.build_epoch(1_800_000_000 + build).write(&files.city);
    asn.build_epoch(1_800_000_000 + build).write(&files.asn);
}

/// Returns the ASN, the country and the leading type of a form, from each function that looks up addresses. Functions of the mmdb
/// files have no types, so this value is the type in `lookup_ips()`.
fn looked_up(db: &mut Database<'_>, form: &str) -> Vec<(&'static str, String)> {
    let list = db.one(&format!("SELECT asn_number, country, ip_types[1] FROM lookup_ips(ARRAY['{form}'])"));
    let kind = list.rsplit('|').next().expect("the row has columns").to_owned();
    let mut found = vec![("lookup_ips", list)];
    let address = format!("session_address('{form}'::text)");
    for (function, values) in [
        ("ip_asn and ip_country", format!("ip_asn({address}), ip_country({address})")),
        ("ip_asn and ip_location", format!("ip_asn({address}), (ip_location({address})).country")),
        (
            "maxmind_lookup",
            format!("maxmind_lookup({address}) ->> 'asn', maxmind_lookup({address}) ->> 'country'"),
        ),
    ] {
        found.push((function, format!("{}|{kind}", db.one(&format!("SELECT {values}")))));
    }
    let profile = format!(
        "SELECT p #>> '{{network,asn_number}}', p ->> 'country', p #>> '{{ip_types,0}}' FROM address_profile({address}) p"
    );
    found.push(("address_profile", db.one(&profile)));
    found
}

#[test]
fn all_functions_return_what_the_snapshot_of_a_session_has() {
    let cluster = server("address-forms");
    write_odd_files(&cluster, 0);
    let odd = ODD_BLOCKS
        .iter()
        .fold(TypesFile::new().list("tor", "TOR", ago(HOUR)).list("vpn", "VPN", ago(HOUR)), |file, block| {
            file.entry("tor", block)
        });
    let mut db = with_file(&cluster, &odd.entry("vpn", "8.8.8.0/24").entry("vpn", "2001:4860::/32"));
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    let mut with_network = 0;
    // The second time, the inventory has values from older files, and the functions must not return these values.
    for build in 0..2_u64 {
        if build > 0 {
            write_odd_files(&cluster, build);
            db.run("SELECT reload_mmdb()");
        }
        for (number, form) in FORMS.iter().enumerate() {
            let before = looked_up(&mut db, form);
            let key = format!("{build}-{number}");
            db.run(&COWRIE.insert(&[(&key, Some(form))]));
            let snapshot = "snapshot_asn, snapshot_country, snapshot_ip_type";
            let stored = db.one(&format!("SELECT {snapshot} FROM sessions WHERE id = '{key}'"));
            for (function, values) in &before {
                assert_eq!(*values, stored, "{function} before the session, {form:?}, build {build}");
            }
            for (function, values) in looked_up(&mut db, form) {
                assert_eq!(values, stored, "{function} after the session, {form:?}, build {build}");
            }
            // The type inet accepts no zone, and accepts more texts than a text column.
            let is_address = db.one(&format!("SELECT session_address('{form}'::text) IS NOT NULL")) == "t";
            if is_address && !form.contains('%') {
                db.run(&SUMMARIES.insert(&[(&key, Some(form.trim()))]));
                let of_inet =
                    db.one(&format!("SELECT {snapshot} FROM session_summaries WHERE session_id = '{key}'"));
                assert_eq!(of_inet, stored, "a column of type inet, {form:?}");
            }
            let is_bogon = db.one(&format!("SELECT is_bogon(session_address('{form}'::text))"));
            assert!(is_bogon != "t" || stored == "NULL|NULL|NULL", "{form:?}: {stored}");
            with_network += u32::from(!stored.starts_with("NULL"));
        }
    }
    assert!(with_network > 20, "{with_network} sessions have a network");
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
