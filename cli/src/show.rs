//! How answers look: tables for people, JSON for programs. All that a command says passes through [`line()`] or [`note`].

use std::{fmt::Display, io::Write};

use bytesize::ByteSize;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::exit;

/// A column of a table: its heading, and what it shows of a row.
pub(crate) type Column<T> = (&'static str, fn(&T) -> String);

/// Says `text` on standard output; whoever read it may be gone, as in `umbel ... | head`: that ends the command, quietly.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(exit::output)
}

/// Says `text` on standard error; nobody may be there to read it, which is no reason to break off.
pub(crate) fn note(text: impl Display) {
    let _said = writeln!(std::io::stderr(), "{text}");
}

/// Prints `value` as it is.
pub(crate) fn json(value: &Value) -> anyhow::Result<()> {
    line(format_args!("{value:#}"))
}

/// An empty table with headings.
pub(crate) fn table<'a>(headings: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings);
    table
}

/// Prints a list, one item a row.
pub(crate) fn rows<T>(list: &[T], columns: &[Column<T>]) -> anyhow::Result<()> {
    let mut table = table(columns.iter().map(|(heading, _)| *heading));
    for item in list {
        table.add_row(columns.iter().map(|(_, field)| or_dash(field(item))));
    }
    line(table)
}

/// Prints one object, a field a line.
pub(crate) fn fields(object: &Value) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in named("", object) {
        table.add_row([name, value]);
    }
    line(table)
}

/// Fields with their names; those of an object within go by `outer.inner`.
fn named(prefix: &str, object: &Value) -> Vec<(String, String)> {
    let fields = object.as_object().into_iter().flatten();
    let rows = fields.flat_map(|(name, value)| {
        let name = format!("{prefix}{name}");
        if value.is_object() { named(&format!("{name}."), value) } else { vec![(name, cell(value))] }
    });
    rows.collect()
}

/// What a value is called in the API, for a cell.
pub(crate) fn word(value: &impl Serialize) -> String {
    cell(&serde_json::to_value(value).unwrap_or_default())
}

/// A time, in RFC 3339 and to the second.
pub(crate) fn time(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

/// One value in one cell.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => or_dash(text.clone()),
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Object(_)) => other.to_string(),
    }
}

/// Bytes as people read them.
pub(crate) fn bytes(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_within() {
        let site = json!({ "name": "a", "policy": { "public": true, "reader_keys": [] } });
        let expected = [("name", "a"), ("policy.public", "true"), ("policy.reader_keys", "-")];
        assert_eq!(named("", &site), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn cells() {
        for (value, expected) in [
            (json!(null), "-"),
            (json!(""), "-"),
            (json!("a"), "a"),
            (json!(["a", "b"]), "a, b"),
            (json!([]), "-"),
            (json!(3), "3"),
            (json!(true), "true"),
        ] {
            assert_eq!(cell(&value), expected);
        }
    }
}
