//! The operations a backend computes: each forward beside its backward. All tensors are row-major f32 matrices;
//! frozen weights stay in the form of the checkpoint.

use super::layout::{Attention, PackedIds};
use super::relevance::{Head, HeadMeans, PoolBatch, Target};
use super::weights::Weight;
use super::{Engine, EngineError, Result, Rules, Score, Trace};
use crate::model::{Form, Rows};
use std::ops::Range;

/// Which of the linear rules of METHOD.md §2 the SwiGLU's reverse pass follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateRule {
    /// The derivative itself: training, and the `linear` rule set (tangent).
    Tangent,
    /// The gate is a constant.
    Gate,
    /// Half to each factor, the gate's sigmoid a constant.
    Half,
}

/// One side of a matrix product: some columns of a tensor, transposed or not.
pub struct Operand<'a, T> {
    pub tensor: &'a T,
    /// First column taken.
    pub start: usize,
    /// Number of columns taken.
    pub columns: usize,
    pub transposed: bool,
}

/// Which rows of an attention are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Queries,
    Keys,
}

/// An attention's inputs and what it made of them. Patterns are not kept: they are computed again from these.
pub struct Attended<'a, T: ?Sized> {
    pub q: &'a T,
    pub k: &'a T,
    pub v: &'a T,
    pub z: &'a T,
    /// Of each query's softmax, by head, in the backend's own layout: the logarithm of its sum at least.
    pub sums: &'a T,
}

/// Views of flat tensors start at multiples of this many values: WebGPU binds at multiples of 256 bytes.
pub const ALIGNMENT: usize = 64;

/// A device that computes the operations of the transformer. Operations are queued in order; only [`Backend::read`]
/// waits. Shapes: N tokens, Q of them queries, B sequences, D hidden, H query heads, K key/value heads, d head size, I MLP width.
#[allow(async_fn_in_trait)]
pub trait Backend: Sized {
    /// A cheap handle to a matrix on the device.
    type Tensor: Clone;
    /// A weight matrix in its stored form, which nothing ever changes.
    type Stored;
    /// Row indices on the device.
    type Ids;
    /// Who attends to whom, on the device.
    type Attention;

    /// The device's name, for the record.
    fn device(&self) -> String;
    /// Most bytes that tensors held at once on a device with a memory of its own.
    fn peak_bytes(&self) -> Option<u64> {
        None
    }
    /// Bytes that tensors hold now on such a device.
    fn bytes_in_use(&self) -> u64 {
        0
    }
    /// Keeps no more idle memory than fits under `bytes` in all.
    fn limit_memory(&self, _bytes: u64) {}
    /// Kernels run so far on a device that is given them one by one.
    fn dispatches(&self) -> Option<u64> {
        None
    }
    /// Largest number of tokens worth packing into one batch.
    fn batch_tokens(&self) -> usize;
    fn shape(&self, x: &Self::Tensor) -> (usize, usize);
    /// Lets queued work start, without waiting for it.
    fn submit(&self);

    fn upload(&self, data: &[f32], rows: usize, cols: usize) -> Result<Self::Tensor>;
    fn zeros(&self, rows: usize, cols: usize) -> Result<Self::Tensor>;
    /// Values that one tensor can hold.
    fn largest_tensor(&self) -> usize {
        usize::MAX
    }
    /// The `rows·cols` values of a flat tensor from `start` on (a multiple of [`ALIGNMENT`]), as a matrix that shares
    /// its memory.
    fn view(&self, flat: &Self::Tensor, start: usize, rows: usize, cols: usize) -> Result<Self::Tensor>;
    /// Overwrites a tensor with zeros.
    fn clear(&self, x: &Self::Tensor) -> Result<()>;

    /// Room for a matrix in its stored form, to be filled by [`Backend::fill`]. `name` is for errors.
    fn stored(&self, name: &str, form: Form, rows: usize, cols: usize) -> Result<Self::Stored>;
    /// Puts rows into their place, from row `first` on; called in order of the rows.
    fn fill(&self, stored: &mut Self::Stored, first: usize, rows: &Rows) -> Result<()>;
    /// `x · Wᵀ` if `transposed`, else `x · W`, `(+ bias to each row) (+ residual)`; trained windows aside.
    fn product(
        &self,
        x: &Self::Tensor,
        weight: &Weight<'_, Self>,
        transposed: bool,
        bias: Option<&Self::Tensor>,
        residual: Option<&Self::Tensor>,
    ) -> Result<Self::Tensor>;
    /// The weight's rows `ids`, columns `cols`, widened; trained windows aside.
    fn weight_rows(&self, weight: &Weight<'_, Self>, ids: &Self::Ids, cols: Range<usize>) -> Result<Self::Tensor>;
    fn ids(&self, ids: PackedIds) -> Result<Self::Ids>;
    fn attention(&self, attention: Attention) -> Result<Self::Attention>;
    /// Waits for the tensors and copies them out.
    async fn read(&self, tensors: &[&Self::Tensor]) -> Result<Vec<Vec<f32>>>;

    /// `a · b (+ residual)`.
    fn matmul(
        &self,
        a: Operand<Self::Tensor>,
        b: Operand<Self::Tensor>,
        residual: Option<&Self::Tensor>,
    ) -> Result<Self::Tensor>;
    /// `a · b (+ bias)` into the columns of `out` from `start` on; the bias has a value for each column of `out`.
    fn matmul_into(
        &self,
        a: Operand<Self::Tensor>,
        b: Operand<Self::Tensor>,
        bias: Option<&Self::Tensor>,
        out: &Self::Tensor,
        start: usize,
    ) -> Result<()>;
    fn add(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor>;
    /// Sum over rows of the columns `start..start+columns`, into the same columns of `out [1, cols]`.
    fn column_sum(&self, x: &Self::Tensor, start: usize, columns: usize, out: &Self::Tensor) -> Result<()>;
    /// Each column times its factor; `factors [1, cols]`.
    fn scale_columns(&self, x: &Self::Tensor, factors: &Self::Tensor) -> Result<Self::Tensor>;

    /// Rows `ids` of `table`.
    fn gather_rows(&self, table: &Self::Tensor, ids: &Self::Ids) -> Result<Self::Tensor>;
    /// Adds to row `id` of `out` the rows of `x` that stand where `id` stands: gather's backward.
    fn scatter_rows(&self, x: &Self::Tensor, ids: &Self::Ids, out: &Self::Tensor) -> Result<()>;

    /// `x · r ⊙ gain` and the factors `r [N,1] = 1/sqrt(mean(x²)+eps)`; `gain [1, D]`.
    fn rms_norm(&self, x: &Self::Tensor, gain: &Self::Tensor, eps: f64) -> Result<(Self::Tensor, Self::Tensor)>;
    /// `x · r ⊙ gain`, the factors given.
    fn rms_scale(&self, x: &Self::Tensor, gain: &Self::Tensor, r: &Self::Tensor) -> Result<Self::Tensor>;
    /// Gradient to `x` of [`Backend::rms_norm`] `(+ residual)`; `frozen` takes the factors `r` as constants.
    fn rms_norm_backward(
        &self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        r: &Self::Tensor,
        frozen: bool,
        residual: Option<&Self::Tensor>,
    ) -> Result<Self::Tensor>;
    /// Gradient to the gain, into `out [1, D]`.
    fn rms_norm_gain_gradient(
        &self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        r: &Self::Tensor,
        out: &Self::Tensor,
    ) -> Result<()>;

    /// Rotary embedding of `x [rows, heads·d]` by each row's position; `inverse` rotates back, which is its backward.
    fn rotate(
        &self,
        x: &Self::Tensor,
        head_dim: usize,
        attention: &Self::Attention,
        side: Side,
        rotary: &(Self::Tensor, Self::Tensor),
        inverse: bool,
    ) -> Result<Self::Tensor>;

    /// Causal softmax attention of `q [Q, H·d]` over `k`, `v [N, K·d]`: `z [Q, H·d]`, and the sums of [`Attended`].
    fn attend(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        head_dim: usize,
        attention: &Self::Attention,
    ) -> Result<(Self::Tensor, Self::Tensor)>;
    /// Gradients to `q`, `k` and `v` from that to `z`.
    fn attend_backward(
        &self,
        dz: &Self::Tensor,
        at: &Attended<'_, Self::Tensor>,
        head_dim: usize,
        attention: &Self::Attention,
    ) -> Result<(Self::Tensor, Self::Tensor, Self::Tensor)>;
    /// The gradient to `v` alone, `[N, K·d]`: what is left of it where patterns are constants.
    fn attend_backward_values(
        &self,
        dz: &Self::Tensor,
        at: &Attended<'_, Self::Tensor>,
        head_dim: usize,
        attention: &Self::Attention,
    ) -> Result<Self::Tensor>;

    /// Heads flagged in `flags [1, H]` take `means[slot of the token]` instead of `z`; `slots` indexes rows of
    /// `means [S, H·d]` for each token.
    fn replace_heads(
        &self,
        z: &Self::Tensor,
        means: &Self::Tensor,
        slots: &Self::Ids,
        flags: &Self::Tensor,
        head_dim: usize,
    ) -> Result<Self::Tensor>;
    /// `[N, H]`: `⟨z[t,h] − means[slot(t),h], gradient[t,h]⟩`.
    fn head_products(
        &self,
        z: &Self::Tensor,
        means: &Self::Tensor,
        slots: &Self::Ids,
        gradient: &Self::Tensor,
        head_dim: usize,
    ) -> Result<Self::Tensor>;

    /// `SiLU(gate) ⊙ up`.
    fn swiglu(&self, gate: &Self::Tensor, up: &Self::Tensor) -> Result<Self::Tensor>;
    /// Gradients to gate and up.
    fn swiglu_backward(
        &self,
        dy: &Self::Tensor,
        gate: &Self::Tensor,
        up: &Self::Tensor,
        rule: GateRule,
    ) -> Result<(Self::Tensor, Self::Tensor)>;

    /// Loss of each row, `[B,1]`: `−log softmax(logits)[target]`, and the gradient of their mean to the logits.
    fn cross_entropy(&self, logits: &Self::Tensor, targets: &Self::Ids) -> Result<(Self::Tensor, Self::Tensor)>;

    /// `[1,1]`: the sum of all squares in the tensors.
    fn sum_of_squares(&self, tensors: &[Self::Tensor]) -> Result<Self::Tensor>;
    /// One AdamW update of `parameters` (METHOD.md §7); all four tensors are flat. Only the first `decayed` values
    /// decay. `norm_squared` is that of all gradients before clipping.
    #[allow(clippy::too_many_arguments)]
    fn adamw(
        &self,
        parameters: &Self::Tensor,
        gradients: &Self::Tensor,
        m: &Self::Tensor,
        v: &Self::Tensor,
        norm_squared: &Self::Tensor,
        decayed: usize,
        step: &super::optimiser::Step,
    ) -> Result<()>;
    /// One Adafactor update of a matrix ([`super::optimiser::LeanStep`]). `rows [R, 1]` and `cols [1, C]` are the kept means
    /// of the squared gradients; the gradient is overwritten.
    fn adafactor(
        &self,
        parameters: &Self::Tensor,
        gradient: &Self::Tensor,
        rows: &Self::Tensor,
        cols: &Self::Tensor,
        step: &super::optimiser::LeanStep,
    ) -> Result<()>;
    /// Copies the window `(rows, cols)` of `from` to the window of `to` that starts at `(row, col)`.
    fn copy_window(
        &self,
        to: &Self::Tensor,
        row: usize,
        col: usize,
        from: &Self::Tensor,
        rows: Range<usize>,
        cols: Range<usize>,
    ) -> Result<()>;

    /// Whether [`Backend::sweep_relevance`] and [`Backend::sweep_trace`] exist.
    fn has_sweep(&self) -> bool {
        false
    }

    /// Relevance of every head on one example (`pool` holds just it) by a decomposed forward pass, `[L·H]`; 0 where no
    /// target lies above. `first` is the first token that can be a source's: a prefix common to the pool equals its mean.
    ///
    /// # Errors
    /// [`EngineError::RuleUnavailable`] where the backend has no such pass.
    fn sweep_relevance(
        engine: &Engine<Self>,
        _pool: &PoolBatch<'_>,
        _means: &HeadMeans<Self::Tensor>,
        _rules: Rules,
        _score: Score,
        _target: Target<'_>,
        _first: usize,
    ) -> Result<Vec<f64>> {
        Err(EngineError::RuleUnavailable(engine.backend.device()))
    }

    /// β of one source at every named point of the decomposed forward pass.
    ///
    /// # Errors
    /// [`EngineError::RuleUnavailable`] where the backend has no such pass.
    fn sweep_trace(
        engine: &Engine<Self>,
        _pool: &PoolBatch<'_>,
        _means: &HeadMeans<Self::Tensor>,
        _rules: Rules,
        _source: Head,
    ) -> Result<Trace> {
        Err(EngineError::RuleUnavailable(engine.backend.device()))
    }
}
