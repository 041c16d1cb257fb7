//! The targets on the pages exist: links, anchors, and the programs that they tell a reader to run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use server_tests::documentation::{anchor, code_spans, heading, page, pages, prose};
use server_tests::installation::workspace;

#[test]
fn every_relative_link_leads_to_a_file_and_its_anchor_to_a_heading() {
    let mut broken = Vec::new();
    let mut followed = 0;
    let mut anchors: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in pages() {
        let text = page(&name);
        for (line, link) in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            followed += 1;
            let (file, wanted) = link.split_once('#').map_or((link, None), |(f, a)| (f, Some(a)));
            let target = if file.is_empty() { name.clone() } else { beside(&name, file) };
            let path = workspace().join(&target);
            if !path.exists() {
                broken.push(format!("{name}:{line}: {link}: there is no {target}"));
                continue;
            }
            let Some(wanted) = wanted else { continue };
            let there = anchors.entry(target.clone()).or_insert_with(|| anchors_of(&page(&target)));
            if !there.contains(wanted) {
                broken.push(format!("{name}:{line}: {link}: {target} has no heading for it"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(followed > 100, "{followed} links were found");
}

#[test]
fn every_page_of_docs_is_in_the_index_and_can_be_reached_from_the_readme() {
    let linked = |from: &str| -> BTreeSet<String> {
        links(&page(from))
            .iter()
            .map(|(_, l)| beside(from, l.split('#').next().unwrap_or_default()))
            .collect()
    };
    let (index, readme) = (linked("docs/README.md"), linked("README.md"));
    assert!(readme.contains("docs/README.md") && readme.contains("ARCHITECTURE.md"));
    let (for_developers, for_users): (Vec<String>, Vec<String>) = pages()
        .into_iter()
        .filter(|p| p.starts_with("docs/") && p != "docs/README.md")
        .partition(|p| p.starts_with("docs/architecture/"));
    let missing: Vec<&String> =
        for_users.iter().filter(|p| !index.contains(*p) || !readme.contains(*p)).collect();
    assert!(missing.is_empty(), "not in docs/README.md and README.md: {missing:?}");
    let architecture = linked("ARCHITECTURE.md");
    let missing: Vec<&String> = for_developers.iter().filter(|p| !architecture.contains(*p)).collect();
    assert!(missing.is_empty(), "not in ARCHITECTURE.md: {missing:?}");
}

#[test]
fn every_script_and_every_target_of_make_that_a_page_names_exists() {
    let makefile = page("Makefile");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
        .collect();
    let mut missing = Vec::new();
    let mut named = 0;
    for name in pages() {
        let text = page(&name);
        for (number, command) in commands(&text) {
            for (at, _) in command.match_indices("make ") {
                let word = word_of(&command[at + 5..], "-");
                // At the beginning, after `X=…`, or after another command.
                let before = command[..at].trim_end();
                let begins =
                    before.split(' ').all(|w| w.is_empty() || w.contains('=')) || before.ends_with("&&");
                if !begins || word.is_empty() {
                    continue;
                }
                named += 1;
                if !targets.contains(word) {
                    missing.push(format!("{name}:{number}: there is no make {word}"));
                }
            }
        }
        for (number, line) in text.lines().enumerate() {
            let complaint = |what: &str| format!("{name}:{}: there is no {what}", number + 1);
            for folder in ["scripts/", "bench/", "demo/", "monitoring/", "tools/", "tests/"] {
                for (at, _) in line.match_indices(folder) {
                    let file = word_of(&line[at..], "/-_.").trim_end_matches(['.', '/']);
                    let begins = !line[..at].ends_with(|c: char| c.is_alphanumeric() || "/-_.".contains(c));
                    if !begins || line[..at].ends_with("](") {
                        continue;
                    }
                    named += 1;
                    // `tests/scheduling.rs` is short for the server's tests.
                    let short = file.strip_prefix("tests/").map(|f| format!("tests/server/tests/{f}"));
                    if ![Some(file.to_owned()), short]
                        .into_iter()
                        .flatten()
                        .any(|f| workspace().join(f).exists())
                    {
                        missing.push(complaint(file));
                    }
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(named > 50, "{named} names were found");
}

#[test]
fn links_and_anchors_are_read_as_github_reads_them() {
    let text = "[a](b.md#c) `[no](x.md)` and\n```\n[no](y.md)\n```\n![p](p.png), [q](<r.md>)\n";
    let found: Vec<_> = links(text).into_iter().map(|(line, link)| (line, link.to_owned())).collect();
    assert_eq!(found, [(1, "b.md#c".to_owned()), (5, "p.png".to_owned()), (5, "r.md".to_owned())]);
    let anchors = anchors_of("# `a_b` and C?\n## Twice\n## Twice\n```\n# no\n```\n");
    assert_eq!(anchors.into_iter().collect::<Vec<_>>(), ["a_b-and-c", "twice", "twice-1"]);
    assert_eq!(beside("docs/a.md", "../monitoring/README.md"), "monitoring/README.md");
}

/// Returns the longest prefix of letters, digits and these characters.
fn word_of<'a>(text: &'a str, also: &str) -> &'a str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || also.contains(c))).unwrap_or(text.len());
    &text[..end]
}

/// Returns the commands that a reader may type: lines of code blocks other than SQL, and code within lines.
fn commands(text: &str) -> Vec<(usize, &str)> {
    let spans = prose(text).into_iter().flat_map(|(number, line)| {
        code_spans(line).into_iter().map(move |span| (number, span)).collect::<Vec<_>>()
    });
    let mut found: Vec<_> = spans.collect();
    let mut block = None;
    for (number, line) in text.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = if block.is_some() { None } else { Some(language) };
        } else if block.is_some_and(|language| language != "sql") {
            found.push((number + 1, line));
        }
    }
    found
}

/// Returns the targets of links with their lines. Code is left out.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        for (at, _) in line.match_indices("](") {
            let in_code = line[..at].bytes().filter(|b| *b == b'`').count() % 2 == 1;
            let rest = &line[at + 2..];
            if let Some(end) = rest.find(')').filter(|_| !in_code) {
                found.push((number, rest[..end].trim_start_matches('<').trim_end_matches('>')));
            }
        }
    }
    found
}

fn anchors_of(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let Some((_, words)) = heading(line) else { continue };
        let first = anchor(words);
        let mut name = first.clone();
        for n in 1.. {
            if anchors.insert(name) {
                break;
            }
            name = format!("{first}-{n}");
        }
    }
    anchors
}

/// Returns the file that a link on a page names, relative to the root.
fn beside(page: &str, link: &str) -> String {
    let mut path = PathBuf::from(page);
    path.pop();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path.to_string_lossy().into_owned()
}
