//! The operations a backend computes: each forward beside its backward. All tensors are row-major f32 matrices;
//! frozen weights stay in the form of the checkpoint.

use super::relevance::{Head, HeadMeans, PoolBatch, Target};
use super::weights::{Place, Weight};
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

/// Where each packed token stands (METHOD.md §0): sequences lie end to end, without padding.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedLayout {
    /// First token of each sequence, and the total at the end: B+1 entries.
    pub starts: Vec<usize>,
}

impl PackedLayout {
    pub fn tokens(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    pub fn sequences(&self) -> usize {
        self.starts.len() - 1
    }

    /// Entries of one head's packed causal attention patterns: row t of a sequence has t+1 of them.
    pub fn pattern_entries(&self) -> usize {
        self.starts.windows(2).map(|w| (w[1] - w[0]) * (w[1] - w[0] + 1) / 2).sum()
    }

    /// For each token: start of its sequence, position in it, end of its sequence, offset of its pattern row.
    pub fn rows(&self) -> Vec<[usize; 4]> {
        let mut rows = Vec::with_capacity(self.tokens());
        let mut offset = 0;
        for w in self.starts.windows(2) {
            for position in 0..w[1] - w[0] {
                rows.push([w[0], position, w[1], offset]);
                offset += position + 1;
            }
        }
        rows
    }

    /// Row of each sequence's last token: the answer positions.
    pub fn answers(&self) -> Vec<u32> {
        self.starts[1..].iter().map(|end| (end - 1) as u32).collect()
    }

    /// Rows with a next token in their own sequence: all but the answer positions.
    pub fn predicting(&self) -> Vec<u32> {
        self.starts.windows(2).flat_map(|w| w[0] as u32..(w[1] as u32).saturating_sub(1)).collect()
    }
}

/// Row indices, with their inverse: for each distinct index the places where it stands.
#[derive(Debug, Clone)]
pub struct PackedIds {
    pub ids: Vec<u32>,
    /// Distinct ids in rising order.
    pub distinct: Vec<u32>,
    /// `places[offsets[i]..offsets[i+1]]` are the places of `distinct[i]` in `ids`.
    pub offsets: Vec<u32>,
    pub places: Vec<u32>,
}

impl PackedIds {
    pub fn new(ids: Vec<u32>) -> Self {
        let mut places: Vec<u32> = (0..ids.len() as u32).collect();
        places.sort_by_key(|&place| (ids[place as usize], place));
        let (mut distinct, mut offsets) = (Vec::new(), Vec::new());
        for (i, &place) in places.iter().enumerate() {
            let id = ids[place as usize];
            if distinct.last() != Some(&id) {
                distinct.push(id);
                offsets.push(i as u32);
            }
        }
        offsets.push(ids.len() as u32);
        Self { ids, distinct, offsets, places }
    }
}

/// Views of flat tensors start at multiples of this many values: WebGPU binds at multiples of 256 bytes.
pub const ALIGNMENT: usize = 64;

/// A device that computes the operations of the transformer. Operations are queued in order; only [`Backend::read`]
/// waits. Shapes: N tokens, B sequences, D hidden, H query heads, K key/value heads, d head size, I MLP width.
#[allow(async_fn_in_trait)]
pub trait Backend: Sized {
    /// A cheap handle to a matrix on the device.
    type Tensor: Clone;
    /// A weight matrix in its stored form, which nothing ever changes.
    type Stored;
    /// Trained windows of a weight matrix, to be read in place of what lies below them.
    type Overlay: Clone;
    /// Row indices on the device.
    type Ids;
    /// A packed layout on the device.
    type Layout;

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
    /// The places (windows of one matrix, in the flat tensor `masters`) as an overlay. All are full rows, or all are
    /// full columns and equally many.
    fn overlay(&self, shape: (usize, usize), places: &[Place], masters: &Self::Tensor) -> Result<Self::Overlay>;
    /// `x · Wᵀ` if `transposed`, else `x · W`, `(+ bias to each row) (+ residual)`.
    fn product(
        &self,
        x: &Self::Tensor,
        weight: &Weight<'_, Self>,
        transposed: bool,
        bias: Option<&Self::Tensor>,
        residual: Option<&Self::Tensor>,
    ) -> Result<Self::Tensor>;
    /// The weight's rows `ids`, columns `cols`, widened.
    fn weight_rows(&self, weight: &Weight<'_, Self>, ids: &Self::Ids, cols: Range<usize>) -> Result<Self::Tensor>;
    fn ids(&self, ids: PackedIds) -> Result<Self::Ids>;
    fn layout(&self, layout: PackedLayout) -> Result<Self::Layout>;
    /// Waits for the tensors and copies them out.
    async fn read(&self, tensors: &[&Self::Tensor]) -> Result<Vec<Vec<f32>>>;

    /// `a · b (+ residual)`.
    fn matmul(
        &self,
        a: Operand<Self::Tensor>,
        b: Operand<Self::Tensor>,
        residual: Option<&Self::Tensor>,
    ) -> Result<Self::Tensor>;
    /// `dyᵀ · x` into `out`.
    fn weight_gradient(&self, dy: Operand<Self::Tensor>, x: Operand<Self::Tensor>, out: &Self::Tensor) -> Result<()>;
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
    /// Gradient to `x` of [`Backend::rms_norm`]; `frozen` takes the factors `r` as constants.
    fn rms_norm_backward(
        &self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        r: &Self::Tensor,
        frozen: bool,
    ) -> Result<Self::Tensor>;
    /// Gradient to the gain, into `out [1, D]`.
    fn rms_norm_gain_gradient(
        &self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        r: &Self::Tensor,
        out: &Self::Tensor,
    ) -> Result<()>;

    /// Rotary embedding of `x [N, heads·d]` by each token's position; `inverse` rotates back, which is its backward.
    fn rotate(
        &self,
        x: &Self::Tensor,
        head_dim: usize,
        layout: &Self::Layout,
        rotary: &(Self::Tensor, Self::Tensor),
        inverse: bool,
    ) -> Result<Self::Tensor>;

    /// Causal softmax patterns `[H, pattern entries]` of `q [N, H·d]`, `k [N, K·d]`.
    fn attention_pattern(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        head_dim: usize,
        layout: &Self::Layout,
    ) -> Result<Self::Tensor>;
    /// `out[t,h] = Σ_s pattern[h,t,s] · v[s, kv(h)]`: `[N, H·d]`.
    fn attention_mix(
        &self,
        pattern: &Self::Tensor,
        v: &Self::Tensor,
        head_dim: usize,
        layout: &Self::Layout,
    ) -> Result<Self::Tensor>;
    /// `out[s,j] = Σ_{h reads j} Σ_t pattern[h,t,s] · dz[t,h]`: `[N, K·d]`, the backward of mix to `v`.
    fn attention_mix_backward(
        &self,
        pattern: &Self::Tensor,
        dz: &Self::Tensor,
        kv_heads: usize,
        head_dim: usize,
        layout: &Self::Layout,
    ) -> Result<Self::Tensor>;
    /// Gradient to the scores before softmax, already divided by `sqrt(d)`, in the pattern's layout. Mixed with `k`
    /// it is the gradient to `q`; its mix-backward with `q` is the gradient to `k`.
    fn attention_pattern_backward(
        &self,
        pattern: &Self::Tensor,
        dz: &Self::Tensor,
        v: &Self::Tensor,
        head_dim: usize,
        layout: &Self::Layout,
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
    /// Copies a matrix into the window of `to` that starts at `(row, col)`.
    fn write_window(&self, to: &Self::Tensor, row: usize, col: usize, window: &Self::Tensor) -> Result<()>;

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
