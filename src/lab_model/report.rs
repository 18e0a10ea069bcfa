//! Every figure of the lab model's card, measured anew from its committed files.

use super::corpus::{Corpus, Example, SPLITS, Texts, set_file};
use super::grammar::LABELS;
use super::lexicon::Language;
use super::{LabModelError, bag_of_words};
use crate::data::{Table, read_table};
use crate::engine::{Backend, Engine};
use crate::experiment::{self, ArmRecord, ModelSummary, Recipe, Record, Tables};
use crate::measures::{Interval, wilson};
use crate::model::Checkpoint;
use crate::progress::Unwatched;
use crate::tuning::ArmKind;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};
use std::path::Path;

/// Runs that every figure is a mean of: seeds 1 to this.
pub const SEEDS: u64 = 20;
/// Random head sets a run, beside the circuit.
const RANDOM_SETS: usize = 10;
/// Fresh sentences that the second bag-of-words classifier learns from.
const MANY: usize = 6000;

/// Learning rates that both arms are tried with on the validation sets.
const RATES: [f64; 3] = [3e-4, 1e-3, 3e-3];

/// What the issue that asked for this model wants of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    Above(f64),
    Below(f64),
    Between(f64, f64),
    /// The whole interval is above it.
    MeasurablyAbove(f64),
}

impl Wanted {
    fn holds(self, figure: &Figure) -> bool {
        match self {
            Self::Above(least) => figure.value > least,
            Self::Below(most) => figure.value < most,
            Self::Between(low, high) => (low..=high).contains(&figure.value),
            Self::MeasurablyAbove(least) => figure.interval.low > least,
        }
    }

    fn words(self) -> String {
        match self {
            Self::Above(least) => format!("> {least}"),
            Self::Below(most) => format!("< {most}"),
            Self::Between(low, high) => format!("{low} – {high}"),
            Self::MeasurablyAbove(least) => format!("> {least}, all of the interval"),
        }
    }
}

/// One measured number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    /// 95 %: Student's t over the seeds, or Wilson's where there is one test only.
    pub interval: Interval,
    pub wanted: Option<Wanted>,
}

/// All figures of the card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// SHA-256 of model.safetensors.
    pub model: String,
    pub parameters: usize,
    pub device: String,
    pub seeds: u64,
    /// Test sentences of each language.
    pub test: usize,
    pub figures: Vec<Figure>,
    /// CT-SFT and full fine-tuning at each of some learning rates, on the validation sets.
    pub rates: Vec<Figure>,
}

impl Report {
    /// The figures as two Markdown tables.
    pub fn markdown(&self) -> String {
        let between = "\nThe same two arms at equal learning rates, on the validation sets:\n\n";
        format!("{}{between}{}", Self::table(&self.figures), Self::table(&self.rates))
    }

    fn table(figures: &[Figure]) -> String {
        let mut text = String::from("| figure | measured | 95 % interval | wanted | |\n|---|---|---|---|---|\n");
        for f in figures {
            let verdict = match f.wanted {
                None => "",
                Some(wanted) if wanted.holds(f) => "met",
                Some(_) => "**not met**",
            };
            text += &format!(
                "| {} | {:.3} | {:.3} to {:.3} | {} | {verdict} |\n",
                f.name,
                f.value,
                f.interval.low,
                f.interval.high,
                f.wanted.map_or_else(String::new, Wanted::words),
            );
        }
        text
    }

    /// Figures of `self` that lie outside the interval that `earlier` gave for them, or that it does not have.
    pub fn differences(&self, earlier: &Self) -> Vec<String> {
        let known = |name: &str| earlier.figures.iter().chain(&earlier.rates).find(|f| f.name == name);
        let differs = |f: &&Figure| {
            known(&f.name).is_none_or(|e| f.value < e.interval.low - 1e-9 || f.value > e.interval.high + 1e-9)
        };
        self.figures.iter().chain(&self.rates).filter(differs).map(|f| f.name.clone()).collect()
    }
}

/// The tables of a lab model's folder, by language and split.
pub struct LabTables(Vec<Vec<Table>>);

impl LabTables {
    /// Reads the six CSV files of a model's folder.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn open(folder: &Path) -> Result<Self, LabModelError> {
        let table = |language: Language, split: &str| -> Result<Table, LabModelError> {
            let name = set_file(language, split);
            Ok(read_table(&name, &std::fs::read(folder.join(&name))?)?)
        };
        let tables = |language| SPLITS.iter().map(|(split, _)| table(language, split)).collect();
        Ok(Self(Language::ALL.into_iter().map(tables).collect::<Result<_, LabModelError>>()?))
    }

    /// The tables of a run that is tested on split `test` (an index into [`SPLITS`]).
    pub fn tables(&self, test: usize) -> Tables {
        let [source, target] = [&self.0[0], &self.0[1]];
        Tables {
            source_train: source[0].clone(),
            source_test: Some(source[test].clone()),
            target_train: target[0].clone(),
            target_test: Some(target[test].clone()),
        }
    }
}

/// Indices of splits in [`SPLITS`].
pub const VALID: usize = 1;
pub const TEST: usize = 2;

/// Runs a recipe on a freshly loaded model.
///
/// # Errors
/// Whatever stops a run.
pub async fn run_recipe<B: Backend + Clone>(
    backend: B,
    checkpoint: &mut Checkpoint,
    tables: &Tables,
    recipe: &Recipe,
) -> Result<Record, LabModelError> {
    let tokenizer = checkpoint.tokenizer.as_ref().ok_or(LabModelError::NoTokenizer)?;
    let prepared = experiment::prepare(recipe, tables, tokenizer)?;
    let summary = ModelSummary::of("lab", checkpoint);
    let open = async || Engine::load(backend.clone(), checkpoint, |_, _| {});
    Ok(experiment::run(open, summary, &prepared, recipe, &Unwatched).await?)
}

/// Measures everything. `progress` hears of each finished run, in words.
///
/// # Errors
/// Whatever stops a run.
pub async fn measure<B: Backend + Clone>(
    backend: B,
    checkpoint: &mut Checkpoint,
    tables: &LabTables,
    recipe: &Recipe,
    corpus: &Corpus,
    mut progress: impl FnMut(&str),
) -> Result<Report, LabModelError> {
    let mut records = Vec::new();
    for seed in 1..=SEEDS {
        let mut recipe = Recipe { seed, random_circuits: RANDOM_SETS, ..recipe.clone() };
        (recipe.sizes.test, recipe.sizes.faithfulness) = (0, 0);
        let record = run_recipe(backend.clone(), checkpoint, &tables.tables(TEST), &recipe).await?;
        progress(&format!("test, seed {seed} of {SEEDS}"));
        records.push(record);
    }
    let mut figures = figures(&records);
    let mut rates = Vec::new();
    for rate in RATES {
        let mut records = Vec::new();
        for seed in 1..=SEEDS {
            let mut recipe =
                Recipe { seed, arms: vec![ArmKind::Circuit, ArmKind::Full], random_circuits: 0, ..recipe.clone() };
            (recipe.masked.learning_rate, recipe.full.learning_rate, recipe.sizes.test) = (rate, rate, 0);
            let record = run_recipe(backend.clone(), checkpoint, &tables.tables(VALID), &recipe).await?;
            progress(&format!("learning rate {rate}, seed {seed} of {SEEDS}"));
            records.push(record);
        }
        rates.extend(at_rate(rate, &records));
    }
    let fresh = {
        let mut texts = Texts { corpus, rng: ChaCha8Rng::seed_from_u64(SEEDS) };
        (0..MANY).map(|i| texts.example(i % LABELS.len(), Language::Source)).collect::<Vec<Example>>()
    };
    let [train, _, test] = [&corpus.sets[0][0], &corpus.sets[0][1], &corpus.sets[0][2]];
    for (name, examples) in [("the 300 training sentences", train), ("6000 fresh sentences", &fresh)] {
        let correct = bag_of_words::correct(examples, test)?;
        figures.push(Figure {
            name: format!("bag of words, source accuracy from {name}"),
            value: correct as f64 / test.len() as f64,
            interval: wilson(correct, test.len()),
            wanted: None,
        });
    }
    let first = &records[0];
    Ok(Report {
        model: checkpoint.hash.clone(),
        parameters: first.model.parameters,
        device: first.device.clone(),
        seeds: SEEDS,
        test: first.sets.source_test.used,
        figures,
        rates,
    })
}

/// What the two arms did at one learning rate.
fn at_rate(rate: f64, records: &[Record]) -> Vec<Figure> {
    let over = |name: &str, of: &dyn Fn(&Record) -> Option<f64>| {
        over_seeds(&format!("rate {rate}: {name}"), None, &records.iter().filter_map(of).collect::<Vec<_>>())
    };
    vec![
        over("sister points gained by CT-SFT", &|r| gain(r, ArmKind::Circuit)),
        over("sister points gained by full fine-tuning", &|r| gain(r, ArmKind::Full)),
        over("source points lost by CT-SFT", &|r| lost(r, ArmKind::Circuit)),
        over("source points lost by full fine-tuning", &|r| lost(r, ArmKind::Full)),
        over("source points lost by full fine-tuning beyond CT-SFT", &|r| {
            Some(lost(r, ArmKind::Full)? - lost(r, ArmKind::Circuit)?)
        }),
    ]
}

fn arm(record: &Record, kind: ArmKind) -> Option<&ArmRecord> {
    record.arms.iter().find(|a| a.kind == kind)
}

/// Points that an arm gained on the sister language.
fn gain(record: &Record, kind: ArmKind) -> Option<f64> {
    Some(100.0 * (arm(record, kind)?.result.target.accuracy - record.competent.as_ref()?.target.accuracy))
}

/// Points that an arm lost on the source language.
fn lost(record: &Record, kind: ArmKind) -> Option<f64> {
    Some(100.0 * arm(record, kind)?.forgetting.accuracy_drop)
}

/// Mean of the seeds' values with its Student interval.
fn over_seeds(name: &str, wanted: Option<Wanted>, values: &[f64]) -> Figure {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    // Two values at least give a distribution; fewer have no interval.
    let t = StudentsT::new(0.0, 1.0, n - 1.0).map_or(f64::NAN, |t| t.inverse_cdf(0.975));
    let half = t * (variance / n).sqrt();
    Figure { name: name.into(), value: mean, interval: Interval { low: mean - half, high: mean + half }, wanted }
}

fn figures(records: &[Record]) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut add = |name: &str, wanted: Option<Wanted>, of: &dyn Fn(&Record) -> Option<f64>| {
        figures.push(over_seeds(name, wanted, &records.iter().filter_map(of).collect::<Vec<_>>()));
    };
    add("source accuracy as it is", None, &|r| r.zero_shot.as_ref().map(|b| b.source.accuracy));
    add("sister accuracy as it is", None, &|r| r.zero_shot.as_ref().map(|b| b.target.accuracy));
    add("source accuracy after competence tuning", Some(Wanted::Above(0.9)), &|r| {
        r.competent.as_ref().map(|b| b.source.accuracy)
    });
    add("sister accuracy after competence tuning (A0)", Some(Wanted::Between(0.45, 0.7)), &|r| {
        r.competent.as_ref().map(|b| b.target.accuracy)
    });
    let last = |r: &Record| r.circuit.as_ref()?.faithfulness.as_ref()?.rows.last().cloned();
    let all = |r: &Record| Some(r.circuit.as_ref()?.faithfulness.as_ref()?.all_heads.accuracy);
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    add("share of the heads in the circuit", Some(Wanted::Between(0.0, 0.1)), &|r| {
        Some(last(r)?.heads as f64 / r.model.config.total_heads() as f64)
    });
    add("faithfulness of the circuit", Some(Wanted::Above(0.7)), &|r| last(r)?.faithfulness);
    add("faithfulness of as many random heads", Some(Wanted::Below(0.3)), &|r| {
        Some(mean(last(r)?.random.into_iter().flatten().collect()))
    });
    add("points lost without the circuit", Some(Wanted::Above(25.0)), &|r| {
        Some(100.0 * (all(r)? - last(r)?.without.accuracy))
    });
    add("points lost without as many random heads", Some(Wanted::Below(5.0)), &|r| {
        let rest = last(r)?.without_random.iter().map(|m| m.accuracy).collect();
        Some(100.0 * (all(r)? - mean(rest)))
    });
    add("split-half stability of the relevances (Spearman)", None, &|r| Some(r.circuit.as_ref()?.stability?.spearman));
    let names = [
        (ArmKind::Circuit, "CT-SFT"),
        (ArmKind::NearZero, "tuning irrelevant heads"),
        (ArmKind::Random, "tuning random heads"),
        (ArmKind::Full, "full fine-tuning"),
    ];
    for (kind, name) in names {
        let wanted = (kind == ArmKind::Circuit).then_some(Wanted::Above(8.0));
        add(&format!("sister points gained by {name} over A0"), wanted, &|r| gain(r, kind));
    }
    for (kind, name) in names {
        add(&format!("source points lost by {name}"), None, &|r| lost(r, kind));
        add(&format!("source drift (KL, nats) by {name}"), None, &|r| Some(arm(r, kind)?.forgetting.kl));
    }
    add("source points lost by full fine-tuning beyond CT-SFT", Some(Wanted::MeasurablyAbove(0.0)), &|r| {
        Some(lost(r, ArmKind::Full)? - lost(r, ArmKind::Circuit)?)
    });
    add("source drift (KL, nats) by full fine-tuning beyond CT-SFT", Some(Wanted::MeasurablyAbove(0.0)), &|r| {
        Some(arm(r, ArmKind::Full)?.forgetting.kl - arm(r, ArmKind::Circuit)?.forgetting.kl)
    });
    figures
}
