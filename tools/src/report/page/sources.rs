//! The files, lists and providers whose data the page shows, and the notices that their licences require.

use super::cells::{known, left_out, seen};
use crate::html::Html;
use crate::report::sources::Sources;

pub(super) fn sources(html: &mut Html, sources: &Sources) {
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
            html.markup(
                "<div class=scroll><table><tr><th>source<th>vendor<th class=n>addresses<th>newest data</tr>\n",
            );
            for source in stored {
                html.markup("<tr><td>").markup(match &source.source[..] {
                    "maxmind" => "mmdb files",
                    "cymru" => "Team Cymru",
                    "greynoise" => "GreyNoise",
                    "dshield" => "DShield (SANS ISC)",
                    "spur" => "SPUR",
                    _ => "another source",
                });
                html.markup("<td>").text(source.vendor.as_deref().unwrap_or_default());
                html.markup("<td class=n>")
                    .number(source.addresses)
                    .markup("<td class=d>")
                    .plain(&seen(source.newest));
                html.markup("</tr>\n");
            }
            html.markup("</table></div>\n");
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
