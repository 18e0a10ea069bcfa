//! Every check, in the order in which a failure is cheapest to learn of.

use crate::tools::{Tools, has};
use anyhow::{Result, bail};
use std::path::Path;
use xshell::{Shell, cmd};

pub fn run(shell: &Shell, tools: &Tools) -> Result<()> {
    cmd!(shell, "cargo fmt --all --check").run()?;
    // A software Vulkan device is enough to check the GPU engine; a real one is used where there is one.
    if !has(shell, "vulkaninfo") && has(shell, "apt-get") {
        tools.debian_packages(shell, &["libvulkan1", "mesa-vulkan-drivers"])?;
    }
    let _model = tools.smollm2(shell).map(|path| shell.push_env("CTSFT_SMOLLM2", path));
    let skipped = tools.root().join("target/skipped-tests.txt");
    shell.remove_path(&skipped)?;
    let _skipped = shell.push_env("CTSFT_SKIPPED", &skipped);
    cmd!(shell, "cargo clippy --workspace --all-targets -- -D warnings").run()?;
    // The tests write every kernel in each of its compositions.
    let kernels = tools.root().join("target/kernels");
    shell.remove_path(&kernels)?;
    let _kernels = shell.push_env("CTSFT_KERNELS", &kernels);
    cmd!(shell, "cargo test --workspace").run()?;
    validate(shell, &kernels)?;
    if shell.var("CI").is_ok() {
        // The tests have just written the page's types; a checkout holds the same.
        cmd!(shell, "git diff --exit-code --stat -- www/src/bindings").run()?;
    }
    crate::dist(shell, tools)?;
    cmd!(shell, "npx --no-install tsc --noEmit").run()?;
    let chromium = tools.chromium(shell)?;
    let _chromium = shell.push_env("CHROMIUM", chromium);
    cmd!(shell, "npx --no-install playwright test").run()?;
    if skipped.exists() {
        println!("\nSkipped Rust tests (the browser's are marked above):\n{}", shell.read_file(&skipped)?);
    }
    Ok(())
}

/// Each WGSL kernel through the two reference validators, where they are installed.
fn validate(shell: &Shell, folder: &Path) -> Result<()> {
    let files = shell.read_dir(folder)?;
    if files.is_empty() {
        bail!("no kernels in {}", folder.display());
    }
    let enabled = shell.create_temp_dir()?;
    for validator in ["naga", "tint"] {
        if !has(shell, validator) {
            println!(
                "skipped: {validator} is not installed, so it validated no kernel (wgpu's own naga still does, in the tests)"
            );
            continue;
        }
        for file in &files {
            match validator {
                "naga" => cmd!(shell, "naga {file}").quiet().ignore_stdout().run()?,
                _ => {
                    // Tint wants to be told of subgroups, as a browser does; naga does not know the word.
                    let (mut file, source) = (file.clone(), shell.read_file(file)?);
                    if source.contains("subgroup") {
                        file = enabled.path().join("enabled.wgsl");
                        shell.write_file(&file, format!("enable subgroups;\n{source}"))?;
                    }
                    cmd!(shell, "tint --format wgsl -o /dev/null {file}").quiet().ignore_stdout().run()?;
                }
            }
        }
        println!("{validator}: {} kernels valid", files.len());
    }
    Ok(())
}
