//! cowrie_enrich.
