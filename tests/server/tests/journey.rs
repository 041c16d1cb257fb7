//! The README's steps from a log to a blocklist, as a reader runs them: bash runs the commands of the README in their order, from
//! `apt install` on, with the packages of scripts/package.
//!
//! The commands run in a separate root: an overlay over `/`, whose changes are in memory, in separate namespaces without a
//! network. So the test changes no file, package, cluster or user of the machine. When the test ends or is killed, the first
//! process of the namespaces ends. The kernel then removes the mounts and ends the other processes. The
//! root has no cluster, a user with Cowrie's logs, and stand-ins for sudo, for systemctl and for the download server of DB-IP.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use server_tests::cluster::{Scratch, scratch_directory};
use server_tests::documentation::{cells, page, section};
use server_tests::installation::{named_major, script, workspace};
use server_tests::wait_until;

/// Password of the campaign in the README.
const PASSWORD: &str = "345gs5662d34";

/// Directory of the logs in the README.
const LOGS: &str = "/home/cowrie/cowrie/var/log/cowrie";

#[test]
fn the_readme_leads_from_a_log_to_a_blocklist() {
    let major = named_major().to_string();
    let Some(root) = Root::new(&major) else { return };
    let blocks = blocks_of_the_journey(&major);
    let log = unpacked(&workspace().join("demo/cowrie.json.gz"));
    root.write_logs(&log);

    let answers = root.shell(&script_of(&blocks));
    eprintln!("{}", answers.lines().filter(|line| line.starts_with(MARK)).collect::<Vec<_>>().join("\n"));

    // Every session of the log is stored and counted.
    let sessions: BTreeSet<String> =
        log.lines().filter_map(|line| member(line, "session")).filter(|id| !id.is_empty()).collect();
    assert_eq!(root.query("SELECT count(*) FROM sessions"), sessions.len().to_string());
    root.query("CALL cowrie_enrich.fold_statistics()");
    assert_eq!(
        root.query("SELECT sum(session_count) FROM cowrie_enrich.ip_inventory"),
        root.query("SELECT count(*) FROM sessions WHERE cowrie_enrich.session_address(ip) IS NOT NULL"),
    );
    assert_eq!(
        root.query("SELECT kind, vendor, last_error IS NULL FROM cowrie_enrich.mmdb_status() ORDER BY kind"),
        "asn|DB-IP|t\ncity|DB-IP|t"
    );

    // The file for the firewall has the addresses with at least three sessions.
    let listed = root.shell("cat ~/blocklist.txt");
    let expected = root.query(
        "SELECT host(a) FROM sessions CROSS JOIN LATERAL cowrie_enrich.session_address(ip) a
         WHERE NOT cowrie_enrich.is_bogon(a) GROUP BY a HAVING count(*) >= 3 ORDER BY family(a), a",
    );
    assert!(expected.lines().count() > 10, "{expected}");
    assert_eq!(listed, expected);

    // The README's tables are results.
    let rows: BTreeSet<&str> = answers.lines().collect();
    let readme = page("README.md");
    let mut compared = 0;
    for line in readme.split("\n## ").next().unwrap_or_default().lines() {
        let Some(row) = cells(line) else { continue };
        if row.iter().all(|cell| cell.starts_with("---")) {
            continue;
        }
        assert!(rows.contains(row.join("|").as_str()), "{row:?} is not in the results:\n{answers}");
        compared += 1;
    }
    assert!(compared >= 6, "{compared} rows of the README were compared");
    assert!(rows.iter().filter(|row| row.contains(" sessions, last on 2025-05-")).count() >= 10, "{answers}");

    // The campaign has all sessions with its password, and all its networks have names.
    let campaign: BTreeSet<String> = log
        .lines()
        .filter(|line| member(line, "password").is_some_and(|password| password == PASSWORD))
        .filter_map(|line| member(line, "session"))
        .collect();
    assert!(campaign.len() > 50, "{campaign:?}");
    assert_eq!(
        root.query(&format!(
            "SELECT sum(sessions), count(*) FILTER (WHERE asn_number IS NOT NULL AND organization_name IS NULL)
             FROM cowrie_enrich.campaign_networks('sessions',
                 $$s.id IN (SELECT session FROM auth WHERE password = '{PASSWORD}')$$)"
        )),
        format!("{}|0", campaign.len())
    );
    assert!(rows.contains("129.146.42.73|6|US|Oracle Corporation|STABLE"), "{answers}");
    for part in ["\"country\": \"US\"", "\"vendor\": \"DB-IP\"", "\"session_count\": 6"] {
        assert!(answers.contains(part), "{part} is not in the profile of the address: {answers}");
    }

    // The service stores a session of a log that grows.
    root.append_session("journey");
    wait_until(
        "the service has stored the new session",
        || root.query("SELECT ip, snapshot_country FROM sessions WHERE id = 'journey'"),
        |row| row == "129.146.42.73|US",
    );
    assert_eq!(root.query("SELECT count(*) FROM sessions"), (sessions.len() + 1).to_string());
}

/// Beginning of a line that says when a block was done.
const MARK: &str = "== ";

/// Returns a script that runs the blocks one after the other, in one shell.
fn script_of(blocks: &[String]) -> String {
    let mut text = String::from("set -eux -o pipefail\n");
    for block in blocks {
        let first = block.lines().next().unwrap_or_default().replace('\'', "");
        text += &format!("{block}{{ set +x; }} 2>/dev/null; echo '{MARK}'\"$SECONDS s\" '{first}'; set -x\n");
    }
    text
}

/// Returns the commands and statements of the README from `apt install` on. Statements become a command of psql.
fn blocks_of_the_journey(major: &str) -> Vec<String> {
    let readme = page("README.md");
    let mut blocks: Vec<String> = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in section(&readme, "From a log to a blocklist").lines() {
        match &mut open {
            Some((is_sql, text)) if line == "```" => {
                blocks.push(if *is_sql { psql(text) } else { text.clone() });
                open = None;
            }
            Some((_, text)) => {
                text.push_str(line);
                text.push('\n');
            }
            None if line == "```sh" => open = Some((false, String::new())),
            None if line == "```sql" => open = Some((true, String::new())),
            None => {}
        }
    }
    // The packages are built already.
    let build = std::mem::replace(&mut blocks[0], format!("export PG_MAJOR={major}\n"));
    assert!(build.starts_with("export PG_MAJOR=") && build.contains("\nmake package\n"), "{build}");
    assert!(blocks[1].starts_with("sudo apt install ./"), "{}", blocks[1]);
    blocks
}

/// Returns a command that runs statements, as if a reader typed them into the psql that the README opens.
fn psql(statements: &str) -> String {
    format!(
        "sudo -u postgres psql -X -A -d honeypot -v ON_ERROR_STOP=1 <<'END_OF_SQL'\n{statements}END_OF_SQL\n"
    )
}

fn member(line: &str, name: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(value.get(name)?.as_str()?.to_owned())
}

fn unpacked(path: &Path) -> String {
    let output = Command::new("gzip").arg("-dc").arg(path).output().expect("gzip runs");
    String::from_utf8(output.stdout).expect("the log is text")
}

/// Mounts the overlay, waits until standard input is closed, and ends all processes with itself.
const MOUNT: &str = r#"
set -eu
read -r pid rest </proc/self/stat
mount -t tmpfs -o mode=0755,size=4g journey "$1"
mkdir "$1/changes" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/changes,workdir=$1/work" journey "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=0755 run run
mount -t tmpfs -o mode=1777 tmp tmp
echo "$pid"
exec cat
"#;

/// Prepares the root as a machine without a cluster, with the user of a honeypot, and with stand-ins. Its files are in /journey. The
/// root has no network, so apt cannot fetch recommended packages.
const PREPARE: &str = r#"
set -eu
ip link set lo up 2>/dev/null || perl -MSocket -e '
    socket(my $s, AF_INET, SOCK_DGRAM, 0) or die; ioctl($s, 0x8914, pack("a16s", "lo", 0x1)) or die "$!"'
install -d -o postgres -g postgres -m 2775 /run/postgresql
ln -sf /usr/share/zoneinfo/Etc/UTC /etc/localtime
echo Etc/UTC >/etc/timezone
rm -rf /etc/postgresql/* /var/lib/postgresql/*
echo 'APT::Get::Assume-Yes "true"; APT::Install-Recommends "false";' >/etc/apt/apt.conf.d/zz-journey
userdel cowrie 2>/dev/null || true
useradd --create-home --user-group cowrie
chmod 0711 /home/cowrie
install -d -o cowrie -g cowrie /home/cowrie/cowrie /home/cowrie/cowrie/var /home/cowrie/cowrie/var/log /home/cowrie/cowrie/var/log/cowrie
mkdir -p /usr/local/bin /root
install -m 0755 /journey/sudo /journey/systemctl /usr/local/bin/
perl /journey/download.pl /journey/free >/journey/download.log 2>&1 </dev/null &
"#;

/// Stand-in for sudo: runs a command as root or as another user.
const SUDO: &str = r#"#!/bin/sh
user=root
if [ "$1" = -u ]; then user=$2; shift 2; fi
exec setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups env -i USER="$user" LOGNAME="$user" \
    HOME="$(getent passwd "$user" | cut -d: -f6)" PATH="$PATH" COWRIE_DATA_DBIP="$COWRIE_DATA_DBIP" "$@"
"#;

/// Stand-in for systemctl: starts the service, as its unit says, with the user, directories and variables that systemd would set.
const SYSTEMCTL: &str = r#"#!/bin/sh
set -eu
[ "$*" = "enable --now cowrie-load" ]
unit=/usr/lib/systemd/system/cowrie-load.service
user=$(sed -n 's/^User=//p' $unit)
useradd --system --no-create-home "$user"
install -d -o "$user" -m 0700 /var/lib/cowrie-load
install -d -o "$user" -m 0755 /run/cowrie-load
set -a
. "$(sed -n 's/^EnvironmentFile=//p' $unit)"
STATE_DIRECTORY=/var/lib/cowrie-load RUNTIME_DIRECTORY=/run/cowrie-load
set +a
setsid setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups \
    sh -c "exec $(sed -n 's/^ExecStart=//p' $unit)" </dev/null >/journey/service.log 2>&1 &
"#;

/// Stand-in for the download server of DB-IP.
const DOWNLOAD: &str = r#"
use IO::Socket::INET;
my $server = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', LocalPort => 8000, ReuseAddr => 1) or die $@;
while (my $client = $server->accept) {
    my ($name) = <$client> =~ m{^GET /([\w.-]+) };
    while (my $header = <$client>) { last if $header =~ /^\r?$/ }
    my $body;
    if (open my $file, '<:raw', "$ARGV[0]/$name") { local $/; $body = <$file> }
    print $client 'HTTP/1.1 ', defined $body ? '200 OK' : '404 Not Found', "\r\nConnection: close\r\nContent-Length: ",
        length($body // ''), "\r\n\r\n", $body // '';
    close $client;
}
"#;

/// A root directory in separate namespaces.
struct Root {
    /// The command that holds the namespaces. They end when its standard input is closed.
    keeper: Child,
    /// First process of the namespaces.
    pid: String,
    /// Mount point. Outside of the namespaces it stays an empty directory.
    directory: Scratch,
}

impl Root {
    /// Returns `None`, and says why, if this machine cannot have such a root.
    fn new(major: &str) -> Option<Root> {
        let server = format!("/usr/lib/postgresql/{major}/bin/postgres");
        for file in [server.as_str(), "/usr/bin/pg_createcluster", "/usr/bin/apt", "/usr/bin/dpkg-shlibdeps"]
        {
            if !Path::new(file).exists() {
                eprintln!("not run: there is no {file} on this machine");
                return None;
            }
        }
        let directory = scratch_directory("journey");
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"])
            .args(["sh", "-c", MOUNT, "sh"])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("unshare can be started");
        let mut pid = String::new();
        let _ = BufReader::new(keeper.stdout.take().expect("the output is a pipe")).read_line(&mut pid);
        if pid.is_empty() {
            let mut why = String::new();
            let _ = keeper.stderr.take().expect("the errors are a pipe").read_to_string(&mut why);
            let _ = keeper.wait();
            eprintln!("not run: this machine permits no namespaces or no overlay: {why}");
            return None;
        }
        let root = Root { keeper, pid: pid.trim().to_owned(), directory };
        root.furnish(major);
        Some(root)
    }

    /// Puts the packages, the files of DB-IP and the stand-ins into the root, and prepares it.
    fn furnish(&self, major: &str) {
        let made = run(script(&workspace(), "scripts/package").args([major, "tools"]).env("AS_STAGED", "1"));
        assert_eq!(made.lines().count(), 2, "{made}");
        let packages = self.path("/journey/checkout/target/packages");
        fs::create_dir_all(&packages).expect("the root can be written");
        for package in made.lines().map(Path::new) {
            fs::copy(package, packages.join(package.file_name().expect("a file"))).expect("it can be copied");
        }
        let free = self.path("/journey/free");
        fs::create_dir(&free).expect("the root can be written");
        let month = run(Command::new("date").args(["-u", "+%Y-%m"]));
        for content in ["city", "asn"] {
            let file = free.join(format!("dbip-{content}-lite-{month}.mmdb"));
            let database_type =
                if content == "city" { "DBIP-City-Lite" } else { "DBIP-ASN-Lite (compat=GeoLite2-ASN)" };
            run(Command::new(workspace().join("target/release/mmdb-build"))
                .args(["--database-type", database_type, &format!("--{content}")])
                .arg(&file)
                .arg(workspace().join("demo/networks-before.tsv")));
            run(Command::new("gzip").arg(&file));
        }
        for (name, text) in [("sudo", SUDO), ("systemctl", SYSTEMCTL), ("download.pl", DOWNLOAD)] {
            fs::write(self.path("/journey").join(name), text).expect("the root can be written");
        }
        self.shell(PREPARE);
    }

    /// Returns the path of a file of the root, for this process.
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}/root{name}", self.pid, self.directory.path().display()))
    }

    /// Runs a script with bash in the root, as root, in the checkout. Returns its standard output.
    #[track_caller]
    fn shell(&self, script: &str) -> String {
        fs::write(self.path("/journey/script"), script).expect("the root can be written");
        run(Command::new("nsenter")
            .args(["--mount", "--net", "--pid", "--ipc", "--uts", "--target", &self.pid, "chroot"])
            .arg(self.directory.path().join("root"))
            .args(["env", "-i", "HOME=/root", "USER=root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"])
            .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .arg("COWRIE_DATA_DBIP=http://127.0.0.1:8000")
            .args(["bash", "-c", "cd /journey/checkout && exec bash /journey/script"])
            .stdin(Stdio::null()))
    }

    /// Returns the rows of a query, with bars between the columns.
    #[track_caller]
    fn query(&self, statement: &str) -> String {
        self.shell(&psql(&format!("\\t\n{statement};\n")).replace("psql ", "psql -q "))
    }

    /// Writes the log as Cowrie does: rotated each midnight. Here the night is in the middle of the log.
    fn write_logs(&self, log: &str) {
        let lines: Vec<&str> = log.split_inclusive('\n').collect();
        let (old, new) = lines.split_at(lines.len() / 2);
        for (name, part) in [("cowrie.json.2025-05-08", old), ("cowrie.json", new)] {
            fs::write(self.path(LOGS).join(name), part.concat()).expect("the root can be written");
        }
    }

    /// Appends a session to the log.
    fn append_session(&self, id: &str) {
        let event = |event: &str, time: &str| {
            format!(
                "{{\"eventid\":\"cowrie.session.{event}\",\"session\":\"{id}\",\"sensor\":\"trap\",\
                 \"src_ip\":\"129.146.42.73\",\"timestamp\":\"2025-05-12T{time}Z\"}}"
            )
        };
        let lines = [event("connect", "00:00:01"), event("closed", "00:00:02")].join("\n");
        self.shell(&format!("cat >>{LOGS}/cowrie.json <<'END_OF_LOG'\n{lines}\nEND_OF_LOG\n"));
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // The first process ends, and with it the other processes and the mounts.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Returns the standard output.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed:\n{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.trim_end_matches('\n').to_owned()
}
