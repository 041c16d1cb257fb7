//! The requests to providers that a call of `enrich_ips()` queues, and lookups that are left out or cancelled.

use std::net::IpAddr;
use std::sync::OnceLock;

use server_tests::cymru::{array, member, members, wait_for_the_queue};
use server_tests::hosts::SUMMARIES;
use server_tests::http::{Lab, Plan, asked};
use server_tests::{Cluster, Database, Options, database, wait_until};

/// A server without workers on which three providers are enabled. GreyNoise has its default daily quota.
fn waiting() -> Database<'static> {
    static SERVER: OnceLock<Cluster> = OnceLock::new();
    let options = Options::named("spending-waiting")
        .conf("cowrie_enrich.enabled_sources = 'maxmind,cymru,greynoise,dshield'");
    server_tests::database::fresh_database(server_tests::database::kept(&SERVER, &options))
}

/// Returns the number of waiting requests of each provider.
fn requested(db: &mut Database<'_>) -> Vec<String> {
    db.rows("SELECT provider, count(DISTINCT ip_address) FROM enrichment_request GROUP BY provider ORDER BY provider")
}

/// Ten thousand addresses of 20 prefixes that are in no mmdb file.
fn ten_thousand() -> String {
    "ARRAY(SELECT '60.0.0.0'::inet + n FROM generate_series(0, 9999) n)".to_owned()
}

#[test]
fn ten_thousand_addresses_with_files_only_queue_nothing() {
    let mut db = waiting();
    let list = ten_thousand();
    let call = format!("SELECT count(*) FROM enrich.enrich_ips({list}, sources => '{{maxmind}}')");
    assert_eq!(db.notices(&call), "");
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory"), 10_000);
    assert_eq!(requested(&mut db), [] as [&str; 0]);
}

#[test]
fn a_call_for_many_addresses_says_what_it_spends() {
    let mut db = waiting();
    let call = format!("SELECT count(*) FROM enrich.enrich_ips({})", ten_thousand());
    let notice = db.notices(&call);
    // 10,000 addresses are in 40 prefixes of 256 addresses, and Team Cymru takes 500 of them in a request.
    assert!(notice.contains("NOTICE:  enrich_ips() queues 20001 requests to providers"), "{notice}");
    assert!(
        notice.contains(
            "DETAIL:  Requests by provider: cymru 1, greynoise 10000 (at most 10000 a day), dshield 10000."
        ),
        "{notice}"
    );
    assert!(notice.contains("HINT:") && notice.contains("\"sources\" and \"max_requests\""), "{notice}");
    assert_eq!(requested(&mut db), ["cymru|10000", "dshield|10000", "greynoise|10000"]);
    assert_eq!(db.notices(&call), "", "all of them wait already");
}

#[test]
fn a_call_above_its_limit_writes_nothing() {
    let mut db = waiting();
    let refusal = db.refused(&format!("SELECT enrich_ips({}, max_requests => 20000)", ten_thousand()));
    assert_eq!(refusal.code, "54000");
    assert_eq!(refusal.message, "enrich_ips() would queue 20001 requests, but max_requests is 20000");
    assert_eq!(
        refusal.detail.as_deref(),
        Some("Requests by provider: cymru 1, greynoise 10000 (at most 10000 a day), dshield 10000.")
    );
    let hint = refusal.hint.unwrap_or_default();
    assert!(hint.contains("max_requests") && hint.contains("sources"), "{hint}");
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory"), 0);
    assert_eq!(requested(&mut db), [] as [&str; 0]);
    db.run(&format!("SELECT enrich_ips({}, max_requests => 20001)", ten_thousand()));
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory"), 10_000);
    // Files only is always within the limit.
    db.run("SELECT enrich_ips('{61.0.0.1}', sources => '{maxmind}', max_requests => 0)");
    assert_eq!(db.refused("SELECT enrich_ips('{61.0.0.2}', max_requests => 0)").code, "54000");
}

#[test]
fn lookups_that_need_no_request_are_not_counted() {
    let mut db = waiting();
    let needs = |db: &mut Database<'_>, addresses: &str, expected: i64| {
        let call =
            |limit: i64| format!("SELECT enrich_ips('{{{addresses}}}', true, max_requests => {limit})");
        if expected > 0 {
            let refusal = db.refused(&call(expected - 1));
            let text = format!("would queue {expected} requests");
            assert!(refusal.message.contains(&text), "{addresses}: {refusal:?}");
        }
        db.run(&format!("BEGIN; {}; ROLLBACK", call(expected)));
    };
    // Two providers for each address, and Team Cymru for those without a network in the files.
    needs(&mut db, "8.8.8.8", 2);
    needs(&mut db, "60.0.0.1", 3);
    needs(&mut db, "60.0.0.1,60.0.0.2,60.0.0.1", 5);
    needs(&mut db, "10.0.0.1,192.168.1.1,fe80::1", 0);
    // A request and a job that wait.
    db.run("SELECT enrich_ips('{60.0.0.1}')");
    needs(&mut db, "60.0.0.1", 0);
    // Another address of a prefix that is already looked up at Team Cymru.
    needs(&mut db, "60.0.0.2", 2);
    db.run(
        "DELETE FROM enrichment_request;
         INSERT INTO enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at)
         VALUES ('cymru', 'prefix', '60.0.0.0/24', 0, now()), ('dshield', 'host', '60.0.0.1', 0, now())",
    );
    needs(&mut db, "60.0.0.1", 1);
    needs(&mut db, "60.0.0.3", 2);
    // An answer for the prefix, and one for the address that is still fresh.
    db.run(
        "DELETE FROM enrichment_job;
         INSERT INTO block_answer (provider, prefix, document, is_absent, asked_at)
         VALUES ('cymru', '60.0.0.0/25', '{}', false, now())",
    );
    needs(&mut db, "60.0.0.3", 2);
    needs(&mut db, "60.0.0.200", 3);
    db.run(
        "UPDATE ip_inventory SET enrichment = enrichment || jsonb_build_object('dshield', jsonb_build_object('cached_at', now()))
         WHERE ip_address = '60.0.0.1'",
    );
    needs(&mut db, "60.0.0.1", 1);
}

#[test]
fn sources_select_the_providers() {
    let mut db = waiting();
    db.run("SELECT enrich_ips('{60.0.0.1}', sources => '{dshield}')");
    assert_eq!(requested(&mut db), ["dshield|1"]);
    db.run("SELECT enrich_ips('{8.8.8.8}', sources => '{maxmind,cymru,greynoise}')");
    assert_eq!(requested(&mut db), ["dshield|1", "greynoise|1"]);
    // The files are read in any case.
    assert_eq!(
        db.one(
            "SELECT current_asn, geo_country FROM enrich_ips('{139.59.0.1}', sources => '{}', max_requests => 0)"
        ),
        "14061|IN"
    );
}

#[test]
fn invalid_arguments_are_refused_with_the_valid_ones() {
    let mut db = waiting();
    let refusal = db.refused("SELECT enrich_ips('{8.8.8.8}', sources => '{maxmind,shodan}')");
    assert_eq!((refusal.code.as_str(), refusal.message.as_str()), ("22023", "invalid source"));
    assert_eq!(refusal.detail.as_deref(), Some("The value is \"shodan\"."));
    assert_eq!(refusal.hint.as_deref(), Some("Use one of maxmind, cymru, greynoise, dshield, spur."));
    let refusal = db.refused("SELECT enrich_ips('{8.8.8.8}', sources => '{spur}')");
    assert_eq!(
        (refusal.code.as_str(), refusal.message.as_str()),
        ("55000", "source \"spur\" is not enabled")
    );
    assert_eq!(db.refused("SELECT enrich_ips('{8.8.8.8}', sources => '{NULL}')").code, "22004");
    assert_eq!(db.refused("SELECT enrich_ips('{8.8.8.8}', max_requests => -1)").code, "22023");
    assert_eq!(db.refused("SELECT cancel_requests('maxmind')").code, "22023");
    assert_eq!(db.refused("SELECT cancel_requests(NULL)").code, "22004");
    assert_eq!(db.refused("SELECT cancel_requests('cymru', '60.0.0.0/24')").code, "22023");
    let refusal = db.refused("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT cancel_requests('cymru')");
    assert_eq!(refusal.code, "0A000");
}

/// Returns whether a sweep would queue a lookup at this provider.
fn swept_at(db: &mut Database<'_>, provider: &str) -> bool {
    swept(db).iter().any(|lookup| lookup.ends_with(provider))
}

/// Returns the lookups that a sweep would queue.
fn swept(db: &mut Database<'_>) -> Vec<String> {
    let path = server_tests::installation::workspace().join("sql/queries/queue/sweep_unasked.sql");
    let text = std::fs::read_to_string(path).expect("the statement is there");
    db.run("CREATE TEMP TABLE IF NOT EXISTS kept AS SELECT * FROM enrichment_request LIMIT 0");
    db.run("TRUNCATE kept; INSERT INTO kept SELECT * FROM enrichment_request; TRUNCATE enrichment_request");
    db.run(&format!(
        "PREPARE sweep(bigint, inet, text[], bool[]) AS {}",
        text.replace("@extschema@", "enrich")
    ));
    db.run("EXECUTE sweep(1000, '0.0.0.0', '{cymru,greynoise,dshield}', '{t,f,f}'); DEALLOCATE sweep");
    let swept = db.rows("SELECT host(ip_address), provider FROM enrichment_request ORDER BY 1, 2");
    db.run("TRUNCATE enrichment_request; INSERT INTO enrichment_request SELECT * FROM kept");
    swept
}

#[test]
fn no_sweep_queues_a_lookup_that_was_left_out_until_a_session_arrives() {
    let mut db = waiting();
    db.run("SELECT enrich_ips('{8.8.8.8,60.0.0.1}', sources => '{dshield}'); TRUNCATE enrichment_request");
    assert_eq!(swept(&mut db), ["60.0.0.1|dshield", "8.8.8.8|dshield"]);
    assert_eq!(
        db.rows(
            "SELECT host(ip_address), key FROM ip_inventory, jsonb_each(enrichment -> '_meta')
                 WHERE value ->> 'state' = 'skipped' ORDER BY 1, 2"
        ),
        ["60.0.0.1|cymru", "60.0.0.1|greynoise", "60.0.0.1|spur", "8.8.8.8|greynoise", "8.8.8.8|spur"]
    );
    db.run("UPDATE ip_inventory SET last_seen = now() - interval '1 minute'");
    assert_eq!(swept(&mut db).len(), 2, "an older session");
    db.run("UPDATE ip_inventory SET session_count = 1 WHERE ip_address = '8.8.8.8'");
    assert_eq!(swept(&mut db), ["60.0.0.1|dshield", "8.8.8.8|dshield", "8.8.8.8|greynoise"]);
    db.run("UPDATE ip_inventory SET session_count = 0");
    db.run("UPDATE ip_inventory SET last_seen = now() + interval '1 minute' WHERE ip_address = '60.0.0.1'");
    assert_eq!(
        swept(&mut db),
        ["60.0.0.1|cymru", "60.0.0.1|dshield", "60.0.0.1|greynoise", "8.8.8.8|dshield"]
    );
    // A refresh keeps them too, and a call that asks about the address does not.
    db.run("CALL refresh_stale('greynoise')");
    assert_eq!(requested(&mut db), [] as [&str; 0]);
    db.run("SELECT enrich_ips('{8.8.8.8,60.0.0.1}')");
    assert_eq!(requested(&mut db), ["cymru|1", "dshield|2", "greynoise|2"]);
}

#[test]
fn cancelled_requests_and_jobs_are_gone_and_no_sweep_brings_them_back() {
    let mut db = waiting();
    db.run("SELECT enrich_ips('{8.8.8.8,60.0.0.1,60.0.0.2,60.0.1.1}')");
    assert_eq!(db.number("SELECT cancel_requests('greynoise', '8.8.8.8')"), 1);
    assert_eq!(db.number("SELECT cancel_requests('greynoise', '8.8.8.8')"), 0);
    assert_eq!(requested(&mut db), ["cymru|3", "dshield|4", "greynoise|3"]);
    assert_eq!(db.number("SELECT cancel_requests('greynoise')"), 3);
    assert_eq!(requested(&mut db), ["cymru|3", "dshield|4"]);
    let swept = swept(&mut db);
    assert_eq!(swept.iter().filter(|lookup| lookup.ends_with("greynoise")).count(), 0, "{swept:?}");
    assert_eq!(swept.len(), 7, "{swept:?}");
    // A session that was stored before is not a new one, even if it is counted later.
    SUMMARIES.create_attached(&mut db);
    db.run(&SUMMARIES.insert(&[("k1", Some("60.0.1.1"))]));
    db.run("SELECT cancel_requests('dshield'); CALL fold_statistics()");
    assert!(!swept_at(&mut db, "dshield"));
    db.run(&SUMMARIES.insert(&[("k2", Some("60.0.1.1"))]));
    db.run("CALL fold_statistics()");
    assert!(swept_at(&mut db, "dshield"));
    // Requests are appended again although no worker has read the earlier ones.
    db.run("SELECT enrich_ips('{8.8.8.8,60.0.0.1,60.0.0.2,60.0.1.1}')");
    assert_eq!(requested(&mut db), ["cymru|3", "dshield|4", "greynoise|4"]);
}

/// Creates jobs as the worker does: two for Team Cymru, of which one has two addresses.
fn with_jobs(db: &mut Database<'_>) {
    db.run("SELECT enrich_ips('{60.0.0.1,60.0.0.2,60.0.1.1}'); TRUNCATE enrichment_request");
    db.run(
        "INSERT INTO enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at)
         VALUES ('cymru', 'prefix', '60.0.0.0/24', 0, now()), ('cymru', 'prefix', '60.0.1.0/24', 0, now());
         INSERT INTO job_address (provider, ip_address, lookup_kind, lookup_key)
         VALUES ('cymru', '60.0.0.1', 'prefix', '60.0.0.0/24'), ('cymru', '60.0.0.2', 'prefix', '60.0.0.0/24'),
                ('cymru', '60.0.1.1', 'prefix', '60.0.1.0/24')",
    );
}

#[test]
fn a_job_ends_when_its_last_address_is_cancelled() {
    let mut db = waiting();
    with_jobs(&mut db);
    let jobs = |db: &mut Database<'_>| {
        db.rows("SELECT lookup_key, (SELECT string_agg(host(ip_address), ' ') FROM job_address a WHERE a.lookup_key = j.lookup_key)
                 FROM enrichment_job j ORDER BY 1")
    };
    assert_eq!(db.number("SELECT cancel_requests('cymru', '60.0.0.1')"), 1);
    assert_eq!(jobs(&mut db), ["60.0.0.0/24|60.0.0.2", "60.0.1.0/24|60.0.1.1"]);
    assert_eq!(db.number("SELECT cancel_requests('cymru', '60.0.0.77')"), 0);
    assert_eq!(db.number("SELECT cancel_requests('cymru', '60.0.0.2')"), 1);
    assert_eq!(jobs(&mut db), ["60.0.1.0/24|60.0.1.1"]);
    assert_eq!(db.number("SELECT cancel_requests('cymru')"), 1);
    assert_eq!(
        db.number("SELECT (SELECT count(*) FROM enrichment_job) + (SELECT count(*) FROM job_address)"),
        0
    );
    assert!(!swept_at(&mut db, "cymru"));
}

#[test]
fn leased_jobs_stay_until_the_lease_is_over() {
    let mut db = waiting();
    with_jobs(&mut db);
    db.run(
        "UPDATE enrichment_job SET leased_by = 7, due_at = now() + interval '1 hour' WHERE lookup_key = '60.0.0.0/24'",
    );
    assert_eq!(db.number("SELECT cancel_requests('cymru', '60.0.0.1')"), 0);
    assert_eq!(db.number("SELECT cancel_requests('cymru')"), 1);
    assert_eq!(db.rows("SELECT lookup_key, leased_by FROM enrichment_job"), ["60.0.0.0/24|7"]);
    assert_eq!(db.number("SELECT count(*) FROM job_address"), 2);
    db.run("UPDATE enrichment_job SET due_at = now() - interval '1 second'");
    assert_eq!(db.number("SELECT cancel_requests('cymru')"), 2);
    assert_eq!(db.number("SELECT count(*) FROM enrichment_job"), 0);
}

#[test]
fn an_expired_absence_of_a_network_is_not_queued_again_after_a_cancel() {
    let mut db = waiting();
    db.run(
        r#"SELECT enrich_ips('{60.0.0.1}', sources => '{}');
           UPDATE ip_inventory SET enrichment = jsonb_set(enrichment, '{_meta,cymru}',
               '{"state": "absent", "asked_at": "2020-01-01T00:00:00.000000+00:00", "retry_after": "2020-02-01T00:00:00.000000+00:00"}')"#,
    );
    assert_eq!(swept(&mut db), ["60.0.0.1|cymru"]);
    db.run("SELECT request_enrichment('60.0.0.1', 'cymru')");
    assert_eq!(db.number("SELECT cancel_requests('cymru')"), 1);
    assert_eq!(swept(&mut db), [] as [&str; 0]);
}

#[test]
fn an_address_that_joins_a_job_while_it_is_cancelled_is_not_lost() {
    let mut db = database();
    with_jobs(&mut db);
    // As jobs_create.sql: adds the address, and locks the job even if nothing changes.
    let mut worker = db.another();
    worker.run(
        "BEGIN;
         INSERT INTO job_address (provider, ip_address, lookup_kind, lookup_key)
         VALUES ('cymru', '60.0.0.9', 'prefix', '60.0.0.0/24');
         INSERT INTO enrichment_job AS j (provider, lookup_kind, lookup_key, priority, requested_at)
         VALUES ('cymru', 'prefix', '60.0.0.0/24', 0, now())
         ON CONFLICT (provider, lookup_key) DO UPDATE SET priority = 0 WHERE j.priority < 0",
    );
    let mut other = db.another();
    let cancelled = std::thread::scope(|scope| {
        let cancelling = scope.spawn(move || other.number("SELECT cancel_requests('cymru')"));
        wait_until(
            "the call waits for the job",
            || {
                db.number("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%cancel_requests%' AND pid <> pg_backend_pid()")
            },
            |waiting| *waiting == 1,
        );
        worker.run("COMMIT");
        cancelling.join().expect("the call returns")
    });
    assert_eq!(cancelled, 4);
    assert_eq!(
        db.number("SELECT count(*) FROM job_address a WHERE NOT EXISTS (SELECT FROM enrichment_job j WHERE j.lookup_key = a.lookup_key)"),
        0
    );
}

fn lab(name: &str) -> Lab {
    Plan::of(name, "maxmind,greynoise,dshield").start()
}

#[test]
fn a_working_worker_asks_nothing_that_was_left_out_until_a_session_arrives() {
    let lab = lab("spending-worker");
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    let addresses = members(0..20);
    db.run(&format!("SELECT enrich.enrich_ips({}, sources => '{{dshield}}')", array(&addresses)));
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab.dshield).len(), 20);
    // A worker begins with a sweep. A lookup that is requested afterwards shows that it has ended.
    let restart = |db: &mut Database<'_>, known: IpAddr| {
        let pid = server_tests::cymru::worker_pid(db);
        db.run(&format!("SELECT pg_terminate_backend({pid})"));
        server_tests::http::request(db, "dshield", &[known]);
        wait_until("another worker works", || asked(&lab.dshield), |asked| asked.contains(&known));
        wait_for_the_queue(db);
    };
    restart(&mut db, member(900, 7));
    let of_list = || {
        let asked = asked(&lab.greynoise);
        asked.into_iter().filter(|address| addresses.contains(address)).collect::<Vec<_>>()
    };
    assert_eq!(of_list(), [] as [IpAddr; 0]);
    db.run(&SUMMARIES.insert(&[("k1", Some(&addresses[3].to_string()))]));
    db.run("CALL fold_statistics()");
    restart(&mut db, member(901, 7));
    wait_until("the session's address is asked", of_list, |asked| !asked.is_empty());
    wait_for_the_queue(&mut db);
    assert_eq!(of_list(), [addresses[3]]);
    lab.assert_nothing_crashed();
}
