//! Runs a recipe: data → prompts → competence → circuit → arms → measures → record.

use super::record::{
    Advice, ArmRecord, Both, CircuitRecord, DepthRecord, FaithfulnessRecord, FaithfulnessRow, Forgetting, ModelSummary,
    Record, SetSummary, Sets, StageTime, Warning,
};
use super::{Recipe, RecipeError, SCHEMA_VERSION};
use crate::circuit::{self, Expansion, POOR, Pool, Positions, SlotMap};
use crate::data::{self, Balance, ColumnMapping, DataError, Dataset, EncodedSet, Table, Template};
use crate::engine::{Backend, Engine, EngineError, Head, HeadMeans, HeadSet, Method, Prompt, TargetDirection, memory};
use crate::measures::{Accuracy, Evaluation, evaluate, kl_divergence, linear_cka};
use crate::model::{ModelConfig, Tokenizer};
use crate::progress::{FULL_COST, MASKED_COST, Observer, REVERSE_COST, Unwatched};
use crate::tuning::{Arm, ArmKind, Course, Journal, TrainSettings, full_slices, head_slices, train, trained_weights};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use ts_rs::TS;
use web_time::{Instant, SystemTime, UNIX_EPOCH};

/// Source-test rows whose residuals CKA compares.
const CKA_ROWS: usize = 128;

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{stage:?} takes {needed} of memory, and this run may use {limit}. What would do: {advice}")]
    DoesNotFit { stage: Stage, needed: String, limit: String, advice: String },
    #[error("{stage:?} trains a matrix of {needed}, and this device takes none above {limit}. What would do: {advice}")]
    TensorDoesNotFit { stage: Stage, needed: String, limit: String, advice: String },
}

impl RunError {
    /// Whether a device that is opened anew may do better.
    fn is_loss(&self) -> bool {
        matches!(self, Self::Engine(EngineError::Lost(_)))
    }
}

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export)]
pub enum Stage {
    ZeroShot,
    Competence,
    CompetentEvaluation,
    Means,
    Relevance,
    Faithfulness,
    ArmCircuit,
    ArmNearZero,
    ArmRandom,
    ArmFull,
}

impl Stage {
    fn of(kind: ArmKind) -> Self {
        match kind {
            ArmKind::Circuit => Self::ArmCircuit,
            ArmKind::NearZero => Self::ArmNearZero,
            ArmKind::Random => Self::ArmRandom,
            ArmKind::Full => Self::ArmFull,
        }
    }
}

/// How far a run is. Units are tokens, weighted by cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, TS)]
#[ts(export)]
pub struct Progress {
    pub stage: Stage,
    pub done: f64,
    pub total: f64,
    pub elapsed_seconds: f64,
    /// Estimated from the work done so far; `None` before there is any.
    pub remaining_seconds: Option<f64>,
}

/// Whoever watches a run.
#[allow(async_fn_in_trait)]
pub trait RunObserver {
    /// Returns whether to go on.
    async fn progress(&self, progress: Progress) -> bool;
    /// The record as far as it is known.
    fn found(&self, record: &Record);
}

impl RunObserver for Unwatched {
    async fn progress(&self, _: Progress) -> bool {
        true
    }

    fn found(&self, _: &Record) {}
}

/// The tables as read. A language with no test table has its one table split by the recipe's seed.
pub struct Tables {
    pub source_train: Table,
    pub source_test: Option<Table>,
    pub target_train: Table,
    pub target_test: Option<Table>,
}

/// A set sampled and encoded.
pub struct PreparedSet {
    pub prompts: Vec<Prompt>,
    pub summary: SetSummary,
}

/// All that a run needs of its data.
pub struct Prepared {
    pub sets: Sets<PreparedSet>,
    pub verbalizer: Vec<u32>,
    pub warnings: Vec<Warning>,
}

/// Samples, checks and encodes the tables.
///
/// # Errors
/// Whatever is wrong with the recipe, a table, the template or the answer words.
pub fn prepare(recipe: &Recipe, tables: &Tables, tokenizer: &Tokenizer) -> Result<Prepared, RunError> {
    recipe.check()?;
    let template = Template::parse(&recipe.template)?;
    let set = |table: &Table, columns: &Option<ColumnMapping>| -> Result<Dataset, DataError> {
        let mapping = columns.clone().map_or_else(|| data::guess_mapping(table), Ok)?;
        Dataset::new(table, &mapping, &recipe.labels)
    };
    let pair = |train: &Table,
                test: &Option<Table>,
                columns: &Option<ColumnMapping>|
     -> Result<(Dataset, Dataset), DataError> {
        let train = set(train, columns)?;
        match test {
            Some(test) => Ok((train, set(test, columns)?)),
            None => Ok(data::train_and_test(&train, recipe.test_share, recipe.seed)),
        }
    };
    let (source_train, source_test) = pair(&tables.source_train, &tables.source_test, &recipe.source_columns)?;
    let (target_train, target_test) = pair(&tables.target_train, &tables.target_test, &recipe.target_columns)?;
    let datasets = Sets { source_train, source_test, target_train, target_test };
    let mut warnings = Vec::new();
    for (train, test) in [
        (&datasets.source_train, &datasets.source_test),
        (&datasets.target_train, &datasets.target_test),
        (&datasets.source_train, &datasets.target_test),
        (&datasets.target_train, &datasets.source_test),
    ] {
        let crossings = data::crossings(train, test);
        if let Some(example) = crossings.first().cloned() {
            warnings.push(Warning::Crossing { rows: crossings.len(), example });
        }
    }
    let mut verbalizer: Option<data::Verbalizer> = None;
    let mut encode = |name: &str, dataset: &Dataset, n: usize, balance: Balance| -> Result<PreparedSet, RunError> {
        let sample = data::sample(dataset, n, balance, recipe.seed);
        let EncodedSet { prompts, verbalizer: found, cut_rows } =
            data::encode(&sample, &template, &recipe.words, recipe.labels.len(), tokenizer, recipe.max_tokens)?;
        if verbalizer.get_or_insert_with(|| found.clone()).tokens != found.tokens {
            return Err(DataError::WordMergesWithPrompt {
                word: recipe.words.join(", "),
                hint: " (the words are other tokens in another set)".into(),
            }
            .into());
        }
        if !cut_rows.is_empty() {
            warnings.push(Warning::Cut { set: name.into(), rows: cut_rows.len() });
        }
        let tokens: usize = prompts.iter().map(|p| p.tokens.len()).sum();
        let summary = SetSummary {
            report: dataset.report.clone(),
            used: prompts.len(),
            label_counts: (0..recipe.labels.len()).map(|y| prompts.iter().filter(|p| p.label == y).count()).collect(),
            mean_tokens: tokens as f64 / prompts.len() as f64,
            longest_tokens: prompts.iter().map(|p| p.tokens.len()).max().unwrap_or(0),
            cut_rows,
        };
        Ok(PreparedSet { prompts, summary })
    };
    let sets = Sets {
        source_train: encode("source train", &datasets.source_train, recipe.sizes.source_train, Balance::Equal)?,
        source_test: encode("source test", &datasets.source_test, recipe.sizes.test, Balance::Proportional)?,
        target_train: encode("target train", &datasets.target_train, recipe.sizes.target_train, Balance::Equal)?,
        target_test: encode("target test", &datasets.target_test, recipe.sizes.test, Balance::Proportional)?,
    };
    let verbalizer = verbalizer.map_or_else(Vec::new, |v| v.tokens);
    Ok(Prepared { sets, verbalizer, warnings })
}

/// The first `n` prompts that keep the labels balanced; all for 0.
fn balanced_prompts(prompts: &[Prompt], labels: usize, n: usize) -> Vec<Prompt> {
    if n == 0 || n >= prompts.len() {
        return prompts.to_vec();
    }
    let mut groups: Vec<std::vec::IntoIter<&Prompt>> =
        (0..labels).map(|y| prompts.iter().filter(|p| p.label == y).collect::<Vec<_>>().into_iter()).collect();
    let mut chosen = Vec::new();
    while chosen.len() < n {
        for group in &mut groups {
            chosen.extend(group.next().filter(|_| chosen.len() < n).cloned());
        }
    }
    chosen
}

/// Counts the work done and passes it on as progress.
struct Meter<'a, O> {
    watcher: &'a O,
    stage: Cell<Stage>,
    done: Cell<f64>,
    total: f64,
    started: Instant,
    stage_started: Cell<Instant>,
    times: RefCell<Vec<StageTime>>,
}

impl<O: RunObserver> Meter<'_, O> {
    fn enter(&self, stage: Stage) {
        self.leave();
        self.stage.set(stage);
    }

    /// Books the time of the stage that ends.
    fn leave(&self) {
        let now = Instant::now();
        let seconds = now.duration_since(self.stage_started.replace(now)).as_secs_f64();
        let name = format!("{:?}", self.stage.get());
        let mut times = self.times.borrow_mut();
        match times.last_mut() {
            Some(last) if last.stage == name => last.seconds += seconds,
            _ => times.push(StageTime { stage: name, seconds }),
        }
    }
}

impl<O: RunObserver> Observer for Meter<'_, O> {
    async fn advance(&self, weighted_tokens: f64) -> bool {
        self.done.set(self.done.get() + weighted_tokens);
        let (done, elapsed) = (self.done.get(), self.started.elapsed().as_secs_f64());
        let remaining_seconds = (done > 0.0).then(|| elapsed * (self.total - done).max(0.0) / done);
        self.watcher
            .progress(Progress {
                stage: self.stage.get(),
                done,
                total: self.total,
                elapsed_seconds: elapsed,
                remaining_seconds,
            })
            .await
    }
}

/// The work that each stage of a recipe takes, in weighted tokens.
pub(super) fn planned_work(c: &ModelConfig, recipe: &Recipe, prepared: &Prepared) -> Vec<(Stage, f64)> {
    let tokens = |set: &PreparedSet| set.prompts.iter().map(|p| p.tokens.len()).sum::<usize>() as f64;
    let sets = &prepared.sets;
    let share = |n: usize, set: &PreparedSet| {
        tokens(set) * if n == 0 { 1.0 } else { (n as f64 / set.prompts.len() as f64).min(1.0) }
    };
    let pool = share(recipe.sizes.pool, &sets.source_train);
    let test = tokens(&sets.source_test) + tokens(&sets.target_test);
    let relevance_cost = match recipe.rule.method() {
        Method::Reverse(_) => REVERSE_COST,
        Method::Sweep(_) => circuit::sweep_cost(c),
    };
    let depths = recipe.depth as f64 + 1.0;
    let faithfulness = share(recipe.sizes.faithfulness, &sets.source_test)
        * (2.0 + depths * 2.0 * (1.0 + recipe.random_circuits as f64));
    let training = |settings: &TrainSettings, set: &PreparedSet, cost| cost * settings.epochs as f64 * tokens(set);
    let masked = training(&recipe.masked, &sets.target_train, MASKED_COST);
    let arm = |kind: &ArmKind| {
        let work = match kind {
            ArmKind::Full => training(&recipe.full, &sets.target_train, FULL_COST) + test,
            ArmKind::Random => recipe.random_arms as f64 * (masked + test),
            _ => masked + test,
        };
        (Stage::of(*kind), work)
    };
    let mut work = vec![(Stage::ZeroShot, test)];
    if recipe.competence.epochs > 0 {
        work.push((Stage::Competence, training(&recipe.competence, &sets.source_train, FULL_COST)));
    }
    work.extend([
        (Stage::CompetentEvaluation, test),
        (Stage::Means, pool),
        (Stage::Relevance, pool * depths * relevance_cost),
        (Stage::Faithfulness, faithfulness),
    ]);
    work.extend(recipe.arms.iter().map(arm));
    work
}

/// Losses of the device after which a run gives up.
const MOST_LOSSES: usize = 3;

/// An engine that is opened anew when its device is lost.
struct Lasting<B: Backend, F> {
    open: F,
    /// `None` only while another is opened: the old one's memory is free by then.
    engine: Option<Engine<B>>,
    /// Whether it still has the weights it was opened with.
    fresh: bool,
    losses: Vec<Stage>,
}

impl<B: Backend, F: AsyncFnMut() -> Result<Engine<B>, EngineError>> Lasting<B, F> {
    /// Does a piece of work, again from its beginning where the device is lost in it. `prepare` brings a fresh engine
    /// to where the work begins.
    async fn survive<T, O: RunObserver>(
        &mut self,
        meter: &Meter<'_, O>,
        prepare: impl AsyncFn(&Engine<B>) -> Result<(), RunError>,
        work: impl AsyncFn(&Engine<B>) -> Result<T, RunError>,
    ) -> Result<T, RunError> {
        let done = meter.done.get();
        loop {
            let engine = match self.engine.take() {
                Some(engine) => engine,
                None => {
                    self.fresh = true;
                    (self.open)().await?
                }
            };
            let prepared = if self.fresh { prepare(&engine).await } else { Ok(()) };
            let outcome = match prepared {
                Ok(()) => {
                    self.fresh = false;
                    work(&engine).await
                }
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if error.is_loss() && self.losses.len() < MOST_LOSSES => {
                    self.losses.push(meter.stage.get());
                    meter.done.set(done);
                }
                outcome => {
                    self.engine = Some(engine);
                    return outcome;
                }
            }
        }
    }
}

/// Runs a recipe on the model that `open` loads. When its device is lost, `open` is called again and the run goes on.
///
/// # Errors
/// Whatever is wrong with recipe or data, a device failure, or cancellation; what was found until then went to the
/// observer.
pub async fn run<B: Backend>(
    mut open: impl AsyncFnMut() -> Result<Engine<B>, EngineError>,
    model: ModelSummary,
    prepared: &Prepared,
    recipe: &Recipe,
    watcher: &impl RunObserver,
) -> Result<Record, RunError> {
    let sets = &prepared.sets;
    let engine = open().await?;
    let now = Instant::now();
    let meter = Meter {
        watcher,
        stage: Cell::new(Stage::ZeroShot),
        done: Cell::new(0.0),
        total: planned_work(&engine.config, recipe, prepared).iter().map(|(_, work)| work).sum(),
        started: now,
        stage_started: Cell::new(now),
        times: RefCell::default(),
    };
    let mut record = Record {
        version: SCHEMA_VERSION,
        program: env!("CARGO_PKG_VERSION").into(),
        recipe: recipe.clone(),
        model,
        device: engine.backend.device(),
        peak_device_bytes: None,
        heap_bytes: None,
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_millis() as f64),
        sets: Sets {
            source_train: sets.source_train.summary.clone(),
            source_test: sets.source_test.summary.clone(),
            target_train: sets.target_train.summary.clone(),
            target_test: sets.target_test.summary.clone(),
        },
        answer_tokens: prepared.verbalizer.clone(),
        zero_shot: None,
        competence_losses: Vec::new(),
        competent: None,
        circuit: None,
        advice: None,
        arms: Vec::new(),
        warnings: prepared.warnings.clone(),
        times: Vec::new(),
        finished: false,
    };
    let config = engine.config.clone();
    let mut lasting = Lasting { open, engine: Some(engine), fresh: false, losses: Vec::new() };
    let verbalizer = &prepared.verbalizer;
    let both = async |engine: &Engine<B>| -> Result<(Evaluation, Evaluation), RunError> {
        let source = evaluate(engine, &sets.source_test.prompts, verbalizer, CKA_ROWS, &meter).await?;
        let target = evaluate(engine, &sets.target_test.prompts, verbalizer, 0, &meter).await?;
        Ok((source, target))
    };

    let (source, target) = lasting.survive(&meter, async |_| Ok(()), both).await?;
    record.zero_shot = Some(Both { source: source.accuracy, target: target.accuracy });
    watcher.found(&record);

    meter.enter(Stage::Competence);
    let journal = Journal::default();
    let competence = async |engine: &Engine<B>| -> Result<Vec<f64>, RunError> {
        if recipe.competence.epochs == 0 {
            return Ok(Vec::new());
        }
        let course = Course {
            prompts: &sets.source_train.prompts,
            verbalizer,
            slices: full_slices(&engine.config),
            settings: &recipe.competence,
            seed: recipe.seed,
            cost: FULL_COST,
        };
        Ok(train(engine, &course, &journal, &meter).await?)
    };
    let competent = async |engine: &Engine<B>| competence(engine).await.map(|_| ());
    record.competence_losses = lasting.survive(&meter, async |_| Ok(()), competence).await?;
    meter.enter(Stage::CompetentEvaluation);
    let (before, target) = lasting.survive(&meter, competent, both).await?;
    record.warnings.extend(competence_warning(&before.accuracy, recipe.labels.len()));
    record.advice = Some(advice(&before.accuracy, &target.accuracy, recipe.labels.len()));
    record.competent = Some(Both { source: before.accuracy.clone(), target: target.accuracy });
    watcher.found(&record);

    let known = record;
    let (circuit_heads, relevance, mut record) = lasting
        .survive(&meter, competent, async |engine| {
            let mut record = known.clone();
            let (heads, relevance) = discover(engine, prepared, recipe, &meter, &mut record).await?;
            Ok((heads, relevance, record))
        })
        .await?;
    watcher.found(&record);

    for arm in arms(&config, recipe, &circuit_heads, &relevance) {
        meter.enter(Stage::of(arm.kind));
        let started = Instant::now();
        let (slices, settings, cost) = match arm.kind {
            ArmKind::Full => (full_slices(&config), &recipe.full, FULL_COST),
            _ => (head_slices(&config, &arm.heads, recipe.kv, recipe.norms), &recipe.masked, MASKED_COST),
        };
        let weights = trained_weights(&slices);
        let course = Course { prompts: &sets.target_train.prompts, verbalizer, slices, settings, seed: arm.seed, cost };
        let journal = Journal::default();
        let tuned = async |engine: &Engine<B>| {
            let checkpoint = engine.snapshot();
            let outcome = async {
                let losses = train(engine, &course, &journal, &meter).await?;
                Ok::<_, RunError>((losses, both(engine).await?))
            }
            .await;
            engine.restore(&checkpoint);
            outcome
        };
        let (losses, (source, target)) = lasting.survive(&meter, competent, tuned).await?;
        let groups: BTreeSet<(usize, usize)> = arm.heads.iter().map(|h| (h.layer, h.head / config.group())).collect();
        record.arms.push(ArmRecord {
            kind: arm.kind,
            seed: arm.seed,
            heads: arm.heads.iter().copied().collect(),
            kv_groups: groups.len(),
            trained_weights: weights,
            losses,
            forgetting: forgetting(&before, &source),
            result: Both { source: source.accuracy, target: target.accuracy },
            seconds: started.elapsed().as_secs_f64(),
        });
        watcher.found(&record);
    }
    meter.leave();
    record.times = meter.times.take();
    let lost = lasting.losses.iter().map(|stage| Warning::DeviceLost { stage: *stage });
    record.warnings.extend(lost);
    record.peak_device_bytes = lasting.engine.as_ref().and_then(|engine| engine.backend.peak_bytes());
    record.heap_bytes = memory::heap_bytes();
    record.finished = true;
    watcher.found(&record);
    Ok(record)
}

/// Means, relevance, expansion, stability and faithfulness on the competent checkpoint. Returns the circuit and the
/// iteration-0 relevances.
async fn discover<B: Backend, O: RunObserver>(
    engine: &Engine<B>,
    prepared: &Prepared,
    recipe: &Recipe,
    meter: &Meter<'_, O>,
    record: &mut Record,
) -> Result<(BTreeSet<Head>, Vec<f64>), RunError> {
    meter.enter(Stage::Means);
    let labels = recipe.labels.len();
    let prompts = balanced_prompts(&prepared.sets.source_train.prompts, labels, recipe.sizes.pool);
    let slots = SlotMap::common(&prompts);
    let pool = Pool { prompts, verbalizer: prepared.verbalizer.clone(), slots, positions: Positions::All };
    let means = circuit::means(engine, &pool, meter).await?;

    meter.enter(Stage::Relevance);
    let how = Expansion {
        max_depth: recipe.depth,
        ratio: recipe.ratio,
        scope: recipe.scope,
        method: recipe.rule.method(),
        score: recipe.score.into(),
        direction: TargetDirection::Direct,
    };
    let depths = circuit::expand(engine, &pool, &means, &how, meter).await?;
    let heads = engine.config.heads;
    let first = depths.first().map(|d| d.relevance.clone());
    let stability =
        first.as_ref().and_then(|r| circuit::split_half(&pool, &r.per_example, heads, recipe.ratio, recipe.seed));
    if let Some(stability) = stability.filter(|s| s.spearman < POOR) {
        record.warnings.push(Warning::UnstableRelevance { spearman: stability.spearman });
    }
    let non_finite: usize = depths.iter().map(|d| d.relevance.non_finite).sum();
    if non_finite > 0 {
        record.warnings.push(Warning::NonFinite { count: non_finite });
    }
    let rows = |mean: &[f64]| {
        mean.chunks(heads).map(|row| row.iter().map(|r| r.is_finite().then_some(*r)).collect()).collect()
    };
    record.circuit = Some(CircuitRecord {
        pool: pool.prompts.len(),
        slots,
        depths: depths
            .iter()
            .map(|d| DepthRecord {
                heads: d.heads.clone(),
                relevance: rows(&d.relevance.mean),
                non_finite: d.relevance.non_finite,
            })
            .collect(),
        stability,
        faithfulness: None,
    });
    meter.watcher.found(record);

    meter.enter(Stage::Faithfulness);
    let rows: Vec<BTreeSet<Head>> = depths.iter().map(|d| d.heads.iter().copied().collect()).collect();
    let found = faithfulness_curve(engine, prepared, recipe, &pool, &means, &rows, meter).await?;
    if let Some(circuit) = &mut record.circuit {
        circuit.faithfulness = Some(found);
    }
    let all = rows.into_iter().flatten().collect();
    Ok((all, first.map_or_else(Vec::new, |r| r.mean)))
}

async fn faithfulness_curve<B: Backend>(
    engine: &Engine<B>,
    prepared: &Prepared,
    recipe: &Recipe,
    discovery: &Pool,
    means: &HeadMeans<B::Tensor>,
    depths: &[BTreeSet<Head>],
    observer: &impl Observer,
) -> Result<FaithfulnessRecord, RunError> {
    let c = &engine.config;
    let prompts = balanced_prompts(&prepared.sets.source_test.prompts, recipe.labels.len(), recipe.sizes.faithfulness);
    let pool = Pool { prompts, ..discovery.clone() };
    let all_but = |heads: &BTreeSet<Head>| HeadSet::all_but(heads, c.layers, c.heads).0;
    let everything = all_but(&BTreeSet::new());
    let all_heads = circuit::ablation_metrics(engine, &pool, means, &everything, observer).await?;
    let no_heads = circuit::ablation_metrics(engine, &pool, means, &BTreeSet::new(), observer).await?;
    let share = |kept: f64| circuit::faithfulness(kept, all_heads.logit_difference, no_heads.logit_difference);
    let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
    let (mut rows, mut kept) = (Vec::new(), BTreeSet::new());
    for (depth, heads) in depths.iter().enumerate() {
        kept.extend(heads.iter().copied());
        let metrics = circuit::ablation_metrics(engine, &pool, means, &kept, observer).await?;
        let rest = circuit::ablation_metrics(engine, &pool, means, &all_but(&kept), observer).await?;
        let (mut random, mut without_random) = (Vec::new(), Vec::new());
        for _ in 0..recipe.random_circuits {
            let control = circuit::random_heads(c.layers, c.heads, kept.len(), &kept, &mut rng).into_iter().collect();
            let alone = circuit::ablation_metrics(engine, &pool, means, &control, observer).await?;
            random.push(share(alone.logit_difference));
            without_random.push(circuit::ablation_metrics(engine, &pool, means, &all_but(&control), observer).await?);
        }
        rows.push(FaithfulnessRow {
            depth,
            heads: kept.len(),
            metrics,
            faithfulness: share(metrics.logit_difference),
            random,
            without: rest,
            without_random,
        });
    }
    Ok(FaithfulnessRecord { examples: pool.prompts.len(), all_heads, no_heads, rows })
}

/// The arms of a recipe with their heads. All see the same examples in the same order but further random arms, whose
/// seeds differ.
fn arms(c: &ModelConfig, recipe: &Recipe, circuit: &BTreeSet<Head>, relevance: &[f64]) -> Vec<Arm> {
    let mut arms = Vec::new();
    for kind in &recipe.arms {
        let repeats = if *kind == ArmKind::Random { recipe.random_arms } else { 1 };
        for repeat in 0..repeats as u64 {
            let seed = recipe.seed + repeat;
            let heads = match kind {
                ArmKind::Circuit => circuit.clone(),
                ArmKind::NearZero => {
                    circuit::near_zero(relevance, c.heads, circuit.len(), circuit).into_iter().collect()
                }
                ArmKind::Random => circuit::random_heads(
                    c.layers,
                    c.heads,
                    circuit.len(),
                    circuit,
                    &mut ChaCha8Rng::seed_from_u64(seed),
                )
                .into_iter()
                .collect(),
                ArmKind::Full => BTreeSet::new(),
            };
            arms.push(Arm { kind: *kind, heads, seed });
        }
    }
    arms
}

fn forgetting(before: &Evaluation, after: &Evaluation) -> Forgetting {
    let rows = before.residual_rows;
    let cka = |(x, y): (&Vec<f32>, &Vec<f32>)| Some(linear_cka(x, y, rows)).filter(|c| c.is_finite());
    Forgetting {
        accuracy_drop: before.accuracy.accuracy - after.accuracy.accuracy,
        kl: kl_divergence(&before.label_logits, &after.label_logits),
        cka: if rows == 0 { Vec::new() } else { before.residuals.iter().zip(&after.residuals).map(cka).collect() },
        cka_rows: rows,
    }
}

/// Accuracy above chance as a share of what is possible.
fn chance_corrected(accuracy: f64, labels: usize) -> f64 {
    let chance = 1.0 / labels as f64;
    (accuracy - chance) / (1.0 - chance)
}

fn competence_warning(source: &Accuracy, labels: usize) -> Option<Warning> {
    let weak = chance_corrected(source.accuracy, labels) < 0.2 || source.interval.low <= source.majority;
    weak.then_some(Warning::NotCompetent { accuracy: source.accuracy, majority: source.majority })
}

/// METHOD.md §8: edit a weak target, preserve a good one, undecided within 0.05 of the line or below competence.
fn advice(source: &Accuracy, target: &Accuracy, labels: usize) -> Advice {
    // Three labels: accuracy 0.5, as in the paper's cases; others: a quarter of the way from chance to 1.
    let line = if labels == 3 { 0.5 } else { 1.0 / labels as f64 + 0.25 * (1.0 - 1.0 / labels as f64) };
    if competence_warning(source, labels).is_some() || (target.accuracy - line).abs() < 0.05 {
        Advice::Undecided
    } else if target.accuracy < line {
        Advice::Edit
    } else {
        Advice::Preserve
    }
}
