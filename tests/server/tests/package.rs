//! The Debian packages: dpkg installs the extension into a separate PostgreSQL, where it works, and removes it again
//! completely. The programs of the tools' package run, and lintian, Debian's checker of packages, finds nothing.
//!
//! A private copy of Debian's PostgreSQL has the same paths below another root, and dpkg has an option for the root.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use server_tests::database::cluster_with_world;
use server_tests::documentation::page;
use server_tests::hosts::COWRIE;
use server_tests::installation::{Installation, named_major, script, use_installation, workspace};
use server_tests::{Database, Options, releases, wait_until};

#[test]
fn installed_by_dpkg_it_works_and_removed_it_leaves_nothing() {
    let major = named_major().to_string();
    if !Path::new("/usr/lib/postgresql").join(&major).exists() || !is_there("dpkg-shlibdeps") {
        // Packages have Debian's layout.
        eprintln!(
            "not run: PostgreSQL {major} is not installed from a package here, or there is no dpkg-dev"
        );
        return;
    }
    let package =
        PathBuf::from(run(script(&workspace(), "scripts/package").arg(&major).env("AS_STAGED", "1")));
    let copy = fresh_copy(&major);
    let before = files(&copy);
    assert!(before.iter().all(|name| !name.contains("cowrie")), "{before:?}");

    dpkg(&copy, &["--install", package.to_str().expect("a path in UTF-8")]);
    let named = run(Command::new("dpkg-deb").arg("--contents").arg(&package)) + "\n";
    let installed = files(&copy);
    for file in installed.difference(&before) {
        assert!(named.contains(&format!(" ./{file}\n")), "{file} is not of the package");
    }
    use_installation(&copy.join("bin/pg_config"));
    let cluster = cluster_with_world(&Options::named("package").with_worker());
    let mut db = server_tests::database::fresh_database(&cluster);
    recipes(&mut db);
    db.run("DROP EXTENSION cowrie_enrich CASCADE");
    assert_eq!(db.one("SELECT count(*), max(snapshot_asn) FROM sessions"), "2|15169");
    drop(db);
    cluster.stop_fast();

    dpkg(&copy, &["--purge", &format!("postgresql-{major}-cowrie-enrich")]);
    let left: BTreeSet<_> = files(&copy).difference(&before).cloned().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(before.is_subset(&files(&copy)));
    // The server starts without the library, and stored data can be read.
    cluster.configure(&["shared_preload_libraries = ''".to_owned()]);
    cluster.start_again();
    assert_eq!(cluster.session("postgres").one("SELECT 1"), "1");
}

#[test]
fn the_programs_of_the_tools_run_where_dpkg_installed_them() {
    if !is_there("dpkg-shlibdeps") {
        eprintln!("not run: there is no dpkg-dev");
        return;
    }
    let package =
        PathBuf::from(run(script(&workspace(), "scripts/package").arg("tools").env("AS_STAGED", "1")));
    let root = workspace().join("target/postgres/package-tools");
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir_all(&root).expect("a directory of this test's own");
    prepare_dpkg(&root);
    dpkg(&root, &["--install", package.to_str().expect("a path in UTF-8")]);

    for program in ["cowrie-load", "cowrie-report", "mmdb-build", "cowrie-data", "cowrie-export"] {
        let help = run(Command::new(root.join("usr/bin").join(program)).arg("--help"));
        assert!(help.contains(&format!("usage: {program}")), "{program}: {help}");
        let page = root.join(format!("usr/share/man/man1/{program}.1.gz"));
        let manual = run(Command::new("gzip").arg("-dc").arg(page));
        assert!(manual.contains(".SH NAME"), "{manual}");
    }
    let units = root.join("usr/lib/systemd/system");
    for unit in std::fs::read_dir(workspace().join("tools/systemd")).expect("the units").flatten() {
        let text = std::fs::read_to_string(units.join(unit.file_name())).expect("the unit is installed");
        for started in text.lines().filter_map(|line| line.strip_prefix("ExecStart=")) {
            let program = started.split(' ').next().unwrap_or_default().trim_start_matches('/');
            assert!(root.join(program).exists(), "{:?} starts {program}", unit.file_name());
        }
    }
    let installed = files(&root);
    dpkg(&root, &["--purge", "cowrie-enrich-tools"]);
    let left: Vec<_> = files(&root).into_iter().filter(|name| !name.ends_with('/')).collect();
    assert!(left.is_empty(), "{left:?} of {installed:?}");
}

#[test]
fn lintian_finds_nothing_in_the_packages() {
    let major = named_major().to_string();
    if !Path::new("/usr/lib/postgresql").join(&major).exists() || !is_there("lintian") {
        eprintln!("not run: PostgreSQL {major} is not installed from a package here, or there is no lintian");
        return;
    }
    let packages = run(script(&workspace(), "scripts/package").args([&major, "tools"]).env("AS_STAGED", "1"));
    let packages: Vec<_> = packages.lines().collect();
    assert_eq!(packages.len(), 2, "{packages:?}");
    let output = Command::new("lintian")
        .args(["--allow-root", "--fail-on", "error,warning"])
        .args(&packages)
        .output()
        .expect("lintian runs");
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && found.trim().is_empty(), "{found}");
}

/// The statements of the README.
fn recipes(db: &mut Database<'_>) {
    COWRIE.create_attached(db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("10.0.0.1"))]));
    assert_eq!(COWRIE.snapshot(db, "a"), "15169|US|NULL");
    db.run("CALL fold_statistics()");
    assert_eq!(db.one("SELECT asn_number, total_session_count FROM network_activity"), "15169|1");
    assert_eq!(
        db.one("SELECT ip_asn_org('8.8.8.8') IS NOT NULL, bogon_reason('10.0.0.1') IS NOT NULL"),
        "t|t"
    );
    wait_until(
        "a worker serves this database",
        || db.number("SELECT count(*) FROM worker_status WHERE database = current_database()"),
        |workers| *workers == 1,
    );
}

#[test]
fn what_pgxn_is_told_is_what_is_there() {
    let meta: serde_json::Value = serde_json::from_str(&page("META.json")).expect("META.json is JSON");
    let version = releases::current();
    // The keys that the specification requires.
    for key in ["name", "version", "abstract", "maintainer", "license", "provides", "meta-spec"] {
        assert!(meta.get(key).is_some(), "META.json has no {key}");
    }
    assert_eq!(meta["name"], "cowrie_enrich");
    assert_eq!(meta["version"], version);
    assert_eq!(meta["license"], "apache_2_0");
    assert_eq!(meta["meta-spec"]["version"], "1.0.0");
    let provided = &meta["provides"]["cowrie_enrich"];
    assert_eq!(provided["version"], version);
    for key in ["file", "docfile"] {
        let name = provided[key].as_str().expect("a path");
        assert!(workspace().join(name).exists(), "{name} is not there");
    }
    let changes = page("CHANGELOG.md");
    assert!(changes.contains(&format!("## {version}")), "CHANGELOG.md does not know version {version}");
}

/// `make install` installs the extension into the system's PostgreSQL, from which private copies are made.
#[test]
fn a_private_copy_takes_over_no_files_of_an_installed_extension() {
    let major = named_major().to_string();
    let (original, name) = (format!("package-original-{major}"), format!("package-copy-{major}"));
    let place = workspace().join("target/postgres");
    let _ = std::fs::remove_dir_all(place.join(&original));
    let _ = std::fs::remove_dir_all(place.join(&name));
    let source = run(script(&workspace(), "scripts/fetch-postgres").arg(&major));
    run(script(&workspace(), "scripts/private-postgres").env("PG_COPY", &original).env("PG_CONFIG", source));
    let original = Installation::of(place.join(original).join("bin/pg_config"));
    let own = ["cowrie_enrich.so", "extension/cowrie_enrich.control", "extension/cowrie_enrich--0.1.0.sql"];
    let path_in = |installation: &Installation, file: &str| {
        let directory = if file.ends_with(".so") { &installation.pkglibdir } else { &installation.sharedir };
        directory.join(file)
    };
    let install = |installation: &Installation| {
        for file in own.into_iter().chain(["extension/another.control"]) {
            std::fs::write(path_in(installation, file), "").expect("an installation of this test's own");
        }
    };
    let update = || {
        let mut command = script(&workspace(), "scripts/private-postgres");
        run(command.env("PG_COPY", &name).env("PG_CONFIG", &original.pg_config));
        Installation::of(place.join(&name).join("bin/pg_config"))
    };
    let present = |installation: &Installation| {
        own.into_iter().filter(|file| path_in(installation, file).exists()).collect::<Vec<_>>()
    };

    install(&original);
    let copy = update();
    assert_eq!(present(&copy), [""; 0], "a new copy");
    assert!(path_in(&copy, "extension/another.control").exists(), "other extensions are there");
    for file in own {
        std::os::unix::fs::symlink(path_in(&original, file), path_in(&copy, file)).expect("a link");
    }
    assert_eq!(present(&update()), [""; 0], "a copy with links to the files of the original");
    install(&copy);
    assert_eq!(present(&update()), own, "a copy with files of its own");
    for made in [&original.pg_config, &copy.pg_config] {
        let made = made.ancestors().nth(2).expect("bin is in the copy");
        std::fs::remove_dir_all(made).expect("an installation of this test's own");
    }
}

/// Returns a copy of PostgreSQL without an installed extension.
fn fresh_copy(major: &str) -> PathBuf {
    let name = format!("package-{major}");
    let copy = workspace().join("target/postgres").join(&name);
    let _ = std::fs::remove_dir_all(&copy);
    run(script(&workspace(), "scripts/private-postgres").env("PG_COPY", name).env("PG_MAJOR", major));
    let copy = copy.canonicalize().expect("the copy was made");
    prepare_dpkg(&copy);
    copy
}

/// Creates dpkg's own files below another root.
fn prepare_dpkg(root: &Path) {
    let state = root.join("var/lib/dpkg");
    std::fs::create_dir_all(state.join("info")).expect("a directory of this test's own");
    std::fs::create_dir_all(state.join("updates")).expect("a directory of this test's own");
    std::fs::write(state.join("status"), "").expect("a file of this test's own");
}

/// The dependencies of the package are outside of the copy.
fn dpkg(root: &Path, arguments: &[&str]) {
    let mut command = Command::new("dpkg");
    command.args(["--force-depends", "--force-not-root", "--log=/dev/null"]);
    run(command.arg("--root").arg(root).args(arguments));
}

/// Returns all files below a directory, without dpkg's own.
fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("the directory can be read").flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).expect("it is below the root").to_string_lossy().into_owned();
            if name == "var" {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path);
                found.insert(format!("{name}/"));
            } else {
                found.insert(name);
            }
        }
    }
    found
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Returns the standard output.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text.trim_end_matches('\n').to_owned()
}
