//! Writes HTML whose texts come from attackers.
//!
//! Markup is a literal of the program, because [`Html::markup`] takes a `&'static str` only. All other texts go through
//! [`Html::text`], which escapes them. So no text of an attacker can become markup.
//!
//! Characters that a reader would not see, or that change the direction of other characters, are shown as symbols or
//! codes. Each text is isolated from the direction of the page, and a long text is cut.

use std::fmt::Write as _;

/// Number of characters of a text that are shown by default.
pub const SHOWN: usize = 120;
/// Number of combining marks that may follow a character. Further marks would be drawn over other lines.
const MARKS: usize = 2;

/// A part of a page.
#[derive(Default)]
pub struct Html(String);

impl Html {
    /// Appends markup.
    pub fn markup(&mut self, markup: &'static str) -> &mut Html {
        self.0.push_str(markup);
        self
    }

    /// Appends another part.
    pub fn part(&mut self, part: &Html) -> &mut Html {
        self.0.push_str(&part.0);
        self
    }

    /// Appends a text of the program, such as a sentence with a time. It is escaped.
    pub fn plain(&mut self, text: &str) -> &mut Html {
        for character in text.chars() {
            self.escaped(character);
        }
        self
    }

    /// Appends a text that can come from an attacker, and cuts it.
    pub fn text(&mut self, text: &str) -> &mut Html {
        self.text_up_to(SHOWN, text)
    }

    /// Appends at most `most` characters of a text that can come from an attacker.
    pub fn text_up_to(&mut self, most: usize, text: &str) -> &mut Html {
        match text.char_indices().nth(most) {
            Some((end, _)) => self.text_cut(&text[..end], Some(text.chars().count())),
            None => self.text_cut(text, None),
        }
    }

    /// Appends a text that can come from an attacker. If it is the beginning of a longer text, `cut_from` is the number of
    /// characters of the longer text.
    pub fn text_cut(&mut self, text: &str, cut_from: Option<usize>) -> &mut Html {
        self.markup("<bdi>");
        let mut marks = 0;
        for character in text.chars() {
            marks = if is_mark(character) { marks + 1 } else { 0 };
            match symbol(character) {
                Some(symbol) => self.code(&symbol),
                None if marks > MARKS => self.code(&code_of(character)),
                None => self.escaped(character),
            }
        }
        match cut_from {
            Some(length) => {
                self.markup("</bdi><span class=cut>… (").number(length as u64).markup(" characters)</span>")
            }
            None => self.markup("</bdi>"),
        }
    }

    /// Appends a whole number, in groups of three digits.
    pub fn number(&mut self, number: u64) -> &mut Html {
        self.plain(&grouped(number))
    }

    /// Appends a number for an attribute.
    pub fn value(&mut self, number: impl Into<f64>) -> &mut Html {
        let number: f64 = number.into();
        let text = format!("{number:.2}");
        self.0.push_str(text.trim_end_matches('0').trim_end_matches('.'));
        self
    }

    pub fn into_string(self) -> String {
        self.0
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn code(&mut self, text: &str) {
        self.markup("<span class=code>");
        self.plain(text);
        self.markup("</span>");
    }

    fn escaped(&mut self, character: char) {
        match character {
            '&' => self.0.push_str("&amp;"),
            '<' => self.0.push_str("&lt;"),
            '>' => self.0.push_str("&gt;"),
            '"' => self.0.push_str("&quot;"),
            '\'' => self.0.push_str("&#39;"),
            other => self.0.push(other),
        }
    }
}

/// Returns the number with a narrow space between groups of three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 * 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Returns the symbol for a character that would be invisible, or that would change the text around it.
fn symbol(character: char) -> Option<String> {
    match character {
        // Unicode has a picture of each of these characters.
        '\0'..='\x1f' => char::from_u32(0x2400 + character as u32).map(String::from),
        '\x7f' => Some("␡".to_owned()),
        _ if is_invisible(character) => Some(code_of(character)),
        _ => None,
    }
}

fn code_of(character: char) -> String {
    let mut text = String::new();
    let _ = write!(text, "U+{:04X}", character as u32);
    text
}

/// Control characters of C1, characters that control the direction, spaces without a width, tags, variation selectors,
/// private characters, and spaces that look like other spaces.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{80}'..='\u{a0}' | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}'
        | '\u{2800}' | '\u{3000}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{10ffff}')
}

/// Marks that are drawn over the character before them.
fn is_mark(character: char) -> bool {
    matches!(character,
        '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{591}'..='\u{5bd}' | '\u{610}'..='\u{61a}'
        | '\u{64b}'..='\u{65f}' | '\u{e31}'..='\u{e3a}' | '\u{e47}'..='\u{e4e}' | '\u{1ab0}'..='\u{1aff}'
        | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        let mut html = Html::default();
        html.text(text);
        html.into_string()
    }

    #[test]
    fn markup_of_an_attacker_is_shown_as_text() {
        assert_eq!(
            shown("<script>alert('1')</script>&amp;\""),
            "<bdi>&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;amp;&quot;</bdi>"
        );
    }

    #[test]
    fn invisible_characters_are_shown() {
        for (character, symbol) in
            [("\0", "␀"), ("\u{1b}", "␛"), ("\n", "␊"), ("\u{202e}", "U+202E"), ("\u{200b}", "U+200B")]
        {
            assert_eq!(
                shown(&format!("a{character}b")),
                format!("<bdi>a<span class=code>{symbol}</span>b</bdi>")
            );
        }
    }

    #[test]
    fn a_long_text_is_cut_and_its_length_is_shown() {
        let text = shown(&"é".repeat(10_000));
        assert_eq!(text.matches('é').count(), SHOWN);
        assert!(text.ends_with("</bdi><span class=cut>… (10\u{202f}000 characters)</span>"), "{text}");
        assert!(!shown(&"é".repeat(SHOWN)).contains("cut"));
    }

    #[test]
    fn marks_cannot_be_piled_up() {
        let text = shown(&format!("a{}", "\u{301}".repeat(50)));
        assert_eq!(text.matches('\u{301}').count(), MARKS);
    }

    #[test]
    fn numbers_have_groups() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(grouped),
            ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]
        );
    }

    proptest! {
        #[test]
        fn no_text_adds_markup(characters in proptest::collection::vec(any::<char>(), 0..200)) {
            let text: String = characters.into_iter().collect();
            let shown = shown(&text);
            let without = shown
                .replace("<bdi>", "").replace("</bdi>", "").replace("<span class=code>", "")
                .replace("<span class=cut>", "").replace("</span>", "");
            prop_assert!(!without.contains(['<', '>', '"', '\'']), "{}", shown);
            prop_assert!(without.chars().all(|c| !c.is_control()), "{:?}", shown);
        }
    }
}
