//! The sessions by country: a map, and the countries with the most sessions.

use super::cells::{counted_cells, nothing};
use crate::html::Html;
use crate::report::Report;
use crate::report::chart::Classes;
use crate::report::sessions::Counted;
use crate::report::world::{Shape, World};

/// Number of countries in each of two lists below the map.
const COUNTRIES: usize = 15;

pub(super) fn map(html: &mut Html, report: &Report, world: &World) {
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
    if largest == 0 {
        html.markup("<p class=note>No session has a known country.</p>\n</section>\n");
        return;
    }
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
