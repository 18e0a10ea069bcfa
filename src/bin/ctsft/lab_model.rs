//! The commands about the built-in lab model.

use super::open_model;
use anyhow::{Context, Result, bail};
use ctsft_lab::engine::cpu::Cpu;
use ctsft_lab::experiment::Recipe;
use ctsft_lab::lab_model::corpus::Corpus;
use ctsft_lab::lab_model::pretrain::{self, Plan};
use ctsft_lab::lab_model::{files, report};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Makes the model, writes its folder and checks what came of it.
pub fn make(small: bool, out: Option<PathBuf>) -> Result<ExitCode> {
    let (plan, folder) = if small { (Plan::SMALL, "target/lab-small") } else { (Plan::FULL, "models/lab") };
    let folder = out.unwrap_or_else(|| folder.into());
    let corpus = Corpus::new(plan.seed);
    let started = std::time::Instant::now();
    let made = pollster::block_on(pretrain::make(Cpu, &corpus, &plan, |step| {
        println!(
            "step {} of {}, {:.0} s: next-token loss {:.3}, answer loss {:.4} nats",
            step.step,
            plan.steps,
            started.elapsed().as_secs_f64(),
            step.next_token,
            step.answer,
        );
    }))?;
    files::write(&folder, &made, &corpus)?;
    println!("{} is written: {} bytes of weights", folder.display(), made.weights.len());
    let tables = report::LabTables::open(&folder)?;
    let check = pollster::block_on(files::FirstCheck::of(Cpu, &mut open_model(&folder)?, &tables, &corpus))?;
    println!(
        "on validation sentences, as it is: source {:.3} [{:.3}, {:.3}], sister {:.3} [{:.3}, {:.3}]; a bag of words on the source {:.3}",
        check.source.accuracy,
        check.source.interval.low,
        check.source.interval.high,
        check.sister.accuracy,
        check.sister.interval.low,
        check.sister.interval.high,
        check.bag_of_words as f64 / check.source.total as f64,
    );
    if !check.passed() {
        eprintln!("error: the model does not read the source language better than a bag of words does");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The card's line before its table of figures, and the one after it.
const FIGURES: [&str; 2] = ["<!-- figures: written by `ctsft lab-model report --write` -->", "<!-- end of figures -->"];

/// Measures the card's figures, and compares them or writes them.
pub fn report(folder: &Path, write: bool) -> Result<ExitCode> {
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let recipe = Recipe::from_json(&read(&folder.join("recipe.json"))?).context("recipe.json")?;
    let tables = report::LabTables::open(folder)?;
    let mut checkpoint = open_model(folder)?;
    let corpus = Corpus::new(Plan::FULL.seed);
    let found =
        pollster::block_on(report::measure(Cpu, &mut checkpoint, &tables, &recipe, &corpus, |run| eprintln!("{run}")))?;
    println!("{}", found.markdown());
    let (report_path, card_path) = (folder.join("report.json"), folder.join("README.md"));
    if write {
        let card = read(&card_path)?;
        let [start, end] = FIGURES;
        let (Some((before, rest)), true) = (card.split_once(start), card.contains(end)) else {
            bail!("{} has no lines `{start}` and `{end}` for the figures to go between", card_path.display());
        };
        let after = rest.split_once(end).map_or("", |(_, after)| after);
        std::fs::write(&card_path, format!("{before}{start}\n{}{end}{after}", found.markdown()))?;
        std::fs::write(&report_path, format!("{}\n", serde_json::to_string_pretty(&found)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let earlier: report::Report = serde_json::from_str(&read(&report_path)?).context("report.json")?;
    let differences = found.differences(&earlier);
    if found.model != earlier.model || !differences.is_empty() {
        eprintln!("the card says otherwise (outside its interval, or of another model): {}", differences.join("; "));
        return Ok(ExitCode::FAILURE);
    }
    println!("Every figure lies within the card's interval.");
    Ok(ExitCode::SUCCESS)
}
