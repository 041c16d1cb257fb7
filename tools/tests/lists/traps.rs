//! One test for each known trap: a property of a published list, or a fault of another program that reads such lists.

use cowrie_enrich_tools::lists::{Error, Format, read};

use super::{content, found, list, serve};

fn error(file: &str) -> String {
    read(file.as_bytes()).map(|content| content.format).unwrap_err().to_string()
}

const AWS: &str = r#"{"prefixes":[
    {"ip_prefix":"3.0.0.0/15","region":"GLOBAL","service":"AMAZON"},
    {"ip_prefix":"3.1.2.0/24","region":"eu-central-1","service":"AMAZON"},
    {"ip_prefix":"3.1.2.0/24","region":"eu-central-1","service":"EC2"},
    {"ip_prefix":"3.1.2.0/24","region":"eu-central-1","service":"S3"},
    {"ip_prefix":"3.9.9.77/24","region":"us-east-1","service":"EC2"}],
    "ipv6_prefixes":[{"ipv6_prefix":"2600:1f00::/40","region":"us-east-1","service":"EC2"}]}"#;

/// Other programs match the text of IPv4 only, although each cloud publishes its IPv6 networks in the same file.
#[test]
fn ipv6_networks_of_clouds_are_compiled() {
    let served = serve(&[list("aws", "DATACENTER", AWS)]);
    assert_eq!(found(&served, "2600:1f00::1"), ["aws/AWS/us-east-1/EC2"]);
    assert_eq!(found(&served, "2600:2000::1"), [""; 0]);
}

/// Other programs store the region and the service as "unknown".
#[test]
fn region_and_service_are_kept() {
    let served = serve(&[list("aws", "DATACENTER", AWS)]);
    assert_eq!(found(&served, "3.9.9.1"), ["aws/AWS/us-east-1/EC2"]);
}

/// Other programs use the first list that matches. So a Tor exit in a cloud is no longer in the cloud.
#[test]
fn a_tor_exit_in_a_cloud_has_both_types() {
    let served = serve(&[list("tor", "TOR", "3.1.2.3\n"), list("aws", "DATACENTER", AWS)]);
    assert_eq!(found(&served, "3.1.2.3"), ["tor", "aws/AWS/GLOBAL", "aws/AWS/eu-central-1/S3"]);
}

/// Other programs keep the answer about an address for 30 days after it left the list.
#[test]
fn an_address_that_left_its_list_has_no_type_in_the_next_file() {
    assert_eq!(found(&serve(&[list("tor", "TOR", "5.6.7.8\n5.6.7.9\n")]), "5.6.7.8"), ["tor"]);
    assert_eq!(found(&serve(&[list("tor", "TOR", "5.6.7.9\n")]), "5.6.7.8"), [""; 0]);
}

#[test]
fn an_empty_list_is_an_outage_and_not_a_list_without_entries() {
    for file in [
        "",
        "\n\n",
        "# Tor exits\n",
        "\u{feff}",
        r#"{"prefixes":[],"ipv6_prefixes":[]}"#,
        r#"{"prefixes":[]}"#,
        r#"{"values":[]}"#,
        r#"{"regions":[]}"#,
        r#"{"type":"cidr","list":[]}"#,
        "[]",
        r#"{"type":"metadata","records":0}"#,
        "ExitNode A\n",
        "asn,name\n",
    ] {
        let message = error(file);
        assert!(message.contains("an empty list is not compiled"), "{file:?}: {message}");
    }
    let message = error("10.0.0.0/8\n");
    assert!(message.contains("all entries are private or reserved"), "{message}");
}

/// An exit may use any address of its IPv6 network, so operators list the network.
#[test]
fn a_network_may_be_a_tor_exit() {
    let served = serve(&[list("tor", "TOR", "5.6.7.8\n2a00:1:2:3::/64\n")]);
    assert_eq!(found(&served, "2a00:1:2:3:ffff::9"), ["tor"]);
}

#[test]
fn all_addresses_of_a_tor_node_are_read_also_from_the_archive() {
    let file = "@type tordnsel 1.0\nDownloaded 2021-11-03 00:02:02\n\
                ExitNode 63BA28370F543D175173E414D5450590D73E22DC\nPublished 2021-11-02 11:01:07\n\
                LastStatus 2021-11-02 22:00:00\nExitAddress 5.6.7.8 2021-11-02 23:17:02\n\
                ExitAddress 5.6.7.9 2021-11-02 20:00:00\n";
    let read = content(file);
    assert_eq!(read.entries.len(), 2);
    // The archive was downloaded today, but describes the state of 2021.
    assert_eq!(read.made_at, Some(1_635_895_022));
    assert_eq!(list("tor", "TOR", file).published, 1_635_895_022);
}

/// AWS lists a network once for each service, and once more under AMAZON.
#[test]
fn the_most_specific_service_of_aws_is_kept_once() {
    let served = serve(&[list("aws", "DATACENTER", AWS)]);
    assert_eq!(found(&served, "3.0.9.9"), ["aws/AWS/GLOBAL"]);
    assert_eq!(found(&served, "3.1.2.3"), ["aws/AWS/GLOBAL", "aws/AWS/eu-central-1/S3"]);
    assert_eq!(content(AWS).counts.repeated, 2);
}

/// The example in the documentation of AWS has such a network.
#[test]
fn host_bits_are_cleared_and_counted() {
    let list = list("aws", "DATACENTER", AWS);
    assert_eq!(list.counts.host_bits, 1);
    let served = serve(&[list]);
    assert_eq!(found(&served, "3.9.9.1"), ["aws/AWS/us-east-1/EC2"]);
    assert_eq!(found(&served, "3.9.10.1"), [""; 0]);
}

/// goog.json has all networks of Google, also those of Google's crawlers and DNS service.
#[test]
fn goog_json_is_recognised_and_reported() {
    let file =
        r#"{"syncToken":"1","creationTime":"2026-05-28T18:53:20","prefixes":[{"ipv4Prefix":"8.8.8.0/24"}]}"#;
    let read = content(file);
    assert_eq!(read.format, Format::Google);
    assert!(read.remarks[0].starts_with("this is goog.json"), "{:?}", read.remarks);
    assert_eq!(found(&serve(&[list("goog", "DATACENTER", file)]), "8.8.8.8"), ["goog/Google"]);
}

/// Each service tag of Azure repeats networks of the regions. The file has no fixed name, so the name is not used.
#[test]
fn only_the_regions_of_azure_are_compiled() {
    let tag = |name: &str, region: &str, prefix: &str| {
        format!(r#"{{"name":"{name}","properties":{{"region":"{region}","addressPrefixes":["{prefix}"]}}}}"#)
    };
    let file = format!(
        r#"{{"changeNumber":1,"cloud":"Public","values":[{},{},{},{}]}}"#,
        tag("ActionGroup", "", "13.66.60.119/32"),
        tag("AzureCloud", "", "13.66.0.0/16"),
        tag("AzureCloud.westeurope", "westeurope", "13.66.0.0/17"),
        tag("Storage.westeurope", "westeurope", "2603:1020::/47"),
    );
    assert_eq!(content(&file).counts.repeated, 3);
    let served = serve(&[list("azure", "DATACENTER", &file)]);
    assert_eq!(found(&served, "13.66.60.119"), ["azure/Azure/westeurope"]);
    assert_eq!(found(&served, "13.66.200.1"), [""; 0]);
    assert_eq!(found(&served, "2603:1020::1"), [""; 0]);
}

/// OSN is Oracle's service network, which belongs to no customer.
#[test]
fn the_service_network_of_oracle_is_marked() {
    let file = r#"{"last_updated_timestamp":"x","regions":[{"region":"us-phoenix-1","cidrs":[
        {"cidr":"129.146.0.0/21","tags":["OCI"]},{"cidr":"134.70.8.0/21","tags":["OSN","OBJECT_STORAGE"]}]}]}"#;
    let served = serve(&[list("oci", "DATACENTER", file)]);
    assert_eq!(found(&served, "129.146.0.1"), ["oci/Oracle/us-phoenix-1/OCI"]);
    assert_eq!(found(&served, "134.70.8.1"), ["oci/Oracle/us-phoenix-1/OBJECT_STORAGE,OSN"]);
}

#[test]
fn a_geofeed_may_have_quotes_blank_fields_and_comments() {
    let file = "# geofeed\r\n5.6.0.0/24,US,US-DC,\"Washington, D.C.\",20001\r\n\r\n#5.6.1.0/24,US,,,\r\n\
                5.6.2.0/24,,,,\r\n 5.6.3.0/24 , nl ,\r\n2a00:1::/48,DE,DE-HE,Frankfurt\r\n";
    let served = serve(&[list("geo", "DATACENTER", file)]);
    assert_eq!(found(&served, "5.6.0.1"), ["geo//US-DC, Washington, D.C."]);
    assert_eq!(found(&served, "5.6.1.1"), [""; 0]);
    assert_eq!(found(&served, "5.6.2.1"), ["geo"]);
    assert_eq!(found(&served, "5.6.3.1"), ["geo//nl"]);
    assert_eq!(found(&served, "2a00:1::1"), ["geo//DE-HE, Frankfurt"]);
}

/// X4BNet's list of datacenters contains its list of VPNs.
#[test]
fn an_address_may_be_in_a_list_and_in_a_list_that_contains_it() {
    let (datacenter, vpn) = ("5.6.0.0/16\n", "5.6.7.0/24\n");
    let served = serve(&[list("dc", "DATACENTER", datacenter), list("vpn", "VPN", vpn)]);
    assert_eq!(found(&served, "5.6.7.1"), ["dc", "vpn"]);
    assert_eq!(found(&served, "5.6.8.1"), ["dc"]);
}

/// MISP's `vpn-ipv4` is X4BNet's list of datacenters. Its `version` is a number of any kind.
#[test]
fn the_operator_decides_the_type_of_a_warninglist() {
    let file = r#"{"name":"List of known VPN IPv4","version":3,"description":"VPN","type":"cidr",
        "matching_attributes":["ip-src"],"list":["5.6.0.0/16","9.9.9.9"]}"#;
    let list = list("misp-vpn", "DATACENTER", file);
    assert_eq!((list.kind.as_str(), list.published), ("DATACENTER", super::PUBLISHED));
    let served = serve(&[list]);
    assert_eq!(found(&served, "9.9.9.9"), ["misp-vpn"]);
    assert_eq!(found(&served, "9.9.9.8"), [""; 0]);
}

#[test]
fn a_warninglist_without_networks_is_refused() {
    assert_eq!(
        error(r#"{"type":"hostname","list":["example.com"]}"#),
        "MISP warninglist of type \"hostname\" has no networks; only type \"cidr\" is supported"
    );
}

const DROP: &str = "{\"cidr\":\"5.6.0.0/16\",\"sblid\":\"SBL1\",\"rir\":\"ripencc\"}\n\
                    {\"cidr\":\"5.7.0.0/16\",\"sblid\":\"SBL2\",\"rir\":\"arin\"}\n";

#[test]
fn the_metadata_of_spamhaus_are_no_network_and_their_notice_is_kept() {
    let end = r#"{"type":"metadata","timestamp":1726000000,"size":1,"records":2,"copyright":"(c) 2026 Spamhaus","terms":"https://t"}"#;
    let list = list("drop", "HIJACKED", &format!("{DROP}{end}\n"));
    assert_eq!(list.networks(), 2);
    assert_eq!(list.notice.as_deref(), Some("(c) 2026 Spamhaus https://t"));
    assert_eq!(list.published, 1_726_000_000);
    let served = serve(&[list]);
    assert_eq!(served.lists()[0].notice.as_deref(), Some("(c) 2026 Spamhaus https://t"));
}

#[test]
fn a_cut_off_list_of_spamhaus_is_refused() {
    for (file, expected) in [
        (DROP.to_owned(), "metadata are missing at the end: the download is incomplete"),
        (
            format!("{DROP}{{\"type\":\"metadata\",\"records\":3}}\n"),
            "line 3: metadata announce 3 records, but the file has 2",
        ),
        (format!("{DROP}{{\"type\":\"metadata\"}}\n"), "line 3: metadata have no number \"records\""),
        (
            format!("{{\"type\":\"metadata\",\"records\":0}}\n{DROP}"),
            "line 2: line follows the metadata, which must be the last line",
        ),
    ] {
        assert_eq!(error(&file), expected);
    }
}

/// Private networks are counted in the metadata, too.
#[test]
fn a_private_network_is_one_of_the_records() {
    let file = format!("{DROP}{{\"cidr\":\"10.0.0.0/8\"}}\n{{\"type\":\"metadata\",\"records\":3}}\n");
    assert_eq!(content(&file).counts.bogons, 1);
}

#[test]
fn the_metadata_of_asndrop_are_no_asn() {
    let row =
        r#"{"asn":400992,"rir":"arin","domain":"62yun.com","cc":"RU","asname":"ZHOUYISAT-COMMUNICATIONS"}"#;
    let read = content(&format!("{row}\n{{\"type\":\"metadata\",\"records\":1}}\n"));
    assert_eq!(read.asns.len(), 1);
    assert_eq!(read.asns[0].label.as_deref(), Some("ZHOUYISAT-COMMUNICATIONS"));
    assert!(error(&format!("{row}\n{{\"type\":\"metadata\",\"records\":2}}\n")).starts_with("line 2"));
}

/// The first level of FireHOL contains the private networks. A honeypot inside a network would see them.
#[test]
fn private_networks_of_a_block_list_are_left_out_and_counted() {
    let file = "#\n# firehol_level1\n# Entries : 4\n#\n0.0.0.0/8\n10.0.0.0/8\n192.168.0.0/16\n224.0.0.0/3\n\
                5.6.7.0/24\n::1\nfc00::/7\n2002::/16\n";
    let list = list("firehol", "BLOCKLISTED", file);
    assert_eq!((list.networks(), list.counts.bogons), (1, 7));
    let served = serve(&[list]);
    assert_eq!(found(&served, "10.1.2.3"), [""; 0]);
    assert_eq!(found(&served, "5.6.7.8"), ["firehol"]);
}

/// 6to4 and Teredo repeat the IPv4 space in an mmdb file.
#[test]
fn an_ipv4_mapped_network_is_its_ipv4_network() {
    let served =
        serve(&[list("own", "OWN", "::ffff:5.6.7.0/120\n::ffff:9.9.9.9\n::ffff:8.8.8.8 - ::ffff:8.8.8.9\n")]);
    for address in ["5.6.7.200", "9.9.9.9", "8.8.8.9", "::ffff:5.6.7.200"] {
        assert_eq!(found(&served, address), ["own"], "{address}");
    }
    assert_eq!(found(&served, "5.6.8.0"), [""; 0]);
}

#[test]
fn a_research_scanner_keeps_its_name() {
    let file =
        r#"[{"ipv4":"5.6.7.8","added":"2024-01-01","type":"shodan"},{"ipv4":"5.6.7.9","type":"censys"}]"#;
    let served = serve(&[list("research", "SCANNER_BENIGN", file)]);
    assert_eq!(found(&served, "5.6.7.8"), ["research/shodan"]);
    assert_eq!(found(&served, "5.6.7.9"), ["research/censys"]);
}

/// A /32 of one service inside a /8 of another.
#[test]
fn nested_networks_of_one_list_are_all_kept() {
    let file = r#"{"prefixes":[{"ip_prefix":"3.0.0.0/8","region":"GLOBAL","service":"AMAZON"},
        {"ip_prefix":"3.4.5.6/32","region":"eu-west-1","service":"API_GATEWAY"}]}"#;
    let served = serve(&[list("aws", "DATACENTER", file)]);
    assert_eq!(found(&served, "3.4.5.6"), ["aws/AWS/GLOBAL", "aws/AWS/eu-west-1/API_GATEWAY"]);
    assert_eq!(found(&served, "3.4.5.7"), ["aws/AWS/GLOBAL"]);
}

/// Commas in the names of networks belong to the names.
#[test]
fn a_comma_in_a_quoted_name_is_no_separator() {
    let read = content("asn,name,class,cc\nAS1,\"Level 3 Parent, LLC\",Unknown,US\nAS23456,AS_TRANS,,\n");
    assert_eq!(read.asns[0].label.as_deref(), Some("Level 3 Parent, LLC"));
    // Reserved ASNs announce nothing.
    assert_eq!((read.asns.len(), read.counts.bogons), (1, 1));
}

#[test]
fn an_error_is_a_value_and_not_a_part_of_a_list() {
    let refused: Result<_, Error> = read(b"5.6.7.8\n5.6.7.9\nx\n").map(|content| content.entries);
    assert!(refused.is_err());
}
