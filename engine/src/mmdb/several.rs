//! Lookups in several files, which are searched in order.
//!
//! For each field, the value comes from the first file that has a value. So a later file adds only values that are missing in the
//! earlier files. Two rules ensure that the result does not combine values of different places:
//!
//! - City, coordinates and accuracy radius belong together, so all of them come from the first file that has a city or coordinates.
//!   Region, postal code and time zone also come from one file. If any file has a city or coordinates, these three fields come from
//!   the file of the city and the coordinates.
//! - If a later file has another country than an earlier file, the city and the coordinates of the later file are not used.
//!
//! The organisation of a network may come from a later file only if the later file has the same ASN as the earlier file.

use super::{DetailedLocation, Location, Network};

impl<'a> Location<'a> {
    /// Returns this location with its missing values added from `later`. `later` is the location of the same address in a later
    /// file.
    pub fn or(self, later: Location<'a>) -> Location<'a> {
        let same_country = self.may_be_in_country_of(&later);
        let place = if self.has_place() || !same_country { self } else { later };
        Location {
            country: self.country.or(later.country),
            registered_country: self.registered_country.or(later.registered_country),
            country_name: self.country_name.or(later.country_name.filter(|_| same_country)),
            city: place.city,
            latitude: place.latitude,
            longitude: place.longitude,
            accuracy_radius: place.accuracy_radius,
        }
    }

    /// Returns true if no later file can add a value.
    pub fn is_complete(&self) -> bool {
        self.country.is_some()
            && self.country_name.is_some()
            && self.registered_country.is_some()
            && self.has_place()
    }

    fn has_place(&self) -> bool {
        self.city.is_some() || self.latitude.is_some()
    }

    fn may_be_in_country_of(&self, later: &Location<'_>) -> bool {
        match (self.country, later.country) {
            (Some(own), Some(later)) => own == later,
            _ => true,
        }
    }
}

impl<'a> DetailedLocation<'a> {
    /// Returns this detailed location with its missing values added from `later`. `later` is the location of the same address in a
    /// later file.
    pub fn or(self, later: DetailedLocation<'a>) -> DetailedLocation<'a> {
        let is_open = !self.location.has_place() && self.location.may_be_in_country_of(&later.location);
        let is_better = later.location.has_place() || !self.has_details();
        let details = if is_open && is_better { later } else { self };
        DetailedLocation { location: self.location.or(later.location), ..details }
    }

    /// Returns true if no later file can add a value.
    pub fn is_complete(&self) -> bool {
        self.location.is_complete()
    }

    fn has_details(&self) -> bool {
        [self.region, self.region_code, self.postal_code, self.time_zone].iter().any(Option::is_some)
    }
}

impl<'a> Network<'a> {
    /// Returns this network. If its organisation is unknown, the organisation of `later` is used, but only if `later` has the same
    /// ASN.
    pub fn or(self, later: Network<'a>) -> Network<'a> {
        let organization = later.organization.filter(|_| later.asn == self.asn);
        Network { asn: self.asn, organization: self.organization.or(organization) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: Location<'static> = Location {
        country: None,
        registered_country: None,
        country_name: None,
        city: None,
        latitude: None,
        longitude: None,
        accuracy_radius: None,
    };
    const GERMANY: Location<'static> =
        Location { country: Some(*b"DE"), country_name: Some("Germany"), ..NOWHERE };
    const BERLIN: Location<'static> = Location {
        city: Some("Berlin"),
        latitude: Some(52.5),
        longitude: Some(13.4),
        accuracy_radius: Some(20),
        ..GERMANY
    };
    const PARIS: Location<'static> = Location {
        country: Some(*b"FR"),
        country_name: Some("France"),
        registered_country: Some(*b"US"),
        city: Some("Paris"),
        latitude: Some(48.9),
        longitude: Some(2.4),
        ..NOWHERE
    };

    #[test]
    fn a_later_file_fills_what_the_first_lacks() {
        assert_eq!(NOWHERE.or(BERLIN), BERLIN);
        assert_eq!(GERMANY.or(BERLIN), BERLIN);
        assert_eq!(BERLIN.or(NOWHERE), BERLIN);
        assert_eq!(Location { country_name: None, ..GERMANY }.or(BERLIN), BERLIN);
    }

    #[test]
    fn a_country_file_behind_a_city_file_gives_the_country() {
        let city_alone = Location { country: None, country_name: None, ..BERLIN };
        assert_eq!(city_alone.or(GERMANY), BERLIN);
    }

    #[test]
    fn a_file_with_another_country_gives_no_city() {
        let filled = GERMANY.or(PARIS);
        assert_eq!(filled, Location { registered_country: Some(*b"US"), ..GERMANY });
        let without_name = Location { country_name: None, ..GERMANY };
        assert_eq!(without_name.or(PARIS).country_name, None);
    }

    #[test]
    fn a_city_keeps_its_own_coordinates() {
        let city_alone = Location { latitude: None, longitude: None, accuracy_radius: None, ..BERLIN };
        let hamburg =
            Location { city: Some("Hamburg"), latitude: Some(53.6), longitude: Some(10.0), ..GERMANY };
        assert_eq!(city_alone.or(hamburg), city_alone);
        let coordinates_alone = Location { city: None, ..BERLIN };
        assert_eq!(coordinates_alone.or(hamburg), coordinates_alone);
    }

    fn detailed<'a>(location: Location<'a>, region: Option<&'a str>) -> DetailedLocation<'a> {
        DetailedLocation { location, region, region_code: None, postal_code: None, time_zone: None }
    }

    #[test]
    fn the_region_comes_from_the_file_of_the_city() {
        let berlin = detailed(BERLIN, Some("Land Berlin"));
        let hesse = detailed(GERMANY, Some("Hesse"));
        let germany = detailed(GERMANY, None);
        assert_eq!(germany.or(berlin), berlin);
        assert_eq!(hesse.or(berlin), berlin);
        assert_eq!(germany.or(hesse), hesse);
        assert_eq!(hesse.or(germany), hesse);
        assert_eq!(detailed(BERLIN, None).or(hesse), detailed(BERLIN, None));
        assert_eq!(germany.or(detailed(PARIS, Some("Île-de-France"))).region, None);
    }

    #[test]
    fn nothing_can_be_added_to_a_complete_location() {
        let complete = Location { registered_country: Some(*b"DE"), ..BERLIN };
        assert!(complete.is_complete());
        assert_eq!(complete.or(PARIS), complete);
        for lacking in [
            Location { country: None, ..complete },
            Location { country_name: None, ..complete },
            Location { registered_country: None, ..complete },
            Location { city: None, latitude: None, longitude: None, ..complete },
        ] {
            assert!(!lacking.is_complete());
            assert_ne!(lacking.or(complete), lacking);
        }
    }

    #[test]
    fn a_later_file_names_the_organisation_of_the_same_network_only() {
        let unnamed = Network { asn: 3320, organization: None };
        let named = Network { asn: 3320, organization: Some("Deutsche Telekom AG") };
        let another = Network { asn: 15169, organization: Some("GOOGLE") };
        assert_eq!(unnamed.or(named), named);
        assert_eq!(named.or(another), named);
        assert_eq!(unnamed.or(another), unnamed);
    }
}
