//! A provider that is down, silent or not configured delays neither other providers nor sessions.

use std::net::IpAddr;

use cowrie_enrich_upstreams::{
    HttpBehaviour, HttpFault, synthetic_asn, synthetic_country, synthetic_dshield_country, synthetic_ip_type,
};
use server_tests::cymru::{self, assert_placed, member, members, state, wait_for_the_queue};
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::http::{
    CONTACT, Lab, Plan, asked, documents, held, request, rounds, status, wait_for_status, wait_until_held,
};
use server_tests::recount::assert_counts_are_exact;
use server_tests::wait_until;

const ALL: &str = "maxmind,cymru,greynoise,dshield,spur";

#[test]
fn one_provider_that_is_down_does_not_slow_the_others_nor_any_session() {
    let lab = Plan::of("independence-down", ALL).with("greynoise_timeout = 120s").start();
    for (what, fault) in [
        ("held", HttpFault::Held),
        ("silent", HttpFault::Silent),
        ("a head and nothing more", HttpFault::Hang),
        ("500", HttpFault::status(500)),
        ("401", HttpFault::status(401)),
        ("429", HttpFault::status(429)),
        ("noise", HttpFault::Garbage(500)),
    ] {
        eprintln!("{what}");
        let hangs = matches!(fault, HttpFault::Held | HttpFault::Silent | HttpFault::Hang);
        let mut db = lab.database();
        COWRIE.create_attached(&mut db);
        SUMMARIES.create_attached(&mut db);
        lab.greynoise.forget();
        lab.greynoise.behave(fault);
        // A session does not wait for locks.
        db.run("SET lock_timeout = '100ms'");
        let addresses = members(0..120);
        for (n, address) in addresses.iter().enumerate() {
            let host = if n % 2 == 0 { &COWRIE } else { &SUMMARIES };
            db.run(&host.insert(&[(&format!("s{n}"), Some(&address.to_string()))]));
        }
        if hangs {
            wait_until_held(&lab.greynoise, 10);
        }
        wait_until(
            "all others are answered",
            || {
                // In one statement, because requests become jobs meanwhile.
                let left = db.number(
                    "SELECT (SELECT count(*) FROM enrich.enrichment_job WHERE provider <> 'greynoise')
                         + (SELECT count(*) FROM enrich.enrichment_request)",
                );
                (left, if left == 0 { String::new() } else { state(&mut db) })
            },
            |(left, _)| *left == 0,
        );
        if hangs {
            assert_eq!(lab.greynoise.in_progress(), 10, "{what}: they are still under way");
        }
        assert_eq!(documents(&mut db, "greynoise").len(), 0, "{what}");
        assert_eq!(db.number("SELECT count(*) FROM enrich.enrichment_job WHERE provider = 'greynoise'"), 120);
        assert_placed(&mut db, &addresses);
        for provider in ["dshield", "spur"] {
            assert_eq!(documents(&mut db, provider).len(), 120, "{what}: {provider}");
        }
        // The country is DShield's if DShield was the first to name one.
        let is_complete = |snapshot: &str, address: IpAddr| {
            let asn = synthetic_asn(address);
            let kind = synthetic_ip_type(address).unwrap_or("NULL");
            [Some(synthetic_country(asn)), synthetic_dshield_country(address)]
                .into_iter()
                .flatten()
                .any(|country| snapshot == format!("{asn}|{country}|{kind}"))
        };
        // The owner process of the tables completes them after the answers have left the queue.
        for (n, address) in addresses.iter().enumerate() {
            let host = if n % 2 == 0 { &COWRIE } else { &SUMMARIES };
            wait_until(
                &format!("{what}: the session of {address} is complete"),
                || host.snapshot(&mut db, &format!("s{n}")),
                |snapshot| is_complete(snapshot, *address),
            );
        }
        // Sessions of known and unknown addresses, meanwhile.
        for (key, address) in [("known", addresses[0]), ("unknown", member(500, 7))] {
            db.run(&COWRIE.insert(&[(key, Some(&address.to_string()))]));
        }
        let snapshot = COWRIE.snapshot(&mut db, "known");
        assert!(is_complete(&snapshot, addresses[0]), "{what}: {snapshot}");
        wait_until(
            "the new one is complete too",
            || (COWRIE.snapshot(&mut db, "unknown"), state(&mut db)),
            |(now, _)| is_complete(now, member(500, 7)),
        );
        assert_counts_are_exact(&mut db, &[("sessions", "ip"), ("session_summaries", "source_ip")]);
        assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
        // Silent requests now see the end of the connection.
        lab.greynoise.behave(HttpBehaviour::normal());
        lab.greynoise.stop();
        lab.greynoise.start_again();
        db.run("SELECT enrich.resume_provider('greynoise')");
        wait_until(
            "the queue is empty",
            || {
                db.run("SELECT enrich.resume_provider('greynoise')");
                (documents(&mut db, "greynoise").len(), state(&mut db))
            },
            |(stored, _)| *stored == 121,
        );
        wait_for_the_queue(&mut db);
    }
    lab.assert_nothing_crashed();
}

/// All of them are down at the same time.
#[test]
fn with_nobody_there_sessions_are_stored_and_everything_is_found_out_later() {
    let lab = Plan::of("independence-nobody", ALL).start();
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    lab.whois.refuse();
    lab.servers().iter().for_each(|(_, server)| server.stop());
    let addresses = members(0..30);
    db.run("SET lock_timeout = '100ms'");
    for (n, address) in addresses.iter().enumerate() {
        db.run(&COWRIE.insert(&[(&format!("s{n}"), Some(&address.to_string()))]));
    }
    for provider in ["cymru", "greynoise", "dshield", "spur"] {
        wait_for_status(
            &mut db,
            provider,
            "unreachable > 0, last_error LIKE 'could not connect to 127.0.0.1:%'",
            "t|t",
        );
    }
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
    lab.whois.listen_again();
    lab.servers().iter().for_each(|(_, server)| server.start_again());
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);
    for provider in ["greynoise", "dshield", "spur"] {
        assert_eq!(documents(&mut db, provider).len(), 30);
    }
    lab.assert_nothing_crashed();
}

// --- Settings --------------------------------------------------------------------------------

/// While a setting blocks a provider, no request is sent to it. A reload is enough to unblock it.
#[test]
fn a_provider_that_is_not_set_up_says_which_setting_and_is_not_asked() {
    let lab = Plan::of("settings-obstacles", ALL).start();
    let mut db = lab.database();
    let known = member(90_000, 7);
    cymru::queue(&mut db, &[known]);
    wait_for_the_queue(&mut db);
    let url = |lab: &Lab, provider: &str| format!("{provider}_url = '{}'", lab.server(provider).url());
    let key = |lab: &Lab, provider: &str, setting: &str| {
        format!("{setting} = '{}'", lab.key_file(provider).display())
    };
    let contact = format!("dshield_contact = '{CONTACT}'");
    let greynoise_url = url(&lab, "greynoise");
    let (dshield_url, spur_url) = (url(&lab, "dshield"), url(&lab, "spur"));
    let token = key(&lab, "spur", "spur_token_file");
    let sources = format!("enabled_sources = '{ALL}'");
    let port = lab.greynoise.port();
    let with_user = format!("greynoise_url = 'http://user:secret@127.0.0.1:{port}/v3'");
    let with_query = format!("greynoise_url = 'http://127.0.0.1:{port}/v3?key=1'");
    let other_scheme = format!("greynoise_url = 'ftp://127.0.0.1:{port}/v3'");
    let bad_port = "greynoise_url = 'http://127.0.0.1:99999/v3'".to_owned();
    let cases: Vec<(&str, &str, &str, &str)> = vec![
        (
            "dshield",
            "dshield_contact = ''",
            &contact,
            "cowrie_enrich.dshield_contact is not set: DShield requires",
        ),
        (
            "dshield",
            "dshield_contact = 'Jörg <j@example.org>'",
            &contact,
            "cowrie_enrich.dshield_contact is not one line",
        ),
        ("spur", "spur_token_file = ''", &token, "cowrie_enrich.spur_token_file is not set"),
        (
            "greynoise",
            "greynoise_url = 'http://192.0.2.7/v3'",
            &greynoise_url,
            "cowrie_enrich.greynoise_url is not an https URL, and cowrie_enrich.greynoise_api_key_file is set",
        ),
        (
            "greynoise",
            "greynoise_url = 'http://localhost.example.com/v3'",
            &greynoise_url,
            "cowrie_enrich.greynoise_url is not an https URL",
        ),
        (
            "spur",
            "spur_url = 'http://spur.example.com/v2'",
            &spur_url,
            "cowrie_enrich.spur_url is not an https URL",
        ),
        (
            "greynoise",
            "greynoise_url = 'nonsense'",
            &greynoise_url,
            "cowrie_enrich.greynoise_url is not an http or https URL",
        ),
        ("greynoise", "greynoise_url = ''", &greynoise_url, "cowrie_enrich.greynoise_url"),
        ("greynoise", &with_user, &greynoise_url, "cowrie_enrich.greynoise_url contains a user name"),
        (
            "greynoise",
            &with_query,
            &greynoise_url,
            "cowrie_enrich.greynoise_url contains a query or a fragment",
        ),
        (
            "greynoise",
            &other_scheme,
            &greynoise_url,
            "cowrie_enrich.greynoise_url is not an http or https URL",
        ),
        ("greynoise", &bad_port, &greynoise_url, "cowrie_enrich.greynoise_url is not an http or https URL"),
        (
            "dshield",
            "dshield_url = 'http://'",
            &dshield_url,
            "cowrie_enrich.dshield_url is not an http or https URL",
        ),
        ("spur", "http_proxy = 'socks5://127.0.0.1:1'", "http_proxy = ''", "cowrie_enrich.http_proxy"),
        (
            "greynoise",
            "enabled_sources = 'maxmind,cymru,dshield,spur'",
            &sources,
            "the provider is not in cowrie_enrich.enabled_sources",
        ),
        (
            "spur",
            "enabled_sources = 'maxmind,cymru'",
            &sources,
            "the provider is not in cowrie_enrich.enabled_sources",
        ),
    ];
    for (n, (provider, set, back, words)) in cases.into_iter().enumerate() {
        eprintln!("{set}");
        let server = lab.server(provider);
        server.forget();
        let address = member(n, 7);
        lab.reconfigure(&[set]);
        request(&mut db, provider, &[address]);
        rounds(&mut db, known, 2);
        let blocked_reason = status(&mut db, provider, "blocked_reason");
        assert!(blocked_reason.starts_with(words), "{set}: {blocked_reason}");
        assert!(!blocked_reason.contains("secret"), "{blocked_reason}");
        assert_eq!(server.requests().len(), 0, "{set}");
        assert_eq!(
            db.one(&format!(
                "SELECT count(*), max(attempts), min(leased_by) FROM enrich.enrichment_job WHERE provider = '{provider}'"
            )),
            "1|0|NULL",
            "{set}"
        );
        // The other providers still get requests, except for a setting that also applies to them.
        lab.reconfigure(&[back]);
        wait_for_the_queue(&mut db);
        assert!(asked(server).contains(&address), "{set}");
        assert_eq!(status(&mut db, provider, "blocked_reason, dead_letters"), "NULL|0");
    }
    lab.assert_nothing_crashed();
}

/// The inventory already has a value that a session lacks, but the note of the gap comes late. The session does not
/// wait for a provider that has nothing to do with the gap.
#[test]
fn a_late_note_of_a_gap_does_not_wait_for_a_provider_that_is_silent() {
    let lab = Plan::of("independence-late", "maxmind,cymru,dshield").with("dshield_timeout = 120s").start();
    lab.dshield.behave(HttpFault::Held);
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    let address = member(1, 1);
    let mut locker = db.another();
    locker.run("BEGIN; LOCK TABLE enrich.incomplete_session");
    db.run(&COWRIE.insert(&[("a", Some(&address.to_string()))]));
    wait_until(
        "the address has its network",
        || {
            db.number(&format!(
                "SELECT count(*) FROM enrich.ip_inventory WHERE ip_address = '{address}' AND current_asn IS NOT NULL"
            ))
        },
        |placed| *placed == 1,
    );
    assert_eq!(db.one("SELECT snapshot_asn FROM sessions"), "NULL");
    locker.run("COMMIT");
    wait_until(
        "the session is complete",
        || db.one("SELECT snapshot_asn FROM sessions"),
        |asn| *asn == synthetic_asn(address).to_string(),
    );
    assert_eq!(
        db.number("SELECT count(*) FROM enrich.enrichment_job WHERE provider = 'dshield'"),
        1,
        "it is silent still"
    );
    lab.assert_nothing_crashed();
}

#[test]
fn a_reload_is_enough_for_urls_keys_limits_and_lifetimes() {
    let lab = Plan::of("settings-reload", ALL).start();
    let mut db = lab.database();
    request(&mut db, "greynoise", &members(0..5));
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab.greynoise).len(), 5);
    // At another server that needs no key.
    let elsewhere = cowrie_enrich_upstreams::Http::start(
        cowrie_enrich_upstreams::Service::GreyNoise,
        cowrie_enrich_upstreams::Hosts::synthetic(),
    );
    lab.reconfigure(&[
        "greynoise_api_key_file = 'community'",
        &format!("greynoise_url = '{}/'", elsewhere.url()),
    ]);
    request(&mut db, "greynoise", &members(10..15));
    wait_for_the_queue(&mut db);
    assert_eq!((asked(&lab.greynoise).len(), asked(&elsewhere).len()), (5, 5));
    assert!(elsewhere.requests().iter().all(|request| request.header("key").is_none()), "no key is sent");
    // The number of concurrent requests.
    elsewhere.behave(held());
    lab.reconfigure(&["greynoise_max_parallel = 2"]);
    request(&mut db, "greynoise", &members(20..30));
    wait_until_held(&elsewhere, 2);
    let known = member(90_000, 7);
    cymru::queue(&mut db, &[known]);
    rounds(&mut db, known, 2);
    assert_eq!(elsewhere.in_progress(), 2);
    lab.reconfigure(&["greynoise_max_parallel = 5"]);
    wait_until_held(&elsewhere, 5);
    elsewhere.behave(HttpBehaviour::normal());
    wait_for_the_queue(&mut db);
    assert!(members(20..30).iter().all(|address| asked(&elsewhere).contains(address)));
    lab.assert_nothing_crashed();
}
