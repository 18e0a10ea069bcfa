//! The project's own tasks. `cargo xtask serve` opens the lab, `cargo xtask test` runs every check,
//! `cargo xtask dist` makes the static site, `cargo xtask bench` measures. Each installs what it needs and says so.

mod tests;
mod tools;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use tools::Tools;
use xshell::{Shell, cmd};

#[derive(Parser)]
#[command(about = "Build, serve and test CT-SFT Lab")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the page and serve it, rebuilding on change.
    Serve {
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Run every check: format, lints, Rust tests, kernels, front-end types, browser tests.
    Test,
    /// Build the static site into dist/.
    Dist,
    /// Measure speed, work and memory: a model natively on the CPU and every GPU, products beside burn's and candle's, then
    /// the page in Chromium beside three other libraries.
    Bench {
        #[arg(long, default_value = "models/lab")]
        model: PathBuf,
        #[arg(long)]
        json: bool,
    },
}

fn main() -> Result<()> {
    let shell = Shell::new()?;
    // Asked at run time: a target folder that several checkouts share may hold a binary built in another one.
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").context("run this as `cargo xtask`")?)
        .parent()
        .context("xtask lies directly below the repository root")?
        .to_path_buf();
    shell.change_dir(&root);
    let tools = Tools::new(&shell, root)?;
    match Arguments::parse().task {
        Task::Serve { port } => serve(&shell, &tools, port),
        Task::Test => tests::run(&shell, &tools),
        Task::Dist => dist(&shell, &tools),
        Task::Bench { model, json } => bench(&shell, &tools, &model, json),
    }
}

fn serve(shell: &Shell, tools: &Tools, port: u16) -> Result<()> {
    tools.prepare_page(shell)?;
    let trunk = tools.trunk();
    let port = port.to_string();
    println!("The lab will be at http://127.0.0.1:{port}/ once the build below is done (minutes the first time).");
    let _environment = tools.page_environment(shell)?;
    cmd!(shell, "{trunk} serve --release --port {port}").run()?;
    Ok(())
}

/// The measurements, as text and a table, or all as one JSON object.
fn bench(shell: &Shell, tools: &Tools, model: &Path, json: bool) -> Result<()> {
    let format = json.then_some("--json");
    let native = cmd!(shell, "cargo run --quiet --release -- bench --model {model} {format...}").read()?;
    let peers = {
        // Its own target folder: the library's file there would take the place of ours.
        let _target = shell.push_env("CARGO_TARGET_DIR", tools.target(shell, "native-peers"));
        let manifest = "tests/bench/native/Cargo.toml";
        cmd!(shell, "cargo run --quiet --release --locked --manifest-path {manifest}").read()?
    };
    let chromium = tools.chromium(shell)?;
    let report = tools.root().join("target/browser-bench.json");
    shell.create_dir(tools.root().join("target"))?;
    // Builds talk on stdout, where the table belongs.
    let built = cmd!(shell, "cargo xtask dist").read()?;
    eprintln!("{built}");
    cmd!(shell, "npm run --silent bench").read()?;
    shell.copy_file("www/bench/index.html", "dist/bench/index.html")?;
    for part in shell.read_dir("node_modules/onnxruntime-web/dist")? {
        if part.to_string_lossy().contains(".asyncify.") {
            shell.copy_file(part, "dist/bench")?;
        }
    }
    let _chromium = shell.push_env("CHROMIUM", chromium);
    let _report = shell.push_env("CTSFT_BENCH", &report);
    eprintln!("{}", cmd!(shell, "npx --no-install playwright test --config playwright.bench.config.ts").read()?);
    let browser = shell.read_file(report)?;
    match json {
        true => println!("{{\"native\": {native},\n\"native_products\": {peers},\n\"browser\": {browser}}}"),
        false => println!("{native}\n{peers}\n{browser}"),
    }
    Ok(())
}

/// Builds the static site into `dist/`.
pub fn dist(shell: &Shell, tools: &Tools) -> Result<()> {
    tools.prepare_page(shell)?;
    let trunk = tools.trunk();
    let _environment = tools.page_environment(shell)?;
    cmd!(shell, "{trunk} build --release").run()?;
    println!("The site is in dist/; any static file server can serve it.");
    Ok(())
}
