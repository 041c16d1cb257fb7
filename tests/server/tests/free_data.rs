//! The free mmdb files that `cowrie-data` fetches from the npm registry answer for addresses of both families.

use std::path::Path;
use std::process::{Command, Output};

use server_tests::database::make_template;
use server_tests::installation::{script, workspace};
use server_tests::{Cluster, Options, fresh_database};

fn run(command: &mut Command) -> Output {
    command.output().expect("the program can be started")
}

/// Returns true if the npm registry can be reached. Otherwise says why the test is not run.
fn npm_is_reachable() -> bool {
    let asked =
        Command::new("npm").args(["view", "--fetch-retries=0", "@ip-location-db/asn", "version"]).output();
    match asked {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            let reason =
                String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
            eprintln!("not run: the npm registry cannot be reached: {reason}");
            false
        }
        Err(error) => {
            eprintln!("not run: npm cannot be started: {error}");
            false
        }
    }
}

#[test]
fn free_files_from_npm_answer_for_both_address_families() {
    if !npm_is_reachable() {
        return;
    }
    // Builds the programs for release, because a debug build of mmdb-build takes minutes for all networks.
    let built = run(script(&workspace(), "scripts/package").arg("tools").env("AS_STAGED", "1"));
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let cluster = Cluster::start(&Options::named("free-data"));
    make_template(&cluster);
    let mut db = fresh_database(&cluster);

    let fetched = run(&mut fetch(&cluster.files().join("free")));
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    let settings = String::from_utf8(fetched.stdout).expect("the lines are text");
    cluster.reconfigure(&settings.lines().map(str::to_owned).collect::<Vec<_>>());
    server_tests::wait_until(
        "the backend has read the settings",
        || db.one("SELECT current_setting('cowrie_enrich.asn_database')"),
        |value| !value.is_empty(),
    );
    db.run("SELECT reload_mmdb()");

    assert_eq!(
        db.rows(
            "SELECT kind, file_number, vendor, database_type, build_time > '2026-01-01', last_error
             FROM mmdb_status() ORDER BY kind DESC, file_number"
        ),
        [
            "city|1|ip-location-db|city ipv4|t|NULL",
            "city|2|ip-location-db|city ipv6|t|NULL",
            "city|3|ip-location-db|country ipvAll|t|NULL",
            "asn|1|ip-location-db|asn ipvAll|t|NULL",
        ]
    );
    assert_eq!(
        db.rows(
            "SELECT ip_country(a) ~ '^[A-Z]{2}$', ip_city(a) IS NOT NULL, ip_asn(a), ip_asn_org(a) LIKE 'Google%'
             FROM unnest('{8.8.8.8,2001:4860:4860::8888}'::inet[]) a"
        ),
        ["t|t|15169|t", "t|t|15169|t"]
    );
    let notice = std::fs::read_to_string(cluster.files().join("free/NOTICE")).expect("the notice is written");
    assert!(notice.contains("DB-IP"), "{notice}");
}

fn fetch(directory: &Path) -> Command {
    let mut command = script(&workspace(), "tools/cowrie-data");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", workspace().join("target/release").display()));
    command.args(["fetch", "npm", "--to"]).arg(directory);
    command
}
