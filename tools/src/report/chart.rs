//! Bars, and the classes of the map's colours.

use crate::html::{Html, grouped};

/// Appends a bar whose length is a share of the largest.
pub fn bar(html: &mut Html, number: u64, largest: u64) {
    let length = share(number, largest) * 100.0;
    html.markup("<svg viewBox=\"0 0 100 10\" preserveAspectRatio=none aria-hidden=true><rect class=s height=10 width=");
    // A small number is still visible.
    html.value(if number > 0 { length.max(0.8) } else { 0.0 }).markup(" /></svg>");
}

/// Returns a part of a whole, 0 if the whole is 0.
pub fn share(number: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { number as f64 / whole as f64 }
}

/// Returns a percentage with one digit. A share that is not 0 is never shown as 0.
pub fn percent(number: u64, whole: u64) -> String {
    let percent = share(number, whole) * 100.0;
    if percent > 0.0 && percent < 0.1 { "< 0.1 %".to_owned() } else { format!("{percent:.1} %") }
}

/// Returns a round number that is at least `largest`, as the top of a scale.
pub fn top_of_scale(largest: u64) -> u64 {
    let mut unit: u64 = 1;
    loop {
        for factor in [1, 2, 3, 4, 5, 8] {
            let top = unit.saturating_mul(factor);
            // The middle of the scale is a whole number too.
            if top >= largest && (top.is_multiple_of(2) || top == u64::MAX) {
                return top;
            }
        }
        unit = unit.saturating_mul(10);
    }
}

/// The lowest number of each class of a map, in ascending order. At most six classes.
pub struct Classes(Vec<u64>);

impl Classes {
    pub fn of(largest: u64) -> Classes {
        let powers = |factors: &[u64]| -> Vec<u64> {
            let mut bounds = Vec::new();
            let mut unit: u64 = 1;
            while unit <= largest {
                bounds.extend(
                    factors
                        .iter()
                        .map(|factor| unit.saturating_mul(*factor))
                        .filter(|bound| *bound <= largest),
                );
                let Some(next) = unit.checked_mul(10) else { break };
                unit = next;
            }
            bounds
        };
        let fine = powers(&[1, 3]);
        let mut bounds = if fine.len() <= 6 { fine } else { powers(&[1]) };
        while bounds.len() > 6 {
            // The lowest classes become one.
            bounds.remove(1);
        }
        Classes(bounds)
    }

    /// Returns the markup of the class of a number. A few classes use colours from the whole scale.
    pub fn markup(&self, number: u64) -> &'static str {
        const MARKUP: [&str; 6] =
            [" class=q0", " class=q1", " class=q2", " class=q3", " class=q4", " class=q5"];
        match self.0.iter().rposition(|bound| *bound <= number) {
            Some(class) => MARKUP[class * 5 / self.0.len().saturating_sub(1).max(1)],
            None => "",
        }
    }

    /// Returns the text of each class for a legend, with a number in the class.
    pub fn legend(&self) -> Vec<(u64, String)> {
        let ends = self.0.iter().skip(1).map(|next| next - 1);
        let texts = self.0.iter().zip(ends).map(|(first, last)| match last {
            last if last == *first => (*first, grouped(last)),
            last => (*first, format!("{} to {}", grouped(*first), grouped(last))),
        });
        texts.chain(self.0.last().map(|last| (*last, format!("{} and more", grouped(*last))))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_round_and_few() {
        assert_eq!(Classes::of(0).0, [0; 0]);
        assert_eq!(Classes::of(1).0, [1]);
        assert_eq!(Classes::of(170).0, [1, 3, 10, 30, 100]);
        assert_eq!(Classes::of(999_999).0, [1, 10, 100, 1_000, 10_000, 100_000]);
        assert_eq!(Classes::of(u64::MAX).0.len(), 6);
        let classes = Classes::of(170);
        let texts: Vec<String> = classes.legend().into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["1 to 2", "3 to 9", "10 to 29", "30 to 99", "100 and more"]);
        assert_eq!([0, 1, 170].map(|number| classes.markup(number)), ["", " class=q0", " class=q5"]);
        assert_eq!(Classes::of(1).markup(1), " class=q0");
    }

    #[test]
    fn the_top_of_a_scale_is_round() {
        assert_eq!([0, 1, 2, 7, 11, 150, 401].map(top_of_scale), [2, 2, 2, 8, 20, 200, 500]);
        assert_eq!(top_of_scale(u64::MAX), u64::MAX);
    }

    #[test]
    fn small_shares_are_not_zero() {
        assert_eq!(
            [percent(0, 10), percent(1, 100_000), percent(1, 3), percent(1, 0)],
            ["0.0 %", "< 0.1 %", "33.3 %", "0.0 %"]
        );
    }
}
