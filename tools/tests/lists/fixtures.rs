//! Generates files of full size in the form of the real ones, together with their meaning.
//!
//! Sizes and shapes are those of the published files in 2026. The networks are random: no published list is part of the
//! project.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::naive::Known;

/// A linear congruential generator, so that each run has the same files.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 ^ self.0 >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 7
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 71 ^ u128::from(self.next()) << 40 ^ u128::from(self.next())
    }

    /// Returns a public network. Lengths are from `shortest` to `longest`.
    fn v4(&mut self, shortest: u64, longest: u64) -> (IpAddr, u32) {
        const OCTETS: [u8; 12] = [3, 13, 20, 34, 45, 52, 62, 80, 104, 141, 185, 212];
        let length = (shortest + self.below(longest - shortest + 1)) as u32;
        let octet = u32::from(OCTETS[self.below(12) as usize]);
        let bits = octet << 24 | (self.next() as u32 & 0x00ff_ffff);
        (Ipv4Addr::from_bits(bits & u32::MAX << (32 - length)).into(), length)
    }

    fn v6(&mut self, shortest: u64, longest: u64) -> (IpAddr, u32) {
        const BLOCKS: [u128; 4] = [0x2400, 0x2600, 0x2a00, 0x2c0f];
        let length = (shortest + self.below(longest - shortest + 1)) as u32;
        let bits = BLOCKS[self.below(4) as usize] << 112 | self.wide() >> 16;
        (Ipv6Addr::from_bits(bits & u128::MAX << (128 - length)).into(), length)
    }

    /// Returns different networks of both families.
    fn networks(&mut self, v4: usize, v6: usize, shortest: u64) -> Vec<(IpAddr, u32)> {
        let mut networks = std::collections::BTreeSet::new();
        while networks.len() < v4 {
            networks.insert(self.v4(shortest, 32));
        }
        while networks.len() < v4 + v6 {
            networks.insert(self.v6(32, 64));
        }
        // In an order that is not the order of addresses.
        let mut networks: Vec<_> = networks.into_iter().collect();
        for index in (1..networks.len()).rev() {
            networks.swap(index, self.below(index as u64 + 1) as usize);
        }
        networks
    }
}

/// A file and its meaning. `known.statement.0`, the name of the list, is the name of the fixture.
pub struct Fixture {
    pub name: &'static str,
    pub kind: &'static str,
    pub file: String,
    pub known: Vec<Known>,
}

fn known(name: &str, (ip, length): (IpAddr, u32), details: [&str; 3]) -> Known {
    let [provider, region, service] = details.map(str::to_owned);
    Known { ip, length, statement: (name.to_owned(), provider, region, service) }
}

fn plain(
    name: &'static str,
    kind: &'static str,
    head: &str,
    networks: &[(IpAddr, u32)],
    end: &str,
) -> Fixture {
    let mut file = head.to_owned();
    for (ip, length) in networks {
        let is_host = *length == if ip.is_ipv4() { 32 } else { 128 };
        let text = if is_host { ip.to_string() } else { format!("{ip}/{length}") };
        file.push_str(&text);
        file.push_str(end);
    }
    let known = networks.iter().map(|network| known(name, *network, [""; 3])).collect();
    Fixture { name, kind, file, known }
}

pub fn tor_bulk(random: &mut Random) -> Fixture {
    let mut networks: Vec<_> = (0..1_330).map(|_| random.v4(32, 32)).collect();
    networks.extend((0..7).map(|_| random.v6(128, 128)));
    plain("tor-bulk", "TOR", "", &networks, "\n")
}

pub fn tor_exit_addresses(random: &mut Random) -> Fixture {
    let mut file = "@type tordnsel 1.0\nDownloaded 2026-09-11 00:02:02\n".to_owned();
    let mut networks = Vec::new();
    for node in 0..1_200 {
        let _ = writeln!(file, "ExitNode {:040X}", random.wide());
        let _ = writeln!(file, "Published 2026-09-10 11:01:07\nLastStatus 2026-09-10 22:00:00");
        for _ in 0..1 + u32::from(node % 9 == 0) + u32::from(node % 31 == 0) {
            let at = random.v4(32, 32);
            let _ = writeln!(file, "ExitAddress {} 2026-09-10 23:{:02}:02", at.0, node % 60);
            networks.push(at);
        }
    }
    let known = networks.into_iter().map(|at| known("tor-exits", at, [""; 3])).collect();
    Fixture { name: "tor-exits", kind: "TOR", file, known }
}

/// 7,905 rows of IPv4: each network under AMAZON, many under EC2, some under another service.
pub fn aws(random: &mut Random) -> Fixture {
    const REGIONS: [&str; 6] =
        ["us-east-1", "eu-central-1", "GLOBAL", "ap-south-1", "cn-north-1", "us-gov-west-1"];
    let (mut rows, mut known_networks) = ([Vec::new(), Vec::new()], Vec::new());
    let networks = random.networks(4_400, 1_200, 12);
    let mut left = [7_905 - 4_400_usize, 2_300 - 1_200];
    for (index, at) in networks.into_iter().enumerate() {
        let family = usize::from(at.0.is_ipv6());
        let region = REGIONS[random.below(6) as usize];
        let mut services = vec!["AMAZON"];
        for (service, every) in [("EC2", 1), ("S3", 3), ("CLOUDFRONT", 0)] {
            if every > 0 && index % every == 0 && left[family] > 0 && services.len() < 3 {
                services.push(service);
                left[family] -= 1;
            }
        }
        let best = services.iter().find(|s| **s == "S3").or_else(|| services.get(1)).copied();
        known_networks.push(known("aws", at, ["AWS", region, best.unwrap_or_default()]));
        let key = ["ip_prefix", "ipv6_prefix"][family];
        services.sort_unstable_by_key(|service| service.len() * 7 % 5);
        for service in services {
            rows[family].push(format!(
                "    {{\n      \"{key}\": \"{}/{}\",\n      \"region\": \"{region}\",\n      \"service\": \"{service}\",\n      \
                 \"network_border_group\": \"{region}\"\n    }}",
                at.0, at.1
            ));
        }
    }
    let [v4, v6] = rows.map(|rows| rows.join(",\n"));
    let file = format!(
        "{{\n  \"syncToken\": \"1780000000\",\n  \"createDate\": \"2026-05-28-18-53-20\",\n  \"prefixes\": [\n{v4}\n  ],\n  \
         \"ipv6_prefixes\": [\n{v6}\n  ]\n}}\n"
    );
    Fixture { name: "aws", kind: "DATACENTER", file, known: known_networks }
}

pub fn google(random: &mut Random) -> Fixture {
    let (mut rows, mut known_networks) = (Vec::new(), Vec::new());
    for (index, at) in random.networks(997, 101, 14).into_iter().enumerate() {
        let key = if at.0.is_ipv4() { "ipv4Prefix" } else { "ipv6Prefix" };
        let scope = ["africa-south1", "europe-west3", "global", "us-central1"][index % 4];
        rows.push(format!(
            "{{\"{key}\": \"{}/{}\", \"service\": \"Google Cloud\", \"scope\": \"{scope}\"}}",
            at.0, at.1
        ));
        known_networks.push(known("google", at, ["Google Cloud", scope, ""]));
    }
    let file = format!(
        "{{\"syncToken\": \"1780000000000\", \"creationTime\": \"2026-05-28T18:53:20\", \"prefixes\": [\n{}\n]}}",
        rows.join(",\n")
    );
    Fixture { name: "google", kind: "DATACENTER", file, known: known_networks }
}

/// 43,839 prefixes in all tags together. Those of the regions are a third.
pub fn azure(random: &mut Random) -> Fixture {
    let networks = random.networks(12_000, 2_600, 14);
    let mut known_networks = Vec::new();
    let mut tags = Vec::new();
    let tag = |name: &str, region: &str, service: &str, networks: &[(IpAddr, u32)]| {
        let prefixes: Vec<_> = networks.iter().map(|(ip, length)| format!("\"{ip}/{length}\"")).collect();
        format!(
            "{{\"name\": \"{name}\", \"id\": \"{name}\", \"properties\": {{\"changeNumber\": 9, \"region\": \"{region}\", \
             \"regionId\": 1, \"platform\": \"Azure\", \"systemService\": \"{service}\", \"addressPrefixes\": [{}]}}}}",
            prefixes.join(",\n")
        )
    };
    tags.push(tag("AzureCloud", "", "", &networks));
    for (index, part) in networks.chunks(250).enumerate() {
        let region = format!("region{index}");
        tags.push(tag(&format!("AzureCloud.{region}"), &region, "", part));
        tags.push(tag(&format!("Storage.{region}"), &region, "AzureStorage", part));
        known_networks.extend(part.iter().map(|at| known("azure", *at, ["Azure", &region, ""])));
    }
    tags.push(tag("Sql", "", "AzureSQL", &networks[..39]));
    let file =
        format!("{{\"changeNumber\": 300, \"cloud\": \"Public\", \"values\": [\n{}\n]}}", tags.join(",\n"));
    Fixture { name: "azure", kind: "DATACENTER", file, known: known_networks }
}

pub fn oracle(random: &mut Random) -> Fixture {
    let mut regions = Vec::new();
    let mut known_networks = Vec::new();
    for (index, part) in random.networks(793, 0, 16).chunks(20).enumerate() {
        let region = format!("us-region-{index}");
        let mut rows = Vec::new();
        for (index, at) in part.iter().enumerate() {
            let (tags, service) = match index % 5 {
                0 => ("\"OSN\",\"OBJECT_STORAGE\"", "OBJECT_STORAGE,OSN"),
                1 => ("\"OSN\"", "OSN"),
                _ => ("\"OCI\"", "OCI"),
            };
            rows.push(format!("{{\"cidr\": \"{}/{}\", \"tags\": [{tags}]}}", at.0, at.1));
            known_networks.push(known("oracle", *at, ["Oracle", &region, service]));
        }
        regions.push(format!("{{\"region\": \"{region}\", \"cidrs\": [\n{}\n]}}", rows.join(",\n")));
    }
    let file = format!(
        "{{\"last_updated_timestamp\": \"2026-05-28T18:53:20.000000\", \"regions\": [{}]}}",
        regions.join(",\n")
    );
    Fixture { name: "oracle", kind: "DATACENTER", file, known: known_networks }
}

/// The datacenter list of X4BNet, and its VPN list, all of which is in the datacenter list.
pub fn x4bnet(random: &mut Random) -> [Fixture; 2] {
    let networks = random.networks(42_566, 8_752, 16);
    let v4: Vec<_> = networks.iter().filter(|(ip, _)| ip.is_ipv4()).copied().collect();
    let vpn = plain("x4bnet-vpn", "VPN", "", &v4[..10_862], "\n");
    [plain("x4bnet-datacenter", "DATACENTER", "", &networks, "\n"), vpn]
}

pub fn spamhaus(random: &mut Random) -> Fixture {
    let networks = random.networks(1_610, 90, 14);
    let mut file = String::new();
    for (index, (ip, length)) in networks.iter().enumerate() {
        let _ = writeln!(file, "{{\"cidr\":\"{ip}/{length}\",\"sblid\":\"SBL{index}\",\"rir\":\"ripencc\"}}");
    }
    let _ = writeln!(
        file,
        "{{\"type\":\"metadata\",\"timestamp\":1779990000,\"size\":{},\"records\":1700,\"copyright\":\"(c) 2026 The \
         Spamhaus Project SLU\",\"terms\":\"https://www.spamhaus.org/drop/terms/\"}}",
        file.len()
    );
    let known = networks.into_iter().map(|at| known("spamhaus", at, [""; 3])).collect();
    Fixture { name: "spamhaus", kind: "HIJACKED", file, known }
}

pub fn misp(random: &mut Random) -> Fixture {
    let networks = random.networks(42_000, 426, 16);
    let entries: Vec<_> = networks
        .iter()
        .map(|(ip, length)| {
            if ip.is_ipv4() && *length == 32 {
                format!("    \"{ip}\"")
            } else {
                format!("    \"{ip}/{length}\"")
            }
        })
        .collect();
    let file = format!(
        "{{\n  \"description\": \"Specialized list of IPv4 addresses belonging to common VPN providers\",\n  \"list\": [\n{}\n  ],\n  \
         \"matching_attributes\": [\n    \"ip-src\",\n    \"ip-dst\"\n  ],\n  \"name\": \"vpn-ipv4\",\n  \"type\": \"cidr\",\n  \
         \"version\": 20260910\n}}\n",
        entries.join(",\n")
    );
    let known = networks.into_iter().map(|at| known("misp", at, [""; 3])).collect();
    Fixture { name: "misp", kind: "DATACENTER", file, known }
}

pub fn geofeed(random: &mut Random) -> Fixture {
    let mut file = "\u{feff}# geofeed of a hosting company\r\n".to_owned();
    let mut known_networks = Vec::new();
    for (index, at) in random.networks(1_500, 500, 16).into_iter().enumerate() {
        let (fields, region) = match index % 5 {
            0 => ("US,US-NJ,Clifton,07014", "US-NJ, Clifton"),
            1 => ("DE,DE-HE,\"Frankfurt, am Main\",", "DE-HE, Frankfurt, am Main"),
            2 => ("NL,,,", "NL"),
            3 => (",,,", ""),
            _ => ("SG,,Singapore,", "SG, Singapore"),
        };
        let _ = write!(file, "{}/{},{fields}\r\n", at.0, at.1);
        if index % 400 == 0 {
            file.push_str("# a comment\r\n\r\n");
        }
        known_networks.push(known("geofeed", at, ["", region, ""]));
    }
    Fixture { name: "geofeed", kind: "DATACENTER", file, known: known_networks }
}

/// A block list with the header of FireHOL and the private networks of its first level.
pub fn firehol(random: &mut Random) -> Fixture {
    let head = "#\n# firehol_level1\n#\n# ipv4 hash:net ipset\n#\n# Maintainer      : FireHOL\n# Source File Date: Thu Sep 10 12:00:00 UTC \
                2026\n# Category        : attacks\n# Entries         : 4500 subnets\n#\n0.0.0.0/8\n10.0.0.0/8\n100.64.0.0/10\n\
                127.0.0.0/8\n169.254.0.0/16\n172.16.0.0/12\n192.168.0.0/16\n198.18.0.0/15\n224.0.0.0/3\n";
    plain("firehol", "BLOCKLISTED", head, &random.networks(4_491, 0, 12), "\n")
}

pub fn isc_research(random: &mut Random) -> Fixture {
    let mut rows = Vec::new();
    let mut known_networks = Vec::new();
    for (index, at) in random.networks(1_839, 0, 32).into_iter().enumerate() {
        let scanner = ["shodan", "censys", "stretchoid", "shadowserver"][index % 4];
        rows.push(format!(
            "{{\"ipv4\":\"{}\",\"added\":\"2024-01-02\",\"lastseen\":\"2026-09-10\",\"type\":\"{scanner}\"}}",
            at.0
        ));
        known_networks.push(known("isc", at, [scanner, "", ""]));
    }
    Fixture {
        name: "isc",
        kind: "SCANNER_BENIGN",
        file: format!("[{}]", rows.join(",")),
        known: known_networks,
    }
}

/// Ranges, with blanks around the hyphen, Windows line ends and comments.
pub fn ranges(random: &mut Random) -> Fixture {
    let mut file = "; ranges\r\n".to_owned();
    let mut known_networks = Vec::new();
    for (index, (ip, length)) in random.networks(1_600, 400, 16).into_iter().enumerate() {
        let last: IpAddr = match ip {
            IpAddr::V4(ip) => {
                Ipv4Addr::from_bits(ip.to_bits() | (u64::from(u32::MAX) >> length) as u32).into()
            }
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() | u128::MAX >> length).into(),
        };
        let hyphen = if index % 2 == 0 { " - " } else { "-" };
        let _ = write!(file, "{ip}{hyphen}{last}\t; range {index}\r\n");
        known_networks.push(known("ranges", (ip, length), [""; 3]));
    }
    Fixture { name: "ranges", kind: "PROXY", file, known: known_networks }
}

/// Lists of ASNs, and the networks that they announce.
pub struct AsnFixture {
    pub lists: [Fixture; 3],
    pub announced: Vec<(u32, (IpAddr, u32))>,
}

pub fn asns(random: &mut Random) -> AsnFixture {
    // An mmdb file of ASNs states one ASN for each address, so the networks are disjoint: equally long.
    let mut networks = random.networks(0, 0, 24);
    while networks.len() < 20_000 {
        networks.push(if networks.len().is_multiple_of(5) { random.v6(48, 48) } else { random.v4(24, 24) });
    }
    networks.sort_unstable();
    networks.dedup();
    let announced: Vec<_> = networks.into_iter().map(|at| (1_000 + random.below(6_000) as u32, at)).collect();
    let (mut lines, mut csv, mut drop) =
        ("# hosting\n".to_owned(), "asn,name,class,cc\n".to_owned(), String::new());
    let mut known_networks: [Vec<Known>; 3] = Default::default();
    let mut dropped = 0;
    for asn in 1_000..7_000_u32 {
        let of = |name, label: &str| {
            let networks = announced.iter().filter(|(number, _)| *number == asn);
            networks.map(|(_, at)| known(name, *at, [label, "", ""])).collect::<Vec<_>>()
        };
        if asn % 6 == 0 {
            let _ = writeln!(lines, "AS{asn} # Hoster {asn}");
            known_networks[0].extend(of("asn-lines", &format!("Hoster {asn}")));
        }
        if asn % 7 == 0 {
            let _ = writeln!(csv, "AS{asn},\"Level {asn}, LLC\",Content,US");
            known_networks[1].extend(of("asn-csv", &format!("Level {asn}, LLC")));
        }
        if asn % 20 == 0 {
            dropped += 1;
            let _ = writeln!(
                drop,
                "{{\"asn\":{asn},\"rir\":\"arin\",\"domain\":\"d.com\",\"cc\":\"RU\",\"asname\":\"DROP-{asn}\"}}"
            );
            known_networks[2].extend(of("asndrop", &format!("DROP-{asn}")));
        }
    }
    let _ =
        writeln!(drop, "{{\"type\":\"metadata\",\"timestamp\":1779990000,\"size\":1,\"records\":{dropped}}}");
    let [of_lines, of_csv, of_drop] = known_networks;
    let lists = [
        Fixture { name: "asn-lines", kind: "DATACENTER", file: lines, known: of_lines },
        Fixture { name: "asn-csv", kind: "DATACENTER", file: csv, known: of_csv },
        Fixture { name: "asndrop", kind: "HIJACKED", file: drop, known: of_drop },
    ];
    AsnFixture { lists, announced }
}
