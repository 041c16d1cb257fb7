//! The sessions by the type of their address and network, scanners, and sensors.

use super::cells::{counted_cells, counted_table, left_out, nothing};
use crate::html::Html;
use crate::report::Report;
use crate::report::sessions::Counts;

pub(super) fn kinds(html: &mut Html, report: &Report) {
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
        if sessions.without_address > 0 {
            html.markup("<p class=note>Sessions without a valid address, which are in none of these rows: ")
                .number(sessions.without_address)
                .markup(".</p>\n");
        }
    }
    html.markup("</section>\n");
}

pub(super) fn sensors(html: &mut Html, report: &Report) {
    html.markup("<section id=sensors><h2>Sensors</h2>\n");
    if nothing(html, report) {
        return;
    }
    match &report.sensors {
        Err(absent) => left_out(html, absent),
        Ok(()) => {
            if let Err(absent) = &report.sensor_names {
                left_out(html, absent);
            }
            counted_table(html, report, "sensor", &report.sessions.sensors, "no sensor");
        }
    }
    html.markup("</section>\n");
}
