//! Builds the inventory of networks from the addresses in ip_inventory.
//!
//! One pass reads ip_inventory in key order. After the pass, edits of `known_networks` are applied, missing registries are filled,
//! and finally counts are corrected. Inside a transaction block, the whole pass is one batch. Networks must be locked before
//! addresses, and all locks are held until the end of the transaction. So the batch writes all networks before it writes the first
//! address. Folding would lock networks again, so the changes of the counts are not folded inside a transaction block.

use std::collections::BTreeSet;

use cowrie_enrich_engine::address::{self, Address};

use super::{Options, Procedure, Run, run};
use crate::error;
use crate::pg::jsonb::{self, Value};
use crate::pg::role::acting_as;
use crate::pg::spi::Connection;
use crate::pg::sql_function::Call;
use crate::pg::value::{Jsonb, Typed};
use crate::pg::varlena::OwnedVarlena;
use crate::pg::{self, Oid, check_for_interrupts};
use crate::store::build_asn_inventory::{self, DocumentBatch, PageRejections, WrittenRanks};
use crate::store::{fold, network_registries, procedure_call, reclassification, refresh_session_counts};

const PROCEDURE: Procedure = Procedure::BuildAsnInventory;
const BATCH_SIZES: (i64, i64) = (1, 1_000_000);
/// The counts are folded each time this number of addresses was assigned to networks. The number is limited, because a fold holds a
/// part of its data in memory.
const FOLDED_TOGETHER: usize = 100_000;
/// Maximum number of skipped addresses that a verbose call shows for each batch.
const SHOWN: usize = 10;

/// The options of a call.
struct BuildOptions {
    batch_size: i64,
    is_verbose: bool,
    /// True if the whole call runs in one transaction.
    is_atomic: bool,
}

/// The position of a call and its counts. Each batch stores them. If a call is killed, the next call continues at this position,
/// and its final counts include the work of the killed call.
#[derive(Default)]
struct BuildProgress {
    last: Option<Address>,
    scanned: i64,
    created: i64,
    updated: i64,
    skipped: i64,
    faulty: i64,
    ranks: WrittenRanks,
    /// Number of addresses that were assigned to networks after the last fold.
    placed: usize,
    /// The networks that this call created or changed. They are stored here, so that each network is counted only once.
    touched: BTreeSet<i64>,
}

/// Entry point of `build_asn_inventory()`.
pub fn build(call: &Call) {
    let Some(batch_size) = call.integer(0).map(i64::from) else { error::null_argument("batch_size") };
    if !(BATCH_SIZES.0..=BATCH_SIZES.1).contains(&batch_size) {
        error::out_of_range("batch_size", batch_size, BATCH_SIZES);
    }
    let Some(progress) = call.boolean(1) else { error::null_argument("progress") };
    let Some(is_verbose) = call.boolean(2) else { error::null_argument("verbose") };
    let build_options = BuildOptions { batch_size, is_verbose, is_atomic: call.is_atomic() };
    let options = Options { procedure: PROCEDURE, relation: Oid::INVALID, progress, needs_commits: false };
    run(call, &options, |run| {
        let mut state = read_addresses(run, &build_options);
        reclassify(run, &mut state);
        fill_registries(run, &mut state);
        let (unique, corrected) = count(run, &build_options);
        if state.faulty > 0 {
            let message = format!(
                "{}: the enrichment documents of {} addresses are invalid, or partly invalid",
                PROCEDURE.name(),
                state.faulty
            );
            pg::warning(
                &message,
                "The procedure ignored the invalid parts. The table rejected_row lists these addresses.",
            );
        }
        vec![
            ("scanned", state.scanned),
            ("unique", unique),
            ("created", state.created),
            ("updated", state.updated),
            ("skipped", state.skipped),
            ("corrected", corrected),
        ]
    });
}

fn read_addresses(run: &mut Run, build_options: &BuildOptions) -> BuildProgress {
    let mut state = run.resume_at().map(BuildProgress::resumed).unwrap_or_default();
    if let Some(last) = state.last {
        pg::notice(&format!("{}: continues after {last}, where an earlier call stopped", PROCEDURE.name()));
    }
    let connection = run.connection;
    let left = acting_as(run.oids.owner, || build_asn_inventory::left(connection, state.last));
    run.begin("addresses", left);
    let mut is_over = false;
    while !is_over {
        run.batch_resumable(|connection| {
            let scanned = batch(connection, build_options, &mut state);
            is_over = build_options.is_atomic || scanned < build_options.batch_size;
            (scanned, Some(state.written()))
        });
        if state.placed >= FOLDED_TOGETHER && !build_options.is_atomic {
            fold::run(run.oids, true);
            state.placed = 0;
        }
    }
    state
}

/// Applies edits of `known_networks`, as the worker also does. This function waits for no lock, so it may run while addresses are
/// locked.
fn reclassify(run: &mut Run, state: &mut BuildProgress) {
    let (oids, connection) = (run.oids, run.connection);
    let pending = acting_as(oids.owner, || reclassification::pending(connection));
    run.begin("known networks", pending);
    let (mut after, mut blocked) = (Some(0), 0);
    while let Some(last) = after {
        run.batch(|connection| {
            let batch = reclassification::step(oids, connection, last);
            state.updated += batch.changed.iter().filter(|asn| state.touched.insert(**asn)).count() as i64;
            (after, blocked) = (batch.last, blocked + batch.blocked);
            batch.pending as i64
        });
    }
    if blocked > 0 {
        pg::notice(&format!(
            "{}: did not update the types of {blocked} networks, because other transactions have locked the rows of these networks",
            PROCEDURE.name()
        ));
    }
}

/// Fills missing registries from IANA's list of AS numbers. Waits for no lock, so it may run while addresses are locked.
fn fill_registries(run: &mut Run, state: &mut BuildProgress) {
    run.begin("registries", 0);
    let mut after = Some(0);
    while let Some(last) = after {
        run.batch(|connection| {
            let batch = network_registries::step(connection, last);
            state.updated += batch.changed.iter().filter(|asn| state.touched.insert(**asn)).count() as i64;
            after = batch.last;
            batch.read as i64
        });
    }
}

/// Processes one batch in one transaction. Returns the number of addresses that the batch read.
fn batch(connection: &Connection, build_options: &BuildOptions, state: &mut BuildProgress) -> i64 {
    let mut found = DocumentBatch::behind(state.last);
    let most = if build_options.is_atomic { i64::MAX } else { build_options.batch_size };
    let mut shown = 0;
    while found.scanned < most
        && let Some(rejections) = found.read_on(connection, most - found.scanned)
    {
        procedure_call::reject(connection, PROCEDURE.name(), &rejections.faulty);
        if build_options.is_verbose {
            shown += show(&rejections, SHOWN.saturating_sub(shown));
        }
        state.faulty += rejections.faulty.len() as i64;
        state.skipped += rejections.skipped.len() as i64;
        check_for_interrupts();
    }
    let scanned = found.scanned;
    (state.last, state.scanned) = (found.last, state.scanned + scanned);
    if scanned > 0 {
        let written = found.write(connection, &mut state.ranks);
        state.placed += written.placed;
        state.created += written.created.len() as i64;
        state.touched.extend(written.created);
        let updated = written.completed.into_iter().filter(|asn| state.touched.insert(*asn)).count();
        state.updated += updated as i64;
    }
    scanned
}

/// Shows some of the skipped addresses to the caller. Returns the number of addresses that were shown.
fn show(rejections: &PageRejections, most: usize) -> usize {
    for (address, why) in rejections.skipped.iter().take(most) {
        pg::notice(&format!("{}: skipped {address}: {why}", PROCEDURE.name()));
    }
    let more = rejections.skipped.len().saturating_sub(most);
    if more > 0 && most > 0 {
        pg::notice(&format!("{}: skipped {more} further addresses of this batch", PROCEDURE.name()));
    }
    rejections.skipped.len().min(most)
}

/// Corrects the counts of networks. Returns two numbers: the networks that have addresses, and the networks whose counts were
/// corrected.
fn count(run: &mut Run, build_options: &BuildOptions) -> (i64, i64) {
    run.begin("counts", 1);
    let (mut unique, mut corrected) = (0, 0);
    let oids = run.oids;
    run.batch(|connection| {
        corrected = refresh_session_counts::networks(oids, connection);
        unique = build_asn_inventory::in_use(connection);
        1
    });
    if !build_options.is_atomic {
        run.begin("folding", 0);
        fold::run(oids, true);
    }
    (unique, corrected)
}

impl BuildProgress {
    fn resumed(at: &OwnedVarlena) -> BuildProgress {
        let at = jsonb::container(at);
        let number = |key| match at.get(key) {
            Some(Value::Number(number)) => number.text().parse().unwrap_or_default(),
            _ => 0,
        };
        let Some(last) = at.text("last").and_then(|last| address::parse(last).ok().flatten()) else {
            return BuildProgress::default();
        };
        BuildProgress {
            last: Some(last),
            scanned: number("scanned"),
            created: number("created"),
            updated: number("updated"),
            skipped: number("skipped"),
            faulty: number("faulty"),
            ..BuildProgress::default()
        }
    }

    fn written(&self) -> Typed<Jsonb> {
        jsonb::object(|object| {
            if let Some(last) = self.last {
                object.text("last", &last.to_string());
            }
            object.number("scanned", self.scanned);
            object.number("created", self.created);
            object.number("updated", self.updated);
            object.number("skipped", self.skipped);
            object.number("faulty", self.faulty);
        })
    }
}
