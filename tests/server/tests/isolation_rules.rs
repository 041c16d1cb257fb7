//! Enforces three rules of isolation. Rule 1: the extension never switches to a superuser, and no role needs a
//! privilege that leads to the rights of another. Rule 2: the extension touches a user's relation only if the caller
//! named it or its owner attached it. Rule 3: no process that others wait for runs code of a table owner. Each check is
//! also tested with a planted violation.

use std::path::Path;

use server_tests::documentation::{blocks_of, grants, page, pages};
use server_tests::hosts::COWRIE;
use server_tests::installation::{files_below, workspace};
use server_tests::{Database, Session, database};

/// Returns the files below a directory of the checkout with their text. Names are relative to the root.
fn sources(directory: &str, extension: &str) -> Vec<(String, String)> {
    let name = |path: &Path| path.strip_prefix(workspace()).unwrap_or(path).to_string_lossy().into_owned();
    let mut found: Vec<(String, String)> = files_below(&workspace().join(directory), extension)
        .iter()
        .map(|path| (name(path), std::fs::read_to_string(path).expect("a text")))
        .collect();
    assert!(!found.is_empty(), "no {extension} below {directory}");
    found.sort();
    found
}

/// Words that change the user of a process or name the bootstrap superuser.
const SWITCHES: [&str; 9] = [
    "SetUserId",
    "SetSessionAuthorization",
    "SetCurrentRoleId",
    "SetOuterUserId",
    "BOOTSTRAP_SUPERUSERID",
    "SET ROLE",
    "SET LOCAL ROLE",
    "SESSION AUTHORIZATION",
    "set_config('role'",
];

/// The line by which an owner process permanently becomes the table owner if the owner may not log in. No other line
/// may do this.
const BECOMES_THE_OWNER: &str =
    "unsafe { pg_sys::SetSessionAuthorization(role, pg_sys::superuser_arg(role)) };";

/// Returns lines of code that switch users outside `src/pg/role.rs`, or to another user than the owner of the inventory
/// or of a table.
fn strange_switches(files: &[(String, String)]) -> Vec<String> {
    let mut strange = Vec::new();
    for (name, text) in files {
        let comment = if name.ends_with(".rs") { "//" } else { "--" };
        for (number, line) in text.lines().enumerate() {
            let code = line.split(comment).next().unwrap_or_default();
            let is_definition = code.contains("fn acting_as");
            let becomes_owner = name == "src/pg/background.rs" && code.trim() == BECOMES_THE_OWNER;
            let switches =
                SWITCHES.iter().any(|word| code.contains(word)) && name != "src/pg/role.rs" && !becomes_owner;
            let calls = |function: &str, roles: &[&str]| {
                code.match_indices(function).any(|(at, _)| {
                    let role = code[at + function.len()..].split(',').next().unwrap_or_default();
                    !roles.contains(&role.trim())
                })
            };
            let to_another = !is_definition
                && (calls("acting_as(", &["oids.owner", "run.oids.owner", "self.oids.owner"])
                    || calls("acting_as_stranger(", &["self.owner", "oids.owner"]));
            if switches || to_another {
                strange.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    strange
}

#[test]
fn nothing_switches_to_another_user_than_the_owners() {
    let mut files = sources("src", "rs");
    files.extend(sources("sql", "sql"));
    assert_eq!(strange_switches(&files), [""; 0]);
    let background = files.iter().find(|(name, _)| name == "src/pg/background.rs").expect("it is there");
    assert_eq!(background.1.matches("SetSessionAuthorization(").count(), 1);
    let role = files.iter().find(|(name, _)| name == "src/pg/role.rs").expect("it is there");
    // Each function that switches the user also switches back.
    assert_eq!(
        role.1.matches("SetUserIdAndSecContext(").count(),
        2 + role.1.matches("GetUserIdAndSecContext(").count() - 1
    );
    for (name, planted) in [
        ("src/worker/steps.rs", "acting_as(extension.owner, || ())"),
        ("src/store/fold.rs", "acting_as(pg_sys::Oid::from(10), || ())"),
        ("src/store/session_priority.rs", "acting_as_stranger(superuser, || ())"),
        ("src/pg/background.rs", "pg_sys::SetUserIdAndSecContext(role, 0);"),
        ("src/pg/background.rs", "let role = pg_sys::BOOTSTRAP_SUPERUSERID;"),
        ("sql/install/70_backfill.sql", "SET ROLE postgres;"),
        ("sql/install/70_backfill.sql", "PERFORM set_config('role', 'postgres', true);"),
    ] {
        let found = strange_switches(&[(name.to_owned(), planted.to_owned())]);
        assert_eq!(found, [format!("{name}:1: {planted}")]);
    }
}

/// Calls that run code of a table owner, or that reach such a call.
const OWNERS_CODE: [&str; 9] = [
    "as_owner(",
    "acting_as_stranger(",
    "run_on(",
    "UserTable::lock(",
    "FrozenTable::",
    "complete_sessions::visit(",
    "complete_sessions::fill(",
    "session_priority::rank(",
    "contained_within(",
];

/// Code that may not run code of a table owner: that of the worker, the launcher and the exporter, for which all
/// owners wait, and that of the triggers and commits in clients' sessions.
const MAY_NOT_RUN_IT: [&str; 5] =
    ["src/worker/", "src/exporter/", "src/session/", "src/xact.rs", "src/store/fold.rs"];

/// Returns the lines in these places that run code of a table owner.
fn owners_code(files: &[(String, String)]) -> Vec<String> {
    let mut strange = Vec::new();
    for (name, text) in files.iter().filter(|(name, _)| MAY_NOT_RUN_IT.iter().any(|it| name.starts_with(it)))
    {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if OWNERS_CODE.iter().any(|call| code.contains(call)) {
                strange.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    strange
}

#[test]
fn no_process_that_others_wait_for_runs_code_of_a_table_owner() {
    let files = sources("src", "rs");
    assert_eq!(owners_code(&files), [""; 0]);
    // The check finds the same calls in allowed places: in owner processes and in procedures.
    for place in
        ["src/owner/", "src/store/complete_sessions.rs", "src/store/session_priority.rs", "src/pg/user_table"]
    {
        let of_place = files.iter().filter(|(name, _)| name.starts_with(place));
        let calls = of_place.filter(|(_, text)| OWNERS_CODE.iter().any(|call| text.contains(call)));
        assert!(calls.count() > 0, "{place} calls none of {OWNERS_CODE:?}");
    }
    for (name, planted) in [
        ("src/worker/apply.rs", "let left = complete_sessions::visit(connection, table, &known);"),
        ("src/worker/session_priority.rs", "locked.as_owner(|| values(connection))"),
        ("src/session/pending.rs", "let table = UserTable::lock(table, Lock::Write);"),
        ("src/store/fold.rs", "contained_within(TIME, || complete());"),
    ] {
        let found = owners_code(&[(name.to_owned(), planted.to_owned())]);
        assert_eq!(found, [format!("{name}:1: {planted}")]);
    }
}

/// Returns the statements that grant REFERENCES or all privileges.
fn grants_of_references(text: &str) -> Vec<String> {
    let statements =
        text.split(';').map(|statement| statement.split_whitespace().collect::<Vec<_>>().join(" "));
    statements
        .filter(|statement| {
            let upper = statement.to_uppercase();
            upper.find("GRANT ").is_some_and(|at| {
                let privileges = upper[at..].split(" ON ").next().unwrap_or_default().to_owned();
                privileges.contains("REFERENCES") || privileges.starts_with("GRANT ALL")
            })
        })
        .collect()
}

#[test]
fn nobody_is_told_to_grant_references() {
    let mut texts = sources("sql", "sql");
    texts.extend(sources("demo", "sql"));
    for name in pages() {
        let sql: Vec<String> = blocks_of(&page(&name)).into_iter().map(|block| block.sql).collect();
        texts.push((name, sql.join(";")));
    }
    for (name, text) in texts {
        assert_eq!(grants_of_references(&text), [""; 0], "{name}");
    }
    for planted in [
        "GRANT REFERENCES ON cowrie_enrich.ip_inventory TO honeypot_tables;",
        "grant select,\n references (ip_address) on ip_inventory to public;",
        "GRANT ALL ON ALL TABLES IN SCHEMA cowrie_enrich TO x;",
    ] {
        assert_eq!(grants_of_references(planted).len(), 1, "{planted}");
    }
}

/// Functions that run as their owner with a search_path that the caller chose.
const DEFINERS_WITHOUT_SEARCH_PATH: &str = "
    SELECT p.oid::regprocedure
    FROM pg_proc p
    JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'cowrie_enrich'
    WHERE p.prosecdef AND NOT coalesce(p.proconfig, '{}') @> '{\"search_path=pg_catalog, pg_temp\"}'";

#[test]
fn every_function_that_runs_as_its_owner_has_a_search_path_of_its_own() {
    let mut db = database();
    let definers = "SELECT count(*) FROM pg_proc WHERE prosecdef AND pronamespace = 'enrich'::regnamespace";
    assert!(db.number(definers) > 0);
    assert_eq!(db.rows(DEFINERS_WITHOUT_SEARCH_PATH), [""; 0]);
    db.run("ALTER FUNCTION enrich.addresses_deleted() RESET search_path");
    assert_eq!(db.rows(DEFINERS_WITHOUT_SEARCH_PATH), ["addresses_deleted()"]);
}

/// Lists two kinds of objects. Views that call functions of the extension which can run statements, or that read
/// relations of other roles. Functions that build and run statements, and have no argument that names a table.
const READS_UNNAMED: &str = "
    WITH ours AS (
        SELECT d.classid, d.objid
        FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
        WHERE d.deptype = 'e' AND e.extname = 'cowrie_enrich')
    SELECT DISTINCT v.oid::regclass || ' uses ' || pg_describe_object(d.refclassid, d.refobjid, 0)
    FROM ours o
    JOIN pg_class v ON o.classid = 'pg_class'::regclass AND v.oid = o.objid AND v.relkind IN ('v', 'm')
    JOIN pg_rewrite r ON r.ev_class = v.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refobjid <> v.oid
    LEFT JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
    LEFT JOIN pg_language l ON l.oid = p.prolang
    LEFT JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid
    WHERE (p.oid IS NOT NULL AND p.pronamespace <> 'pg_catalog'::regnamespace
           AND NOT ((l.lanname = 'c' AND NOT 'regclass'::regtype = ANY (p.proargtypes::oid[]) OR (l.lanname = 'sql' AND p.prosrc !~* '\\mFROM\\M')) AND EXISTS (SELECT FROM ours f WHERE f.classid = 'pg_proc'::regclass AND f.objid = p.oid)))
       OR (c.oid IS NOT NULL AND c.relnamespace <> 'pg_catalog'::regnamespace
           AND NOT EXISTS (SELECT FROM ours t WHERE t.classid = 'pg_class'::regclass AND t.objid = c.oid))
    UNION ALL
    SELECT p.oid::regprocedure || ' makes statements without a named table'
    FROM ours o
    JOIN pg_proc p ON o.classid = 'pg_proc'::regclass AND p.oid = o.objid
    WHERE p.prosrc ~* '\\mEXECUTE\\M' AND NOT 'regclass'::regtype = ANY (p.proargtypes::oid[])
      -- These functions run statements on the catalogs of Citus, which may not exist. correct_distributed_counts() also reads
      -- attached tables, but only those of the caller or of a superuser. cluster_findings() contains the word only as the name of a
      -- right.
      AND p.proname NOT IN ('cluster_findings', 'collect_from_nodes', 'correct_distributed_counts', 'distribute_inventories', 'nodes_without_owner',
                            'undistribute_inventories')
    ORDER BY 1";

#[test]
fn no_view_and_no_function_reads_relations_that_nobody_named() {
    let mut db = database();
    assert_eq!(db.rows(READS_UNNAMED), [""; 0]);
    db.run(
        "CREATE TABLE public.theirs (id int);
         CREATE VIEW enrich.campaigns AS
             SELECT c.* FROM enrich.attached_tables a CROSS JOIN LATERAL enrich.campaign_networks(a.rel) c;
         CREATE VIEW enrich.others AS SELECT * FROM public.theirs;
         CREATE FUNCTION enrich.all_sessions() RETURNS bigint LANGUAGE plpgsql AS $$
         DECLARE total bigint := 0; one bigint; rel regclass;
         BEGIN
             FOR rel IN SELECT a.rel FROM enrich.attached_tables a LOOP
                 EXECUTE format('SELECT count(*) FROM %s', rel) INTO one;
                 total := total + one;
             END LOOP;
             RETURN total;
         END $$;
         ALTER EXTENSION cowrie_enrich ADD VIEW enrich.campaigns;
         ALTER EXTENSION cowrie_enrich ADD VIEW enrich.others;
         ALTER EXTENSION cowrie_enrich ADD FUNCTION enrich.all_sessions()",
    );
    assert_eq!(
        db.rows(READS_UNNAMED),
        [
            "all_sessions() makes statements without a named table",
            "campaigns uses function campaign_networks(regclass,text,text)",
            "others uses table theirs",
        ]
    );
}

/// Creates a role that owns a schema `al` and records in `al.loot` which user runs its code.
fn thief(db: &mut Database<'_>) -> (String, Session) {
    let role = format!("{}_{}", db.own_name("thief"), std::process::id());
    db.run(&format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; CREATE SCHEMA al AUTHORIZATION {role}"
    ));
    db.run(&grants("docs/security.md", "honeypot_tables", &role));
    let mut session = db.session_as(&role);
    session.run(&format!(
        "CREATE TABLE al.loot (who text, how text);
         GRANT USAGE ON SCHEMA al TO PUBLIC; GRANT INSERT ON al.loot TO PUBLIC;
         CREATE FUNCTION al.steal(how text) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
         BEGIN
             IF current_user <> '{role}' THEN INSERT INTO al.loot VALUES (current_user, how); END IF;
             RETURN 1;
         END $$;
         CREATE FUNCTION al.steal_stable(how text) RETURNS boolean LANGUAGE plpgsql STABLE AS
             'BEGIN PERFORM al.steal(how); RETURN true; END';
         CREATE FUNCTION al.steal_immutable(how text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
             'BEGIN PERFORM al.steal(how); RETURN true; END'"
    ));
    (role, session)
}

#[test]
fn reading_the_views_of_the_extension_runs_no_code_of_table_owners() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    let (_, mut thief) = thief(&mut db);
    thief.run(
        "CREATE VIEW al.v AS SELECT '192.0.2.1'::inet AS ip, now() AS t, al.steal('view') AS snapshot_asn,
             'DE'::text AS snapshot_country, NULL::text AS snapshot_ip_type, '{}'::jsonb AS enrichment, now() AS enrichment_at;
         CREATE TRIGGER x INSTEAD OF INSERT ON al.v FOR EACH ROW EXECUTE FUNCTION enrich.enrich_session('ip', 't');
         GRANT SELECT ON al.v TO PUBLIC;
         CREATE TABLE al.s (ip inet, t timestamptz);
         SELECT enrich.attach_session_table('al.s', 'ip', 't');
         INSERT INTO al.s VALUES ('8.8.8.8', now());
         GRANT SELECT ON al.s TO PUBLIC;
         CREATE INDEX ON al.s (t) WHERE al.steal_immutable('index');
         ALTER TABLE al.s ADD CHECK (al.steal_immutable('check')) NOT VALID;
         ALTER TABLE al.s ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON al.s USING (al.steal_stable('policy'))",
    );
    let reader = format!("reader_of_views_{}", std::process::id());
    db.run(&format!("DROP ROLE IF EXISTS {reader}; CREATE ROLE {reader} LOGIN"));
    db.run("CREATE TABLE IF NOT EXISTS auth (id int)");
    db.run(&grants("docs/security.md", "honeypot_analyst", &reader));
    db.run(&grants("docs/analysis.md", "campaign_analyst", &reader));
    db.run(&grants("docs/security.md", "honeypot_operator", &reader));
    let mut reader = db.session_as(&reader);
    let views =
        db.rows("SELECT format('%I.%I', schemaname, viewname) FROM pg_views WHERE schemaname = 'enrich'");
    assert!(views.len() > 8, "{views:?}");
    for view in views {
        let read =
            format!("SET constraint_exclusion = on; SELECT * FROM {view}; SELECT count(*) FROM {view}");
        db.run(&read);
        if let Err(refusal) = reader.try_run(&read) {
            assert_eq!(refusal.code, "42501", "{view}");
        }
    }
    for call in [
        "CALL enrich.refresh_session_counts()",
        "CALL enrich.fold_statistics()",
        "CALL enrich.refresh_stale()",
    ] {
        db.run(call);
        reader.run(call);
    }
    assert_eq!(db.rows("SELECT * FROM al.loot"), [""; 0]);
    // The trap works: the caller reads the table that the caller names.
    db.run("SELECT * FROM enrich.campaign_networks('al.s')");
    assert!(db.number("SELECT count(*) FROM al.loot") > 0);
}
