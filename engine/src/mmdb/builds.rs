//! Describes the builds of the mmdb files that are in use, as one text. This text is stored with each answer. When a file with
//! another build is loaded, the answers that have the earlier text expire.
//!
//! The text has the build time of each file. For example, the text is `1530576000/1781222400` for one city file and one ASN file.
//! For two city files and no ASN file, the text is `1530576000+1781222400/-`.

/// Returns the text for the files of the settings `city_database` and `asn_database`. The arguments are the build times of the
/// files, in the order of the settings. `None` means that the file is not loaded.
pub fn describe(city: &[Option<u64>], asn: &[Option<u64>]) -> String {
    format!("{}/{}", describe_setting(city), describe_setting(asn))
}

fn describe_setting(files: &[Option<u64>]) -> String {
    if files.is_empty() {
        return "-".to_owned();
    }
    let each = files.iter().map(|build| build.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string()));
    each.collect::<Vec<_>>().join("+")
}

/// Returns true if a file that is in use now has another build than the file that was used for an earlier answer. `of_answer` has
/// the builds of the files that were used for that answer. Files that are not loaded now are ignored, so a missing file does not
/// make an answer expire.
pub fn is_due(now: &str, of_answer: Option<&str>) -> bool {
    let Some(of_answer) = of_answer else { return true };
    if now == of_answer {
        return false;
    }
    let Some((city, asn)) = of_answer.split_once('/') else { return true };
    let (city_now, asn_now) = now.split_once('/').unwrap_or(("-", "-"));
    has_changed(city_now, city) || has_changed(asn_now, asn)
}

fn has_changed(now: &str, before: &str) -> bool {
    let mut before = before.split('+');
    now.split('+').any(|build| {
        let before = before.next();
        build != "-" && before != Some(build)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_described_in_the_order_of_the_settings() {
        assert_eq!(describe(&[Some(1)], &[Some(2)]), "1/2");
        assert_eq!(describe(&[Some(1), None, Some(3)], &[]), "1+-+3/-");
        assert_eq!(describe(&[], &[None]), "-/-");
    }

    #[test]
    fn an_answer_is_due_when_a_file_has_another_build() {
        for (now, before) in [
            ("2/5", "1/5"),
            ("1/6", "1/5"),
            ("1/5", "-/5"),
            ("1+2/5", "1/5"),
            ("1+3/5", "1+2/5"),
            ("2+1/5", "1+2/5"),
            ("-+3/5", "1+2/5"),
            ("1/5", "not builds"),
        ] {
            assert!(is_due(now, Some(before)), "{now}, {before}");
        }
        assert!(is_due("1/5", None));
    }

    #[test]
    fn an_answer_does_not_expire_because_a_file_is_missing() {
        for (now, before) in [
            ("1/5", "1/5"),
            ("-/5", "1/5"),
            ("1/-", "1/5"),
            ("1/5", "1+2/5"),
            ("-+2/5", "1+2/5"),
            ("1+-/5", "1/5"),
        ] {
            assert!(!is_due(now, Some(before)), "{now}, {before}");
        }
    }
}
