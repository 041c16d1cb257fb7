//! Answers: what do the status files say?

/// Phases that have a file of their own.
pub const PHASES: &[&str] = &["enrichment"];
