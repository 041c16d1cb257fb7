//! The roles of the documentation, each with the grants of its page and no others. Granted actions work, and all others
//! are refused. The pages for a role run as that role.

use std::collections::BTreeSet;

use server_tests::database::{bare_database, create_extension_as};
use server_tests::documentation::{blocks_of, code_spans, grants, page, pages, section, sql_with};
use server_tests::hosts::{COWRIE, cowries_other_tables};
use server_tests::{Database, shared};

/// Pages and roles. On each page, the block of SQL that creates the role also grants its privileges.
const ROLES: [(&str, &str); 8] = [
    ("docs/security.md", "honeypot_analyst"),
    ("docs/analysis.md", "campaign_analyst"),
    ("docs/report.md", "cowrie_report"),
    ("docs/dashboard.md", "cowrie_grafana"),
    ("docs/security.md", "honeypot_operator"),
    ("docs/security.md", "honeypot_tables"),
    ("docs/worker.md", "enrichment_worker"),
    ("monitoring/README.md", "cowrie_monitor"),
];

/// The roles of this page are on several servers. The suite `many_sites` tests their rights.
const PAGE_OF_SEVERAL_SERVERS: &str = "docs/many-sites.md";

/// insufficient_privilege
const REFUSED: &str = "42501";

/// Returns a database as the documentation sets it up, with the tables that its pages name.
fn documented() -> Database<'static> {
    let mut db = bare_database(shared());
    let owner = db.create_role("extension");
    create_extension_as(&mut db, &owner);
    COWRIE.create_attached(&mut db);
    db.run(&cowries_other_tables());
    db.run("CREATE TABLE other (id int, source_ip inet)");
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("1.1.1.1"))]));
    db
}

/// Creates a role with the grants of its page. Returns its name.
fn create_granted(db: &mut Database<'_>, page: &str, role: &str) -> String {
    let mut granted = grants(page, role, "its_own_name");
    // The role of Grafana is a member of the analyst's role.
    if granted.contains("GRANT campaign_analyst TO") {
        let analyst = create_granted(db, "docs/analysis.md", "campaign_analyst");
        granted = granted.replace("campaign_analyst", &analyst);
    }
    let name = db.create_role(role);
    db.run(&granted.replace("its_own_name", &name));
    if role == "campaign_analyst" {
        db.run(&sql_with(page, "GRANT SELECT ON input").replace(role, &name));
    }
    name
}

#[test]
fn each_role_that_a_page_creates_with_privileges_is_tested() {
    let mut missing = Vec::new();
    let mut found = 0;
    let is_searched = |name: &String| {
        (name.starts_with("docs/") || name.starts_with("monitoring/")) && name != PAGE_OF_SEVERAL_SERVERS
    };
    for name in pages().into_iter().filter(is_searched) {
        for block in blocks_of(&page(&name)) {
            let roles = block.sql.lines().filter_map(|line| line.trim().strip_prefix("CREATE ROLE "));
            let roles = roles.filter_map(|rest| rest.split([' ', ';']).next());
            for role in roles.filter(|_| block.sql.contains("GRANT ")) {
                found += 1;
                if !ROLES.contains(&(&name, role)) {
                    missing.push(format!("{name}: {role}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "not in ROLES: {missing:?}");
    assert_eq!(found, ROLES.len());
}

/// Returns signature and call of each function and procedure, from the table of the suite `privilege_matrix`.
fn calls() -> Vec<(String, String)> {
    let rows = include_str!("privilege_matrix.txt").lines();
    rows.filter(|line| line.starts_with("function ") || line.starts_with("procedure "))
        .map(|line| {
            let columns: Vec<&str> = line.split('|').map(str::trim).collect();
            let (_, signature) = columns[0].split_once(' ').expect("a kind and a signature");
            (signature.trim().to_owned(), columns[2].to_owned())
        })
        .collect()
}

/// Returns the functions that docs/security.md names as those that check their caller as well.
fn checking_callers() -> BTreeSet<String> {
    let page = page("docs/security.md");
    let paragraph = section(&page, "What to grant to whom")
        .split("\n\n")
        .find(|paragraph| paragraph.starts_with("**A grant alone is not enough"))
        .expect("the page names them");
    code_spans(paragraph).into_iter().map(str::to_owned).collect()
}

#[test]
fn each_documented_role_can_use_what_it_is_granted_and_nothing_else() {
    let documented_checks = checking_callers();
    let mut checks = BTreeSet::new();
    let mut wrong = Vec::new();
    for (page, role) in ROLES {
        let mut db = documented();
        let name = create_granted(&mut db, page, role);
        if role == "honeypot_tables" {
            db.run(&format!(
                "ALTER TABLE sessions OWNER TO {name}; ALTER TABLE other OWNER TO {name};
                 GRANT CREATE ON SCHEMA public TO {name}"
            ));
        }
        let mut session = db.session_as(&name);
        let relations = db.rows(
            "SELECT relname FROM pg_class WHERE relnamespace = 'enrich'::regnamespace AND relkind IN ('r', 'v') ORDER BY 1",
        );
        assert!(relations.len() > 25, "{relations:?}");
        for relation in relations {
            let is_granted = db
                .one(&format!("SELECT has_table_privilege('{name}', 'enrich.{relation}', 'SELECT')"))
                == "t";
            let end = session.end_of(&format!("SELECT * FROM enrich.{relation} LIMIT 1"));
            if end != if is_granted { "ok" } else { REFUSED } {
                wrong.push(format!("{role} reads {relation}: {end}, granted: {is_granted}"));
            }
        }
        for (signature, call) in calls() {
            let is_granted = db
                .one(&format!("SELECT has_function_privilege('{name}', 'enrich.{signature}', 'EXECUTE')"))
                == "t";
            let is_refused = session.end_of(&call) == REFUSED;
            let function = signature.split('(').next().unwrap_or_default();
            match (is_granted, is_refused) {
                (true, true) if documented_checks.contains(function) => {
                    checks.insert(function.to_owned());
                }
                (true, true) | (false, false) => {
                    wrong.push(format!("{role}: {call}, granted: {is_granted}, refused: {is_refused}"));
                }
                _ => {}
            }
        }
    }
    let surplus: Vec<_> = documented_checks.difference(&checks).collect();
    assert!(wrong.is_empty() && surplus.is_empty(), "{}\nnever refused: {surplus:?}", wrong.join("\n"));
}

/// Returns the statements of a page, except those that need a superuser or an owner.
fn statements_of(name: &str) -> Vec<String> {
    let blocks = blocks_of(&page(name)).into_iter().filter(|block| block.skipped.is_none());
    blocks
        .flat_map(|block| {
            block.sql.split(";\n").map(|statement| statement.trim().to_owned()).collect::<Vec<_>>()
        })
        .filter(|statement| statement.starts_with("SELECT") || statement.starts_with("CALL"))
        .filter(|statement| !statement.contains("\\gexec"))
        .map(|statement| statement.replace("cowrie_enrich.", "enrich."))
        .collect()
}

#[test]
fn what_the_pages_for_a_role_show_works_for_that_role() {
    let mut wrong = Vec::new();
    for (grants_of, role, also, shown_on) in [
        ("docs/analysis.md", "campaign_analyst", None, "docs/analysis.md"),
        ("docs/dashboard.md", "cowrie_grafana", None, "docs/dashboard.md"),
        ("docs/security.md", "honeypot_operator", None, "docs/operations.md"),
        ("docs/security.md", "honeypot_operator", None, "docs/worker.md"),
        ("docs/security.md", "honeypot_operator", None, "docs/metrics.md"),
        ("docs/security.md", "honeypot_operator", Some("honeypot_analyst"), "docs/refresh.md"),
    ] {
        let mut db = documented();
        let name = create_granted(&mut db, grants_of, role);
        if let Some(also) = also {
            db.run(&grants(grants_of, also, &name));
        }
        let mut session = db.session_as(&name);
        let statements = statements_of(shown_on);
        assert!(!statements.is_empty(), "{shown_on}");
        for statement in statements {
            let end = session.end_of(&statement);
            if end == REFUSED {
                wrong.push(format!("{role} on {shown_on}: {statement}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Returns the role that the first line of a block names, as in `-- as analyst`.
fn named_role(sql: &str) -> Option<&str> {
    sql.lines().next()?.trim().strip_prefix("-- as ")?.split([' ', ':']).next()
}

/// Runs a block by psql. Returns its messages if it fails.
fn refusal_of(db: &Database<'_>, user: Option<&str>, sql: &str) -> Option<String> {
    let script = db.cluster.files().join(format!("{}-roles.sql", db.name));
    std::fs::write(&script, sql.replace("cowrie_enrich.", "enrich.")).expect("the script can be written");
    let mut psql = db.cluster.program("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &db.name, "-f"]).arg(&script);
    if let Some(user) = user {
        psql.args(["-U", user]);
    }
    let output = psql.output().expect("psql runs");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn each_block_of_the_pages_for_analysts_runs_as_the_role_that_it_names() {
    let mut wrong = Vec::new();
    let mut runs = BTreeSet::new();
    for (name, default) in [
        // Each block of this page names its role.
        ("docs/recipes.md", None),
        ("docs/analysis.md", Some("analyst")),
        ("docs/dashboard.md", Some("analyst")),
        ("docs/export.md", Some("analyst")),
        ("docs/start-analyst.md", Some("analyst")),
    ] {
        let mut db = documented();
        let analyst = create_granted(&mut db, "docs/analysis.md", "campaign_analyst");
        let administrator = create_granted(&mut db, "docs/security.md", "honeypot_operator");
        for block in blocks_of(&page(name)).into_iter().filter(|block| block.skipped.is_none()) {
            let place = format!("{name}:{}", block.line);
            let Some(role) = named_role(&block.sql).or(default) else {
                wrong.push(format!("{place} names no role"));
                continue;
            };
            let user = match role {
                "analyst" => Some(analyst.as_str()),
                "administrator" => Some(administrator.as_str()),
                "owner" => None,
                // The grants themselves, which create_granted() has run.
                "superuser" if block.sql.contains("GRANT ") => continue,
                _ => panic!("{place} names the unknown role {role}"),
            };
            runs.insert((name, role.to_owned()));
            if role != "analyst" && refusal_of(&db, Some(&analyst), &block.sql).is_none() {
                wrong.push(format!("{place} names {role}, but an analyst can run it"));
            }
            if let Some(messages) = refusal_of(&db, user, &block.sql) {
                wrong.push(format!("{place} as {role}: {messages}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for role in ["analyst", "administrator", "owner"] {
        assert!(runs.contains(&("docs/recipes.md", role.to_owned())), "{role}: {runs:?}");
    }
}
