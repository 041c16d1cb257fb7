//! The JSON documents in `ip_inventory.enrichment`: one part for each source.
//!
//! | module | holds |
//! |---|---|
//! | `answer` | the data in the mmdb files about an address, and the document that is stored for a new address |
//! | `answer_cache` | answers of the mmdb files, cached until the transaction ends |
//! | `classification` | the type of an address that the Python system determined |
//! | `enrichment` | the documents of this extension: the content of a document, and the age of each answer in it |
//! | `legacy` | the documents of the Python system, which the import reads |
//! | `skipped` | lookups that a user left out or cancelled |
//! | `types` | the types of an address that its document contains |

pub mod answer;
pub mod answer_cache;
pub mod classification;
pub mod enrichment;
pub mod legacy;
pub mod skipped;
pub mod types;
