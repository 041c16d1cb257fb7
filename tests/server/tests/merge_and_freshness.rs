//! The merge of old and new answers, and the lifetime of an answer: random documents, compared with models of a few
//! lines.
//!
//! COWRIE_ENRICH_SEED= sets other random numbers. The seed is printed.

use serde_json::{Map, Value, json};
use server_tests::random::Random;
use server_tests::{Session, database};

const SOURCES: [&str; 4] = ["maxmind", "cymru", "greynoise", "spur"];
const PLACE: [&str; 6] = ["country", "country_name", "city", "latitude", "longitude", "accuracy_radius"];

fn random() -> Random {
    let seed = std::env::var("COWRIE_ENRICH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed}");
    Random::seeded(seed)
}

/// Returns any JSON, as users may have stored it.
fn any_value(random: &mut Random) -> Value {
    match random.below(8) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(random.below(1000)),
        3 => json!("DE"),
        4 => json!(["country", 1]),
        5 => json!({}),
        _ => any_object(random, &["x", "country", "asn", "cached_at", "state"]),
    }
}

fn any_object(random: &mut Random, members: &[&str]) -> Value {
    let mut object = Map::new();
    for member in members {
        if random.one_in(2) {
            object.insert((*member).to_owned(), json!(random.below(100)));
        }
    }
    Value::Object(object)
}

fn maxmind(random: &mut Random) -> Value {
    let others = ["asn", "asn_org", "asn_vendor", "asn_build_epoch", "cached_at", "vendor", "build_epoch"];
    let members: Vec<&str> = PLACE.into_iter().chain(others).collect();
    any_object(random, &members)
}

/// Returns a document of the inventory: often one of the extension, sometimes not even an object.
fn old_document(random: &mut Random) -> Value {
    if random.one_in(10) {
        return any_value(random);
    }
    let mut document = Map::new();
    for source in SOURCES.into_iter().chain(["_meta", "mine"]) {
        if random.one_in(2) {
            continue;
        }
        let value = match source {
            _ if random.one_in(6) => any_value(random),
            "maxmind" => maxmind(random),
            "_meta" => any_object(random, &SOURCES),
            _ => any_object(random, &["a", "b", "cached_at"]),
        };
        document.insert(source.to_owned(), value);
    }
    Value::Object(document)
}

/// Returns a document with new answers.
fn new_document(random: &mut Random) -> Value {
    let mut document = Map::new();
    for source in SOURCES {
        if random.one_in(2) {
            let said = if source == "maxmind" {
                maxmind(random)
            } else {
                any_object(random, &["a", "b", "cached_at"])
            };
            document.insert(source.to_owned(), said);
        }
    }
    if random.one_in(2) {
        document.insert("_meta".to_owned(), any_object(random, &SOURCES));
    }
    Value::Object(document)
}

/// Returns the expected result of a merge. A source's new answer replaces its old one. MaxMind's answer has two
/// parts: the location and the network, each from one file. A part is replaced if the new answer contains it. In
/// `_meta`, the state of each source is replaced separately.
fn merged(old: &Value, new: &Value) -> Value {
    let object = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
    let mut merged = object(Some(old));
    for (source, said) in new.as_object().expect("ours is an object") {
        let mut kept = object(merged.get(source));
        match source.as_str() {
            "maxmind" => {
                let speaks = |members: &[&str]| members.iter().any(|member| said.get(member).is_some());
                let (place, network) = (speaks(&PLACE), said.get("asn").is_some());
                kept.retain(|member, _| match member.as_str() {
                    "asn" | "asn_org" | "asn_vendor" | "asn_build_epoch" => !network,
                    member => !(place && PLACE.contains(&member)),
                });
            }
            "_meta" => {}
            _ => kept.clear(),
        }
        kept.extend(object(Some(said)));
        merged.insert(source.clone(), Value::Object(kept));
    }
    Value::Object(merged)
}

fn quoted(value: &Value) -> String {
    format!("'{}'", value.to_string().replace('\'', "''"))
}

/// Returns one result a row, in order.
fn ask(db: &mut Session, columns: &str, expression: &str, rows: &[String]) -> Vec<String> {
    db.rows(&format!(
        "SELECT {expression} FROM (VALUES {}) AS v(n, {columns}) ORDER BY n",
        rows.iter().enumerate().map(|(n, row)| format!("({n}, {row})")).collect::<Vec<_>>().join(", ")
    ))
}

#[test]
fn any_two_documents_are_merged_as_the_model_has_it() {
    let mut db = database();
    let mut random = random();
    let pairs: Vec<(Value, Value)> =
        (0..2_000).map(|_| (old_document(&mut random), new_document(&mut random))).collect();
    let rows: Vec<String> =
        pairs.iter().map(|(old, new)| format!("{}::jsonb, {}::jsonb", quoted(old), quoted(new))).collect();
    let once = ask(&mut db, "old, new", "enrich.merge_enrichment(old, new)", &rows);
    let twice =
        ask(&mut db, "old, new", "enrich.merge_enrichment(enrich.merge_enrichment(old, new), new)", &rows);
    assert_eq!(once, twice, "the same answer again changes nothing");
    for ((old, new), answer) in pairs.iter().zip(once) {
        let answer: Value = serde_json::from_str(&answer).expect("jsonb is JSON");
        assert_eq!(answer, merged(old, new), "{new} into {old}");
    }
}

/// An expression for a document, and the expected freshness of its answer.
struct Answered {
    document: String,
    fresh: bool,
}

const VALUE_LIFETIME: i64 = 1000;
const ABSENT_LIFETIME: i64 = 100;

/// Returns a document with some answer of Team Cymru. The server builds it, so that the server's clock is used. Ages
/// are at least a minute away from the limits, because the test takes time.
fn answered(random: &mut Random) -> Answered {
    let ages = [-100_000, -360, -240, 0, 40, 160, 900, 1060, 100_000];
    let mut age = || *random.pick(&ages);
    let (own, meta) = (age(), age());
    let time = |age: i64| {
        format!(
            "to_char((now() - {age} * interval '1 s') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')"
        )
    };
    let nonsense = |random: &mut Random| {
        (*random.pick(&["'yesterday'", "''", "'2026-02-30T00:00:00Z'", "'9999-12-31T23:59:59-01:00'"]))
            .to_owned()
    };
    let mut cached = (!random.one_in(3)).then(|| (time(own), Some(own)));
    let mut asked = (!random.one_in(3)).then(|| (time(meta), Some(meta)));
    for said in [&mut cached, &mut asked] {
        if random.one_in(8) {
            *said = Some((nonsense(random), None));
        }
    }
    let state = *random.pick(&["value", "absent", "failed", "something", ""]);
    let has_meta = !random.one_in(4);
    let has_own = !random.one_in(4);
    let mut parts = vec!["'greynoise', jsonb_build_object('cached_at', now())".to_owned()];
    if has_own {
        let cached = cached.as_ref().map_or_else(String::new, |(said, _)| format!("'cached_at', {said}"));
        parts.push(format!("'cymru', jsonb_build_object({cached})"));
    }
    if has_meta {
        let mut members = vec![format!("'state', '{state}'")];
        members.extend(asked.as_ref().map(|(said, _)| format!("'asked_at', {said}")));
        parts.push(format!(
            "'_meta', jsonb_build_object('cymru', jsonb_build_object({}))",
            members.join(", ")
        ));
    }
    // The answer's own time is used if there is one, otherwise the time of the request.
    let said = cached.filter(|_| has_own).or(asked.filter(|_| has_meta));
    let lifetime = if has_meta && state == "absent" { ABSENT_LIFETIME } else { VALUE_LIFETIME };
    let failed = has_meta && state == "failed";
    // A time up to five minutes in the future is accepted, because clocks differ. A later time counts as wrong.
    let fresh = !failed && said.and_then(|(_, age)| age).is_some_and(|age| age < lifetime && age > -300);
    Answered { document: format!("jsonb_build_object({})", parts.join(", ")), fresh }
}

#[test]
fn any_answer_is_fresh_as_long_as_the_model_has_it() {
    let mut db = database();
    let mut random = random();
    let all: Vec<Answered> = (0..1_500).map(|_| answered(&mut random)).collect();
    let rows: Vec<String> = all.iter().map(|answered| answered.document.clone()).collect();
    let fresh =
        format!("enrich.is_source_fresh(document, 'cymru', {VALUE_LIFETIME}, {ABSENT_LIFETIME}), document");
    let answers = ask(&mut db, "document", &fresh, &rows);
    let mut seen = [0; 2];
    for (answered, answer) in all.iter().zip(answers) {
        let (fresh, document) = answer.split_once('|').expect("two columns");
        seen[usize::from(fresh == "t")] += 1;
        assert_eq!(fresh == "t", answered.fresh, "{document}");
    }
    assert!(seen.iter().all(|count| *count > 150), "one-sided: {seen:?}");
    // All other content is neither an answer nor an error.
    let odd: Vec<String> =
        (0..500).map(|_| format!("{}::jsonb", quoted(&old_document(&mut random)))).collect();
    let answers = ask(&mut db, "document", "enrich.is_source_fresh(document, 'cymru', 1000, 100)", &odd);
    assert!(answers.iter().all(|fresh| fresh == "f"));
}

/// Tests all pairs of sources. Manual values take precedence over Team Cymru, Team Cymru over MaxMind, MaxMind over
/// IANA, and IANA over imported values. Another source of the same rank replaces nothing. Only a name of Team Cymru may
/// replace an earlier value of the same source.
#[test]
fn metadata_of_a_network_is_replaced_by_better_sources_alone() {
    let mut db = database();
    let sources = ["manual", "cymru", "maxmind", "iana", "import"];
    let rank = |field: &str, source: Option<&str>| match (field, source) {
        (_, Some("manual")) => 4,
        ("organization_name", Some("maxmind")) => 3,
        ("organization_name", Some("cymru")) => 1,
        ("organization_name", _) => 2,
        (_, Some("cymru")) => 3,
        (_, Some("maxmind")) => 2,
        (_, Some("iana")) => 1,
        _ => 0,
    };
    let said_by = sources.into_iter().map(Some).chain([None]);
    let mut cases = Vec::new();
    for field in ["organization_name", "organization_country", "rir_registry"] {
        for before in said_by.clone() {
            for source in sources {
                for current in [None, Some("it")] {
                    let corrects = (before, source, field) == (Some("cymru"), "cymru", "organization_name");
                    let expected =
                        current.is_none() || rank(field, Some(source)) > rank(field, before) || corrects;
                    cases.push((field, before, source, current, expected));
                }
            }
        }
    }
    let rows: Vec<String> = cases
        .iter()
        .map(|(field, before, source, current, _)| {
            let provenance = before.map_or(json!({}), |before| json!({ "provenance": { *field: before } }));
            let current = current.map_or("NULL::text".to_owned(), |current| format!("'{current}'"));
            format!("{current}, {}::jsonb, '{field}', '{source}'", quoted(&provenance))
        })
        .collect();
    let answers = ask(
        &mut db,
        "current, document, field, source",
        "enrich.may_replace(current, document, field, source) IS TRUE",
        &rows,
    );
    for (case, answer) in cases.iter().zip(answers) {
        assert_eq!(answer == "t", case.4, "{case:?}");
    }
}
