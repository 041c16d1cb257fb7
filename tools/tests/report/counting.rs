//! The program counts the values of campaigns in its memory, with the same result as the server.

use crate::place::{Place, section};
use crate::support::Random;

/// Stores sessions whose values have equal numbers of networks, addresses and sessions, in all ways in which a list can be
/// ordered: addresses in two forms and without a network, values that are null, empty or equal except for case, and logins that are
/// repeated or have no session.
fn store_random(place: &mut Place, random: &mut Random) {
    let mut script = String::from(
        "ALTER TABLE auth ALTER password DROP NOT NULL;
         INSERT INTO sensors (id, ip) VALUES (1, 'trap');
         INSERT INTO clients (id, version) VALUES (1, 'SSH-2.0-a'), (2, 'SSH-2.0-a'), (3, 'SSH-2.0-B'), (4, '');",
    );
    let sessions = 400;
    for session in 0..sessions {
        let host = random.below(4);
        let address = match random.below(12) {
            0 => format!("::ffff:46.101.3.{host}"),
            1 => format!("192.0.2.{host}"),
            2 => "no address".to_owned(),
            3..=5 => format!("8.8.8.{host}"),
            6..=8 => format!("1.1.1.{host}"),
            _ => format!("46.101.3.{host}"),
        };
        let time = match random.below(20) {
            0 => "1960-01-01 00:00".to_owned(),
            minute => format!("2025-05-{:02} 10:{minute:02}", 1 + random.below(9)),
        };
        let client = ["NULL", "1", "2", "3", "4", "5"][random.below(6) as usize];
        script.push_str(&format!(
            "INSERT INTO sessions (id, starttime, sensor, ip, client) VALUES ('{session:032x}', '{time}', 1, '{address}', {client});\n"
        ));
    }
    let values = ["''", "'a'", "'A'", "'b'", "'é'", "'z'", "'ｚ'", "'😀'", "'<b>'", "' a'", "'0'", "'10'"];
    for _ in 0..600 {
        let session = random.below(sessions + 9);
        let value = |random: &mut Random| {
            // Most values are in a few sessions, so that many have equal numbers.
            match random.one_in(2) {
                true => values[random.below(values.len() as u64) as usize].to_owned(),
                false => format!("'v{}'", random.below(150)),
            }
        };
        let password = if random.one_in(15) { "NULL".to_owned() } else { value(random) };
        let (name, command, file) = (value(random), value(random), value(random));
        let success = random.one_in(3);
        script.push_str(&format!(
            "INSERT INTO auth (session, success, username, password, timestamp)
                 VALUES ('{session:032x}', {success}, {name}, {password}, now());
             INSERT INTO input (session, timestamp, input) VALUES ('{session:032x}', now(), {command});
             INSERT INTO downloads (session, timestamp, url, shasum) VALUES ('{session:032x}', now(), '', {file});\n"
        ));
    }
    place.client.batch_execute(&script).unwrap();
    // Networks of the sessions, some unknown, so that an address can be in several networks.
    place
        .client
        .batch_execute(&format!(
            "CALL cowrie_enrich.fold_statistics();
             UPDATE sessions SET snapshot_asn = NULLIF(abs(hashtext(id || '{}')) % 5, 0) WHERE hashtext(id) % 3 = 0",
            random.below(1000)
        ))
        .unwrap();
}

/// Returns the figures and the campaigns of a page.
fn counted(place: &Place, arguments: &[&str]) -> [String; 2] {
    let page = place.report(arguments);
    let figures = page.split("<ul class=figures>").nth(1).unwrap().split("</ul>").next().unwrap();
    [figures.to_owned(), section(&page, "campaigns").to_owned()]
}

#[test]
fn counting_in_memory_gives_the_rows_of_the_server_in_the_same_order() {
    let Some(mut place) = Place::new("report_counting") else { return };
    store_random(&mut place, &mut Random::seeded());
    let periods: [&[&str]; 3] = [
        &[],
        &["--since", "2025-05-03T00:00:00Z", "--until", "2025-05-07T00:00:00Z"],
        &["--since", "2025-05-04T10:05:00Z", "--stored-time-zone", "Asia/Tokyo"],
    ];
    for period in periods {
        for rows in ["1", "2", "3", "7", "20", "1000"] {
            for passwords in [&[][..], &["--show-passwords"]] {
                let arguments = [&["--rows", rows][..], period, passwords].concat();
                let in_memory = counted(&place, &arguments);
                let on_server = counted(&place, &[&arguments[..], &["--memory", "0"]].concat());
                assert_eq!(in_memory, on_server, "{arguments:?}");
                assert!(in_memory[1].contains("<h3>Client versions</h3>\n<div"), "{}", in_memory[1]);
            }
        }
    }
}

#[test]
fn the_server_counts_values_that_need_too_much_memory() {
    let Some(mut place) = Place::new("report_counting_memory") else { return };
    place
        .client
        .batch_execute(
            "INSERT INTO sessions (id, starttime, sensor, ip)
                 SELECT lpad(n::text, 32, '0'), '2025-05-01', 1, '8.8.8.' || n % 50 FROM generate_series(1, 20000) n;
             INSERT INTO auth (session, success, username, password, timestamp)
                 SELECT id, false, 'root', 'p' || id, now() FROM sessions",
        )
        .unwrap();
    // 20,000 passwords of 33 bytes need more than a megabyte.
    let too_small = counted(&place, &["--show-passwords", "--memory", "1"]);
    assert_eq!(too_small, counted(&place, &["--show-passwords", "--memory", "0"]));
    assert_eq!(too_small, counted(&place, &["--show-passwords"]));
    assert!(too_small[1].contains(&format!("p{:032}", 1)), "{}", too_small[1]);
}
