//! The reference is complete and correct. The settings, functions, procedures, tables, views and columns of a running
//! server are compared with docs/settings.md, docs/reference.md and docs/tables.md, in both directions.

use std::collections::{BTreeMap, BTreeSet};

use server_tests::database::{bare_database, database};
use server_tests::documentation::{cells, code_spans, heading, page, prose};
use server_tests::{Database, shared};

const SETTINGS: &str = "docs/settings.md";
const FUNCTIONS: &str = "docs/reference.md";
const TABLES: &str = "docs/tables.md";

#[test]
fn every_setting_is_documented_as_the_server_has_it() {
    let mut db = bare_database(shared());
    let stranger = db.own_name("stranger");
    db.run(&format!("CREATE ROLE {stranger} LOGIN"));
    let ask = "SELECT name FROM pg_settings WHERE name LIKE 'cowrie\\_enrich.%' ORDER BY name";
    let everybody_sees: BTreeSet<String> = db.session_as(&stranger).rows(ask).into_iter().collect();
    db.run(&format!("DROP ROLE {stranger}"));

    let mut defined = BTreeSet::new();
    for row in db.rows(
        "SELECT name, vartype, coalesce(unit, ''), coalesce(boot_val, ''), coalesce(min_val, ''),
                coalesce(max_val, ''), array_to_string(coalesce(enumvals, '{}'), ','), context
         FROM pg_settings WHERE name LIKE 'cowrie\\_enrich.%' ORDER BY name",
    ) {
        let columns: Vec<&str> = row.split('|').collect();
        let [name, kind, unit, default, least, most, words, context] = columns[..] else {
            panic!("eight columns: {row}");
        };
        assert_eq!(context, "sighup", "{SETTINGS} says that a reload applies every setting: {name}");
        let kind = match (kind, unit) {
            ("integer", "s" | "ms") => format!("time, in {unit}"),
            ("integer" | "real", "") => kind.to_owned(),
            ("bool", "") => "boolean".to_owned(),
            ("enum", "") => "one of these".to_owned(),
            ("string", "") => "text".to_owned(),
            other => panic!("{name} is of a kind that has no word yet: {other:?}"),
        };
        let value = |v: &str| if unit.is_empty() { v.to_owned() } else { in_largest_unit(v, unit) };
        let default = if default.is_empty() { "none".to_owned() } else { format!("`{}`", value(default)) };
        let range = match (least, words) {
            ("", "") if kind == "boolean" => "`on`, `off`".to_owned(),
            ("", "") => String::new(),
            ("", words) => words.split(',').map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "),
            _ => format!("{} to {}", value(least), value(most)),
        };
        let seen = if everybody_sees.contains(name) { "all" } else { "superusers" };
        defined.insert(format!("| `{name}` | {kind} | {default} | {range} | {seen} |"));
    }
    assert!(defined.len() > 40, "the server knows {} settings of ours", defined.len());

    let documented: BTreeSet<String> = rows_of(&page(SETTINGS))
        .filter(|cells| cells[0].starts_with("`cowrie_enrich."))
        .map(|cells| {
            assert!(cells.len() == 6 && cells[5].len() > 10, "no word on what it is for: {cells:?}");
            format!("| {} |", cells[..5].join(" | "))
        })
        .collect();
    assert_same(SETTINGS, &defined, &documented);
}

/// The names of types that the server prints, and the names that the reference uses.
const SHORT_TYPES: &[(&str, &str)] = &[
    ("timestamp with time zone", "timestamptz"),
    ("double precision", "float8"),
    ("boolean", "bool"),
    ("integer", "int"),
    ("enrich.", ""),
];

fn short(text: &str) -> String {
    SHORT_TYPES.iter().fold(text.to_owned(), |text, (long, short)| text.replace(long, short))
}

/// Returns `name(argument type = default, …) → result`, from the catalogs.
fn signatures(db: &mut Database<'_>) -> BTreeSet<String> {
    db.rows(
        "SELECT p.proname || '(' || coalesce((
             SELECT string_agg(
                 coalesce(p.proargnames[n] || ' ', '') || format_type(p.proargtypes[n - 1], NULL)
                 || coalesce(' = ' || lower(regexp_replace(pg_get_function_arg_default(p.oid, n), '::.*', '')), ''),
                 ', ' ORDER BY n)
             FROM generate_series(1, p.pronargs::int) n), '') || ')'
             || CASE WHEN p.prokind = 'p' OR p.prorettype = 'void'::regtype THEN ''
                ELSE ' → ' || CASE WHEN p.proretset THEN 'setof ' ELSE '' END || format_type(p.prorettype, NULL) END
         FROM pg_proc p
         JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
         JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
         WHERE e.extname = 'cowrie_enrich'",
    )
    .iter()
    .map(|signature| short(signature))
    .collect()
}

#[test]
fn every_function_and_procedure_is_documented_with_its_arguments_and_nothing_else_is() {
    let mut db = database();
    db.run("SET search_path = pg_catalog");
    let defined = signatures(&mut db);
    assert!(defined.len() > 50, "{} functions", defined.len());
    let text = page(FUNCTIONS);
    let documented: BTreeSet<String> = rows_of(&text)
        .flat_map(|cells| code_spans(&cells[0]).into_iter().map(str::to_owned).collect::<Vec<_>>())
        .filter(|span| span.contains('('))
        .collect();
    assert_same(FUNCTIONS, &defined, &documented);
}

#[test]
fn every_table_and_view_is_documented_with_its_columns_and_nothing_else_is() {
    let mut db = database();
    db.run("SET search_path = pg_catalog");
    // The list includes functions whose result has columns, unless a view has the same name.
    let rows = db.rows(
        "WITH ours AS (
             SELECT d.classid, d.objid
             FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
             WHERE d.deptype = 'e' AND e.extname = 'cowrie_enrich')
         SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
         FROM ours o
         JOIN pg_class c ON o.classid = 'pg_class'::regclass AND c.oid = o.objid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         UNION ALL
         SELECT p.proname || '()', p.proargnames[n], format_type(p.proallargtypes[n], NULL)
         FROM ours o
         JOIN pg_proc p ON o.classid = 'pg_proc'::regclass AND p.oid = o.objid
         CROSS JOIN generate_subscripts(p.proargmodes, 1) n
         WHERE p.proargmodes[n] IN ('o', 't') AND p.prorettype = 'record'::regtype
           AND NOT EXISTS (SELECT FROM ours v JOIN pg_class c ON v.classid = 'pg_class'::regclass AND c.oid = v.objid
                           WHERE c.relname = p.proname)",
    );
    let defined: BTreeSet<String> = rows
        .iter()
        .map(|row| {
            let columns: Vec<&str> = row.split('|').collect();
            format!("{}.{} {}", columns[0], columns[1], short(columns[2]))
        })
        .collect();
    assert!(defined.len() > 150, "{} columns", defined.len());

    let mut documented = BTreeSet::new();
    for (relation, columns) in columns_by_heading(&page(TABLES)) {
        for (column, kind) in columns {
            documented.insert(format!("{relation}.{column} {kind}"));
        }
    }
    assert_same(TABLES, &defined, &documented);
}

/// Returns the columns that the page describes below each heading that is one name in backticks. A row of the page
/// has the name, type and meaning of a column, or of several columns of the same type.
fn columns_by_heading(text: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut relation = None;
    for (number, line) in prose(text) {
        if let Some((_, words)) = heading(line) {
            relation = words.strip_prefix('`').and_then(|w| w.strip_suffix('`')).map(str::to_owned);
            continue;
        }
        let (Some(relation), Some(cells)) = (&relation, cells(line)) else { continue };
        let names = code_spans(&cells[0]);
        if names.is_empty() {
            continue;
        }
        assert!(
            cells.len() == 3 && cells[2].len() > 3,
            "{TABLES}:{number}: column, type and meaning are due"
        );
        let columns = found.entry(relation.clone()).or_default();
        columns.extend(names.iter().map(|name| ((*name).to_owned(), cells[1].clone())));
    }
    found
}

fn rows_of(text: &str) -> impl Iterator<Item = Vec<String>> + '_ {
    prose(text).into_iter().filter_map(|(_, line)| cells(line))
}

#[track_caller]
fn assert_same(page: &str, defined: &BTreeSet<String>, documented: &BTreeSet<String>) {
    let missing: Vec<_> = defined.difference(documented).collect();
    let surplus: Vec<_> = documented.difference(defined).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "{page} lacks {missing:#?}\nand has what the server does not: {surplus:#?}"
    );
}

/// Returns `90d` for `7776000` of `s`: in the largest unit without a fraction, as the server prints it.
fn in_largest_unit(value: &str, unit: &str) -> String {
    let value: i64 = value.parse().expect("a number");
    let milliseconds = if unit == "s" { value * 1000 } else { value };
    [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)]
        .into_iter()
        .find(|(_, size)| milliseconds % size == 0)
        .map(|(name, size)| format!("{}{name}", milliseconds / size))
        .expect("milliseconds always fit")
}
