//! Tests `mmdb-build --types` and `mmdb-build --known-networks` as programs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use cowrie_enrich_engine::mmdb::types::TypeDatabase;
use cowrie_enrich_tools::mmdb::{self, Layout, Settings};
use cowrie_enrich_tools::networks;

use super::found;
use super::records::cities;

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("mmdb-build-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs the program. Returns whether it succeeded, and its messages.
fn run(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mmdb-build"))
        .args(arguments)
        .env("SOURCE_DATE_EPOCH", "1780000000")
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

fn modify(path: &str, seconds: u64) {
    let file = File::options().append(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

fn open(path: &str) -> TypeDatabase<Vec<u8>> {
    TypeDatabase::open(fs::read(path).unwrap()).unwrap()
}

fn lines(count: usize) -> String {
    (0..count).map(|index| format!("5.{}.{}.1\n", index / 256, index % 256)).collect()
}

#[test]
fn lists_are_compiled_with_their_names_types_and_times() {
    let folder = Folder::new("compiled");
    let (tor, v4, v6) = (
        folder.file("a", "5.6.7.8\n"),
        folder.file("b", "104.16.0.0/13\n"),
        folder.file("c", "2400:cb00::/32\n"),
    );
    modify(&tor, 1_779_000_000);
    modify(&v4, 1_778_000_000);
    modify(&v6, 1_777_000_000);
    let out = folder.path("types.mmdb");
    let (is_done, messages) = run(&[
        "--types",
        &out,
        "--list",
        &format!("tor:TOR:{tor}"),
        "--list",
        &format!("cloudflare:DATACENTER/Cloudflare:{v4}"),
        "--list",
        &format!("cloudflare:DATACENTER/Cloudflare:{v6}"),
    ]);
    assert!(is_done, "{messages}");
    assert!(messages.contains("cloudflare: DATACENTER, 2 networks\n"), "{messages}");
    let served = open(&out);
    let lists: Vec<_> = served
        .lists()
        .iter()
        .map(|list| (list.name.as_str(), list.kind.as_str(), list.published, list.entries))
        .collect();
    // A list is as old as its oldest file.
    assert_eq!(
        lists,
        [("tor", "TOR", 1_779_000_000, Some(1)), ("cloudflare", "DATACENTER", 1_777_000_000, Some(2))]
    );
    assert_eq!(served.facts().build_epoch, 1_780_000_000);
    assert_eq!(found(&served, "104.16.1.1"), ["cloudflare/Cloudflare"]);
    assert_eq!(found(&served, "2400:cb00::1"), ["cloudflare/Cloudflare"]);
    assert_eq!(folder.names(), ["a", "b", "c", "types.mmdb"]);
}

#[test]
fn the_same_lists_give_the_same_bytes() {
    let folder = Folder::new("same");
    let list = folder.file("list", lines(3_000));
    let shuffled: String = lines(3_000).lines().rev().map(|line| format!("{line}\n")).collect();
    let shuffled = folder.file("shuffled", shuffled);
    modify(&list, 1_779_000_000);
    modify(&shuffled, 1_779_000_000);
    let mut files = Vec::new();
    for (out, list) in [("one", &list), ("two", &list), ("three", &shuffled)] {
        let out = folder.path(out);
        let (is_done, messages) = run(&["--types", &out, "--list", &format!("tor:TOR:{list}")]);
        assert!(is_done, "{messages}");
        files.push(fs::read(out).unwrap());
    }
    assert!(files[0] == files[1] && files[0] == files[2]);
}

#[test]
fn a_list_that_shrank_by_half_is_refused_and_the_old_file_stays() {
    let folder = Folder::new("shrank");
    let (tor, vpn) = (folder.file("tor", lines(1_000)), folder.file("vpn", "9.9.9.9\n"));
    let out = folder.path("types.mmdb");
    let arguments =
        ["--types", &out, "--list", &format!("tor:TOR:{tor}"), "--list", &format!("vpn:VPN:{vpn}")];
    assert!(run(&arguments).0);
    let before = fs::read(&out).unwrap();

    fs::write(&tor, lines(499)).unwrap();
    let (is_done, messages) = run(&arguments);
    assert!(!is_done);
    assert_eq!(
        messages.lines().last(),
        Some("mmdb-build: list tor shrank from 1000 to 499 networks; --force accepts the new list")
    );
    assert_eq!(fs::read(&out).unwrap(), before);
    assert_eq!(folder.names(), ["tor", "types.mmdb", "vpn"]);

    let mut forced = arguments.to_vec();
    forced.push("--force");
    assert!(run(&forced).0);
    assert_eq!(open(&out).lists()[0].entries, Some(499));

    // Half is not below half, and another list has its own size.
    fs::write(&tor, lines(250)).unwrap();
    assert!(run(&arguments).0);
}

#[test]
fn an_invalid_list_leaves_the_old_file() {
    let folder = Folder::new("invalid");
    let list = folder.file("list", lines(3));
    let out = folder.path("types.mmdb");
    let arguments = ["--types", &out, "--list", &format!("tor:TOR:{list}")];
    assert!(run(&arguments).0);
    let before = fs::read(&out).unwrap();
    for (content, expected) in [
        ("", "an empty list is not compiled"),
        ("5.6.7.8\n<html>\n", "line 2: not an address, a prefix or a range: \"<html>\""),
        ("5.6.7.8\n0.0.0.0/0\n", "line 2: network covers too much of the internet"),
    ] {
        fs::write(&list, content).unwrap();
        let (is_done, messages) = run(&arguments);
        assert!(!is_done && messages.contains(expected), "{messages}");
        assert!(messages.contains(&format!("list tor, {list}: ")), "{messages}");
        assert_eq!(fs::read(&out).unwrap(), before);
    }
    fs::remove_file(&list).unwrap();
    let (is_done, messages) = run(&arguments);
    assert!(!is_done && messages.contains(&format!("could not read {list}: ")), "{messages}");
}

#[test]
fn a_network_with_too_many_details_is_an_error_with_file_and_line() {
    let folder = Folder::new("details");
    let (other, geo) = (
        folder.file("other", "5.6.7.8,US,,x\n"),
        folder.file("geo", format!("# c\n9.9.9.0/24,US\n{}8.8.8.0/24,US\n", cities(65))),
    );
    let out = folder.path("types.mmdb");
    let lists = [format!("geo:DATACENTER:{other}"), format!("geo:DATACENTER:{geo}")];
    let (is_done, messages) = run(&["--types", &out, "--list", &lists[0], "--list", &lists[1]]);
    assert!(!is_done && !Path::new(&out).exists());
    assert_eq!(
        messages.lines().last().unwrap(),
        format!(
            "mmdb-build: list geo, {geo}: line 67: more than 64 different statements about 5.6.7.0/24 \
             (provider, region, service)"
        )
    );
}

#[test]
fn a_file_of_another_kind_is_not_replaced() {
    let folder = Folder::new("other");
    let list = folder.file("list", lines(3));
    let networks = networks::read("prefix,asn\n5.6.7.0/24,1\n".as_bytes()).unwrap();
    let asn = mmdb::build(&networks, Layout::Asn, Settings::default()).unwrap().bytes;
    for (out, expected) in [
        (folder.file("asn.mmdb", asn), "contains no types of addresses"),
        (folder.file("notes.txt", "mine"), "has no mmdb metadata"),
    ] {
        let before = fs::read(&out).unwrap();
        let list = format!("tor:TOR:{list}");
        let arguments = ["--types", &out, "--list", &list];
        let (is_done, messages) = run(&arguments);
        assert!(!is_done && messages.contains(expected), "{messages}");
        assert!(messages.trim_end().ends_with("; --force replaces the file"), "{messages}");
        assert_eq!(fs::read(&out).unwrap(), before);
        assert!(run(&["--types", &out, "--list", &list, "--force"]).0);
        assert_eq!(open(&out).lists()[0].entries, Some(3));
    }
}

#[test]
fn a_list_that_is_no_longer_given_is_reported() {
    let folder = Folder::new("gone");
    let list = folder.file("list", lines(3));
    let out = folder.path("types.mmdb");
    let (tor, vpn) = (format!("tor:TOR:{list}"), format!("vpn:VPN:{list}"));
    assert!(run(&["--types", &out, "--list", &tor, "--list", &vpn]).0);
    let (is_done, messages) = run(&["--types", &out, "--list", &vpn]);
    assert!(
        is_done && messages.contains("tor: was in the previous file, is not in the new one"),
        "{messages}"
    );
}

#[test]
fn a_list_of_asns_needs_the_asn_database() {
    let folder = Folder::new("asns");
    let list = folder.file("list", "AS64499 # reserved\nAS45090 # Tencent\nAS1 # silent\nAS200000\n");
    let networks = "prefix,asn\n5.6.0.0/16,45090\n5.6.7.0/24,200000\n2a00:1::/32,45090\n9.9.9.0/24,15169\n";
    let networks = networks::read(networks.as_bytes()).unwrap();
    let database = mmdb::build(&networks, Layout::Asn, Settings::default()).unwrap().bytes;
    let database = folder.file("asn.mmdb", database);
    let out = folder.path("types.mmdb");
    let list_argument = format!("x4b:DATACENTER:{list}");
    let arguments = ["--types", &out, "--list", &list_argument];
    let (is_done, messages) = run(&arguments);
    assert!(!is_done && messages.contains("this is a list of ASNs; --asn-database must name"), "{messages}");

    let mut with_database = arguments.to_vec();
    with_database.extend(["--asn-database", &database]);
    let (is_done, messages) = run(&with_database);
    assert!(is_done && messages.contains("3 ASNs; 1 ASNs without a prefix"), "{messages}");
    let served = open(&out);
    assert_eq!(found(&served, "5.6.1.1"), ["x4b/Tencent"]);
    assert_eq!(found(&served, "5.6.7.1"), ["x4b/AS200000"]);
    assert_eq!(found(&served, "2a00:1::1"), ["x4b/Tencent"]);
    assert_eq!(found(&served, "9.9.9.9"), [""; 0]);

    fs::write(&list, "AS1\n").unwrap();
    let (is_done, messages) = run(&with_database);
    assert!(!is_done && messages.contains("none of the ASNs has a prefix in the ASN database"), "{messages}");
    let (is_done, messages) = run(&["--types", &out, "--list", &list_argument, "--asn-database", &list]);
    assert!(!is_done && messages.contains(&format!("ASN database {list}: ")), "{messages}");
}

#[test]
fn lists_of_asns_become_rows_of_known_networks() {
    let folder = Folder::new("known");
    let (hosting, vpn) = (
        folder.file("hosting", "AS9009 # M247\nAS45090 # Tencent, \"Cloud\"\nAS200000\n"),
        folder.file("vpn", "AS9009\n"),
    );
    let out = folder.path("known.csv");
    let (is_done, messages) = run(&[
        "--known-networks",
        &out,
        "--list",
        &format!("x4b-hosting:HOSTING:{hosting}"),
        "--list",
        &format!("x4b-vpn:VPN:{vpn}"),
    ]);
    assert!(is_done, "{messages}");
    assert_eq!(
        fs::read_to_string(&out).unwrap(),
        "asn_number,label,asn_type,is_hosting,is_vpn,source\n\
         9009,M247,HOSTING,t,t,x4b-vpn\n\
         45090,\"Tencent, \"\"Cloud\"\"\",HOSTING,t,f,x4b-hosting\n\
         200000,AS200000,HOSTING,t,f,x4b-hosting\n"
    );
    let addresses = folder.file("addresses", "5.6.7.8\n");
    let (is_done, messages) = run(&["--known-networks", &out, "--list", &format!("tor:VPN:{addresses}")]);
    assert!(!is_done && messages.contains("lines of addresses is not a list of ASNs"), "{messages}");
}

#[test]
fn wrong_arguments_are_explained() {
    let folder = Folder::new("arguments");
    let list = folder.file("list", lines(3));
    let out = folder.path("types.mmdb");
    for (arguments, expected) in [
        (vec!["--types", &out], "--list NAME:TYPE:FILE is required; see --help"),
        (vec!["--types", &out, "--list", "tor:tor:x"], "invalid type \"tor\" of list tor; must be capitals"),
        (
            vec!["--known-networks", &out, "--list", "a:TOR:x"],
            "invalid type \"TOR\" of list a; must be HOSTING, VPN",
        ),
        (
            vec!["--known-networks", &out, "--list", "cowrie_enrich:VPN:x"],
            "rows with this source come with the extension",
        ),
        (vec!["--types", &out, "--city", &out, "--list", "a:TOR:x"], "cannot be combined"),
        (vec!["--types", &out, "--known-networks", &out, "--list", "a:TOR:x"], "cannot be combined"),
        (vec![&list], "a LIST and one of --city, --asn, --types and --known-networks are required"),
    ] {
        let (is_done, messages) = run(&arguments);
        assert!(!is_done && messages.contains(expected), "{arguments:?}: {messages}");
    }
    let two = [&format!("tor:TOR:{list}"), &format!("tor:VPN:{list}")];
    let (is_done, messages) = run(&["--types", &out, "--list", two[0], "--list", two[1]]);
    assert!(!is_done && messages.contains("list tor has two types: TOR and VPN"), "{messages}");
    assert!(!Path::new(&out).exists());
}
