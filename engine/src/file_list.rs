//! A list of files in a setting: paths, separated by commas.
//!
//! If a path contains a comma, the path is written in double quotes. Inside the quotes, two double quotes stand for one. Blanks
//! around a path are ignored.

use crate::export::settings::Refusal;

const EMPTY: Refusal = Refusal {
    reason: "The list contains an empty path.",
    hint: "Separate the paths of mmdb files by single commas.",
};
const QUOTES: Refusal = Refusal {
    reason: "The list contains a quotation mark that does not enclose a path.",
    hint: "Enclose a path that contains a comma in double quotes, for example '\"/srv/a,b.mmdb\", /srv/c.mmdb'.",
};

/// Parses a list. A list without any text is empty.
pub fn parse(text: &str) -> Result<Vec<String>, Refusal> {
    let mut paths = Vec::new();
    let mut rest = text.trim();
    if rest.is_empty() {
        return Ok(paths);
    }
    loop {
        let (path, behind) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (path, behind) = rest.find(',').map_or((rest, ""), |comma| rest.split_at(comma));
                if path.contains('"') {
                    return Err(QUOTES);
                }
                (path.trim_end().to_owned(), behind)
            }
        };
        if path.is_empty() {
            return Err(EMPTY);
        }
        paths.push(path);
        rest = match behind.trim_start().strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if behind.trim_start().is_empty() => return Ok(paths),
            None => return Err(QUOTES),
        };
    }
}

/// Returns the path in quotes, and the text after the closing quote. `text` starts after the opening quote.
fn unquote(text: &str) -> Result<(String, &str), Refusal> {
    let mut path = String::new();
    let mut rest = text;
    loop {
        let (part, behind) = rest.split_once('"').ok_or(QUOTES)?;
        path.push_str(part);
        match behind.strip_prefix('"') {
            Some(more) => {
                path.push('"');
                rest = more;
            }
            None => return Ok((path, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_separated_by_commas() {
        for (text, paths) in [
            ("", &[][..]),
            ("  ", &[]),
            ("/a.mmdb", &["/a.mmdb"]),
            (" /a b.mmdb , /c.mmdb ", &["/a b.mmdb", "/c.mmdb"]),
            (r#""/a,b.mmdb",/c.mmdb"#, &["/a,b.mmdb", "/c.mmdb"]),
            (r#"/c.mmdb, "/a ""b"".mmdb" "#, &["/c.mmdb", "/a \"b\".mmdb"]),
        ] {
            assert_eq!(parse(text).expect(text), paths, "{text}");
        }
    }

    #[test]
    fn a_list_with_an_empty_path_is_refused() {
        for text in [",", "/a,", ",/a", "/a,,/b", r#""""#, r#"/a, "" "#] {
            assert_eq!(parse(text), Err(EMPTY), "{text}");
        }
    }

    #[test]
    fn a_list_with_a_stray_quotation_mark_is_refused() {
        for text in [r#"""#, r#"/a""#, r#"/a"b",/c"#, r#""/a"b"#, r#""/a" "/b""#, r#""/a"#] {
            assert_eq!(parse(text), Err(QUOTES), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_quoted_list_is_read_back(paths in prop::collection::vec("[ ,\"a-c/é]{1,8}", 0..4)) {
            let quoted: Vec<_> = paths.iter().map(|path| format!("\"{}\"", path.replace('"', "\"\""))).collect();
            prop_assert_eq!(parse(&quoted.join(", ")), Ok(paths));
        }
    }
}
