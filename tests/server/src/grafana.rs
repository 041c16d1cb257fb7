//! A dashboard of Grafana on its PostgreSQL data source. Expands the variables and macros of SQL as Grafana does, so that a test
//! can run the SQL of each panel and variable without Grafana.
//!
//! Grafana replaces text in three passes: variables in the browser, `$__interval` in the server, and then macros. No pass reads its
//! own output again. <https://grafana.com/docs/grafana/latest/datasources/postgres/> documents the macros.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::documentation::page;

/// The value of a variable.
#[derive(Debug, Clone)]
pub enum Value {
    One(String),
    /// The selected values of a variable that allows several.
    Many(Vec<String>),
    /// The "custom all value". Grafana inserts it as it is, whatever the format of the reference.
    All(String),
}

/// What a user has selected in a dashboard.
#[derive(Debug, Clone)]
pub struct Selection {
    pub values: BTreeMap<String, Value>,
    /// The selected period, in UTC, as in `2024-05-01T00:00:00Z`.
    pub from: String,
    pub to: String,
    /// `$__interval` in seconds.
    pub interval: u32,
    /// True for newer versions of Grafana: the format `sqlstring` writes `\"` for a double quote.
    pub escapes_double_quotes: bool,
}

/// A reference to a variable: `${name:format}`, `${name}` or `$name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    pub name: String,
    pub format: Option<String>,
}

/// Calls `replace` for each reference to a variable. Names that begin with `__` belong to Grafana, and stay.
fn replace_references(
    text: &str,
    mut replace: impl FnMut(&Reference) -> Result<String, String>,
) -> Result<String, String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        let (before, here) = rest.split_at(start);
        expanded.push_str(before);
        let inner = here.strip_prefix("${").and_then(|it| it.split_once('}'));
        let (reference, after) = if let Some((inner, after)) = inner {
            let (name, format) = inner.split_once(':').map_or((inner, None), |(name, it)| (name, Some(it)));
            (Reference { name: name.to_owned(), format: format.map(str::to_owned) }, after)
        } else {
            let end = here[1..].find(|c| !is_part(c)).map_or(here.len(), |end| end + 1);
            (Reference { name: here[1..end].to_owned(), format: None }, &here[end..])
        };
        if reference.name.is_empty() || reference.name.starts_with("__") {
            expanded.push_str(&here[..here.len() - after.len()]);
        } else {
            expanded.push_str(&replace(&reference)?);
        }
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Returns the references to variables of the dashboard in a text.
#[must_use]
pub fn references(text: &str) -> Vec<Reference> {
    let mut found = Vec::new();
    let replaced = replace_references(text, |reference| {
        found.push(reference.clone());
        Ok(String::new())
    });
    assert!(replaced.is_ok());
    found
}

impl Selection {
    fn quoted(&self, value: &str) -> String {
        let doubled = value.replace('\'', "''");
        let escaped = if self.escapes_double_quotes { doubled.replace('"', "\\\"") } else { doubled };
        format!("'{escaped}'")
    }

    fn formatted(&self, reference: &Reference) -> Result<String, String> {
        let value = self.values.get(&reference.name).ok_or(format!("no variable {}", reference.name))?;
        match (value, reference.format.as_deref()) {
            (Value::All(text), _) => Ok(text.clone()),
            (Value::One(text), Some("sqlstring")) => Ok(self.quoted(text)),
            (Value::Many(texts), Some("sqlstring")) => {
                Ok(texts.iter().map(|text| self.quoted(text)).collect::<Vec<_>>().join(","))
            }
            (Value::One(text), Some("raw")) => Ok(text.clone()),
            _ => Err(format!("{reference:?} has no format that is safe in SQL")),
        }
    }

    /// Returns the SQL that Grafana sends to PostgreSQL. The error is a reference that Grafana or a reviewer would refuse.
    pub fn expand(&self, sql: &str) -> Result<String, String> {
        let sql = replace_references(sql, |reference| self.formatted(reference))?;
        let sql = sql.replace("$__interval", &format!("{}s", self.interval));
        let mut expanded = String::new();
        let mut rest = sql.as_str();
        while let Some((before, here)) = rest.split_once('$') {
            expanded.push_str(before);
            let end = here.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(here.len());
            // Arguments end at the first closing parenthesis, also if it belongs to the arguments.
            let call = here[end..].strip_prefix('(').and_then(|it| it.split_once(')'));
            if let Some((arguments, after)) = call.filter(|_| end > 0) {
                let arguments: Vec<&str> = arguments.split(',').map(str::trim).collect();
                expanded.push_str(&self.macro_text(&here[..end], &arguments, after)?);
                rest = after;
            } else {
                expanded.push('$');
                rest = here;
            }
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    fn macro_text(&self, name: &str, arguments: &[&str], after: &str) -> Result<String, String> {
        let Self { from, to, .. } = self;
        let group = || {
            let interval = arguments.get(1).map(|it| it.trim_matches('\'')).ok_or("no interval")?;
            let number = interval.strip_suffix('s').and_then(|it| it.parse::<u32>().ok());
            let seconds = number.filter(|it| *it > 0).ok_or(format!("the interval {interval}"))?;
            match arguments.get(2) {
                None | Some(&("0" | "NULL" | "previous")) => {}
                Some(fill) => return Err(format!("the fill value {fill}")),
            }
            Ok(format!("floor(extract(epoch from {})/{seconds})*{seconds}", arguments[0]))
        };
        match name {
            "__timeFilter" => Ok(format!("{} BETWEEN '{from}' AND '{to}'", arguments[0])),
            "__timeFrom" => Ok(format!("'{from}'")),
            "__timeTo" => Ok(format!("'{to}'")),
            // Grafana adds the alias if a comma follows immediately.
            "__timeGroup" if !after.starts_with(',') => group(),
            "__timeGroup" | "__timeGroupAlias" => group().map(|text| format!("{text} AS \"time\"")),
            _ => Err(format!("no macro ${name}")),
        }
    }
}

/// A variable of a dashboard.
#[derive(Debug, Clone)]
pub struct Variable {
    pub name: String,
    /// `datasource`, `query` or `textbox`.
    pub kind: String,
    pub query: String,
    pub is_hidden: bool,
    /// False if a link can set the variable.
    pub skips_url: bool,
    pub custom_all: Option<String>,
    pub json: Json,
}

/// A panel that has a query.
#[derive(Debug, Clone)]
pub struct Panel {
    pub title: String,
    pub kind: String,
    pub sql: String,
    /// `table` or `time_series`.
    pub format: String,
    /// The links of its fields.
    pub links: Vec<String>,
    pub json: Json,
}

pub struct Dashboard {
    pub json: Json,
    pub variables: Vec<Variable>,
    pub panels: Vec<Panel>,
}

fn text(json: &Json) -> String {
    json.as_str().unwrap_or_default().to_owned()
}

fn list(json: &Json) -> Vec<Json> {
    json.as_array().cloned().unwrap_or_default()
}

/// Returns the values of a key, at any depth.
#[must_use]
pub fn values_of<'a>(json: &'a Json, key: &str) -> Vec<&'a Json> {
    let mut found = Vec::new();
    match json {
        Json::Array(items) => items.iter().for_each(|item| found.extend(values_of(item, key))),
        Json::Object(entries) => {
            for (name, value) in entries {
                if name == key {
                    found.push(value);
                }
                found.extend(values_of(value, key));
            }
        }
        _ => {}
    }
    found
}

impl Dashboard {
    /// Reads a file of the checkout.
    #[must_use]
    pub fn read(name: &str) -> Self {
        let json: Json = serde_json::from_str(&page(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let variables = list(&json["templating"]["list"]).into_iter().map(|variable| Variable {
            name: text(&variable["name"]),
            kind: text(&variable["type"]),
            query: text(&variable["query"]),
            is_hidden: variable["hide"] == 2,
            skips_url: variable["skipUrlSync"] == true,
            custom_all: variable["allValue"].as_str().map(str::to_owned),
            json: variable,
        });
        let panels = list(&json["panels"]).into_iter().filter(|panel| panel["type"] != "row").map(|panel| {
            let targets = list(&panel["targets"]);
            assert_eq!(targets.len(), 1, "{}", panel["title"]);
            let links = values_of(&panel["fieldConfig"], "url").into_iter().map(text).collect();
            Panel {
                title: text(&panel["title"]),
                kind: text(&panel["type"]),
                sql: text(&targets[0]["rawSql"]),
                format: text(&targets[0]["format"]),
                links,
                json: panel,
            }
        });
        Self { variables: variables.collect(), panels: panels.collect(), json }
    }

    #[must_use]
    #[track_caller]
    pub fn panel(&self, title: &str) -> &Panel {
        self.panels.iter().find(|panel| panel.title == title).unwrap_or_else(|| panic!("no panel {title}"))
    }
}
