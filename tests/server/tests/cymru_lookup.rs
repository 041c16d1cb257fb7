//! Team Cymru from psql: `cymru_lookup` sends requests within the limits, stores nothing, and can be cancelled.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use cowrie_enrich_upstreams::{
    Behaviour, Dns, DnsBehaviour, DnsFault, Fault, Route, Routes, Transport, synthetic_asn,
};
use server_tests::cymru::{
    Lab, array, assert_placed, member, member6, members, pointed_at, provider, queue, state,
    wait_for_permits, wait_for_the_queue,
};
use server_tests::database::{cluster_with_world, fresh_database};
use server_tests::{Options, Session, wait_until};

/// "Within a second", plus a margin for a loaded machine.
const MOMENT: Duration = Duration::from_millis(1_500);

fn routes() -> Routes {
    let mut routes = Routes::synthetic();
    routes.add("8.8.8.0/24", 15169, "US", "arin", "2023-12-28", "GOOGLE, US");
    routes.add("1.2.3.0/24", 64496, "", "other", "", "NAME | with, odd | signs");
    routes.add("5.0.0.0/10", 64497, "EU", "ripencc", "1995-02-31", "");
    routes
}

/// Without a worker, so that only the function sends requests.
fn quiet(name: &str) -> Lab {
    Lab::with_routes(Options::named(name), routes())
}

#[test]
fn rows_are_what_team_cymru_says() {
    let lab = quiet("lookup-rows");
    let mut db = lab.database();
    assert_eq!(
        db.rows("SELECT * FROM cymru_lookup('{8.8.8.8,2a10::1}') ORDER BY ip_address"),
        [
            "8.8.8.8|15169|8.8.8.0/24|US|ARIN|2023-12-28|GOOGLE, US".to_owned(),
            format!("2a10::1|{0}|2a10::/48|{1}", synthetic_asn("2a10::1".parse().unwrap()), {
                let route: Route = routes().of("2a10::1".parse().unwrap()).remove(0);
                format!("{}|{}|2020-02-20|{}", route.country, registry(&route.registry), route.name)
            }),
        ]
    );
    // Invalid values are null, and the rest of the row is kept.
    assert_eq!(
        db.rows("SELECT asn, prefix, registry, allocation_date FROM cymru_lookup('{1.2.3.4}')"),
        ["64496|1.2.3.0/24|NULL|NULL"]
    );
    assert_eq!(db.one("SELECT asn, allocation_date FROM cymru_lookup('{5.1.1.1}')"), "64497|NULL");
    // Nothing is stored.
    assert_eq!(
        db.one(
            "SELECT (SELECT count(*) FROM ip_inventory) + (SELECT count(*) FROM asn_inventory)
                  + (SELECT count(*) FROM block_answer) + (SELECT count(*) FROM enrichment_request)"
        ),
        "0"
    );
}

fn registry(sent: &str) -> &'static str {
    match sent {
        "arin" => "ARIN",
        "ripencc" => "RIPE",
        "apnic" => "APNIC",
        "lacnic" => "LACNIC",
        _ => "AFRINIC",
    }
}

#[test]
fn bogons_are_never_asked_and_have_rows_of_nulls_like_what_nobody_announces() {
    let lab = Lab::with_routes(Options::named("lookup-bogons"), Routes::empty());
    let mut db = lab.database();
    assert_eq!(
        db.rows("SELECT * FROM cymru_lookup('{10.0.0.1,fe80::1,48.0.0.1,::ffff:192.168.1.1}') ORDER BY 1"),
        [
            "10.0.0.1|NULL|NULL|NULL|NULL|NULL|NULL",
            "48.0.0.1|NULL|NULL|NULL|NULL|NULL|NULL",
            "192.168.1.1|NULL|NULL|NULL|NULL|NULL|NULL",
            "fe80::1|NULL|NULL|NULL|NULL|NULL|NULL",
        ]
    );
    let asked: Vec<IpAddr> = lab.whois.record().questions().collect();
    assert_eq!(asked, ["48.0.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(db.rows("SELECT * FROM cymru_lookup('{10.0.0.1,127.0.0.1}')").len(), 2);
    assert_eq!(db.rows("SELECT * FROM cymru_lookup('{}')").len(), 0);
    assert_eq!(db.rows("SELECT * FROM cymru_lookup(NULL)").len(), 0);
    assert_eq!(db.rows("SELECT * FROM cymru_lookup('{NULL}')").len(), 0);
    assert_eq!(lab.whois.record().connections.len(), 1, "nothing to ask, nobody asked");
}

#[test]
fn many_addresses_are_asked_in_batches_and_each_once() {
    let lab = quiet("lookup-many");
    let mut db = lab.database();
    let mut addresses = members(0..1_100);
    addresses.extend((0..100).map(|n| member6(n, 1)));
    let twice = [addresses.clone(), addresses.clone()].concat();
    let rows =
        db.rows(&format!("SELECT host(ip_address), asn FROM cymru_lookup({}) ORDER BY 1", array(&twice)));
    let mut expected: Vec<String> = addresses.iter().map(|a| format!("{a}|{}", synthetic_asn(*a))).collect();
    expected.sort();
    assert_eq!(rows, expected);
    let record = lab.whois.record();
    let sizes: Vec<usize> = record.connections.iter().map(|c| c.questions.len()).collect();
    assert_eq!(sizes, [500, 500, 200]);
    assert_eq!(record.asked_twice(), [] as [IpAddr; 0]);
    assert_eq!(provider(&mut db, "lookups"), 1_200);
}

#[test]
fn a_network_is_refused_and_nothing_is_asked() {
    let lab = quiet("lookup-network");
    let mut db = lab.database();
    let refusal = db.refused("SELECT * FROM cymru_lookup('{8.8.8.8,8.8.8.0/24}')");
    assert_eq!(refusal.code, "22023", "{refusal:?}");
    assert!(refusal.detail.is_some_and(|detail| detail.contains("8.8.8.0")));
    assert_eq!(lab.whois.record().connections.len(), 0);
}

#[test]
fn a_provider_that_cannot_be_reached_or_says_nothing_sensible_is_an_error() {
    let lab = quiet("lookup-refused");
    lab.reconfigure(&["cymru_timeout = 1s", "retry_base = 1ms"]);
    let mut db = lab.database();
    lab.whois.refuse();
    let refusal = db.refused("SELECT * FROM cymru_lookup('{8.8.8.8}')");
    assert_eq!(refusal.code, "08006", "{refusal:?}");
    assert_eq!(provider(&mut db, "unreachable"), 1);
    lab.whois.listen_again();
    lab.whois.behave(Fault::Silent);
    assert_eq!(db.refused("SELECT * FROM cymru_lookup('{8.8.8.8}')").code, "08006");
    assert_eq!(provider(&mut db, "silent"), 1);
    lab.whois.behave(Fault::Foreign { only: true });
    assert_eq!(db.refused("SELECT * FROM cymru_lookup('{8.8.8.8}')").code, "08006");
    assert_eq!(provider(&mut db, "foreign_rows"), 1);
    lab.whois.behave(Behaviour::normal());
    assert_eq!(db.one("SELECT asn FROM cymru_lookup('{8.8.8.8}')"), "15169");
    assert_eq!(provider(&mut db, "in_flight"), 0);
    // A partial answer is returned.
    lab.whois.behave(Fault::Missing { every: 2 });
    assert_eq!(db.rows("SELECT asn FROM cymru_lookup('{8.8.8.8,8.8.8.9}')"), ["15169"]);
    lab.reconfigure(&["enabled_sources = 'maxmind'"]);
    let refusal = db.refused("SELECT * FROM cymru_lookup('{8.8.8.8}')");
    assert_ne!(refusal.code, "XX000", "{refusal:?}");
    lab.assert_nothing_crashed();
}

#[test]
fn a_provider_that_is_given_a_rest_is_not_asked() {
    let lab = quiet("lookup-rest");
    lab.reconfigure(&["cymru_timeout = 1s", "retry_base = 1h"]);
    let mut db = lab.database();
    lab.whois.refuse();
    assert_eq!(db.refused("SELECT * FROM cymru_lookup('{8.8.8.8}')").code, "08006");
    lab.whois.listen_again();
    let refusal = db.refused("SELECT * FROM cymru_lookup('{8.8.8.8}')");
    assert_eq!(refusal.code, "08006", "{refusal:?}");
    assert_eq!(lab.whois.record().connections.len(), 0);
    assert_eq!(
        db.one(
            "SELECT requests, failures, backoff_until > now(), last_error IS NOT NULL
             FROM provider_status() WHERE provider = 'cymru'"
        ),
        "1|1|t|t"
    );
}

#[test]
fn it_is_not_for_everybody() {
    let lab = quiet("lookup-rights");
    let mut db = lab.database();
    db.run("CREATE ROLE stranger LOGIN; GRANT USAGE ON SCHEMA enrich TO stranger");
    let mut stranger = db.session_as("stranger");
    assert_eq!(stranger.refused("SELECT * FROM enrich.cymru_lookup('{8.8.8.8}')").code, "42501");
    assert_eq!(lab.whois.record().connections.len(), 0);
    db.run("GRANT EXECUTE ON FUNCTION enrich.cymru_lookup(inet[]) TO stranger");
    assert_eq!(stranger.one("SELECT asn FROM enrich.cymru_lookup('{8.8.8.8}')"), "15169");
}

/// Runs a lookup in another session until `end` has ended it. Returns the SQLSTATE and the time from `end` on.
fn ended_by(lab: &Lab, mut session: Session, end: impl FnOnce(&mut Session, i64)) -> (String, Duration) {
    let pid = session.backend_pid();
    let asked = lab.whois.record().connections.len();
    std::thread::scope(|scope| {
        let lookup = scope.spawn(move || session.try_rows("SELECT * FROM enrich.cymru_lookup('{8.8.8.8}')"));
        wait_until(
            "the lookup waits for the answer",
            || lab.whois.record().connections.iter().skip(asked).filter(|c| c.end).count(),
            |n| *n == 1,
        );
        let mut other = lab.cluster.session("postgres");
        let started = Instant::now();
        end(&mut other, pid);
        let result = lookup.join().expect("it ends");
        (result.expect_err("it has no answer").code, started.elapsed())
    })
}

#[test]
fn a_lookup_is_cancelled_within_a_second_and_its_permit_is_free() {
    let lab = quiet("lookup-cancel");
    lab.reconfigure(&["cymru_max_connections = 1"]);
    lab.whois.behave(Fault::Held);
    let mut db = lab.database();
    let open = || lab.whois.record().open_now();
    let (code, took) = ended_by(&lab, db.another(), |other, pid| {
        assert_eq!(provider(&mut db, "in_flight"), 1);
        other.run(&format!("SELECT pg_cancel_backend({pid})"));
    });
    assert_eq!(code, "57014");
    assert!(took < MOMENT, "the cancellation took {took:?}");
    assert_eq!(provider(&mut db, "in_flight"), 0);
    wait_until("the connection is closed", open, |n| *n == 0);

    let (code, took) = ended_by(&lab, db.another(), |other, pid| {
        other.run(&format!("SELECT pg_terminate_backend({pid})"));
    });
    // The connection may be closed before the client has read the error message.
    assert!(["57P01", "08006"].contains(&code.as_str()), "{code}");
    assert!(took < MOMENT, "the termination took {took:?}");
    wait_until("the permit is back", || provider(&mut db, "in_flight"), |n| *n == 0);
    wait_until("the connection is closed", open, |n| *n == 0);

    let mut limited = db.another();
    limited.run("SET statement_timeout = '300ms'");
    let (code, took) = ended_by(&lab, limited, |_, _| ());
    assert_eq!(code, "57014");
    assert!(took < MOMENT, "the timeout took {took:?}");
    wait_until("the permit is back", || provider(&mut db, "in_flight"), |n| *n == 0);

    // A call can also be ended while it waits for a permit.
    let mut holding = db.another();
    let holding_pid = holding.backend_pid();
    let mut waiting = db.another();
    waiting.run("SET statement_timeout = '300ms'");
    std::thread::scope(|scope| {
        let before = lab.whois.record().connections.len();
        scope.spawn(move || holding.try_rows("SELECT * FROM enrich.cymru_lookup('{8.8.8.8}')"));
        wait_until("the permit is taken", || lab.whois.record().connections.len(), |n| *n > before);
        assert_eq!(waiting.refused("SELECT * FROM enrich.cymru_lookup('{8.8.8.9}')").code, "57014");
        assert_eq!(lab.whois.record().connections.len(), before + 1, "nobody else asked");
        db.run(&format!("SELECT pg_cancel_backend({holding_pid})"));
    });
    wait_until("the permit is back", || provider(&mut db, "in_flight"), |n| *n == 0);
    lab.whois.behave(Behaviour::normal());
    assert_eq!(db.one("SELECT asn FROM enrich.cymru_lookup('{8.8.8.8}')"), "15169");
    lab.assert_nothing_crashed();
}

#[test]
fn lookups_in_subtransactions_give_their_permits_back_when_they_fail() {
    let lab = quiet("lookup-subtransaction");
    lab.reconfigure(&["cymru_max_connections = 1", "retry_base = 1ms"]);
    let mut db = lab.database();
    lab.whois.refuse();
    for _ in 0..3 {
        db.run(
            "DO $$ BEGIN PERFORM * FROM enrich.cymru_lookup('{8.8.8.8}');
             EXCEPTION WHEN connection_failure THEN NULL; END $$",
        );
    }
    lab.whois.listen_again();
    assert_eq!(db.one("SELECT asn FROM enrich.cymru_lookup('{8.8.8.8}')"), "15169");
    assert_eq!(provider(&mut db, "in_flight"), 0);
}

#[test]
fn it_works_without_preload() {
    let whois = cowrie_enrich_upstreams::Whois::start(routes());
    let cluster =
        cluster_with_world(&pointed_at(&whois, Options::named("lookup-unloaded").without_preload()));
    let mut db = fresh_database(&cluster);
    assert_eq!(db.one("SELECT asn FROM cymru_lookup('{8.8.8.8}')"), "15169");
    whois.behave(Fault::Held);
    db.run("SET statement_timeout = '300ms'");
    for _ in 0..3 {
        assert_eq!(db.refused("SELECT asn FROM cymru_lookup('{8.8.8.8}')").code, "57014");
    }
    whois.behave(Behaviour::normal());
    assert_eq!(db.one("SELECT asn FROM cymru_lookup('{8.8.8.8}')"), "15169");
    assert_eq!(
        db.one("SELECT state FROM worker_status() WHERE role = 'launcher'"),
        "not started: shared_preload_libraries does not contain cowrie_enrich"
    );
}

#[test]
fn lookups_and_the_worker_share_the_connections() {
    let lab = Lab::with_routes(
        Options::named("lookup-shared")
            .with_worker()
            .conf("cowrie_enrich.cymru_max_connections = 2")
            .conf("cowrie_enrich.cymru_batch_size = 5"),
        routes(),
    );
    let mut db = lab.database();
    lab.whois.behave(Behaviour::normal().delayed(Duration::from_millis(40)));
    let addresses = members(0..100);
    queue(&mut db, &addresses);
    let handle = db.handle();
    std::thread::scope(|scope| {
        for client in 0..3u8 {
            let handle = &handle;
            scope.spawn(move || {
                let mut session = handle.session();
                for round in 0..5 {
                    let address = member(10_000 + round, client);
                    assert_eq!(
                        session.one(&format!("SELECT asn FROM enrich.cymru_lookup('{{{address}}}')")),
                        synthetic_asn(address).to_string()
                    );
                }
            });
        }
    });
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);
    let record = lab.whois.record();
    assert_eq!(record.most_at_once(), 2, "{record:?}");
    assert_eq!(record.connections.len(), 20 + 15);
    assert_eq!(provider(&mut db, "requests"), 35);
    wait_for_permits(&mut db);
}

// --- DNS ------------------------------------------------------------------------------------

fn dns_lab(name: &str, dns: &Dns, transport: &str) -> Lab {
    Lab::start(
        Options::named(name)
            .with_worker()
            .conf(&format!("cowrie_enrich.cymru_dns_server = '127.0.0.1:{}'", dns.port()))
            .conf(&format!("cowrie_enrich.cymru_transport = {transport}"))
            .conf("cowrie_enrich.cymru_timeout = 2s"),
    )
}

#[test]
fn by_dns_names_are_reversed_and_each_network_is_asked_once() {
    let dns = Dns::start(Routes::synthetic());
    let lab = dns_lab("dns-names", &dns, "dns");
    let mut db = lab.database();
    let mut addresses = members(0..30);
    addresses.extend((0..5).map(|n| member6(n, 9)));
    queue(&mut db, &addresses);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);
    assert_eq!(lab.whois.record().connections.len(), 0);

    let mut names: Vec<String> = dns.record().into_iter().map(|q| q.name).collect();
    names.sort();
    let mut expected: Vec<String> = addresses.iter().map(|a| origin_name(*a)).collect();
    let mut networks: Vec<String> =
        addresses.iter().map(|a| format!("as{}.asn.cymru.com", synthetic_asn(*a))).collect();
    networks.sort();
    networks.dedup();
    expected.extend(networks);
    expected.sort();
    assert_eq!(names, expected);
    assert!(dns.record().iter().all(|q| q.kind == 16 && q.transport == Transport::Udp));
    assert_eq!(
        db.number("SELECT count(*) FROM enrich.asn_inventory WHERE organization_name LIKE 'SYNTH-%' AND rir_registry IS NOT NULL"),
        db.number("SELECT count(*) FROM enrich.asn_inventory")
    );
}

/// Computes the expected value without the code under test.
fn origin_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.origin.asn.cymru.com")
        }
        IpAddr::V6(v6) => {
            let nibbles = format!("{:032x}", u128::from(v6));
            let reversed: Vec<String> = nibbles.chars().rev().map(String::from).collect();
            format!("{}.origin6.asn.cymru.com", reversed.join("."))
        }
    }
}

#[test]
fn by_dns_a_name_that_does_not_exist_is_an_answer_and_silence_is_not() {
    let dns = Dns::start(Routes::synthetic());
    let lab = dns_lab("dns-nothing", &dns, "dns");
    let mut db = lab.database();
    dns.behave(DnsFault::NxDomain);
    queue(&mut db, &members(0..5));
    wait_for_the_queue(&mut db);
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory WHERE current_asn IS NULL"), 5);
    assert_eq!(db.number("SELECT count(*) FROM block_answer WHERE asn_number IS NULL"), 5);
    assert_eq!(db.number("SELECT count(*) FROM dead_letter"), 0);

    // A server that denies every name knows nothing about the addresses.
    dns.behave(DnsFault::DenyAll);
    queue(&mut db, &members(10..15));
    wait_until(
        "the failure is seen",
        || (provider(&mut db, "failed"), state(&mut db)),
        |(failed, _)| *failed > 0,
    );
    let error = "SELECT last_error FROM provider_status WHERE provider = 'cymru'";
    assert_eq!(db.one(error), "the DNS server answered: no valid record of AS23028.asn.cymru.com.");
    assert_eq!(db.number("SELECT count(*) FROM block_answer WHERE asn_number IS NULL"), 5);
    dns.behave(DnsBehaviour::normal());
    db.run("SELECT resume_provider('cymru')");
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &members(10..15));

    dns.behave(DnsFault::ServFail);
    queue(&mut db, &members(20..25));
    wait_until(
        "the failure is seen",
        || (provider(&mut db, "failed") + provider(&mut db, "silent"), state(&mut db)),
        |(failed, _)| *failed > 0,
    );
    assert_eq!(db.number("SELECT count(*) FROM block_answer WHERE asn_number IS NULL"), 5);
    dns.behave(DnsFault::Truncate);
    db.run("SELECT retry_dead_letters()");
    wait_for_the_queue(&mut db);
    db.run("SELECT retry_dead_letters()");
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &members(20..25));
    assert!(dns.record().iter().any(|q| q.transport == Transport::Tcp));

    for fault in
        [DnsFault::MultiString, DnsFault::SeveralRecords, DnsFault::WrongFirst, DnsFault::LoseFirst(2)]
    {
        let first = db.number("SELECT count(*) FROM block_answer") as usize * 7 + 100;
        dns.behave(fault);
        queue(&mut db, &members(first..first + 3));
        wait_for_the_queue(&mut db);
        assert_placed(&mut db, &members(first..first + 3));
    }
    lab.assert_nothing_crashed();
}

#[test]
fn by_dns_silence_kills_no_lookup() {
    let dns = Dns::start(Routes::synthetic());
    let lab = dns_lab("dns-silent", &dns, "dns");
    let mut db = lab.database();
    dns.behave(DnsFault::Silent);
    queue(&mut db, &members(0..5));
    wait_until("the silence is counted", || provider(&mut db, "silent"), |n| *n > 0);
    assert_eq!(db.one("SELECT jobs, dead FROM queue_status WHERE provider = 'cymru'"), "5|0");
    dns.behave(cowrie_enrich_upstreams::DnsBehaviour::normal());
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &members(0..5));
}

#[test]
fn dns_is_asked_while_whois_cannot_be_reached() {
    let dns = Dns::start(Routes::synthetic());
    let lab = dns_lab("dns-auto", &dns, "auto");
    let mut db = lab.database();
    lab.whois.refuse();
    queue(&mut db, &members(0..5));
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &members(0..5));
    assert!(!dns.record().is_empty());
    let asked = dns.record().len();
    lab.whois.listen_again();
    queue(&mut db, &members(5..10));
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &members(0..10));
    assert_eq!(dns.record().len(), asked, "whois is there again");
    assert_eq!(lab.whois.record().questions_total(), 5);
    // The function uses no fallback if the server accepts connections but does not answer: it may be overloaded.
    lab.whois.behave(Fault::Silent);
    queue(&mut db, &members(10..15));
    wait_until("the silence is counted", || provider(&mut db, "silent"), |n| *n > 0);
    assert_eq!(dns.record().len(), asked);
    lab.whois.behave(Behaviour::normal());
    wait_for_the_queue(&mut db);
}
