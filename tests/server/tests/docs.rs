//! The documentation runs: psql executes every ```sql block of every page, in order. The database is as the README
//! assumes it: Cowrie's tables exist, the extension can be installed, and settings name the mmdb files. A block below
//! `<!-- not run by the suite docs: reason -->` is left out and counted.

use std::sync::{Mutex, Once};

use server_tests::database::bare_database;
use server_tests::documentation::{Block, blocks_of, page, pages};
use server_tests::hosts::{COWRIE, SUMMARIES, cowries_other_tables};
use server_tests::{Database, shared};

const README: &str = "README.md";

#[test]
fn every_sql_block_of_the_readme_runs() {
    let mut db = prepared();
    run_blocks(&mut db, README, &blocks_of(&page(README)));
}

#[test]
fn every_sql_block_of_the_other_pages_runs_after_the_readmes() {
    let readme = blocks_of(&page(README));
    for name in pages().iter().filter(|name| *name != README) {
        let blocks = blocks_of(&page(name));
        if blocks.iter().all(|b| b.skipped.is_some()) {
            continue;
        }
        // A reader of a page has followed the README.
        let mut db = prepared();
        run_blocks(&mut db, README, &readme);
        run_blocks(&mut db, name, &blocks);
    }
}

#[test]
fn blocks_are_found_and_skipped_with_a_reason() {
    let text = "a\n```sql\nSELECT 1;\nSELECT 2;\n```\n<!-- not run by the suite docs: needs a network -->\n\
                ```sql\nSELECT 3;\n```\n```sh\nls\n```\n1. list\n   ```sql\n   SELECT 4;\n   ```\n";
    let found: Vec<_> = blocks_of(text).into_iter().map(|b| (b.line, b.sql, b.skipped)).collect();
    assert_eq!(
        found,
        [
            (3, "SELECT 1;\nSELECT 2;\n".to_owned(), None),
            (8, "SELECT 3;\n".to_owned(), Some("needs a network".to_owned())),
            (15, "   SELECT 4;\n".to_owned(), None),
        ]
    );
}

/// A role belongs to the cluster, which all pages share. So it is created once.
const CREATE_ROLE: &str = "CREATE ROLE cowrie_enrich NOLOGIN;";

fn prepared() -> Database<'static> {
    static ROLE: Once = Once::new();
    ROLE.call_once(|| shared().session("postgres").run(CREATE_ROLE));
    let mut db = bare_database(shared());
    COWRIE.create(&mut db);
    SUMMARIES.create(&mut db);
    db.run(&cowries_other_tables());
    db
}

fn run_blocks(db: &mut Database<'_>, page: &str, blocks: &[Block]) {
    let mut skipped = 0;
    for block in blocks {
        if let Some(reason) = &block.skipped {
            skipped += 1;
            eprintln!("{}:{}: not run: {reason}", page, block.line);
            continue;
        }
        let script = db.cluster.files().join(format!("{}.sql", db.name));
        std::fs::write(&script, block.sql.replace(CREATE_ROLE, "")).expect("the script can be written");
        // Two transactions that change one role at the same time fail, so they run one after the other.
        static ROLE: Mutex<()> = Mutex::new(());
        let _alone = block.sql.contains("ALTER ROLE").then(|| ROLE.lock());
        let output = db
            .cluster
            .program("psql")
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
            .arg(&script)
            .args(["-d", &db.name])
            .output()
            .expect("psql runs");
        assert!(
            output.status.success(),
            "{}:{} failed:\n{}\n{}",
            page,
            block.line,
            block.sql,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    eprintln!("{}: {} blocks run, {skipped} not run", page, blocks.len() - skipped);
}
