//! Tests of [`OpenSessions`].

use std::time::Duration;

use jiff::Timestamp;

use super::open::{OpenLimits, OpenSessions};
use super::remembered::{Fate, Remembered};
use crate::log::Event;
use crate::session::Session;
use crate::session::samples::{command, entry};

fn open(limits: OpenLimits) -> OpenSessions {
    OpenSessions::new(limits, Vec::new(), Remembered::new(), None)
}

fn ids(sessions: &[Session]) -> Vec<&str> {
    sessions.iter().map(|session| session.id.as_str()).collect()
}

#[test]
fn a_closed_session_waits_for_two_seconds_of_the_log() {
    let mut open = open(OpenLimits::default());
    open.add(entry("a", 10, Event::Connect));
    open.add(entry("a", 20, Event::Closed));
    open.add(entry("b", 21, Event::Connect));
    assert!(open.take(false, &[]).sessions.is_empty());
    open.add(entry("a", 21, Event::Terminal { ttylog: "late".into(), size: 1 }));
    open.add(entry("b", 23, command("ls")));
    let ready = open.take(false, &[]);
    assert_eq!(ids(&ready.sessions), ["a"]);
    assert_eq!(ready.sessions[0].events.len(), 1);
    assert_eq!(open.count(), 1);
}

#[test]
fn an_open_session_is_ready_after_the_idle_time_of_the_log() {
    let mut open = open(OpenLimits { idle: Duration::from_secs(100), ..OpenLimits::default() });
    for (id, second) in [("a", 10), ("b", 60), ("b", 109)] {
        open.add(entry(id, second, Event::Connect));
        assert!(open.take(false, &[]).sessions.is_empty());
    }
    open.add(entry("b", 110, command("ls")));
    let ready = open.take(false, &[]);
    assert_eq!(ids(&ready.sessions), ["a"]);
    assert_eq!(ready.sessions[0].end, None);
}

#[test]
fn at_the_end_of_the_logs_the_clock_of_the_machine_counts() {
    let mut open = open(OpenLimits { idle: Duration::ZERO, ..OpenLimits::default() });
    open.add(entry("a", 10, Event::Connect));
    open.add(entry("b", 9, Event::Connect));
    assert_eq!(ids(&open.take(true, &[]).sessions), ["b", "a"]);
}

#[test]
fn events_of_a_stored_session_are_late() {
    let mut open = open(OpenLimits::default());
    open.add(entry("a", 10, Event::Connect));
    open.add(entry("a", 11, Event::Closed));
    open.add(entry("b", 13, Event::Connect));
    assert_eq!(ids(&open.take(false, &[]).sessions), ["a"]);
    open.add(entry("a", 14, Event::Terminal { ttylog: "late".into(), size: 1 }));
    open.add(entry("a", 14, Event::Closed));
    assert_eq!(open.lost_updates, 1);
    // The state file keeps the late part and the remembered id.
    let kept = open.sessions().cloned().collect();
    let mut open = OpenSessions::new(OpenLimits::default(), kept, open.memory().1.clone(), open.memory().0);
    open.add(entry("b", 17, command("ls")));
    let ready = open.take(false, &[]);
    assert_eq!((ids(&ready.sessions), ids(&ready.late)), (vec![], vec!["a"]));
    assert_eq!(ready.late[0].events.len(), 1);
    // After an hour the id is forgotten.
    for second in 3620..3623 {
        open.add(entry("c", second, Event::Connect));
    }
    open.add(entry("c", 3623, Event::Closed));
    open.add(entry("d", 3626, Event::Connect));
    assert_eq!(ids(&open.take(false, &[]).sessions), ["b", "c"]);
    assert!(!open.memory().1.contains_key("a"));
}

#[test]
fn a_line_with_a_wrong_time_ends_no_session() {
    let now = Timestamp::now().as_second();
    for (wrong, is_future) in [(0, false), (now - 5, false), (now + 400, true), (7_000_000_000, true)] {
        let mut open = open(OpenLimits::default());
        let old = now - 1_000_000;
        open.add(entry("a", old, Event::Connect));
        open.add(entry("a", old, Event::Closed));
        open.add(entry("b", old, Event::Connect));
        for nth in 0..if is_future { 10 } else { 2 } {
            open.add(entry("c", wrong + nth, Event::Connect));
        }
        assert!(open.take(false, &[]).sessions.is_empty(), "{wrong}");
        assert_eq!(open.clock.future, if is_future { 10 } else { 0 });
        open.add(entry("b", old + 2, Event::Closed));
        assert_eq!(ids(&open.take(false, &[]).sessions), ["a"]);
    }
}

#[test]
fn a_session_that_is_read_again_is_not_late() {
    let mut open = open(OpenLimits::default());
    let session = |open: &mut OpenSessions| {
        open.add(entry("a", 10, Event::Connect));
        open.add(entry("a", 10, command("ls")));
        open.add(entry("a", 11, Event::Closed));
        open.add(entry("b", 13, Event::Connect));
        open.take(false, &[])
    };
    assert_eq!(ids(&session(&mut open).sessions), ["a"]);
    let again = session(&mut open);
    assert_eq!((again.sessions.len(), again.late.len(), again.repeated), (0, 0, 1));
    assert_eq!(open.lost_updates, 0);
}

#[test]
fn later_events_go_where_the_session_went() {
    for fate in Fate::ALL {
        let mut open = open(OpenLimits::default());
        open.add(entry("a", 10, Event::Connect));
        open.add(entry("a", 11, Event::Closed));
        open.add(entry("b", 13, Event::Connect));
        let session = open.take(false, &[]).sessions.remove(0);
        open.note(&session, fate);
        open.add(entry("a", 14, command("late")));
        open.add(entry("b", 17, command("ls")));
        let ready = open.take(false, &[]);
        assert_eq!(ready.sessions.len(), 0, "{fate:?}");
        assert_eq!(ready.late.len(), usize::from(fate == Fate::Stored), "{fate:?}");
        let is_aside = matches!(fate, Fate::Rejected | Fate::Late);
        assert_eq!(ready.aside.len(), usize::from(is_aside), "{fate:?}");
    }
}

#[test]
fn the_largest_sessions_are_stored_when_memory_is_short() {
    let mut open = open(OpenLimits { bytes: 10_000, ..OpenLimits::default() });
    open.add(entry("small", 1, Event::Connect));
    open.add(entry("large", 1, Event::Connect));
    while !open.is_full() {
        open.add(entry("large", 1, command(&"x".repeat(100))));
    }
    assert_eq!(ids(&open.take(false, &[]).sessions), ["large"]);
    assert!(!open.is_full());
    open.add(entry("large", 2, command("ls")));
    open.add(entry("small", 5, command("ls")));
    assert_eq!(ids(&open.take(false, &[]).late), ["large"]);
}

#[test]
fn a_full_batch_is_noticed() {
    let mut open = open(OpenLimits { batch: 2, ..OpenLimits::default() });
    for (id, second) in [("a", 1), ("b", 2)] {
        assert!(!open.is_full());
        open.add(entry(id, second, Event::Connect));
        open.add(entry(id, second, Event::Closed));
        open.add(entry(id, second, Event::Closed));
    }
    assert!(open.is_full());
    open.add(entry("c", 9, Event::Connect));
    assert_eq!(open.take(false, &[]).sessions.len(), 2);
    assert!(!open.is_full());
}

/// While an earlier log is copied, a later log shows times that are hours after the events of that log.
#[test]
fn a_session_that_can_go_on_in_an_earlier_log_waits_for_it() {
    let mut open = open(OpenLimits { idle: Duration::from_secs(100), ..OpenLimits::default() });
    open.add(entry("long", 10, Event::Connect));
    open.add(entry("early", 11, Event::Connect));
    open.add(entry("early", 12, Event::Closed));
    open.add(entry("later", 50_000, Event::Connect));
    open.add(entry("tail", 50_001, Event::Closed));
    open.add(entry("later", 50_002, Event::Closed));
    for second in 60_000..60_003 {
        open.add(entry("live", second, command("ls")));
    }
    let unfinished = [Timestamp::from_second(50_000).unwrap()];
    assert_eq!(ids(&open.take(true, &unfinished).sessions), ["early", "later"]);
    open.add(entry("tail", 49_000, Event::Connect));
    open.add(entry("long", 50_003, Event::Closed));
    open.add(entry("live", 60_010, command("ls")));
    assert!(open.take(true, &unfinished).sessions.is_empty());
    let ready = open.take(true, &[]);
    assert_eq!(ids(&ready.sessions), ["long", "tail"]);
    assert!(ready.sessions.iter().all(|session| session.connected && session.end.is_some()));
}
