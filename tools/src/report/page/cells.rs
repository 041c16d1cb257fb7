//! Parts that several sections share: cells, tables of counts, and texts for times.

use jiff::{SignedDuration, Timestamp};

use crate::html::Html;
use crate::report::chart::{bar, percent};
use crate::report::sessions::{Counted, Counts};
use crate::report::{Absent, Report};

pub(super) fn counted_table(
    html: &mut Html,
    report: &Report,
    heading: &'static str,
    rows: &[Counted],
    unknown: &'static str,
) {
    let largest = rows.iter().map(|row| row.counts.sessions).max().unwrap_or(0);
    html.markup("<table><tr><th>").markup(heading);
    html.markup("<th class=n>sessions<th class=n>share<th class=\"n opt\">addresses<th></tr>\n");
    const MOST: usize = 40;
    for row in rows.iter().take(MOST) {
        html.markup("<tr><td class=w>");
        match &row.value {
            Some(value) => html.text(value),
            None => html.markup("<span class=soft>").markup(unknown).markup("</span>"),
        };
        counted_cells(html, row.counts, report.sessions.total.sessions, largest);
    }
    html.markup("</table>\n");
    if rows.len() > MOST {
        html.markup("<p class=note>")
            .number((rows.len() - MOST) as u64)
            .markup(" more have fewer sessions.</p>\n");
    }
}

/// Appends the cells of counts: sessions, share, addresses and a bar.
pub(super) fn counted_cells(html: &mut Html, counts: Counts, total: u64, largest: u64) {
    html.markup("<td class=n>")
        .number(counts.sessions)
        .markup("<td class=n>")
        .plain(&percent(counts.sessions, total));
    html.markup("<td class=\"n opt\">").number(counts.addresses).markup("<td class=b>");
    bar(html, counts.sessions, largest);
    html.markup("</tr>\n");
}

/// Ends a section if the period has no session. Returns whether it has none.
pub(super) fn nothing(html: &mut Html, report: &Report) -> bool {
    let is_empty = report.sessions.total.sessions == 0;
    if is_empty {
        html.markup("<p class=note>No session in this period.</p></section>\n");
    }
    is_empty
}

pub(super) fn left_out(html: &mut Html, absent: &Absent) {
    html.markup("<p class=note>").text_up_to(400, &absent.0).markup("</p>\n");
}

pub(super) fn known(html: &mut Html, value: Option<&str>) {
    match value {
        Some(value) => html.text(value),
        None => html.markup("<span class=soft>unknown</span>"),
    };
}

pub(super) fn format(time: Timestamp, how: &str) -> String {
    time.strftime(how).to_string()
}

pub(super) fn day(time: Timestamp) -> String {
    format(time, "%Y-%m-%d")
}

pub(super) fn minute(time: Timestamp) -> String {
    format(time, "%Y-%m-%d %H:%M UTC")
}

pub(super) fn seen(time: Option<Timestamp>) -> String {
    time.map_or_else(String::new, |time| format(time, "%Y-%m-%d %H:%M"))
}

/// Returns the age of a time in words.
pub(super) fn age(age: SignedDuration) -> String {
    let hours = age.as_hours();
    match hours {
        ..0 => "which is in the future".to_owned(),
        0 => "less than an hour earlier".to_owned(),
        1..48 => format!("{hours} hour{} earlier", if hours == 1 { "" } else { "s" }),
        _ => format!("{} days earlier", hours / 24),
    }
}
