//! Promise: users' tables are read as they are meant, samples are stratified and reproducible, texts are cut and never
//! the template.

mod common;

use ctsft_lab::data::{
    Balance, Dataset, Template, crossings, encode, guess_mapping, label_values, read_table, sample, train_and_test,
};
use std::collections::BTreeSet;

fn labels(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn encodings_and_delimiters_are_detected() {
    let text = "id;text;label\n1;été à côté;ja\n2;naïve;nein\n3;plain;ja\n";
    let utf16 = |le: bool| -> Vec<u8> {
        text.encode_utf16().flat_map(|u| if le { u.to_le_bytes() } else { u.to_be_bytes() }).collect()
    };
    let with = |start: &[u8], rest: Vec<u8>| [start, &rest].concat();
    let latin1: Vec<u8> = text.chars().map(|c| c as u8).collect();
    let files = [
        ("UTF-8", text.as_bytes().to_vec()),
        ("UTF-8", with(b"\xef\xbb\xbf", text.as_bytes().to_vec())),
        ("UTF-16LE", with(b"\xff\xfe", utf16(true))),
        ("UTF-16BE", with(b"\xfe\xff", utf16(false))),
        ("UTF-16LE", utf16(true)),
        ("UTF-16BE", utf16(false)),
        ("windows-1252", latin1),
    ];
    for (encoding, bytes) in files {
        let table = read_table("x.csv", &bytes).expect("reads");
        assert_eq!(table.encoding, encoding);
        assert_eq!(table.format, "semicolon-separated");
        assert_eq!(table.columns, ["id", "text", "label"]);
        assert_eq!(table.rows[0].cells[1], "été à côté", "{encoding}");
        assert_eq!(table.rows[0].number, 2);
    }
}

#[test]
fn quotes_newlines_and_commas_inside_fields() {
    let table = read_table("x.csv", b"text,label\n\"a, \"\"b\"\"\nc\",1\nplain,0\n").expect("reads");
    assert_eq!(table.rows[0].cells, ["a, \"b\"\nc", "1"]);
    assert_eq!(label_values(&table, "label"), ["0", "1"]);
}

#[test]
fn a_tsv_may_hold_stray_quotes() {
    let table = read_table("x.tsv", b"tweet\tlabel\n\"so good\tpositive\nbad\tnegative\n").expect("reads");
    assert_eq!(table.rows[0].cells, ["\"so good", "positive"]);
    let mapping = guess_mapping(&table).expect("guesses");
    assert_eq!((mapping.text.as_str(), mapping.label.as_str()), ("tweet", "label"));
}

#[test]
fn json_lines_with_missing_keys() {
    let table = read_table("x.jsonl", b"{\"text\":\"a\",\"label\":1}\n\n{\"label\":0,\"text\":\"b\",\"id\":\"q\"}\n")
        .expect("reads");
    assert_eq!(table.rows.len(), 2);
    assert_eq!(label_values(&table, "label"), ["0", "1"]);
    assert_eq!(guess_mapping(&table).expect("guesses").id.as_deref(), Some("id"));
}

#[test]
fn a_table_without_a_header() {
    let table =
        read_table("x.csv", b"good food,positive\nbad food,negative\nnice,positive\nugly,negative\n").expect("reads");
    assert!(!table.header);
    assert_eq!(table.rows.len(), 4);
    let mapping = guess_mapping(&table).expect("guesses");
    assert_eq!((mapping.text.as_str(), mapping.label.as_str()), ("column 1", "column 2"));
}

#[test]
fn premise_and_hypothesis_are_guessed() {
    let table =
        read_table("xnli.tsv", b"premise\thypothesis\tlabel\na\tb\tneutral\nc\td\tentailment\n").expect("reads");
    let mapping = guess_mapping(&table).expect("guesses");
    assert_eq!((mapping.text.as_str(), mapping.second.as_deref()), ("premise", Some("hypothesis")));
}

#[test]
fn rows_left_out_and_repeated_are_reported_by_number() {
    let csv = b"text,label\na,x\n,x\nb,z\nc\na,x\na,y\nd,Y\n";
    let table = read_table("x.csv", csv).expect("reads");
    let set = Dataset::new(&table, &guess_mapping(&table).expect("guesses"), &labels(&["x", "y"])).expect("usable");
    let rows: Vec<usize> = set.report.left_out.iter().map(|p| p.row).collect();
    assert_eq!(rows, [3, 4, 5]);
    assert!(set.report.left_out[1].problem.contains("unknown label `z`"));
    let repeated: Vec<(usize, bool)> =
        set.report.duplicates.iter().map(|p| (p.row, p.problem.contains("another label"))).collect();
    assert_eq!(repeated, [(6, false), (7, true)]);
    assert_eq!(set.report.label_counts, [2, 2]);
}

#[test]
fn nusax_is_read_whole() {
    let Some(path) = common::shared("data/nusax-senti/buginese/train.csv") else { return };
    let table = read_table("train.csv", &std::fs::read(path).expect("reads")).expect("a table");
    let mapping = guess_mapping(&table).expect("guesses");
    assert_eq!(label_values(&table, &mapping.label), ["negative", "neutral", "positive"]);
    let set = Dataset::new(&table, &mapping, &labels(&["negative", "neutral", "positive"])).expect("usable");
    assert_eq!(set.examples.len(), 500);
    let test = common::shared("data/nusax-senti/buginese/test.csv").expect("beside it");
    let test = read_table("test.csv", &std::fs::read(test).expect("reads")).expect("a table");
    let test = Dataset::new(&test, &mapping, &set.labels).expect("usable");
    assert!(crossings(&set, &test).iter().all(|c| !c.what.contains("id")), "NusaX shares no id between train and test");
}

fn lopsided() -> Dataset {
    let mut csv = String::from("id,text,label\n");
    for i in 0..90 {
        csv += &format!("{i},text number {i},{}\n", if i % 9 == 0 { "rare" } else { "common" });
    }
    let table = read_table("x.csv", csv.as_bytes()).expect("reads");
    Dataset::new(&table, &guess_mapping(&table).expect("guesses"), &labels(&["common", "rare"])).expect("usable")
}

#[test]
fn samples_are_stratified_and_reproducible() {
    let set = lopsided();
    let count = |examples: &[ctsft_lab::data::Example]| examples.iter().filter(|e| e.label == 1).count();
    let equal = sample(&set, 12, Balance::Equal, 5);
    assert_eq!((equal.len(), count(&equal)), (12, 6));
    let proportional = sample(&set, 27, Balance::Proportional, 5);
    assert_eq!((proportional.len(), count(&proportional)), (27, 3));
    assert_eq!(equal, sample(&set, 12, Balance::Equal, 5));
    assert_ne!(equal, sample(&set, 12, Balance::Equal, 6));
    // Ten rare rows are all there are; the rest comes from the others.
    assert_eq!(count(&sample(&set, 40, Balance::Equal, 5)), 10);
    assert_eq!(sample(&set, 0, Balance::Equal, 5).len(), 90);
}

#[test]
fn a_single_table_is_split_without_overlap() {
    let set = lopsided();
    let (train, test) = train_and_test(&set, 0.4, 3);
    assert_eq!(test.report.label_counts, [32, 4]);
    let rows = |set: &Dataset| set.examples.iter().map(|e| e.row).collect::<BTreeSet<_>>();
    assert!(rows(&train).is_disjoint(&rows(&test)));
    assert_eq!(rows(&train).len() + rows(&test).len(), 90);
    assert!(crossings(&train, &test).is_empty());
}

#[test]
fn a_text_or_id_in_two_sets_is_found() {
    let read = |csv: &str| {
        let table = read_table("x.csv", csv.as_bytes()).expect("reads");
        Dataset::new(&table, &guess_mapping(&table).expect("guesses"), &labels(&["0", "1"])).expect("usable")
    };
    let found = crossings(&read("id,text,label\n1,a,0\n2,b,1\n"), &read("id,text,label\n9,b,1\n1,c,0\n8,d,1\n"));
    let summary: Vec<(usize, usize)> = found.iter().map(|c| (c.first_row, c.second_row)).collect();
    assert_eq!(summary, [(3, 2), (2, 3)]);
}

#[test]
fn long_texts_are_cut_and_the_template_is_not() {
    let csv = format!("text,label\n{},good\nbad food,bad\n", ["food"; 50].join(" "));
    let table = read_table("x.csv", csv.as_bytes()).expect("reads");
    let set =
        Dataset::new(&table, &guess_mapping(&table).expect("guesses"), &labels(&["good", "bad"])).expect("usable");
    let template = Template::parse("Text: {text} Sentiment:").expect("valid");
    let tokenizer = common::word_tokenizer(&["[UNK]", "Text:", "Sentiment:", "good", "bad", "fine", "food"]);
    let encoded = encode(&set.examples, &template, &labels(&[" good", " bad"]), 2, &tokenizer, 10).expect("encodes");
    assert_eq!(encoded.cut_rows, [2]);
    let first = &encoded.prompts[0].tokens;
    assert!((9..=10).contains(&first.len()), "{first:?}");
    assert_eq!((first[0], first.last()), (1, Some(&2)), "template first and last");
    assert_eq!(encoded.prompts[1].tokens, [1, 4, 6, 2]);
    assert_eq!(encoded.verbalizer.tokens, [3, 4]);
}
