//! The type that the Python system determined for an address. Imported documents contain it in the key `ip_classification`.
//!
//! A document with such a classification:
//! ```json
//! {"ip_classification": {"ip_type": "cloud", "provider": "aws", "confidence": 0.99, "source": "cloud_aws",
//!                        "classified_at": "2025-11-20T03:18:32+00:00"}}
//! ```

use cowrie_enrich_engine::ip_type::MaxAges;
use cowrie_enrich_engine::timestamp::Timestamp;

use crate::mmdb::unix_seconds;
use crate::pg::jsonb::Container;

/// Key in documents, and the source of the type.
pub const KEY: &str = "ip_classification";

pub struct Classification {
    pub kind: &'static str,
    /// `None` if the document has no valid time.
    pub at: Option<Timestamp>,
    /// Operator of the cloud, as the Python system wrote it.
    pub provider: Option<String>,
}

/// Returns the classification that a document contains. Returns `None` if the document has no classification, or if its type is
/// unknown.
pub fn of(document: Container<'_>) -> Option<Classification> {
    let own = document.object(KEY)?;
    let kind = match own.text("ip_type")?.trim().to_ascii_lowercase().as_str() {
        "tor" => "TOR",
        "cloud" | "datacenter" => "DATACENTER",
        "residential" => "RESIDENTIAL",
        _ => return None,
    };
    Some(Classification {
        kind,
        at: own.text("classified_at").and_then(Timestamp::parse),
        provider: own.text("provider").filter(|name| !name.trim().is_empty()).map(str::to_owned),
    })
}

impl Classification {
    /// Returns true if the classification is recent enough to be used. An old classification may be wrong: for example, an address
    /// that was a Tor exit may have another use now.
    pub fn counts(&self, max_ages: &MaxAges, now: Timestamp) -> bool {
        self.at.is_some_and(|at| max_ages.allows(self.kind, unix_seconds(at), unix_seconds(now)))
    }
}
