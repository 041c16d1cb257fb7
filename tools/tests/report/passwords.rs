//! Passwords are on a page only if the caller asks for them.

use crate::place::{Place, rows, section};

const MASK: &str = "••••••••";

/// Returns the first cells of a list of campaigns.
fn list(page: &str, title: &str) -> Vec<String> {
    let part = section(page, "campaigns").split(&format!("<h3>{title}</h3>")).nth(1).unwrap();
    let rows = rows(part.split("<h3>").next().unwrap());
    rows.into_iter().map(|row| row[0].clone()).collect()
}

#[test]
fn no_password_of_the_log_is_in_its_list_and_common_names_stay() {
    let Some(place) = Place::with_log("report_passwords") else { return };
    let password = "345gs5662d34";
    let hidden = place.report(&[]);
    assert!(!hidden.contains(password), "it is a user name too");
    assert_eq!(list(&hidden, "Passwords"), [MASK; 5]);
    let rows = "This list has only five rows while passwords are hidden.";
    assert!(hidden.contains(rows));
    let names = list(&hidden, "User names");
    assert!(names.contains(&"root".to_owned()) && names.contains(&MASK.to_owned()), "{names:?}");
    let shown = place.report(&["--show-passwords"]);
    assert!(list(&shown, "Passwords").contains(&password.to_owned()) && !shown.contains(rows));
    assert!(list(&shown, "User names").contains(&password.to_owned()));
}

#[test]
fn passwords_are_hidden_wherever_they_are_in_a_list() {
    let Some(mut place) = Place::new("report_secrets") else { return };
    let secrets = ["Tr0ub4dor&3", "x", "qwertz", "9", "correct horse 1"];
    place
        .client
        .batch_execute(&format!(
            "INSERT INTO sessions (id, starttime, sensor, ip, client)
             SELECT 's' || n, '2025-05-01'::timestamp + n * interval '1 minute', 1, '8.8.8.' || n, 1 FROM generate_series(1, 20) n;
             INSERT INTO clients (id, version) VALUES (1, 'SSH-2.0-Tr0ub4dor&3');
             INSERT INTO auth (session, success, username, password, \"timestamp\") VALUES
                 {};
             INSERT INTO auth (session, success, username, password, \"timestamp\")
             SELECT 's' || n, false, 'root', '', '2025-05-01' FROM generate_series(1, 20) n;
             -- A user types the password where the user name belongs, and then as a command.
             INSERT INTO auth (session, success, username, password, \"timestamp\")
             SELECT 's1', false, password, 'another', '2025-05-01' FROM auth WHERE password <> '';
             INSERT INTO input (session, \"timestamp\", input) SELECT 's1', '2025-05-01', password FROM auth WHERE password <> '';
             INSERT INTO input (session, \"timestamp\", input) VALUES
                 ('s1', '2025-05-01', 'echo root:Tr0ub4dor&3|chpasswd'),
                 ('s1', '2025-05-01', 'wget ftp://u:Tr0ub4dor&3@198.51.100.1/' || repeat('y', 300)),
                 ('s1', '2025-05-01', repeat('z', 155) || ' Tr0ub4dor&3'),
                 ('s2', '2025-05-01', 'sudo -S <<< \"correct horse 1\"'),
                 ('s3', '2025-05-01', 'uname -x 9');
             INSERT INTO downloads (session, \"timestamp\", url, shasum) VALUES ('s1', '2025-05-01', 'http://x', 'Tr0ub4dor&3')",
            secrets.map(|secret| format!("('s1', false, 'root', '{secret}', '2025-05-01')")).join(", ")
        ))
        .unwrap();
    let page = place.report(&["--rows", "100"]);
    let campaigns = section(&page, "campaigns");
    for text in ["Tr0ub4dor", "qwertz", "correct horse", "another"] {
        assert!(!campaigns.contains(text), "{text}: {campaigns}");
    }
    // The number of characters of a password cannot be seen, and equal passwords have one row.
    assert_eq!(list(&page, "Passwords"), [MASK; 5]);
    let mut names = list(&page, "User names");
    names.sort();
    names.dedup();
    assert_eq!(names, ["root", MASK]);
    let commands = list(&page, "Commands");
    for shown in [
        "echo root:••••••••|chpasswd",
        "sudo -S <<< \"••••••••\"",
        // Short and common passwords within a command stay. docs/report.md says so.
        "uname -x 9",
    ] {
        assert!(commands.iter().any(|command| command == shown), "{shown}: {commands:?}");
    }
    assert!(
        commands.iter().any(|command| command.starts_with("wget ftp://u:••••••••@198.51.100.1/yyy")),
        "{commands:?}"
    );
    assert!(
        commands.iter().any(|command| command.starts_with(&format!("{} {MASK}… (", "z".repeat(155)))),
        "{commands:?}"
    );
    assert_eq!(list(&page, "Downloaded files"), [MASK]);
    assert_eq!(list(&page, "Client versions"), [format!("SSH-2.0-{MASK}")]);
    let shown = place.report(&["--rows", "100", "--show-passwords"]);
    for secret in secrets {
        for title in ["Passwords", "User names", "Commands"] {
            assert!(list(&shown, title).iter().any(|value| value == secret), "{secret} in {title}");
        }
    }
    assert!(!shown.contains(MASK));
}

#[test]
fn a_role_that_may_not_read_passwords_gets_a_page_that_says_so() {
    let Some(mut place) = Place::with_log("report_no_passwords") else { return };
    let sentence = "Passwords in commands are not hidden";
    assert!(!place.report(&[]).contains(sentence));
    let role = place.role.clone();
    place
        .client
        .batch_execute(&format!(
            "REVOKE SELECT ON auth FROM {role}; GRANT SELECT (session, username, success) ON auth TO {role}"
        ))
        .unwrap();
    let page = place.report(&[]);
    assert!(page.contains(sentence));
    assert!(list(&page, "Passwords").is_empty());
    assert!(list(&page, "Commands").len() > 5);
}
