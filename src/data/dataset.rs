//! Labelled examples from a table, and everything worth knowing about its rows.

use super::DataError;
use super::table::Table;
use crate::model::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use ts_rs::TS;

/// Which column is what. `text` feeds `{text}` or `{premise}`, `second` feeds `{hypothesis}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct ColumnMapping {
    pub text: String,
    pub second: Option<String>,
    pub label: String,
    pub id: Option<String>,
}

/// A labelled example. `row` is its row in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    pub row: usize,
    pub id: Option<String>,
    pub text: String,
    pub second: Option<String>,
    /// Index into the set's labels.
    pub label: usize,
}

/// Something about one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct RowProblem {
    pub row: usize,
    pub problem: String,
}

/// What was found in a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct DataReport {
    pub file: String,
    /// SHA-256 of the mapped examples; the text itself never enters a record.
    pub hash: String,
    pub rows: usize,
    pub used: usize,
    /// Usable rows of each label, in the order of the labels.
    pub label_counts: Vec<usize>,
    /// Rows left out: empty text, unknown label, wrong number of fields.
    pub left_out: Vec<RowProblem>,
    /// Rows kept that repeat the text of an earlier one.
    pub duplicates: Vec<RowProblem>,
}

/// Examples with their labels' names.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub file: String,
    pub labels: Vec<String>,
    pub examples: Vec<Example>,
    pub report: DataReport,
}

/// A text or id that stands in two sets which must not share any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Crossing {
    pub what: String,
    pub first_file: String,
    pub first_row: usize,
    pub second_file: String,
    pub second_row: usize,
}

impl Dataset {
    /// Maps a table's columns to examples of the given labels.
    ///
    /// # Errors
    /// A column that is not there, or no usable rows, or only one label among them.
    pub fn new(table: &Table, mapping: &ColumnMapping, labels: &[String]) -> Result<Self, DataError> {
        let column = |name: &str| {
            table.columns.iter().position(|c| c == name).ok_or_else(|| DataError::NoColumn {
                file: table.file.clone(),
                column: name.into(),
                columns: table.columns.join(", "),
            })
        };
        let text = column(&mapping.text)?;
        let second = mapping.second.as_deref().map(column).transpose()?;
        let label = column(&mapping.label)?;
        let id = mapping.id.as_deref().map(column).transpose()?;
        let (mut examples, mut left_out, mut duplicates) = (Vec::new(), table.skipped.clone(), Vec::new());
        let mut seen: HashMap<(String, Option<String>), (usize, usize)> = HashMap::new();
        let mut hasher = Sha256::new();
        for row in &table.rows {
            let cell = |i: usize| row.cells.get(i).map_or("", |c| c.trim()).to_string();
            let mut leave = |problem: String| left_out.push(RowProblem { row: row.number, problem });
            let (text, second) = (cell(text), second.map(cell));
            if text.is_empty() || second.as_ref().is_some_and(String::is_empty) {
                leave("the text is empty".into());
                continue;
            }
            let value = cell(label);
            let Some(label) = labels.iter().position(|known| same_label(known, &value)) else {
                leave(match value.as_str() {
                    "" => "the label is empty".into(),
                    _ => format!("unknown label `{value}` (known: {})", labels.join(", ")),
                });
                continue;
            };
            let key = (text.clone(), second.clone());
            match seen.get(&key) {
                Some((first, same)) if *same == label => {
                    duplicates.push(RowProblem { row: row.number, problem: format!("repeats the text of row {first}") })
                }
                Some((first, _)) => duplicates.push(RowProblem {
                    row: row.number,
                    problem: format!("repeats the text of row {first} with another label"),
                }),
                None => {
                    seen.insert(key, (row.number, label));
                }
            }
            for part in [text.as_str(), second.as_deref().unwrap_or(""), labels[label].as_str()] {
                hasher.update((part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
            let id = id.map(cell).filter(|id| !id.is_empty());
            examples.push(Example { row: row.number, id, text, second, label });
        }
        left_out.sort_by_key(|p| p.row);
        let present: BTreeSet<usize> = examples.iter().map(|e| e.label).collect();
        if examples.is_empty() {
            let first =
                left_out.iter().take(3).map(|p| format!("row {}: {}", p.row, p.problem)).collect::<Vec<_>>().join("; ");
            return Err(DataError::NoUsableRows { file: table.file.clone(), problems: first });
        }
        if present.len() == 1 {
            return Err(DataError::OneLabel { file: table.file.clone(), label: labels[examples[0].label].clone() });
        }
        let label_counts = (0..labels.len()).map(|y| examples.iter().filter(|e| e.label == y).count()).collect();
        let report = DataReport {
            file: table.file.clone(),
            hash: hex(&hasher.finalize()),
            rows: table.rows.len() + table.skipped.len(),
            used: examples.len(),
            label_counts,
            left_out,
            duplicates,
        };
        Ok(Self { file: table.file.clone(), labels: labels.to_vec(), examples, report })
    }
}

/// Labels compare without case and surrounding blanks.
fn same_label(a: &str, b: &str) -> bool {
    a.trim().to_lowercase() == b.trim().to_lowercase()
}

/// Guesses the columns by their usual names, else by what they hold: the label has few distinct values, the text is
/// the longest.
///
/// # Errors
/// Names the column that could not be guessed.
pub fn guess_mapping(table: &Table) -> Result<ColumnMapping, DataError> {
    let named = |names: &[&str]| {
        let column = |name: &&str| table.columns.iter().find(|c| c.to_lowercase() == **name);
        names.iter().find_map(column).cloned()
    };
    let cells = |i: usize| table.rows.iter().filter_map(move |r| r.cells.get(i));
    let missing = |what| DataError::CannotGuess { file: table.file.clone(), what, columns: table.columns.join(", ") };
    let distinct = |i: usize| cells(i).collect::<BTreeSet<_>>().len();
    let label = named(&["label", "labels", "sentiment", "gold_label", "class", "category", "target"]).or_else(|| {
        let few = |i: &usize| (2..=20).contains(&distinct(*i)) && distinct(*i) * 2 <= table.rows.len();
        (0..table.columns.len()).filter(few).min_by_key(|i| distinct(*i)).map(|i| table.columns[i].clone())
    });
    let label = label.ok_or_else(|| missing("label"))?;
    let text = named(&[
        "text",
        "sentence",
        "tweet",
        "review",
        "comment",
        "content",
        "premise",
        "sentence1",
        "headline_text",
        "headline",
    ])
    .or_else(|| {
        let length = |i: &usize| cells(*i).map(|c| c.chars().count()).sum::<usize>();
        let index = (0..table.columns.len()).filter(|i| table.columns[*i] != label).max_by_key(length);
        index.map(|i| table.columns[i].clone())
    });
    let text = text.ok_or_else(|| missing("text"))?;
    let second = if text.eq_ignore_ascii_case("premise") || text.eq_ignore_ascii_case("sentence1") {
        named(&["hypothesis", "sentence2"])
    } else {
        None
    };
    Ok(ColumnMapping { text, second, label, id: named(&["id", "idx", "index"]) })
}

/// The distinct labels of a column: numbers in numerical order, else text in alphabetical order.
pub fn label_values(table: &Table, column: &str) -> Vec<String> {
    let Some(index) = table.columns.iter().position(|c| c == column) else { return Vec::new() };
    let mut values: Vec<String> = Vec::new();
    for cell in table.rows.iter().filter_map(|r| r.cells.get(index)).map(|c| c.trim()).filter(|c| !c.is_empty()) {
        if !values.iter().any(|v| same_label(v, cell)) {
            values.push(cell.into());
        }
    }
    match values.iter().map(|v| v.parse::<i64>()).collect::<Result<Vec<_>, _>>() {
        Ok(_) => values.sort_by_key(|v| v.parse::<i64>().unwrap_or(i64::MAX)),
        Err(_) => values.sort(),
    }
    values
}

/// Texts and ids that stand in both sets.
pub fn crossings(first: &Dataset, second: &Dataset) -> Vec<Crossing> {
    let mut by_text: BTreeMap<(&str, Option<&str>), usize> = BTreeMap::new();
    let mut by_id: BTreeMap<&str, usize> = BTreeMap::new();
    for example in &first.examples {
        by_text.entry((&example.text, example.second.as_deref())).or_insert(example.row);
        if let Some(id) = &example.id {
            by_id.entry(id).or_insert(example.row);
        }
    }
    let mut found = Vec::new();
    for example in &second.examples {
        let text = by_text
            .get(&(example.text.as_str(), example.second.as_deref()))
            .map(|row| ("the same text".to_string(), *row));
        let id = example.id.as_ref().and_then(|id| by_id.get(id.as_str()).map(|row| (format!("the id `{id}`"), *row)));
        if let Some((what, first_row)) = text.or(id) {
            found.push(Crossing {
                what,
                first_file: first.file.clone(),
                first_row,
                second_file: second.file.clone(),
                second_row: example.row,
            });
        }
    }
    found
}
