//! The lab as JavaScript sees it.

use super::blob::BlobReader;
use super::messages::{Check, EngineKind, ErrorKind, ErrorMessage, LabEvent, Role, TablePreview};
use crate::bench;
use crate::data;
use crate::engine::cpu::Cpu;
use crate::engine::gpu::{self, Gpu, Variant};
use crate::engine::{Backend, Engine, EngineError, memory};
use crate::experiment::self_test;
use crate::experiment::verify::{self, Golden};
use crate::experiment::{
    self, ModelSummary, PLANNED_BATCH, Plan, Prepared, Progress, Recipe, Record, Room, RunObserver, Sets, Tables,
};
use crate::model::{Checkpoint, Form, ModelError, ModelFile};
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use wasm_bindgen::prelude::*;
use web_time::Instant;

impl From<ErrorMessage> for JsValue {
    fn from(error: ErrorMessage) -> Self {
        to_js(&error)
    }
}

fn to_js<T: Serialize>(value: &T) -> JsValue {
    // Plain objects and null, as JSON would have them. Our types hold nothing that cannot be serialised.
    value.serialize(&serde_wasm_bindgen::Serializer::json_compatible()).unwrap_or(JsValue::NULL)
}

fn missing(kind: ErrorKind, what: &str) -> ErrorMessage {
    ErrorMessage { kind, message: format!("{what} is not there yet") }
}

fn from_js<T: serde::de::DeserializeOwned>(value: JsValue) -> Result<T, ErrorMessage> {
    serde_wasm_bindgen::from_value(value).map_err(|e| ErrorMessage { kind: ErrorKind::Recipe, message: e.to_string() })
}

/// What the CPU engine may take of the 4 GiB that WebAssembly can address.
const HEAP_BYTES: u64 = 3_500_000_000;

fn room(engine: EngineKind, gpu_bytes: f64, largest_tensor: Option<u64>, seconds_a_token: Option<f64>) -> Room {
    let limit = if engine == EngineKind::Gpu { gpu_bytes as u64 } else { HEAP_BYTES };
    Room { limit, largest_tensor, batch_tokens: PLANNED_BATCH, seconds_a_token }
}

/// Seconds that a run waits for a GPU.
const OPENING_TRIES: usize = 5;

/// The lab: a model, four tables, and the run in progress.
#[wasm_bindgen]
pub struct Lab {
    events: js_sys::Function,
    model: RefCell<Option<(String, Checkpoint)>>,
    tables: RefCell<HashMap<Role, data::Table>>,
    cancelled: Cell<bool>,
    /// The GPU that has passed its test, and the width of heads that it was tested for.
    trusted: RefCell<Option<(String, usize)>>,
    last_yield: Cell<Instant>,
    /// Seconds that a token takes through a model, by engine and the model's hash.
    calibrated: RefCell<HashMap<(EngineKind, String), f64>>,
    /// Bytes of the largest tensor that the GPU takes.
    gpu_tensor: Cell<Option<u64>>,
}

#[wasm_bindgen]
impl Lab {
    /// `events` gets every [`LabEvent`].
    #[wasm_bindgen(constructor)]
    pub fn new(events: js_sys::Function) -> Self {
        console_error_panic_hook::set_once();
        Self {
            events,
            model: RefCell::default(),
            tables: RefCell::default(),
            cancelled: Cell::new(false),
            trusted: RefCell::default(),
            last_yield: Cell::new(Instant::now()),
            calibrated: RefCell::default(),
            gpu_tensor: Cell::default(),
        }
    }

    /// Takes over which kernels were fastest another time. What it cannot read was of another version.
    pub fn recall(&self, trials: &str) {
        if let Ok(chosen) = serde_json::from_str(trials) {
            gpu::recall(chosen);
        }
    }

    /// Opens a model from the user's files and says what it is. The weights stay in the files.
    ///
    /// # Errors
    /// Names what is missing, damaged or not supported.
    pub fn open_model(&self, files: Vec<web_sys::File>) -> Result<JsValue, JsValue> {
        self.open(&files).map(|summary| to_js(&summary)).map_err(Into::into)
    }

    /// Reads a table into one of the four places.
    ///
    /// # Errors
    /// Names the row that cannot be read.
    pub fn read_table(&self, role: JsValue, file: &str, bytes: &[u8]) -> Result<JsValue, JsValue> {
        let role = from_js(role)?;
        let table = data::read_table(file, bytes).map_err(ErrorMessage::from)?;
        let mapping = data::guess_mapping(&table).ok();
        let preview = TablePreview {
            file: table.file.clone(),
            columns: table.columns.clone(),
            rows: table.rows.iter().take(5).cloned().collect(),
            total_rows: table.rows.len(),
            encoding: table.encoding.clone(),
            format: table.format.clone(),
            header: table.header,
            skipped: table.skipped.clone(),
            labels: mapping.as_ref().map_or_else(Vec::new, |m| data::label_values(&table, &m.label)),
            mapping,
        };
        self.tables.borrow_mut().insert(role, table);
        Ok(to_js(&preview))
    }

    /// Forgets a table.
    ///
    /// # Errors
    /// An unknown role.
    pub fn remove_table(&self, role: JsValue) -> Result<(), JsValue> {
        self.tables.borrow_mut().remove(&from_js::<Role>(role)?);
        Ok(())
    }

    /// The labels that a column of a table holds.
    ///
    /// # Errors
    /// An unknown role.
    pub fn labels(&self, role: JsValue, column: &str) -> Result<Vec<String>, JsValue> {
        let role = from_js(role)?;
        Ok(self.tables.borrow().get(&role).map_or_else(Vec::new, |table| data::label_values(table, column)))
    }

    /// The recipe that the page starts with.
    pub fn default_recipe(&self) -> JsValue {
        to_js(&Recipe::default())
    }

    /// Checks a recipe against the tables and the tokenizer without running anything.
    ///
    /// # Errors
    /// Whatever is wrong, where it is wrong.
    pub fn check(&self, recipe: JsValue) -> Result<JsValue, JsValue> {
        let recipe: Recipe = from_js(recipe)?;
        let prepared = self.prepare(&recipe)?;
        let model = self.model.borrow();
        let tokenizer = model.as_ref().and_then(|(_, c)| c.tokenizer.as_ref());
        let show = |id: &u32| tokenizer.and_then(|t| t.token(*id)).unwrap_or_else(|| id.to_string());
        let sets = &prepared.sets;
        Ok(to_js(&Check {
            answer_tokens: prepared.verbalizer.iter().map(show).collect(),
            first_prompt: sets
                .source_train
                .prompts
                .first()
                .map_or_else(Vec::new, |p| p.tokens.iter().map(show).collect()),
            warnings: prepared.warnings.clone(),
            sets: Sets {
                source_train: sets.source_train.summary.clone(),
                source_test: sets.source_test.summary.clone(),
                target_train: sets.target_train.summary.clone(),
                target_test: sets.target_test.summary.clone(),
            },
        }))
    }

    /// The GPU that would compute.
    ///
    /// # Errors
    /// There is none, and why.
    pub async fn gpu(&self) -> Result<String, JsValue> {
        Ok(self.open_gpu().await.map_err(ErrorMessage::from)?.device())
    }

    /// What a recipe will take on an engine, a GPU giving at most `gpu_bytes`: a [`Plan`]. The time is from a short
    /// calibration, once for each model and engine.
    ///
    /// # Errors
    /// Whatever is wrong with recipe or data, or an engine that is not there.
    pub async fn plan(&self, recipe: JsValue, engine: JsValue, gpu_bytes: f64) -> Result<JsValue, JsValue> {
        let recipe: Recipe = from_js(recipe)?;
        let engine: EngineKind = from_js(engine)?;
        let prepared = self.prepare(&recipe)?;
        let (hash, config) = match &*self.model.borrow() {
            Some((_, checkpoint)) => (checkpoint.hash.clone(), checkpoint.config.clone()),
            None => return Err(missing(ErrorKind::Model, "the model").into()),
        };
        let known = self.calibrated.borrow().get(&(engine, hash.clone())).copied();
        let seconds = match (known, engine) {
            (Some(seconds), _) => seconds,
            (None, EngineKind::Cpu) => experiment::calibrate(Cpu, &config).await.map_err(ErrorMessage::from)?.1,
            (None, EngineKind::Gpu) => {
                let gpu = self.open_gpu().await.map_err(ErrorMessage::from)?;
                experiment::calibrate(gpu, &config).await.map_err(ErrorMessage::from)?.1
            }
        };
        self.calibrated.borrow_mut().insert((engine, hash), seconds);
        let largest_tensor = self.largest_tensor(engine).await;
        let room = room(engine, gpu_bytes, largest_tensor, Some(seconds));
        Ok(to_js(&self.plan_for(&recipe, &prepared, &room)?))
    }

    /// Runs a recipe, with at most `gpu_bytes` on a GPU. The model's files are read anew, so that every run starts from the
    /// same weights.
    ///
    /// # Errors
    /// Whatever stopped it; what was found until then went out as events.
    pub async fn run(&self, recipe: JsValue, engine: JsValue, gpu_bytes: f64) -> Result<JsValue, JsValue> {
        self.cancelled.set(false);
        let recipe: Recipe = from_js(recipe)?;
        let engine: EngineKind = from_js(engine)?;
        let prepared = self.prepare(&recipe)?;
        let largest_tensor = self.largest_tensor(engine).await;
        let plan = self.plan_for(&recipe, &prepared, &room(engine, gpu_bytes, largest_tensor, None))?;
        plan.check().map_err(ErrorMessage::from)?;
        let record = match engine {
            EngineKind::Cpu => self.run_on(async || Ok(Cpu), plan.limit, &prepared, &recipe).await?,
            EngineKind::Gpu => self.run_on(async || self.trusted_gpu().await, plan.limit, &prepared, &recipe).await?,
        };
        Ok(to_js(&record))
    }

    /// Measures the open model on an engine: a [`bench::Table`].
    ///
    /// # Errors
    /// There is no model, or the engine fails.
    pub async fn bench(&self, engine: JsValue) -> Result<JsValue, JsValue> {
        let engine = from_js(engine)?;
        // Out of its place, so that no call that comes meanwhile finds it borrowed.
        let (name, mut checkpoint) = self.model.take().ok_or_else(|| missing(ErrorKind::Model, "the model"))?;
        let table = match engine {
            EngineKind::Cpu => bench::measure(Cpu, &mut checkpoint).await,
            EngineKind::Gpu => match self.open_gpu().await {
                Ok(gpu) => bench::measure(gpu, &mut checkpoint).await,
                Err(error) => Err(error),
            },
        };
        self.model.replace(Some((name, checkpoint)));
        Ok(to_js(&table.map_err(ErrorMessage::from)?))
    }

    /// Rates of the GPU's products of some shapes, with bf16 weights: a list of [`bench::MatmulRate`].
    ///
    /// # Errors
    /// There is no GPU, or it fails.
    pub async fn bench_products(&self, shapes: JsValue) -> Result<JsValue, JsValue> {
        let shapes: Vec<bench::Shape> = from_js(shapes)?;
        let gpu = self.open_gpu().await.map_err(ErrorMessage::from)?;
        let (_, rates) = bench::matmuls(&gpu, Form::Bf16, &shapes).await.map_err(ErrorMessage::from)?;
        Ok(to_js(&rates))
    }

    /// Asks the run to stop at its next step.
    pub fn cancel(&self) {
        self.cancelled.set(true);
    }

    /// Trains some steps on the GPU and on the CPU beside each other: a [`self_test::Followed`].
    ///
    /// # Errors
    /// There is no GPU, or it fails.
    pub async fn follow(&self) -> Result<JsValue, JsValue> {
        let gpu = self.open_gpu().await.map_err(ErrorMessage::from)?;
        Ok(to_js(&self_test::follow(gpu).await.map_err(ErrorMessage::from)?))
    }

    /// Whether the GPU offers subgroups; if so, its products by them have passed the GPU's test.
    ///
    /// # Errors
    /// There is no GPU, or it computes wrong numbers.
    pub async fn trust_subgroups(&self) -> Result<bool, JsValue> {
        let gpu = Gpu::open_with(Some(Variant::Subgroups), None).await.map_err(ErrorMessage::from)?;
        let offered = gpu.variants().any(|variant| variant == Variant::Subgroups);
        if offered {
            self_test::trust(gpu, 64).await.map_err(ErrorMessage::from)?;
        }
        Ok(offered)
    }

    /// Checks an engine in this browser against a folder of golden values; `files` are its five files.
    ///
    /// # Errors
    /// What keeps the engine from running; differences are in the report.
    pub async fn verify(&self, files: Vec<web_sys::File>, engine: JsValue) -> Result<JsValue, JsValue> {
        let engine: EngineKind = from_js(engine)?;
        let mut golden = HashMap::new();
        let mut model = Vec::new();
        for file in &files {
            match file.name().as_str() {
                "batch.json" | "expected.json" | "expected.safetensors" => {
                    golden.insert(
                        file.name(),
                        BlobReader::new(file)
                            .read_all()
                            .map_err(|e| ModelError::Read(file.name(), e))
                            .map_err(ErrorMessage::from)?,
                    );
                }
                _ => model.push(ModelFile { name: file.name(), bytes: Box::new(BlobReader::new(file)) }),
            }
        }
        let take = |name: &str| golden.get(name).map_or(&[][..], Vec::as_slice);
        let golden = Golden::from_folder(take("batch.json"), take("expected.json"), take("expected.safetensors"))
            .map_err(ErrorMessage::from)?;
        let mut checkpoint = Checkpoint::open(model).map_err(ErrorMessage::from)?;
        let depth = verify::Depth { sweep_examples: usize::MAX, single_heads: true };
        let report = match engine {
            EngineKind::Cpu => {
                verify::verify(
                    &Engine::load(Cpu, &mut checkpoint, |_, _| {}).map_err(ErrorMessage::from)?,
                    &golden,
                    depth,
                )
                .await
            }
            EngineKind::Gpu => {
                let gpu = self.open_gpu().await.map_err(ErrorMessage::from)?;
                verify::verify(
                    &Engine::load(gpu, &mut checkpoint, |_, _| {}).map_err(ErrorMessage::from)?,
                    &golden,
                    depth,
                )
                .await
            }
        };
        Ok(to_js(&report.map_err(ErrorMessage::from)?))
    }
}

impl Lab {
    fn open(&self, files: &[web_sys::File]) -> Result<ModelSummary, ErrorMessage> {
        let name = match files {
            [one] => one.name(),
            many => many.iter().map(web_sys::File::name).find(|n| n.ends_with(".safetensors")).unwrap_or_default(),
        };
        let sources = files.iter().map(|f| ModelFile { name: f.name(), bytes: Box::new(BlobReader::new(f)) }).collect();
        let checkpoint = Checkpoint::open(sources)?;
        if checkpoint.tokenizer.is_none() {
            return Err(ModelError::MissingFile {
                missing: "tokenizer.json",
                given: files.iter().map(web_sys::File::name).collect::<Vec<_>>().join(", "),
            }
            .into());
        }
        let summary = ModelSummary::of(&name, &checkpoint);
        *self.model.borrow_mut() = Some((name, checkpoint));
        Ok(summary)
    }

    fn prepare(&self, recipe: &Recipe) -> Result<Prepared, ErrorMessage> {
        let model = self.model.borrow();
        let tokenizer = model
            .as_ref()
            .and_then(|(_, c)| c.tokenizer.as_ref())
            .ok_or_else(|| missing(ErrorKind::Model, "the model"))?;
        let tables = self.tables.borrow();
        let needed = |role: Role, what: &str| tables.get(&role).cloned().ok_or_else(|| missing(ErrorKind::Data, what));
        let tables = Tables {
            source_train: needed(Role::SourceTrain, "the source table")?,
            source_test: tables.get(&Role::SourceTest).cloned(),
            target_train: needed(Role::TargetTrain, "the target table")?,
            target_test: tables.get(&Role::TargetTest).cloned(),
        };
        Ok(experiment::prepare(recipe, &tables, tokenizer)?)
    }

    fn plan_for(&self, recipe: &Recipe, prepared: &Prepared, room: &Room) -> Result<Plan, ErrorMessage> {
        let mut model = self.model.borrow_mut();
        let (_, checkpoint) = model.as_mut().ok_or_else(|| missing(ErrorKind::Model, "the model"))?;
        let frozen = memory::frozen_bytes(checkpoint)?;
        Ok(experiment::plan(&checkpoint.config, frozen, recipe, prepared, room))
    }

    /// The GPU, whose largest tensor is remembered, and by the page its fastest kernels.
    async fn open_gpu(&self) -> Result<Gpu, EngineError> {
        let before = gpu::chosen();
        let gpu = Gpu::open().await?;
        let chosen = gpu::chosen();
        if chosen != before
            && let Ok(trials) = serde_json::to_string(&chosen)
        {
            self.send(&LabEvent::Tried { trials });
        }
        self.gpu_tensor.set(Some(4 * gpu.largest_tensor() as u64));
        Ok(gpu)
    }

    /// Bytes of the largest tensor that an engine takes, if there is such a bound. A GPU that cannot be asked says so when
    /// it is to run.
    async fn largest_tensor(&self, engine: EngineKind) -> Option<u64> {
        if engine == EngineKind::Cpu {
            return None;
        }
        if self.gpu_tensor.get().is_none() {
            self.open_gpu().await.ok()?;
        }
        self.gpu_tensor.get()
    }

    /// The GPU, once it has passed its test. One that was just lost may need a moment to come back.
    async fn trusted_gpu(&self) -> Result<Gpu, EngineError> {
        let mut opened = self.open_gpu().await;
        for _ in 0..OPENING_TRIES {
            if opened.is_ok() {
                break;
            }
            gloo_timers::future::TimeoutFuture::new(1000).await;
            opened = self.open_gpu().await;
        }
        let mut gpu = opened?;
        let head_dim = match &*self.model.borrow() {
            Some((_, checkpoint)) => checkpoint.config.head_dim,
            None => return Err(EngineError::Cancelled),
        };
        let wanted = Some((gpu.device(), head_dim));
        if *self.trusted.borrow() != wanted {
            self.send(&LabEvent::SelfTest);
            gpu = self_test::trust(gpu, head_dim).await?;
            self.trusted.replace(wanted);
        }
        Ok(gpu)
    }

    async fn run_on<B: Backend>(
        &self,
        backend: impl AsyncFn() -> Result<B, EngineError>,
        limit: u64,
        prepared: &Prepared,
        recipe: &Recipe,
    ) -> Result<Record, ErrorMessage> {
        let summary = match &*self.model.borrow() {
            Some((name, checkpoint)) => ModelSummary::of(name, checkpoint),
            None => return Err(missing(ErrorKind::Model, "the model")),
        };
        let open = async || {
            let backend = backend().await?;
            let mut model = self.model.borrow_mut();
            let Some((_, checkpoint)) = model.as_mut() else { return Err(EngineError::Cancelled) };
            let progress = |done, total| self.send(&LabEvent::Loading { done, total });
            let engine = Engine::load(backend, checkpoint, progress)?;
            engine.limit_memory(limit);
            Ok(engine)
        };
        Ok(experiment::run(open, summary, prepared, recipe, self).await?)
    }

    fn send(&self, event: &LabEvent) {
        // A page that no longer listens must not stop the work.
        let _ = self.events.call1(&JsValue::NULL, &to_js(event));
    }
}

impl RunObserver for Lab {
    async fn progress(&self, progress: Progress) -> bool {
        self.send(&LabEvent::Progress { progress });
        // The worker's own messages, a cancel among them, are heard only when it yields.
        if self.last_yield.get().elapsed().as_millis() > 100 {
            gloo_timers::future::TimeoutFuture::new(0).await;
            self.last_yield.set(Instant::now());
        }
        !self.cancelled.get()
    }

    fn found(&self, record: &Record) {
        self.send(&LabEvent::Record { record: Box::new(record.clone()) });
    }
}
