//! The values that came from the most networks. Passwords are hidden unless the caller asks for them.

use super::cells::{left_out, nothing, seen};
use crate::html::Html;
use crate::report::campaigns::{Campaign, Kind};
use crate::report::passwords::MASK;
use crate::report::{Options, Report};

/// Number of rows with hidden passwords. Their numbers show whether there are campaigns.
const HIDDEN: usize = 5;
/// Title of the list of files.
const FILES: &str = "Downloaded files";

pub(super) fn campaigns(html: &mut Html, report: &Report, options: &Options) {
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
            if campaigns.passwords.is_err() {
                html.markup("<p class=note>Passwords in commands are not hidden, because this role may not read the passwords.</p>\n");
            }
            for list in &campaigns.lists {
                html.markup("<h3>").markup(list.kind.title).markup("</h3>\n");
                match &list.campaigns {
                    Err(absent) => left_out(html, absent),
                    Ok(rows) if rows.is_empty() => {
                        html.markup("<p class=note>None in this period.</p>\n");
                    }
                    Ok(rows) => campaign_table(html, list.kind, rows, options),
                }
                if let (FILES, Ok(sessions @ 1..)) = (list.kind.title, &report.failed_downloads) {
                    html.markup(
                        "<p class=note>Sessions with a download that stored no file, and so has no SHA-256: ",
                    )
                    .number(*sessions)
                    .markup(".</p>\n");
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
            _ => html.text_cut(&row.shown.text, row.shown.cut_from),
        };
        html.markup("<td class=n>").number(row.networks).markup("<td class=\"n opt\">").number(row.addresses);
        html.markup("<td class=n>").number(row.sessions);
        html.markup("<td class=\"d opt\">").plain(&seen(row.first_seen));
        html.markup("<td class=\"d opt\">").plain(&seen(row.last_seen)).markup("</tr>\n");
    }
    html.markup("</table></div>\n");
    if is_hidden && rows.len() > HIDDEN {
        html.markup("<p class=note>This list has only five rows while passwords are hidden.</p>\n");
    }
}
