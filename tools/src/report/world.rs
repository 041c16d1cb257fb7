//! The shapes of the map, as `tools/world/generate` projected them.

/// Written by `tools/world/generate`. tools/world/README.md has the source and the licence.
const COUNTRIES: &str = include_str!("../../world/countries.tsv");

/// A map of the countries.
pub struct World {
    pub width: &'static str,
    pub height: &'static str,
    pub countries: Vec<Country>,
    /// Land without a code.
    pub other_land: &'static str,
}

/// A country of the map.
pub struct Country {
    pub code: &'static str,
    pub name: &'static str,
    pub shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The `d` of a path.
    Path(&'static str),
    /// The centre of a dot, for a country that would be too small to see.
    Dot(&'static str, &'static str),
}

impl World {
    pub fn load() -> World {
        let mut world = World { width: "0", height: "0", countries: Vec::new(), other_land: "" };
        for line in COUNTRIES.lines().filter(|line| !line.starts_with('#')) {
            let mut fields = line.split('\t');
            let (Some(code), Some(name), Some(shape)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            match (code, shape.split_once(' ')) {
                ("size", _) => (world.width, world.height) = (name, shape),
                ("-", _) => world.other_land = shape,
                (_, Some((x, y))) if !shape.starts_with('M') => {
                    world.countries.push(Country { code, name, shape: Shape::Dot(x, y) });
                }
                _ => world.countries.push(Country { code, name, shape: Shape::Path(shape) }),
            }
        }
        world
    }

    /// Returns the name of a country, or `None` if the map does not have the code.
    pub fn name(&self, code: &str) -> Option<&'static str> {
        let place = self.countries.binary_search_by(|country| country.code.cmp(code)).ok()?;
        Some(self.countries[place].name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_countries_are_dots_and_all_are_inside_the_map() {
        let world = World::load();
        let (width, height): (i32, i32) = (world.width.parse().unwrap(), world.height.parse().unwrap());
        assert!(world.countries.len() >= 249, "{}", world.countries.len());
        assert!(world.countries.is_sorted_by_key(|country| country.code));
        for code in ["SG", "HK", "MO", "MT", "BH", "SC", "MU", "XK"] {
            assert!(world.name(code).is_some(), "{code}");
        }
        let shape = |code| world.countries.iter().find(|country| country.code == code).unwrap().shape;
        assert!(matches!(shape("SG"), Shape::Dot(..)) && matches!(shape("HK"), Shape::Dot(..)));
        for country in &world.countries {
            match country.shape {
                Shape::Dot(x, y) => {
                    assert!((0..=width).contains(&x.parse().unwrap()), "{}", country.code);
                    assert!((0..=height).contains(&y.parse().unwrap()), "{}", country.code);
                }
                Shape::Path(path) => {
                    assert!(
                        path.bytes().all(|byte| b"Mlz -0123456789".contains(&byte)),
                        "{}: {path}",
                        country.code
                    );
                    assert!(path.starts_with('M') && path.ends_with('z'), "{}", country.code);
                }
            }
        }
    }

    #[test]
    fn the_file_is_small() {
        assert!(COUNTRIES.len() < 150_000, "{}", COUNTRIES.len());
    }
}
