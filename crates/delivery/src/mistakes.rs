//! What is wrong with something that people wrote: all of it, each with its place. Servers' configurations are told so as well.

use std::{fmt, str::FromStr, time::Duration};

use bytesize::ByteSize;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Of a document the key, with dots, and numbers in lists: `cors.origins[1]`. Of a configuration `file:line`, the name of an
    /// environment variable, or just the file.
    pub place: String,
    /// What is wrong with it and what is expected.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// All mistakes, one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid(pub Vec<Mistake>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(Mistake::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Invalid {}

/// Collects mistakes while a document is read. What is wrong is read as something harmless, so that the rest is checked as well.
#[derive(Debug, Default)]
pub(crate) struct Mistakes(Vec<Mistake>);

impl Mistakes {
    pub(crate) fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push(Mistake { place: place.into(), text: text.into() });
    }

    /// What was read, if nothing is wrong.
    pub(crate) fn or<T>(self, read: T) -> Result<T, Invalid> {
        if self.0.is_empty() { Ok(read) } else { Err(Invalid(self.0)) }
    }

    /// The members of a list, but for those that are wrong.
    pub(crate) fn list<T: FromStr<Err: fmt::Display>>(&mut self, place: &str, texts: &[String], most: usize) -> Vec<T> {
        self.at_most(place, texts.len(), most);
        let mut read = |(number, text): (usize, &String)| match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(format!("{place}[{number}]"), format!("`{}`: {error}", text.escape_debug()));
                None
            }
        };
        texts.iter().enumerate().take(most).filter_map(&mut read).collect()
    }

    pub(crate) fn at_most(&mut self, place: &str, count: usize, most: usize) {
        if count > most {
            self.add(place, format!("there are {count}, and there may be {most}"));
        }
    }

    /// Bytes: `1 KiB`.
    pub(crate) fn size(&mut self, place: &str, text: &str, otherwise: u64) -> u64 {
        let read = if text.is_empty() { Ok(ByteSize(otherwise)) } else { text.parse() };
        read.map_or_else(
            |_| {
                self.add(place, format!("`{}` is no size such as `1 KiB`", text.escape_debug()));
                otherwise
            },
            |size| size.as_u64(),
        )
    }

    /// `1h 30m`; none if nothing is written.
    pub(crate) fn time(&mut self, place: &str, text: &str) -> Option<Duration> {
        if text.is_empty() {
            return None;
        }
        let read = humantime::parse_duration(text);
        if read.is_err() {
            self.add(place, format!("`{}` is no time such as `90s`, `12h` or `180d`", text.escape_debug()));
        }
        read.ok()
    }
}
