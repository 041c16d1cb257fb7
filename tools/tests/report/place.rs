//! A server with the extension and the demo's mmdb files, and databases with Cowrie's tables.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use postgres::{Client, NoTls};

use crate::support::{bundled, checkout, cluster};

/// The build time of the mmdb files.
pub const BUILD: &str = "1746057600";

/// The directory of the cluster.
fn server() -> Option<&'static str> {
    static SERVER: OnceLock<Option<String>> = OnceLock::new();
    SERVER.get_or_init(|| cluster("tools-report", settings)).as_deref()
}

fn settings() -> Vec<String> {
    let directory = checkout().join("target/postgres/report-mmdb");
    std::fs::create_dir_all(&directory).unwrap();
    let file = |kind: &str| {
        let path = directory.join(format!("{kind}.mmdb"));
        run(Command::new(env!("CARGO_BIN_EXE_mmdb-build"))
            .args(["--build-epoch", BUILD, &format!("--{kind}")])
            .arg(&path)
            .arg(checkout().join("demo/networks-before.tsv")));
        path.canonicalize().unwrap()
    };
    vec![
        "fsync = off".to_owned(),
        "shared_preload_libraries = 'cowrie_enrich'".to_owned(),
        // Counts are folded by the tests. No request leaves the machine.
        "cowrie_enrich.worker_enabled = off".to_owned(),
        "cowrie_enrich.enabled_sources = 'maxmind'".to_owned(),
        format!("cowrie_enrich.city_database = '{}'", file("city").display()),
        format!("cowrie_enrich.asn_database = '{}'", file("asn").display()),
    ]
}

/// Returns the standard output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A database with Cowrie's tables, the extension, and a role that has the rights in docs/report.md.
pub struct Place {
    pub client: Client,
    name: String,
    host: &'static str,
    pub role: String,
}

impl Place {
    /// Creates a database without sessions.
    pub fn new(name: &str) -> Option<Place> {
        let host = server()?;
        let dsn = |name: &str| format!("host={host} port=5432 user=postgres dbname={name}");
        let role = format!("analyst_{name}");
        let mut admin = Client::connect(&dsn("postgres"), NoTls).unwrap();
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        admin.batch_execute(&format!("DROP ROLE IF EXISTS {role}")).unwrap();
        let mut client = Client::connect(&dsn(name), NoTls).unwrap();
        client
            .batch_execute(&std::fs::read_to_string(checkout().join("demo/cowrie-schema.sql")).unwrap())
            .unwrap();
        client
            .batch_execute(
                "CREATE SCHEMA cowrie_enrich; CREATE EXTENSION cowrie_enrich SCHEMA cowrie_enrich;
                 SELECT cowrie_enrich.reload_mmdb();
                 SELECT cowrie_enrich.attach_session_table('sessions', 'ip', 'starttime')",
            )
            .unwrap();
        // The name of the program's user is also the name of the role.
        client.batch_execute(&documented_grants().replace("cowrie_report", &role)).unwrap();
        Some(Place { client, name: name.to_owned(), host, role })
    }

    /// Creates a database with the sessions of the bundled log.
    pub fn with_log(name: &str) -> Option<Place> {
        let mut place = Place::new(name)?;
        place.load(Path::new(&bundled()));
        Some(place)
    }

    /// Loads a log, and adds its counts to the inventories.
    pub fn load(&mut self, log: &Path) {
        run(Command::new(env!("CARGO_BIN_EXE_cowrie-load"))
            .args(["--quiet", "--dsn", &self.dsn("postgres")])
            .arg(log));
        self.client.batch_execute("CALL cowrie_enrich.fold_statistics()").unwrap();
    }

    pub fn dsn(&self, role: &str) -> String {
        format!("host={} port=5432 user={role} dbname={}", self.host, self.name)
    }

    /// Runs the program as the analyst.
    pub fn output(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cowrie-report"))
            .args(["--dsn", &self.dsn(&self.role)])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Returns the page that the analyst gets.
    #[track_caller]
    pub fn report(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Returns the statements on docs/report.md that create the role of the report.
pub fn documented_grants() -> String {
    let page = std::fs::read_to_string(checkout().join("docs/report.md")).unwrap();
    let block = page.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(block.contains("CREATE ROLE cowrie_report LOGIN"), "{block}");
    block.to_owned()
}

/// Returns a section of the page.
#[track_caller]
pub fn section<'a>(page: &'a str, id: &str) -> &'a str {
    let start = page.find(&format!("<section id={id}>")).unwrap_or_else(|| panic!("no section {id}"));
    let end = page[start..].find("</section>").unwrap();
    &page[start..start + end]
}

/// Returns the texts of the cells of all rows in a part of a page. Headings have no cells.
pub fn rows(part: &str) -> Vec<Vec<String>> {
    part.split("<tr>")
        .skip(1)
        .map(|row| row.split("</tr>").next().unwrap())
        .map(|row| row.split("<td").skip(1).map(|cell| text(&format!("<td{cell}"))).collect::<Vec<String>>())
        .filter(|row| !row.is_empty())
        .collect()
}

/// Returns a part of a page without markup, and with characters instead of entities.
pub fn text(part: &str) -> String {
    let mut text = String::new();
    let mut is_tag = false;
    for character in part.chars() {
        match character {
            '<' => is_tag = true,
            '>' => is_tag = false,
            _ if !is_tag => text.push(character),
            _ => {}
        }
    }
    for (entity, character) in
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
    {
        text = text.replace(entity, character);
    }
    text.trim().to_owned()
}

/// Returns a number that the page shows in groups of digits.
#[track_caller]
pub fn number(text: &str) -> u64 {
    text.replace('\u{202f}', "").parse().unwrap_or_else(|_| panic!("not a number: {text:?}"))
}

/// Returns a headline figure.
#[track_caller]
pub fn figure(page: &str, what: &str) -> u64 {
    let end = page.find(&format!("</b><span>{what}</span>")).unwrap_or_else(|| panic!("no figure {what}"));
    let start = page[..end].rfind("<b>").unwrap() + 3;
    number(&page[start..end])
}
