//! Classifies a network by the name of its organisation.
//!
//! A phrase must match whole words of the name. So "crispy" is not an ISP, "reduce" is not a school, and "Govan" is not a
//! government. If a name matches phrases of several kinds, the first of these kinds in the following list is used. Kinds of
//! organisations come before uses of the network:
//!
//! 1. government: for example, "Ministry of Education" and "Department of Telecommunications" are ministries.
//! 2. education: the telecom department or the data center of a university belongs to the university.
//! 3. hosting: if the name of a carrier's network contains "cloud", the network contains servers. For analysts, it is more
//!    important that an attack came from a server than that the server belongs to a carrier.
//! 4. isp: this kind is last, because companies of every kind have "telecom" or "communications" in their names.
//!
//! The name of an organisation often does not show what its network is used for. So if a network is in the table of known networks,
//! the table is used instead of these rules.

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NetworkType {
    Hosting,
    Isp,
    Education,
    Government,
    Unknown,
}

impl NetworkType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hosting => "HOSTING",
            Self::Isp => "ISP",
            Self::Education => "EDUCATION",
            Self::Government => "GOVERNMENT",
            Self::Unknown => "UNKNOWN",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Hosting, Self::Isp, Self::Education, Self::Government, Self::Unknown]
            .into_iter()
            .find(|kind| kind.as_str().eq_ignore_ascii_case(text))
    }
}

/// Maximum number of characters of a name that are read. Registries allow much shorter names, so a longer text is not a name.
const LONGEST_NAME: usize = 256;

pub fn by_name(organization: &str) -> NetworkType {
    let name = words(organization);
    RULES
        .iter()
        .find(|(_, phrases)| phrases.iter().any(|phrase| holds(&name, phrase)))
        .map_or(NetworkType::Unknown, |(kind, _)| *kind)
}

/// Returns the words of a name in lower case. The result has one blank before, between and after the words, for example ` amazon 02
/// `. All characters except letters and digits separate words. So a handle such as `DIGITALOCEAN-ASN` is split into words like a
/// sentence. Combining marks are removed. So a name also matches if its letters are stored in decomposed form, or if it contains
/// `İ`, whose lower case has a combining mark.
fn words(name: &str) -> String {
    let mut words = String::with_capacity(name.len().min(LONGEST_NAME) + 2);
    words.push(' ');
    for letter in name.chars().take(LONGEST_NAME).flat_map(char::to_lowercase) {
        match letter {
            '\u{300}'..='\u{36f}' => {}
            letter if letter.is_alphanumeric() => words.push(letter),
            _ if words.ends_with(' ') => {}
            _ => words.push(' '),
        }
    }
    if !words.ends_with(' ') {
        words.push(' ');
    }
    words
}

/// Returns whether the name contains the phrase as whole words.
fn holds(name: &str, phrase: &str) -> bool {
    name.match_indices(phrase)
        .any(|(at, _)| name[..at].ends_with(' ') && name[at + phrase.len()..].starts_with(' '))
}

/// The kinds in order of precedence, with their phrases. The phrases are written like the result of `words`: in lower case, with
/// one blank between words. The name of a brand is in the list only if all networks of the brand are of one kind. For example,
/// "google" is not in the list, because Google Fiber is of another kind than other networks of Google.
#[rustfmt::skip]
static RULES: [(NetworkType, &[&str]); 4] = [
    (NetworkType::Government, &[
        "government", "governmental", "govt", "gov", "gouvernement", "gobierno", "governo", "regierung",
        "military", "army", "navy", "air force", "bundeswehr", "dod", "usaf", "nato",
        "department of defense", "dept of defense", "defence forces", "homeland security", "police",
        "ministry", "ministries", "ministerio", "ministerstvo", "ministère", "ministere", "ministerium",
        "us department", "u s department", "parliament", "senate", "embassy", "nasa",
        "municipality", "municipal", "prefeitura", "city of", "county of", "commonwealth of",
        "department of education", "department of telecommunications",
    ]),
    (NetworkType::Education, &[
        "university", "universities", "univ", "universidad", "universidade", "universita", "università",
        "universitaet", "universität", "universitat", "université", "universite", "universiteit", "universitet",
        "universitesi", "üniversitesi", "univerzita", "uniwersytet", "universitas", "университет",
        "college", "colleges", "school", "schools", "edu", "education", "educational", "academic", "campus",
        "polytechnic", "politecnico", "hochschule", "fachhochschule", "école", "ecole",
        "institute of technology", "academy of sciences", "nren",
        "jisc", "renater", "surfnet", "cernet", "geant", "géant", "internet2", "aarnet", "garr", "rediris",
    ]),
    (NetworkType::Hosting, &[
        "hosting", "webhosting", "hosted", "host", "hoster", "datacenter", "datacenters", "datacentre",
        "data center", "data centers", "data centre", "data centres", "colocation", "colo",
        "cloud", "clouds", "vps", "server", "servers", "cdn",
        "aws", "amazon", "azure", "microsoft", "gcp", "google cloud", "google llc",
        "digitalocean", "digital ocean", "linode", "akamai", "vultr", "choopa", "constant company", "ovh",
        "ovhcloud", "hetzner", "leaseweb", "contabo", "scaleway", "ionos", "rackspace", "softlayer", "godaddy",
        "hostinger", "hostwinds", "hostgator", "dreamhost", "namecheap", "kamatera", "upcloud", "alibaba",
        "aliyun", "tencent", "ucloud", "cloudflare", "fastly", "equinix", "m247", "datacamp", "gcore", "psychz",
        "quadranet", "colocrossing", "frantech", "selectel", "timeweb", "aeza",
    ]),
    (NetworkType::Isp, &[
        "isp", "internet service provider", "internet services", "broadband", "telecom", "telecoms",
        "telecommunication", "telecommunications", "telekom", "telekommunikation", "telekomunikasi", "telco",
        "telecomunicaciones", "telecomunicacoes", "telecomunicações", "telecomunicazioni", "telefonica",
        "telefónica", "telephone", "communications", "cable", "cablevision", "fiber", "fibre", "fibra", "ftth",
        "dsl", "adsl", "wireless", "mobile", "cellular", "satellite",
        "comcast", "verizon", "at t", "att", "centurylink", "cox", "rogers", "telus", "vodafone", "virgin media",
        "telia", "telenor", "tele2", "swisscom", "proximus", "kpn", "telstra", "optus", "rostelecom", "vimpelcom",
        "megafon", "mts", "turkcell", "airtel", "jio", "bsnl", "vnpt", "viettel", "singtel", "kddi", "ntt",
        "chinanet", "unicom", "chinatelecom", "chinamobile", "telmex", "claro", "movistar", "telkom", "mtn",
        "safaricom", "etisalat", "ooredoo",
    ]),
];

#[cfg(test)]
mod tests {
    use super::NetworkType::{Education, Government, Hosting, Isp, Unknown};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_as_registries_write_them() {
        for (name, kind) in [
            ("DIGITALOCEAN-ASN", Hosting),
            ("AMAZON-02", Hosting),
            ("AMAZON-AES", Hosting),
            ("Hetzner Online GmbH", Hosting),
            ("OVH SAS", Hosting),
            ("MICROSOFT-CORP-MSN-AS-BLOCK", Hosting),
            ("GOOGLE-CLOUD-PLATFORM", Hosting),
            ("Akamai Connected Cloud", Hosting),
            ("Hangzhou Alibaba Advertising Co.,Ltd.", Hosting),
            ("The Constant Company, LLC", Hosting),
            ("Some Data Center, s.r.o.", Hosting),
            ("CHINANET-BACKBONE No.31,Jin-rong Street", Isp),
            ("Korea Telecom", Isp),
            ("Comcast Cable Communications, LLC", Isp),
            ("COMCAST-7922", Isp),
            ("GOOGLE-FIBER", Isp),
            ("AT&T Enterprises, LLC", Isp),
            ("CHINA UNICOM China169 Backbone", Isp),
            ("Deutsche Telekom AG", Isp),
            ("Telefônica Brasil / TELEFÓNICA", Isp),
            ("University of Michigan", Education),
            ("Universität Wien", Education),
            ("MIT - Massachusetts Institute of Technology", Education),
            ("China Education and Research Network Center", Education),
            ("example.edu", Education),
            ("US Department of Defense", Government),
            ("U.S. Department of Energy", Government),
            ("DoD Network Information Center", Government),
            ("DNIC-AS-00721 (US Army)", Government),
            ("Ministère de l'Intérieur", Government),
            ("Bharti Airtel Ltd.", Isp),
            ("Example Widgets Inc.", Unknown),
            ("", Unknown),
            ("-", Unknown),
        ] {
            assert_eq!(by_name(name), kind, "{name}");
        }
    }

    #[test]
    fn parts_of_words_do_not_count() {
        for (name, kind) in [
            ("Cloudy Telecom", Isp),
            ("Hispanic ISP", Isp),
            ("Crispy Chicken Ltd", Unknown),
            ("Reduce Reuse Recycle", Unknown),
            ("Govan Shipbuilders", Unknown),
            ("Ghost Writers", Unknown),
            ("Paws and Claws", Unknown),
            ("Automobiles AG", Unknown),
            ("Observers", Unknown),
            ("Collegen Beauty", Unknown),
            ("Data Centered Design", Unknown),
        ] {
            assert_eq!(by_name(name), kind, "{name}");
        }
    }

    #[test]
    fn who_runs_the_network_outranks_what_it_is_for() {
        for (name, kind) in [
            ("Government Cloud Hosting", Government),
            ("Ministry of Education", Government),
            ("Department of Telecommunications", Government),
            ("Military College Network", Government),
            ("University Hospital Telecom", Education),
            ("State University Data Center", Education),
            ("Cloud Telecom", Hosting),
            ("Telecom Cloud Services", Hosting),
        ] {
            assert_eq!(by_name(name), kind, "{name}");
        }
    }

    #[test]
    fn letters_of_any_script_and_case_are_tolerated() {
        assert_eq!(by_name("İSTANBUL ÜNİVERSİTESİ"), Education);
        assert_eq!(by_name("Universite\u{301} de Paris"), Education);
        assert_eq!(by_name("Московский УНИВЕРСИТЕТ"), Education);
        assert_eq!(by_name("データ\u{3000}HOSTING\u{a0}会社"), Hosting);
        assert_eq!(by_name("telecom会社"), Unknown);
    }

    #[test]
    fn only_the_first_256_letters_are_read() {
        assert_eq!(by_name(&format!("{}hosting", " ".repeat(249))), Hosting);
        assert_eq!(by_name(&format!("{}hosting", " ".repeat(250))), Unknown);
        assert_eq!(by_name(&"hosting".repeat(1_000_000)), Unknown);
    }

    #[test]
    fn names_of_kinds_read_back() {
        for kind in [Hosting, Isp, Education, Government, Unknown] {
            assert_eq!(NetworkType::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(NetworkType::parse("hosting"), Some(Hosting));
        assert_eq!(NetworkType::parse("HOSTING "), None);
        assert_eq!(NetworkType::parse(""), None);
    }

    #[test]
    fn every_phrase_can_match_and_stands_under_one_kind() {
        let mut seen = std::collections::HashMap::new();
        for (kind, phrases) in &RULES {
            for phrase in *phrases {
                assert_eq!(words(phrase), format!(" {phrase} "), "written as words() leaves it");
                assert_eq!(seen.insert(*phrase, *kind), None, "{phrase} is listed twice");
            }
        }
    }

    proptest! {
        #[test]
        fn any_name_is_answered_and_case_does_not_matter(name in "[ -~]{0,300}") {
            prop_assert_eq!(by_name(&name), by_name(&name.to_uppercase()));
        }

        #[test]
        fn any_text_is_answered(name in ".{0,300}") {
            by_name(&name);
        }

        #[test]
        fn a_phrase_counts_between_separators_only(
            rule in 0..4_usize, pick in any::<prop::sample::Index>(), letter in "[a-z]",
        ) {
            let (kind, phrases) = RULES[rule];
            let phrase = pick.get(phrases);
            let shouted = format!("Q/{}.", phrase.to_uppercase());
            prop_assert!(by_name(&shouted) != Unknown, "{}", shouted);
            let apart = words(&format!("q_{phrase}-x"));
            prop_assert!(holds(&apart, phrase), "{:?} {}", kind, apart);
            let inside = words(&format!("{letter}{phrase}{letter}"));
            prop_assert!(!holds(&inside, phrase), "{}", inside);
        }
    }
}
