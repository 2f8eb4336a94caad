//! Settings from a TOML file, then the environment: typed values, and every mistake at once with file and line.
//!
//! A service takes its keys one by one ([`Settings::required`], [`Settings::optional`], [`Settings::or`]) and asks at the end
//! whether all was well ([`Settings::finish`]); nothing is bound or written before that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use toml_span::value::{Value, ValueInner};
pub use umbel_delivery::{Invalid as ConfigError, Mistake};

/// Exit status for a configuration that is not right (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: i32 = 78;

#[derive(Debug)]
struct Entry {
    values: Vec<String>,
    place: String,
}

/// What a configuration says, key by key, to compare it with another. Values may be secrets and are not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Said(BTreeMap<String, Vec<String>>);

impl Said {
    /// The keys that say something else in `other`, or are only in one of the two.
    pub fn differs_in(&self, other: &Self) -> BTreeSet<String> {
        let keys = self.0.keys().chain(other.0.keys());
        keys.filter(|key| self.0.get(*key) != other.0.get(*key)).cloned().collect()
    }

    /// Takes over what `other` says of `keys`.
    pub fn replace(&mut self, other: &Self, keys: &BTreeSet<String>) {
        for key in keys {
            match other.0.get(key) {
                Some(values) => self.0.insert(key.clone(), values.clone()),
                None => self.0.remove(key),
            };
        }
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A configuration that is being read. Keys are dotted (`limits.upload`), and the environment variable of a key is
/// the prefix, an underscore and the key in capitals (`UMBEL_EDGE_LIMITS_UPLOAD`); lists are separated by commas there.
#[derive(Debug)]
pub struct Settings {
    source: String,
    prefix: &'static str,
    entries: BTreeMap<String, Entry>,
    environment: BTreeMap<String, String>,
    /// Where the keys that were taken stood.
    places: BTreeMap<String, String>,
    /// And what stood there.
    said: Said,
    asked: BTreeSet<String>,
    mistakes: Vec<Mistake>,
    /// The file cannot be read: what seems to be missing may well be there.
    unreadable: bool,
}

impl Settings {
    /// Reads `file` (none: only the environment). `environment` is usually [`std::env::vars`].
    pub fn load(
        file: Option<&Path>,
        prefix: &'static str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let source = file.map_or_else(|| "environment".into(), |path| path.display().to_string());
        match file.map(std::fs::read_to_string) {
            None => Self::parse(&source, "", prefix, environment),
            Some(Ok(text)) => Self::parse(&source, &text, prefix, environment),
            Some(Err(error)) => {
                let mut settings = Self::parse(&source, "", prefix, environment);
                settings.mistake(source, format!("cannot be read: {error}"));
                settings.unreadable = true;
                settings
            }
        }
    }

    /// As [`Settings::load`], from text.
    pub fn parse(
        source: &str,
        text: &str,
        prefix: &'static str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut settings = Self {
            source: source.into(),
            prefix,
            entries: BTreeMap::new(),
            environment: environment.into_iter().filter(|(name, _)| name.starts_with(prefix)).collect(),
            places: BTreeMap::new(),
            said: Said::default(),
            asked: BTreeSet::new(),
            mistakes: Vec::new(),
            unreadable: false,
        };
        match toml_span::parse(text) {
            Ok(mut document) => settings.flatten(text, "", &mut document),
            Err(error) => {
                let place = settings.place(text, error.span.start);
                settings.mistake(place, error.to_string());
                settings.unreadable = true;
            }
        }
        settings
    }

    fn flatten(&mut self, text: &str, path: &str, value: &mut Value<'_>) {
        let place = self.place(text, value.span.start);
        match value.take() {
            ValueInner::Table(table) => {
                for (key, mut child) in table {
                    let dot = if path.is_empty() { "" } else { "." };
                    self.flatten(text, &format!("{path}{dot}{}", key.name), &mut child);
                }
            }
            ValueInner::Array(items) => {
                let values: Vec<_> = items.into_iter().map(|mut item| scalar(item.take())).collect();
                if values.contains(&None) {
                    self.mistake(place.clone(), format!("`{path}`: a list has neither lists nor tables in it"));
                }
                let values = values.into_iter().flatten().collect();
                self.entries.insert(path.into(), Entry { values, place });
            }
            inner
            @ (ValueInner::String(_) | ValueInner::Integer(_) | ValueInner::Float(_) | ValueInner::Boolean(_)) => {
                let values = scalar(inner).into_iter().collect();
                self.entries.insert(path.into(), Entry { values, place });
            }
        }
    }

    fn place(&self, text: &str, offset: usize) -> String {
        let before = &text.as_bytes()[..offset.min(text.len())];
        format!("{}:{}", self.source, 1 + before.iter().filter(|byte| **byte == b'\n').count())
    }

    fn mistake(&mut self, place: String, text: String) {
        self.mistakes.push(Mistake { place, text });
    }

    /// Notes that a combination of values does not fit, at the file as a whole.
    pub fn reject(&mut self, text: impl Into<String>) {
        self.mistake(self.source.clone(), text.into());
    }

    /// Notes that the value of `key` does not fit, where it stands.
    pub fn reject_key(&mut self, key: &str, text: impl fmt::Display) {
        let place = self.places.get(key).unwrap_or(&self.source).clone();
        self.mistake(place, format!("`{key}`: {text}"));
    }

    fn take(&mut self, key: &str) -> Option<Entry> {
        self.asked.insert(key.into());
        let entry = self.find(key)?;
        self.said.0.insert(key.into(), entry.values.clone());
        self.places.insert(key.into(), entry.place.clone());
        Some(entry)
    }

    fn find(&mut self, key: &str) -> Option<Entry> {
        let from_file = self.entries.remove(key);
        let variable = format!("{}_{}", self.prefix, key.replace(['.', '-'], "_").to_uppercase());
        let Some(text) = self.environment.remove(&variable) else { return from_file };
        let values = text.split(',').map(|item| item.trim().to_owned()).collect();
        Some(Entry { values, place: variable })
    }

    /// The value of `key`, if there is one. One that does not parse is a mistake, and as good as none.
    pub fn optional<T: FromStr<Err: fmt::Display>>(&mut self, key: &str) -> Option<T> {
        let entry = self.take(key)?;
        let text = match entry.values.as_slice() {
            [text] => text.clone(),
            // A comma in an environment variable of a single value belongs to the value.
            many if entry.place.starts_with(self.prefix) => many.join(","),
            _ => {
                self.mistake(entry.place, format!("`{key}` takes one value"));
                return None;
            }
        };
        self.read(key, &text, entry.place)
    }

    fn read<T: FromStr<Err: fmt::Display>>(&mut self, key: &str, text: &str, place: String) -> Option<T> {
        text.parse().map_err(|error| self.mistake(place, format!("`{key}`: {error} (found `{text}`)"))).ok()
    }

    /// The value of `key`, or `default`.
    pub fn or<T: FromStr<Err: fmt::Display>>(&mut self, key: &str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// The value of `key`; its absence is a mistake, and `placeholder` then stands in until [`Settings::finish`] fails.
    pub fn required<T: FromStr<Err: fmt::Display>>(&mut self, key: &str, placeholder: T) -> T {
        let before = self.mistakes.len();
        let value = self.optional(key);
        if value.is_none() && self.mistakes.len() == before && !self.unreadable {
            self.mistake(self.source.clone(), format!("`{key}` is missing"));
        }
        value.unwrap_or(placeholder)
    }

    /// All values of `key`, an array in the file.
    pub fn list<T: FromStr<Err: fmt::Display>>(&mut self, key: &str) -> Vec<T> {
        let Some(entry) = self.take(key) else { return Vec::new() };
        let texts = entry.values.iter();
        texts.filter_map(|text| self.read(key, text, entry.place.clone())).collect()
    }

    /// The folder of `key`, or `default`.
    pub fn path(&mut self, key: &str, default: &Path) -> PathBuf {
        self.or(key, default.to_path_buf().display().to_string()).into()
    }

    /// What the keys that were taken so far say.
    pub fn said(&self) -> Said {
        self.said.clone()
    }

    /// All keys that were asked for so far, whether they are there or not.
    pub fn asked(&self) -> impl Iterator<Item = &str> {
        self.asked.iter().map(String::as_str)
    }

    /// Whether all was well. Keys that nobody asked for are mistakes too.
    pub fn finish(mut self) -> Result<(), ConfigError> {
        for (key, entry) in std::mem::take(&mut self.entries) {
            self.mistake(entry.place, format!("`{key}` is not a setting"));
        }
        for variable in std::mem::take(&mut self.environment).into_keys() {
            self.mistake(variable, "is not a setting".into());
        }
        if self.mistakes.is_empty() { Ok(()) } else { Err(ConfigError(self.mistakes)) }
    }
}

fn scalar(value: ValueInner<'_>) -> Option<String> {
    match value {
        ValueInner::String(text) => Some(text.into_owned()),
        ValueInner::Integer(number) => Some(number.to_string()),
        ValueInner::Float(number) => Some(number.to_string()),
        ValueInner::Boolean(truth) => Some(truth.to_string()),
        ValueInner::Array(_) | ValueInner::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn settings(text: &str, environment: &[(&str, &str)]) -> Settings {
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Settings::parse("edge.toml", text, "UMBEL_EDGE", environment)
    }

    #[test]
    fn every_mistake_is_named_at_once_with_its_line() {
        let mut settings = settings("listen = \"nonsense\"\nmax = -1\n[limits]\nupload = 3\ntypo = 1\n", &[]);
        let unused: SocketAddr = ([0, 0, 0, 0], 0).into();
        settings.required("listen", unused);
        settings.or("max", 5u32);
        settings.required("name", String::new());
        assert_eq!(settings.or("limits.upload", 0u32), 3);
        let ConfigError(mistakes) = settings.finish().unwrap_err();
        let places: Vec<&str> = mistakes.iter().map(|mistake| mistake.place.as_str()).collect();
        assert_eq!(places, ["edge.toml:1", "edge.toml:2", "edge.toml", "edge.toml:5"]);
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let mut settings =
            settings("hosts = [\"a\", \"b\"]\nmax = 1", &[("UMBEL_EDGE_MAX", "7"), ("UMBEL_EDGE_HOSTS", "c,d")]);
        assert_eq!(settings.or("max", 0u8), 7);
        assert_eq!(settings.list::<String>("hosts"), ["c", "d"]);
        settings.finish().unwrap();
    }

    #[test]
    fn a_file_that_is_not_toml_says_where_and_only_that() {
        let mut settings = settings("a = 1\nb = = 2\n", &[]);
        settings.required("a", 0);
        let ConfigError(mistakes) = settings.finish().unwrap_err();
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert_eq!(mistakes[0].place, "edge.toml:2");
    }

    #[test]
    fn values_that_do_not_fit_are_named_where_they_stand() {
        let mut settings = settings("max = 1\nlist = [\"a\", [\"b\"]]", &[("UMBEL_EDGE_NAME", "x")]);
        settings.or("max", 0u8);
        settings.or("name", String::new());
        settings.list::<String>("list");
        for key in ["max", "name", "other"] {
            settings.reject_key(key, "no");
        }
        let ConfigError(mistakes) = settings.finish().unwrap_err();
        let shown: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
        let expected = [
            "edge.toml:2: `list`: a list has neither lists nor tables in it",
            "edge.toml:1: `max`: no",
            "UMBEL_EDGE_NAME: `name`: no",
            "edge.toml: `other`: no",
        ];
        assert_eq!(shown, expected);
    }
}
