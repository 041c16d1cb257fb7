//! Enrichment documents of other systems. Any content is stored. The valid part is used, and the invalid part is
//! listed.

use server_tests::{Session, database};

/// A document of one address, the resulting network as name|country|registry, and the listed fault.
struct Case {
    document: &'static str,
    network: &'static str,
    fault: &'static str,
}

const NONE: &str = "";

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Valid documents.
    Case { document: r#"{"maxmind": {"asn": 65536, "asn_org": "Example", "country": "DE"}}"#, network: "Example|DE|NULL", fault: NONE },
    Case { document: r#"{"cymru": {"asn_org": "EXAMPLE, NL", "country": "NL", "registry": "ripencc"}}"#, network: "EXAMPLE|NL|RIPE", fault: NONE },
    // J1: not an object.
    Case { document: r#"[{"maxmind": {"asn_org": "Example"}}]"#, network: "NULL|NULL|NULL", fault: "the value of column \"enrichment\" is not a JSON object" },
    Case { document: r#""maxmind""#, network: "NULL|NULL|NULL", fault: "the value of column \"enrichment\" is not a JSON object" },
    Case { document: "42", network: "NULL|NULL|NULL", fault: "the value of column \"enrichment\" is not a JSON object" },
    Case { document: "true", network: "NULL|NULL|NULL", fault: "the value of column \"enrichment\" is not a JSON object" },
    Case { document: "[]", network: "NULL|NULL|NULL", fault: "the value of column \"enrichment\" is not a JSON object" },
    // J2: null counts as empty and is listed. An empty object is valid and has no content.
    Case { document: "null", network: "NULL|NULL|NULL", fault: "the value of column \"enrichment\" is not a JSON object" },
    Case { document: "{}", network: "NULL|NULL|NULL", fault: NONE },
    // J3: the answer of one provider is not an object. The other one is used.
    Case { document: r#"{"maxmind": "DE", "cymru": {"asn_org": "EXAMPLE", "country": "nl"}}"#, network: "EXAMPLE|NL|NULL", fault: "key \"maxmind\" in column \"enrichment\" is not a JSON object" },
    Case { document: r#"{"maxmind": {"asn_org": "Example"}, "cymru": [1, 2]}"#, network: "Example|NULL|NULL", fault: "key \"cymru\" in column \"enrichment\" is not a JSON object" },
    Case { document: r#"{"maxmind": 1, "cymru": false}"#, network: "NULL|NULL|NULL", fault: "key \"maxmind\" in column \"enrichment\" is not a JSON object; key \"cymru\" in column \"enrichment\" is not a JSON object" },
    Case { document: r#"{"maxmind": null, "cymru": {"asn_org": "EXAMPLE"}}"#, network: "EXAMPLE|NULL|NULL", fault: NONE },
    // J4: a number instead of a text, or a text instead of a number, is converted.
    Case { document: r#"{"maxmind": {"asn": "AS65536", "asn_org": 4711, "country": "de"}}"#, network: "4711|DE|NULL", fault: NONE },
    // J5: missing keys.
    Case { document: r#"{"maxmind": {"city": "Berlin"}}"#, network: "NULL|NULL|NULL", fault: NONE },
    Case { document: r#"{"maxmind": {}, "cymru": {}}"#, network: "NULL|NULL|NULL", fault: NONE },
    // J6: values that MaxMind lacks come from Team Cymru.
    Case { document: r#"{"maxmind": {"country": "SE"}, "cymru": {"asn_org": "EXAMPLE, SE", "registry": "ARIN"}}"#, network: "EXAMPLE|SE|ARIN", fault: NONE },
    // J8: an unreadable value leaves the field empty.
    Case { document: r#"{"maxmind": {"asn_org": {"en": "Example"}, "country": true}}"#, network: "NULL|NULL|NULL",
           fault: "maxmind.asn_org is an object or an array, not a name; maxmind.country is true, not a country" },
    Case { document: r#"{"maxmind": {"asn_org": ["Example"], "country": "Germany"}}"#, network: "NULL|NULL|NULL",
           fault: "maxmind.asn_org is an object or an array, not a name; maxmind.country is \"Germany\", not a country" },
    // J9: a value that the table of networks does not accept is left out, so the call does not fail.
    Case { document: r#"{"cymru": {"asn_org": "EXAMPLE", "country": "D1", "registry": "other"}}"#, network: "EXAMPLE|NULL|NULL", fault: "cymru.country is \"D1\", not a country" },
    Case { document: r#"{"maxmind": {"asn": 4294967296, "asn_org": "Example"}}"#, network: "Example|NULL|NULL", fault: "maxmind.asn is \"4294967296\", not an ASN" },
    Case { document: r#"{"maxmind": {"asn": 0, "asn_org": "Example"}}"#, network: "Example|NULL|NULL", fault: "maxmind.asn is \"0\", not an ASN" },
    Case { document: r#"{"maxmind": {"asn": -1, "country": "XX"}}"#, network: "NULL|NULL|NULL", fault: "maxmind.asn is \"-1\", not an ASN" },
    Case { document: r#"{"maxmind": {"asn": 1e400, "asn_org": "NA"}}"#, network: "NULL|NULL|NULL", fault: "maxmind.asn is \"100000000000000000000000000000000000000000000000000000000000\", not an ASN" },
    Case { document: r#"{"maxmind": {"asn": 65536.5, "asn_org": "Example"}}"#, network: "Example|NULL|NULL", fault: "maxmind.asn is \"65536.5\", not an ASN" },
    // A document that names another network is not used for this one.
    Case { document: r#"{"maxmind": {"asn": 64499, "asn_org": "Another", "country": "DE"}, "cymru": {"asn": 65536, "asn_org": "EXAMPLE"}}"#, network: "EXAMPLE|NULL|NULL", fault: NONE },
];

/// Inserts rows as a restore does: no trigger fires, and no foreign key is checked.
fn load(db: &mut Session, rows: &str) {
    db.run(&format!(
        "SET session_replication_role = replica;
         INSERT INTO ip_inventory (ip_address, current_asn, enrichment) {rows};
         RESET session_replication_role"
    ));
}

#[test]
fn whatever_a_document_is_its_network_is_made_and_its_faults_are_listed() {
    let mut db = database();
    let number = |n: usize| (65_536 + n).to_string();
    for (n, case) in CASES.iter().enumerate() {
        let document = case.document.replace("65536", &number(n));
        load(&mut db, &format!("VALUES ('60.0.0.{n}', {}, '{document}')", number(n)));
    }
    db.run("CALL build_asn_inventory(progress => false)");
    let networks = db.rows(
        "SELECT asn_number, organization_name, organization_country, rir_registry, unique_ip_count
         FROM asn_inventory ORDER BY 1",
    );
    assert_eq!(networks.len(), CASES.len());
    for (n, case) in CASES.iter().enumerate() {
        assert_eq!(networks[n], format!("{}|{}|1", number(n), case.network), "{}", case.document);
        let listed = db.rows(&format!(
            "SELECT procedure, relation, reason FROM rejected_row WHERE row_key = '60.0.0.{n}'"
        ));
        let fault = case.fault.replace("65536", &number(n));
        let row = format!("build_asn_inventory|ip_inventory|{fault}");
        let expected = if case.fault == NONE { Vec::new() } else { vec![row] };
        assert_eq!(listed, expected, "{}", case.document);
    }
}

#[test]
fn a_document_alone_places_an_address_where_it_names_a_network() {
    let mut db = database();
    let documents = [
        r#"{"maxmind": {"asn": 64500}}"#,
        r#"{"maxmind": {"asn": "as64501"}, "cymru": {"asn": 64599}}"#,
        r#"{"maxmind": {"asn": "none"}, "cymru": {"asn": "64502"}}"#,
        r#"{"maxmind": true, "cymru": {"asn": 64503}}"#,
        r#"{"maxmind": {"asn": null}, "cymru": {"asn": "NA"}}"#,
        r#"{"maxmind": {"asn": [64505]}}"#,
        "[64506]",
        "{}",
    ];
    for (n, document) in documents.iter().enumerate() {
        load(&mut db, &format!("VALUES ('60.0.0.{n}', NULL, '{document}')"));
    }
    db.run("CALL build_asn_inventory(progress => false)");
    assert_eq!(
        db.rows(
            "SELECT host(ip_address), current_asn FROM ip_inventory WHERE current_asn IS NOT NULL ORDER BY 1"
        ),
        ["60.0.0.0|64500", "60.0.0.1|64501", "60.0.0.2|64502", "60.0.0.3|64503"]
    );
    assert_eq!(
        db.rows("SELECT host(ip_address), asn_number, verification_source FROM ip_asn_history ORDER BY 1"),
        ["60.0.0.0|64500|maxmind", "60.0.0.1|64501|maxmind", "60.0.0.2|64502|cymru", "60.0.0.3|64503|cymru"]
    );
    // `skipped` counts answers without a network and unusable documents, but not the empty document.
    assert_eq!(
        db.one("SELECT result FROM procedure_call").parse::<serde_json::Value>().expect("JSON"),
        serde_json::json!({"scanned": 8, "unique": 4, "created": 4, "updated": 0, "skipped": 3, "corrected": 0})
    );
    assert_eq!(
        db.rows("SELECT row_key FROM rejected_row ORDER BY 1"),
        ["60.0.0.2", "60.0.0.3", "60.0.0.5", "60.0.0.6"]
    );
}

#[test]
fn a_huge_document_is_used_and_listed_in_short() {
    let mut db = database();
    load(
        &mut db,
        "SELECT '60.0.0.1'::inet, 64500, jsonb_build_object('maxmind', jsonb_build_object(
             'asn_org', repeat('Long ', 400000), 'country', repeat('D', 3000000)))",
    );
    db.run("CALL build_asn_inventory(progress => false)");
    assert_eq!(
        db.one("SELECT length(organization_name), left(organization_name, 10), organization_country FROM asn_inventory"),
        "256|Long Long |NULL"
    );
    assert_eq!(
        db.one("SELECT length(reason) < 200, reason LIKE 'maxmind.country is \"DDDD%', length(content) FROM rejected_row"),
        "t|t|500"
    );
}

/// Generated columns are computed from any document, and answers of the files are merged into it.
#[test]
fn malformed_documents_are_stored_and_enriched_like_any_other() {
    let mut db = database();
    for (n, case) in CASES.iter().enumerate() {
        load(&mut db, &format!("VALUES ('8.8.8.{n}', NULL, '{}')", case.document));
    }
    assert_eq!(
        db.rows(
            "SELECT DISTINCT geo_country FROM ip_inventory
             WHERE jsonb_typeof(enrichment) <> 'object' OR NOT enrichment ?| '{maxmind,cymru}'"
        ),
        ["XX"]
    );
    assert_eq!(
        db.number(
            "SELECT count(*) FROM ip_inventory WHERE ip_types = '{}' AND NOT is_scanner AND NOT is_bogon"
        ),
        CASES.len() as i64
    );
    db.run("SELECT enrich_ips((SELECT array_agg(ip_address) FROM ip_inventory), true)");
    assert_eq!(
        db.rows(
            "SELECT DISTINCT current_asn, geo_country, jsonb_typeof(enrichment), enrichment #>> '{maxmind,asn_org}'
             FROM ip_inventory"
        ),
        ["15169|US|object|GOOGLE"]
    );
}
