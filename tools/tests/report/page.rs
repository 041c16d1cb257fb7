//! The page needs nothing but itself.

use crate::place::{BUILD, Place, rows, section};

#[test]
fn the_page_has_no_script_no_reference_and_a_policy() {
    let Some(place) = Place::with_log("report_page") else { return };
    let page = place.report(&["--renewed-every", "25"]);
    let policy = page.split("Content-Security-Policy content=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let lower = page.to_lowercase();
    for forbidden in
        ["<script", "src=", "url(", "@import", "<link", "<iframe", "<object", "style=", "javascript:"]
    {
        let found = lower.replace("default-src", "").matches(forbidden).count();
        assert_eq!(found, 0, "{forbidden}");
    }
    assert_eq!(page.matches("<style>").count(), 1);
    // Links of the notices only, which the licences require.
    let notices = section(&page, "sources").matches("href=").count();
    assert_eq!(page.matches("href=").count(), notices);
    assert!(page.contains("The next page is due by "));
}

#[test]
fn sources_have_vendor_and_build_date() {
    let Some(place) = Place::with_log("report_sources") else { return };
    let page = place.report(&[]);
    let sources = rows(section(&page, "sources"));
    let built = jiff::Timestamp::from_second(BUILD.parse().unwrap()).unwrap();
    let built = built.strftime("%Y-%m-%d %H:%M").to_string();
    let files = sources.iter().filter(|row| row.len() == 5 && row[3] == built).count();
    assert_eq!(files, 2, "{sources:?}");
    assert!(sources.iter().any(|row| row[0] == "mmdb files" && row[3] == built), "{sources:?}");
}

#[test]
fn a_notice_is_shown_for_each_vendor_that_requires_one() {
    let Some(mut place) = Place::with_log("report_notices") else { return };
    let renames = "UPDATE cowrie_enrich.ip_inventory
                   SET enrichment = jsonb_set(enrichment, '{maxmind,vendor}', '\"DB-IP\"') WHERE enrichment ? 'maxmind'";
    let notice = "IP Geolocation by DB-IP";
    assert!(!place.report(&[]).contains(notice));
    place.client.batch_execute(renames).unwrap();
    let page = place.report(&[]);
    assert!(section(&page, "sources").contains(notice));
    assert!(section(&page, "sources").contains("href=\"https://db-ip.com\""));
}

#[test]
fn the_documentation_has_the_same_notices() {
    let page = std::fs::read_to_string(crate::support::checkout().join("docs/free-data.md")).unwrap();
    for notice in &cowrie_enrich_tools::report::sources::NOTICES {
        assert!(page.contains(notice.link), "{}", notice.link);
    }
}

#[test]
fn every_option_is_documented_and_nothing_else_is() {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_cowrie-report")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let page = std::fs::read_to_string(crate::support::checkout().join("docs/report.md")).unwrap();
    let options = |text: &str| -> std::collections::BTreeSet<String> {
        text.split(|c: char| !c.is_ascii_lowercase() && c != '-')
            .filter(|word| word.starts_with("--") && !word.starts_with("---") && word.len() > 2)
            .map(str::to_owned)
            .collect()
    };
    let listed: String =
        help.lines().filter(|line| line.starts_with("  --")).map(|line| line.to_owned() + "\n").collect();
    let listed = options(&listed);
    let rows: String =
        page.lines().filter(|line| line.starts_with("| `--")).map(|line| line.to_owned() + "\n").collect();
    assert_eq!(options(&rows), listed);
    assert!(listed.len() > 8, "{listed:?}");
    let others = ["--group", "--now", "--system", "--failed"];
    for option in options(&page).iter().filter(|option| !others.contains(&option.as_str())) {
        assert!(listed.contains(option), "{option} is not in --help");
    }
}
