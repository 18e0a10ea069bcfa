//! Promise: a recipe determines the run; every arm starts from the same checkpoint; a record tells what was found and
//! nothing of the text.

mod common;

use ctsft_lab::data::read_table;
use ctsft_lab::engine::cpu::Cpu;
use ctsft_lab::engine::gpu::Gpu;
use ctsft_lab::engine::{Backend, Engine, EngineError, UpdateRule, memory};
use ctsft_lab::experiment::{
    self, ModelSummary, Plan, Prepared, Progress, Recipe, Record, Room, RunError, RunObserver, Stage, Suggestion,
    Tables, Warning,
};
use ctsft_lab::model::{Checkpoint, Tokenizer};
use ctsft_lab::tuning::ArmKind;
use pollster::block_on;
use std::cell::{Cell, RefCell};

struct Watcher {
    /// Steps after which it asks to stop.
    patience: usize,
    steps: Cell<usize>,
    last: RefCell<Option<Progress>>,
    records: RefCell<Vec<Record>>,
}

impl Watcher {
    fn new(patience: usize) -> Self {
        Self { patience, steps: Cell::new(0), last: RefCell::default(), records: RefCell::default() }
    }
}

impl RunObserver for Watcher {
    async fn progress(&self, progress: Progress) -> bool {
        self.last.replace(Some(progress));
        self.steps.set(self.steps.get() + 1);
        self.steps.get() < self.patience
    }

    fn found(&self, record: &Record) {
        self.records.borrow_mut().push(record.clone());
    }
}

fn csv(prefix: &str, rows: usize, offset: usize) -> String {
    let labels = ["negative", "neutral", "positive"];
    let word = |label: usize, k: usize| format!("{prefix}{}", 20 * label + k % 20);
    let line = |i: usize| {
        let (label, n) = (i % 3, i + offset);
        format!(
            "{n},{} {} {} {prefix}{},{}\n",
            word(label, 7 * n),
            word(label, 3 * n + 1),
            word(label, n * n),
            n % 60,
            labels[label]
        )
    };
    format!("id,text,label\n{}", (0..rows).map(line).collect::<String>())
}

fn tokenizer() -> Tokenizer {
    let mut words = ["[UNK]", "Text:", "Sentiment:", "negative", "neutral", "positive"].map(str::to_string).to_vec();
    for prefix in ["src", "tgt"] {
        words.extend((0..60).map(|i| format!("{prefix}{i}")));
    }
    common::word_tokenizer(&words)
}

fn recipe() -> Recipe {
    let mut recipe = Recipe { ratio: 0.1, random_circuits: 2, ..Recipe::default() };
    recipe.sizes = experiment::Sizes { source_train: 24, pool: 12, target_train: 18, test: 15, faithfulness: 9 };
    for settings in [&mut recipe.competence, &mut recipe.masked, &mut recipe.full] {
        settings.epochs = 2;
        settings.learning_rate = 1e-3;
    }
    recipe
}

fn prepared(recipe: &Recipe) -> Prepared {
    let table =
        |prefix: &str, rows, offset| read_table("made-up.csv", csv(prefix, rows, offset).as_bytes()).expect("reads");
    let tables = Tables {
        source_train: table("src", 48, 0),
        source_test: Some(table("src", 30, 1000)),
        target_train: table("tgt", 60, 2000),
        target_test: None,
    };
    experiment::prepare(recipe, &tables, &tokenizer()).expect("the data fit the recipe")
}

fn checkpoint() -> Checkpoint {
    let folder = common::golden_folder("qwen2_tiny");
    common::open_paths(&[folder.join("config.json"), folder.join("model.safetensors")]).expect("the model opens")
}

fn run_on<B: Backend>(
    mut backend: impl FnMut() -> B,
    recipe: &Recipe,
    watcher: &impl RunObserver,
) -> Result<Record, RunError> {
    let mut checkpoint = checkpoint();
    let summary = ModelSummary::of("qwen2_tiny", &checkpoint);
    let open = async || Engine::load(backend(), &mut checkpoint, |_, _| {});
    block_on(experiment::run(open, summary, &prepared(recipe), recipe, watcher))
}

/// What must be the same when a recipe is run again.
fn without_times(mut record: Record) -> Record {
    record.started = 0.0;
    record.times.clear();
    record.arms.iter_mut().for_each(|arm| arm.seconds = 0.0);
    record
}

#[test]
fn the_same_recipe_gives_the_same_record() {
    let first = without_times(run_on(|| Cpu, &recipe(), &Watcher::new(usize::MAX)).expect("runs"));
    let again = without_times(run_on(|| Cpu, &recipe(), &Watcher::new(usize::MAX)).expect("runs"));
    assert_eq!(first, again);
    let other =
        without_times(run_on(|| Cpu, &Recipe { seed: 2, ..recipe() }, &Watcher::new(usize::MAX)).expect("runs"));
    assert_ne!(first.competent, other.competent);

    let json = serde_json::to_string(&first).expect("serialises");
    assert_eq!(serde_json::from_str::<Record>(&json).expect("reads back"), first);
    assert!(!json.contains("src1") && !json.contains("tgt1"), "no text in a record");
}

#[test]
fn every_arm_starts_from_the_competent_checkpoint() {
    let twice = Recipe { arms: vec![ArmKind::Circuit, ArmKind::NearZero, ArmKind::Full, ArmKind::Circuit], ..recipe() };
    let record = run_on(|| Cpu, &twice, &Watcher::new(usize::MAX)).expect("runs");
    let [first, near_zero, full, last] = record.arms.as_slice() else { panic!("{} arms", record.arms.len()) };
    assert_eq!((&first.losses, &first.result, &first.forgetting), (&last.losses, &last.result, &last.forgetting));
    assert_eq!(first.heads.len(), near_zero.heads.len());
    assert!(first.heads.iter().all(|h| !near_zero.heads.contains(h)));
    // The products of trained windows are summed apart: the same up to rounding.
    let (one, other) = (first.losses[0], full.losses[0]);
    assert!((one - other).abs() <= 1e-6 * other, "first batches differ: losses {one} and {other}");
    assert_eq!(full.trained_weights, record.model.parameters);
    assert!(first.trained_weights < full.trained_weights);
}

#[test]
fn without_a_circuit_of_every_head_there_are_no_heads() {
    let everything = Recipe { ratio: 1.0, depth: 0, random_circuits: 0, arms: Vec::new(), ..recipe() };
    let record = run_on(|| Cpu, &everything, &Watcher::new(usize::MAX)).expect("runs");
    let found = record.circuit.and_then(|c| c.faithfulness).expect("faithfulness");
    assert_eq!((found.rows[0].metrics, found.rows[0].without), (found.all_heads, found.no_heads));
    assert_ne!(found.all_heads.logit_difference, found.no_heads.logit_difference);
}

#[test]
fn the_record_holds_together() {
    let watcher = Watcher::new(usize::MAX);
    let record = run_on(|| Cpu, &Recipe { random_arms: 2, ..recipe() }, &watcher).expect("runs");
    assert!(record.finished);
    assert_eq!(record.arms.iter().filter(|a| a.kind == ArmKind::Random).count(), 2);
    let circuit = record.circuit.as_ref().expect("a circuit");
    assert_eq!(circuit.depths.len(), 2);
    assert_eq!(circuit.depths[0].heads.len(), 4, "⌈0.1 · 32⌉ heads a step");
    assert!(circuit.depths[1].relevance[3].iter().all(Option::is_none), "nothing lies above the top layer");
    let faithfulness = circuit.faithfulness.as_ref().expect("faithfulness");
    assert_eq!(faithfulness.rows.iter().map(|r| r.random.len()).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(faithfulness.rows.iter().map(|r| r.without_random.len()).collect::<Vec<_>>(), [2, 2]);
    // Of one table of 60 rows, 40 % are held out; the recipe takes 15 of them.
    assert_eq!((record.sets.target_train.report.used, record.sets.target_test.report.used), (36, 24));
    assert_eq!(record.sets.target_test.used, 15);
    let progress = watcher.last.borrow().expect("progress");
    assert!(
        (progress.done / progress.total - 1.0).abs() < 0.02,
        "planned {} and did {}",
        progress.total,
        progress.done
    );
    assert!(
        record.warnings.iter().any(|w| matches!(w, Warning::NotCompetent { .. })),
        "an untrained model must be called so"
    );
    assert!(watcher.records.borrow().len() > 5, "the record grows as the run goes on");
}

#[test]
fn a_cancelled_run_stops_and_keeps_what_it_found() {
    let watcher = Watcher::new(6);
    let error = run_on(|| Cpu, &recipe(), &watcher).expect_err("it was stopped");
    assert!(matches!(error, RunError::Engine(EngineError::Cancelled)), "{error}");
    let records = watcher.records.borrow();
    let last = records.last().expect("something was found");
    assert!(last.zero_shot.is_some() && !last.finished);
}

fn gpu() -> Gpu {
    common::gpu().expect("it was there a moment ago")
}

/// Takes the device away when a stage has made some progress, once.
struct Thief<'a> {
    stage: Stage,
    steps: usize,
    device: &'a RefCell<Option<wgpu::Device>>,
    seen: Cell<usize>,
}

impl RunObserver for Thief<'_> {
    async fn progress(&self, progress: Progress) -> bool {
        if progress.stage == self.stage {
            self.seen.set(self.seen.get() + 1);
            if self.seen.get() == self.steps {
                self.device.borrow().as_ref().expect("it was opened").destroy();
            }
        }
        true
    }

    fn found(&self, _: &Record) {}
}

#[test]
fn a_run_goes_on_when_its_device_is_lost() {
    if common::gpu().is_none() {
        return;
    }
    let mut few = Recipe { arms: vec![ArmKind::Circuit], random_circuits: 1, ..recipe() };
    few.masked.epochs = 4;
    let device = RefCell::new(None);
    let opened = Cell::new(0);
    let open = || {
        let gpu = gpu();
        opened.set(opened.get() + 1);
        device.replace(Some(gpu.handle()));
        gpu
    };
    let expected = run_on(gpu, &few, &Watcher::new(usize::MAX)).expect("runs on the GPU");
    // The arm takes 12 steps; what is kept of it at the eighth is taken up again.
    for (stage, steps) in [(Stage::Competence, 3), (Stage::Relevance, 1), (Stage::ArmCircuit, 10)] {
        opened.set(0);
        let thief = Thief { stage, steps, device: &device, seen: Cell::new(0) };
        let record = run_on(open, &few, &thief).unwrap_or_else(|e| panic!("lost in {stage:?}: {e}"));
        assert_eq!(opened.get(), 2, "{stage:?}: opened again");
        assert!(record.warnings.contains(&Warning::DeviceLost { stage }), "{stage:?}");
        let found =
            Record { warnings: expected.warnings.clone(), peak_device_bytes: expected.peak_device_bytes, ..record };
        assert_eq!(without_times(found), without_times(expected.clone()), "{stage:?}");
    }
}

#[test]
fn what_the_plan_says_is_enough_is_enough() {
    if common::gpu().is_none() {
        return;
    }
    let gpu = gpu();
    let batch_tokens = gpu.batch_tokens();
    for rule in [UpdateRule::AdamW, UpdateRule::Adafactor] {
        let mut recipe = Recipe { random_circuits: 1, ..recipe() };
        (recipe.competence.rule, recipe.full.rule) = (rule, rule);
        let prepared = prepared(&recipe);
        let mut model = checkpoint();
        let frozen = memory::frozen_bytes(&mut model).expect("reads");
        let plan_with = |limit| {
            let room = Room { limit, largest_tensor: None, batch_tokens, seconds_a_token: None };
            experiment::plan(&model.config, frozen, &recipe, &prepared, &room)
        };
        let needed = plan_with(u64::MAX).bytes();
        assert!(plan_with(needed).check().is_ok());
        let refused = plan_with(needed - 1).check().expect_err("a byte too little").to_string();
        assert!(refused.contains("ArmFull takes") && refused.contains("a run without ArmFull"), "{refused}");

        let open = |limit| {
            let engine = Engine::load(common::gpu().expect("a GPU"), &mut checkpoint(), |_, _| {})?;
            engine.limit_memory(limit);
            Ok(engine)
        };
        let summary = ModelSummary::of("qwen2_tiny", &model);
        let watcher = Watcher::new(usize::MAX);
        let run = experiment::run(async || open(needed), summary, &prepared, &recipe, &watcher);
        let peak = block_on(run).expect("runs").peak_device_bytes.expect("a GPU counts");
        println!("{rule:?}: {needed} bytes planned, {peak} taken");
        assert!(peak <= needed, "{rule:?}: {needed} bytes planned, {peak} taken");
        assert!(needed < 2 * peak, "{rule:?}: {needed} bytes planned, {peak} taken");
    }
}

#[test]
fn qwen2_5_0_5b_is_planned_before_it_is_loaded() {
    let Some(config) = common::shared("models/qwen2.5-0.5b/config.json") else { return };
    let config = common::config(&std::fs::read_to_string(config).expect("the config"));
    let frozen = memory::frozen_bytes(&mut Checkpoint::made_up(config.clone()).expect("opens")).expect("reads");
    assert!((988_000_000..995_000_000).contains(&frozen), "{frozen} bytes of bf16");
    let plan_with = |recipe: &Recipe, limit: u64, largest_tensor: Option<u64>| {
        let room = Room { limit, largest_tensor, batch_tokens: 1024, seconds_a_token: Some(1e-3) };
        experiment::plan(&config, frozen, recipe, &prepared(recipe), &room)
    };
    let plan = |recipe: &Recipe, limit: u64| plan_with(recipe, limit, None);
    // As the recipe stands, everything is tuned by AdamW twice over.
    let all = plan(&recipe(), 2 << 30);
    let of = |plan: &Plan, stage| plan.stages.iter().find(|s| s.stage == stage).map(|s| (s.bytes, s.fits));
    let (bytes, fits) = of(&all, Stage::Competence).expect("planned");
    assert!(!fits && (8_900_000_000..9_600_000_000).contains(&bytes), "{bytes}");
    assert!(of(&all, Stage::ZeroShot).expect("planned").1);
    let advised = |kind: fn(&Suggestion) -> bool| all.suggestions.iter().any(kind);
    assert!(advised(
        |s| matches!(s, Suggestion::Adafactor { stage: Stage::Competence, bytes } if *bytes < 3_300_000_000)
    ));
    assert!(advised(|s| matches!(s, Suggestion::WithoutArm { stage: Stage::ArmFull })));
    assert!(all.seconds.expect("a time") > 1.0);
    // Memory enough, but WebGPU's least binding: no master of the embedding.
    let bound = plan_with(&recipe(), 32 << 30, Some(128 << 20));
    let refused = bound.check().expect_err("544 MB in one tensor").to_string();
    assert!(
        refused.contains("Competence trains a matrix of 545 MB, and this device takes none above 134 MB"),
        "{refused}"
    );
    assert!(bound.suggestions.contains(&Suggestion::WithoutCompetence), "{bound:?}");
    let lean = |s: &Suggestion| matches!(s, Suggestion::Adafactor { .. } | Suggestion::Limit { .. });
    assert!(!bound.suggestions.iter().any(lean), "{bound:?}");
    // Without competence tuning the circuit's arm is what the page was made for.
    let mut light = Recipe { arms: vec![ArmKind::Circuit], depth: 2, ratio: 0.02, ..recipe() };
    light.competence.epochs = 0;
    let light = plan(&light, 1_300_000_000);
    assert!(light.check().is_ok(), "{light:?}");
}

#[test]
fn the_gpu_finds_the_same_circuit() {
    if common::gpu().is_none() {
        return;
    }
    let few = Recipe { arms: vec![ArmKind::Circuit], random_circuits: 1, ..recipe() };
    let on_gpu = run_on(gpu, &few, &Watcher::new(usize::MAX)).expect("runs on the GPU");
    let on_cpu = run_on(|| Cpu, &few, &Watcher::new(usize::MAX)).expect("runs on the CPU");
    let heads = |r: &Record| r.circuit.as_ref().map(|c| c.depths.iter().map(|d| d.heads.clone()).collect::<Vec<_>>());
    assert_eq!(heads(&on_gpu), heads(&on_cpu));
    for (a, b) in on_gpu.arms[0].losses.iter().zip(&on_cpu.arms[0].losses) {
        assert!((a - b).abs() <= 1e-3 * b.abs(), "losses {a} and {b}");
    }
}

#[test]
fn the_program_refuses_what_does_not_fit_before_it_starts() {
    let lab = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/lab");
    let out = tempfile::tempdir().expect("a folder");
    let record = out.path().join("record.json");
    let ran = std::process::Command::new(env!("CARGO_BIN_EXE_ctsft"))
        .current_dir(&lab)
        .args(["run", "--gigabytes", "0.004", "--model", ".", "--recipe", "recipe.json"])
        .args(["--source-train", "data/source-train.csv", "--target-train", "data/sister-train.csv"])
        .arg("--out")
        .arg(&record)
        .output()
        .expect("ctsft runs");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(2), "{said}");
    assert!(said.contains("this run may use 4 MB. What would do:"), "{said}");
    assert!(!record.exists());
}
