//! For every kind of answer of a service, and for no answer: the outcome is the documented one, the right counter
//! increases, nothing crashes and no key leaks. When the service works again, the same worker process empties the
//! queue.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cowrie_enrich_upstreams::{CannedAnswer, Hosts, Http, HttpBehaviour, HttpFault, Service};
use server_tests::clock::Clock;
use server_tests::cymru::{member, peak_memory, state, wait_for_the_queue, worker_pid};
use server_tests::http::{
    GREYNOISE_KEY, Lab, Plan, SPUR_TOKEN, asked, count, documents, held, request, rounds, status,
    wait_for_status, wait_until_held,
};
use server_tests::{Database, wait_until};

/// One database and one worker process for several outcomes.
struct Patient<'a> {
    lab: &'a Lab,
    db: Database<'a>,
    pid: i64,
    blocks: usize,
    known: IpAddr,
}

fn plan(name: &str) -> Plan {
    Plan::of(name, "maxmind,cymru,greynoise,dshield,spur")
        .with("retry_base = 10ms")
        .with("greynoise_timeout = 400ms")
        .with("dshield_timeout = 400ms")
        .with("spur_timeout = 400ms")
}

impl<'a> Patient<'a> {
    fn of(lab: &'a Lab) -> Self {
        let mut db = lab.database();
        let known = member(90_000, 7);
        for provider in ["cymru", "greynoise", "dshield", "spur"] {
            request(&mut db, provider, &[known]);
        }
        wait_for_the_queue(&mut db);
        let pid = worker_pid(&mut db);
        Self { lab, db, pid, blocks: 0, known }
    }

    fn addresses(&mut self, number: usize) -> Vec<IpAddr> {
        self.blocks += number;
        (self.blocks - number..self.blocks).map(|block| member(block, 9)).collect()
    }

    /// Runs whole rounds of the worker, which send all requests that they may send.
    fn rounds(&mut self) {
        rounds(&mut self.db, self.known, 3);
    }

    /// Makes every answer unusable. Asserts that nothing is stored, that no lookup becomes a dead letter, and that no
    /// attempt is counted, whatever the number of requests is.
    #[track_caller]
    fn fails(
        &mut self,
        provider: &str,
        what: &str,
        fault: impl Into<HttpBehaviour>,
        moves: &str,
        error: &str,
    ) {
        eprintln!("{provider}: {what}");
        let before = count(&mut self.db, provider, moves);
        let known = documents(&mut self.db, provider).len();
        self.lab.server(provider).behave(fault);
        let addresses = self.addresses(12);
        request(&mut self.db, provider, &addresses);
        wait_until(
            "the circuit breaker opens",
            || {
                let seen =
                    status(&mut self.db, provider, &format!("failures >= 5, {moves} >= {}", before + 5));
                (seen, what.to_owned(), state(&mut self.db))
            },
            |(seen, _, _)| seen == "t|t",
        );
        let last_error = status(&mut self.db, provider, "last_error");
        assert!(last_error.contains(error), "{what}: {last_error}");
        assert_eq!(
            status(&mut self.db, provider, "state IN ('open', 'half-open'), blocked_reason"),
            "t|NULL",
            "{what}"
        );
        assert_eq!(
            self.db.one(&format!(
                "SELECT count(*), max(attempts) FROM enrich.enrichment_job WHERE provider = '{provider}'"
            )),
            "12|0",
            "{what}"
        );
        assert_eq!(documents(&mut self.db, provider).len(), known, "{what}: nothing is stored");
        self.recovers(provider, what, &addresses);
    }

    /// Asserts that the queue drains without a call of the operator.
    #[track_caller]
    fn recovers(&mut self, provider: &str, what: &str, addresses: &[IpAddr]) {
        // Checks that no key has leaked so far, before the record is emptied.
        self.lab.assert_keys_are_nowhere(&mut self.db);
        self.lab.server(provider).behave(HttpBehaviour::normal());
        wait_for_the_queue(&mut self.db);
        assert_eq!(self.db.number("SELECT count(*) FROM enrich.dead_letter"), 0, "{what}");
        let stored = documents(&mut self.db, provider);
        for address in addresses {
            assert!(stored.contains_key(address), "{what}: {address}");
        }
        assert_eq!(
            status(&mut self.db, provider, "state, failures, backoff_until, blocked_reason, in_flight"),
            "closed|0|NULL|NULL|0",
            "{what}"
        );
        assert_eq!(worker_pid(&mut self.db), self.pid, "the same process: {what}");
        self.lab.assert_keys_are_nowhere(&mut self.db);
        self.lab.assert_nothing_crashed();
        self.lab.server(provider).forget();
    }

    /// Makes the provider demand a pause. Asserts that one request is sent, that further rounds send none, and that
    /// the request does not count as an attempt.
    #[track_caller]
    fn rests(&mut self, provider: &str, what: &str, fault: HttpFault, moves: &str) -> Vec<IpAddr> {
        eprintln!("{provider}: {what}");
        self.lab.reconfigure(&[&format!("{provider}_max_parallel = 1")]);
        let server = self.lab.server(provider);
        server.forget();
        server.behave(fault);
        let before = count(&mut self.db, provider, moves);
        let addresses = self.addresses(12);
        request(&mut self.db, provider, &addresses);
        let rests = "backoff_until IS NOT NULL, in_flight";
        wait_for_status(&mut self.db, provider, rests, "t|0");
        server.behave(HttpBehaviour::normal());
        self.rounds();
        assert_eq!(server.requests().len(), 1, "{what}");
        assert_eq!(count(&mut self.db, provider, moves), before + 1, "{what}");
        assert_eq!(
            self.db.one(&format!(
                "SELECT count(*), max(attempts) FROM enrich.enrichment_job WHERE provider = '{provider}'"
            )),
            "12|0",
            "{what}"
        );
        self.lab.assert_keys_are_nowhere(&mut self.db);
        addresses
    }

    #[track_caller]
    fn resumes(&mut self, provider: &str, what: &str, addresses: &[IpAddr]) {
        self.db.run(&format!("SELECT enrich.resume_provider('{provider}')"));
        self.recovers(provider, what, addresses);
        self.lab.reconfigure(&[&format!("{provider}_max_parallel = 10")]);
    }
}

fn redirect_to(server: &Http) -> HttpFault {
    HttpFault::Redirect { to: format!("{}/60.0.0.7", server.url()) }
}

#[test]
fn statuses_that_are_no_answer_are_tried_again() {
    let lab = plan("outcomes-statuses").start();
    let mut patient = Patient::of(&lab);
    for provider in ["greynoise", "dshield", "spur"] {
        patient.fails(provider, "500", HttpFault::status(500), "bad_status", "500 Internal Server Error");
    }
    patient.fails("greynoise", "503", HttpFault::status(503), "bad_status", "503 Service Unavailable");
    patient.fails("greynoise", "a page", HttpFault::Html404, "bad_status", "404 Not Found");
    patient.fails("dshield", "404", HttpFault::status(404), "bad_status", "404 Not Found");
    patient.fails("spur", "a page", HttpFault::Html404, "bad_status", "404 Not Found");
    let elsewhere = Http::start(Service::GreyNoise, Hosts::synthetic());
    patient.fails(
        "greynoise",
        "redirect",
        redirect_to(&elsewhere),
        "bad_status",
        "302 Found: the redirect points to 127.0.0.1",
    );
    patient.fails(
        "spur",
        "redirect",
        redirect_to(&elsewhere),
        "bad_status",
        "302 Found: the redirect points to 127.0.0.1",
    );
    assert_eq!(elsewhere.requests().len(), 0, "nobody went there");
}

#[test]
fn no_answer_in_time_is_tried_again() {
    let lab = plan("outcomes-times").start();
    let mut patient = Patient::of(&lab);
    patient.fails("greynoise", "nothing", HttpFault::Silent, "silent", "");
    patient.fails("greynoise", "a head and nothing more", HttpFault::Hang, "timed_out", "");
    let drip = HttpFault::Drip { every: Duration::from_millis(50) };
    patient.fails("greynoise", "a byte at a time", drip.clone(), "silent + timed_out", "");
    patient.fails("spur", "a byte at a time", drip, "silent + timed_out", "");
    patient.fails("greynoise", "half a body", HttpFault::CutBody, "cut_off", "");
    let chunked = HttpBehaviour::from(HttpFault::CutBody).chunked();
    patient.fails("greynoise", "half a body in chunks", chunked, "cut_off", "");
    let packed = HttpBehaviour::from(HttpFault::CutBody).gzipped();
    patient.fails("greynoise", "half a packed body", packed, "cut_off + failed", "");
    eprintln!("nobody listens");
    lab.greynoise.stop();
    let addresses = patient.addresses(12);
    request(&mut patient.db, "greynoise", &addresses);
    wait_until(
        "nobody is there, and that is known",
        || status(&mut patient.db, "greynoise", "unreachable >= 5, state"),
        |seen| seen == "t|open" || seen == "t|half-open",
    );
    lab.greynoise.start_again();
    patient.recovers("greynoise", "nobody listens", &addresses);
}

#[test]
fn answers_that_make_no_sense_are_not_stored() {
    let lab = plan("outcomes-senseless").start();
    let mut patient = Patient::of(&lab);
    for provider in ["greynoise", "dshield", "spur"] {
        let not_json = "the answer is not a JSON object";
        patient.fails(provider, "no JSON", HttpFault::NotJson, "malformed_rows", not_json);
        patient.fails(provider, "no body", HttpFault::EmptyBody, "malformed_rows", not_json);
        patient.fails(provider, "noise", HttpFault::Garbage(3_000), "failed", "");
    }
    let types = "the answer has a value that is neither true nor false";
    patient.fails("greynoise", "other types", HttpFault::WrongTypes, "malformed_rows", types);
    for body in ["[]", "null", "{}", "42", "{\"noise\":", "\u{feff}{}"] {
        let answer = move |_: &cowrie_enrich_upstreams::HttpRequest| CannedAnswer {
            status: 200,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.into(),
        };
        patient.fails("greynoise", body, HttpFault::Custom(Arc::new(answer)), "malformed_rows", "the answer");
    }
    // Objects without an address, such as another service behind the URL sends.
    for body in ["{}", "{\"status\":\"ok\"}", "{\"ip\":null,\"infrastructure\":\"DATACENTER\"}"] {
        let answer = move |_: &cowrie_enrich_upstreams::HttpRequest| CannedAnswer {
            status: 200,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.into(),
        };
        let unnamed = "the answer does not name the address";
        patient.fails("spur", body, HttpFault::Custom(Arc::new(answer)), "malformed_rows", unnamed);
    }
}

/// Unexpected types are stored as they are. The columns that are generated from them are computed without an error.
#[test]
fn other_types_in_what_is_kept_as_sent_do_no_harm() {
    let lab = plan("outcomes-types").start();
    let mut patient = Patient::of(&lab);
    for provider in ["dshield", "spur"] {
        lab.server(provider).behave(HttpFault::WrongTypes);
        let addresses = patient.addresses(30);
        request(&mut patient.db, provider, &addresses);
        wait_for_the_queue(&mut patient.db);
        let stored = documents(&mut patient.db, provider);
        assert!(addresses.iter().all(|address| stored.contains_key(address)));
        patient.recovers(provider, "other types", &addresses);
    }
    assert_eq!(
        patient.db.number(
            "SELECT count(*) FROM enrich.ip_inventory WHERE geo_country !~ '^[A-Z][A-Z]$' OR ip_types IS NULL"
        ),
        0
    );
}

#[test]
fn large_answers_take_no_memory() {
    let lab = plan("outcomes-large").with("greynoise_timeout = 5s").with("spur_timeout = 5s").start();
    let mut patient = Patient::of(&lab);
    // First uses all ten connections, so that their buffers are already allocated when the memory is measured.
    patient.fails("greynoise", "500", HttpFault::status(500), "bad_status", "");
    let before = peak_memory(patient.pid);
    let huge = HttpFault::Huge { bytes: 100_000_000 };
    let bomb = HttpFault::GzipBomb { bytes: 100_000_000 };
    for provider in ["greynoise", "spur"] {
        patient.fails(provider, "100 MB", huge.clone(), "too_large", "");
        patient.fails(
            provider,
            "100 MB in chunks",
            HttpBehaviour::from(huge.clone()).chunked(),
            "too_large",
            "",
        );
        patient.fails(
            provider,
            "100 MB to the end",
            HttpBehaviour::from(huge.clone()).closing(),
            "too_large",
            "",
        );
        patient.fails(provider, "a bomb", bomb.clone(), "too_large", "");
    }
    let grown = peak_memory(patient.pid) - before;
    // Ten requests at a time, each with up to 1 MiB in a buffer that doubles while it grows.
    assert!(grown < 40_000, "grown by {grown} kB");
}

#[test]
fn a_key_that_is_refused_stops_the_provider_until_something_changes() {
    let lab = plan("outcomes-refused").start();
    let mut patient = Patient::of(&lab);
    for (provider, code, words) in [
        (
            "greynoise",
            401,
            "GreyNoise does not allow the request: 401 Unauthorized: Invalid API key; see cowrie_enrich.greynoise_api_key_file",
        ),
        (
            "greynoise",
            403,
            "GreyNoise does not allow the request: 403 Forbidden: forbidden; see cowrie_enrich.greynoise_api_key_file",
        ),
        (
            "spur",
            401,
            "SPUR does not allow the request: 401 Unauthorized: invalid token; see cowrie_enrich.spur_token_file",
        ),
        (
            "spur",
            403,
            "SPUR does not allow the request: 403 Forbidden: forbidden; see cowrie_enrich.spur_token_file",
        ),
        ("dshield", 403, "DShield does not allow the request: 403 Forbidden: forbidden"),
    ] {
        let what = format!("{provider} {code}");
        let addresses = patient.rests(provider, &what, HttpFault::status(code), "unauthorized");
        assert_eq!(
            status(&mut patient.db, provider, "blocked_reason, state, failures, quota"),
            format!("stopped: {words}|closed|0|NULL"),
            "{what}"
        );
        patient.resumes(provider, &what, &addresses);
    }
    // Refused again after resume_provider().
    let addresses = patient.rests("greynoise", "401", HttpFault::status(401), "unauthorized");
    lab.greynoise.behave(HttpFault::status(401));
    patient.db.run("SELECT enrich.resume_provider('greynoise')");
    wait_until("it is refused once more", || asked(&lab.greynoise).len(), |number| *number == 2);
    wait_for_status(&mut patient.db, "greynoise", "blocked_reason LIKE 'stopped: %', in_flight", "t|0");
    patient.rounds();
    assert_eq!(asked(&lab.greynoise).len(), 2);
    lab.greynoise.behave(HttpBehaviour::normal());
    patient.resumes("greynoise", "401 twice", &addresses);
    // Ten requests are in flight when the first is refused. No further ones are sent.
    lab.greynoise.behave(held());
    let addresses = patient.addresses(40);
    request(&mut patient.db, "greynoise", &addresses);
    wait_until_held(&lab.greynoise, 10);
    lab.greynoise.behave(HttpFault::status(401));
    wait_for_status(&mut patient.db, "greynoise", "blocked_reason LIKE 'stopped: %', in_flight", "t|0");
    patient.rounds();
    assert_eq!(asked(&lab.greynoise).len(), 10);
    lab.greynoise.behave(HttpBehaviour::normal());
    patient.resumes("greynoise", "ten at once", &addresses);
    assert_eq!(patient.db.refused("SELECT enrich.resume_provider('shodan')").code, "22023");
}

#[test]
fn a_new_key_is_tried_without_a_reload() {
    let lab = plan("outcomes-keys").start();
    let mut patient = Patient::of(&lab);
    for (provider, header, old) in [("greynoise", "key", GREYNOISE_KEY), ("spur", "Token", SPUR_TOKEN)] {
        let server = lab.server(provider);
        server.require(header, "quite-another-key");
        let addresses = patient.addresses(20);
        request(&mut patient.db, provider, &addresses);
        wait_for_status(&mut patient.db, provider, "blocked_reason LIKE 'stopped: %', in_flight", "t|0");
        let seen = server.requests().len();
        // The same key again changes nothing.
        lab.write_key(provider, &format!("  {old}\n"));
        patient.rounds();
        assert_eq!(server.requests().len(), seen);
        lab.write_key(provider, "quite-another-key\n");
        wait_for_the_queue(&mut patient.db);
        assert_eq!(status(&mut patient.db, provider, "blocked_reason, backoff_until"), "NULL|NULL");
        server.require(header, old);
        lab.write_key(provider, old);
        patient.recovers(provider, "another key", &addresses);
    }
}

/// Forces this order of events: the key file gets a new key, and then the provider refuses the old key.
#[test]
fn a_key_that_is_replaced_while_the_old_one_is_being_refused_is_tried() {
    let lab = plan("outcomes-replaced").with("greynoise_max_parallel = 1").start();
    let mut patient = Patient::of(&lab);
    lab.greynoise.behave(held());
    let addresses = patient.addresses(5);
    request(&mut patient.db, "greynoise", &addresses);
    wait_until_held(&lab.greynoise, 1);
    lab.greynoise.require("key", "quite-another-key");
    lab.write_key("greynoise", "quite-another-key");
    lab.greynoise.behave(HttpBehaviour::normal());
    wait_for_the_queue(&mut patient.db);
    assert_eq!(status(&mut patient.db, "greynoise", "blocked_reason, unauthorized"), "NULL|1");
    lab.assert_nothing_crashed();
}

#[test]
fn a_key_file_that_cannot_be_used_says_so_and_shows_nothing() {
    let lab = plan("outcomes-files").start();
    let mut patient = Patient::of(&lab);
    for (provider, setting, key) in
        [("greynoise", "greynoise_api_key_file", GREYNOISE_KEY), ("spur", "spur_token_file", SPUR_TOKEN)]
    {
        for (what, content, words) in [
            ("missing", None, "could not be read"),
            ("empty", Some(String::new()), "is empty"),
            ("blank", Some(" \n\t\n".to_owned()), "is empty"),
            ("two lines", Some(format!("{key}\nX-Evil: {key}")), "contains more than one word"),
            ("a header in it", Some(format!("{key}\r\nX-Evil: 1")), "contains more than one word"),
            ("too long", Some(key.repeat(500)), "is longer than 4096 bytes"),
            ("not ASCII", Some(format!("{key}é")), "contains more than one word"),
        ] {
            eprintln!("{provider} {what}");
            let server = lab.server(provider);
            server.forget();
            match content {
                None => std::fs::remove_file(lab.key_file(provider)).expect("it is there"),
                Some(content) => lab.write_key(provider, &content),
            }
            let addresses = patient.addresses(3);
            request(&mut patient.db, provider, &addresses);
            wait_for_status(&mut patient.db, provider, "blocked_reason LIKE 'stopped: %', in_flight", "t|0");
            patient.rounds();
            let told = status(&mut patient.db, provider, "blocked_reason, last_error");
            assert_eq!(told.matches(words).count(), 2, "{what}: {told}");
            assert_eq!(told.matches(&format!("cowrie_enrich.{setting}")).count(), 2, "{what}: {told}");
            assert_eq!(server.requests().len(), 0, "{what}");
            assert_eq!(
                patient.db.one("SELECT count(*), max(attempts) FROM enrich.enrichment_job"),
                "3|0",
                "{what}"
            );
            patient.lab.assert_keys_are_nowhere(&mut patient.db);
            lab.write_key(provider, key);
            patient.recovers(provider, what, &addresses);
        }
        // Opening a pipe without a writer would wait forever.
        eprintln!("{provider} pipe");
        let path = lab.key_file(provider);
        std::fs::remove_file(&path).expect("it is there");
        assert!(
            std::process::Command::new("mkfifo").arg(&path).status().is_ok_and(|status| status.success())
        );
        let addresses = patient.addresses(3);
        request(&mut patient.db, provider, &addresses);
        wait_for_status(
            &mut patient.db,
            provider,
            "blocked_reason LIKE 'stopped: %is not a file', in_flight",
            "t|0",
        );
        lab.write_key(provider, key);
        patient.recovers(provider, "a pipe", &addresses);
    }
}

/// If a provider repeats the key, the key is neither shown nor stored.
#[test]
fn a_provider_that_repeats_the_key_spreads_it_nowhere() {
    let lab = plan("outcomes-echo").start();
    let mut patient = Patient::of(&lab);
    for provider in ["greynoise", "spur"] {
        let addresses = patient.rests(provider, "echo", HttpFault::Echo, "unauthorized");
        let told = status(&mut patient.db, provider, "blocked_reason, last_error");
        assert!(told.contains("not allowed"), "{told}");
        patient.resumes(provider, "echo", &addresses);
    }
    // The key in every place of an answer: headers, errors, and stored values.
    let repeated = |status: u16, key: &'static str| {
        HttpFault::Custom(Arc::new(move |request: &cowrie_enrich_upstreams::HttpRequest| {
            let headers: Vec<&str> = request.headers.iter().map(|(_, value)| value.as_str()).collect();
            let (all, ip) = (headers.join(" "), request.ip.expect("an address"));
            CannedAnswer {
                status,
                headers: vec![
                    ("content-type".to_owned(), "application/json".to_owned()),
                    ("x-balance-remaining".to_owned(), key.to_owned()),
                    ("location".to_owned(), format!("http://{key}.example.com/{key}")),
                ],
                body: format!(
                    "{{\"ip\":\"{ip}\",\"noise\":true,\"riot\":false,\"name\":\"{all}\",\"classification\":\"{all}\",
                      \"message\":\"{all}\",\"services\":[\"{all}\"],\"tunnels\":[{{\"type\":\"{all}\"}}]}}"
                )
                .into(),
            }
        }))
    };
    for (provider, key) in [("greynoise", GREYNOISE_KEY), ("spur", SPUR_TOKEN)] {
        patient.fails(provider, "500 that repeats", repeated(500, key), "bad_status", "500");
        patient.fails(provider, "302 that repeats", repeated(302, key), "bad_status", "302");
        lab.server(provider).behave(repeated(200, key));
        let addresses = patient.addresses(5);
        request(&mut patient.db, provider, &addresses);
        wait_for_the_queue(&mut patient.db);
        patient.recovers(provider, "200 that repeats", &addresses);
        // Refusals count while others are answered, so these lookups become dead letters.
        let addresses = patient.addresses(2);
        lab.server(provider).behave(HttpBehaviour::normal());
        for address in &addresses {
            lab.server(provider).behave_for(*address, repeated(400, key));
        }
        request(&mut patient.db, provider, &addresses);
        wait_until(
            "they are dead",
            || {
                let others = patient.addresses(1);
                request(&mut patient.db, provider, &others);
                (patient.db.number("SELECT count(*) FROM enrich.dead_letter"), state(&mut patient.db))
            },
            |(dead, _)| *dead == 2,
        );
        patient.lab.assert_keys_are_nowhere(&mut patient.db);
        patient.db.run("SELECT enrich.retry_dead_letters()");
        patient.recovers(provider, "400 that repeats", &addresses);
    }
}

/// Texts are cut at a maximum length. The part of a key before the cut must not be shown either.
#[test]
fn a_key_that_is_cut_in_the_middle_is_not_shown_either() {
    let lab = plan("outcomes-cut").start();
    let mut patient = Patient::of(&lab);
    let answer = |status: u16, padding: usize| {
        HttpFault::Custom(Arc::new(move |request: &cowrie_enrich_upstreams::HttpRequest| {
            let pad = |length: usize| "x".repeat(length);
            let ip = request.ip.expect("an address");
            // The labels of a host name have at most 63 characters.
            let host = format!(
                "{}.{}.{GREYNOISE_KEY}.example.com",
                pad(40),
                pad(padding.saturating_sub(41).clamp(1, 63))
            );
            CannedAnswer {
                status,
                headers: vec![("location".to_owned(), format!("http://{host}/"))],
                body: format!(
                    "{{\"ip\":\"{ip}\",\"noise\":true,\"riot\":false,\"name\":\"{0}{GREYNOISE_KEY}\",
                      \"message\":\"{0}{GREYNOISE_KEY}\"}}",
                    pad(padding)
                )
                .into(),
            }
        }))
    };
    let mut shown_where = BTreeSet::new();
    // The number of characters of the key before the cut: messages are cut at 100, hosts at 87, names at 256.
    for (status, length) in [(500, 100), (302, 87), (200, 256), (400, 100)] {
        for shown in [10, 14] {
            eprintln!("{status}, {shown} characters");
            lab.greynoise.behave(answer(status, length - shown));
            let addresses = patient.addresses(6);
            let moves = match status {
                200 => "answers",
                400 => "refused",
                _ => "bad_status",
            };
            let before = count(&mut patient.db, "greynoise", moves);
            request(&mut patient.db, "greynoise", &addresses);
            wait_until(
                "that has come",
                || (count(&mut patient.db, "greynoise", moves), state(&mut patient.db)),
                |(now, _)| *now >= before + 5,
            );
            wait_until(
                "it is written down",
                || {
                    patient
                        .db
                        .number("SELECT count(*) FROM enrich.enrichment_job WHERE leased_by IS NOT NULL")
                },
                |leased| *leased == 0 || status != 200,
            );
            for place in lab.where_keys_are(&mut patient.db) {
                let place = place.split(':').next().unwrap_or_default().to_owned();
                shown_where.insert((status, shown, place));
            }
            lab.greynoise.behave(HttpBehaviour::normal());
            wait_for_the_queue(&mut patient.db);
            patient.db.run("SELECT enrich.retry_dead_letters()");
            wait_for_the_queue(&mut patient.db);
            assert!(
                addresses.iter().all(|address| documents(&mut patient.db, "greynoise").contains_key(address))
            );
        }
    }
    assert!(shown_where.is_empty(), "{shown_where:#?}");
}

#[test]
fn a_provider_that_asks_for_a_rest_gets_it() {
    let lab = plan("outcomes-rests").start();
    let mut patient = Patient::of(&lab);
    // In seconds from the refusal.
    let lasts = "round(extract(epoch FROM backoff_until - last_failure))";
    let after = |moment: &str| HttpFault::Status { code: 429, retry_after: Some(moment.to_owned()) };
    for (provider, what, fault, expected) in [
        ("greynoise", "429", HttpFault::status(429), 60),
        ("dshield", "429", HttpFault::status(429), 300),
        ("spur", "429", HttpFault::status(429), 3600),
        ("greynoise", "429 for 7 s", after("7000"), 7000),
        ("dshield", "429 for less", after("10"), 300),
        ("dshield", "429 for more", after("1000"), 1000),
        ("spur", "429 for 90 s", after(" 90 "), 90),
        ("greynoise", "429 for years", after("99999999999999999999999"), 86_400),
        ("greynoise", "429 for who knows", after("soon"), 60),
        ("greynoise", "429 for less than nothing", after("-5"), 60),
    ] {
        let addresses = patient.rests(provider, what, fault, "throttled");
        assert_eq!(status(&mut patient.db, provider, lasts), expected.to_string(), "{provider} {what}");
        let told = status(&mut patient.db, provider, "blocked_reason, failures, last_error");
        assert!(told.starts_with("NULL|0|429 Too Many Requests"), "{told}");
        patient.resumes(provider, what, &addresses);
    }
    for provider in ["greynoise", "spur"] {
        let busy = HttpFault::Status { code: 503, retry_after: Some("120".to_owned()) };
        let addresses = patient.rests(provider, "503 for 120 s", busy, "bad_status");
        assert_eq!(status(&mut patient.db, provider, lasts), "120");
        patient.resumes(provider, "503 for 120 s", &addresses);
    }
    // A date instead of seconds.
    let date = patient.db.one(
        "SELECT to_char(now() AT TIME ZONE 'UTC' + interval '500 s', 'Dy, DD Mon YYYY HH24:MI:SS \"GMT\"')",
    );
    let addresses = patient.rests("greynoise", "429 until then", after(&date), "throttled");
    let same = format!(
        "abs(extract(epoch FROM backoff_until - to_timestamp('{}', 'DD Mon YYYY HH24:MI:SS'))) < 0.1",
        &date[5..25]
    );
    assert_eq!(status(&mut patient.db, "greynoise", &same), "t", "{date}");
    patient.resumes("greynoise", "429 until then", &addresses);
}

/// If the provider repeats its backoff, the times grow, with one request after each.
#[test]
fn rests_grow_while_the_provider_asks_for_them() {
    let clock = Clock::at_noon("outcomes-rests-grow");
    let lab = plan("outcomes-rests-grow").options(|options| options.with_clock(&clock)).start();
    let mut patient = Patient::of(&lab);
    lab.greynoise.forget();
    lab.greynoise.behave(HttpFault::status(429));
    let addresses = patient.addresses(30);
    request(&mut patient.db, "greynoise", &addresses);
    let lasts = "round(extract(epoch FROM backoff_until - last_failure)), in_flight";
    wait_for_status(&mut patient.db, "greynoise", lasts, "60|0");
    let first = asked(&lab.greynoise).len();
    assert!((1..=10).contains(&first), "{first} requests");
    let mut second = 12 * 3600;
    let rests = [(60, 120), (120, 240), (240, 480), (480, 960), (960, 1920), (1920, 3600), (3600, 3600)];
    for (n, (rest, next)) in rests.into_iter().enumerate() {
        second += rest + 30;
        clock.set(0, second);
        wait_until(
            "it is asked again",
            || (asked(&lab.greynoise).len(), state(&mut patient.db)),
            |(now, _)| *now > first + n,
        );
        wait_for_status(&mut patient.db, "greynoise", lasts, &format!("{next}|0"));
        patient.rounds();
        assert_eq!(
            asked(&lab.greynoise).len(),
            first + n + 1,
            "one asks whether the rest of {rest} s is over"
        );
    }
    assert_eq!(
        patient.db.number("SELECT max(attempts) FROM enrich.enrichment_job WHERE provider = 'greynoise'"),
        0
    );
    lab.greynoise.behave(HttpBehaviour::normal());
    clock.set(0, second + 3_700);
    patient.recovers("greynoise", "seven rests", &addresses);
    // After a successful answer the next backoff is short again.
    lab.greynoise.behave(HttpFault::status(429));
    let addresses = patient.addresses(1);
    request(&mut patient.db, "greynoise", &addresses);
    wait_for_status(&mut patient.db, "greynoise", lasts, "60|0");
    lab.greynoise.behave(HttpBehaviour::normal());
    patient.resumes("greynoise", "a rest", &addresses);
}

/// A short backoff ends without a call.
#[test]
fn a_rest_ends_by_itself() {
    let lab = plan("outcomes-rest-ends").start();
    let mut patient = Patient::of(&lab);
    lab.greynoise.forget();
    let busy = |code| HttpFault::Status { code, retry_after: Some("2".to_owned()) };
    for code in [429, 503] {
        lab.greynoise.behave(busy(code));
        let addresses = patient.addresses(12);
        request(&mut patient.db, "greynoise", &addresses);
        wait_for_status(&mut patient.db, "greynoise", "backoff_until IS NOT NULL, in_flight", "t|0");
        let seen = asked(&lab.greynoise).len();
        assert!((1..=10).contains(&seen), "{seen} requests");
        patient.recovers("greynoise", "a short rest", &addresses);
    }
}

/// While others are answered, a failing lookup has three attempts. The error of the last one is stored.
#[test]
fn a_lookup_that_fails_while_others_are_answered_is_dead_in_the_end() {
    let lab = plan("outcomes-dead").start();
    let mut patient = Patient::of(&lab);
    let custom = |status: u16, body: String| {
        HttpFault::Custom(Arc::new(move |_: &cowrie_enrich_upstreams::HttpRequest| CannedAnswer {
            status,
            headers: Vec::new(),
            body: body.clone().into(),
        }))
    };
    let wordy = HttpFault::Custom(Arc::new(|request: &cowrie_enrich_upstreams::HttpRequest| CannedAnswer {
        status: 200,
        headers: Vec::new(),
        body: format!(
            "{{\"ip\":\"{}\",\"services\":[\"{}\"]}}",
            request.ip.expect("an address"),
            "x".repeat(200_000)
        )
        .into(),
    }));
    for (provider, what, fault, error) in [
        ("greynoise", "500", HttpFault::status(500), "500 Internal Server Error"),
        ("greynoise", "400", HttpFault::status(400), "refused: Request is not a valid routable IPv4 address"),
        ("greynoise", "no JSON", HttpFault::NotJson, "the answer is not a JSON object"),
        (
            "greynoise",
            "other types",
            HttpFault::WrongTypes,
            "the answer has a value that is neither true nor false",
        ),
        ("greynoise", "a page", HttpFault::Html404, "404 Not Found"),
        ("greynoise", "silence", HttpFault::Silent, ""),
        ("greynoise", "half a body", HttpFault::CutBody, ""),
        ("greynoise", "another address", HttpFault::OtherAddress, "the answer is about another address"),
        ("dshield", "another address", HttpFault::OtherAddress, "the answer is about another address"),
        ("spur", "another address", HttpFault::OtherAddress, "the answer is about another address"),
        (
            "dshield",
            "an error",
            custom(200, "{\"error\":\"bad IP address\"}".to_owned()),
            "refused: bad IP address",
        ),
        ("spur", "400", HttpFault::status(400), "refused: not a public IP address"),
        // The answer is longer than an answer that is stored, and shorter than the limit for reading.
        ("spur", "200 kB", wordy, ""),
    ] {
        eprintln!("{provider}: {what}");
        let server = lab.server(provider);
        server.forget();
        let bad = patient.addresses(1)[0];
        server.behave_for(bad, fault);
        // Creates a row of the address, which shows its state.
        patient.db.run(&format!("SELECT enrich.enrich_ip('{bad}')"));
        request(&mut patient.db, provider, &[bad]);
        wait_until(
            "the lookup is dead",
            || {
                let others = patient.addresses(1);
                request(&mut patient.db, provider, &others);
                wait_until(
                    "another one is answered",
                    || {
                        (
                            documents(&mut patient.db, provider).contains_key(&others[0]),
                            state(&mut patient.db),
                        )
                    },
                    |(answered, _)| *answered,
                );
                patient.db.number("SELECT count(*) FROM enrich.dead_letter")
            },
            |dead| *dead == 1,
        );
        let letter =
            patient.db.one("SELECT provider, host(ip_address), attempts, last_error FROM enrich.dead_letter");
        assert!(letter.starts_with(&format!("{provider}|{bad}|3|")) && letter.contains(error), "{letter}");
        assert_eq!(
            patient.db.one(&format!(
                "SELECT enrichment #>> '{{_meta,{provider},state}}', enrichment ? '{provider}'
                 FROM enrich.ip_inventory WHERE ip_address = '{bad}'"
            )),
            "failed|f",
            "{what}"
        );
        let tried = asked(server).iter().filter(|ip| **ip == bad).count();
        // There may be more than three attempts, because failures before the first answer to another lookup do not
        // count.
        assert!(tried >= 3, "{what}: {tried} times");
        // It stays a dead letter until retry_dead_letters() is called.
        patient.db.run(&format!("SELECT enrich.enrich_ip('{bad}')"));
        patient.rounds();
        wait_for_the_queue(&mut patient.db);
        assert_eq!(patient.db.number("SELECT count(*) FROM enrich.dead_letter"), 1);
        server.behave(HttpBehaviour::normal());
        assert_eq!(patient.db.number(&format!("SELECT enrich.retry_dead_letters('{provider}')")), 1);
        wait_for_the_queue(&mut patient.db);
        patient.recovers(provider, what, &[bad]);
    }
    for (provider, column) in
        [("greynoise", "foreign_rows"), ("dshield", "foreign_rows"), ("spur", "oversized_rows")]
    {
        assert_eq!(count(&mut patient.db, provider, column), 3, "{provider} {column}");
    }
}

/// An answer may have any of the forms of HTTP.
#[test]
fn packed_and_chunked_answers_are_read_and_connections_are_used_again() {
    let lab = plan("outcomes-forms").start();
    let mut patient = Patient::of(&lab);
    for (what, behaviour) in [
        ("packed", HttpBehaviour::normal().gzipped()),
        ("in chunks", HttpBehaviour::normal().chunked()),
        ("packed, in chunks", HttpBehaviour::normal().gzipped().chunked()),
        ("the last one", HttpBehaviour::normal().closing()),
    ] {
        for provider in ["greynoise", "dshield", "spur"] {
            lab.server(provider).behave(behaviour.clone());
            let addresses = patient.addresses(20);
            request(&mut patient.db, provider, &addresses);
            wait_for_the_queue(&mut patient.db);
            patient.recovers(provider, what, &addresses);
        }
    }
    let addresses = patient.addresses(200);
    request(&mut patient.db, "greynoise", &addresses);
    wait_for_the_queue(&mut patient.db);
    let connections: BTreeSet<usize> =
        lab.greynoise.requests().iter().map(|request| request.connection).collect();
    assert!(connections.len() <= 20, "{} connections for 200 requests", connections.len());
}
