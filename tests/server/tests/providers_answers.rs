//! Answers of GreyNoise, DShield and SPUR are stored as they were sent, and a fresh answer is not requested again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use cowrie_enrich_upstreams::{
    CannedAnswer, Hosts, Http, HttpBehaviour, HttpFault, Service, synthetic_dshield_country,
    synthetic_ip_type, synthetic_noise,
};
use serde_json::{Value, json};
use server_tests::cymru::{array, member, member6, members, state, wait_for_permits};
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::http::{
    Lab, PROVIDERS, Plan, ask, asked, document, documents, request, rounds, wait_for_the_queue,
};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Session, wait_until};

const ALL: &str = "maxmind,greynoise,dshield,spur";

/// Returns a service's answer for each address, requested by the test itself.
fn said(service: Service, addresses: &[IpAddr]) -> BTreeMap<IpAddr, (u16, Value)> {
    let server = Http::start(service, Hosts::synthetic());
    let suffix = if service == Service::Dshield { "?json" } else { "" };
    addresses.iter().map(|address| (*address, ask(&server, *address, suffix, &[]))).collect()
}

/// Returns the part of GreyNoise's answer that is stored.
fn kept(status: u16, said: &Value) -> Value {
    if status == 404 {
        return json!({"noise": false, "riot": false});
    }
    let mut kept = serde_json::Map::new();
    for member in ["noise", "riot", "classification", "name", "last_seen"] {
        if let Some(value) = said.get(member) {
            kept.insert(member.to_owned(), value.clone());
        }
    }
    Value::Object(kept)
}

#[test]
fn answers_are_stored_as_they_were_sent_whoever_asked() {
    let lab = Plan::of("answers-stored", ALL).start();
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    // Lookups are requested by sessions of each host, and by direct calls.
    let addresses = members(0..180);
    let texts: Vec<(String, String)> =
        addresses.iter().enumerate().map(|(n, a)| (format!("k{n}"), a.to_string())).collect();
    let rows: Vec<(&str, Option<&str>)> =
        texts.iter().map(|(key, address)| (key.as_str(), Some(address.as_str()))).collect();
    db.run(&COWRIE.insert(&rows[..60]));
    db.run(&SUMMARIES.insert(&rows[60..120]));
    for provider in PROVIDERS {
        request(&mut db, provider, &addresses[120..]);
    }
    wait_for_the_queue(&mut db);

    for (provider, server) in lab.servers() {
        let asked = asked(server);
        assert_eq!(asked.len(), 180, "{provider} was asked once about each");
        assert_eq!(asked.iter().collect::<BTreeSet<_>>(), addresses.iter().collect());
        let last = server.requests().pop().expect("there are some");
        assert!(
            last.header("user-agent").is_some_and(|agent| agent.starts_with("cowrie_enrich/")),
            "{last:?}"
        );
    }
    assert!(
        lab.dshield.requests()[0]
            .header("user-agent")
            .expect("there is one")
            .contains("honeypot@example.org")
    );

    let greynoise = said(Service::GreyNoise, &addresses);
    let stored = documents(&mut db, "greynoise");
    let expected: BTreeMap<IpAddr, Value> =
        greynoise.iter().map(|(address, (status, said))| (*address, kept(*status, said))).collect();
    assert_eq!(stored, expected);
    let absent = greynoise.values().filter(|(status, _)| *status == 404).count();
    assert!((30..150).contains(&absent), "{absent} of 180");
    assert_eq!(
        db.rows(
            "SELECT enrichment #>> '{_meta,greynoise,state}', enrichment #>> '{_meta,greynoise,retry_after}' IS NOT NULL,
                    count(*) FROM enrich.ip_inventory GROUP BY 1, 2 ORDER BY 1"
        ),
        [format!("absent|t|{absent}"), format!("value|f|{}", 180 - absent)]
    );
    let days = |db: &mut Session, state: &str| {
        db.one(&format!(
            "SELECT DISTINCT (enrichment #>> '{{_meta,greynoise,retry_after}}')::timestamptz
                    - (enrichment #>> '{{greynoise,cached_at}}')::timestamptz
             FROM enrich.ip_inventory WHERE enrichment #>> '{{_meta,greynoise,state}}' = '{state}'"
        ))
    };
    assert_eq!(days(&mut db, "absent"), "2 days");

    let sent = |service| -> BTreeMap<IpAddr, Value> {
        said(service, &addresses).into_iter().map(|(address, (_, said))| (address, said)).collect()
    };
    assert_eq!(documents(&mut db, "dshield"), sent(Service::Dshield));
    assert_eq!(documents(&mut db, "spur"), sent(Service::Spur));
    assert_eq!(
        db.number(
            "SELECT count(*) FROM enrich.ip_inventory, unnest('{greynoise,dshield,spur}'::text[]) p
             WHERE (enrichment #>> ARRAY[p, 'cached_at'])::timestamptz BETWEEN now() - interval '1 hour' AND now()"
        ),
        3 * 180
    );

    // The generated columns.
    for row in db.rows("SELECT host(ip_address), is_scanner, geo_country, ip_types FROM enrich.ip_inventory")
    {
        let columns: Vec<&str> = row.split('|').collect();
        let address: IpAddr = columns[0].parse().expect("an address");
        let spur = Hosts::synthetic().of(address);
        let mut types: Vec<String> = Vec::new();
        let kinds = spur.tunnels.iter().map(|tunnel| tunnel.kind.clone());
        for kind in kinds.chain(spur.infrastructure).chain(spur.devices) {
            if !types.contains(&kind) {
                types.push(kind);
            }
        }
        let expected = [
            columns[0].to_owned(),
            if synthetic_noise(address) == Some(true) { "t" } else { "f" }.to_owned(),
            synthetic_dshield_country(address).unwrap_or("XX").to_owned(),
            format!("{{{}}}", types.join(",")),
        ];
        assert_eq!(row, expected.join("|"));
    }
    for (key, address) in texts[..60].iter().map(|(key, address)| (key, address.parse().expect("an address")))
    {
        let country = synthetic_dshield_country(address).unwrap_or("NULL");
        let kind = synthetic_ip_type(address).unwrap_or("NULL");
        assert_eq!(COWRIE.snapshot(&mut db, key), format!("NULL|{country}|{kind}"), "{key}");
    }
    assert_counts_are_exact(&mut db, &[("sessions", "ip"), ("session_summaries", "source_ip")]);
    for (column, expected) in [("requests", 180), ("lookups", 180), ("dead_letters", 0)] {
        for provider in PROVIDERS {
            assert_eq!(server_tests::http::count(&mut db, provider, column), expected, "{provider} {column}");
        }
    }
    wait_for_permits(&mut db);
    assert_eq!(
        server_tests::http::status(&mut db, "greynoise", "answers, absent"),
        format!("{}|{absent}", 180 - absent)
    );
    let notice = server_tests::http::status(&mut db, "spur", "notice");
    assert!(notice.contains("balance: 99") && notice.contains("date of the data: 20250508"), "{notice}");
    lab.assert_keys_are_nowhere(&mut db);
    lab.assert_nothing_crashed();
}

/// A country from the mmdb files or Team Cymru takes precedence over DShield's.
#[test]
fn dshield_names_the_country_only_where_nobody_else_does() {
    let lab = Plan::of("answers-country", "maxmind,cymru,dshield").start();
    let mut db = lab.database();
    let differs =
        |address: &IpAddr| synthetic_dshield_country(*address).is_some_and(|country| country != "NL");
    let filed: IpAddr = (1..200)
        .map(|host| format!("46.0.7.{host}").parse().expect("an address"))
        .find(differs)
        .expect("there is one");
    request(&mut db, "dshield", &[filed]);
    request(&mut db, "cymru", &[filed]);
    let placed = (0..)
        .map(|block| member(block, 7))
        .find(|address| {
            let asn = cowrie_enrich_upstreams::synthetic_asn(*address);
            synthetic_dshield_country(*address)
                .is_some_and(|country| country != cowrie_enrich_upstreams::synthetic_country(asn))
        })
        .expect("there is one");
    request(&mut db, "dshield", &[placed]);
    request(&mut db, "cymru", &[placed]);
    wait_for_the_queue(&mut db);
    let country = |db: &mut Session, address: IpAddr| {
        db.one(&format!("SELECT geo_country FROM enrich.ip_inventory WHERE ip_address = '{address}'"))
    };
    assert_eq!(country(&mut db, filed), "NL");
    let asn = cowrie_enrich_upstreams::synthetic_asn(placed);
    assert_eq!(country(&mut db, placed), cowrie_enrich_upstreams::synthetic_country(asn));
    db.run("UPDATE enrich.ip_inventory SET enrichment = enrichment - 'cymru' - 'maxmind'");
    assert_eq!(country(&mut db, filed), synthetic_dshield_country(filed).expect("one that differs"));
    assert_eq!(country(&mut db, placed), synthetic_dshield_country(placed).expect("one that differs"));
}

#[test]
fn the_interface_of_a_paid_plan_gives_the_same_documents() {
    let lab = Plan::of("answers-full", "maxmind,greynoise").full_greynoise().start();
    let mut db = lab.database();
    let addresses = members(0..120);
    request(&mut db, "greynoise", &addresses);
    wait_for_the_queue(&mut db);
    let stored = documents(&mut db, "greynoise");
    assert_eq!(stored.len(), 120);
    let mut kinds = [0; 3];
    for (address, (status, said)) in said(Service::GreyNoise, &addresses) {
        let mut expected = kept(status, &said);
        if synthetic_noise(address) == Some(false) {
            // This interface has the classification and date only for scanners, and the name only for services.
            for member in ["classification", "last_seen"] {
                expected.as_object_mut().expect("an object").remove(member);
            }
        }
        assert_eq!(stored[&address], expected, "{address}");
        kinds[synthetic_noise(address).map_or(2, usize::from)] += 1;
    }
    assert!(kinds.iter().all(|number| *number > 3), "{kinds:?}");
    assert!(lab.greynoise.requests().iter().all(|request| request.path.starts_with("/v3/ip/")));
    let absent =
        "SELECT count(*) FROM enrich.ip_inventory WHERE enrichment #>> '{_meta,greynoise,state}' = 'absent'";
    assert_eq!(db.number(absent), kinds[2]);
}

fn requests(lab: &Lab) -> [usize; 3] {
    PROVIDERS.map(|provider| lab.server(provider).requests().len())
}

/// Moves the time of a source's answers back.
fn age(session: &mut Session, provider: &str, days: u32) {
    session.run(&format!(
        "UPDATE enrich.ip_inventory i SET enrichment = i.enrichment || jsonb_build_object(
             '{provider}', i.enrichment -> '{provider}' || jsonb_build_object('cached_at',
                 (i.enrichment #>> '{{{provider},cached_at}}')::timestamptz - interval '{days} days'),
             '_meta', i.enrichment -> '_meta' || jsonb_build_object('{provider}',
                 i.enrichment #> '{{_meta,{provider}}}' || jsonb_build_object('asked_at',
                     (i.enrichment #>> '{{_meta,{provider},asked_at}}')::timestamptz - interval '{days} days')))
         WHERE enrichment ? '{provider}'"
    ));
}

#[test]
fn nobody_is_asked_twice_about_what_is_fresh_and_each_again_after_its_own_time() {
    let lab = Plan::of("answers-fresh", "maxmind,cymru,greynoise,dshield,spur").start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    let known = members(0..30);
    let insert = |round: usize| {
        let keys: Vec<(String, String)> =
            known.iter().enumerate().map(|(n, a)| (format!("r{round}k{n}"), a.to_string())).collect();
        let rows: Vec<(&str, Option<&str>)> =
            keys.iter().map(|(key, address)| (key.as_str(), Some(address.as_str()))).collect();
        SUMMARIES.insert(&rows)
    };
    let again = |db: &mut Session, round: usize| {
        db.run(&insert(round));
        db.run(&format!("SELECT enrich.enrich_ip(a) FROM unnest({}) a", array(&known)));
        for provider in PROVIDERS {
            request(db, provider, &known);
        }
        wait_for_the_queue(db);
    };
    again(&mut db, 0);
    assert_eq!(requests(&lab), [30; 3]);
    again(&mut db, 1);
    assert_eq!(requests(&lab), [30; 3], "everything is fresh");
    let name = db.name.clone();
    drop(db);
    lab.cluster.stop_fast();
    lab.cluster.start_again();
    let mut db = lab.cluster.session(&name);
    again(&mut db, 2);
    rounds(&mut db, known[0], 2);
    assert_eq!(requests(&lab), [30; 3], "a restart changes nothing");

    // The answers are six days old: an answer with data is valid for one more day, and negative answers have
    // expired.
    let absent = known.iter().filter(|address| synthetic_noise(**address).is_none()).count();
    assert!((5..25).contains(&absent), "{absent} of 30");
    age(&mut db, "greynoise", 6);
    again(&mut db, 3);
    assert_eq!(requests(&lab), [30 + absent, 30, 30]);
    let mut expected = requests(&lab);
    for (place, provider) in PROVIDERS.into_iter().enumerate() {
        age(&mut db, provider, 8);
        again(&mut db, 4 + place);
        expected[place] += 30;
        assert_eq!(requests(&lab), expected, "{provider} alone");
    }
    // A new session causes no new request, but `enrich_ip` does.
    age(&mut db, "spur", 8);
    db.run(&insert(10));
    rounds(&mut db, known[0], 2);
    wait_for_the_queue(&mut db);
    assert_eq!(requests(&lab), expected);
    db.run(&format!("SELECT enrich.enrich_ip(a) FROM unnest({}) a", array(&known)));
    wait_for_the_queue(&mut db);
    expected[2] += 30;
    assert_eq!(requests(&lab), expected);
    // Lifetimes are settings.
    lab.reconfigure(&["greynoise_ttl = 1h", "greynoise_absent_ttl = 30d"]);
    age(&mut db, "greynoise", 1);
    again(&mut db, 12);
    expected[0] += 30 - absent;
    assert_eq!(requests(&lab), expected, "values are old after an hour, absences are not after a day");
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
    lab.assert_nothing_crashed();
}

#[test]
fn greynoise_is_not_asked_about_ipv6_and_nobody_about_bogons() {
    let lab = Plan::of("answers-families", ALL).start();
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    let addresses: Vec<IpAddr> = (0..20).map(|n| member6(n, 3)).collect();
    let bogons = [
        "10.1.2.3",
        "127.0.0.1",
        "192.168.1.1",
        "fe80::1",
        "::1",
        "2001:db8::1",
        "100.64.0.9",
        "::ffff:10.0.0.1",
    ];
    for (n, text) in addresses.iter().map(IpAddr::to_string).chain(bogons.map(str::to_owned)).enumerate() {
        db.run(&COWRIE.insert(&[(&format!("k{n}"), Some(&text))]));
    }
    db.run(&format!("SELECT enrich.enrich_ip(a) FROM unnest({}) a", array(&addresses)));
    // Rows that a user inserts into the queue directly.
    db.run(&format!(
        "INSERT INTO enrich.enrichment_request (ip_address, provider)
         SELECT a, p FROM unnest({}) a, unnest('{{greynoise}}'::text[]) p
         UNION ALL SELECT a, p FROM unnest('{{10.1.2.3,fe80::1,127.0.0.1}}'::inet[]) a,
                                    unnest('{{greynoise,dshield,spur}}'::text[]) p",
        array(&addresses)
    ));
    wait_for_the_queue(&mut db);
    assert_eq!(requests(&lab), [0, 20, 20]);
    for provider in ["dshield", "spur"] {
        assert_eq!(
            asked(lab.server(provider)).into_iter().collect::<BTreeSet<_>>(),
            addresses.iter().copied().collect()
        );
    }
    let refusal = db.refused(&format!("SELECT enrich.request_enrichment('{}', 'greynoise')", addresses[0]));
    assert_eq!(refusal.code, "22023", "{refusal:?}");
    for provider in PROVIDERS {
        for bogon in bogons {
            let refusal = db.refused(&format!("SELECT enrich.request_enrichment('{bogon}', '{provider}')"));
            assert_eq!(refusal.code, "22023", "{provider} {bogon}: {refusal:?}");
        }
    }
    let refusal = db.refused("SELECT enrich.request_enrichment('60.0.0.0/24', 'spur')");
    assert_eq!(refusal.code, "22023", "{refusal:?}");
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory WHERE enrichment ? 'greynoise'"), 0);
    lab.assert_nothing_crashed();
}

fn json_answer(body: impl Into<Vec<u8>>) -> CannedAnswer {
    CannedAnswer {
        status: 200,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: body.into(),
    }
}

/// Texts that PostgreSQL, or the database's encoding, cannot represent.
#[test]
fn texts_that_the_database_cannot_hold_are_kept_as_far_as_they_can() {
    let lab = Plan::of("answers-texts", "maxmind,spur").with("max_attempts = 1").start();
    lab.cluster
        .session("postgres")
        .run("CREATE DATABASE latin1 TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'");
    lab.cluster.session("latin1").run("CREATE SCHEMA enrich; CREATE EXTENSION cowrie_enrich SCHEMA enrich");
    let utf8 = lab.database();
    for database in [utf8.name.as_str(), "latin1"] {
        let mut db = lab.cluster.session(database);
        SUMMARIES.create_attached(&mut db);
        let [good, surrogate, bytes, plain] = [0, 1, 2, 3].map(|block| member(block, 7));
        let answer = move |request: &cowrie_enrich_upstreams::HttpRequest| {
            let ip = request.ip.expect("an address is asked about");
            if ip == surrogate {
                return json_answer(format!("{{\"ip\":\"{ip}\",\"organization\":\"a\\ud800b\"}}"));
            }
            if ip == bytes {
                return json_answer(
                    [format!("{{\"ip\":\"{ip}\",\"organization\":\"").as_bytes(), b"\xff\xfe\"}"].concat(),
                );
            }
            if ip == plain {
                return json_answer(format!("{{\"ip\":\"{ip}\"}}"));
            }
            json_answer(format!(
                "{{\"ip\":\"{ip}\",\"infrastructure\":\"DATA\\u0000CENTER\",\"organization\":\"株式会社 Ünïcode \\u0000\",
                  \"k\\u0000ey\":1,\"schlüssel\":{{\"ключ\":\"é\"}},\"🙂\":\"🙂\"}}"
            ))
        };
        lab.spur.behave(HttpBehaviour::from(HttpFault::Custom(Arc::new(answer))));
        for (key, address) in [("good", good), ("surrogate", surrogate), ("bytes", bytes), ("plain", plain)] {
            db.run(&SUMMARIES.insert(&[(key, Some(&address.to_string()))]));
        }
        // These lookups fail while others are answered, so the provider counts as available.
        let mut fresh = 100;
        wait_until(
            "all is answered or dead",
            || {
                fresh += 1;
                request(&mut db, "spur", &[member(fresh, 7)]);
                wait_until(
                    "requests are taken in",
                    || db.number("SELECT count(*) FROM enrich.enrichment_request"),
                    |left| *left == 0,
                );
                (db.number("SELECT count(*) FROM enrich.dead_letter"), state(&mut db))
            },
            |(dead, _)| *dead == 2,
        );
        wait_for_the_queue(&mut db);
        let stored = document(&mut db, good, "spur");
        assert_eq!(stored["infrastructure"], "DATACENTER", "{stored}");
        assert_eq!(stored["key"], 1, "{stored}");
        if database == "latin1" {
            assert_eq!(stored["organization"], "???? Ünïcode ", "{stored}");
            assert_eq!(stored["schlüssel"]["????"], "é", "{stored}");
        } else {
            assert_eq!(stored["organization"], "株式会社 Ünïcode ", "{stored}");
            assert_eq!(stored["schlüssel"]["ключ"], "é", "{stored}");
            assert_eq!(stored["🙂"], "🙂", "{stored}");
        }
        assert_eq!(SUMMARIES.snapshot(&mut db, "good"), "NULL|NULL|DATACENTER");
        assert_eq!(document(&mut db, plain, "spur"), json!({"ip": plain.to_string()}));
        assert_eq!(
            db.rows("SELECT host(ip_address), last_error FROM enrich.dead_letter ORDER BY ip_address"),
            [surrogate, bytes].map(|address| format!("{address}|the answer is not a JSON object"))
        );
        lab.spur.behave(HttpBehaviour::normal());
        assert_eq!(db.number("SELECT enrich.retry_dead_letters('spur')"), 2);
        wait_for_the_queue(&mut db);
        assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
        for (key, address) in [("surrogate", surrogate), ("bytes", bytes)] {
            let kind = synthetic_ip_type(address).unwrap_or("NULL");
            assert_eq!(SUMMARIES.snapshot(&mut db, key), format!("NULL|NULL|{kind}"));
        }
    }
    lab.assert_nothing_crashed();
}
