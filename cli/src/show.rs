//! How answers look: tables for people, JSON for programs.

use bytesize::ByteSize;
use comfy_table::{Table, presets};
use serde_json::Value;

/// A column of a table: its heading and the field it shows.
pub(crate) type Column = (&'static str, &'static str);

/// Prints `value` as it is.
pub(crate) fn json(value: &Value) {
    println!("{value:#}");
}

/// An empty table with headings.
pub(crate) fn table<'a>(headings: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings);
    table
}

/// Prints a list of objects, one a row.
pub(crate) fn rows(list: &Value, columns: &[Column]) {
    let mut table = table(columns.iter().map(|(heading, _)| *heading));
    for row in list.as_array().into_iter().flatten() {
        table.add_row(columns.iter().map(|(_, field)| cell(&row[*field])));
    }
    println!("{table}");
}

/// Prints one object, a field a line.
pub(crate) fn fields(object: &Value) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in object.as_object().into_iter().flatten() {
        table.add_row([name.clone(), cell(value)]);
    }
    println!("{table}");
}

/// One value in one cell.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text.clone(),
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
