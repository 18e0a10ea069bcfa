//! The same experiments with no browser.

#[path = "ctsft/lab_model.rs"]
mod lab_model;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ctsft_lab::bench;
use ctsft_lab::circuit::Scope;
use ctsft_lab::data::{ColumnMapping, Table, read_table};
use ctsft_lab::engine::cpu::Cpu;
use ctsft_lab::engine::gpu::Gpu;
use ctsft_lab::engine::{Backend, Engine, LossOver, memory};
use ctsft_lab::experiment::self_test;
use ctsft_lab::experiment::verify::{self, Golden, Outcome, Report};
use ctsft_lab::experiment::{
    self, ModelSummary, PLANNED_BATCH, Progress, Recipe, Record, Room, RuleSet, RunObserver, ScoreKind, Tables,
};
use ctsft_lab::model::{Checkpoint, ModelConfig, ModelFile};
use ctsft_lab::tuning::{ArmKind, KvRule, NormRule};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Circuit-targeted fine-tuning from the command line")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check an engine against folders of golden values, or a real model's golden json.
    Verify {
        /// Golden folders, or `.json` files whose safetensors file stands beside them.
        #[arg(required = true)]
        golden: Vec<PathBuf>,
        #[arg(long, default_value = "cpu")]
        engine: EngineChoice,
        /// The model that a golden json belongs to: a .gguf file or a folder.
        #[arg(long)]
        model: Option<PathBuf>,
        /// Print the report as JSON.
        #[arg(long)]
        json: bool,
        /// On a real model, sweep every example and ablate every head (hours on a CPU).
        #[arg(long)]
        thorough: bool,
    },
    /// Run a recipe on a model and four labelled tables, and write the record.
    Run {
        #[command(flatten)]
        files: Box<RunFiles>,
        #[command(flatten)]
        flags: Box<RecipeFlags>,
    },
    /// Make the built-in lab model and its sample sets, and check it.
    MakeLabModel {
        /// A shrunken model that is made in a minute or two, to see that the program works.
        #[arg(long)]
        small: bool,
        /// Where it goes: models/lab, or target/lab-small for the small one.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// About the built-in lab model.
    LabModel {
        #[command(subcommand)]
        command: LabModelCommand,
    },
    /// Measure speed, work and memory of a model on the CPU and on every GPU.
    Bench {
        /// A model, or the config.json of one, whose weights are then made up.
        #[arg(long, default_value = "models/lab")]
        model: PathBuf,
        /// One of them only.
        #[arg(long)]
        engine: Option<EngineChoice>,
        /// Print one JSON table for each engine, in place of text.
        #[arg(long)]
        json: bool,
    },
    /// Say what a checkpoint is.
    Inspect { model: PathBuf },
}

#[derive(Subcommand)]
enum LabModelCommand {
    /// Measure every figure of the model's card anew, and compare with it.
    Report {
        /// The model's folder.
        #[arg(long, default_value = "models/lab")]
        model: PathBuf,
        /// Write the figures to the folder's report.json and card, in place of comparing.
        #[arg(long)]
        write: bool,
    },
}

/// The run's inputs.
#[derive(Args)]
struct RunFiles {
    /// A .gguf file, or a folder with config.json, tokenizer.json and safetensors.
    #[arg(long)]
    model: PathBuf,
    #[arg(long)]
    source_train: PathBuf,
    /// Left out, a share of the source table is held out.
    #[arg(long)]
    source_test: Option<PathBuf>,
    #[arg(long)]
    target_train: PathBuf,
    /// Left out, a share of the target table is held out.
    #[arg(long)]
    target_test: Option<PathBuf>,
    /// Where the record goes.
    #[arg(long)]
    out: PathBuf,
    /// A recipe to start from; flags override its fields.
    #[arg(long)]
    recipe: Option<PathBuf>,
    #[arg(long, default_value = "cpu")]
    engine: EngineChoice,
    /// Most memory that the engine may take; what does not fit is refused beforehand, with what would.
    #[arg(long)]
    gigabytes: Option<f64>,
}

/// Every field of the recipe as a flag.
#[derive(Args)]
#[command(next_help_heading = "Recipe")]
struct RecipeFlags {
    /// Prompt with {text}, or {premise} and {hypothesis}; \n is a line break.
    #[arg(long)]
    template: Option<String>,
    /// Label values, comma-separated.
    #[arg(long, value_delimiter = ',')]
    labels: Option<Vec<String>>,
    /// Answer words, comma-separated, in the order of the labels; leading blanks count.
    #[arg(long, value_delimiter = ',')]
    words: Option<Vec<String>>,
    /// Source columns: text,label[,second[,id]]; an empty place stands for none.
    #[arg(long, value_parser = columns)]
    source_columns: Option<ColumnMapping>,
    /// Target columns, likewise.
    #[arg(long, value_parser = columns)]
    target_columns: Option<ColumnMapping>,
    #[arg(long)]
    max_tokens: Option<usize>,
    /// Source rows to tune competence on; 0 takes all.
    #[arg(long)]
    source_train_rows: Option<usize>,
    /// Of those, rows to discover the circuit on.
    #[arg(long)]
    pool: Option<usize>,
    #[arg(long)]
    target_train_rows: Option<usize>,
    #[arg(long)]
    test_rows: Option<usize>,
    #[arg(long)]
    faithfulness_rows: Option<usize>,
    /// Share of a single table that is held out.
    #[arg(long)]
    test_share: Option<f64>,
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long)]
    competence_epochs: Option<usize>,
    #[arg(long)]
    competence_batch: Option<usize>,
    #[arg(long)]
    competence_learning_rate: Option<f64>,
    #[arg(long)]
    masked_epochs: Option<usize>,
    #[arg(long)]
    masked_batch: Option<usize>,
    #[arg(long)]
    masked_learning_rate: Option<f64>,
    #[arg(long)]
    full_epochs: Option<usize>,
    #[arg(long)]
    full_batch: Option<usize>,
    #[arg(long)]
    full_learning_rate: Option<f64>,
    /// Share of the steps over which the learning rate rises, in every training.
    #[arg(long)]
    warmup: Option<f64>,
    /// AdamW in every training.
    #[arg(long)]
    beta1: Option<f64>,
    #[arg(long)]
    beta2: Option<f64>,
    #[arg(long)]
    adam_eps: Option<f64>,
    #[arg(long)]
    weight_decay: Option<f64>,
    /// Largest gradient norm; 0 turns clipping off.
    #[arg(long)]
    clip: Option<f64>,
    /// What the loss runs over, in every training: vocab or labels.
    #[arg(long, value_parser = named::<LossOver>)]
    loss: Option<LossOver>,
    /// linear, secant or published.
    #[arg(long, value_parser = named::<RuleSet>)]
    rule: Option<RuleSet>,
    /// projection or magnitude.
    #[arg(long, value_parser = named::<ScoreKind>)]
    score: Option<ScoreKind>,
    /// Share of the heads added each iteration.
    #[arg(long)]
    ratio: Option<f64>,
    #[arg(long)]
    depth: Option<usize>,
    /// global or layer.
    #[arg(long, value_parser = named::<Scope>)]
    scope: Option<Scope>,
    #[arg(long)]
    random_circuits: Option<usize>,
    /// Arms, comma-separated: circuit, nearzero, random, full.
    #[arg(long, value_delimiter = ',', value_parser = named::<ArmKind>)]
    arms: Option<Vec<ArmKind>>,
    #[arg(long)]
    random_arms: Option<usize>,
    /// any or none.
    #[arg(long, value_parser = named::<KvRule>)]
    kv: Option<KvRule>,
    /// all or off.
    #[arg(long, value_parser = named::<NormRule>)]
    norms: Option<NormRule>,
}

/// A value by its name in the recipe's JSON.
fn named<T: serde::de::DeserializeOwned>(name: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(name.into())).map_err(|e| e.to_string())
}

fn columns(text: &str) -> Result<ColumnMapping, String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let optional = |i: usize| parts.get(i).filter(|p| !p.is_empty()).map(ToString::to_string);
    match (optional(0), optional(1)) {
        (Some(text), Some(label)) if parts.len() <= 4 => {
            Ok(ColumnMapping { text, label, second: optional(2), id: optional(3) })
        }
        _ => Err("give text,label[,second[,id]]".into()),
    }
}

impl RecipeFlags {
    fn apply(self, recipe: &mut Recipe) {
        fn set<T>(field: &mut T, flag: Option<T>) {
            if let Some(value) = flag {
                *field = value;
            }
        }
        set(&mut recipe.template, self.template.map(|t| t.replace("\\n", "\n")));
        set(&mut recipe.labels, self.labels);
        set(&mut recipe.words, self.words);
        recipe.source_columns = self.source_columns.or(recipe.source_columns.take());
        recipe.target_columns = self.target_columns.or(recipe.target_columns.take());
        set(&mut recipe.max_tokens, self.max_tokens);
        set(&mut recipe.sizes.source_train, self.source_train_rows);
        set(&mut recipe.sizes.pool, self.pool);
        set(&mut recipe.sizes.target_train, self.target_train_rows);
        set(&mut recipe.sizes.test, self.test_rows);
        set(&mut recipe.sizes.faithfulness, self.faithfulness_rows);
        set(&mut recipe.test_share, self.test_share);
        set(&mut recipe.seed, self.seed);
        let trainings = [
            (&mut recipe.competence, self.competence_epochs, self.competence_batch, self.competence_learning_rate),
            (&mut recipe.masked, self.masked_epochs, self.masked_batch, self.masked_learning_rate),
            (&mut recipe.full, self.full_epochs, self.full_batch, self.full_learning_rate),
        ];
        for (training, epochs, batch, rate) in trainings {
            set(&mut training.epochs, epochs);
            set(&mut training.batch, batch);
            set(&mut training.learning_rate, rate);
            set(&mut training.warmup, self.warmup);
            set(&mut training.optimiser.beta1, self.beta1);
            set(&mut training.optimiser.beta2, self.beta2);
            set(&mut training.optimiser.eps, self.adam_eps);
            set(&mut training.optimiser.weight_decay, self.weight_decay);
            set(&mut training.optimiser.clip, self.clip);
            set(&mut training.loss, self.loss);
        }
        set(&mut recipe.rule, self.rule);
        set(&mut recipe.score, self.score);
        set(&mut recipe.ratio, self.ratio);
        set(&mut recipe.depth, self.depth);
        set(&mut recipe.scope, self.scope);
        set(&mut recipe.random_circuits, self.random_circuits);
        set(&mut recipe.arms, self.arms);
        set(&mut recipe.random_arms, self.random_arms);
        set(&mut recipe.kv, self.kv);
        set(&mut recipe.norms, self.norms);
    }
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum EngineChoice {
    Cpu,
    Gpu,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Verify { golden, engine, model, json, thorough } => {
            verify(&golden, engine, model.as_deref(), json, thorough)
        }
        Command::Run { files, flags } => run(&files, *flags),
        Command::LabModel { command: LabModelCommand::Report { model, write } } => lab_model::report(&model, write),
        Command::MakeLabModel { small, out } => lab_model::make(small, out),
        Command::Bench { model, engine, json } => bench(&model, engine, json),
        Command::Inspect { model } => inspect(&model),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Opens a model folder, or a single .gguf file.
fn open_model(path: &Path) -> Result<Checkpoint> {
    let mut files = Vec::new();
    let mut add = |path: PathBuf| -> Result<()> {
        let file = std::fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        files.push(ModelFile { name, bytes: Box::new(file) });
        Ok(())
    };
    if path.is_dir() {
        for entry in std::fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
            let path = entry?.path();
            let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
            // Golden folders keep their expected values beside the model.
            if path.is_file() && name != "expected.safetensors" {
                add(path)?;
            }
        }
    } else {
        add(path.to_path_buf())?;
    }
    Checkpoint::open(files).with_context(|| format!("{} is not a model this can run", path.display()))
}

fn verify(
    golden: &[PathBuf],
    engine: EngineChoice,
    model: Option<&Path>,
    json: bool,
    thorough: bool,
) -> Result<ExitCode> {
    let mut failed = false;
    for path in golden {
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let (values, mut checkpoint) = if path.is_dir() {
            let file = |name: &str| read(&path.join(name));
            let values =
                Golden::from_folder(&file("batch.json")?, &file("expected.json")?, &file("expected.safetensors")?)?;
            (values, open_model(path)?)
        } else {
            let Some(model) = model else { bail!("{} needs its model: add --model", path.display()) };
            (Golden::of_real_model(&read(path)?, &read(&path.with_extension("safetensors"))?)?, open_model(model)?)
        };
        let report = match engine {
            EngineChoice::Cpu => pollster::block_on(check(Cpu, &mut checkpoint, &values, thorough))?,
            EngineChoice::Gpu => {
                pollster::block_on(async { check(Gpu::open().await?, &mut checkpoint, &values, thorough).await })?
            }
        };
        failed |= report.failed() > 0;
        if json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print_report(path, &report);
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn check<B: Backend>(backend: B, checkpoint: &mut Checkpoint, golden: &Golden, thorough: bool) -> Result<Report> {
    let engine = Engine::load(backend, checkpoint, |_, _| {})?;
    let depth = if thorough {
        verify::Depth { sweep_examples: usize::MAX, single_heads: true }
    } else {
        verify::Depth { sweep_examples: 2, single_heads: false }
    };
    Ok(verify::verify(&engine, golden, depth).await?)
}

fn print_report(path: &Path, report: &Report) {
    println!("{} on {}", path.display(), report.device);
    for check in &report.checks {
        let (mark, note) = match &check.outcome {
            Outcome::Passed => ("ok     ", String::new()),
            Outcome::Failed(why) => ("FAILED ", format!("  {why}")),
            Outcome::Skipped(why) => ("skipped", format!("  {why}")),
        };
        println!(
            "  {mark} {:<62} abs {:9.2e}  rel {:9.2e}{note}",
            check.quantity, check.largest_absolute_error, check.largest_relative_error
        );
    }
    println!("  {} passed, {} failed, {} skipped", report.passed(), report.failed(), report.skipped());
}

fn bench(model: &Path, engine: Option<EngineChoice>, json: bool) -> Result<ExitCode> {
    let open = || -> Result<Checkpoint> {
        if model.file_name().is_some_and(|name| name == "config.json") {
            let config = std::fs::read_to_string(model).with_context(|| format!("cannot read {}", model.display()))?;
            return Ok(Checkpoint::made_up(ModelConfig::from_hugging_face(&config)?)?);
        }
        open_model(model)
    };
    let mut tables = Vec::new();
    if engine != Some(EngineChoice::Gpu) {
        tables.push(pollster::block_on(bench::measure(Cpu, &mut open()?))?);
    }
    if engine != Some(EngineChoice::Cpu) {
        for gpu in pollster::block_on(Gpu::open_every())? {
            tables.push(pollster::block_on(bench::measure(gpu, &mut open()?))?);
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&tables)?);
        return Ok(ExitCode::SUCCESS);
    }
    for t in &tables {
        println!("{}: {}", t.device, t.format);
        println!("  {} weights, {} layers, {} tokens a batch", t.parameters, t.layers, t.batch_tokens);
        println!("  loaded in {:.2} s; a product of side 1024 at {:.1} GFLOP/s", t.load_seconds, t.large_gflops);
        for r in &t.matmuls {
            let size = format!("{} × {} × {}", r.shape.m, r.shape.n, r.shape.k);
            let share = 100.0 * r.share_of_large;
            println!("  {:<15} {size:<20} {:>8.1} GFLOP/s  {share:>4.0} %", r.shape.what, r.gflops);
        }
        let line = |name: &str, cost: &bench::Cost| {
            let kernels = cost.dispatches.map_or_else(String::new, |n| format!("  {n} dispatches"));
            println!("  {name:<15} {:>10.2} ms{kernels}", 1e3 * cost.seconds);
        };
        line("forward", &t.forward);
        line("masked step", &t.masked_step);
        line("full step", &t.full_step);
        line("relevance", &t.relevance);
        println!(
            "  {:.0} tokens/s forward; a masked step ({} weights) takes {:.2} of a full one; all relevances {:.2} forwards",
            t.forward_tokens_per_second, t.masked_weights, t.masked_share, t.relevance_forwards
        );
        if let Some(bytes) = t.peak_device_bytes {
            println!("  at most {} MB on the device", bytes / 1_000_000);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn inspect(path: &Path) -> Result<ExitCode> {
    let checkpoint = open_model(path)?;
    let c = &checkpoint.config;
    println!("{}: {:?}, {}", path.display(), c.architecture, checkpoint.format);
    println!(
        "  {} weights; {} layers of {} heads ({} in all), {} key/value heads, head size {}",
        c.parameter_count(),
        c.layers,
        c.heads,
        c.total_heads(),
        c.kv_heads,
        c.head_dim
    );
    println!(
        "  hidden {}, MLP {}, vocabulary {}, unembedding {}",
        c.hidden,
        c.intermediate,
        c.vocab,
        if c.tied { "tied" } else { "separate" }
    );
    println!("  rotary base {}, norm eps {:e}, context {}", c.rope_theta, c.rms_eps, c.max_positions);
    match &checkpoint.tokenizer {
        Some(tokenizer) => println!("  tokenizer of {} tokens", tokenizer.vocabulary_size()),
        None => println!("  no tokenizer: add tokenizer.json to run prompts"),
    }
    println!("  sha256 {}", checkpoint.hash);
    Ok(ExitCode::SUCCESS)
}

/// A model on a backend, with at most `limit` bytes.
fn load<B: Backend>(backend: B, checkpoint: &mut Checkpoint, limit: u64) -> ctsft_lab::engine::Result<Engine<B>> {
    let engine = Engine::load(backend, checkpoint, |_, _| {})?;
    engine.limit_memory(limit);
    Ok(engine)
}

fn run(files: &RunFiles, flags: RecipeFlags) -> Result<ExitCode> {
    let mut recipe = match &files.recipe {
        Some(path) => {
            let json = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Recipe::from_json(&json).with_context(|| path.display().to_string())?
        }
        None => Recipe::default(),
    };
    flags.apply(&mut recipe);
    let table = |path: &Path| -> Result<Table> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        // A record must not tell where on somebody's disk a file lay.
        Ok(read_table(&path.file_name().unwrap_or_default().to_string_lossy(), &bytes)?)
    };
    let tables = Tables {
        source_train: table(&files.source_train)?,
        source_test: files.source_test.as_deref().map(table).transpose()?,
        target_train: table(&files.target_train)?,
        target_test: files.target_test.as_deref().map(table).transpose()?,
    };
    let mut checkpoint = open_model(&files.model)?;
    let Some(tokenizer) = &checkpoint.tokenizer else { bail!("{} has no tokenizer.json", files.model.display()) };
    let prepared = experiment::prepare(&recipe, &tables, tokenizer)?;
    let summary = ModelSummary::of(&files.model.file_name().unwrap_or_default().to_string_lossy(), &checkpoint);
    let limit = files.gigabytes.map_or(u64::MAX, |gigabytes| (gigabytes * 1e9) as u64);
    let largest_tensor = match files.engine {
        EngineChoice::Cpu => None,
        EngineChoice::Gpu => Some(4 * pollster::block_on(Gpu::open())?.largest_tensor() as u64),
    };
    let room = Room { limit, largest_tensor, batch_tokens: PLANNED_BATCH, seconds_a_token: None };
    let frozen = memory::frozen_bytes(&mut checkpoint)?;
    let plan = experiment::plan(&checkpoint.config, frozen, &recipe, &prepared, &room);
    plan.check()?;
    eprintln!("This run takes at least {:.2} GB of the engine's memory.", plan.bytes() as f64 / 1e9);
    let terminal = Terminal::new(files.out.clone());
    let outcome = pollster::block_on(async {
        match files.engine {
            EngineChoice::Cpu => {
                let open = async || load(Cpu, &mut checkpoint, limit);
                experiment::run(open, summary, &prepared, &recipe, &terminal).await
            }
            EngineChoice::Gpu => {
                let open = async || {
                    let gpu = self_test::trust(Gpu::open().await?, checkpoint.config.head_dim).await?;
                    load(gpu, &mut checkpoint, limit)
                };
                experiment::run(open, summary, &prepared, &recipe, &terminal).await
            }
        }
    });
    terminal.bar.finish_and_clear();
    let record = outcome?;
    write_record(&files.out, &record)?;
    print_results(&record);
    Ok(ExitCode::SUCCESS)
}

fn write_record(path: &Path, record: &Record) -> Result<()> {
    let json = serde_json::to_string_pretty(record)?;
    std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// Progress on stderr; the record on disk after every stage, so that an interrupted run keeps what it found.
struct Terminal {
    bar: ProgressBar,
    out: PathBuf,
    /// Where stderr is no terminal: the stage last named.
    named: std::cell::Cell<Option<experiment::Stage>>,
}

impl Terminal {
    fn new(out: PathBuf) -> Self {
        let bar = ProgressBar::new(1000);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent:>3}% {msg}") {
            bar.set_style(style);
        }
        Self { bar, out, named: std::cell::Cell::new(None) }
    }
}

impl RunObserver for Terminal {
    async fn progress(&self, p: Progress) -> bool {
        self.bar.set_position((1000.0 * p.done / p.total.max(1.0)) as u64);
        let left = p.remaining_seconds.map_or(String::new(), |s| format!(", about {s:.0} s left"));
        let message = format!("{:?}, {:.0} s{left}", p.stage, p.elapsed_seconds);
        if self.bar.is_hidden() && self.named.replace(Some(p.stage)) != Some(p.stage) {
            eprintln!("{:>3.0}% {message}", 100.0 * p.done / p.total.max(1.0));
        }
        self.bar.set_message(message);
        true
    }

    fn found(&self, record: &Record) {
        if let Err(error) = write_record(&self.out, record) {
            self.bar.suspend(|| eprintln!("warning: {error:#}"));
        }
    }
}

fn print_results(record: &Record) {
    println!("{} on {}", record.model.name, record.device);
    println!("{:<22} {:>10}  {:<32} {:<32}", "arm", "weights", "source accuracy [95 %]", "target accuracy [95 %]");
    let cell = |a: &ctsft_lab::measures::Accuracy| {
        format!("{:.3} [{:.3}, {:.3}] n={}", a.accuracy, a.interval.low, a.interval.high, a.total)
    };
    let line = |name: &str, weights: String, both: &experiment::Both| {
        println!("{name:<22} {weights:>10}  {:<32} {:<32}", cell(&both.source), cell(&both.target))
    };
    if let Some(both) = &record.zero_shot {
        println!("{:<22} {:>10}  {:<32.3} {:<32.3}", "majority label", "", both.source.majority, both.target.majority);
        line("zero-shot", String::new(), both);
    }
    if let Some(both) = &record.competent {
        line("competence only", record.model.parameters.to_string(), both);
    }
    for arm in &record.arms {
        line(&format!("{:?}", arm.kind), arm.trained_weights.to_string(), &arm.result);
    }
    if let Some(circuit) = &record.circuit {
        for (i, depth) in circuit.depths.iter().enumerate() {
            let heads: Vec<String> = depth.heads.iter().map(|h| format!("{}.{}", h.layer, h.head)).collect();
            println!("circuit, depth {i}: {}", heads.join(" "));
        }
        for row in circuit.faithfulness.iter().flat_map(|f| &f.rows) {
            let show = |f: &Option<f64>| f.map_or("undefined".into(), |f| format!("{f:.2}"));
            println!(
                "faithfulness, depth {}: {} with {} heads; random circuits {}",
                row.depth,
                show(&row.faithfulness),
                row.heads,
                row.random.iter().map(show).collect::<Vec<_>>().join(" ")
            );
            let accuracies: Vec<String> = row.without_random.iter().map(|m| format!("{:.3}", m.accuracy)).collect();
            println!(
                "  without them: accuracy {:.3}; without as many random heads {}",
                row.without.accuracy,
                accuracies.join(" ")
            );
        }
        if let Some(s) = circuit.stability {
            println!(
                "split-half stability: Spearman {:.2}, overlap of the selected heads {:.2}",
                s.spearman, s.overlap
            );
        }
    }
    for warning in &record.warnings {
        println!("warning: {}", serde_json::to_string(warning).unwrap_or_default());
    }
}
