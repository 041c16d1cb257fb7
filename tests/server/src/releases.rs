//! Versions of the extension: the install script of each version, and the objects of the version that a
//! database has.

use std::fs;
use std::path::PathBuf;

use crate::installation::{installation, workspace};
use crate::session::Session;

/// An earlier version that the tests make. Its install script is the current script without some parts.
pub const OLD: &str = "0.0.9";

/// The parts that the old version lacks, with their replacements: an index, the last column of a table, the comment
/// of this column, and a function's text. Whole files with functions, views and procedures are left out too.
pub const LACKED: [(&str, &str); 5] = [
    ("CREATE INDEX ip_asn_history_asn_number_idx ON ip_asn_history (asn_number, observed_at);\n", ""),
    ("    resume_at        jsonb,\n", ""),
    (
        "COMMENT ON COLUMN procedure_call.resume_at IS\n    'position at which the next call continues; null if the last call finished';\n",
        "",
    ),
    (
        "numbers of networks in asn_inventory: all networks, networks with the name of an organisation, and networks by regional internet registry",
        "numbers of networks in asn_inventory",
    ),
    ("attribution_change_between(bigint, text, bigint, text), ", ""),
];
const LACKED_FILES: [&str; 2] = ["76_analysis.sql", "78_schedule.sql"];

/// Returns the version under test.
pub fn current() -> &'static str {
    let manifest = include_str!("../../../Cargo.toml");
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = \""));
    line.and_then(|line| line.strip_suffix('"')).expect("the first version in Cargo.toml is the extension's")
}

/// Returns the script that `CREATE EXTENSION` runs for the version under test.
pub fn install_script() -> String {
    install_files().iter().map(|(_, text)| text.as_str()).collect()
}

/// Returns the files of the install script by name, in their order.
pub fn install_files() -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(workspace().join("sql/install"))
        .expect("sql/install is there")
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), read(entry.path())))
        .collect();
    files.sort();
    files
}

/// Returns the version and install script of every release, see sql/released/README.md.
pub fn released() -> Vec<(String, String)> {
    let mut all: Vec<_> = fs::read_dir(workspace().join("sql/released"))
        .expect("sql/released is there")
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix("cowrie_enrich--")?.strip_suffix(".sql")?.to_owned();
            Some((version, read(entry.path())))
        })
        .collect();
    all.sort();
    all
}

/// Writes a script to the directory where the server looks for it. A name such as `0.0.9` makes it an install script. A
/// name such as `0.0.9--0.1.0` makes it an update script.
pub fn offer(name: &str, script: &str) {
    let directory = installation().sharedir.join("extension");
    let draft = directory.join(format!("draft-{name}.sql"));
    fs::write(&draft, script).expect("the installation is the tests' own");
    fs::rename(&draft, directory.join(format!("cowrie_enrich--{name}.sql"))).expect("own directory");
}

/// Returns the install script of the version [`OLD`].
pub fn old_script() -> String {
    let mut script: String = install_files()
        .iter()
        .filter(|(name, _)| !LACKED_FILES.contains(&name.as_str()))
        .map(|(_, text)| text.as_str())
        .collect();
    for (lacked, instead) in LACKED {
        assert_eq!(script.matches(lacked).count(), 1, "{lacked}");
        script = script.replace(lacked, instead);
    }
    script
}

/// Returns an update script as a developer would write it: the check of the library, the new objects, and the grants at
/// the end.
pub fn update_script() -> String {
    let files = install_files();
    let file = |name: &str| &files.iter().find(|(own, _)| own == name).expect("a file").1;
    let mut script = format!("SELECT @extschema@.require_library('{}');\n", current());
    script.push_str(LACKED[0].0);
    script.push_str("ALTER TABLE procedure_call ADD COLUMN resume_at jsonb;\n");
    script.push_str(LACKED[2].0);
    script.push_str(&format!("COMMENT ON FUNCTION asn_inventory_size() IS '{}';\n", LACKED[3].0));
    for name in LACKED_FILES {
        script.push_str(file(name));
    }
    // Revokes privileges on new objects only.
    script.push_str(file("90_grants.sql"));
    script
}

/// Makes the version [`OLD`] available on the server, and the update from it to the version under test.
pub fn offer_old_version() {
    offer(OLD, &old_script());
    offer(&format!("{OLD}--{}", current()), &update_script());
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("could not read {}: {e}", path.display()))
}

/// Returns a description of the extension's objects in a database, a line for each property.
pub fn catalog(session: &mut Session) -> Vec<String> {
    session.run(
        "SET search_path = '';
         CREATE TEMPORARY TABLE member AS
             SELECT d.classid, d.objid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON d.refobjid = e.oid
             WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'cowrie_enrich';
         CREATE TEMPORARY TABLE relation AS
             SELECT c.* FROM pg_catalog.pg_class c JOIN member m ON m.classid = 'pg_catalog.pg_class'::regclass AND m.objid = c.oid",
    );
    let mut all = Vec::new();
    for (what, query) in [
        ("member", "SELECT pg_describe_object(classid, objid, 0) FROM member"),
        ("comment", "SELECT pg_describe_object(m.classid, m.objid, d.objsubid), d.description
                     FROM member m JOIN pg_description d ON d.classoid = m.classid AND d.objoid = m.objid"),
        ("routine", "SELECT pg_get_functiondef(objid) FROM member WHERE classid = 'pg_proc'::regclass"),
        ("owner of routine", "SELECT objid::regprocedure, proowner::regrole FROM member JOIN pg_proc p ON p.oid = objid
                              WHERE classid = 'pg_proc'::regclass"),
        ("grant on routine", "SELECT objid::regprocedure, a.grantee::regrole, a.privilege_type, a.is_grantable
             FROM member JOIN pg_proc p ON p.oid = objid,
                  aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
             WHERE classid = 'pg_proc'::regclass"),
        ("relation", "SELECT oid::regclass, relkind, relpersistence, relowner::regrole, reloptions, relrowsecurity, relreplident
                      FROM relation"),
        ("grant on relation", "SELECT c.oid::regclass, a.grantee::regrole, a.privilege_type, a.is_grantable
             FROM relation c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a"),
        ("grant on column", "SELECT c.oid::regclass, t.attname, t.attacl FROM relation c JOIN pg_attribute t ON t.attrelid = c.oid
             WHERE t.attacl IS NOT NULL"),
        // Includes the position of the column, because rows are read and returned by position.
        ("column", "SELECT c.oid::regclass, t.attnum, t.attname, format_type(t.atttypid, t.atttypmod), t.attnotnull, t.attgenerated,
                    t.attidentity, t.attcollation::regcollation, pg_get_expr(f.adbin, f.adrelid)
             FROM relation c JOIN pg_attribute t ON t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped
             LEFT JOIN pg_attrdef f ON f.adrelid = c.oid AND f.adnum = t.attnum"),
        ("constraint", "SELECT k.conname, k.conrelid::regclass, k.convalidated, pg_get_constraintdef(k.oid)
             FROM relation c JOIN pg_constraint k ON k.conrelid = c.oid"),
        ("index", "SELECT pg_get_indexdef(i.indexrelid), i.indisvalid FROM relation c JOIN pg_index i ON i.indrelid = c.oid"),
        ("trigger", "SELECT t.tgenabled, pg_get_triggerdef(t.oid) FROM relation c JOIN pg_trigger t ON t.tgrelid = c.oid
             WHERE NOT t.tgisinternal"),
        ("view", "SELECT oid::regclass, pg_get_viewdef(oid) FROM relation WHERE relkind IN ('v', 'm')"),
        ("policy", "SELECT p.polname, p.polrelid::regclass FROM relation c JOIN pg_policy p ON p.polrelid = c.oid"),
        ("dumped", "SELECT c.config::regclass, c.condition FROM pg_extension e,
                    unnest(e.extconfig, e.extcondition) c(config, condition) WHERE e.extname = 'cowrie_enrich'"),
        ("extension", "SELECT extversion, extrelocatable, extowner::regrole, extnamespace::regnamespace FROM pg_extension
                       WHERE extname = 'cowrie_enrich'"),
    ] {
        let rows = session.rows(&format!("SET search_path = pg_catalog, pg_temp; {query}"));
        all.extend(rows.into_iter().map(|row| format!("{what}: {row}")));
    }
    // Rows that the script inserts.
    all.extend(session.rows("SELECT 'known network: ' || to_jsonb(k)::text FROM enrich.known_networks k"));
    session.run("DROP TABLE member, relation; SET search_path = public, enrich");
    all.sort();
    all
}

/// Returns the lines that only one of the two descriptions has.
pub fn differences(updated: &[String], fresh: &[String]) -> Vec<String> {
    let lacks = fresh.iter().filter(|line| !updated.contains(line)).map(|line| format!("lacks {line}"));
    let surplus = updated.iter().filter(|line| !fresh.contains(line)).map(|line| format!("still has {line}"));
    lacks.chain(surplus).collect()
}
