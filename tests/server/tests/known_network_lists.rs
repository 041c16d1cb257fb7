//! Lists of ASNs in `known_networks`: the commands of docs/ip-types.md load them, and replace only their own rows.

use std::fs;

use server_tests::database::restored_from;
use server_tests::documentation::sql_with;
use server_tests::{Database, database};

const SOURCES: &str =
    "SELECT asn_number, label, is_vpn, source FROM enrich.known_networks WHERE NOT is_seed ORDER BY 1";

/// Runs the commands with this file as a role that may only edit the table.
fn load(db: &mut Database<'_>, rows: &[&str]) {
    let role = db.own_name("lists");
    if db.one(&format!("SELECT count(*) FROM pg_roles WHERE rolname = '{role}'")) == "0" {
        db.create_role("lists");
        db.run(&format!(
            "GRANT USAGE ON SCHEMA enrich TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON enrich.known_networks TO {role}"
        ));
    }
    let directory = db.cluster.files().join(&db.name);
    fs::create_dir_all(&directory).expect("the directory can be created");
    let commands = sql_with("docs/ip-types.md", "\\copy").replace("cowrie_enrich.", "enrich.");
    fs::write(directory.join("commands.sql"), commands).expect("the file can be written");
    let file = format!("asn_number,label,asn_type,is_hosting,is_vpn,source\n{}\n", rows.join("\n"));
    fs::write(directory.join("known-networks.csv"), file).expect("the file can be written");
    let output = db
        .cluster
        .program("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", &role, "-f", "commands.sql", "-d", &db.name])
        .current_dir(&directory)
        .output()
        .expect("psql runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_list_is_loaded_again_and_replaces_only_its_own_rows() {
    let mut db = database();
    db.run(
        "INSERT INTO enrich.known_networks (asn_number, label, asn_type) VALUES (64700, 'By hand', 'ISP')",
    );
    load(
        &mut db,
        &[
            "64700,Of the list,HOSTING,t,f,hosting",
            "64701,\"First, Inc.\",HOSTING,t,f,hosting",
            "64702,Second,HOSTING,t,f,hosting",
            "64703,Third,HOSTING,t,f,hosting",
            "64704,Exit,HOSTING,t,t,vpn",
            "15169,Of the list,ISP,f,f,hosting",
        ],
    );
    assert_eq!(
        db.rows(SOURCES),
        [
            "64700|By hand|f|NULL",
            "64701|First, Inc.|f|hosting",
            "64702|Second|f|hosting",
            "64703|Third|f|hosting",
            "64704|Exit|t|vpn",
        ]
    );
    // A row that came with the extension stays.
    let seed = "SELECT label, asn_type, is_seed, source FROM enrich.known_networks WHERE asn_number = 15169";
    assert_eq!(db.one(seed), "Google|HOSTING|t|cowrie_enrich");

    db.run("UPDATE enrich.known_networks SET is_vpn = true WHERE asn_number = 64702");
    load(
        &mut db,
        &[
            "64701,Renamed,HOSTING,t,t,hosting",
            "64702,Second,HOSTING,t,f,hosting",
            "64705,New,HOSTING,t,f,hosting",
            "64704,Taken over,HOSTING,t,f,hosting",
        ],
    );
    assert_eq!(
        db.rows(SOURCES),
        [
            "64700|By hand|f|NULL",
            "64701|Renamed|t|hosting",
            // Edited by hand, so the list no longer replaces this row.
            "64702|Second|t|NULL",
            // From another list.
            "64704|Exit|t|vpn",
            "64705|New|f|hosting",
        ]
    );
}

/// If all ASNs of a list are in a list of type VPN, the file has no row of this list. Older rows of this list must not block the
/// rows of the file.
#[test]
fn a_list_of_vpns_wins_over_older_rows_of_another_list() {
    let mut db = database();
    let hosting = [
        "64701,First,HOSTING,t,f,x-hosting",
        "64702,Second,HOSTING,t,f,x-hosting",
        "64703,Third,HOSTING,t,f,x-hosting",
    ];
    load(&mut db, &hosting);
    db.run("UPDATE enrich.known_networks SET label = 'By hand' WHERE asn_number = 64703");
    let vpn = [
        "64701,First,HOSTING,t,t,x-vpn",
        "64702,Second,HOSTING,t,t,x-vpn",
        "64703,Third,HOSTING,t,t,x-vpn",
        "15169,Google,HOSTING,t,t,x-vpn",
    ];
    let expected = ["64701|First|t|x-vpn", "64702|Second|t|x-vpn", "64703|By hand|f|NULL"];
    load(&mut db, &vpn);
    assert_eq!(db.rows(SOURCES), expected);
    assert_eq!(
        db.one("SELECT is_vpn, source FROM enrich.known_networks WHERE asn_number = 15169"),
        "f|cowrie_enrich"
    );
    // A file without the list of VPNs does not know that the network is a VPN.
    load(&mut db, &hosting);
    assert_eq!(db.rows(SOURCES), expected);
    // Two other lists: the list that was loaded last wins.
    load(&mut db, &["64704,Fourth,HOSTING,t,f,x-hosting"]);
    load(&mut db, &["64704,Fourth,ISP,f,f,isp"]);
    assert_eq!(db.rows(SOURCES), [&expected[..], &["64704|Fourth|f|isp"]].concat());
}

#[test]
fn an_unchanged_list_changes_nothing() {
    let mut db = database();
    let rows = ["64701,First,HOSTING,t,f,hosting", "64702,Second,HOSTING,t,f,hosting"];
    load(&mut db, &rows);
    db.run("DELETE FROM enrich.network_reclassification");
    let versions = "SELECT string_agg(xmin::text, ',' ORDER BY asn_number) FROM enrich.known_networks";
    let before = db.one(versions);
    load(&mut db, &rows);
    assert_eq!(db.one(versions), before);
    assert_eq!(db.number("SELECT count(*) FROM enrich.network_reclassification"), 0);
}

#[test]
fn the_source_says_where_a_row_came_from() {
    let mut db = database();
    let states = "SELECT DISTINCT is_seed, source FROM enrich.known_networks ORDER BY 1, 2";
    assert_eq!(db.rows(states), ["t|cowrie_enrich"]);
    let row = "SELECT label, is_seed, source FROM enrich.known_networks WHERE asn_number = 9009";
    for (edit, expected) in [
        ("UPDATE enrich.known_networks SET label = label", "M247|t|cowrie_enrich"),
        ("UPDATE enrich.known_networks SET label = 'Mine' WHERE asn_number = 9009", "Mine|f|NULL"),
        ("UPDATE enrich.known_networks SET label = 'x', source = 'own' WHERE asn_number = 9009", "x|f|own"),
        ("UPDATE enrich.known_networks SET source = 'other' WHERE asn_number = 9009", "x|f|other"),
        ("UPDATE enrich.known_networks SET is_vpn = false WHERE asn_number = 9009", "x|f|NULL"),
        // The statements of docs/tables.md, which know nothing about sources.
        (
            "DELETE FROM enrich.known_networks WHERE asn_number = 9009;
             INSERT INTO enrich.known_networks (asn_number, label, asn_type, is_hosting, is_vpn, is_seed)
                 VALUES (9009, 'M247', 'HOSTING', true, true, true)",
            "M247|t|cowrie_enrich",
        ),
        ("UPDATE enrich.known_networks SET source = 'own' WHERE asn_number = 9009", "M247|f|own"),
    ] {
        db.run(edit);
        assert_eq!(db.one(row), expected, "{edit}");
    }
    assert_eq!(db.refused("UPDATE enrich.known_networks SET source = ''").code, "23514");
}

/// pg_dump includes rows of lists with their source, and the restored database can load the list again.
#[test]
fn the_source_of_a_row_survives_a_dump() {
    let mut db = database();
    load(&mut db, &["64701,First,HOSTING,t,f,hosting", "64702,Second,HOSTING,t,f,hosting"]);
    db.run("UPDATE enrich.known_networks SET label = 'Mine' WHERE asn_number IN (64702, 9009)");
    let dump = db.dump("plain");
    let before = db.rows(SOURCES);
    let mut restored = restored_from(db.cluster, &dump, "plain");
    assert_eq!(restored.rows(SOURCES), before);
    load(&mut restored, &["64701,Renamed,HOSTING,t,f,hosting"]);
    assert_eq!(restored.rows(SOURCES), ["9009|Mine|t|NULL", "64701|Renamed|f|hosting", "64702|Mine|f|NULL"]);
}
