//! The sessions over time: a plot of bars without a script.

use jiff::Timestamp;

use super::cells::{day, format, left_out};
use crate::html::Html;
use crate::report::Report;
use crate::report::chart::{share, top_of_scale};
use crate::report::timeline::{Bucket, Timeline};

pub(super) fn timeline(html: &mut Html, report: &Report) {
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
