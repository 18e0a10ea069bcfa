//! The same experiments with no browser.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use ctsft_lab::engine::cpu::Cpu;
use ctsft_lab::engine::gpu::Gpu;
use ctsft_lab::engine::{Backend, Engine};
use ctsft_lab::experiment::verify::{self, Golden, Outcome, Report};
use ctsft_lab::model::{Checkpoint, ModelFile};
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
}

#[derive(Clone, Copy, ValueEnum)]
enum EngineChoice {
    Cpu,
    Gpu,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Verify { golden, engine, model, json, thorough } => verify(&golden, engine, model.as_deref(), json, thorough),
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

fn verify(golden: &[PathBuf], engine: EngineChoice, model: Option<&Path>, json: bool, thorough: bool) -> Result<ExitCode> {
    let mut failed = false;
    for path in golden {
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let (values, mut checkpoint) = if path.is_dir() {
            let file = |name: &str| read(&path.join(name));
            let values = Golden::from_folder(&file("batch.json")?, &file("expected.json")?, &file("expected.safetensors")?)?;
            (values, open_model(path)?)
        } else {
            let Some(model) = model else { bail!("{} needs its model: add --model", path.display()) };
            (Golden::of_real_model(&read(path)?, &read(&path.with_extension("safetensors"))?)?, open_model(model)?)
        };
        let report = match engine {
            EngineChoice::Cpu => pollster::block_on(check(Cpu, &mut checkpoint, &values, thorough))?,
            EngineChoice::Gpu => pollster::block_on(async { check(Gpu::open(None).await?, &mut checkpoint, &values, thorough).await })?,
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
    let depth = if thorough { verify::Depth { sweep_examples: usize::MAX, single_heads: true } } else { verify::Depth { sweep_examples: 2, single_heads: false } };
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
        println!("  {mark} {:<62} abs {:9.2e}  rel {:9.2e}{note}", check.quantity, check.largest_absolute_error, check.largest_relative_error);
    }
    println!("  {} passed, {} failed, {} skipped", report.passed(), report.failed(), report.skipped());
}
