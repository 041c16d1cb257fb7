//! Hostile mmdb files, and paths that do not lead to a file. Each is refused with a reason, the earlier file stays in
//! service, and no session waits.

#[path = "../../../engine/tests/support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use cowrie_enrich_test_mmdb::{Record, Value, Writer, map, text};
use server_tests::database::{cluster_with_world, make_template};
use server_tests::world::{self, Files};
use server_tests::{Cluster, Database, Options, Session, fresh_database, wait_until};
use support::invariants::sound;

const EIGHT: &str = "SELECT ip_country('8.8.8.8'), ip_city('8.8.8.8'), maxmind_lookup('8.8.8.8') IS NULL";
const OLD: &str = "US|Mountain View|f";
const NOTHING: &str = "NULL|NULL|t";
const COMPLAINT: &str = "SELECT last_error FROM mmdb_status() WHERE kind = 'city'";

/// Longer than any file here takes, and much shorter than a hang.
const SOON: Duration = Duration::from_secs(20);

/// Returns a city file with a place for 8.8.8.8, and with these bytes as the record of 9.0.0.0/8.
fn with_record(hostile: Value) -> Vec<u8> {
    sound().swap_remove(0).with("9.0.0.0/8", hostile).bytes()
}

fn with_metadata(field: &str, value: Option<Value>) -> Vec<u8> {
    let writer = &sound()[0];
    let mut metadata: Vec<_> = writer.metadata().into_iter().filter(|(name, _)| *name != field).collect();
    metadata.extend(value.map(|value| (field.to_owned(), value)));
    writer.bytes_with(metadata)
}

/// Returns `nodes` nodes, each the child of the one before. The last leads to `last`.
fn chain(nodes: usize, last: Record) -> Vec<u8> {
    let mut writer: Writer = sound().swap_remove(0);
    writer.nodes.truncate(1);
    writer.nodes.resize(nodes, [Record::Nothing; 2]);
    for node in 1..nodes {
        writer.nodes[node - 1] = [Record::Node(node as u32); 2];
    }
    writer.nodes[nodes - 1] = [Record::Data(0), last];
    writer.bytes()
}

/// Returns a description of each file, its bytes, and a part of the reason.
fn hostile_files() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = world::city_database().build_epoch(1_800_000_000).bytes();
    let record = sound()[0].data.len() as u32;
    let many_long_texts = {
        let mut writer = sound().swap_remove(0);
        let long = writer.value(&text(&"x".repeat(1 << 20)));
        let members = (0..4000).map(|_| ("country".to_owned(), Value::Pointer(long))).collect();
        let record = writer.value(&Value::Map(members));
        for octet in 20..120 {
            writer = writer.with(&format!("{octet}.0.0.0/8"), Value::Pointer(record));
        }
        writer.bytes()
    };
    vec![
        ("nothing", vec![], "is empty"),
        ("one byte", vec![0], "no mmdb metadata"),
        ("zero bytes", vec![0; good.len()], "no mmdb metadata"),
        ("set bytes", vec![0xff; good.len()], "no mmdb metadata"),
        ("a page", b"<html>404</html>".to_vec(), "a web page"),
        ("an archive", b"\x1f\x8b\x08\0\0\0".to_vec(), "a gzip archive"),
        ("half of a file", good[..good.len() / 2].to_vec(), "no mmdb metadata"),
        ("all but its last byte", good[..good.len() - 1].to_vec(), "mmdb metadata"),
        ("its second half", good[good.len() / 2..].to_vec(), "the search tree needs"),
        ("a marker alone", b"\xab\xcd\xefMaxMind.com".to_vec(), "runs past the end"),
        ("a loop in the tree", chain(100, Record::Node(50)), "leads back to itself"),
        ("a tree deeper than addresses", chain(129, Record::Data(0)), "more levels than an address"),
        ("a branch into nowhere", chain(97, Record::Raw(u32::MAX >> 8)), "leads outside the data"),
        ("a pointer behind the end", with_record(Value::Pointer(u32::MAX)), "runs past the end"),
        ("a pointer to itself", with_record(Value::Pointer(record)), "pointer to a pointer"),
        ("a value in itself", with_record(map([("country", Value::Pointer(record))])), "contains itself"),
        ("16 million pairs that are not there", with_record(Value::Raw(vec![0xff; 4])), "runs past the end"),
        (
            "16 million values that are not there",
            with_record(Value::Raw(vec![0x1f, 4, 255, 255, 255])),
            "runs past the end",
        ),
        (
            "a text longer than the file",
            with_record(Value::Raw(vec![0x5f, 255, 255, 255])),
            "runs past the end",
        ),
        ("values inside each other", with_record(Value::Raw([1, 4].repeat(50_000))), "nested too deeply"),
        ("many values", with_record(Value::Array(vec![Value::Bool(true); 20_000])), "too many values"),
        ("many pointers to one long text", many_long_texts, "too much text"),
        ("a type that does not exist", with_record(Value::Raw(vec![0, 200])), "unknown type"),
        ("a double of two bytes", with_record(Value::Raw(vec![0x62, 0, 0])), "double is not 8 bytes"),
        ("a number as a key", with_record(Value::Raw(vec![0xe1, 0xa1, 1, 0x41, b'x'])), "key is not text"),
        ("text that is none", with_record(Value::Raw(vec![0x42, 0xff, 0xfe])), "not UTF-8"),
        ("no nodes", with_metadata("node_count", Some(Value::U32(0))), "is zero"),
        (
            "four thousand million nodes",
            with_metadata("node_count", Some(Value::U32(u32::MAX))),
            "needs 25769803786 bytes",
        ),
        (
            "a node too many",
            with_metadata("node_count", Some(Value::U32(sound()[0].nodes.len() as u32 + 1))),
            "mmdb",
        ),
        ("a count that is a text", with_metadata("node_count", Some(text("many"))), "is not a number"),
        ("records of no size", with_metadata("record_size", Some(Value::U16(0))), "record_size 0"),
        ("addresses of another kind", with_metadata("ip_version", Some(Value::U16(5))), "ip_version 5"),
        (
            "a format of tomorrow",
            with_metadata("binary_format_major_version", Some(Value::U16(3))),
            "version 3",
        ),
        ("no type", with_metadata("database_type", None), "mmdb metadata"),
        (
            "a build beyond the server's times",
            with_metadata("build_epoch", Some(Value::U64(9_224_318_016_000))),
            "build_epoch",
        ),
        ("a file for the other setting", sound()[1].bytes(), "does not contain locations of addresses"),
    ]
}

/// Sets the path of the city file and waits until sessions have read the setting.
fn name(cluster: &Cluster, db: &mut Session, path: &Path) {
    cluster.reconfigure(&[format!("cowrie_enrich.city_database = '{}'", path.display())]);
    let wanted = path.display().to_string();
    wait_until(
        "the backend has read the setting",
        || db.one("SELECT current_setting('cowrie_enrich.city_database')"),
        |setting| *setting == wanted,
    );
}

/// Sets the path to each file in turn. Every lookup must still return `serving`.
fn each_is_refused(cluster: &Cluster, db: &mut Database<'_>, serving: &str) {
    let backend = db.backend_pid();
    let postmaster = cluster.postmaster_pid();
    for (number, (what, bytes, complaint)) in hostile_files().into_iter().enumerate() {
        let file = cluster.files().join(format!("hostile-{number}.mmdb"));
        fs::write(&file, bytes).expect("it can be written");
        let begun = Instant::now();
        name(cluster, db, &file);
        // A lookup that meets a new file puts it into service itself.
        assert_eq!(db.one(EIGHT), serving, "{what}");
        let refusal = db.refused("SELECT reload_mmdb()");
        assert_eq!(refusal.code, "XX001", "{what}: {refusal:?}");
        assert!(refusal.message.contains(&file.display().to_string()), "{what}: {refusal:?}");
        assert!(begun.elapsed() < SOON, "{what} took {:?}", begun.elapsed());
        let told = db.one(COMPLAINT);
        assert!(told.contains(complaint), "{what}: {told}");
        assert_eq!(db.one(EIGHT), serving, "{what}");
        assert_eq!(db.another().one(EIGHT), serving, "{what}, to a new session");
        fs::remove_file(&file).expect("it is there");
    }
    assert_eq!((db.backend_pid(), cluster.postmaster_pid()), (backend, postmaster));
    let log = cluster.whole_log();
    assert!(!log.contains("was terminated by signal") && !log.contains("PANIC"), "{log}");
}

#[test]
fn every_hostile_file_is_refused_and_the_old_one_serves() {
    let cluster = cluster_with_world(&Options::named("hostile-old"));
    let mut db = fresh_database(&cluster);
    assert_eq!(db.one(EIGHT), OLD);
    each_is_refused(&cluster, &mut db, OLD);
    name(&cluster, &mut db, &Files::below(cluster.files()).city);
    db.run("SELECT reload_mmdb()");
    assert_eq!(db.one(COMPLAINT), "NULL");
}

#[test]
fn every_hostile_file_is_refused_where_none_served_before() {
    let cluster = Cluster::start(&Options::named("hostile-first"));
    make_template(&cluster);
    let mut db = fresh_database(&cluster);
    each_is_refused(&cluster, &mut db, NOTHING);
}

/// An insert neither verifies nor copies a file. A worker refuses the file in the background.
#[test]
fn sessions_are_stored_while_a_hostile_file_waits() {
    let cluster = cluster_with_world(&Options::named("hostile-insert"));
    let mut db = fresh_database(&cluster);
    db.run(
        "CREATE TABLE visits (id int, source_ip inet);
         SELECT attach_session_table('visits');
         INSERT INTO visits VALUES (0, '8.8.8.8');",
    );
    let city = Files::below(cluster.files()).city;
    for (number, (what, bytes, complaint)) in
        hostile_files().into_iter().enumerate().filter(|(n, _)| n % 6 == 1)
    {
        fs::write(&city, bytes).expect("it can be written");
        // Sets an old modification time, because files that may still be incomplete are ignored.
        let file = fs::File::options().write(true).open(&city).expect("it is there");
        file.set_modified(SystemTime::now() - Duration::from_secs(3600 - number as u64))
            .expect("its owner may");
        let mut inserted = 0;
        wait_until(
            &format!("{what} is refused"),
            || {
                inserted += 1;
                // Uses a new connection each time, because a backend starts a background worker at most once in ten
                // seconds.
                db.another().run(&format!("INSERT INTO visits VALUES ({number}, '8.8.8.8')"));
                db.one(COMPLAINT)
            },
            |told| told.contains(complaint),
        );
        assert_eq!(
            db.one(&format!("SELECT count(*), count(*) FILTER (WHERE snapshot_country = 'US') FROM visits WHERE id = {number}")),
            format!("{inserted}|{inserted}"),
            "{what}"
        );
    }
}

/// Runs `reload_mmdb()` in a separate session. If it hangs, calls `free` after a while, so that the test ends.
fn reload_within(db: &Database<'_>, what: &str, free: impl FnOnce()) -> Result<(), server_tests::Refusal> {
    let mut session = db.another();
    std::thread::scope(|scope| {
        let reload = scope.spawn(move || session.try_run("SELECT reload_mmdb()"));
        let begun = Instant::now();
        while !reload.is_finished() && begun.elapsed() < SOON {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let late = !reload.is_finished();
        if late {
            free();
        }
        let outcome = reload.join().expect("the session ends");
        assert!(!late, "{what} held up reload_mmdb()");
        outcome
    })
}

fn make_fifo(path: &Path) {
    let made = Command::new("mkfifo").arg("--mode=0666").arg(path).status().expect("mkfifo can be run");
    assert!(made.success());
}

#[test]
fn what_is_no_file_is_refused_and_nobody_waits() {
    let cluster = cluster_with_world(&Options::named("hostile-no-file"));
    let mut db = fresh_database(&cluster);
    assert_eq!(db.one(EIGHT), OLD);
    let below = |name: &str| cluster.files().join(name);
    fs::create_dir(below("folder.mmdb")).expect("it can be made");
    make_fifo(&below("fifo.mmdb"));
    symlink(below("round.mmdb"), below("round.mmdb")).expect("it can be made");
    symlink(below("nowhere"), below("dangling.mmdb")).expect("it can be made");
    symlink("/dev/zero", below("zeroes.mmdb")).expect("it can be made");
    symlink(below("fifo.mmdb"), below("link.mmdb")).expect("it can be made");
    fs::copy(Files::below(cluster.files()).city, below("closed.mmdb")).expect("it can be copied");
    fs::set_permissions(below("closed.mmdb"), fs::Permissions::from_mode(0o000)).expect("its owner may");
    let places: Vec<(PathBuf, &str, &str)> = vec![
        (below("folder.mmdb"), "not a regular file", "58030"),
        (below("fifo.mmdb"), "not a regular file", "58030"),
        (below("link.mmdb"), "not a regular file", "58030"),
        (below("zeroes.mmdb"), "not a regular file", "58030"),
        ("/dev/zero".into(), "not a regular file", "58030"),
        ("/dev/null".into(), "not a regular file", "58030"),
        (below("round.mmdb"), "symbolic links", "58030"),
        (below("dangling.mmdb"), "No such file", "58P01"),
        (below("city.mmdb/below"), "Not a directory", "58030"),
        (below(&"long".repeat(100)), "too long", "58030"),
        (below("closed.mmdb"), "ermission denied", "42501"),
        // This file has the size zero, although reading it returns bytes.
        ("/proc/self/status".into(), "no mmdb metadata", "XX001"),
    ];
    for (path, complaint, code) in places {
        name(&cluster, &mut db, &path);
        let free = || drop(fs::File::options().write(true).custom_flags(O_NONBLOCK).open(below("fifo.mmdb")));
        let refusal = reload_within(&db, &path.display().to_string(), free).expect_err("it is no database");
        assert_eq!(refusal.code, code, "{}: {refusal:?}", path.display());
        let told = db.one(COMPLAINT);
        assert!(told.contains(complaint), "{}: {told}", path.display());
        assert_eq!(db.one(EIGHT), OLD, "{}", path.display());
        assert_eq!(db.another().one(EIGHT), OLD, "{}", path.display());
    }
    let left: Vec<_> = drafts(&cluster);
    assert!(left.is_empty(), "drafts are left: {left:?}");
}

const O_NONBLOCK: i32 = 0o4000;

fn drafts(cluster: &Cluster) -> Vec<String> {
    let entries =
        fs::read_dir(cluster.data_dir().join("cowrie_enrich")).expect("the copies' folder is there");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".draft")).collect()
}

/// The source of the file in service is replaced under the same name.
#[test]
fn what_takes_the_place_of_a_file_in_service_is_refused() {
    let cluster = cluster_with_world(&Options::named("hostile-instead"));
    let mut db = fresh_database(&cluster);
    assert_eq!(db.one(EIGHT), OLD);
    let city = Files::below(cluster.files()).city;
    let instead: [(&str, &dyn Fn()); 5] = [
        ("a folder", &|| fs::create_dir(&city).expect("it can be made")),
        ("a FIFO", &|| make_fifo(&city)),
        ("a device", &|| symlink("/dev/zero", &city).expect("it can be made")),
        ("a loop", &|| symlink(&city, &city).expect("it can be made")),
        ("a closed file", &|| {
            world::city_database().write(&city);
            fs::set_permissions(&city, fs::Permissions::from_mode(0o000)).expect("its owner may");
        }),
    ];
    for (what, place) in instead {
        let _ = fs::remove_file(&city).or_else(|_| fs::remove_dir(&city));
        place();
        let free = || drop(fs::File::options().write(true).custom_flags(O_NONBLOCK).open(&city));
        assert!(reload_within(&db, what, free).is_err(), "{what}");
        assert_ne!(db.one(COMPLAINT), "NULL", "{what}");
        assert_eq!(db.one(EIGHT), OLD, "{what}");
        assert_eq!(db.another().one(EIGHT), OLD, "{what}");
    }
    cluster.stop_fast();
    cluster.start_again();
    assert_eq!(cluster.session(&db.name).one(EIGHT), OLD, "after a restart");
}

/// A separate file system for the private copies, too small for the file. It is unmounted when the value is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        let owner = fs::metadata(at).ok()?;
        let owner = format!(
            "size=128k,mode=0700,uid={},gid={}",
            std::os::unix::fs::MetadataExt::uid(&owner),
            std::os::unix::fs::MetadataExt::gid(&owner)
        );
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &owner, "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_a_file_and_is_not_left_full() {
    let cluster = cluster_with_world(&Options::named("hostile-full"));
    let mut db = fresh_database(&cluster);
    assert_eq!(db.one(EIGHT), OLD);
    let folder = cluster.data_dir().join("cowrie_enrich");
    let Some(disk) = SmallDisk::mount(&folder) else {
        return eprintln!("skipped: a file system can only be mounted by root, and here by nobody");
    };
    // The new disk hides the copies, but backends keep their mappings.
    let city = Files::below(cluster.files()).city;
    let mut large = world::city_database().build_epoch(1_800_000_000);
    for n in 0..4000 {
        let record = serde_json::json!({"city": {"names": {"en": format!("{n:0>100}")}}});
        large.insert(&format!("100.{}.{}.0/24", n / 256, n % 256), record);
    }
    large.write(&city);
    let refusal = db.refused("SELECT reload_mmdb()");
    assert!(refusal.detail.as_deref().is_some_and(|why| why.contains("No space left")), "{refusal:?}");
    assert_eq!(db.one(EIGHT), OLD);
    assert_eq!(drafts(&cluster), [""; 0], "what filled the disk is still there");
    assert!(db.one(COMPLAINT).contains("No space left"), "{}", db.one(COMPLAINT));
    // There is room for a smaller file.
    world::city_database().build_epoch(1_900_000_000).write(&city);
    db.run("SELECT reload_mmdb()");
    assert_eq!(db.one(COMPLAINT), "NULL");
    drop(disk);
}
