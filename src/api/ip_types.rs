//! Returns the types of addresses. The types come from lists in mmdb files and from stored answers.

use crate::document::{classification, enrichment, types};
use crate::mmdb::{self, Kind, LoadPolicy, published};
use crate::pg::clock;
use crate::pg::sql_function::Call;
use crate::pg::value::{Boolean, ToSql, Typed};
use crate::{error, guc, row, sql_function};

sql_function!(ip_type_entries_wrapper, pg_finfo_ip_type_entries_wrapper, ip_type_entries);
/// Returns one row for each list entry that contains the address. Returns no row if the address is a bogon.
fn ip_type_entries(call: &Call) {
    let statements = match call.inet(0) {
        None => Vec::new(),
        Some(inet) if !inet.is_host => error::not_a_host(inet.address),
        Some(inet) => mmdb::with(LoadPolicy::Import, |files| files.types().statements(inet.address)),
    };
    call.set(statements.into_iter().map(|statement| {
        row![
            Text: &statement.kind,
            Text: &statement.list,
            Text: statement.provider,
            Text: statement.region,
            Text: statement.service,
            Timestamptz: statement.published,
            Boolean: statement.is_usable,
        ]
    }));
}

sql_function!(
    contains_benign_scanner_wrapper,
    pg_finfo_contains_benign_scanner_wrapper,
    contains_benign_scanner
);
/// Returns true if a list names an address in this prefix as a known research scanner. Ignores lists that are too old.
fn contains_benign_scanner(call: &Call) -> Typed<Boolean> {
    let prefix = call.prefix(0);
    let contains = prefix.is_some_and(|prefix| {
        mmdb::with(LoadPolicy::Import, |files| files.types().contains_benign_scanner(prefix))
    });
    contains.to_sql()
}

sql_function!(ip_type_lists_wrapper, pg_finfo_ip_type_lists_wrapper, ip_type_lists);
/// Returns one row for each list in the mmdb files that are now loaded.
fn ip_type_lists(call: &Call) {
    let max_ages = guc::ip_type_max_ages();
    let now = clock::now();
    let lists = Kind::Types
        .files()
        .into_iter()
        .filter_map(|file| mmdb::status(file.id))
        .filter(mmdb::Status::serves)
        .flat_map(|status| status.lists);
    let rows: Vec<_> = lists
        .map(|list| {
            let max_age = i64::try_from(max_ages.of(&list.kind)).unwrap_or(i64::MAX);
            row![
                Text: &list.name,
                Text: &list.kind,
                Timestamptz: published(list.published),
                Bigint: max_age,
                Boolean: max_ages.allows(&list.kind, list.published, mmdb::unix_seconds(now)),
                Bigint: list.entries.and_then(|entries| i64::try_from(entries).ok()),
                Text: list.notice,
            ]
        })
        .collect();
    call.set(rows);
}

sql_function!(stored_types_of_wrapper, pg_finfo_stored_types_of_wrapper, stored_types_of);
/// Returns one row for each type that a document has for its address. The row contains the type and the source of the type.
fn stored_types_of(call: &Call) {
    let Some(document) = call.jsonb(0) else {
        call.set([]);
        return;
    };
    let spur = types::spur_types(document)
        .into_iter()
        .map(|kind| (kind, "spur", None, enrichment::answered_at(document, "spur")));
    let classified = classification::of(document)
        .map(|known| (known.kind.to_owned(), classification::KEY, known.provider, known.at));
    let rows: Vec<_> = spur
        .chain(classified)
        .map(|(kind, source, provider, at)| row![Text: kind, Text: source, Text: provider, Timestamptz: at])
        .collect();
    call.set(rows);
}
