//! Collects ratios and prints them with their aims.

#[derive(Clone, Copy)]
pub enum Aim {
    AtLeast(f64),
    AtMost(f64),
    /// An alternative, for scale.
    None,
}

struct Line {
    what: String,
    absolute: String,
    rounds: Vec<f64>,
    unit: &'static str,
    aim: Aim,
    note: String,
}

pub struct Report {
    /// False if lookups were measured with smaller databases than full-size ones.
    pub real: bool,
    lines: Vec<Line>,
}

impl Default for Report {
    fn default() -> Self {
        Self { real: true, lines: Vec::new() }
    }
}

impl Report {
    /// Adds a ratio that was measured in several rounds. `absolute` names the numerator and the denominator.
    pub fn ratio(&mut self, what: &str, absolute: String, rounds: Vec<f64>, aim: Aim, note: String) {
        self.line(what, absolute, rounds, "", aim, note);
    }

    pub fn line(
        &mut self,
        what: &str,
        absolute: String,
        rounds: Vec<f64>,
        unit: &'static str,
        aim: Aim,
        note: String,
    ) {
        let line = Line { what: what.to_owned(), absolute, rounds, unit, aim, note };
        eprintln!("  {}", line.text());
        self.lines.push(line);
    }

    pub fn print(&self) {
        println!();
        if !self.real {
            println!(
                "The lookup ratios below are not valid, because full-size mmdb files are missing \
                 (see scripts/fetch-real-databases)."
            );
        }
        println!(
            "| {:<58} | {:<27} | {:>8} | {:>15} | {:<10} | {:<6} | note |",
            "measurement", "medians", "result", "range", "aim", "met"
        );
        println!("|{0:-<60}|{0:-<29}|{0:->10}|{0:->17}|{0:-<12}|{0:-<8}|------|", "");
        for line in &self.lines {
            println!("| {} |", line.text());
        }
    }
}

impl Line {
    fn text(&self) -> String {
        let result = median(&self.rounds);
        let (low, high) =
            self.rounds.iter().fold((f64::MAX, f64::MIN), |(low, high), r| (low.min(*r), high.max(*r)));
        let (aim, met) = match self.aim {
            Aim::AtLeast(aim) => (format!(">= {aim}"), result >= aim),
            Aim::AtMost(aim) => (format!("<= {aim}"), result <= aim),
            Aim::None => ("-".to_owned(), true),
        };
        let met = match (&self.aim, met) {
            (Aim::None, _) => "-",
            (_, true) => "yes",
            (_, false) => "NO",
        };
        format!(
            "{:<58} | {:<27} | {:>8} | {:>15} | {:<10} | {:<6} | {}",
            self.what,
            self.absolute,
            format!("{}{}", short(result), self.unit),
            format!("{}..{}", short(low), short(high)),
            aim,
            met,
            self.note
        )
    }
}

/// Formats a number with three significant digits.
pub fn short(n: f64) -> String {
    match n.abs() {
        0.0 => "0".to_owned(),
        0.0..0.001 => format!("{n:.6}"),
        0.001..0.1 => format!("{n:.4}"),
        0.1..10.0 => format!("{n:.2}"),
        10.0..100.0 => format!("{n:.1}"),
        _ => format!("{n:.0}"),
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}
