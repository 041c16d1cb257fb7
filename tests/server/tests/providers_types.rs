//! SPUR's types in the snapshots of sessions change once, from null to a value. Also DShield's countries.

use std::net::IpAddr;
use std::sync::Arc;

use cowrie_enrich_upstreams::{
    CannedAnswer, Hosts, HttpBehaviour, HttpFault, HttpRequest, Tunnel, synthetic_asn, synthetic_country,
    synthetic_dshield_country, synthetic_ip_type,
};
use server_tests::cymru::{member, member6, members, state, wait_for_the_queue};
use server_tests::hosts::{COWRIE, Host, SUMMARIES};
use server_tests::http::{Lab, Plan, document, held, members_like, request, rounds, wait_until_held};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Session, wait_until};

const ALL: &str = "maxmind,cymru,spur";

fn lab(name: &str) -> Lab {
    Plan::of(name, ALL).start()
}

fn expected(address: IpAddr) -> String {
    let asn = synthetic_asn(address);
    format!("{asn}|{}|{}", synthetic_country(asn), synthetic_ip_type(address).unwrap_or("NULL"))
}

fn insert(session: &mut Session, host: &Host, key: &str, address: IpAddr) {
    session.run(&host.insert(&[(key, Some(&address.to_string()))]));
}

/// Inserts a session with this value in a column.
fn insert_own(session: &mut Session, host: &Host, key: &str, address: IpAddr, column: &str, value: &str) {
    session.run(&format!(
        "INSERT INTO {} ({}, {}, {}, {column}) VALUES ('{key}', '2024-05-01', '{address}', '{value}')",
        host.table, host.key, host.time, host.address
    ));
}

/// SPUR returns this type alone for every address.
fn always(kind: &'static str) -> HttpBehaviour {
    HttpFault::Custom(Arc::new(move |request: &HttpRequest| CannedAnswer {
        status: 200,
        headers: Vec::new(),
        body: format!("{{\"ip\":\"{}\",\"infrastructure\":\"{kind}\"}}", request.ip.expect("an address"))
            .into(),
    }))
    .into()
}

#[test]
fn sessions_that_wait_get_their_type_once_and_keep_what_they_have() {
    let lab = lab("types-waiting");
    for host in [&COWRIE, &SUMMARIES] {
        let mut db = lab.database();
        host.create_attached(&mut db);
        db.run(&format!("SELECT enrich.set_session_table_options('{}', NULL, true)", host.table));
        lab.spur.behave(held());
        let mut addresses = members(0..40);
        addresses.extend((0..20).map(|n| member6(n, 3)));
        for (n, address) in addresses.iter().enumerate() {
            insert(&mut db, host, &format!("s{n}"), *address);
            insert(&mut db, host, &format!("t{n}"), *address);
        }
        let typed =
            *addresses.iter().find(|address| synthetic_ip_type(**address).is_some()).expect("there is one");
        insert_own(&mut db, host, "own-type", typed, "snapshot_ip_type", "SATELLITE");
        insert_own(&mut db, host, "own-asn", typed, "snapshot_asn", "7");
        insert_own(&mut db, host, "own-country", typed, "snapshot_country", "ZZ");
        insert_own(&mut db, host, "own-document", typed, "enrichment", "{\"mine\": 1}");
        wait_until_held(&lab.spur, 10);
        // The network is stored now or a little later. The answers with the network and with the type write
        // the same rows.
        wait_until(
            "the networks are known",
            || {
                (
                    db.number("SELECT count(*) FROM enrich.ip_inventory WHERE current_asn IS NOT NULL"),
                    state(&mut db),
                )
            },
            |(known, _)| *known == 60,
        );
        // A session that commits after SPUR's answer was stored.
        let mut late = db.another();
        late.run("BEGIN");
        insert(&mut late, host, "late", typed);
        let late_before = host.snapshot(&mut late, "late");
        assert!(late_before.ends_with("|NULL"), "{late_before}");
        lab.spur.behave(HttpBehaviour::normal());
        wait_for_the_queue(&mut db);
        late.run("COMMIT");
        wait_until(
            "the late one is complete",
            || (host.snapshot(&mut db, "late"), state(&mut db)),
            |(now, _)| *now == expected(typed),
        );
        for (n, address) in addresses.iter().enumerate() {
            for copy in ["s", "t"] {
                assert_eq!(host.snapshot(&mut db, &format!("{copy}{n}")), expected(*address), "{address}");
            }
        }
        let asn = synthetic_asn(typed);
        let country = synthetic_country(asn);
        let kind = synthetic_ip_type(typed).expect("it has one");
        assert_eq!(host.snapshot(&mut db, "own-type"), format!("{asn}|{country}|SATELLITE"));
        assert_eq!(host.snapshot(&mut db, "own-asn"), format!("7|{country}|{kind}"));
        assert_eq!(host.snapshot(&mut db, "own-country"), format!("{asn}|ZZ|{kind}"));
        assert_eq!(host.snapshot(&mut db, "own-document"), expected(typed));
        assert_eq!(
            db.one(&format!("SELECT enrichment FROM {} WHERE {} = 'own-document'", host.table, host.key)),
            "{\"mine\": 1}"
        );
        // A later session has all values at once.
        insert(&mut db, host, "later", typed);
        assert_eq!(host.snapshot(&mut db, "later"), expected(typed));

        // SPUR's type changes. The snapshot keeps the type at the time of the attack.
        lab.spur.behave(always("ORBITAL"));
        db.run(
            "UPDATE enrich.ip_inventory SET enrichment = jsonb_set(enrichment, '{spur,cached_at}', '\"2020-01-01T00:00:00+00:00\"')
             WHERE enrichment ? 'spur'",
        );
        db.run(&format!("SELECT enrich.enrich_ip('{typed}')"));
        wait_for_the_queue(&mut db);
        assert_eq!(document(&mut db, typed, "spur")["infrastructure"], "ORBITAL");
        insert(&mut db, host, "afterwards", typed);
        assert_eq!(host.snapshot(&mut db, "afterwards"), format!("{asn}|{country}|ORBITAL"));
        for key in ["later", "late"] {
            assert_eq!(host.snapshot(&mut db, key), expected(typed));
        }
        assert_eq!(host.snapshot(&mut db, "own-type"), format!("{asn}|{country}|SATELLITE"));
        assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
    }
    lab.assert_nothing_crashed();
}

/// Parts of SPUR's answer: the types of tunnels, the infrastructure and the types of devices. The last field
/// is the type that takes precedence.
type Case = (&'static [&'static str], Option<&'static str>, &'static [&'static str], &'static str);

#[test]
fn the_type_that_leads_is_taken_from_tunnels_then_infrastructure_then_devices() {
    let tunnel = |kind: &str| Tunnel { kind: kind.to_owned(), operator: None };
    let cases: [Case; 13] = [
        (&["PROXY", "TOR", "VPN"], Some("DATACENTER"), &["MOBILE"], "VPN"),
        (&["PROXY", "TOR"], Some("DATACENTER"), &["MOBILE"], "TOR"),
        (&["PROXY"], Some("RESIDENTIAL"), &["MOBILE"], "PROXY"),
        (&[], Some("DATACENTER"), &["MOBILE", "DESKTOP"], "DATACENTER"),
        (&[], Some("RESIDENTIAL"), &["MOBILE"], "RESIDENTIAL"),
        (&[], Some("MOBILE"), &[], "MOBILE"),
        (&[], None, &["DESKTOP", "MOBILE"], "MOBILE"),
        (&[], None, &["DESKTOP", "TABLET"], "DESKTOP"),
        (&["REMOTE_DESKTOP"], Some("BUSINESS"), &[], "REMOTE_DESKTOP"),
        (&["REMOTE_DESKTOP"], Some("DATACENTER"), &[], "DATACENTER"),
        (&["vpn"], None, &[], "VPN"),
        (&[], Some(" satellite "), &[], "SATELLITE"),
        (&[], None, &[], "NULL"),
    ];
    let mut hosts = Hosts::empty();
    for (n, (tunnels, infrastructure, devices, _)) in cases.iter().enumerate() {
        let host = cowrie_enrich_upstreams::Host {
            tunnels: tunnels.iter().map(|kind| tunnel(kind)).collect(),
            infrastructure: infrastructure.map(str::to_owned),
            devices: devices.iter().map(|device| (*device).to_owned()).collect(),
            ..cowrie_enrich_upstreams::Host::default()
        };
        hosts.add(&member(n, 7).to_string(), host);
    }
    let lab = Plan::of("types-leading", "maxmind,spur").hosts(hosts).start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    for (n, _) in cases.iter().enumerate() {
        insert(&mut db, &SUMMARIES, &format!("s{n}"), member(n, 7));
    }
    wait_for_the_queue(&mut db);
    for (n, case) in cases.iter().enumerate() {
        assert_eq!(
            SUMMARIES.snapshot(&mut db, &format!("s{n}")),
            format!("NULL|NULL|{}", case.3),
            "{case:?}"
        );
    }
}

#[test]
fn columns_that_are_too_short_stay_null_and_keep_nothing_else_from_being_completed() {
    let lab = lab("types-short");
    let mut db = lab.database();
    db.run(
        "CREATE TABLE public.narrow (id text PRIMARY KEY, source_ip inet, at timestamptz, snapshot_ip_type varchar(3));
         CREATE TABLE public.narrower (id text PRIMARY KEY, source_ip inet, at timestamptz, snapshot_ip_type char(2),
                                       snapshot_country varchar(1));
         SELECT enrich.attach_session_table('public.narrow', 'source_ip', 'at'),
                enrich.attach_session_table('public.narrower', 'source_ip', 'at')",
    );
    SUMMARIES.create_attached(&mut db);
    lab.spur.behave(held());
    let vpn = members_like(1, |address| synthetic_ip_type(address) == Some("VPN"))[0];
    let datacenter = members_like(1, |address| synthetic_ip_type(address) == Some("DATACENTER"))[0];
    for address in [vpn, datacenter] {
        db.run(&format!(
            "INSERT INTO public.narrow VALUES ('{address}', '{address}', now());
             INSERT INTO public.narrower VALUES ('{address}', '{address}', now())"
        ));
        insert(&mut db, &SUMMARIES, &address.to_string(), address);
    }
    wait_until_held(&lab.spur, 2);
    lab.spur.behave(HttpBehaviour::normal());
    wait_for_the_queue(&mut db);
    let mut snapshot = |table: &str, address: IpAddr| {
        db.one(&format!(
            "SELECT snapshot_asn, snapshot_country, snapshot_ip_type FROM public.{table} WHERE id = '{address}'"
        ))
    };
    let network = |address| {
        let asn = synthetic_asn(address);
        (asn, synthetic_country(asn))
    };
    let (asn, country) = network(vpn);
    assert_eq!(snapshot("narrow", vpn), format!("{asn}|{country}|VPN"));
    assert_eq!(snapshot("narrower", vpn), format!("{asn}|NULL|NULL"));
    let (asn, country) = network(datacenter);
    assert_eq!(snapshot("narrow", datacenter), format!("{asn}|{country}|NULL"));
    assert_eq!(snapshot("narrower", datacenter), format!("{asn}|NULL|NULL"));
    assert_eq!(SUMMARIES.snapshot(&mut db, &datacenter.to_string()), expected(datacenter));
    // The trigger does the same at once.
    for table in ["narrow", "narrower"] {
        db.run(&format!("INSERT INTO public.{table} VALUES ('again', '{datacenter}', now())"));
    }
    assert_eq!(
        db.rows(
            "SELECT snapshot_asn, snapshot_ip_type FROM public.narrow WHERE id = 'again'
                 UNION ALL SELECT snapshot_asn, snapshot_ip_type FROM public.narrower WHERE id = 'again'"
        ),
        [format!("{asn}|NULL"), format!("{asn}|NULL")]
    );
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
    lab.assert_nothing_crashed();
}

#[test]
fn a_table_that_was_attached_before_there_was_a_source_of_types_is_attached_again() {
    let lab = Plan::of("types-attached", "maxmind").start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    let hint = "snapshot_ip_type can stay null in sessions of a table; call attach_session_table() again, then backfill_sessions()";
    // The mmdb files have all values except the type.
    let typed = |from: u8| {
        (from..255)
            .map(|host| format!("89.160.20.{host}").parse().expect("an address"))
            .find(|address| synthetic_ip_type(*address).is_some())
            .expect("there is one")
    };
    let (first, second, third): (IpAddr, IpAddr, IpAddr) = (typed(1), typed(80), typed(160));
    insert(&mut db, &SUMMARIES, "before", first);
    assert_eq!(SUMMARIES.snapshot(&mut db, "before"), "29518|SE|NULL");
    lab.reconfigure(&["enabled_sources = 'maxmind,spur'"]);
    assert_eq!(db.one("SELECT enrich.sessions_wait_for_types()"), "t");
    for address in [first, second] {
        request(&mut db, "spur", &[address]);
        insert(&mut db, &SUMMARIES, &format!("now {address}"), address);
    }
    wait_for_the_queue(&mut db);
    let log = lab.cluster.whole_log();
    assert_eq!(log.matches(hint).count(), 1, "once");
    assert!(log.contains("session_summaries"), "{}", lab.cluster.log());
    // New sessions of an address with a known type still get the type.
    insert(&mut db, &SUMMARIES, "afterwards", second);
    let kind = synthetic_ip_type(second).expect("it has one");
    assert_eq!(SUMMARIES.snapshot(&mut db, "afterwards"), format!("29518|SE|{kind}"));

    SUMMARIES.attach(&mut db);
    lab.spur.behave(held());
    insert(&mut db, &SUMMARIES, "waits", third);
    wait_until_held(&lab.spur, 1);
    assert_eq!(SUMMARIES.snapshot(&mut db, "waits"), "29518|SE|NULL");
    lab.spur.behave(HttpBehaviour::normal());
    wait_for_the_queue(&mut db);
    let kind = synthetic_ip_type(third).expect("it has one");
    assert_eq!(SUMMARIES.snapshot(&mut db, "waits"), format!("29518|SE|{kind}"));
    // Sessions from before SPUR was enabled need a backfill, because their commits did not append them to
    // `incomplete_session`.
    assert_eq!(SUMMARIES.snapshot(&mut db, "before"), "29518|SE|NULL");
    db.run("CALL enrich.backfill_sessions('session_summaries')");
    let kind = synthetic_ip_type(first).expect("it has one");
    assert_eq!(SUMMARIES.snapshot(&mut db, "before"), format!("29518|SE|{kind}"));
    assert_eq!(lab.cluster.whole_log().matches(hint).count(), 1);
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
    lab.assert_nothing_crashed();
}

/// DShield's country has the lowest precedence, but is used.
#[test]
fn a_country_that_dshield_alone_knows_completes_the_snapshot() {
    let lab = Plan::of("types-country", "maxmind,dshield").start();
    for host in [&COWRIE, &SUMMARIES] {
        let mut db = lab.database();
        host.create_attached(&mut db);
        db.run(&format!("SELECT enrich.set_session_table_options('{}', NULL, true)", host.table));
        lab.dshield.behave(held());
        let mut addresses = members(0..30);
        addresses.extend((0..10).map(|n| member6(n, 3)));
        for (n, address) in addresses.iter().enumerate() {
            insert(&mut db, host, &format!("s{n}"), *address);
        }
        // In the file one address has a network and no country, and another has a country and no network.
        let placed: IpAddr = (1..200)
            .map(|n| format!("47.0.7.{n}").parse().expect("an address"))
            .find(|address| synthetic_dshield_country(*address).is_some())
            .expect("there is one");
        insert(&mut db, host, "placed", placed);
        insert(&mut db, host, "dutch", "46.0.7.1".parse().expect("an address"));
        insert_own(&mut db, host, "own", placed, "snapshot_country", "ZZ");
        wait_until_held(&lab.dshield, 10);
        assert_eq!(host.snapshot(&mut db, "placed"), "45102|NULL|NULL");
        lab.dshield.behave(HttpBehaviour::normal());
        wait_for_the_queue(&mut db);
        for (n, address) in addresses.iter().enumerate() {
            let country = synthetic_dshield_country(*address).unwrap_or("NULL");
            assert_eq!(host.snapshot(&mut db, &format!("s{n}")), format!("NULL|{country}|NULL"), "{address}");
        }
        let country = synthetic_dshield_country(placed).expect("it has one");
        assert_eq!(host.snapshot(&mut db, "placed"), format!("45102|{country}|NULL"));
        assert_eq!(host.snapshot(&mut db, "dutch"), "NULL|NL|NULL");
        assert_eq!(host.snapshot(&mut db, "own"), "45102|ZZ|NULL");
        insert(&mut db, host, "later", placed);
        assert_eq!(host.snapshot(&mut db, "later"), format!("45102|{country}|NULL"));
        assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
    }
    lab.assert_nothing_crashed();
}

/// Sessions that are locked when the answer arrives are completed after the lock is released.
#[test]
fn a_session_that_is_held_gets_its_type_when_it_is_let_go() {
    let lab = lab("types-held");
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    let [first, second] = members_like(2, |address| synthetic_ip_type(address).is_some())[..] else {
        panic!("there are two")
    };
    lab.spur.behave(held());
    insert(&mut db, &SUMMARIES, "first", first);
    insert(&mut db, &SUMMARIES, "second", second);
    wait_until_held(&lab.spur, 2);
    let mut holder = db.another();
    holder.run("BEGIN; UPDATE session_summaries SET event_count = 1 WHERE session_id = 'first'");
    lab.spur.behave(HttpBehaviour::normal());
    wait_until(
        "the other one does not wait",
        || (SUMMARIES.snapshot(&mut db, "second"), state(&mut db)),
        |(now, _)| *now == expected(second),
    );
    holder.run("COMMIT");
    wait_until(
        "it is complete",
        || (SUMMARIES.snapshot(&mut db, "first"), state(&mut db)),
        |(now, _)| *now == expected(first),
    );
    wait_for_the_queue(&mut db);
    rounds(&mut db, first, 1);
    assert_eq!(lab.spur.requests().len(), 2, "one answer for all of it");
    lab.assert_nothing_crashed();
}
