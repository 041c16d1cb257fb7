//! Documentation runs: every ```sql block of README.md and docs/*.md is executed by psql, in
//! order, on a database as the README assumes it: Cowrie's own tables, the extension installable,
//! the mmdb files named. A block below `<!-- not run: reason -->` is left out and counted.

use std::path::{Path, PathBuf};

use server_tests::database::bare_database;
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::installation::workspace;
use server_tests::{Database, shared};

struct Block {
    /// Where the block's text begins, for the message.
    line: usize,
    sql: String,
    /// Why it is not run.
    skipped: Option<String>,
}

#[test]
fn every_sql_block_of_the_readme_runs() {
    let readme = workspace().join("README.md");
    let Ok(text) = std::fs::read_to_string(&readme) else {
        panic!("there is no README.md");
    };
    let mut db = prepared();
    run_blocks(&mut db, &readme, &blocks_of(&text));
}

#[test]
fn every_sql_block_below_docs_runs_after_the_readmes() {
    let readme = std::fs::read_to_string(workspace().join("README.md")).unwrap_or_default();
    for file in markdown_below(&workspace().join("docs")) {
        let text = std::fs::read_to_string(&file).expect("the file can be read");
        let blocks = blocks_of(&text);
        if blocks.iter().all(|b| b.skipped.is_some()) {
            continue;
        }
        // A reader of a page has followed the README.
        let mut db = prepared();
        run_blocks(&mut db, Path::new("README.md"), &blocks_of(&readme));
        run_blocks(&mut db, &file, &blocks);
    }
}

#[test]
fn blocks_are_found_and_skipped_with_a_reason() {
    let text = "a\n```sql\nSELECT 1;\nSELECT 2;\n```\n<!-- not run: needs a network -->\n\
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

fn prepared() -> Database<'static> {
    let mut db = bare_database(shared());
    COWRIE.create(&mut db);
    SUMMARIES.create(&mut db);
    db.run(
        "CREATE TABLE auth (id serial PRIMARY KEY, session char(32) NOT NULL, success boolean NOT NULL,
             username varchar(100) NOT NULL, password varchar(100) NOT NULL, timestamp timestamp NOT NULL);
         CREATE TABLE input (id serial PRIMARY KEY, session char(32) NOT NULL, timestamp timestamp NOT NULL,
             realm varchar(50), success boolean, input text NOT NULL);
         CREATE TABLE downloads (id serial PRIMARY KEY, session char(32) NOT NULL,
             timestamp timestamp NOT NULL, url text NOT NULL, outfile text, shasum varchar(64));
         CREATE TABLE clients (id serial PRIMARY KEY, version varchar(50) NOT NULL);
         CREATE TABLE sensors (id serial PRIMARY KEY, ip varchar(255) NOT NULL)",
    );
    db
}

fn run_blocks(db: &mut Database<'_>, file: &Path, blocks: &[Block]) {
    let mut skipped = 0;
    for block in blocks {
        if let Some(reason) = &block.skipped {
            skipped += 1;
            eprintln!("{}:{}: not run: {reason}", file.display(), block.line);
            continue;
        }
        let script = db.cluster.files().join(format!("{}.sql", db.name));
        std::fs::write(&script, &block.sql).expect("the script can be written");
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
            file.display(),
            block.line,
            block.sql,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    eprintln!("{}: {} blocks run, {skipped} not run", file.display(), blocks.len() - skipped);
}

fn blocks_of(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut reason = None;
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        match &mut open {
            Some(_) if trimmed == "```" => blocks.extend(open.take()),
            Some(block) => {
                block.sql.push_str(line);
                block.sql.push('\n');
            }
            None if trimmed == "```sql" => {
                open = Some(Block { line: number + 2, sql: String::new(), skipped: reason.take() });
            }
            None => {
                if let Some(rest) = trimmed.strip_prefix("<!-- not run:") {
                    reason = Some(rest.trim_end_matches("-->").trim().to_owned());
                } else if !trimmed.is_empty() {
                    // The reason belongs to the block that follows it at once.
                    reason = None;
                }
            }
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

fn markdown_below(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    files.sort();
    files
}
