//! Rows of `ip_asn_history` are in the order in which the changes were made, not in the order in which the
//! transactions began.

use server_tests::database::cluster_with_world;
use server_tests::world::{self, Files, asn_record};
use server_tests::{Options, fresh_database};

#[test]
fn a_move_by_a_transaction_that_began_first_and_came_last_is_the_last_line() {
    let cluster = cluster_with_world(&Options::named("history-order"));
    let mut db = fresh_database(&cluster);
    let mut early = db.another();
    early.run("BEGIN; SELECT now()");
    db.run("SELECT enrich_ip('8.8.8.8')");
    let mut networks = world::asn_database().build_epoch(1_800_000_000);
    networks.insert("8.8.8.8/32", asn_record(64_500, "Elsewhere"));
    networks.write(&Files::below(cluster.files()).asn);
    early.run("SELECT reload_mmdb()");
    assert_eq!(early.one("SELECT current_asn FROM enrich_ip('8.8.8.8', true)"), "64500");
    early.run("COMMIT");
    assert_eq!(db.rows("SELECT asn_number FROM ip_asn_history ORDER BY observed_at"), ["15169", "64500"]);
    assert_eq!(db.number("SELECT current_asn FROM ip_inventory WHERE ip_address = '8.8.8.8'"), 64_500);
}
