//! The lab model's folder: what is written there, and the first check of what was made.

use super::corpus::{Corpus, SPLITS};
use super::lexicon::Language;
use super::pretrain::MadeModel;
use super::report::{LabTables, VALID};
use super::{LabModelError, bag_of_words, grammar_page};
use crate::engine::{Backend, Engine};
use crate::experiment::{Recipe, prepare};
use crate::measures::{Accuracy, evaluate, wilson};
use crate::model::{Checkpoint, ModelFile};
use crate::progress::Unwatched;
use std::io::Cursor;
use std::path::Path;

/// Writes config.json, tokenizer.json, model.safetensors, grammar.html and the sample sets.
///
/// # Errors
/// A folder that cannot be written.
pub fn write(folder: &Path, made: &MadeModel, corpus: &Corpus) -> Result<(), LabModelError> {
    let data = folder.join("data");
    std::fs::create_dir_all(&data)?;
    std::fs::write(folder.join("config.json"), format!("{}\n", made.config))?;
    std::fs::write(folder.join("tokenizer.json"), format!("{}\n", made.tokenizer))?;
    std::fs::write(folder.join("model.safetensors"), &made.weights)?;
    std::fs::write(folder.join("grammar.html"), grammar_page::describe(corpus))?;
    for (language, sets) in Language::ALL.iter().zip(&corpus.sets) {
        for ((split, _), examples) in SPLITS.iter().zip(sets) {
            std::fs::write(data.join(format!("{}-{split}.csv", language.file_name())), Corpus::csv(examples)?)?;
        }
    }
    Ok(())
}

/// What a freshly made model can do, on the validation sets and as it is.
pub struct FirstCheck {
    pub source: Accuracy,
    pub sister: Accuracy,
    /// Accuracy of the bag-of-words classifier on the same source sentences.
    pub bag_of_words: f64,
}

impl FirstCheck {
    /// Tests a model that was just made.
    ///
    /// # Errors
    /// A device failure.
    pub async fn of<B: Backend>(backend: B, made: &MadeModel, corpus: &Corpus) -> Result<Self, LabModelError> {
        let file =
            |name: &str, bytes: &[u8]| ModelFile { name: name.into(), bytes: Box::new(Cursor::new(bytes.to_vec())) };
        let mut checkpoint = Checkpoint::open(vec![
            file("config.json", made.config.as_bytes()),
            file("tokenizer.json", made.tokenizer.as_bytes()),
            file("model.safetensors", &made.weights),
        ])?;
        let mut recipe = Recipe::default();
        recipe.sizes.test = 0;
        let tables = LabTables::of(corpus)?.tables(VALID);
        let tokenizer = checkpoint.tokenizer.as_ref().ok_or(LabModelError::NoTokenizer)?;
        let prepared = prepare(&recipe, &tables, tokenizer)?;
        let engine = Engine::load(backend, &mut checkpoint, |_, _| {})?;
        let source = evaluate(&engine, &prepared.sets.source_test.prompts, &prepared.verbalizer, 0, &Unwatched).await?;
        let sister = evaluate(&engine, &prepared.sets.target_test.prompts, &prepared.verbalizer, 0, &Unwatched).await?;
        let correct = bag_of_words::correct(&corpus.sets[0][0], &corpus.sets[0][1])?;
        Ok(Self {
            source: source.accuracy,
            sister: sister.accuracy,
            bag_of_words: correct as f64 / corpus.sets[0][1].len() as f64,
        })
    }

    /// Whether the model reads the source: better than a bag of words can, beyond both intervals.
    pub fn passed(&self) -> bool {
        let n = self.source.total;
        let bag = wilson((self.bag_of_words * n as f64).round() as usize, n);
        self.source.interval.low > bag.high
    }
}
