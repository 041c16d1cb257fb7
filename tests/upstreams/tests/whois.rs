//! Tests of the whois stand-in through plain sockets: its answers and its records.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cowrie_enrich_upstreams::{
    Behaviour, FOREIGN_ASN, FOREIGN_NAME, Fault, NetworkFault, Record, Routes, Whois, synthetic_asn,
};

fn routes() -> Routes {
    let mut routes = Routes::empty();
    routes.add("8.8.8.0/24", 15169, "US", "arin", "2023-12-28", "GOOGLE, US");
    routes.add("2001:4860::/32", 15169, "US", "arin", "2005-03-14", "GOOGLE, US");
    routes
}

fn connect(whois: &Whois) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, whois.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn request(questions: &[&str]) -> String {
    format!("begin\nverbose\n{}\nend\n", questions.join("\n"))
}

/// Reads everything up to the end or a reset.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn ask(whois: &Whois, questions: &[&str]) -> Vec<u8> {
    let mut stream = connect(whois);
    stream.write_all(request(questions).as_bytes()).unwrap();
    rest(&mut stream)
}

fn rows(whois: &Whois, questions: &[&str]) -> Vec<String> {
    let answer = String::from_utf8(ask(whois, questions)).unwrap();
    answer.lines().skip(1).map(str::to_owned).collect()
}

fn wait_until<T: Debug>(mut fetch: impl FnMut() -> T, predicate: impl Fn(&T) -> bool) -> T {
    let started = Instant::now();
    loop {
        let value = fetch();
        if predicate(&value) {
            return value;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "last value: {value:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const THREE: [&str; 3] = ["8.8.8.8", "192.0.2.1", "2001:4860:4860::8888"];

#[test]
fn rows_look_as_those_of_the_real_service() {
    let whois = Whois::start(routes());
    let answer = String::from_utf8(ask(&whois, &THREE)).unwrap();
    assert_eq!(
        answer,
        "Bulk mode; whois.cymru.com [2026-11-20 06:00:00 +0000]\n\
         15169   | 8.8.8.8          | 8.8.8.0/24          | US | arin     | 2023-12-28 | GOOGLE, US\n\
         NA      | 192.0.2.1        | NA                  |    | other    |            | NA\n\
         15169   | 2001:4860:4860::8888                     | 2001:4860::/32      | US | arin     | 2005-03-14 | GOOGLE, US\n"
    );
    whois.behave(Behaviour::normal().without_bulk_line().with_headings().with_crlf());
    let answer = String::from_utf8(ask(&whois, &THREE[..1])).unwrap();
    assert!(answer.starts_with("AS      | IP               | BGP Prefix"), "{answer}");
    assert_eq!(answer.matches("\r\n").count(), 2);
}

#[test]
fn networks_have_rows_of_another_shape() {
    let mut routes = routes();
    routes.add_network(15169, "US", "arin", "2000-03-30", "GOOGLE, US");
    let whois = Whois::start(routes);
    assert_eq!(
        rows(&whois, &["AS15169", "as1", "8.8.8.8"]),
        [
            "Error: no ASN or IP match on line 4.",
            "15169   | 8.8.8.8          | 8.8.8.0/24          | US | arin     | 2023-12-28 | GOOGLE, US",
            "15169   | US | arin     | 2000-03-30 | GOOGLE, US",
        ]
    );
    let record = whois.record();
    assert_eq!(record.networks().collect::<Vec<_>>(), [15169, 1]);
    assert_eq!(record.questions_total(), 1);
    whois.behave(Behaviour::normal().with_headings());
    assert_eq!(rows(&whois, &["AS15169"])[0], "AS      | CC | Registry | Allocated  | AS Name");
    assert_eq!(whois.record().networks_answered_twice(), [15169]);
}

#[test]
fn faults_in_rows_about_networks_are_as_described() {
    let whois = Whois::start(routes());
    let behave = |fault: NetworkFault| {
        whois.behave(Fault::Networks(fault));
        rows(&whois, &["AS15169", "AS15169"])
    };
    let bars = |row: &String| row.matches('|').count();
    for (fault, expected) in [
        (NetworkFault::MixedShapes, vec![4, 6]),
        (NetworkFault::SevenColumns, vec![6, 6]),
        (NetworkFault::SwappedColumns, vec![4, 4]),
        (NetworkFault::SwappedNames, vec![4, 4]),
        (NetworkFault::UnknownRegistry, vec![4, 4]),
        (NetworkFault::Duplicated, vec![4; 4]),
        (NetworkFault::Contradicted, vec![4; 4]),
        (NetworkFault::BarInName, vec![5, 5]),
        (NetworkFault::CutRows, vec![2, 2]),
    ] {
        assert_eq!(behave(fault).iter().map(bars).collect::<Vec<_>>(), expected, "{fault:?}");
    }
    assert!(behave(NetworkFault::Contradicted)[1].ends_with(FOREIGN_NAME));
    whois.behave(Fault::Foreign { only: true });
    assert!(rows(&whois, &["AS64500"])[0].starts_with("64501 "));
}

#[test]
fn it_answers_after_the_end_and_closes() {
    let whois = Whois::start(routes());
    let mut stream = connect(&whois);
    stream.write_all(b"begin\nverb").unwrap();
    stream.write_all(b"ose\n8.8.8.8\n").unwrap();
    wait_until(|| whois.record(), |record| record.questions_total() == 1);
    stream.set_nonblocking(true).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "an answer before the end");
    stream.set_nonblocking(false).unwrap();
    // A client that only stops sending is answered too.
    stream.write_all(b"end\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(rest(&mut stream).ends_with(b"GOOGLE, US\n"));
}

#[test]
fn without_verbose_there_are_three_columns_and_without_begin_there_is_no_answer() {
    let whois = Whois::start(routes());
    let mut stream = connect(&whois);
    stream.write_all(b"begin\n8.8.8.8\nend\n").unwrap();
    assert!(rest(&mut stream).ends_with(b"]\n15169   | 8.8.8.8          | GOOGLE, US\n"));
    let mut stream = connect(&whois);
    stream.write_all(b"verbose\n8.8.8.8\nend\n").unwrap();
    assert_eq!(rest(&mut stream), b"");
}

#[test]
fn the_record_says_what_was_asked_and_when() {
    let whois = Whois::start(Routes::synthetic());
    ask(&whois, &["11.0.0.1", "11.0.1.1"]);
    ask(&whois, &["11.0.1.1", "2a00::1", "11.0.2.1", "AS5"]);
    let record = whois.record();
    let first = &record.connections[0];
    assert_eq!(first.lines, ["begin", "verbose", "11.0.0.1", "11.0.1.1", "end"]);
    assert!(first.begin && first.verbose && first.end);
    assert!(first.opened <= first.ended.unwrap());
    assert!(first.ended.unwrap() <= first.answered.unwrap());
    assert!(first.answered.unwrap() <= first.completed.unwrap());
    assert!(first.completed.unwrap() <= first.closed.unwrap());
    assert_eq!((record.questions_total(), record.distinct_questions(), record.largest_batch()), (5, 4, 3));
    assert_eq!(record.asked_twice(), ["11.0.1.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(record.answered_twice(), record.asked_twice());
    assert_eq!((record.most_at_once(), record.open_now()), (1, 0));
    whois.forget();
    assert_eq!(whois.record().questions_total(), 0);
}

#[test]
fn a_synthetic_answer_can_be_computed_from_the_question() {
    let whois = Whois::start(Routes::synthetic());
    for question in ["11.22.33.44", "2a02:1:2::3"] {
        let row = rows(&whois, &[question]).remove(0);
        let expected = synthetic_asn(question.parse().unwrap()).to_string();
        assert_eq!(row.split('|').next().unwrap().trim(), expected);
    }
}

#[test]
fn held_connections_are_open_at_once_until_something_else_is_wanted() {
    let whois = Whois::start(routes());
    whois.behave(Fault::Held);
    let mut streams: Vec<TcpStream> = (0..3).map(|_| connect(&whois)).collect();
    for stream in &mut streams {
        stream.write_all(request(&["8.8.8.8"]).as_bytes()).unwrap();
    }
    let record = wait_until(|| whois.record(), |record| record.questions_total() == 3);
    assert_eq!((record.open_now(), record.most_at_once()), (3, 3));
    assert!(record.connections.iter().all(|connection| connection.answered.is_none()));
    whois.behave(Behaviour::normal());
    for stream in &mut streams {
        assert!(rest(stream).ends_with(b"GOOGLE, US\n"));
    }
}

#[test]
fn a_client_that_leaves_is_noticed_while_its_answer_is_delayed() {
    let whois = Whois::start(routes());
    for behaviour in [Behaviour::normal().delayed(Duration::from_secs(3600)), Fault::Silent.into()] {
        whois.forget();
        whois.behave(behaviour);
        let mut stream = connect(&whois);
        stream.write_all(request(&["8.8.8.8"]).as_bytes()).unwrap();
        wait_until(|| whois.record(), |record| record.questions_total() == 1);
        assert_eq!(whois.record().open_now(), 1);
        drop(stream);
        let record = wait_until(|| whois.record(), |record| record.open_now() == 0);
        assert!(record.connections[0].answered.is_none() && record.connections[0].completed.is_none());
    }
}

#[test]
fn a_delayed_answer_comes_after_its_delay() {
    let whois = Whois::start(routes());
    let delay = Duration::from_millis(40);
    whois.behave(Behaviour::normal().delayed(delay));
    ask(&whois, &["8.8.8.8"]);
    let connection = whois.record().connections.remove(0);
    assert!(connection.answered.unwrap() - connection.ended.unwrap() >= delay);
}

#[test]
fn behaviours_in_turn_are_one_for_each_connection_and_the_last_repeats() {
    let whois = Whois::start(routes());
    whois.behave_in_turn(vec![Fault::AllNa.into(), Fault::AsnTooLarge.into(), Behaviour::normal()]);
    let number = || rows(&whois, &["8.8.8.8"])[0].split(' ').next().unwrap().to_owned();
    assert_eq!([(); 4].map(|()| number()), ["NA", "4294967296", "15169", "15169"]);
}

#[test]
fn a_stopped_server_refuses_and_comes_back_on_its_port() {
    let whois = Whois::start(routes());
    whois.behave(Fault::Silent);
    let mut open = connect(&whois);
    wait_until(|| whois.record(), |record| record.open_now() == 1);
    whois.refuse();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, whois.port())).is_err());
    assert_eq!(whois.record().open_now(), 1);
    whois.stop();
    assert_eq!(rest(&mut open), b"");
    assert_eq!(whois.record().open_now(), 0);
    for _ in 0..2 {
        whois.listen_again();
        whois.behave(Behaviour::normal());
        assert!(ask(&whois, &["8.8.8.8"]).ends_with(b"GOOGLE, US\n"));
        whois.stop();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, whois.port())).is_err());
    }
    assert_eq!(whois.record().connections.len(), 3);
    let port = whois.port();
    drop(whois);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
}

#[test]
fn drips_bytes_one_by_one() {
    let whois = Whois::start(routes());
    whois.behave(Fault::Drip { every: Duration::from_secs(3600) });
    let mut stream = connect(&whois);
    stream.write_all(request(&["8.8.8.8"]).as_bytes()).unwrap();
    let mut bytes = [0; 100];
    assert_eq!(stream.read(&mut bytes).unwrap(), 1);
    let record = wait_until(|| whois.record(), |record| record.connections[0].sent > 0);
    assert_eq!((record.connections[0].sent, record.connections[0].completed), (1, None));
    whois.behave(Fault::Drip { every: Duration::ZERO });
    assert!(ask(&whois, &["8.8.8.8"]).ends_with(b"GOOGLE, US\n"));
}

#[test]
fn endless_answers_end_with_the_client() {
    let whois = Whois::start(routes());
    for (fault, beginning) in [(Fault::EndlessRows, "64500   | 4.4."), (Fault::EndlessLine, "xxxx")] {
        whois.forget();
        whois.behave(fault);
        let mut stream = connect(&whois);
        stream.write_all(request(&["8.8.8.8"]).as_bytes()).unwrap();
        let mut answer = vec![0; 5_000_000];
        stream.read_exact(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.lines().nth(2).unwrap().starts_with(beginning));
        drop(stream);
        let record = wait_until(|| whois.record(), |record| record.open_now() == 0);
        assert!(record.connections[0].sent >= 5_000_000 && record.connections[0].completed.is_none());
    }
}

#[test]
fn closes_after_some_rows_or_within_one() {
    let whois = Whois::start(routes());
    whois.behave(Fault::CloseAfter { rows: 1, mid_row: false });
    assert_eq!(rows(&whois, &THREE).len(), 1);
    whois.behave(Fault::CloseAfter { rows: 1, mid_row: true });
    let answer = String::from_utf8(ask(&whois, &THREE)).unwrap();
    assert_eq!(answer.lines().count(), 3);
    assert!(!answer.ends_with('\n') && answer.lines().last().unwrap().starts_with("NA      | 192."));
    assert!(whois.record().connections.iter().all(|connection| connection.completed.is_none()));
}

#[test]
fn drops_connections_while_it_is_being_asked() {
    let whois = Whois::start(routes());
    whois.behave(Fault::DropAfter { questions: 2 });
    let mut stream = connect(&whois);
    stream.write_all(b"begin\nverbose\n8.8.8.8\n8.8.8.9\n").unwrap();
    assert_eq!(rest(&mut stream), b"");
    assert_eq!(rows(&whois, &["8.8.8.8"]).len(), 1);
}

#[test]
fn lines_and_bytes_that_no_parser_wants() {
    let whois = Whois::start(routes());
    whois.behave(Fault::LongLine(10_000_000));
    let answer = ask(&whois, &["8.8.8.8"]);
    assert!(answer.len() > 10_000_000 && answer.ends_with(b"GOOGLE, US\n"));
    whois.behave(Fault::Garbage(100_000));
    let garbage = ask(&whois, &["8.8.8.8"]);
    assert_eq!(garbage.len(), 100_000);
    assert!((0..=255).all(|byte| garbage.contains(&byte)));
    whois.behave(Fault::NulBytes);
    let answer = rows(&whois, &["8.8.8.8", "8.8.8.9"]);
    assert!(answer[1].starts_with("15169 ") && answer[1].ends_with("U\0S"), "{answer:?}");
    assert!(answer[2].starts_with("1\x005169 ") && answer[2].ends_with("U\0S"), "{answer:?}");
    whois.behave(Fault::NotUtf8);
    assert!(String::from_utf8(ask(&whois, &["8.8.8.8"])).is_err());
}

#[test]
fn rows_too_many_too_few_and_in_another_order() {
    let whois = Whois::start(routes());
    let numbers = |fault: Fault, questions: &[&str]| -> Vec<String> {
        whois.behave(fault);
        rows(&whois, questions).iter().map(|row| row.split('|').next().unwrap().trim().to_owned()).collect()
    };
    let foreign = FOREIGN_ASN.to_string();
    assert_eq!(numbers(Fault::Foreign { only: true }, &["8.8.8.8"]), [foreign.as_str()]);
    assert_eq!(numbers(Fault::Foreign { only: false }, &["8.8.8.8"]), [foreign.as_str(), "15169"]);
    assert_eq!(numbers(Fault::Missing { every: 2 }, &THREE), ["15169", "15169"]);
    assert_eq!(numbers(Fault::Reordered, &THREE[..2]), ["NA", "15169"]);
    assert_eq!(
        numbers(Fault::ErrorLines { every: 2 }, &THREE),
        ["Error: no ASN or IP match on line 4.", "15169", "15169"]
    );
    assert_eq!(numbers(Fault::MultiOrigin, &["8.8.8.8"]), ["15168", "15170 15169", "15171"]);
    whois.behave(Fault::OtherSpelling);
    assert!(rows(&whois, &THREE)[2].contains("| 2001:4860:4860:0000:0000:0000:0000:8888 "));
    whois.behave(Fault::Custom(Arc::new(|questions: &[_]| format!("{questions:?}").into_bytes())));
    assert_eq!(ask(&whois, &["8.8.8.8"]), b"[8.8.8.8]");
}

#[test]
fn a_printed_record_is_short() {
    let whois = Whois::start(Routes::synthetic());
    let questions: Vec<String> = (0..500).map(|nth| format!("11.0.{}.{}", nth / 250, nth % 250)).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    assert_eq!(rows(&whois, &questions).len(), 500);
    let record: Record = whois.record();
    assert!(format!("{record:?}").len() < 500);
}
