//! The files that the settings name.

use cowrie_enrich_engine::mmdb::Content;

use crate::guc;

/// The two settings. Each names one or more files, which are asked in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    City,
    Asn,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::City, Kind::Asn];

    pub fn name(self) -> &'static str {
        match self {
            Kind::City => "city",
            Kind::Asn => "asn",
        }
    }

    pub fn setting(self) -> &'static str {
        match self {
            Kind::City => "cowrie_enrich.city_database",
            Kind::Asn => "cowrie_enrich.asn_database",
        }
    }

    /// Returns the files that the setting names, in its order.
    pub fn files(self) -> Vec<ConfiguredFile> {
        let paths = match self {
            Kind::City => guc::city_database(),
            Kind::Asn => guc::asn_database(),
        };
        let number = |(number, path)| ConfiguredFile { id: FileId { kind: self, number }, path };
        (1..).zip(paths).map(number).collect()
    }

    /// Returns true if a file with this content is valid for this setting.
    pub fn accepts(self, content: Content) -> bool {
        matches!(
            (self, content),
            (_, Content::Both) | (Kind::City, Content::Location) | (Kind::Asn, Content::Network)
        )
    }
}

/// A file's place in the settings. Its private copy belongs to the place: if the setting names another file, the copy
/// stays in service until the other file has been verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileId {
    pub kind: Kind,
    /// Position in the setting, from 1.
    pub number: usize,
}

impl FileId {
    /// Returns the beginning of the names of the private copy and its status: `city`, `city.2`, `city.3` …
    pub fn stem(self) -> String {
        match self.number {
            1 => self.kind.name().to_owned(),
            number => format!("{}.{number}", self.kind.name()),
        }
    }

    /// Returns the number of the file of this kind to which a name in the directory of the copies belongs, if the number
    /// is in the name.
    pub fn number_of(kind: Kind, name: &str) -> Option<usize> {
        let behind = name.strip_prefix(kind.name())?.strip_prefix('.')?;
        behind.split(['.', '-']).next()?.parse().ok()
    }
}

/// A file that a setting names.
#[derive(Clone, Debug)]
pub struct ConfiguredFile {
    pub id: FileId,
    pub path: String,
}
