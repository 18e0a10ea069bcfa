//! Promises: the lab model's labels follow from what its sentences say, its committed files are what its program makes
//! and what its card says, and the program works.

use ctsft_lab::engine::cpu::Cpu;
use ctsft_lab::experiment::Recipe;
use ctsft_lab::lab_model::corpus::{Corpus, SPLITS, Texts, set_file};
use ctsft_lab::lab_model::grammar::LABELS;
use ctsft_lab::lab_model::grammar_page::describe;
use ctsft_lab::lab_model::lexicon::{Language, Lexicon, sound_changes};
use ctsft_lab::lab_model::pretrain::Plan;
use ctsft_lab::lab_model::report::{LabTables, Report, TEST, run_recipe};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

mod common;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/lab")
}

fn committed(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The label of a translation, read off the English words by a reader who knows nothing of the generator.
fn read_english(text: &str, lexicon: &Lexicon) -> usize {
    let last = text.rsplit(", but ").next().expect("a part").trim_end_matches('.').to_lowercase();
    if last.contains(" says that ") {
        return 1;
    }
    let Some((_, said)) = last.split_once(" is ") else { return 1 };
    let word = said.split(' ').next_back().expect("a quality");
    let polarity =
        lexicon.qualities.iter().position(|words| words.iter().any(|w| w.gloss == word)).expect("known word");
    if said.starts_with("not ") { 2 - polarity } else { polarity }
}

#[test]
fn every_label_follows_from_what_the_sentence_says() {
    let corpus = Corpus::new(Plan::FULL.seed);
    let mut texts = Texts { corpus: &corpus, rng: ChaCha8Rng::seed_from_u64(3) };
    for i in 0..3000 {
        let example = texts.example(i % 3, Language::ALL[i % 2]);
        assert_eq!(example.label, read_english(&example.english, &corpus.lexicon), "{}", example.english);
    }
}

#[test]
fn the_sister_language_is_the_source_under_its_sound_changes() {
    let lexicon = Corpus::new(Plan::FULL.seed).lexicon;
    assert_eq!(sound_changes("narvi"), "nalbi");
    let friends = lexicon.false_friends();
    assert!(!friends.is_empty());
    let drifted: BTreeSet<&str> = friends.iter().flat_map(|(bad, good)| [bad.gloss, good.gloss]).collect();
    for word in lexicon.words() {
        let regular = word.sister == sound_changes(&word.source);
        assert_eq!(regular, !word.replaced && !drifted.contains(word.gloss), "{}", word.gloss);
    }
    for language in Language::ALL {
        let forms: BTreeSet<&str> = lexicon.words().map(|w| w.in_language(language)).collect();
        assert_eq!(forms.len(), lexicon.words().count(), "two words of {} are one", language.name());
    }
}

#[test]
fn sets_are_balanced_and_no_meaning_stands_in_two() {
    let corpus = Corpus::new(Plan::FULL.seed);
    let mut meanings = BTreeSet::new();
    for set in corpus.sets.iter().flatten() {
        for label in 0..LABELS.len() {
            assert_eq!(set.iter().filter(|e| e.label == label).count() * LABELS.len(), set.len());
        }
        for example in set {
            assert!(meanings.insert(example.english.clone()), "{} stands twice", example.english);
        }
    }
    let mut texts = Texts { corpus: &corpus, rng: ChaCha8Rng::seed_from_u64(5) };
    for i in 0..3000 {
        let english = texts.example(i % 3, Language::Source).english;
        assert!(!meanings.contains(&english), "the model is made from a held-out sentence: {english}");
    }
}

#[test]
fn the_committed_sets_and_grammar_are_what_the_program_writes() {
    let corpus = Corpus::new(Plan::FULL.seed);
    assert!(committed("grammar.html") == describe(&corpus), "grammar.html differs: run `ctsft make-lab-model`");
    for (language, sets) in Language::ALL.into_iter().zip(&corpus.sets) {
        for ((split, _), set) in SPLITS.iter().zip(sets) {
            let name = set_file(language, split);
            let drawn = String::from_utf8(Corpus::csv(set).expect("CSV")).expect("text");
            assert!(committed(&name) == drawn, "{name} differs: run `ctsft make-lab-model`");
        }
    }
}

/// One run of the lab's recipe on the committed model: the card's hash and, within its intervals' reach, its promises.
#[test]
fn the_committed_model_is_the_card_s_and_does_what_it_says() {
    let report: Report = serde_json::from_str(&committed("report.json")).expect("report.json");
    assert!(committed("README.md").contains(&report.markdown()), "the card's table is not report.json's");
    let files = ["config.json", "tokenizer.json", "model.safetensors"].map(|name| folder().join(name));
    let mut checkpoint = common::open_paths(&files).expect("the committed model opens");
    assert_eq!(checkpoint.hash, report.model, "model.safetensors is not the card's");
    assert!(std::fs::metadata(&files[2]).expect("the file").len() < 8_000_000);

    let tables = LabTables::open(&folder()).expect("the sample sets");
    let mut recipe = Recipe::from_json(&committed("recipe.json")).expect("recipe.json");
    (recipe.sizes.test, recipe.sizes.faithfulness) = (0, 0);
    let record = pollster::block_on(run_recipe(Cpu, &mut checkpoint, &tables.tables(TEST), &recipe)).expect("a run");
    let figure = |name: &str| report.figures.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("no {name}"));
    let zero_shot = record.zero_shot.expect("zero-shot");
    for (name, accuracy) in [
        ("source accuracy as it is", zero_shot.source.accuracy),
        ("sister accuracy as it is", zero_shot.target.accuracy),
    ] {
        // Nothing is drawn or trained here: only rounding on another machine can move an answer or two.
        assert!(
            (figure(name).value - accuracy).abs() < 0.005,
            "{name}: {accuracy}, the card has {}",
            figure(name).value
        );
    }
    assert!(record.competent.expect("competent").source.accuracy > 0.9);
    let circuit = record.circuit.expect("a circuit");
    let last = circuit.faithfulness.expect("faithfulness").rows.pop().expect("a depth");
    assert!(last.heads as f64 <= 0.1 * 64.0);
    assert!(last.faithfulness.expect("defined") > 0.7);
}

#[test]
fn the_program_makes_a_small_model_that_passes_its_check() {
    let out = tempfile::tempdir().expect("a folder");
    let made = Command::new(env!("CARGO_BIN_EXE_ctsft"))
        .args(["make-lab-model", "--small", "--out"])
        .arg(out.path())
        .output()
        .expect("ctsft runs");
    let said = String::from_utf8_lossy(&made.stdout);
    assert!(made.status.success(), "{said}\n{}", String::from_utf8_lossy(&made.stderr));
    assert!(said.contains("on validation sentences"), "{said}");
    let file = |name: &str| out.path().join(name);
    let opened =
        common::open_paths(&["config.json", "tokenizer.json", "model.safetensors"].map(file)).expect("it opens");
    assert_eq!(opened.config.layers, Plan::SMALL.layers);
}
