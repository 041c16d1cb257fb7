//! The privileges of each kind of role on every object of the extension, compared with `privilege_matrix.txt`.
//!
//! The roles have the grants of the documentation, read from its pages. An object that is missing in the table fails
//! the test, and so does a row without an object. On any difference the whole actual table is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use server_tests::database::{bare_database, create_extension_as};
use server_tests::documentation::grants;
use server_tests::hosts::COWRIE;
use server_tests::{Database, Session, shared};

/// In the order of the table's columns.
const ROLES: [&str; 8] =
    ["stranger", "honeypot", "owner", "analyst", "operator", "worker", "extension", "superuser"];

/// A row of the table.
struct Expected {
    /// One cell for each role. A cell has a letter for each permitted action.
    cells: Vec<String>,
    /// The call, if the object can be called.
    call: String,
    /// How the call ends for roles that may call it: `ok`, or an SQLSTATE.
    end: String,
}

/// Reads rows `kind identity | cells | call | end`. All other lines begin with `#`.
fn table() -> BTreeMap<String, Expected> {
    let text = include_str!("privilege_matrix.txt");
    let rows = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    rows.map(|line| {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [object, cells, rest @ ..] = columns.as_slice() else { panic!("no row of the table: {line}") };
        let text = |n: usize| rest.get(n).copied().unwrap_or_default().to_owned();
        let cells = cells.split_whitespace().map(str::to_owned).collect();
        (
            object.split_whitespace().collect::<Vec<_>>().join(" "),
            Expected { cells, call: text(0), end: text(1) },
        )
    })
    .collect()
}

/// All objects of the extension, except row types of tables.
const OBJECTS: &str = "
    SELECT CASE WHEN p.oid IS NOT NULL THEN CASE p.prokind WHEN 'p' THEN 'procedure ' ELSE 'function ' END
                     || p.oid::regprocedure
                WHEN c.oid IS NOT NULL THEN CASE c.relkind WHEN 'v' THEN 'view ' WHEN 'r' THEN 'table '
                     WHEN 'S' THEN 'sequence ' ELSE 'relation ' END || c.oid::regclass
                ELSE pg_describe_object(d.classid, d.objid, 0) END
    FROM pg_depend d
    JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
    LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
    LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
    LEFT JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
    WHERE d.deptype = 'e' AND e.extname = 'cowrie_enrich'
      AND NOT (t.oid IS NOT NULL AND (t.typrelid <> 0 OR t.typelem <> 0))
    ORDER BY 1";

struct Scene {
    db: Database<'static>,
    sessions: Vec<Session>,
}

/// The kind of role that owns the extension.
#[derive(Clone, Copy, PartialEq)]
enum Owner {
    /// As the documentation sets it up.
    Role,
    Superuser,
}

/// Creates a database with the extension, and a connection of each role.
fn scene(owner: Owner) -> Scene {
    let mut db = bare_database(shared());
    let serial = db.name.rsplit('_').next().expect("a number").to_owned();
    let name = |role: &str| format!("matrix_{role}_{serial}");
    for role in &ROLES[..7] {
        db.run(&format!("DROP ROLE IF EXISTS {0}; CREATE ROLE {0} LOGIN", name(role)));
    }
    match owner {
        Owner::Role => create_extension_as(&mut db, &name("extension")),
        Owner::Superuser => db.run("CREATE SCHEMA enrich; CREATE EXTENSION cowrie_enrich SCHEMA enrich"),
    }
    COWRIE.create_attached(&mut db);
    db.run("CREATE TABLE auth (id int); CREATE TABLE other (id int, source_ip inet)");
    db.run(&format!("ALTER TABLE sessions OWNER TO {0}; ALTER TABLE other OWNER TO {0}", name("owner")));
    // Attaching creates an index in the schema of the table.
    db.run(&format!("GRANT CREATE ON SCHEMA public TO {}", name("owner")));
    db.run(&format!("GRANT USAGE ON SCHEMA enrich TO {}", name("stranger")));
    db.run(&format!("GRANT INSERT ON sessions TO {}", name("honeypot")));
    for (page, role, named) in [
        ("docs/security.md", "honeypot_tables", "owner"),
        ("docs/security.md", "honeypot_analyst", "analyst"),
        ("docs/analysis.md", "campaign_analyst", "analyst"),
        ("docs/security.md", "honeypot_operator", "operator"),
        ("docs/worker.md", "enrichment_worker", "worker"),
    ] {
        db.run(&grants(page, role, &name(named)));
    }
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    let mut names: Vec<String> = ROLES[..7].iter().map(|role| name(role)).collect();
    names.push("postgres".to_owned());
    let sessions = names.iter().map(|role| db.session_as(role)).collect();
    Scene { db, sessions }
}

/// Returns the actions on a relation and a statement for each.
fn actions(object: &str, relation: &str, column: &str) -> Vec<(char, String)> {
    let writes = [
        ('i', format!("INSERT INTO enrich.{relation} DEFAULT VALUES")),
        ('u', format!("UPDATE enrich.{relation} SET {column} = {column} WHERE false")),
        ('d', format!("DELETE FROM enrich.{relation} WHERE false")),
        ('t', format!("TRUNCATE enrich.{relation}")),
    ];
    let mut all = vec![('r', format!("SELECT * FROM enrich.{relation} LIMIT 1"))];
    if object.starts_with("table") {
        all.extend(writes);
    }
    all
}

const REFUSED: &str = "42501";

/// Kinds of objects that are tested by the call in the table. All other objects are relations.
const CALLED: [&str; 4] = ["function", "procedure", "type", "cast"];

#[test]
fn every_object_is_for_those_whom_the_table_says() {
    compare_with_the_table(Owner::Role);
}

/// If a superuser owns the extension, the role in the column `extension` has no privilege.
#[test]
fn every_object_is_for_those_whom_the_table_says_where_a_superuser_owns_the_extension() {
    compare_with_the_table(Owner::Superuser);
}

fn compare_with_the_table(owner: Owner) {
    let mut scene = scene(owner);
    let expected = table();
    scene.db.run("SET search_path = enrich");
    let objects = scene.db.rows(OBJECTS);
    let listed: BTreeSet<&str> = expected.keys().map(String::as_str).collect();
    let there: BTreeSet<&str> = objects.iter().map(String::as_str).collect();
    let mut differences: Vec<String> = Vec::new();
    differences.extend(there.difference(&listed).map(|object| format!("{object}: not in the table")));
    differences.extend(listed.difference(&there).map(|object| format!("{object}: not there")));
    let mut found = String::new();
    let mut calls = 0;
    for object in &objects {
        let nothing = Expected { cells: Vec::new(), call: String::new(), end: String::new() };
        let row = expected.get(object).unwrap_or(&nothing);
        let name = object.split_once(' ').map_or("", |(_, name)| name);
        let has_call = CALLED.iter().any(|kind| object.starts_with(kind));
        let statements = if has_call {
            vec![('x', row.call.clone())]
        } else {
            let column = scene.db.one(&format!(
                "SELECT attname FROM pg_attribute WHERE attrelid = 'enrich.{name}'::regclass AND attnum = 1"
            ));
            actions(object, name, &column)
        };
        let mut cells = Vec::new();
        let mut end = "ok".to_owned();
        for session in &mut scene.sessions {
            let mut may = String::new();
            for (letter, statement) in &statements {
                if statement.is_empty() {
                    continue;
                }
                calls += 1;
                match session.end_of(statement).as_str() {
                    REFUSED => {}
                    other => {
                        may.push(*letter);
                        if *letter == 'x' {
                            end = other.to_owned();
                        }
                    }
                }
            }
            cells.push(if may.is_empty() { "-".to_owned() } else { may });
        }
        let is_called = !row.call.is_empty();
        let mut expected_cells = row.cells.clone();
        if owner == Owner::Superuser
            && let [.., extension, _] = expected_cells.as_mut_slice()
        {
            // The role has no USAGE on the schema, so it cannot use the privileges of PUBLIC either.
            "-".clone_into(extension);
        }
        if cells != expected_cells || (is_called && end != row.end) {
            differences.push(format!(
                "{object}: {} {end}, expected {} {}",
                cells.join(" "),
                row.cells.join(" "),
                row.end
            ));
        }
        let cells: String = cells.iter().map(|cell| format!("{cell:6}")).collect();
        if is_called || has_call {
            let _ = writeln!(found, "{object:64} | {cells}| {} | {end}", row.call);
        } else {
            let _ = writeln!(found, "{object:64} | {cells}");
        }
    }
    assert!(differences.is_empty(), "{}\n\nas it was found:\n{found}", differences.join("\n"));
    eprintln!("{} objects, {} roles, {calls} calls as the table says", objects.len(), ROLES.len());
    // The calls changed nothing. The honeypot's sessions are enriched without any grant.
    let honeypot = &mut scene.sessions[1];
    honeypot.run(&COWRIE.insert(&[("b", Some("1.1.1.1"))]));
    assert_eq!(COWRIE.snapshot(&mut scene.db.another(), "b"), "13335|AU|NULL");
}
