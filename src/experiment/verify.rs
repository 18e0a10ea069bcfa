//! Checks an engine against a folder of golden values (`tests/golden/README.md` has the format and the tolerances).

use super::golden::{Baseline, Expected, Faithfulness, Train};
pub use super::golden::{Golden, VerifyError};
use super::self_test;
use crate::circuit::{self, Expansion, Pool, Positions, Scope};
use crate::engine::{
    ActivationRule, AdamW, Backend, Batch, BiasRule, Engine, EngineError, GateRule, Head, HeadMeans, LossOver, Method,
    Objective, ParameterSlice, Rules, Score, Target, TargetDirection, UpdateRule,
};
use crate::measures::{kl_divergence, linear_cka};
use crate::progress::Unwatched;
use crate::tuning::{KvRule, NormRule, full_slices, head_slices, trained_weights};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// One quantity compared.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub quantity: String,
    /// Values compared.
    pub values: usize,
    pub largest_absolute_error: f64,
    /// Largest absolute error over the largest expected magnitude.
    pub largest_relative_error: f64,
    pub outcome: Outcome,
}

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Passed,
    Failed(String),
    /// Not run, and why.
    Skipped(String),
}

/// All checks of one folder.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub device: String,
    pub checks: Vec<Check>,
}

impl Report {
    pub fn failed(&self) -> usize {
        self.checks.iter().filter(|c| matches!(c.outcome, Outcome::Failed(_))).count()
    }

    pub fn passed(&self) -> usize {
        self.checks.iter().filter(|c| c.outcome == Outcome::Passed).count()
    }

    pub fn skipped(&self) -> usize {
        self.checks.len() - self.failed() - self.passed()
    }
}

/// How much of a real model's golden values to check: sweeps cost about a hundred forwards an example.
#[derive(Debug, Clone, Copy)]
pub struct Depth {
    /// Examples to sweep where the values of single examples are given.
    pub sweep_examples: usize,
    /// Whether to ablate every head by itself.
    pub single_heads: bool,
}

/// Checks everything in the folder that the engine can compute.
///
/// # Errors
/// Only what keeps the engine from running at all; differences are in the report.
pub async fn verify<B: Backend>(engine: &Engine<B>, golden: &Golden, depth: Depth) -> Result<Report, VerifyError> {
    let tolerance = if golden.expected.is_some() { 1e-4 } else { 1e-3 };
    let mut run = Run { engine, golden, tolerance, checks: Vec::new() };
    let means = run.means().await?;
    run.first_iteration(&means, depth).await?;
    if golden.tensors.contains_key("ablation_effect.per_example") {
        run.single_heads(&means, depth).await?;
    }
    if let Some(expected) = &golden.expected {
        run.forward(expected).await?;
        run.gradients().await?;
        run.traces(&means, expected).await?;
        run.circuits(&means, expected).await?;
        run.training(expected).await?;
    }
    Ok(Report { device: engine.backend.device(), checks: run.checks })
}

struct Run<'a, B: Backend> {
    engine: &'a Engine<B>,
    golden: &'a Golden,
    tolerance: f64,
    checks: Vec<Check>,
}

impl<B: Backend> Run<'_, B> {
    fn compare(&mut self, quantity: &str, found: &[f64], expected: &[f64]) {
        self.compare_within(quantity, found, expected, None);
    }

    /// `absolute` replaces the tolerance relative to the largest expected value.
    fn compare_within(&mut self, quantity: &str, found: &[f64], expected: &[f64], absolute: Option<f64>) {
        let scale = expected.iter().filter(|x| x.abs() < 1e29).fold(0.0_f64, |m, x| m.max(x.abs()));
        let allowed = absolute.unwrap_or(self.tolerance * scale + 1e-7);
        let difference = |(a, b): (&f64, &f64)| match *b {
            b if b <= -1e29 => {
                if *a == f64::NEG_INFINITY {
                    0.0
                } else {
                    f64::INFINITY
                }
            }
            b if b.is_nan() => {
                if a.is_nan() {
                    0.0
                } else {
                    f64::INFINITY
                }
            }
            b if a.is_nan() || b.is_nan() => f64::INFINITY,
            b => (a - b).abs(),
        };
        let worst = found.iter().zip(expected).map(difference).fold(0.0, f64::max);
        let outcome = if found.len() != expected.len() {
            Outcome::Failed(format!("{} values where {} are expected", found.len(), expected.len()))
        } else if worst <= allowed {
            Outcome::Passed
        } else {
            Outcome::Failed(format!("largest error {worst:.3e} over the allowed {allowed:.3e}"))
        };
        self.checks.push(Check {
            quantity: quantity.into(),
            values: found.len(),
            largest_absolute_error: worst,
            largest_relative_error: if scale > 0.0 { worst / scale } else { worst },
            outcome,
        });
    }

    fn exact(&mut self, quantity: &str, same: bool, problem: impl FnOnce() -> String) {
        let outcome = if same { Outcome::Passed } else { Outcome::Failed(problem()) };
        self.checks.push(Check {
            quantity: quantity.into(),
            values: 1,
            largest_absolute_error: 0.0,
            largest_relative_error: 0.0,
            outcome,
        });
    }

    fn skip(&mut self, quantity: &str, why: &str) {
        self.checks.push(Check {
            quantity: quantity.into(),
            values: 0,
            largest_absolute_error: 0.0,
            largest_relative_error: 0.0,
            outcome: Outcome::Skipped(why.into()),
        });
    }

    fn tensor(&mut self, name: &str, found: &[f32]) {
        if let Some((_, expected)) = self.golden.tensors.get(name) {
            self.compare(name, &widen(found), expected);
        }
    }

    fn batch(&self, of: &[usize]) -> Result<Batch, EngineError> {
        Batch::new(&of.iter().map(|i| &self.golden.pool.prompts[*i]).collect::<Vec<_>>(), &self.engine.config)
    }

    fn everything(&self) -> Vec<usize> {
        (0..self.golden.pool.prompts.len()).collect()
    }

    async fn means(&mut self) -> Result<HeadMeans<B::Tensor>, VerifyError> {
        let means = circuit::means(self.engine, &self.golden.pool, &Unwatched).await?;
        let found = self.engine.read_means(&means).await?;
        self.tensor("mu", &found.concat());
        Ok(means)
    }

    async fn forward(&mut self, expected: &Expected) -> Result<(), VerifyError> {
        let golden = self.golden;
        let batch = self.batch(&self.everything())?;
        let logits = self.engine.vocabulary_logits(&batch).await?;
        self.tensor("answer_logits", &logits);
        let answers = self.engine.answers(&batch, &golden.pool.verbalizer, false).await?;
        let mean = answers.losses.iter().map(|x| f64::from(*x)).sum::<f64>() / answers.losses.len() as f64;
        self.compare("loss_vocab (forward)", &[mean], &[expected.loss_vocab]);
        self.compare("example_weights", &golden.pool.weights(), &expected.example_weights);
        if let Some((shape, v_task)) = golden.tensors.get("v_task") {
            let unembedding = self.engine.read_parameter(self.engine.config.unembedding()).await?;
            let rows: Vec<&[f32]> =
                golden.pool.verbalizer.iter().map(|t| &unembedding[*t as usize * shape[1]..][..shape[1]]).collect();
            let others = (rows.len() - 1) as f64;
            let direction = |y: usize, i: usize| {
                f64::from(rows[y][i])
                    - (0..rows.len()).filter(|o| *o != y).map(|o| f64::from(rows[o][i])).sum::<f64>() / others
            };
            let found: Vec<f64> =
                (0..shape[0]).flat_map(|y| (0..shape[1]).map(move |i| (y, i))).map(|(y, i)| direction(y, i)).collect();
            self.compare("v_task", &found, v_task);
        }
        Ok(())
    }

    async fn gradients(&mut self) -> Result<(), VerifyError> {
        let batch = self.batch(&self.everything())?;
        let slices = full_slices(&self.engine.config);
        for (prefix, over) in [("grad.", LossOver::Vocab), ("grad_labels.", LossOver::Labels)] {
            let objective = Objective::Answer { verbalizer: &self.golden.pool.verbalizer, over };
            let (losses, gradients) = self_test::gradients(self.engine, &batch, objective).await?;
            let mean = losses.iter().map(|x| f64::from(*x)).sum::<f64>() / losses.len() as f64;
            if let Some(expected) = &self.golden.expected {
                let (name, value) = if over == LossOver::Vocab {
                    ("loss_vocab", expected.loss_vocab)
                } else {
                    ("loss_labels", expected.loss_labels)
                };
                self.compare(name, &[mean], &[value]);
            }
            for (slice, found) in slices.iter().zip(&gradients) {
                let name = format!("{prefix}{}", slice.name);
                let Some((_, expected)) = self.golden.tensors.get(&name) else { continue };
                // Key biases have a mathematically zero gradient: only rounding is left to compare.
                let absolute = name.ends_with("k_proj.bias").then_some(1e-6);
                self.compare_within(&name, &widen(found), expected, absolute);
            }
        }
        Ok(())
    }

    async fn first_iteration(&mut self, means: &HeadMeans<B::Tensor>, depth: Depth) -> Result<(), VerifyError> {
        let golden = self.golden;
        for (name, (_, expected)) in &golden.tensors {
            let parts: Vec<&str> = name.split('.').collect();
            let (method, positions, score) = match parts.as_slice() {
                ["it0", rules, positions, score] => (self.method(rules, score), *positions, *score),
                ["adjoint", act, positions, "it0"] => (gate_rule(act).map(Method::Reverse), *positions, "projection"),
                _ => continue,
            };
            let single = format!("{name}.per_example");
            let (Some(method), Some(score)) = (method, score_of(score)) else {
                self.skip(name, "the engine has no such rule set");
                continue;
            };
            let Some(positions) = positions_of(positions) else {
                self.skip(name, "unknown positions");
                continue;
            };
            let heads = self.engine.config.total_heads();
            // A real model's sweeps are checked on single examples.
            let limit = if golden.expected.is_none() && matches!(method, Method::Sweep(_)) {
                depth.sweep_examples
            } else {
                usize::MAX
            };
            let taken = golden.pool.prompts.len().min(limit);
            let pool = Pool { prompts: golden.pool.prompts[..taken].to_vec(), positions, ..golden.pool.clone() };
            match circuit::relevance(self.engine, &pool, means, method, score, Target::Output, &Unwatched).await {
                Ok(found) => {
                    if let Some((_, values)) = golden.tensors.get(&single) {
                        self.compare(&single, &found.per_example.concat(), &values[..taken * heads]);
                    }
                    match taken == golden.pool.prompts.len() {
                        true => self.compare(name, &found.mean, expected),
                        false => self.skip(name, &format!("the mean needs all {} examples swept (--thorough does); the first {taken} are checked one by one", golden.pool.prompts.len())),
                    }
                }
                Err(EngineError::RuleUnavailable(device)) => {
                    self.skip(name, &format!("{device} has no decomposed forward pass"))
                }
                Err(other) => return Err(other.into()),
            }
        }
        let name = "adjoint.tangent.all.it1.direct";
        if let (Some((_, expected)), Some(scalars)) = (golden.tensors.get(name), &golden.expected)
            && let Some(first) = scalars.circuits.get("projection").and_then(|c| c.first())
        {
            let frontier = head_set(first);
            let target = Target::Heads(&frontier, TargetDirection::Direct);
            let found = circuit::relevance(
                self.engine,
                &golden.pool,
                means,
                Method::Reverse(GateRule::Tangent),
                Score::Projection,
                target,
                &Unwatched,
            )
            .await?;
            self.compare(name, &found.mean, expected);
        }
        Ok(())
    }

    /// The method that computes a named rule set. Linear rules have a reverse pass on every backend; the sweep, where
    /// there is one, checks that both agree.
    fn method(&self, rules: &str, score: &str) -> Option<Method> {
        let sweeps = self.engine.backend.has_sweep();
        let linear = |rule| match (sweeps, score) {
            (false, "projection") => Method::Reverse(rule),
            _ => Method::Sweep(Rules {
                query_key: false,
                activation: ActivationRule::Linear(rule),
                bias: BiasRule::Gamma,
                sign: false,
            }),
        };
        Some(match rules {
            "default" => Method::Sweep(Rules::SECANT),
            "cdt_gpt" => Method::Sweep(Rules::PUBLISHED),
            "cdt_act" => Method::Sweep(Rules { activation: ActivationRule::Cdt, ..Rules::SECANT }),
            "bias_gamma" => Method::Sweep(Rules { bias: BiasRule::Gamma, ..Rules::SECANT }),
            "linear" => linear(GateRule::Tangent),
            "gate" => linear(GateRule::Gate),
            "half" => linear(GateRule::Half),
            _ => return None,
        })
    }

    async fn traces(&mut self, means: &HeadMeans<B::Tensor>, expected: &Expected) -> Result<(), VerifyError> {
        let batch = self.batch(&[expected.trace.example])?;
        let slots = self.golden.pool.batch_slots(&batch);
        let pool = self.golden.pool.batch(&batch, &slots);
        let source = Head { layer: expected.trace.source.0, head: expected.trace.source.1 };
        for (name, rules) in [("default", Rules::SECANT), ("cdt_gpt", Rules::PUBLISHED)] {
            let prefix = format!("trace.{name}.");
            let wanted: Vec<&String> = self.golden.tensors.keys().filter(|k| k.starts_with(&prefix)).collect();
            let trace: BTreeMap<String, Vec<f32>> = match B::sweep_trace(self.engine, &pool, means, rules, source) {
                Ok(trace) => trace.into_iter().collect(),
                Err(EngineError::RuleUnavailable(device)) => {
                    self.skip(&format!("{prefix}*"), &format!("{device} has no decomposed forward pass"));
                    continue;
                }
                Err(other) => return Err(other.into()),
            };
            for key in wanted {
                let point = &key[prefix.len()..];
                let expected_values = &self.golden.tensors[key].1;
                match trace.get(point) {
                    Some(found) => self.compare(key, &widen(found), expected_values),
                    // Points below the source's layer: β has not started.
                    None => self.compare(key, &vec![0.0; expected_values.len()], expected_values),
                }
            }
        }
        Ok(())
    }

    async fn circuits(&mut self, means: &HeadMeans<B::Tensor>, expected: &Expected) -> Result<(), VerifyError> {
        let variants = [
            ("projection", Method::Sweep(Rules::SECANT), Score::Projection, TargetDirection::Direct, Scope::Global),
            ("magnitude", Method::Sweep(Rules::SECANT), Score::Magnitude, TargetDirection::Direct, Scope::Global),
            (
                "projection_adjoint_target",
                Method::Sweep(Rules::SECANT),
                Score::Projection,
                TargetDirection::Adjoint,
                Scope::Global,
            ),
            (
                "projection_dot_target",
                Method::Sweep(Rules::SECANT),
                Score::Projection,
                TargetDirection::Dot,
                Scope::Global,
            ),
            ("fast", Method::Reverse(GateRule::Tangent), Score::Projection, TargetDirection::Direct, Scope::Global),
            (
                "projection_layer_scope",
                Method::Sweep(Rules::SECANT),
                Score::Projection,
                TargetDirection::Direct,
                Scope::Layer,
            ),
        ];
        for (name, wanted) in &expected.circuits {
            let quantity = format!("circuits.{name}");
            let Some((_, method, score, direction, scope)) = variants.iter().find(|v| v.0 == name).copied() else {
                self.skip(&quantity, "unknown variant");
                continue;
            };
            let how = Expansion { max_depth: 2, ratio: expected.ratio, scope, method, score, direction };
            let depths = match circuit::expand(self.engine, &self.golden.pool, means, &how, &Unwatched).await {
                Ok(depths) => depths,
                Err(EngineError::RuleUnavailable(device)) => {
                    self.skip(&quantity, &format!("{device} has no decomposed forward pass"));
                    continue;
                }
                Err(other) => return Err(other.into()),
            };
            let found: Vec<BTreeSet<Head>> = depths.iter().map(|d| d.heads.iter().copied().collect()).collect();
            let wanted_sets: Vec<BTreeSet<Head>> = wanted.iter().map(|d| head_set(d)).collect();
            self.exact(&quantity, found == wanted_sets, || format!("found {found:?}, expected {wanted_sets:?}"));
            for (i, depth) in depths.iter().enumerate().skip(1) {
                let name = format!("it{i}.{name}");
                if let Some((_, values)) = self.golden.tensors.get(&name) {
                    self.compare(&name, &depth.relevance.mean, values);
                }
            }
            if name == "projection"
                && let Some(first) = depths.first()
            {
                let two: BTreeSet<Head> = found.iter().take(2).flatten().copied().collect();
                let near = circuit::near_zero(
                    &first.relevance.mean,
                    self.engine.config.heads,
                    expected.near_zero_depth1.len(),
                    &two,
                );
                let near: BTreeSet<Head> = near.into_iter().collect();
                self.exact("near_zero_depth1", near == head_set(&expected.near_zero_depth1), || {
                    format!("found {near:?}")
                });
            }
        }
        for (positions, table) in
            [(Positions::All, &expected.faithfulness), (Positions::Last, &expected.faithfulness_last)]
        {
            for (variant, wanted) in table {
                let Some(circuit) = expected.circuits.get(variant) else { continue };
                self.faithfulness(means, positions, variant, circuit, wanted, &expected.baseline).await?;
            }
        }
        for (rule, wanted) in &expected.mask_counts {
            let quantity = format!("mask_counts.{rule}");
            let kv = match rule.as_str() {
                "any" => KvRule::Any,
                "none" => KvRule::None,
                _ => {
                    self.skip(&quantity, "not an option of the product");
                    continue;
                }
            };
            let slices = head_slices(&self.engine.config, &head_set(&expected.train.circuit), kv, NormRule::All);
            self.compare(&quantity, &[trained_weights(&slices) as f64], &[*wanted as f64]);
        }
        Ok(())
    }

    async fn faithfulness(
        &mut self,
        means: &HeadMeans<B::Tensor>,
        positions: Positions,
        variant: &str,
        circuit: &[Vec<(usize, usize)>],
        wanted: &Faithfulness,
        baseline: &Baseline,
    ) -> Result<(), VerifyError> {
        let quantity = format!("faithfulness.{positions:?}.{variant}").to_lowercase();
        let pool = Pool { positions, ..self.golden.pool.clone() };
        let c = &self.engine.config;
        let all = crate::engine::HeadSet::all_but(&BTreeSet::new(), c.layers, c.heads).0;
        let full = circuit::ablation_metrics(self.engine, &pool, means, &all, &Unwatched).await?;
        let empty = circuit::ablation_metrics(self.engine, &pool, means, &BTreeSet::new(), &Unwatched).await?;
        let scale = wanted.full.abs().max(1.0);
        let mut differences = vec![full.logit_difference, empty.logit_difference];
        let mut wanted_differences = vec![wanted.full, wanted.empty];
        let mut accuracies = vec![full.accuracy, empty.accuracy];
        let mut wanted_accuracies = vec![wanted.acc_full, wanted.acc_empty];
        let (mut ratios, mut wanted_ratios, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        let mut kept = BTreeSet::new();
        for (depth, row) in circuit.iter().zip(&wanted.rows) {
            kept.extend(head_set(depth));
            let metrics = circuit::ablation_metrics(self.engine, &pool, means, &kept, &Unwatched).await?;
            differences.push(metrics.logit_difference);
            wanted_differences.push(row.logit_diff);
            accuracies.push(metrics.accuracy);
            wanted_accuracies.push(row.accuracy);
            ratios.push(
                circuit::faithfulness(metrics.logit_difference, full.logit_difference, empty.logit_difference)
                    .unwrap_or(f64::NAN),
            );
            wanted_ratios.push(row.faithfulness);
            sizes.push((kept.len(), row.size));
        }
        let tolerance = Some(self.tolerance * scale);
        self.compare_within(&format!("{quantity}.logit_diff"), &differences, &wanted_differences, tolerance);
        self.compare_within(&format!("{quantity}.faithfulness"), &ratios, &wanted_ratios, Some(self.tolerance));
        self.compare(&format!("{quantity}.accuracy"), &accuracies, &wanted_accuracies);
        self.compare("baseline", &[full.logit_difference, full.accuracy], &[baseline.logit_diff, baseline.accuracy]);
        self.exact(&format!("{quantity}.size"), sizes.iter().all(|(a, b)| a == b), || format!("{sizes:?}"));
        Ok(())
    }

    /// The effect on the logit difference of ablating each head by itself.
    async fn single_heads(&mut self, means: &HeadMeans<B::Tensor>, depth: Depth) -> Result<(), VerifyError> {
        let name = "ablation_effect.per_example";
        let (shape, expected) = &self.golden.tensors[name];
        if !depth.single_heads {
            self.skip(name, "ablating every head by itself takes a forward pass a head (--thorough does it)");
            return Ok(());
        }
        let (examples, heads) = (shape[0], self.engine.config.total_heads());
        let c = &self.engine.config;
        let everything = crate::engine::HeadSet::all_but(&BTreeSet::new(), c.layers, c.heads).0;
        let mut found = vec![0.0; examples * heads];
        for example in 0..examples {
            let pool = Pool { prompts: vec![self.golden.pool.prompts[example].clone()], ..self.golden.pool.clone() };
            let full =
                circuit::ablation_metrics(self.engine, &pool, means, &everything, &Unwatched).await?.logit_difference;
            for (i, head) in everything.iter().enumerate() {
                let mut keep = everything.clone();
                keep.remove(head);
                found[example * heads + i] = full
                    - circuit::ablation_metrics(self.engine, &pool, means, &keep, &Unwatched).await?.logit_difference;
            }
        }
        self.compare(name, &found, expected);
        Ok(())
    }

    async fn training(&mut self, expected: &Expected) -> Result<(), VerifyError> {
        let (engine, golden) = (self.engine, self.golden);
        let slices = full_slices(&engine.config);
        let original = engine.snapshot();
        let before = self.parameters(&slices).await?;
        let whole = self.batch(&self.everything())?;
        let start = engine.answers(&whole, &golden.pool.verbalizer, true).await?;

        let masked = head_slices(&engine.config, &head_set(&expected.train.circuit), KvRule::Any, NormRule::All);
        let (losses, after) = self.train(masked.clone(), &expected.train).await?;
        self.compare("train.losses", &losses, &expected.train.losses);
        self.compare("train.loss_after", &[after], &[expected.train.loss_after]);
        let trained = self.parameters(&slices).await?;
        let mut changed_outside = Vec::new();
        for ((slice, old), new) in slices.iter().zip(&before).zip(&trained) {
            let name = format!("step3.{}", slice.name);
            if let Some((_, values)) = golden.tensors.get(&name) {
                self.compare(&name, &widen(new), values);
            }
            let own: Vec<&ParameterSlice> = masked.iter().filter(|m| m.name == slice.name).collect();
            let columns = slice.cols.len();
            let outside =
                |i: usize| !own.iter().any(|m| m.rows.contains(&(i / columns)) && m.cols.contains(&(i % columns)));
            if (0..old.len()).any(|i| outside(i) && old[i].to_bits() != new[i].to_bits()) {
                changed_outside.push(slice.name.clone());
            }
        }
        self.exact("untrained weights bit-identical", changed_outside.is_empty(), || {
            format!("changed outside the mask: {}", changed_outside.join(", "))
        });
        let end = engine.answers(&whole, &golden.pool.verbalizer, true).await?;
        self.compare(
            "kl_before_after",
            &[kl_divergence(&start.label_logits, &end.label_logits)],
            &[expected.kl_before_after],
        );
        let cka: Vec<f64> =
            start.residuals.iter().zip(&end.residuals).map(|(x, y)| linear_cka(x, y, whole.labels.len())).collect();
        let wanted: Vec<f64> = expected.cka_per_layer.iter().map(|x| x.unwrap_or(f64::NAN)).collect();
        self.compare("cka_per_layer", &cka, &wanted);

        // Each arm trains masters of its own over the same weights.
        engine.restore(&original);
        let restored = self.parameters(&slices).await?;
        self.exact("restored weights bit-identical", restored == before, || "a snapshot put back other values".into());
        let (losses, after) = self.train(slices.clone(), &expected.train).await?;
        self.compare("train_full.losses", &losses, &expected.train_full.losses);
        self.compare("train_full.loss_after", &[after], &[expected.train_full.loss_after]);
        engine.restore(&original);
        Ok(())
    }

    async fn parameters(&self, slices: &[ParameterSlice]) -> Result<Vec<Vec<f32>>, VerifyError> {
        let mut all = Vec::with_capacity(slices.len());
        for slice in slices {
            all.push(self.engine.read_parameter(&slice.name).await?);
        }
        Ok(all)
    }

    async fn train(&self, slices: Vec<ParameterSlice>, how: &Train) -> Result<(Vec<f64>, f64), VerifyError> {
        let o = &how.optimizer;
        let optimiser = AdamW { beta1: o.b1, beta2: o.b2, eps: o.eps, weight_decay: o.wd, clip: o.clip };
        let mut training = self.engine.train(&slices, UpdateRule::AdamW)?;
        let mut losses = Vec::new();
        let mean = |losses: Vec<f32>| losses.iter().map(|x| f64::from(*x)).sum::<f64>() / losses.len() as f64;
        for members in &how.batches {
            let batch = self.batch(members)?;
            let loss = self.engine.train_step(
                &batch,
                Objective::Answer { verbalizer: &self.golden.pool.verbalizer, over: LossOver::Vocab },
                &optimiser,
                o.lr,
                &mut training,
            )?;
            losses.push(mean(self.engine.backend.read(&[&loss]).await?.swap_remove(0)));
        }
        let whole = self.batch(&self.everything())?;
        let after = mean(self.engine.answers(&whole, &self.golden.pool.verbalizer, false).await?.losses);
        Ok((losses, after))
    }
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| f64::from(*v)).collect()
}

fn head_set(heads: &[(usize, usize)]) -> BTreeSet<Head> {
    heads.iter().map(|(layer, head)| Head { layer: *layer, head: *head }).collect()
}

fn gate_rule(name: &str) -> Option<GateRule> {
    Some(match name {
        "tangent" => GateRule::Tangent,
        "gate" => GateRule::Gate,
        "half" => GateRule::Half,
        _ => return None,
    })
}

fn score_of(name: &str) -> Option<Score> {
    Some(match name {
        "projection" => Score::Projection,
        "magnitude" => Score::Magnitude,
        _ => return None,
    })
}

fn positions_of(name: &str) -> Option<Positions> {
    Some(match name {
        "all" => Positions::All,
        "last" => Positions::Last,
        _ => return None,
    })
}
