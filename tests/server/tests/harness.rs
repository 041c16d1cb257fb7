//! Tests the test helpers: a server must start, run statements, survive a kill and leave no files behind.

use server_tests::{Cluster, Options};

fn plain(name: &str) -> Options {
    Options::named(name).without_preload()
}

#[test]
fn a_server_answers_and_is_gone_afterwards() {
    let cluster = Cluster::start(&plain("harness-gone"));
    let (files, sockets) = (cluster.files().to_owned(), cluster.socket_dir().to_owned());
    assert_eq!(cluster.session("postgres").one("SELECT 1, NULL"), "1|NULL");
    let postmaster = format!("/proc/{}", cluster.postmaster_pid());
    drop(cluster);
    for path in [files.as_path(), &sockets, postmaster.as_ref()] {
        assert!(!path.exists(), "{} is still there", path.display());
    }
}

#[test]
fn a_killed_server_comes_back_with_what_was_committed() {
    let cluster = Cluster::start(&plain("harness-killed"));
    let mut session = cluster.session("postgres");
    session.run("CREATE TABLE t AS SELECT 1 AS a");
    cluster.kill_postmaster();
    cluster.start_again();
    assert_eq!(cluster.session("postgres").one("SELECT a FROM t"), "1");

    let mut session = cluster.session("postgres");
    session.run("INSERT INTO t VALUES (2)");
    let pid = session.backend_pid();
    cluster.kill_backend(pid);
    assert_eq!(cluster.session("postgres").one("SELECT sum(a) FROM t"), "3");
}
