//! The pages of the project's documentation: their list, sections, tables and SQL blocks.

use std::path::Path;

use crate::installation::workspace;

/// Returns the text of a file of the checkout. The name is relative to the root.
pub fn page(name: &str) -> String {
    let path = workspace().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("could not read {}: {e}", path.display()))
}

/// Returns the names of all pages of the checkout, relative to the root, in order.
pub fn pages() -> Vec<String> {
    let root = workspace();
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("the directory can be read").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let hidden = name.to_string_lossy().starts_with('.');
            // Symbolic links are ignored: the target is outside of the project, or is found without the link.
            if entry.file_type().is_ok_and(|t| t.is_dir()) && !hidden && name != "target" {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                found.push(name_of(&root, &path));
            }
        }
    }
    found.sort();
    found
}

fn name_of(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}

/// A block of SQL on a page.
#[derive(Clone)]
pub struct Block {
    /// The line on which the block's text begins, for messages.
    pub line: usize,
    pub sql: String,
    /// The reason if the block is not run.
    pub skipped: Option<String>,
}

/// Returns the ```sql blocks of a page. A block below `<!-- not run by the suite docs: reason -->` is marked as skipped.
pub fn blocks_of(text: &str) -> Vec<Block> {
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
                if let Some(rest) = trimmed.strip_prefix("<!-- not run by the suite docs:") {
                    reason = Some(rest.trim_end_matches("-->").trim().to_owned());
                } else if !trimmed.is_empty() {
                    // The reason belongs to the block that follows it immediately.
                    reason = None;
                }
            }
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// Returns the first block of SQL on a page that contains a text.
pub fn sql_with(name: &str, text: &str) -> String {
    let blocks = blocks_of(&page(name)).into_iter().map(|block| block.sql);
    blocks
        .into_iter()
        .find(|sql| sql.contains(text))
        .unwrap_or_else(|| panic!("{name} has no SQL with {text}"))
}

/// Returns the lines of a page outside code blocks, numbered from 1.
pub fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut in_code = false;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            lines.push((number + 1, line));
        }
    }
    lines
}

/// Returns the depth and the text of a heading.
pub fn heading(line: &str) -> Option<(usize, &str)> {
    let depth = line.bytes().take_while(|b| *b == b'#').count();
    let words = line[depth..].strip_prefix(' ')?;
    (1..=6).contains(&depth).then_some((depth, words.trim()))
}

/// Returns the anchor of a heading, as GitHub makes it. For equal headings GitHub would add a number.
pub fn anchor(words: &str) -> String {
    words
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}

/// Returns the text below a heading, up to the next heading that is not deeper.
#[track_caller]
pub fn section<'a>(text: &'a str, words: &str) -> &'a str {
    let mut begin = None;
    let mut in_code = false;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let here = at;
        at += line.len();
        in_code ^= line.trim_start().starts_with("```");
        let Some((depth, found)) = heading(line.trim_end()).filter(|_| !in_code) else { continue };
        match begin {
            None if found == words => begin = Some((at, depth)),
            Some((from, of)) if depth <= of => return &text[from..here],
            _ => {}
        }
    }
    let (from, _) = begin.unwrap_or_else(|| panic!("there is no heading {words:?}"));
    &text[from..]
}

/// Returns the cells of a row of a table. A `\|` does not separate cells.
pub fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let inner = inner.replace("\\|", "\0");
    Some(inner.split('|').map(|cell| cell.trim().replace('\0', "|")).collect())
}

/// Returns the texts between backticks.
pub fn code_spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Returns the grants in the block of a page that creates this role. Replaces the role and the schema of the page with
/// those of the test.
#[track_caller]
pub fn grants(page_name: &str, role: &str, named: &str) -> String {
    let creates =
        ["", " LOGIN", " LOGIN CONNECTION LIMIT 10"].map(|options| format!("CREATE ROLE {role}{options};"));
    let blocks = blocks_of(&page(page_name));
    let block = blocks.into_iter().find(|block| creates.iter().any(|creation| block.sql.contains(creation)));
    let block = block.unwrap_or_else(|| panic!("{page_name} has no block with {}", creates[0]));
    let grants = creates.iter().fold(block.sql, |sql, creation| sql.replace(creation, ""));
    grants.replace(role, named).replace("cowrie_enrich", "enrich")
}
