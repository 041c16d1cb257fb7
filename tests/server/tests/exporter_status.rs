//! The status files have the layout that the Python system's monitor reads, with the same values as the SQL views.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use cowrie_enrich_upstreams::Fault;
use serde_json::{Map, Value, json};
use server_tests::cymru::{
    Lab, assert_nothing_crashed, members, provider, queue, wait_for_the_queue, worker_pid,
};
use server_tests::database::cluster_with_world;
use server_tests::hosts::COWRIE;
use server_tests::installation::installation;
use server_tests::scrape::{exporter_pid, exporters};
use server_tests::{Cluster, Options, Session, fresh_database, wait_until};

const DONE: &str = "enrich_exports_total";
const FAILURES: &str = "enrich_export_failures_total";

/// Makes a directory that the server may write to.
fn directory(cluster: &Cluster, name: &str) -> PathBuf {
    let path = cluster.files().join(name);
    fs::create_dir(&path).expect("the directory can be made");
    installation().give_to_server(&path);
    path
}

fn write_to(cluster: &Cluster, path: &Path) {
    cluster.reconfigure(&[format!("cowrie_enrich.status_file = '{}'", path.display())]);
}

/// Starts a server that writes its status.
fn watched(name: &str) -> (Cluster, PathBuf) {
    let cluster = cluster_with_world(&Options::named(name));
    let status = directory(&cluster, "status");
    write_to(&cluster, &status.join("status.json"));
    (cluster, status)
}

fn read(path: &Path) -> Option<Value> {
    let text = fs::read(path).ok()?;
    Some(serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// Waits until the file satisfies a condition, and returns it.
#[track_caller]
fn wait_for(path: &Path, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let found = wait_until(what, || read(path), |document| document.as_ref().is_some_and(&is_so));
    found.expect("wait_until returns what satisfied it")
}

fn counted(session: &mut Session, name: &str) -> i64 {
    session.number(&format!(
        "SELECT value FROM enrich.enrich_metrics WHERE name = '{name}' AND labels ->> 'exporter' = 'status_file'"
    ))
}

fn status(session: &mut Session) -> Value {
    serde_json::from_str(&session.one("SELECT enrich.status_json()")).expect("it is JSON")
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Returns the names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it can be read").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Removes the values that change although nothing happens.
fn still(mut document: Value) -> Value {
    fn strip(value: &mut Value) {
        if let Value::Object(object) = value {
            object.remove("last_updated");
            object.values_mut().for_each(strip);
        }
    }
    strip(&mut document);
    document
}

/// `2026-11-20T03:18:32.123456+00:00`
fn is_time(value: &Value) -> bool {
    let pattern = "dddd-dd-ddTdd:dd:dd.dddddd+00:00";
    value.as_str().is_some_and(|text| {
        text.len() == pattern.len()
            && text
                .chars()
                .zip(pattern.chars())
                .all(|(c, p)| if p == 'd' { c.is_ascii_digit() } else { c == p })
    })
}

/// Returns what the Python system's monitor prints for a directory with status files, which it reads in the order of
/// their names. Uses a table of the keys that the monitor reads, and leaves out missing keys.
fn monitor(directory: &Path) -> Vec<String> {
    names(directory)
        .iter()
        .filter(|name| name.ends_with(".json"))
        .flat_map(|name| {
            let document = read(&directory.join(name)).expect("the file is there");
            match (document.get("phases"), document.get("metrics")) {
                (Some(phases), _) => aggregate(phases),
                (None, Some(Value::Object(metrics))) if !metrics.is_empty() => single(&document, metrics),
                _ => vec![format!("{name}: of an older kind")],
            }
        })
        .collect()
}

fn shown(metrics: &Map<String, Value>, keys: &[&str]) -> String {
    let pairs = keys.iter().filter_map(|key| Some(format!(" {key}={}", metrics.get(*key)?)));
    pairs.collect()
}

const SANITIZATION: [&str; 5] =
    ["records_processed", "records_updated", "records_skipped", "errors", "batches_processed"];

fn aggregate(phases: &Value) -> Vec<String> {
    let phases = phases.as_object().expect("phases are by name");
    let line = |(name, entry): (&String, &Value)| {
        assert_eq!(entry["phase"], json!(name));
        let metrics = entry["metrics"].as_object().expect("an object");
        let counts =
            shown(metrics, &["files_processed", "events_inserted", "reports_generated", "events_per_second"]);
        let own = if name == "sanitization" { shown(metrics, &SANITIZATION) } else { String::new() };
        format!("[{name}] {}{counts}{own}", entry["ingest_id"].as_str().expect("a text"))
    };
    phases.iter().map(line).collect()
}

fn single(document: &Value, metrics: &Map<String, Value>) -> Vec<String> {
    let is_sanitizing = document["phase"] == "sanitization"
        || (metrics.contains_key("records_processed") && metrics.contains_key("records_updated"));
    let mut line = format!("{} {}", document["phase"].as_str().expect("a text"), document["ingest_id"]);
    line += &if is_sanitizing {
        shown(metrics, &SANITIZATION)
    } else {
        let or_zero = |key: &str| metrics.get(key).cloned().unwrap_or(json!(0));
        format!(
            " files={} inserted={} read={} duplicates={}",
            or_zero("files_processed"),
            or_zero("events_inserted"),
            or_zero("events_read"),
            or_zero("duplicates_skipped")
        )
    };
    let mut lines = vec![line];
    let checkpoint = document["checkpoint"].as_object().expect("an object");
    if !checkpoint.is_empty() {
        lines.push(format!("  checkpoint{}", shown(checkpoint, &["source", "offset", "batch_index"])));
    }
    let dead = document["dead_letter"].as_object().expect("an object");
    if dead["total"].as_i64().expect("a number") > 0 {
        lines.push(format!("  dead letters{}", shown(dead, &["total", "last_reason", "last_source"])));
    }
    lines
}

#[test]
fn status_has_every_key_that_the_layout_has_and_the_values_that_sql_has() {
    let lab = Lab::start(Options::named("status-keys").with_worker());
    let mut db = lab.database();
    queue(&mut db, &members(0..30));
    wait_for_the_queue(&mut db);
    lab.whois.behave(Fault::ErrorLines { every: 1 });
    queue(&mut db, &members(30..35));
    wait_for_the_queue(&mut db);
    db.run("SELECT enrich.enrich_ip('8.8.8.8'); SELECT enrich.enrich_ip('8.8.8.8')");

    let status = status(&mut db);
    assert_eq!(keys(&status), ["last_updated", "phases"]);
    assert!(is_time(&status["last_updated"]), "{status}");
    assert_eq!(keys(&status["phases"]), ["enrichment"]);
    let phase = &status["phases"]["enrichment"];
    assert_eq!(
        keys(phase),
        ["checkpoint", "dead_letter", "ingest_id", "last_updated", "metrics", "phase", "status_file"]
    );
    assert_eq!(phase["phase"], "enrichment");
    assert_eq!(phase["status_file"], "enrichment.json");
    assert_eq!(phase["ingest_id"], "cowrie_enrich");
    assert_eq!(phase["last_updated"], status["last_updated"]);

    // The keys of the Python system's class EnrichmentTelemetry, and the five keys for networks.
    let metrics = &phase["metrics"];
    for key in [
        "asn_records_created",
        "asn_records_updated",
        "asn_operation_duration_ms",
        "asn_unique_count",
        "asn_total_inventory_size",
        "cache_hits",
        "cache_misses",
        "cache_stores",
        "l3_api_calls",
        "api_calls_total",
        "api_calls_successful",
        "api_calls_failed",
        "rate_limit_hits",
        "rate_limit_delays",
        "enrichment_duration_ms",
        "sessions_enriched",
        "files_enriched",
        "dshield_calls",
        "virustotal_calls",
        "urlhaus_calls",
        "spur_calls",
        "greynoise_calls",
        "cymru_calls",
        "enrichment_errors",
        "cache_errors",
    ] {
        assert!(metrics[key].is_number(), "{key}: {metrics}");
    }
    for tier in ["l1_redis", "l2_filesystem"] {
        for what in ["hits", "misses", "stores", "errors", "latency_ms"] {
            assert_eq!(metrics[format!("{tier}_{what}")], 0, "{tier}_{what}");
        }
    }
    assert!(is_time(&metrics["last_enrichment_time"]), "{metrics}");
    assert_eq!(metrics["ingest_id"], "cowrie_enrich");
    assert!(metrics["asn_operation_duration_ms"].as_f64() > Some(0.0), "{metrics}");
    assert!(metrics["enrichment_duration_ms"].as_f64() > Some(0.0), "{metrics}");

    for (key, sql) in [
        ("asn_records_created", "SELECT asn_records_created FROM enrich.enrich_stats()"),
        ("asn_records_updated", "SELECT asn_records_updated FROM enrich.enrich_stats()"),
        ("asn_unique_count", "SELECT asn_unique_seen FROM enrich.enrich_stats()"),
        ("asn_total_inventory_size", "SELECT count(*) FROM enrich.asn_inventory"),
        ("cache_hits", "SELECT cache_hits FROM enrich.enrich_stats()"),
        ("records_skipped", "SELECT cache_hits FROM enrich.enrich_stats()"),
        ("cache_misses", "SELECT total_ips - cache_hits FROM enrich.enrich_stats()"),
        ("records_processed", "SELECT total_ips FROM enrich.enrich_stats()"),
        ("maxmind_hits", "SELECT maxmind_hits FROM enrich.enrich_stats()"),
        ("cymru_hits", "SELECT cymru_hits FROM enrich.enrich_stats()"),
        ("enrichment_errors", "SELECT errors FROM enrich.enrich_stats()"),
        ("api_calls_total", "SELECT sum(requests) FROM enrich.provider_status()"),
        ("cymru_calls", "SELECT requests FROM enrich.provider_status() WHERE provider = 'cymru'"),
        ("records_updated", "SELECT sum(answers + absent) FROM enrich.provider_status()"),
        ("queue_depth", "SELECT sum(jobs + requested) FROM enrich.queue_status"),
    ] {
        assert_eq!(metrics[key], db.number(sql), "{key}");
    }
    assert_eq!(metrics["records_updated"], 30);
    assert_eq!(metrics["cymru_hits"], 30);
    assert_eq!((&metrics["cache_hits"], &metrics["maxmind_hits"]), (&json!(1), &json!(1)));

    assert_eq!(keys(&phase["checkpoint"]), ["batch_index", "offset", "source"]);
    assert_eq!(phase["checkpoint"]["source"], json!(db.name));
    assert_eq!(phase["checkpoint"]["offset"], 30);
    assert_eq!(phase["checkpoint"]["batch_index"], metrics["batches_processed"]);
    let dead = &phase["dead_letter"];
    assert_eq!(keys(dead), ["last_reason", "last_source", "last_updated", "total"]);
    assert_eq!(dead["total"], 5);
    assert_eq!(dead["last_source"], "cymru");
    let reason = db.one("SELECT last_error FROM enrich.dead_letter ORDER BY ip_address DESC LIMIT 1");
    assert_eq!(dead["last_reason"], json!(reason));
    assert!(is_time(&dead["last_updated"]), "{dead}");
    assert_eq!(provider(&mut db, "dead_letters"), 5);
    lab.assert_nothing_crashed();
}

#[test]
fn files_say_what_the_function_says_and_the_monitor_can_read_them() {
    let lab = Lab::start(Options::named("status-files").with_worker());
    let directory = directory(&lab.cluster, "status");
    write_to(&lab.cluster, &directory.join("status.json"));
    let mut db = lab.database();
    COWRIE.create(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("1.1.1.1")), ("c", Some("8.8.8.8"))]));
    COWRIE.attach(&mut db);
    db.run(&format!("CALL enrich.backfill_sessions('{}', progress => false)", COWRIE.table));
    lab.whois.behave(Fault::ErrorLines { every: 1 });
    queue(&mut db, &members(0..3));
    wait_for_the_queue(&mut db);
    worker_pid(&mut db);
    // The worker counts once more. After that nothing changes.
    let file = directory.join("status.json");
    let said = wait_until(
        "the file says what the function says",
        || (read(&file).map(still), still(status(&mut db))),
        |(file, function)| file.as_ref() == Some(function),
    )
    .1;
    assert_eq!(names(&directory), ["enrichment.json", "snapshot_backfill.json", "status.json"]);
    for name in ["enrichment", "snapshot_backfill"] {
        let mut entry = said["phases"][name].clone();
        let file = entry.as_object_mut().expect("an object").remove("status_file").expect("its file");
        assert_eq!(read(&directory.join(file.as_str().expect("a name"))).map(still), Some(entry));
    }
    let text = fs::read_to_string(&file).expect("it can be read");
    assert!(!text.contains("\": ") && !text.contains('\n'), "compact: {text}");
    let mode = fs::metadata(&file).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o644);

    let backfill = &said["phases"]["snapshot_backfill"]["metrics"];
    for key in [
        "phase",
        "batch",
        "sessions_processed",
        "total_sessions",
        "percent_complete",
        "sessions_per_second",
        "elapsed_seconds",
        "failed_batches",
    ] {
        assert!(backfill.get(key).is_some(), "{key}: {backfill}");
    }
    assert_eq!(backfill["state"], "complete");
    assert_eq!(backfill["percent_complete"], 100);
    assert_eq!(backfill["sessions_processed"], backfill["total_sessions"]);

    let total = &said["phases"]["enrichment"]["metrics"];
    let lines = monitor(&directory);
    assert_eq!(
        lines[0],
        format!(
            "enrichment \"cowrie_enrich\" records_processed={} records_updated={} records_skipped={} errors=0 batches_processed={}",
            total["records_processed"],
            total["records_updated"],
            total["records_skipped"],
            total["batches_processed"]
        )
    );
    assert!(lines[1].starts_with(&format!("  checkpoint source=\"{}\" offset=", db.name)), "{lines:#?}");
    assert!(lines[2].starts_with("  dead letters total=3 last_reason=\"refused: "), "{lines:#?}");
    assert!(lines[2].ends_with(" last_source=\"cymru\""), "{lines:#?}");
    assert!(
        lines[3].starts_with("snapshot_backfill \"cowrie_enrich\" files=0 inserted=0 read="),
        "{lines:#?}"
    );
    assert!(lines.contains(&"[enrichment] cowrie_enrich".to_owned()), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("[snapshot_backfill] cowrie_enrich")), "{lines:#?}");
    lab.assert_nothing_crashed();
}

#[test]
fn readers_never_see_half_a_file_and_writes_are_rare() {
    let (cluster, directory) = watched("status-atomic");
    let mut db = fresh_database(&cluster);
    let file = directory.join("status.json");
    wait_for(&file, "there is a file", |_| true);
    let (before, began) = (counted(&mut db, DONE), Instant::now());
    // A reader that has the file open during a write reads the old content.
    let first = fs::read_to_string(&file).expect("it can be read");
    let mut opened = fs::File::open(&file).expect("it can be opened");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !is_over.load(Ordering::Relaxed) {
                for name in ["status.json", "enrichment.json"] {
                    assert!(read(&directory.join(name)).is_some(), "{name} is gone");
                    reads += 1;
                }
            }
            reads
        });
        for n in 1..=300 {
            db.run(&format!("SELECT enrich.ensure_asn_inventory({n}, 'Net', 'DE')"));
        }
        wait_for(&file, "all is written", |document| {
            document["phases"]["enrichment"]["metrics"]["asn_records_created"] == 300
        });
        is_over.store(true, Ordering::Relaxed);
        assert!(reader.join().expect("the reader never fails") > 1000);
    });
    let mut old = String::new();
    opened.read_to_string(&mut old).expect("it can be read still");
    assert_eq!(old, first);
    let (writes, seconds) = (counted(&mut db, DONE) - before, began.elapsed().as_secs() as i64);
    assert!((1..=seconds / 5 + 2).contains(&writes), "{writes} writes in {seconds} s");
    assert_eq!(names(&directory), ["enrichment.json", "status.json"]);
    assert_eq!(counted(&mut db, FAILURES), 0);
}

#[test]
fn what_keeps_it_from_being_written_costs_a_counter_and_a_line() {
    let cluster = cluster_with_world(&Options::named("status-failures"));
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let mut expected = 0;
    let mut fails = |db: &mut Session, what: &str, reason: &str| {
        let before = counted(db, FAILURES);
        wait_until(what, || counted(db, FAILURES), |failures| *failures > before);
        expected += 1;
        // One log line per series of failures: the first.
        let log = cluster.whole_log();
        let lines: Vec<&str> =
            log.lines().filter(|line| line.contains("could not write the status file")).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(expected > 1 || lines[0].contains(reason), "{lines:?}");
    };
    write_to(&cluster, Path::new("/nowhere/at/all/status.json"));
    fails(&mut db, "there is no directory", "/nowhere/at/all: No such file");
    let pid = exporter_pid(&mut db);

    // The server may not write to this directory.
    let closed = cluster.files().join("closed");
    fs::create_dir(&closed).expect("the directory can be made");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).expect("own directory");
    write_to(&cluster, &closed.join("status.json"));
    fails(&mut db, "it may not be written to", "");
    assert!(names(&closed).is_empty());

    // A link into the server's own files.
    let link = cluster.files().join("link");
    symlink(cluster.data_dir().join("base"), &link).expect("a link can be made");
    write_to(&cluster, &link.join("status.json"));
    fails(&mut db, "it is the server's own", "");
    assert!(!cluster.data_dir().join("base/status.json").exists());

    // Puts a symbolic link of another user into the path. Only root can create such a link.
    let (honeypot, target) = (cluster.files().join("honeypot"), directory(&cluster, "target"));
    symlink(&target, &honeypot).expect("a link can be made");
    if std::os::unix::fs::lchown(&honeypot, Some(12_345), None).is_ok() {
        write_to(&cluster, &honeypot.join("status.json"));
        fails(&mut db, "the link is another user's", "");
        assert!(names(&target).is_empty());
    }

    // A directory has the file's name.
    let crowded = directory(&cluster, "crowded");
    fs::create_dir(crowded.join("status.json")).expect("the directory can be made");
    write_to(&cluster, &crowded.join("status.json"));
    fails(&mut db, "a directory has the name", "");
    assert_eq!(names(&crowded), ["enrichment.json", "status.json"], "nothing else is left behind");
    db.run(&COWRIE.insert(&[("s", Some("8.8.8.8"))]));
    assert_eq!(db.number("SELECT errors FROM enrich.enrich_stats()"), 0);

    // The file is written as soon as its name is free.
    fs::remove_dir(crowded.join("status.json")).expect("the directory is empty");
    let written = wait_for(&crowded.join("status.json"), "it is written", Value::is_object);
    assert_eq!(written["phases"]["enrichment"]["metrics"]["records_processed"], 1);
    assert_eq!(exporters(&mut db), [pid], "it is the same process still");
    assert_nothing_crashed(&cluster);
}

#[test]
fn a_reload_turns_it_on_moves_it_and_turns_it_off() {
    let (cluster, first) = watched("status-reload");
    let mut db = fresh_database(&cluster);
    wait_for(&first.join("status.json"), "there is a file", |_| true);
    let pid = exporter_pid(&mut db);
    let second = directory(&cluster, "elsewhere");
    write_to(&cluster, &second.join("all.json"));
    let all = wait_for(&second.join("all.json"), "it has moved", |_| true);
    assert_eq!(names(&second), ["all.json", "enrichment.json"]);
    assert_eq!(all["phases"]["enrichment"]["status_file"], "enrichment.json");
    assert_eq!(exporters(&mut db), [pid]);
    cluster.reconfigure(&["cowrie_enrich.status_file = ''".to_owned()]);
    wait_until("it is gone", || exporters(&mut db), Vec::is_empty);
    assert_eq!(names(&first), ["enrichment.json", "status.json"], "files stay");
    assert_nothing_crashed(&cluster);
}

#[test]
fn paths_that_cannot_be_are_refused_where_they_are_set() {
    let cluster = cluster_with_world(&Options::named("status-refused"));
    let mut db = fresh_database(&cluster);
    let inside = cluster.data_dir().join("status.json").display().to_string();
    for (value, detail) in [
        ("status.json", "not an absolute path"),
        ("/srv/status", "name of a .json file"),
        ("/srv/status/", "name of a .json file"),
        ("/srv/../etc/status.json", "contains \"..\""),
        ("/srv/enrichment.json", "one kind of work"),
        (&inside, "inside the data directory"),
    ] {
        let refusal = db.refused(&format!("ALTER SYSTEM SET cowrie_enrich.status_file = '{value}'"));
        assert_eq!(refusal.code, "22023", "{refusal:?}");
        assert!(refusal.detail.as_ref().is_some_and(|text| text.contains(detail)), "{refusal:?}");
        assert!(refusal.hint.as_ref().is_some_and(|hint| hint.contains("status.json")), "{refusal:?}");
    }
    db.run("CREATE ROLE status_stranger; GRANT USAGE ON SCHEMA enrich TO status_stranger");
    assert_eq!(db.refused("SET ROLE status_stranger; SHOW cowrie_enrich.status_file").code, "42501");
    assert_eq!(db.refused("SET ROLE status_stranger; SELECT enrich.status_json()").code, "42501");
}

#[test]
fn a_call_that_was_killed_is_said_to_have_stopped() {
    let cluster = cluster_with_world(&Options::named("status-calls"));
    let mut db = fresh_database(&cluster);
    COWRIE.create(&mut db);
    db.run(&format!(
        "INSERT INTO {} ({}, {}, {}) SELECT 's' || n, now(), '8.8.8.8' FROM generate_series(1, 20000) n",
        COWRIE.table, COWRIE.key, COWRIE.time, COWRIE.address
    ));
    COWRIE.attach(&mut db);
    let phase = |db: &mut Session| status(db)["phases"]["snapshot_backfill"]["metrics"].clone();
    assert_eq!(phase(&mut db), Value::Null);
    let mut caller = db.another();
    let pid = caller.backend_pid();
    thread::scope(|scope| {
        scope.spawn(move || {
            let call = format!(
                "CALL enrich.backfill_sessions('{}', batch_size => 1, progress => false)",
                COWRIE.table
            );
            caller.refused(&call)
        });
        let running = wait_until(
            "it has done something",
            || phase(&mut db),
            |metrics| metrics["sessions_processed"].as_i64().is_some_and(|done| done > 0),
        );
        assert_eq!(running["state"], "running");
        assert_eq!(db.one(&format!("SELECT pg_terminate_backend({pid})")), "t");
    });
    let stopped = wait_until("it has stopped", || phase(&mut db), |metrics| metrics["state"] == "stopped");
    assert!(stopped["sessions_processed"].as_i64().is_some_and(|done| done > 0), "{stopped}");
    // After a call that ended by an error, the next one completes.
    db.run(&format!("CALL enrich.backfill_sessions('{}', progress => false)", COWRIE.table));
    assert_eq!(phase(&mut db)["state"], "complete");
    assert_nothing_crashed(&cluster);
}

#[test]
fn without_preloading_the_function_speaks_of_the_session() {
    let cluster = cluster_with_world(&Options::named("status-unloaded").without_preload());
    let mut db = fresh_database(&cluster);
    db.run("SELECT enrich.ensure_asn_inventory(1, 'Net', 'DE')");
    let status = status(&mut db);
    assert_eq!(status["phases"]["enrichment"]["metrics"]["asn_records_created"], 1);
    assert_eq!(status["phases"]["enrichment"]["checkpoint"], json!({}));
    assert_eq!(status["phases"]["enrichment"]["dead_letter"], json!({ "total": 0 }));
}
