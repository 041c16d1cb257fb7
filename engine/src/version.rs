//! Compares versions of the extension.

/// Numbers between dots. A suffix after `-` or `+` is ignored. A part that is not a number counts as 0.
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
pub enum Fit {
    Fits,
    /// The library's statements need objects of a later version.
    ObjectsTooOld,
    /// The objects belong to a later version of the library.
    LibraryTooOld,
}

impl Fit {
    /// Compares the versions. `oldest` is the first version of the objects that the library works with.
    pub fn of(objects: &str, oldest: &str, library: &str) -> Fit {
        let objects = Version::of(objects);
        if objects < Version::of(oldest) {
            Fit::ObjectsTooOld
        } else if objects > Version::of(library) {
            Fit::LibraryTooOld
        } else {
            Fit::Fits
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
        let fit = |objects| Fit::of(objects, "0.2.0", "0.3.1");
        assert_eq!(fit("0.1.9"), Fit::ObjectsTooOld);
        assert_eq!(fit("nonsense"), Fit::ObjectsTooOld);
        for objects in ["0.2.0", "0.2.7", "0.3.0", "0.3.1"] {
            assert_eq!(fit(objects), Fit::Fits, "{objects}");
        }
        assert_eq!(fit("0.3.2"), Fit::LibraryTooOld);
        assert_eq!(fit("1.0.0"), Fit::LibraryTooOld);
    }
}
