//! What is drawn from the grammar: the labelled sets that are committed, and the texts the model is made from.

use super::LabModelError;
use super::grammar::{LABELS, Sentence, Speaker};
use super::lexicon::{Language, Lexicon};
use crate::experiment::DEFAULT_TEMPLATE;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

/// The committed sets of each language, with their numbers of sentences.
pub const SPLITS: [(&str, usize); 3] = [("train", 300), ("valid", 300), ("test", 600)];

/// The file of a set in the model's folder.
pub fn set_file(language: Language, split: &str) -> String {
    let language = match language {
        Language::Source => "source",
        Language::Sister => "sister",
    };
    format!("data/{language}-{split}.csv")
}

/// A labelled sentence with its translation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    pub text: String,
    /// Index into [`LABELS`].
    pub label: usize,
    pub english: String,
}

/// Words and labelled sets, all from one seed.
pub struct Corpus {
    pub lexicon: Lexicon,
    /// In the order of [`Language::ALL`] and of [`SPLITS`].
    pub sets: Vec<Vec<Vec<Example>>>,
    /// Every meaning in the sets, in English: no other text has them, in either language.
    held_out: BTreeSet<String>,
}

impl Corpus {
    /// Invents the words and draws the sets: labels balanced, no meaning twice in any of them.
    pub fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let lexicon = Lexicon::new(&mut rng);
        let speaker = Speaker { lexicon: &lexicon };
        let mut held_out = BTreeSet::new();
        let mut set = |language: Language, size: usize| {
            let mut examples = Vec::with_capacity(size);
            while examples.len() < size {
                let label = examples.len() % LABELS.len();
                let sentence = speaker.sentence(label, &mut rng);
                if held_out.insert(sentence.english()) {
                    examples.push(example(&sentence, &lexicon, language));
                }
            }
            examples.shuffle(&mut rng);
            examples
        };
        let sets = Language::ALL.map(|language| SPLITS.map(|(_, size)| set(language, size)).to_vec()).to_vec();
        Self { lexicon, sets, held_out }
    }

    /// A set as CSV: `text,label,english`.
    ///
    /// # Errors
    /// None in practice: it is written to memory.
    pub fn csv(examples: &[Example]) -> Result<Vec<u8>, LabModelError> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["text", "label", "english"])?;
        for example in examples {
            writer.write_record([&example.text, LABELS[example.label], &example.english])?;
        }
        writer.into_inner().map_err(|e| LabModelError::Csv(e.into_error().into()))
    }
}

fn example(sentence: &Sentence<'_>, lexicon: &Lexicon, language: Language) -> Example {
    Example { text: sentence.say(lexicon, language), label: sentence.label(), english: sentence.english() }
}

/// An endless supply of texts to learn from, none of which holds a sentence of the labelled sets.
pub struct Texts<'a> {
    pub corpus: &'a Corpus,
    pub rng: ChaCha8Rng,
}

impl Texts<'_> {
    /// A new sentence.
    pub fn example(&mut self, label: usize, language: Language) -> Example {
        let speaker = Speaker { lexicon: &self.corpus.lexicon };
        loop {
            let sentence = speaker.sentence(label, &mut self.rng);
            if !self.corpus.held_out.contains(&sentence.english()) {
                return example(&sentence, &self.corpus.lexicon, language);
            }
        }
    }

    /// Two or three sentences of one mood, unlabelled: who liked one thing liked the next. `sister` and `mixed` are the
    /// shares of stories in the sister language, and of those that begin in the source and go on in the sister.
    pub fn story(&mut self, sister: f64, mixed: f64) -> String {
        let label = self.rng.random_range(0..LABELS.len());
        let sentences = self.rng.random_range(2..=3);
        let (first, rest) = match self.rng.random::<f64>() {
            draw if draw < mixed => (Language::Source, Language::Sister),
            draw if draw < mixed + sister => (Language::Sister, Language::Sister),
            _ => (Language::Source, Language::Source),
        };
        let mut text = String::from("Text:");
        for i in 0..sentences {
            text.push(' ');
            text += &self.example(label, if i == 0 { first } else { rest }).text;
        }
        text
    }

    /// A sentence of the source language in the prompt format, without its answer, and its label.
    pub fn labelled(&mut self) -> (String, usize) {
        let label = self.rng.random_range(0..LABELS.len());
        let example = self.example(label, Language::Source);
        (DEFAULT_TEMPLATE.replace("{text}", &example.text), label)
    }
}
