//! Texts of attackers are shown as text.

use crate::place::{Place, rows, section, text};

/// A log with hostile texts in each field that a client controls.
fn log(values: &[&str]) -> String {
    let mut log = String::new();
    for (number, value) in values.iter().enumerate() {
        let session = format!("hostile{number}");
        let value = serde_json::to_string(value).unwrap();
        let mut event = |second: usize, kind: &str, fields: &str| {
            log.push_str(&format!(
                "{{\"eventid\":\"cowrie.{kind}\",\"session\":\"{session}\",\"sensor\":{value},\"src_ip\":\"8.8.8.{number}\",\
                 \"timestamp\":\"2025-05-05T00:{number:02}:{second:02}Z\"{fields}}}\n"
            ));
        };
        event(1, "session.connect", "");
        event(2, "client.version", &format!(",\"version\":{value}"));
        event(3, "login.failed", &format!(",\"username\":{value},\"password\":{value}"));
        event(4, "command.input", &format!(",\"input\":{value}"));
        event(
            5,
            "session.file_download",
            &format!(",\"url\":{value},\"shasum\":{value},\"outfile\":{value}"),
        );
        event(6, "session.closed", "");
    }
    log
}

#[test]
fn hostile_texts_appear_as_text() {
    let Some(mut place) = Place::new("report_hostile") else { return };
    let script = "<script>alert(1)</script>";
    let attribute = "\" onload='alert(2)' x=\"";
    let tail = "</style></bdi></table><img src=http://evil.example/x>&lt;&#60;";
    let direction = "abc\u{202e}gpj.exe\u{2066}\u{200b}";
    let arabic = "\u{645}\u{631}\u{62d}\u{628}\u{627}";
    let long = "A".repeat(10_000);
    let zero = "a\0b\x1b[31mred\u{85}";
    let path = std::env::temp_dir().join(format!("cowrie-report-hostile-{}", std::process::id()));
    std::fs::write(&path, log(&[script, attribute, tail, direction, arabic, &long, zero])).unwrap();
    place.load(&path);
    std::fs::remove_file(&path).unwrap();
    // The name of a network comes from a file or from a provider.
    for (asn, name) in [(15169, script), (64500, direction)] {
        place
            .client
            .execute(
                "SELECT cowrie_enrich.ensure_asn_inventory($1, $2, 'US', NULL, overwrite => true)",
                &[&i64::from(asn), &name],
            )
            .unwrap();
    }
    let page = place.report(&["--show-passwords"]);
    assert!(!page.contains("<script"), "a script");
    assert!(!page.contains("<img") && !page.contains("onload='"), "markup of an attacker");
    for invisible in ['\u{202e}', '\u{2066}', '\u{200b}', '\0', '\x1b', '\u{85}'] {
        assert!(!page.contains(invisible), "{invisible:?}");
    }
    assert!(!page.contains(&"A".repeat(200)), "a long text is cut");
    // The only markup with an attribute that loads or links something are the notices.
    for (place, _) in page.match_indices("href=") {
        assert!(page[place..].starts_with("href=\"https://"), "{}", &page[place..place + 60]);
    }
    let campaigns = section(&page, "campaigns");
    let values: Vec<String> = rows(campaigns).into_iter().map(|row| row[0].clone()).collect();
    for shown in [script, arabic, "abcU+202Egpj.exeU+2066U+200B"] {
        assert!(values.iter().any(|value| value == shown), "{shown}: {values:?}");
    }
    // Cowrie-load replaces NUL, which PostgreSQL cannot store.
    assert!(values.iter().any(|value| value.contains("␛[31mredU+0085")), "{values:?}");
    let commands = campaigns.split("<h3>Commands</h3>").nth(1).unwrap().split("<h3>").next().unwrap();
    assert!(text(commands).contains("… (10\u{202f}000 characters)"), "{}", text(commands));
    assert!(campaigns.contains("<bdi>\u{645}"), "a text from right to left is isolated");
    assert!(rows(section(&page, "networks")).iter().any(|row| row[1] == script));
    assert!(rows(section(&page, "sensors")).iter().any(|row| row[0] == script));
}
