//! Missing rights, tables and columns.

use crate::place::{Place, figure, rows, section, text};

#[test]
fn an_empty_table_gives_a_page() {
    let Some(place) = Place::new("report_empty") else { return };
    let page = place.report(&[]);
    assert_eq!(figure(&page, "sessions"), 0);
    for id in ["map", "networks", "kinds", "movers", "campaigns", "sensors"] {
        assert!(section(&page, id).contains("No session in this period."), "{id}");
    }
    assert!(section(&page, "timeline").contains("No session of this period has a time."));
    assert!(section(&page, "sources").contains("Natural Earth"));
}

#[test]
fn sections_without_a_right_or_a_table_are_left_out_with_a_sentence() {
    let Some(mut place) = Place::with_log("report_rights") else { return };
    let whole = place.report(&[]);
    assert!(!whole.contains("left out"), "{}", text(&whole));
    let role = place.role.clone();
    place
        .client
        .batch_execute(&format!(
            "REVOKE SELECT ON cowrie_enrich.ip_inventory, cowrie_enrich.asn_inventory FROM {role};
             REVOKE EXECUTE ON FUNCTION cowrie_enrich.mmdb_status() FROM {role};
             REVOKE EXECUTE ON FUNCTION cowrie_enrich.session_timeline FROM {role};
             REVOKE SELECT ON auth FROM {role}; DROP TABLE downloads"
        ))
        .unwrap();
    let page = place.report(&[]);
    assert_eq!(figure(&page, "sessions"), figure(&whole, "sessions"));
    assert_eq!(figure(&page, "addresses"), figure(&whole, "addresses"));
    assert!(section(&page, "movers").contains("may not read cowrie_enrich.ip_inventory"));
    assert!(section(&page, "networks").contains("may not read cowrie_enrich.asn_inventory"));
    assert_eq!(rows(section(&page, "networks")).len(), rows(section(&whole, "networks")).len());
    assert!(section(&page, "timeline").contains("permission denied for function session_timeline"));
    assert!(section(&page, "sources").contains("permission denied for function mmdb_status"));
    let campaigns = section(&page, "campaigns");
    assert!(
        campaigns.contains("public.auth has no column session that this role may read"),
        "{}",
        text(campaigns)
    );
    assert!(campaigns.contains("public.downloads has no column session"), "{}", text(campaigns));
    assert!(!page.contains("login attempts"));
}

#[test]
fn sensors_without_names_have_numbers_and_a_sentence() {
    let Some(mut place) = Place::with_log("report_sensors") else { return };
    let named = place.report(&[]);
    assert!(!named.contains("numbers instead of names"));
    place.client.batch_execute(&format!("REVOKE SELECT ON sensors FROM {}", place.role)).unwrap();
    let page = place.report(&[]);
    let sensors = section(&page, "sensors");
    assert!(
        sensors.contains("numbers instead of names, because public.sensors has no columns id and ip"),
        "{}",
        text(sensors)
    );
    let first = |part: &str| rows(part).into_iter().map(|row| row[0].clone()).collect::<Vec<_>>();
    assert_eq!(first(sensors), ["1", "2"]);
    assert_eq!(first(section(&named, "sensors")).len(), 2);
    assert!(first(section(&named, "sensors")).iter().all(|name| name.starts_with("trap-")));
}

#[test]
fn a_right_without_which_there_is_no_report_is_named() {
    let Some(mut place) = Place::new("report_refused") else { return };
    let role = place.role.clone();
    for (right, message) in [
        ("USAGE ON SCHEMA cowrie_enrich", "permission denied for schema cowrie_enrich"),
        (
            "EXECUTE ON FUNCTION cowrie_enrich.attached_columns(regclass)",
            "permission denied for function attached_columns",
        ),
        ("SELECT ON sessions", "permission denied for table sessions"),
    ] {
        place.client.batch_execute(&format!("REVOKE {right} FROM {role}")).unwrap();
        let output = place.output(&[]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && output.stdout.is_empty(), "{right}: {errors}");
        assert!(
            errors.contains(message) && errors.contains("docs/report.md#write-a-report"),
            "{right}: {errors}"
        );
        assert_eq!(errors.lines().count(), 1, "{errors}");
        place.client.batch_execute(&format!("GRANT {right} TO {role}")).unwrap();
    }
    place.report(&[]);
}

#[test]
fn a_table_without_times_sensors_and_ids_gives_a_page() {
    let Some(mut place) = Place::new("report_plain") else { return };
    let role = place.role.clone();
    place
        .client
        .batch_execute(&format!(
            "CREATE SCHEMA \"Odd \"\"one\";
             CREATE TABLE \"Odd \"\"one\".\"My sessions\" (\"the address\" inet);
             SELECT cowrie_enrich.attach_session_table('\"Odd \"\"one\".\"My sessions\"', 'the address');
             INSERT INTO \"Odd \"\"one\".\"My sessions\" (\"the address\") VALUES ('8.8.8.8'), ('::ffff:8.8.8.8'), (NULL);
             GRANT USAGE ON SCHEMA \"Odd \"\"one\" TO {role};
             GRANT SELECT ON ALL TABLES IN SCHEMA \"Odd \"\"one\" TO {role}"
        ))
        .unwrap();
    let page = place.report(&["--table", "\"Odd \"\"one\".\"My sessions\""]);
    assert_eq!((figure(&page, "sessions"), figure(&page, "addresses")), (3, 1));
    for (id, sentence) in [
        ("timeline", "was attached without a time column"),
        ("sensors", "has no column sensor"),
        ("campaigns", "are not in the schema of the session table"),
    ] {
        assert!(section(&page, id).contains(sentence), "{id}: {}", text(section(&page, id)));
    }
    let refused = place.output(&["--table", "\"Odd \"\"one\".\"My sessions\"", "--days", "3"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("without a time column"));
}

#[test]
fn the_report_reads_one_snapshot_and_cannot_write() {
    let Some(mut place) = Place::with_log("report_snapshot") else { return };
    // A policy of the table's owner runs in the report, and shows its transaction.
    let role = place.role.clone();
    place
        .client
        .batch_execute(&format!(
            "CREATE FUNCTION shows_transaction() RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN
                 RAISE EXCEPTION 'isolation %, read only %', current_setting('transaction_isolation'),
                     current_setting('transaction_read_only');
             END $$;
             GRANT EXECUTE ON FUNCTION shows_transaction() TO {role};
             ALTER TABLE sessions ENABLE ROW LEVEL SECURITY;
             CREATE POLICY shown ON sessions FOR SELECT TO {role} USING (shows_transaction())"
        ))
        .unwrap();
    let output = place.output(&[]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("isolation repeatable read, read only on"), "{errors}");
    assert!(!output.status.success());
}
