//! Hides passwords in texts that are not in the list of passwords: a user name, a command, or a part of one.
//!
//! A text is hidden if it is a password of the table `auth`. Two rules decide, because attackers also try common words, such
//! as `root`, as passwords:
//!
//! - A whole value is hidden if at least as many sessions tried it as a password.
//! - A part of a value is hidden if it is a password that has at least [`LEAST`] characters, a letter and a digit. The part
//!   must not be beside a further letter or digit.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use postgres::Transaction;

use super::table::SessionTable;
use super::{Absent, Period, Section, section};

/// Shown instead of a password. It does not show the length of the password.
pub const MASK: &str = "••••••••";
/// Number of characters of a value that a page shows.
const SHOWN: usize = 160;
/// Numbers of characters of the shortest and the longest password that is hidden within a longer text.
const LEAST: usize = 6;
const MOST: usize = 100;
/// A password within a longer text may consist of this many words and separators. This limits the number of parts.
const WORDS: usize = 12;

/// A value as the page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub text: String,
    /// Whether the page shows only the beginning of the value, and the number of characters of the whole value.
    pub cut_from: Option<usize>,
}

impl Shown {
    /// Shows a value without hiding a password.
    pub fn unchanged(value: &str) -> Shown {
        Shown::hiding(value, &BTreeMap::new())
    }

    fn hidden() -> Shown {
        Shown { text: MASK.to_owned(), cut_from: None }
    }

    /// `hidden` has the first character of each hidden part, and the character after its end.
    fn hiding(value: &str, hidden: &BTreeMap<usize, usize>) -> Shown {
        let mut text = String::new();
        let mut end = 0;
        for (place, character) in value.chars().enumerate().take(SHOWN) {
            if let Some(later) = hidden.get(&place).filter(|_| place >= end) {
                text.push_str(MASK);
                end = *later;
            }
            if place >= end {
                text.push(character);
            }
        }
        let length = value.chars().count();
        Shown { text, cut_from: (length > SHOWN).then_some(length) }
    }
}

/// The texts that clients tried as passwords, with the numbers of sessions of the period.
#[derive(Default)]
pub struct Passwords(HashMap<String, u64>);

impl Passwords {
    /// Finds out which values, and which of their parts, are passwords.
    pub fn among(
        values: &[&str],
        transaction: &mut Transaction<'_>,
        table: &SessionTable,
        period: Period,
    ) -> Result<Section<Passwords>, postgres::Error> {
        let mut texts: BTreeSet<String> = values.iter().map(|value| (*value).to_owned()).collect();
        for value in values {
            let characters: Vec<char> = value.chars().take(SHOWN + MOST).collect();
            texts.extend(
                parts(&characters).into_iter().map(|(start, end)| characters[start..end].iter().collect()),
            );
        }
        let texts: Vec<String> = texts.into_iter().collect();
        section(transaction, |transaction| {
            if !table.has_column("id") {
                return Ok(Err(Absent(format!("{} has no column id that this role may read", table.name))));
            }
            let auth = match table.beside(transaction, "auth", &["session", "password"])? {
                Ok(auth) => auth,
                Err(absent) => return Ok(Err(absent)),
            };
            let (within, mut parameters) = table.within(&period, 2);
            parameters.insert(0, &texts);
            let statement = format!(
                "SELECT a.password::pg_catalog.text, count(DISTINCT s.id)
                 FROM {auth} a LEFT JOIN {} s ON s.id = a.session AND {within}
                 WHERE a.password::pg_catalog.text = ANY ($1) GROUP BY 1",
                table.name
            );
            let rows = transaction.query(&statement, &parameters)?;
            let tried = rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1).unsigned_abs()));
            Ok(Ok(Passwords(tried.collect())))
        })
    }

    /// Returns the value as the page shows it. `sessions` is the number of sessions that have the value.
    pub fn hide(&self, value: &str, sessions: u64) -> Shown {
        if self.0.get(value).is_some_and(|tried| *tried >= sessions) {
            return Shown::hidden();
        }
        let characters: Vec<char> = value.chars().take(SHOWN + MOST).collect();
        let mut hidden = BTreeMap::new();
        for (start, end) in parts(&characters) {
            if self.0.contains_key(&characters[start..end].iter().collect::<String>()) {
                // The longest part from a character is hidden.
                hidden.insert(start, end);
            }
        }
        Shown::hiding(value, &hidden)
    }
}

/// Returns the parts that could be passwords: their first characters, and the characters after their ends, in ascending order.
fn parts(characters: &[char]) -> Vec<(usize, usize)> {
    let is_word = |place: usize| characters.get(place).is_some_and(|character| character.is_alphanumeric());
    let edges: Vec<usize> = (0..=characters.len())
        .filter(|place| !(*place > 0 && is_word(place - 1) && is_word(*place)))
        .collect();
    let mut parts = Vec::new();
    for (number, start) in edges.iter().enumerate() {
        for end in edges.iter().skip(number + 1).take(WORDS) {
            let part = &characters[*start..*end];
            if (LEAST..=MOST).contains(&part.len())
                && part.iter().any(|character| character.is_alphabetic())
                && part.iter().any(char::is_ascii_digit)
            {
                parts.push((*start, *end));
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str, sessions: u64, passwords: &[(&str, u64)]) -> String {
        let tried =
            passwords.iter().map(|(password, sessions)| ((*password).to_owned(), *sessions)).collect();
        Passwords(tried).hide(value, sessions).text
    }

    #[test]
    fn a_value_is_hidden_if_it_is_a_password_at_least_as_often() {
        assert_eq!(shown("x", 3, &[("x", 3)]), MASK);
        assert_eq!(shown("root", 30, &[("root", 3)]), "root");
        assert_eq!(shown("root", 30, &[]), "root");
    }

    #[test]
    fn a_password_within_a_text_is_hidden() {
        let tried = [("Tr0ub4dor&3", 1), ("Tr0ub4dor", 1), ("base64", 0), ("root", 9), ("12345678", 9)];
        for (value, expected) in [
            ("echo root:Tr0ub4dor&3|chpasswd", "echo root:••••••••|chpasswd"),
            ("curl http://u:Tr0ub4dor@192.0.2.1/", "curl http://u:••••••••@192.0.2.1/"),
            ("Tr0ub4dor Tr0ub4dor", "•••••••• ••••••••"),
            ("echo 'Tr0ub4dor'", "echo '••••••••'"),
            ("base64 -d", "•••••••• -d"),
            // A word, a number, and a password beside a further letter, stay.
            ("su root 12345678 xTr0ub4dor", "su root 12345678 xTr0ub4dor"),
        ] {
            assert_eq!(shown(value, 100, &tried), expected);
        }
    }

    #[test]
    fn the_end_of_a_cut_text_shows_no_part_of_a_password() {
        let value = format!("{} Tr0ub4dor {}", "a".repeat(SHOWN - 4), "b".repeat(1000));
        let cut = Passwords([("Tr0ub4dor".to_owned(), 1)].into()).hide(&value, 100);
        assert_eq!(cut.text, format!("{} {MASK}", "a".repeat(SHOWN - 4)));
        assert_eq!(cut.cut_from, Some(value.chars().count()));
        // A hidden part does not let the page show more of the text.
        let value = format!("Tr0ub4dor {}", "b".repeat(1000));
        let cut = Passwords([("Tr0ub4dor".to_owned(), 1)].into()).hide(&value, 100);
        assert_eq!(cut.text, format!("{MASK} {}", "b".repeat(SHOWN - 10)));
    }

    #[test]
    fn a_hostile_text_has_few_parts() {
        let text: Vec<char> = "a1!".repeat(1000).chars().take(SHOWN + MOST).collect();
        assert!(parts(&text).len() < WORDS * (SHOWN + MOST));
    }
}
