//! The networks with the most sessions, and the addresses that moved to another network.

use super::cells::{known, left_out, nothing, seen};
use crate::html::Html;
use crate::report::Report;
use crate::report::chart::{bar, percent};
use crate::report::sessions::{Mover, Network};

pub(super) fn networks(html: &mut Html, report: &Report) {
    html.markup("<section id=networks><h2>Networks with the most sessions</h2>\n");
    if nothing(html, report) {
        return;
    }
    if let Err(absent) = &report.networks {
        left_out(html, absent);
    }
    let listed = &report.sessions.networks;
    if listed.is_empty() {
        html.markup("<p class=note>No session has a known network.</p>\n</section>\n");
        return;
    }
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

pub(super) fn movers(html: &mut Html, report: &Report) {
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
    html.markup("<p class=note>An address that moved before its last session, and not since, counts as unchanged. The view <code>moved_addresses</code> has all moves.</p>\n");
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
