//! Compares versions of the extension.

/// A version: numbers with dots between them. A suffix after `-` or `+` is ignored. If a part is not a number, it counts as 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version([u64; 3]);

impl Version {
    pub fn of(text: &str) -> Version {
        let numbers = text.split(['-', '+']).next().unwrap_or_default();
        let mut parts = numbers.split('.').map(|part| part.trim().parse().unwrap_or(0));
        Version(std::array::from_fn(|_| parts.next().unwrap_or(0)))
    }
}

/// Compatibility of a library with the SQL objects of another version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VersionMatch {
    Compatible,
    /// The library's statements need objects of a later version.
    ObjectsTooOld,
    /// The objects belong to a later version of the library.
    LibraryTooOld,
}

impl VersionMatch {
    /// Compares the version of the SQL objects with the versions that the library works with. `oldest` is the oldest version of the
    /// SQL objects that the library works with.
    pub fn of(objects: &str, oldest: &str, library: &str) -> VersionMatch {
        let objects = Version::of(objects);
        if objects < Version::of(oldest) {
            VersionMatch::ObjectsTooOld
        } else if objects > Version::of(library) {
            VersionMatch::LibraryTooOld
        } else {
            VersionMatch::Compatible
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (less, more) in [("0.1.0", "0.2.0"), ("0.9.0", "0.10.0"), ("0.1", "0.1.1"), ("", "0.0.1")] {
            assert!(Version::of(less) < Version::of(more), "{less} {more}");
        }
        for same in ["1.2.0", "1.2", "1.2.0-rc.1", "1.2.0+debian"] {
            assert_eq!(Version::of(same), Version::of("1.2.0"), "{same}");
        }
    }

    #[test]
    fn a_library_works_with_objects_from_its_oldest_to_its_own() {
        let compare = |objects| VersionMatch::of(objects, "0.2.0", "0.3.1");
        assert_eq!(compare("0.1.9"), VersionMatch::ObjectsTooOld);
        assert_eq!(compare("nonsense"), VersionMatch::ObjectsTooOld);
        for objects in ["0.2.0", "0.2.7", "0.3.0", "0.3.1"] {
            assert_eq!(compare(objects), VersionMatch::Compatible, "{objects}");
        }
        assert_eq!(compare("0.3.2"), VersionMatch::LibraryTooOld);
        assert_eq!(compare("1.0.0"), VersionMatch::LibraryTooOld);
    }
}
