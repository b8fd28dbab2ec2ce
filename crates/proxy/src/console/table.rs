//! What the console shows: a table, and how the protocol carries it.

use pgwire::message::put;

/// What is in a column; psql aligns numbers to the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `text`
    Text,
    /// `bigint`
    Number,
}

/// A name, and what is below it.
pub type Column = (&'static str, Kind);

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    Text(String),
    Number(i64),
}

impl Value {
    /// A text that came from outside, in whatever encoding.
    pub fn bytes(text: &[u8]) -> Value {
        Value::Text(String::from_utf8_lossy(text).into_owned())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::from(number as u64)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Value>>,
}

impl Table {
    /// Without rows.
    pub fn new(columns: &[Column]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, which has a value for each column.
    pub fn add(&mut self, row: Vec<Value>) {
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    /// Appends RowDescription and a DataRow for each row, everything as text.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let count = u16::try_from(self.columns.len()).unwrap_or(u16::MAX).to_be_bytes();
        let mut body = count.to_vec();
        for (name, kind) in &self.columns {
            // src/include/catalog/pg_type.dat: the types' numbers and lengths.
            let (oid, len): (u32, i16) = match kind {
                Kind::Text => (25, -1),
                Kind::Number => (20, 8),
            };
            body.extend_from_slice(name.as_bytes());
            // Of no table's column; without a modifier; as text.
            body.extend_from_slice(&[0; 7]);
            body.extend_from_slice(&oid.to_be_bytes());
            body.extend_from_slice(&len.to_be_bytes());
            body.extend_from_slice(&(-1_i32).to_be_bytes());
            body.extend_from_slice(&[0; 2]);
        }
        put(b'T', &[&body], out);
        for row in &self.rows {
            body.clear();
            body.extend_from_slice(&count);
            for value in row {
                match value {
                    Value::Null => body.extend_from_slice(&(-1_i32).to_be_bytes()),
                    Value::Text(text) => put_value(text.as_bytes(), &mut body),
                    Value::Number(number) => put_value(number.to_string().as_bytes(), &mut body),
                }
            }
            put(b'D', &[&body], out);
        }
    }
}

fn put_value(bytes: &[u8], body: &mut Vec<u8>) {
    body.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_described_and_its_rows_follow() {
        let mut table = Table::new(&[("a", Kind::Text), ("n", Kind::Number)]);
        table.add(vec!["x".into(), 7_usize.into()]);
        table.add(vec![Value::Null, Value::Number(-1)]);
        let mut out = Vec::new();
        table.encode(&mut out);
        let field = |name: &[u8], oid: u8, len: [u8; 2]| {
            [name, &[0; 7], &[0, 0, 0, oid], &len, &[255; 4], &[0; 2]].concat()
        };
        let mut expected = Vec::new();
        put(b'T', &[b"\0\x02", &field(b"a", 25, [255, 255]), &field(b"n", 20, [0, 8])], &mut expected);
        put(b'D', &[b"\0\x02\0\0\0\x01x\0\0\0\x017"], &mut expected);
        put(b'D', &[b"\0\x02\xff\xff\xff\xff\0\0\0\x02-1"], &mut expected);
        assert_eq!(out, expected);
    }

    #[test]
    fn texts_in_any_encoding_and_large_numbers_are_shown() {
        assert_eq!(Value::bytes(b"caf\xe9"), Value::Text("caf\u{fffd}".into()));
        assert_eq!(Value::from(u64::MAX), Value::Number(i64::MAX));
        assert_eq!(Value::from(None::<String>), Value::Null);
    }
}
