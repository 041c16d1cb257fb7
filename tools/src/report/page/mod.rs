//! Lays out a report as one page. It has no script and refers to no other file. Its policy forbids both, and allows only
//! the style that is on the page.
//!
//! This module writes the frame of the page, its heading and its headline figures. Each other section has a module, and
//! [`cells`] has the parts that the sections share.

mod campaigns;
mod cells;
mod kinds;
mod map;
mod networks;
mod sources;
mod timeline;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};

use super::campaigns::Campaigns;
use super::world::World;
use super::{Options, Report};
use crate::html::Html;
use cells::{age, day, minute};

const STYLE: &str = include_str!("style.css");

/// Returns the page.
pub fn page(report: &Report, options: &Options) -> String {
    let mut html = Html::default();
    html.markup("<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n");
    // The policy has the hash of the style, so the browser applies no other style.
    html.markup("<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'sha256-")
        .plain(&BASE64.encode(Sha256::digest(STYLE)))
        .markup("'; base-uri 'none'; form-action 'none'\">\n")
        .markup("<meta name=viewport content=\"width=device-width, initial-scale=1\">\n")
        .markup("<meta name=referrer content=no-referrer>\n<meta name=robots content=noindex>\n")
        .markup("<title>Honeypot report of ")
        .plain(&day(report.written_at))
        .markup("</title>\n<style>")
        .markup(STYLE)
        .markup("</style>\n</head>\n<body>\n");
    header(&mut html, report, options);
    figures(&mut html, report);
    let world = World::load();
    map::map(&mut html, report, &world);
    timeline::timeline(&mut html, report);
    networks::networks(&mut html, report);
    kinds::kinds(&mut html, report);
    networks::movers(&mut html, report);
    campaigns::campaigns(&mut html, report, options);
    kinds::sensors(&mut html, report);
    sources::sources(&mut html, &report.sources);
    html.markup("<footer><p>Written by cowrie-report ")
        .plain(env!("CARGO_PKG_VERSION"))
        .markup(
            ". All numbers are of one snapshot of the database. Times are in UTC. Texts from attackers are shown as text: \
             invisible characters appear as codes, and long texts are cut.</p></footer>\n</body>\n</html>\n",
        );
    html.into_string()
}

fn header(html: &mut Html, report: &Report, options: &Options) {
    html.markup("<header><h1>Honeypot report</h1>\n<p>Sessions of ").text(&report.table);
    match (report.period.since, report.period.until) {
        (None, None) => html.markup(", all times"),
        (Some(since), None) => html.markup(" since ").plain(&minute(since)),
        (None, Some(until)) => html.markup(" before ").plain(&minute(until)),
        (Some(since), Some(until)) => {
            html.markup(" from ").plain(&minute(since)).markup(" to ").plain(&minute(until))
        }
    };
    html.markup(".</p>\n<p class=soft>Written at <time>")
        .plain(&minute(report.written_at))
        .markup("</time> from database ");
    html.text(&report.database).markup(" by role ").text(&report.role).markup(".");
    if let Some(last) = report.sessions.last_seen {
        html.markup(" The newest session of this page began at ").plain(&minute(last)).markup(", ");
        html.plain(&age(report.written_at.duration_since(last))).markup(".");
    }
    html.markup("</p>\n");
    if let Some(every) = options.renewed_every {
        let due = report.written_at.saturating_add(every).unwrap_or(report.written_at);
        html.markup("<p class=due>The next page is due by ").plain(&minute(due)).markup(
            ". If this time is past, the last run has failed: see <code>systemctl status cowrie-report</code>.</p>\n",
        );
    }
    html.markup("</header>\n");
}

fn figures(html: &mut Html, report: &Report) {
    let sessions = &report.sessions;
    html.markup("<ul class=figures>");
    let mut figure = |number: u64, what: &'static str| {
        html.markup("<li><b>").number(number).markup("</b><span>").markup(what).markup("</span></li>");
    };
    figure(sessions.total.sessions, "sessions");
    figure(sessions.total.addresses, "addresses");
    figure(sessions.networks_total, "networks");
    figure(sessions.countries_total, "countries");
    if report.sensors.is_ok() {
        figure(sessions.sensors.iter().filter(|sensor| sensor.value.is_some()).count() as u64, "sensors");
    }
    if let Ok(Campaigns { logins: Ok(logins), .. }) = &report.campaigns {
        figure(logins.attempts, "login attempts");
        figure(logins.successful, "successful logins");
    }
    html.markup("</ul>\n<p class=soft>");
    html.markup("Countries, networks and types are those at the time of each session. ");
    let unknown = [
        (sessions.without_network, " without a known network"),
        (sessions.without_country, " without a known country"),
        (sessions.without_address, " without a valid address"),
        (if report.has_time { sessions.without_time } else { 0 }, " without a plausible time"),
    ];
    let mut unknown = unknown.iter().filter(|(sessions, _)| *sessions > 0).peekable();
    if unknown.peek().is_some() {
        html.markup("Sessions");
        let mut separator = " ";
        for (number, what) in unknown {
            html.markup(separator).markup(what.trim_start()).markup(": ").number(*number);
            separator = ", ";
        }
        html.markup(".");
    }
    html.markup("</p>\n");
}
