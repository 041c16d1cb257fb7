//! Lays out a report as one page. It has no script and refers to no other file. Its policy forbids both, and allows only
//! the style that is on the page.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use super::campaigns::{Campaign, Campaigns, Kind};
use super::chart::{Classes, bar, percent, share, top_of_scale};
use super::sessions::{Counted, Counts, Mover, Network};
use super::sources::Sources;
use super::timeline::{Bucket, Timeline};
use super::world::{Shape, World};
use super::{Absent, Options, Report};
use crate::html::Html;

const STYLE: &str = include_str!("style.css");
/// Shown instead of a password. It does not show the length of the password.
const MASK: &str = "••••••••";
/// Number of rows with hidden passwords. Their numbers show whether there are campaigns.
const HIDDEN: usize = 5;
/// Number of countries in each of two lists below the map.
const COUNTRIES: usize = 15;

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
    map(&mut html, report, &world);
    timeline(&mut html, report);
    networks(&mut html, report);
    kinds(&mut html, report);
    movers(&mut html, report);
    campaigns(&mut html, report, options);
    sensors(&mut html, report);
    sources(&mut html, &report.sources);
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

fn map(html: &mut Html, report: &Report, world: &World) {
    html.markup("<section id=map><h2>Sessions by country</h2>\n");
    let countries = &report.sessions.countries;
    if nothing(html, report) {
        return;
    }
    let known = |country: &&Counted| country.value.is_some();
    let largest = countries.iter().filter(known).map(|country| country.counts.sessions).max().unwrap_or(0);
    let classes = Classes::of(largest);
    html.markup("<svg class=map role=img aria-label=\"World map of sessions by country\" viewBox=\"0 0 ")
        .plain(world.width)
        .markup(" ")
        .plain(world.height)
        .markup("\">\n<path d=\"")
        .plain(world.other_land)
        .markup("\"/>\n");
    let counts_of = |code: &str| {
        countries.iter().find(|country| country.value.as_deref() == Some(code)).map(|country| country.counts)
    };
    // Dots are drawn last, so that no neighbour covers them.
    for dots in [false, true] {
        for country in
            world.countries.iter().filter(|country| matches!(country.shape, Shape::Dot(..)) == dots)
        {
            let counts = counts_of(country.code);
            let class = counts.map_or("", |counts| classes.markup(counts.sessions));
            match country.shape {
                Shape::Path(path) => {
                    html.markup("<path").markup(class).markup(" d=\"").plain(path).markup("\">")
                }
                Shape::Dot(x, y) => html
                    .markup("<circle")
                    .markup(class)
                    .markup(" cx=")
                    .plain(x)
                    .markup(" cy=")
                    .plain(y)
                    .markup(if counts.is_some() { " r=9>" } else { " r=3>" }),
            };
            html.markup("<title>").plain(country.name).markup(": ");
            html.number(counts.unwrap_or_default().sessions).markup(" sessions</title>");
            html.markup(if dots { "</circle>\n" } else { "</path>\n" });
        }
    }
    html.markup("</svg>\n<ul class=legend>");
    for (number, text) in classes.legend() {
        html.markup("<li><i").markup(classes.markup(number)).markup("></i>").plain(&text).markup("</li>");
    }
    html.markup("<li><i class=none></i>no session</li></ul>\n");
    html.markup("<div class=two><div>");
    let listed: Vec<&Counted> = countries.iter().filter(known).take(2 * COUNTRIES).collect();
    let (first, rest) = listed.split_at(listed.len().min(COUNTRIES));
    country_table(html, report, world, first, largest);
    if !rest.is_empty() {
        html.markup("</div><div>");
        country_table(html, report, world, rest, largest);
    }
    html.markup("</div></div>\n");
    let more = countries.iter().filter(known).count().saturating_sub(listed.len());
    if more > 0 {
        html.markup("<p class=note>")
            .number(more as u64)
            .markup(" more countries have fewer sessions.</p>\n");
    }
    html.markup("</section>\n");
}

fn country_table(html: &mut Html, report: &Report, world: &World, countries: &[&Counted], largest: u64) {
    html.markup(
        "<table><tr><th>country<th class=n>sessions<th class=n>share<th class=\"n opt\">addresses<th></tr>\n",
    );
    for country in countries {
        let code = country.value.as_deref().unwrap_or_default();
        html.markup("<tr><td class=w>");
        match world.name(code) {
            Some(name) => html.plain(name),
            None => html.text(code),
        };
        counted_cells(html, country.counts, report.sessions.total.sessions, largest);
    }
    html.markup("</table>");
}

/// Appends the cells of counts: sessions, share, addresses and a bar.
fn counted_cells(html: &mut Html, counts: Counts, total: u64, largest: u64) {
    html.markup("<td class=n>")
        .number(counts.sessions)
        .markup("<td class=n>")
        .plain(&percent(counts.sessions, total));
    html.markup("<td class=\"n opt\">").number(counts.addresses).markup("<td class=b>");
    bar(html, counts.sessions, largest);
    html.markup("</tr>\n");
}

fn timeline(html: &mut Html, report: &Report) {
    html.markup("<section id=timeline><h2>Sessions over time</h2>\n");
    match &report.timeline {
        Err(absent) => left_out(html, absent),
        Ok(timeline) => plot(html, timeline),
    }
    html.markup("</section>\n");
}

fn plot(html: &mut Html, timeline: &Timeline) {
    let top = top_of_scale(timeline.buckets.iter().map(|(_, counts)| counts.sessions).max().unwrap_or(0));
    html.markup("<ul class=legend><li><i class=i-bar></i>sessions per ").markup(timeline.bucket.name());
    html.markup(
        "</li><li><i class=i-deep></i>distinct addresses</li></ul>\n<div class=plot><div class=ticks><span>",
    );
    html.number(top).markup("</span><span>").number(top / 2).markup("</span><span>0</span></div>");
    html.markup(
        "<svg role=img aria-label=\"Sessions over time\" preserveAspectRatio=none viewBox=\"0 0 1000 100\">",
    );
    html.markup("<line x1=0 x2=1000 y1=0 y2=0 /><line x1=0 x2=1000 y1=50 y2=50 />");
    let width = 1000.0 / timeline.buckets.len().max(1) as f64;
    for (place, (start, counts)) in
        timeline.buckets.iter().enumerate().filter(|(_, (_, counts))| counts.sessions > 0)
    {
        html.markup("<g><title>")
            .plain(&bucket_name(timeline.bucket, *start))
            .markup(": ")
            .number(counts.sessions);
        html.markup(" sessions, ").number(counts.addresses).markup(" addresses</title>");
        for (class, number) in [("<rect class=s x=", counts.sessions), ("<rect class=a x=", counts.addresses)]
        {
            let height = share(number, top) * 100.0;
            html.markup(class)
                .value(place as f64 * width + width * 0.08)
                .markup(" width=")
                .value(width * 0.84);
            html.markup(" y=").value(100.0 - height).markup(" height=").value(height).markup(" />");
        }
        html.markup("</g>");
    }
    html.markup("</svg><div class=dates>");
    let last = timeline.buckets.len().saturating_sub(1);
    let mut shown: Vec<usize> = [0, last / 2, last].into();
    shown.dedup();
    for place in shown {
        if let Some((start, _)) = timeline.buckets.get(place) {
            html.markup("<span>").plain(&bucket_name(timeline.bucket, *start)).markup("</span>");
        }
    }
    html.markup("</div></div>\n");
}

fn bucket_name(bucket: Bucket, start: Timestamp) -> String {
    match bucket {
        Bucket::Hour => format(start, "%Y-%m-%d %H:00"),
        Bucket::Day | Bucket::Week => day(start),
        Bucket::Month => format(start, "%Y-%m"),
    }
}

fn networks(html: &mut Html, report: &Report) {
    html.markup("<section id=networks><h2>Networks with the most sessions</h2>\n");
    if nothing(html, report) {
        return;
    }
    if let Err(absent) = &report.networks {
        left_out(html, absent);
    }
    let listed = &report.sessions.networks;
    let largest = listed.first().map_or(0, |network| network.counts.sessions);
    html.markup("<div class=scroll><table><tr><th class=n>AS<th>organisation<th>type<th class=opt>registry");
    html.markup("<th class=opt>countries<th class=n>sessions<th class=\"n opt\">share<th class=\"n opt\">addresses<th class=opt></tr>\n");
    for network in listed {
        network_row(html, network, report.sessions.total.sessions, largest);
    }
    html.markup("</table></div>\n");
    let more = report.sessions.networks_total.saturating_sub(listed.len() as u64);
    if more > 0 {
        html.markup("<p class=note>").number(more).markup(" more networks have fewer sessions.</p>\n");
    }
    html.markup("</section>\n");
}

fn network_row(html: &mut Html, network: &Network, total: u64, largest: u64) {
    html.markup("<tr><td class=n>").plain(&network.asn.map(|asn| asn.to_string()).unwrap_or_default());
    html.markup("<td class=w>");
    known(html, network.name.as_deref());
    html.markup("<td class=k>");
    known(html, network.kind.as_deref());
    html.markup("<td class=\"k opt\">");
    known(html, network.registry.as_deref());
    html.markup("<td class=opt>");
    const FEW: usize = 4;
    for (place, country) in network.countries.iter().take(FEW).enumerate() {
        html.markup(if place > 0 { ", " } else { "" }).text_up_to(8, country);
    }
    if network.countries.len() > FEW {
        html.markup(" and ").number((network.countries.len() - FEW) as u64).markup(" more");
    }
    html.markup("<td class=n>").number(network.counts.sessions).markup("<td class=\"n opt\">");
    html.plain(&percent(network.counts.sessions, total))
        .markup("<td class=\"n opt\">")
        .number(network.counts.addresses);
    html.markup("<td class=\"b opt\">");
    bar(html, network.counts.sessions, largest);
    html.markup("</tr>\n");
}

fn kinds(html: &mut Html, report: &Report) {
    html.markup("<section id=kinds><h2>Kinds of addresses</h2>\n");
    if nothing(html, report) {
        return;
    }
    let sessions = &report.sessions;
    html.markup("<div class=two><div><h3>Type of the address at the time of the session</h3>\n");
    counted_table(html, report, "type", &sessions.kinds, "no source named a type");
    html.markup("</div><div><h3>Type of the network</h3>\n");
    match &report.networks {
        Ok(()) => counted_table(html, report, "type", &sessions.network_kinds, "unknown"),
        Err(absent) => left_out(html, absent),
    }
    html.markup("</div></div>\n<h3 id=scanners>Scanners and the rest</h3>\n");
    if let Err(absent) = &report.addresses {
        left_out(html, absent);
    } else {
        html.markup("<p class=note>A scanner is an address that GreyNoise has seen scan the Internet.</p>\n");
        html.markup("<div class=two><div><table><tr><th>addresses<th class=n>sessions<th class=n>share<th class=\"n opt\">addresses<th></tr>\n");
        let total = sessions.total.sessions;
        let names = ["scanners", "the rest", "not in the inventory"];
        for (name, counts) in names.into_iter().zip(sessions.scanners) {
            if counts != Counts::default() {
                html.markup("<tr><td class=w>").markup(name);
                counted_cells(html, counts, total, total);
            }
        }
        html.markup("</table></div></div>\n");
    }
    html.markup("</section>\n");
}

fn counted_table(
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

fn movers(html: &mut Html, report: &Report) {
    html.markup("<section id=movers><h2>Addresses that moved</h2>\n");
    if nothing(html, report) {
        return;
    }
    let movers = &report.sessions.movers;
    if let Err(absent) = &report.addresses {
        left_out(html, absent);
        html.markup("</section>\n");
        return;
    }
    html.markup("<p>Now in another network than at the last session: <b>")
        .number(movers.changed_network.addresses);
    html.markup("</b> addresses with ").number(movers.changed_network.sessions).markup(" sessions. ");
    html.markup("In the same network, but another country: <b>").number(movers.changed_country.addresses);
    html.markup("</b> addresses with ")
        .number(movers.changed_country.sessions)
        .markup(" sessions. Unchanged: ");
    html.number(movers.stable.addresses).markup(" addresses. Not comparable, because a value is unknown: ");
    html.number(movers.unknown.addresses).markup(" addresses.</p>\n");
    if !movers.first.is_empty() {
        html.markup("<p class=note>An address that moved to another network belongs to someone else now. Do not block it because of these sessions.</p>\n");
        html.markup("<div class=scroll><table><tr><th>address<th>then<th>now<th class=n>sessions<th class=opt>last session</tr>\n");
        for mover in &movers.first {
            mover_row(html, mover);
        }
        html.markup("</table></div>\n");
    }
    html.markup("</section>\n");
}

fn mover_row(html: &mut Html, mover: &Mover) {
    html.markup("<tr><td class=m>").plain(&mover.address.to_string());
    for (asn, name, country) in [
        (mover.asn_then, &mover.name_then, &mover.country_then),
        (mover.asn_now, &mover.name_now, &mover.country_now),
    ] {
        html.markup("<td class=w>");
        if let Some(asn) = asn {
            html.markup("AS").plain(&asn.to_string()).markup(" ");
        }
        if let Some(name) = name {
            html.text_up_to(60, name).markup(" ");
        }
        html.markup("<span class=soft>");
        known(html, country.as_deref());
        html.markup("</span>");
    }
    html.markup("<td class=n>")
        .number(mover.sessions)
        .markup("<td class=\"d opt\">")
        .plain(&seen(mover.last_seen))
        .markup("</tr>\n");
}

fn campaigns(html: &mut Html, report: &Report, options: &Options) {
    html.markup("<section id=campaigns><h2>Campaigns</h2>\n");
    if nothing(html, report) {
        return;
    }
    match &report.campaigns {
        Err(absent) => left_out(html, absent),
        Ok(campaigns) => {
            html.markup("<p class=note>A value that comes from many networks points to a campaign. The values from the most networks come first. ");
            html.markup(if options.shows_passwords {
                "</p>\n"
            } else {
                "Passwords are hidden: <code>--show-passwords</code> shows them.</p>\n"
            });
            for list in &campaigns.lists {
                html.markup("<h3>").markup(list.kind.title).markup("</h3>\n");
                match &list.campaigns {
                    Err(absent) => left_out(html, absent),
                    Ok(rows) if rows.is_empty() => {
                        html.markup("<p class=note>None in this period.</p>\n");
                    }
                    Ok(rows) => campaign_table(html, list.kind, rows, options),
                }
            }
        }
    }
    html.markup("</section>\n");
}

fn campaign_table(html: &mut Html, kind: &Kind, rows: &[Campaign], options: &Options) {
    html.markup("<div class=scroll><table><tr><th>").markup(kind.heading);
    html.markup("<th class=n>networks<th class=\"n opt\">addresses<th class=n>sessions<th class=opt>first session<th class=opt>last session</tr>\n");
    let is_hidden = kind.is_password && !options.shows_passwords;
    for row in rows.iter().take(if is_hidden { HIDDEN } else { rows.len() }) {
        html.markup("<tr><td class=m>");
        match &row.value[..] {
            _ if is_hidden => html.markup(MASK),
            "" => html.markup("<span class=soft>empty</span>"),
            value => html.text_up_to(160, value),
        };
        html.markup("<td class=n>").number(row.networks).markup("<td class=\"n opt\">").number(row.addresses);
        html.markup("<td class=n>").number(row.sessions);
        html.markup("<td class=\"d opt\">").plain(&seen(row.first_seen));
        html.markup("<td class=\"d opt\">").plain(&seen(row.last_seen)).markup("</tr>\n");
    }
    html.markup("</table></div>\n");
}

fn sensors(html: &mut Html, report: &Report) {
    html.markup("<section id=sensors><h2>Sensors</h2>\n");
    if nothing(html, report) {
        return;
    }
    match &report.sensors {
        Err(absent) => left_out(html, absent),
        Ok(()) => counted_table(html, report, "sensor", &report.sessions.sensors, "no sensor"),
    }
    html.markup("</section>\n");
}

fn sources(html: &mut Html, sources: &Sources) {
    html.markup(
        "<section id=sources><h2>Sources of the data</h2>\n<h3>Files that the server uses now</h3>\n",
    );
    match &sources.files {
        Err(absent) => left_out(html, absent),
        Ok(files) if files.is_empty() => {
            html.markup("<p class=note>None.</p>\n");
        }
        Ok(files) => {
            html.markup("<div class=scroll><table><tr><th>vendor<th>file<th>used for<th>built<th class=opt>problem</tr>\n");
            for file in files {
                html.markup("<tr><td class=w>");
                known(html, file.vendor.as_deref());
                html.markup("<td>");
                known(html, file.database_type.as_deref());
                html.markup("<td>").text(match &file.kind[..] {
                    "city" => "places",
                    "asn" => "networks",
                    kind => kind,
                });
                html.markup("<td class=d>").plain(&seen(file.built_at)).markup("<td class=opt>");
                html.text(file.error.as_deref().unwrap_or_default()).markup("</tr>\n");
            }
            html.markup("</table></div>\n");
        }
    }
    html.markup("<h3>Stored data about addresses</h3>\n");
    match &sources.stored {
        Err(absent) => left_out(html, absent),
        Ok(stored) if stored.is_empty() => {
            html.markup("<p class=note>None.</p>\n");
        }
        Ok(stored) => {
            html.markup("<table><tr><th>source<th>vendor<th class=n>addresses<th>newest data</tr>\n");
            for source in stored {
                html.markup("<tr><td>").markup(match &source.source[..] {
                    "maxmind" => "mmdb files",
                    "cymru" => "Team Cymru",
                    "greynoise" => "GreyNoise",
                    "dshield" => "DShield (SANS ISC)",
                    "spur" => "SPUR",
                    _ => "another source",
                });
                html.markup("<td class=w>").text(source.vendor.as_deref().unwrap_or_default());
                html.markup("<td class=n>")
                    .number(source.addresses)
                    .markup("<td class=d>")
                    .plain(&seen(source.newest));
                html.markup("</tr>\n");
            }
            html.markup("</table>\n");
        }
    }
    type_lists(html, sources);
    html.markup("<h3>Notices</h3>\n<ul>");
    for notice in sources.notices() {
        html.markup("<li>")
            .plain(notice.text)
            .markup(", <a rel=\"noopener noreferrer\" href=\"")
            .plain(notice.link);
        html.markup("\">").plain(notice.link).markup("</a></li>\n");
    }
    let lists = sources.lists.iter().flatten();
    for (list, notice) in lists.filter_map(|list| Some((list, list.notice.as_deref()?))) {
        html.markup("<li>").text(&list.list).markup(": ").text_up_to(600, notice);
        html.markup(", ").plain(&seen(list.published_at)).markup("</li>\n");
    }
    html.markup("<li>Map: Natural Earth, public domain</li></ul>\n</section>\n");
}

fn type_lists(html: &mut Html, sources: &Sources) {
    html.markup("<h3>Lists of types of addresses</h3>\n");
    match &sources.lists {
        Err(absent) => left_out(html, absent),
        Ok(lists) if lists.is_empty() => {
            html.markup("<p class=note>None.</p>\n");
        }
        Ok(lists) => {
            html.markup("<div class=scroll><table><tr><th>list<th>type<th>published<th>state</tr>\n");
            for list in lists {
                html.markup("<tr><td class=w>")
                    .text(&list.list)
                    .markup("<td>")
                    .text(&list.kind)
                    .markup("<td class=d>");
                html.plain(&seen(list.published_at));
                html.markup(if list.is_usable { "<td>in use</tr>\n" } else { "<td>too old</tr>\n" });
            }
            html.markup("</table></div>\n");
        }
    }
}

/// Ends a section if the period has no session. Returns whether it has none.
fn nothing(html: &mut Html, report: &Report) -> bool {
    let is_empty = report.sessions.total.sessions == 0;
    if is_empty {
        html.markup("<p class=note>No session in this period.</p></section>\n");
    }
    is_empty
}

fn left_out(html: &mut Html, absent: &Absent) {
    html.markup("<p class=note>").text_up_to(400, &absent.0).markup("</p>\n");
}

fn known(html: &mut Html, value: Option<&str>) {
    match value {
        Some(value) => html.text(value),
        None => html.markup("<span class=soft>unknown</span>"),
    };
}

fn format(time: Timestamp, how: &str) -> String {
    time.strftime(how).to_string()
}

fn day(time: Timestamp) -> String {
    format(time, "%Y-%m-%d")
}

fn minute(time: Timestamp) -> String {
    format(time, "%Y-%m-%d %H:%M UTC")
}

fn seen(time: Option<Timestamp>) -> String {
    time.map_or_else(String::new, |time| format(time, "%Y-%m-%d %H:%M"))
}

/// Returns the age of a time in words.
fn age(age: SignedDuration) -> String {
    let hours = age.as_hours();
    match hours {
        ..0 => "which is in the future".to_owned(),
        0 => "less than an hour earlier".to_owned(),
        1..48 => format!("{hours} hour{} earlier", if hours == 1 { "" } else { "s" }),
        _ => format!("{} days earlier", hours / 24),
    }
}
