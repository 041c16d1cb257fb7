//! The JSON documents in `ip_inventory.enrichment`: one part for each source.
//!
//! | module | holds |
//! |---|---|
//! | `answer` | the values of the mmdb files about an address, and the document for a new address |
//! | `classification` | the type of an address that the Python system determined |
//! | `enrichment` | the documents of this extension: their content, and the age of each answer |
//! | `legacy` | the documents of the Python system, read by import |
//! | `skipped` | lookups that a user left out or cancelled |
//! | `types` | the types of an address |

pub mod answer;
pub mod classification;
pub mod enrichment;
pub mod legacy;
pub mod skipped;
pub mod types;
