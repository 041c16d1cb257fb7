//! An address that another transaction has locked blocks no answer for other addresses, and gets its own answer later.

use std::net::IpAddr;

use server_tests::cymru::{self, assert_placed, members, queue};
use server_tests::http::{Plan, asked, request, wait_for_the_queue};
use server_tests::{Options, Session, wait_until};

/// Statements with which a transaction locks an address. `@` is the address, `#` its network.
const HOLDS: [&str; 3] = [
    "BEGIN; SELECT FROM enrich.ip_inventory WHERE ip_address = '@' FOR UPDATE",
    "BEGIN; DELETE FROM enrich.ip_inventory WHERE ip_address = '@'; INSERT INTO enrich.ip_inventory (ip_address) VALUES ('@')",
    "BEGIN; INSERT INTO enrich.ip_inventory (ip_address) VALUES ('@')",
];

fn answered(db: &mut Session, source: &str) -> i64 {
    db.number(&format!("SELECT count(*) FROM enrich.ip_inventory WHERE enrichment ? '{source}'"))
}

#[test]
fn cymrus_answers_for_other_addresses_do_not_wait_for_a_held_one() {
    let lab = cymru::Lab::start(Options::named("answers-blocked-cymru").with_worker());
    for hold in HOLDS {
        let mut db = lab.database();
        let addresses = members(0..12);
        let known = if hold == HOLDS[2] { &addresses[1..] } else { &addresses };
        lab.reconfigure(&["worker_enabled = off"]);
        db.run(&format!("SELECT enrich.enrich_ips({})", cymru::array(known)));
        let mut other = db.another();
        other.run(&hold.replace('@', &addresses[0].to_string()));
        queue(&mut db, &addresses);
        lab.reconfigure(&["worker_enabled = on"]);
        let placed = "SELECT count(*) FROM enrich.ip_inventory WHERE current_asn IS NOT NULL";
        wait_until("all others are placed", || db.number(placed), |placed| *placed == 11);
        other.run("ROLLBACK");
        cymru::wait_for_the_queue(&mut db);
        assert_placed(&mut db, &addresses);
    }
    lab.assert_nothing_crashed();
}

/// A transaction holds the network that the answer for one of many addresses names.
#[test]
fn cymrus_answers_for_other_networks_do_not_wait_for_a_held_one() {
    let lab = cymru::Lab::start(Options::named("answers-blocked-network").with_worker());
    for hold in [
        "INSERT INTO enrich.asn_inventory (asn_number) VALUES (#)",
        "SELECT FROM enrich.asn_inventory WHERE asn_number = # FOR UPDATE",
    ] {
        let mut db = lab.database();
        let addresses = members(0..12);
        let network = cowrie_enrich_upstreams::synthetic_asn(addresses[0]);
        let of_it =
            addresses.iter().filter(|a| cowrie_enrich_upstreams::synthetic_asn(**a) == network).count()
                as i64;
        if hold.starts_with("SELECT") {
            db.run(&format!("SELECT enrich.ensure_asn_inventory({network})"));
        }
        let mut other = db.another();
        other.run(&format!("BEGIN; {}", hold.replace('#', &network.to_string())));
        queue(&mut db, &addresses);
        let placed = "SELECT count(*) FROM enrich.ip_inventory WHERE current_asn IS NOT NULL";
        wait_until("all others are placed", || db.number(placed), |placed| *placed == 12 - of_it);
        other.run("ROLLBACK");
        cymru::wait_for_the_queue(&mut db);
        assert_placed(&mut db, &addresses);
    }
    lab.assert_nothing_crashed();
}

/// Requests use up quota, so an answer that could not be stored yet is not requested again.
#[test]
fn a_sources_answers_for_other_addresses_do_not_wait_for_a_held_one() {
    let lab = Plan::of("answers-blocked-http", "maxmind,greynoise").start();
    let addresses: Vec<IpAddr> = members(0..12);
    for hold in HOLDS {
        let mut db = lab.database();
        let known = if hold == HOLDS[2] { &addresses[1..] } else { &addresses };
        lab.reconfigure(&["worker_enabled = off"]);
        db.run(&format!("SELECT enrich.enrich_ips({})", cymru::array(known)));
        let mut other = db.another();
        other.run(&hold.replace('@', &addresses[0].to_string()));
        request(&mut db, "greynoise", &addresses);
        let before = asked(lab.server("greynoise")).len();
        lab.reconfigure(&["worker_enabled = on"]);
        wait_until("all others are answered", || answered(&mut db, "greynoise"), |answered| *answered == 11);
        other.run("ROLLBACK");
        wait_for_the_queue(&mut db);
        assert_eq!(answered(&mut db, "greynoise"), 12);
        assert_eq!(asked(lab.server("greynoise")).len() - before, 12, "each is asked about once");
    }
    lab.assert_nothing_crashed();
}
