//! Settings of providers, and their values.
//!
//! The file of a provider declares each setting once, as data. The provider knows the type of the setting and reads the
//! value as this type.

use std::ffi::CStr;
use std::fmt;

/// The declaration of a setting. Numbers are in the setting's unit.
#[derive(Debug)]
pub struct Setting {
    /// Name with prefix: `cowrie_enrich.greynoise_rate`.
    pub name: &'static CStr,
    /// One sentence for lists of settings, with a full stop.
    pub short: &'static CStr,
    /// Further description, or empty.
    pub long: &'static CStr,
    pub kind: Kind,
    /// If true, the value names a host, a path or a person, so only superusers may read the value.
    pub guarded: bool,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Text {
        default: Option<&'static CStr>,
    },
    Number {
        default: i32,
        least: i32,
        most: i32,
        unit: Unit,
    },
    /// The value is one of several words. The extension stores the index of the chosen word.
    Choice {
        default: i32,
        words: &'static [&'static CStr],
    },
    /// A switch. On is stored as 1, and off as 0.
    Switch {
        default: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    None,
    Milliseconds,
    Seconds,
}

/// The values that the settings of one provider have at one time. They are in the order of the declarations.
#[derive(Clone, Default)]
pub struct Settings {
    values: Vec<(&'static CStr, Value)>,
}

/// Prints only the names of the settings. A value may contain the path of a key file or the password of a proxy.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values.iter().map(|(name, _)| name)).finish()
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A text without surrounding blanks. `None` if it is empty.
    Text(Option<String>),
    /// The value as a number. A number is stored unchanged, and a word is stored as its index. A switch is stored as 1
    /// if it is on, and as 0 if it is off.
    Number(i32),
}

impl Settings {
    pub fn new(values: Vec<(&'static CStr, Value)>) -> Self {
        Self { values }
    }

    /// Returns the declared defaults.
    pub fn defaults(declared: &[&'static Setting]) -> Self {
        Self::new(declared.iter().map(|setting| (setting.name, setting.default())).collect())
    }

    /// Returns a copy with one value changed.
    #[must_use]
    pub fn with(mut self, setting: &'static Setting, value: Value) -> Self {
        self.values.retain(|(name, _)| *name != setting.name);
        self.values.push((setting.name, value));
        self
    }

    /// Returns the value, or the declared default if it is unset.
    pub fn text(&self, setting: &Setting) -> Option<String> {
        match self.value(setting) {
            Value::Text(text) => text,
            Value::Number(_) => None,
        }
    }

    pub fn number(&self, setting: &Setting) -> i32 {
        match self.value(setting) {
            Value::Number(number) => number,
            Value::Text(_) => 0,
        }
    }

    fn value(&self, setting: &Setting) -> Value {
        let set = self.values.iter().find(|(name, _)| *name == setting.name);
        set.map_or_else(|| setting.default(), |(_, value)| value.clone())
    }
}

impl Setting {
    pub fn default(&self) -> Value {
        match self.kind {
            Kind::Text { default } => Value::Text(default.map(|text| text.to_string_lossy().into_owned())),
            Kind::Number { default, .. } | Kind::Choice { default, .. } => Value::Number(default),
            Kind::Switch { default } => Value::Number(i32::from(default)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::{ALL, settings};

    static SECRET: Setting = Setting {
        name: c"cowrie_enrich.test_proxy",
        short: c"",
        long: c"",
        kind: Kind::Text { default: Some(c"http://user:word@proxy:1") },
        guarded: true,
    };

    #[test]
    fn what_is_set_stands_over_what_is_declared() {
        let settings = Settings::defaults(&[&SECRET]);
        assert_eq!(settings.text(&SECRET).as_deref(), Some("http://user:word@proxy:1"));
        assert_eq!(settings.with(&SECRET, Value::Text(None)).text(&SECRET), None);
        assert_eq!(Settings::default().text(&SECRET).as_deref(), Some("http://user:word@proxy:1"));
    }

    #[test]
    fn values_are_not_shown() {
        let shown = format!("{:?}", Settings::defaults(&[&SECRET]));
        assert!(shown.contains("test_proxy") && !shown.contains("word"), "{shown}");
    }

    /// PostgreSQL refuses to define a setting twice. It also refuses a default that is outside the range of the
    /// setting.
    #[test]
    fn each_setting_is_declared_once_and_sensibly() {
        let all = settings();
        for (nth, setting) in all.iter().enumerate() {
            let name = setting.name.to_str().unwrap();
            assert!(name.starts_with("cowrie_enrich."), "{name}");
            assert!(all[nth + 1..].iter().all(|other| other.name != setting.name), "{name} twice");
            assert!(setting.short.to_str().unwrap().ends_with('.'), "{name}");
            match setting.kind {
                Kind::Number { default, least, most, .. } => {
                    assert!((least..=most).contains(&default), "{name}");
                }
                Kind::Choice { default, words } => assert!((default as usize) < words.len(), "{name}"),
                Kind::Text { .. } | Kind::Switch { .. } => {}
            }
        }
        assert!(
            ALL.iter()
                .all(|provider| provider.settings().iter().all(|s| all.iter().any(|o| o.name == s.name)))
        );
    }
}
