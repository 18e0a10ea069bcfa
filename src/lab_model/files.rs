//! The lab model's folder: what is written there, and the first check of what was made.

use super::corpus::{Corpus, SPLITS, set_file};
use super::lexicon::Language;
use super::pretrain::MadeModel;
use super::report::{LabTables, VALID};
use super::{LabModelError, bag_of_words, grammar_page};
use crate::engine::{Backend, Engine};
use crate::experiment::{Recipe, prepare};
use crate::measures::{Accuracy, evaluate, wilson};
use crate::model::Checkpoint;
use crate::progress::Unwatched;
use std::path::Path;

/// Writes config.json, tokenizer.json, model.safetensors, grammar.html and the sample sets.
///
/// # Errors
/// A folder that cannot be written.
pub fn write(folder: &Path, made: &MadeModel, corpus: &Corpus) -> Result<(), LabModelError> {
    std::fs::create_dir_all(folder.join("data"))?;
    std::fs::write(folder.join("config.json"), format!("{}\n", made.config))?;
    std::fs::write(folder.join("tokenizer.json"), format!("{}\n", made.tokenizer))?;
    std::fs::write(folder.join("model.safetensors"), &made.weights)?;
    std::fs::write(folder.join("grammar.html"), grammar_page::describe(corpus))?;
    for (language, sets) in Language::ALL.into_iter().zip(&corpus.sets) {
        for ((split, _), examples) in SPLITS.iter().zip(sets) {
            std::fs::write(folder.join(set_file(language, split)), Corpus::csv(examples)?)?;
        }
    }
    Ok(())
}

/// What a freshly made model can do, on the validation sets and as it is.
pub struct FirstCheck {
    pub source: Accuracy,
    pub sister: Accuracy,
    /// Of the same source sentences, those that the bag-of-words classifier gets right.
    pub bag_of_words: usize,
}

impl FirstCheck {
    /// Tests a model that was just made and written.
    ///
    /// # Errors
    /// A device failure, or a file that cannot be read back.
    pub async fn of<B: Backend>(
        backend: B,
        checkpoint: &mut Checkpoint,
        tables: &LabTables,
        corpus: &Corpus,
    ) -> Result<Self, LabModelError> {
        let mut recipe = Recipe::default();
        recipe.sizes.test = 0;
        let tokenizer = checkpoint.tokenizer.as_ref().ok_or(LabModelError::NoTokenizer)?;
        let prepared = prepare(&recipe, &tables.tables(VALID), tokenizer)?;
        let engine = Engine::load(backend, checkpoint, |_, _| {})?;
        let source = evaluate(&engine, &prepared.sets.source_test.prompts, &prepared.verbalizer, 0, &Unwatched).await?;
        let sister = evaluate(&engine, &prepared.sets.target_test.prompts, &prepared.verbalizer, 0, &Unwatched).await?;
        let bag_of_words = bag_of_words::correct(&corpus.sets[0][0], &corpus.sets[0][VALID])?;
        Ok(Self { source: source.accuracy, sister: sister.accuracy, bag_of_words })
    }

    /// Whether the model reads the source: better than a bag of words can, beyond both intervals.
    pub fn passed(&self) -> bool {
        self.source.interval.low > wilson(self.bag_of_words, self.source.total).high
    }
}
