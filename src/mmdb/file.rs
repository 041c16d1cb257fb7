//! The files that the settings name.

use cowrie_enrich_engine::mmdb::Content;

use crate::guc;

/// The settings that name mmdb files. Each setting names one or more files. A lookup searches the files of
/// locations and the files of networks in the order of the setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    City,
    Asn,
    /// Files with types of addresses.
    Types,
}

impl Kind {
    /// The settings whose files are searched in the order of the setting.
    pub const ALL: [Kind; 2] = [Kind::City, Kind::Asn];

    pub const EVERY: [Kind; 3] = [Kind::City, Kind::Asn, Kind::Types];

    pub fn name(self) -> &'static str {
        match self {
            Kind::City => "city",
            Kind::Asn => "asn",
            Kind::Types => "types",
        }
    }

    pub fn setting(self) -> &'static str {
        match self {
            Kind::City => "cowrie_enrich.city_database",
            Kind::Asn => "cowrie_enrich.asn_database",
            Kind::Types => "cowrie_enrich.ip_type_databases",
        }
    }

    /// Returns the files that the setting names, in the order of the setting.
    pub fn files(self) -> Vec<ConfiguredFile> {
        let paths = match self {
            Kind::City => guc::city_database(),
            Kind::Asn => guc::asn_database(),
            Kind::Types => guc::ip_type_databases(),
        };
        let file = |(number, path): (usize, String)| {
            let id = FileId::of(self, number, &path);
            ConfiguredFile { id, path }
        };
        (1..).zip(paths).map(file).collect()
    }

    /// Returns true if a file with this content is valid for this setting.
    pub fn accepts(self, content: Content) -> bool {
        matches!(
            (self, content),
            (_, Content::Both) | (Kind::City, Content::Location) | (Kind::Asn, Content::Network)
        )
    }
}

/// Identifies a configured file by its position in a setting. The private copy belongs to this position. If the
/// setting later names another file at the position, the copy stays in service until the other file has been
/// verified.
///
/// The private copy of a file with types of addresses belongs to the path of the file instead. So the order of
/// these files does not matter. As soon as the setting no longer names such a file, lookups do not use its
/// copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileId {
    pub kind: Kind,
    /// Position in the setting, from 1.
    pub number: usize,
    /// Fingerprint of the path of a file with types of addresses. 0 for other files.
    fingerprint: u64,
}

impl FileId {
    pub fn of(kind: Kind, number: usize, path: &str) -> FileId {
        let fingerprint = if kind == Kind::Types { fingerprint(path) } else { 0 };
        FileId { kind, number, fingerprint }
    }

    /// Returns true if this file and `other` have the same private copy.
    pub fn has_copy_of(self, other: FileId) -> bool {
        self.stem() == other.stem()
    }

    /// Returns the text with which the file names of the private copy and of its status begin: `city`,
    /// `city.2`, `city.3` …
    pub fn stem(self) -> String {
        match self.number {
            _ if self.kind == Kind::Types => format!("{TYPES_PREFIX}{:016x}", self.fingerprint),
            1 => self.kind.name().to_owned(),
            number => format!("{}.{number}", self.kind.name()),
        }
    }

    /// Parses the file name of a private copy or status of this kind. Returns the position of the configured
    /// file, or `None` if the name contains no number.
    pub fn number_of(kind: Kind, name: &str) -> Option<usize> {
        let behind = name.strip_prefix(kind.name())?.strip_prefix('.')?;
        behind.split(['.', '-']).next()?.parse().ok()
    }
}

/// The name of each private copy of a file with types of addresses begins with this text. A fingerprint of 16
/// digits follows.
pub const TYPES_PREFIX: &str = "types-";

/// Returns the FNV-1a hash of a path. The hash is the same in each process and in each version of the
/// extension.
fn fingerprint(path: &str) -> u64 {
    path.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A file that a setting names.
#[derive(Clone, Debug)]
pub struct ConfiguredFile {
    pub id: FileId,
    pub path: String,
}
