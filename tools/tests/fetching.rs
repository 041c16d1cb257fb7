//! Runs `cowrie-data` against a server on loopback that misbehaves in the ways of real servers.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use cowrie_enrich_tools::mmdb::{Layout, Settings, build};
use cowrie_enrich_tools::networks;
use flate2::Compression;
use flate2::write::GzEncoder;

/// An answer: the status, the body, and the length that the header promises.
#[derive(Clone)]
struct Answer {
    status: u16,
    body: Vec<u8>,
    promised: usize,
}

impl Answer {
    fn of(status: u16, body: Vec<u8>) -> Answer {
        Answer { status, promised: body.len(), body }
    }
}

/// A server that gives the answers of a table. A path is found by its beginning; any other path is not there.
struct StandIn {
    address: SocketAddr,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    /// The lines of all requests.
    requests: Arc<Mutex<Vec<String>>>,
}

impl StandIn {
    fn start() -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answers: Arc<Mutex<HashMap<String, Answer>>> = Arc::default();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (table, record) = (Arc::clone(&answers), Arc::clone(&requests));
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let mut reader = BufReader::new(connection.try_clone().unwrap());
                let mut line = String::new();
                let _ = reader.read_line(&mut line);
                let mut header = String::from("more");
                while !header.trim().is_empty() {
                    header.clear();
                    let _ = reader.read_line(&mut header);
                }
                let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                record.lock().unwrap().push(path.clone());
                let table = table.lock().unwrap();
                let found = table.iter().find(|(beginning, _)| path.starts_with(*beginning));
                let answer = found.map_or_else(|| Answer::of(404, Vec::new()), |(_, answer)| answer.clone());
                let mut connection = connection;
                let head = format!(
                    "HTTP/1.1 {} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    answer.status, answer.promised
                );
                let _ = connection.write_all(head.as_bytes());
                let _ = connection.write_all(&answer.body);
            }
        });
        StandIn { address, answers, requests }
    }

    fn answer(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// Runs `cowrie-data fetch` with the vendors' URLs replaced.
    fn fetch(&self, directory: &Path, arguments: &[&str]) -> Output {
        let url = format!("http://{}", self.address);
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("cowrie-data");
        let mut command = Command::new(program);
        command.arg("fetch").arg("--to").arg(directory).args(arguments);
        command
            .env("COWRIE_DATA_DBIP", format!("{url}/free"))
            .env("COWRIE_DATA_IPINFO", format!("{url}/data"));
        command.env_remove("IPINFO_TOKEN").env("no_proxy", "127.0.0.1").output().unwrap()
    }
}

fn fresh_directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fetching-{name}"));
    let _ = fs::remove_dir_all(&directory);
    directory
}

fn file(layout: Layout, build_epoch: u64) -> Vec<u8> {
    let list = networks::read("prefix,country,asn\n8.8.8.0/24,US,15169\n".as_bytes()).unwrap();
    let settings = Settings { build_epoch: Some(build_epoch), ..Settings::default() };
    build(&list, layout, settings).unwrap().bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn month(which: &str) -> String {
    let output = Command::new("date").args(["-u", "-d", which, "+%Y-%m"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_file_of_the_month_before_is_fetched_while_this_months_is_missing() {
    let (server, directory) = (StandIn::start(), fresh_directory("month"));
    let before = month(&format!("{}-15 -1 month", month("now")));
    for (name, layout) in [("city", Layout::City), ("asn", Layout::Asn)] {
        let path = format!("/free/dbip-{name}-lite-{before}.mmdb.gz");
        server.answer(&path, Answer::of(200, gzip(&file(layout, 1))));
    }
    let output = server.fetch(&directory, &["dbip"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let place = directory.canonicalize().unwrap();
    assert_eq!(
        text(&output.stdout),
        format!(
            "cowrie_enrich.city_database = '{0}/dbip-city.mmdb'\ncowrie_enrich.asn_database = '{0}/dbip-asn.mmdb'\n",
            place.display()
        )
    );
    // A reader sees what is fetched before a long download ends.
    assert_eq!(
        text(&output.stderr).lines().collect::<Vec<_>>(),
        [
            "cowrie-data: fetching dbip-city.mmdb from DB-IP",
            "cowrie-data: dbip-city.mmdb is new",
            "cowrie-data: fetching dbip-asn.mmdb from DB-IP",
            "cowrie-data: dbip-asn.mmdb is new",
        ]
    );
    assert_eq!(names(&directory), ["NOTICE", "dbip-asn.mmdb", "dbip-city.mmdb"]);
    assert_eq!(fs::read(directory.join("dbip-city.mmdb")).unwrap(), file(Layout::City, 1));
    assert!(fs::read_to_string(directory.join("NOTICE")).unwrap().contains("https://db-ip.com"));
}

#[test]
fn a_file_that_did_not_change_is_not_written_again() {
    let (server, directory) = (StandIn::start(), fresh_directory("same"));
    server.answer("/data/ipinfo_lite.mmdb?token=abc", Answer::of(200, file(Layout::Asn, 1)));
    let token = directory.with_extension("token");
    fs::write(&token, "abc\n").unwrap();
    let arguments = ["ipinfo", "--token-file", token.to_str().unwrap()];
    let changed = || fs::metadata(directory.join("ipinfo-lite.mmdb")).unwrap().modified().unwrap();
    assert!(server.fetch(&directory, &arguments).status.success());
    let first = changed();
    let again = server.fetch(&directory, &arguments);
    assert!(text(&again.stderr).contains("up to date"), "{}", text(&again.stderr));
    assert_eq!(changed(), first);
    server.answer("/data/ipinfo_lite.mmdb?token=abc", Answer::of(200, file(Layout::Asn, 2)));
    assert!(server.fetch(&directory, &arguments).status.success());
    assert_ne!(changed(), first);
    assert_eq!(fs::read(directory.join("ipinfo-lite.mmdb")).unwrap(), file(Layout::Asn, 2));
}

#[test]
fn a_damaged_answer_leaves_the_old_file() {
    let (server, directory) = (StandIn::start(), fresh_directory("damaged"));
    let good = file(Layout::Asn, 1);
    fs::create_dir_all(&directory).unwrap();
    let token = directory.with_extension("token");
    fs::write(&token, "abc\n").unwrap();
    fs::write(directory.join("ipinfo-lite.mmdb"), &good).unwrap();
    let newer = file(Layout::Asn, 2);
    let half = newer[..newer.len() / 2].to_vec();
    for (what, answer) in [
        ("a web page", Answer::of(200, b"<html>welcome</html>".to_vec())),
        ("nothing", Answer::of(200, Vec::new())),
        ("half of a file", Answer::of(200, half.clone())),
        ("a connection that ends early", Answer { status: 200, body: half, promised: newer.len() }),
        ("a wrong token", Answer::of(401, b"{\"error\": \"token\"}".to_vec())),
        ("an outage", Answer::of(500, Vec::new())),
    ] {
        server.answer("/data/", answer);
        let output = server.fetch(&directory, &["ipinfo", "--token-file", token.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{what}: {}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("abc"), "{what}: {}", text(&output.stderr));
        assert_eq!(fs::read(directory.join("ipinfo-lite.mmdb")).unwrap(), good, "{what}");
        assert_eq!(names(&directory), ["ipinfo-lite.mmdb"], "{what}");
    }
}

#[test]
fn a_source_that_fails_does_not_stop_the_others() {
    let (server, directory) = (StandIn::start(), fresh_directory("others"));
    for (name, layout) in [("city", Layout::City), ("asn", Layout::Asn)] {
        let path = format!("/free/dbip-{name}-lite-{}.mmdb.gz", month("now"));
        server.answer(&path, Answer::of(200, gzip(&file(layout, 1))));
    }
    let output = server.fetch(&directory, &["ipinfo", "dbip"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no token"), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("dbip-city.mmdb"), "{}", text(&output.stdout));
    assert!(server.requests.lock().unwrap().iter().all(|path| path.starts_with("/free/")));
}
