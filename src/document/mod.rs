//! The JSON documents in `ip_inventory.enrichment`: one part for each source.
//!
//! | module | holds |
//! |---|---|
//! | `enrichment` | the documents of this extension: what they say, and how fresh it is |
//! | `legacy` | the documents of the Python system, read by import |

pub mod enrichment;
pub mod legacy;
