//! Users' files as tables: CSV, TSV and JSON Lines, in whatever encoding and with whatever delimiter they have.

use super::DataError;
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use serde::Serialize;
use ts_rs::TS;

/// A row and its number in the file as a person counts: the header is row 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
#[ts(export)]
pub struct Row {
    pub number: usize,
    pub cells: Vec<String>,
}

/// A table as read.
#[derive(Debug, Clone, Serialize, TS)]
#[ts(export)]
pub struct Table {
    pub file: String,
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
    /// How the file was read: encoding, format, whether it had a header.
    pub encoding: String,
    pub format: String,
    pub header: bool,
    /// Rows that could not be read, by number.
    pub skipped: Vec<super::RowProblem>,
}

/// Names that columns of labelled text have in published sets; they also tell a header from data.
const KNOWN_COLUMNS: &[&str] = &[
    "id",
    "idx",
    "index",
    "text",
    "sentence",
    "tweet",
    "review",
    "comment",
    "content",
    "headline",
    "headline_text",
    "premise",
    "hypothesis",
    "sentence1",
    "sentence2",
    "label",
    "labels",
    "sentiment",
    "class",
    "category",
    "target",
    "gold_label",
    "english",
];

/// Reads a table from a file's bytes.
///
/// # Errors
/// An empty or binary file, an unclosed quote, a damaged JSON line, each with its row.
pub fn read_table(file: &str, bytes: &[u8]) -> Result<Table, DataError> {
    let (text, encoding) = decode(file, bytes)?;
    if text.trim().is_empty() {
        return Err(DataError::Empty { file: file.into() });
    }
    let lower = file.to_ascii_lowercase();
    let json = lower.ends_with(".jsonl") || lower.ends_with(".ndjson") || text.trim_start().starts_with('{');
    let mut table = if json { read_json_lines(file, &text)? } else { read_delimited(file, &text)? };
    table.encoding = encoding.into();
    if table.rows.is_empty() {
        return Err(DataError::NoRows { file: file.into() });
    }
    Ok(table)
}

/// Decodes by byte order mark, else as UTF-8, else by the zero bytes that UTF-16 puts between Latin letters, else as
/// Windows-1252 (which holds Latin-1).
fn decode(file: &str, bytes: &[u8]) -> Result<(String, &'static str), DataError> {
    let encoding = match Encoding::for_bom(bytes) {
        Some((encoding, _)) => encoding,
        None => {
            let sample = &bytes[..bytes.len().min(4096)];
            let zeros = |parity: usize| sample.iter().skip(parity).step_by(2).filter(|b| **b == 0).count();
            let (even, odd) = (zeros(0), zeros(1));
            if odd > sample.len() / 5 && even <= sample.len() / 50 {
                UTF_16LE
            } else if even > sample.len() / 5 && odd <= sample.len() / 50 {
                UTF_16BE
            } else if even + odd > 0 {
                let start = sample.iter().take(4).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
                return Err(DataError::NotText { file: file.into(), start: format!("the bytes {start}") });
            } else if std::str::from_utf8(bytes).is_ok() {
                UTF_8
            } else {
                WINDOWS_1252
            }
        }
    };
    let (text, used, _) = encoding.decode(bytes);
    Ok((text.into_owned(), used.name()))
}

fn read_json_lines(file: &str, text: &str) -> Result<Table, DataError> {
    let mut columns: Vec<String> = Vec::new();
    let mut records = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).map_err(|e| {
            DataError::BadRow { file: file.into(), row: i + 1, problem: format!("not a JSON object on one line ({e})") }
        })?;
        for key in value.keys() {
            if !columns.contains(key) {
                columns.push(key.clone());
            }
        }
        records.push((i + 1, value));
    }
    let cell = |value: Option<&serde_json::Value>| match value {
        None | Some(serde_json::Value::Null) => String::new(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let rows = records
        .iter()
        .map(|(number, record)| Row { number: *number, cells: columns.iter().map(|c| cell(record.get(c))).collect() })
        .collect();
    Ok(Table {
        file: file.into(),
        columns,
        rows,
        encoding: String::new(),
        format: "JSON Lines".into(),
        header: true,
        skipped: Vec::new(),
    })
}

fn read_delimited(file: &str, text: &str) -> Result<Table, DataError> {
    let delimiter = guess_delimiter(file, text);
    // Tab-separated sets are often written without quoting rules; a stray quote there is a character.
    let quoting = match (unclosed_quote(text, delimiter), delimiter) {
        (None, _) => true,
        (Some(_), b'\t') => false,
        (Some(row), _) => return Err(DataError::UnclosedQuote { file: file.into(), row }),
    };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .quoting(quoting)
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut records: Vec<Vec<String>> = Vec::new();
    for (i, record) in reader.records().enumerate() {
        let record = record.map_err(|e| DataError::BadRow { file: file.into(), row: i + 1, problem: e.to_string() })?;
        records.push(record.iter().map(str::to_string).collect());
    }
    let header = has_header(&records);
    let width = records.first().map_or(0, Vec::len);
    let columns = match header {
        true => records.remove(0).iter().map(|c| c.trim().to_string()).collect(),
        false => (1..=width).map(|i| format!("column {i}")).collect(),
    };
    let first = if header { 2 } else { 1 };
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    for (i, cells) in records.into_iter().enumerate() {
        let number = first + i;
        match cells.len() {
            n if n == width => rows.push(Row { number, cells }),
            n => skipped.push(super::RowProblem {
                row: number,
                problem: format!("{n} fields where the first row has {width}"),
            }),
        }
    }
    let name = match delimiter {
        b'\t' => "tab-separated",
        b';' => "semicolon-separated",
        b'|' => "bar-separated",
        _ => "comma-separated",
    };
    Ok(Table { file: file.into(), columns, rows, encoding: String::new(), format: name.into(), header, skipped })
}

/// The delimiter that splits the first lines into the most columns of the same number.
fn guess_delimiter(file: &str, text: &str) -> u8 {
    if file.to_ascii_lowercase().ends_with(".tsv") {
        return b'\t';
    }
    let columns = |delimiter: u8| -> usize {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .from_reader(text.as_bytes());
        let widths: Vec<usize> = reader.records().take(20).filter_map(Result::ok).map(|r| r.len()).collect();
        let most = widths.first().copied().unwrap_or(1);
        let agree = widths.iter().filter(|w| **w == most).count();
        if agree * 10 >= widths.len() * 8 { most } else { 1 }
    };
    let candidates = [b',', b'\t', b';', b'|'];
    // Of equals the first wins: a comma where nothing splits.
    candidates.into_iter().rev().max_by_key(|d| columns(*d)).unwrap_or(b',')
}

/// The row in which a quoted field starts that the file never closes.
fn unclosed_quote(text: &str, delimiter: u8) -> Option<usize> {
    let (mut row, mut opened, mut quoted, mut field_start) = (1, 1, false, true);
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if quoted && bytes.peek() == Some(&b'"') => {
                bytes.next();
            }
            b'"' if quoted => quoted = false,
            b'"' if field_start => {
                quoted = true;
                opened = row;
            }
            b'\n' if !quoted => row += 1,
            _ => {}
        }
        field_start = !quoted && (byte == delimiter || byte == b'\n' || byte == b'\r');
    }
    quoted.then_some(opened)
}

/// The first row is a header unless none of its cells is a usual column name and one of them recurs below it, as
/// labels do.
fn has_header(records: &[Vec<String>]) -> bool {
    let Some((first, rest)) = records.split_first() else { return false };
    let known = |cell: &String| KNOWN_COLUMNS.contains(&cell.trim().to_lowercase().as_str());
    let recurs = |(i, cell): (usize, &String)| rest.iter().any(|row| row.get(i) == Some(cell));
    first.iter().any(known) || !first.iter().enumerate().any(recurs)
}
