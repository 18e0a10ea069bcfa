//! The model's weights: frozen in the checkpoint's form, with f32 masters of what is trained lying over them.
//!
//! Nothing ever writes to the frozen weights, and every training has masters of its own: to go back to an earlier state
//! is to look through its masters again.

use super::backend::ALIGNMENT;
use super::{Backend, Engine, EngineError, PackedIds, Result};
use crate::model::{Checkpoint, EMBEDDING, ModelConfig, Parameter};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;

/// Bytes of weights read and moved to the device at once.
const PIECE_BYTES: u64 = 8 << 20;

/// Runs of rows that make up [`PIECE_BYTES`] each.
fn pieces(rows: Range<usize>, row_bytes: u64) -> impl Iterator<Item = Range<usize>> {
    let step = (PIECE_BYTES / row_bytes.max(1)).max(1) as usize;
    rows.clone().step_by(step).map(move |first| first..(first + step).min(rows.end))
}

/// A rectangle of a weight: all of it, a head's rows of `W_Q`, a head's columns of `W_O`. Vectors have one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSlice {
    pub name: String,
    pub rows: Range<usize>,
    pub cols: Range<usize>,
    /// Biases and norm gains, which weight decay leaves alone.
    pub vector: bool,
}

impl ParameterSlice {
    /// Number of weights in it.
    pub fn len(&self) -> usize {
        self.rows.len() * self.cols.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A slice and where its master lies in its segment.
#[derive(Debug, Clone)]
pub struct Place {
    pub slice: ParameterSlice,
    /// Flat tensor that holds it, by number.
    pub segment: usize,
    /// First value of it there. Vectors are held whole, whatever part of them is trained.
    pub start: usize,
}

/// Flat tensors with room for the masters of slices: matrices first, then vectors. Gradients and moments have the same
/// layout.
#[derive(Debug, Clone, Default)]
pub struct Segments {
    pub places: Vec<Place>,
    /// Values in each segment, and how many of them belong to matrices.
    pub sizes: Vec<(usize, usize)>,
}

impl Segments {
    /// Lays out `slices` in segments of at most `largest` values.
    pub(super) fn new(slices: &[ParameterSlice], config: &ModelConfig, largest: usize) -> Self {
        let widths: HashMap<String, usize> = config.parameters().into_iter().map(|p| (p.name, p.cols)).collect();
        let width = |name: &str| widths.get(name).copied().unwrap_or(0);
        let mut sizes: Vec<(usize, usize)> = Vec::new();
        let mut starts: HashMap<usize, (usize, usize)> = HashMap::new();
        let mut vectors: HashMap<&str, (usize, usize)> = HashMap::new();
        let mut room = |len: usize, decayed: bool| {
            let len = len.next_multiple_of(ALIGNMENT);
            if sizes.last().is_none_or(|(used, _)| used + len > largest) {
                sizes.push((0, 0));
            }
            let segment = sizes.len() - 1;
            let start = sizes[segment].0;
            sizes[segment].0 += len;
            if decayed {
                sizes[segment].1 = sizes[segment].0;
            }
            (segment, start)
        };
        // A matrix's slices lie in one segment: they are laid out together.
        let mut matrices: Vec<(&str, Vec<usize>)> = Vec::new();
        for (i, slice) in slices.iter().enumerate().filter(|(_, s)| !s.vector) {
            match matrices.iter_mut().find(|(name, _)| *name == slice.name) {
                Some((_, members)) => members.push(i),
                None => matrices.push((&slice.name, vec![i])),
            }
        }
        for (_, members) in matrices {
            let lengths: Vec<usize> = members.iter().map(|i| slices[*i].len().next_multiple_of(ALIGNMENT)).collect();
            let (segment, mut start) = room(lengths.iter().sum(), true);
            for (i, len) in members.into_iter().zip(lengths) {
                starts.insert(i, (segment, start));
                start += len;
            }
        }
        for (i, slice) in slices.iter().enumerate().filter(|(_, s)| s.vector) {
            let place = *vectors.entry(&slice.name).or_insert_with(|| room(width(&slice.name), false));
            starts.insert(i, place);
        }
        let place = |(i, slice): (usize, &ParameterSlice)| {
            let (segment, start) = starts[&i];
            Place { slice: slice.clone(), segment, start }
        };
        Self { places: slices.iter().enumerate().map(place).collect(), sizes }
    }

    /// Places of a parameter's slices.
    pub fn of<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Place> + use<'a> {
        let name = name.to_string();
        self.places.iter().filter(move |p| p.slice.name == name)
    }
}

/// Masters over a matrix.
enum Masters<B: Backend> {
    /// Of all of it.
    Whole(B::Tensor),
    /// Of some windows of what lies below.
    Windows { below: Option<B::Tensor>, windows: Rc<Windows<B::Tensor>> },
}

/// Trained windows of a matrix: whole rows each, or whole columns each.
pub struct Windows<T> {
    pub by_column: bool,
    /// Rows (or columns) of each, and their masters.
    pub masters: Vec<(Range<usize>, T)>,
    /// A factor for each row (column): 0 where trained, else 1.
    pub untrained: T,
}

impl<B: Backend> Clone for Masters<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Whole(whole) => Self::Whole(whole.clone()),
            Self::Windows { below, windows } => Self::Windows { below: below.clone(), windows: windows.clone() },
        }
    }
}

/// What lies over the frozen weights, by name.
pub(super) struct Tuned<B: Backend> {
    matrices: HashMap<String, Masters<B>>,
    vectors: HashMap<String, B::Tensor>,
}

impl<B: Backend> Default for Tuned<B> {
    fn default() -> Self {
        Self { matrices: HashMap::new(), vectors: HashMap::new() }
    }
}

impl<B: Backend> Clone for Tuned<B> {
    fn clone(&self) -> Self {
        Self { matrices: self.matrices.clone(), vectors: self.vectors.clone() }
    }
}

/// A matrix as it is read: trained windows over trained or frozen values.
pub struct Weight<'a, B: Backend> {
    pub frozen: &'a B::Stored,
    /// Stands for all of `frozen`.
    pub whole: Option<B::Tensor>,
    pub windows: Option<Rc<Windows<B::Tensor>>>,
    pub rows: usize,
    pub cols: usize,
}

/// A state of the weights to return to.
pub struct Snapshot<B: Backend>(Tuned<B>);

/// The frozen weights.
pub(super) struct Frozen<B: Backend> {
    matrices: HashMap<String, (B::Stored, usize, usize)>,
    vectors: HashMap<String, B::Tensor>,
}

impl<B: Backend> Frozen<B> {
    /// Moves a checkpoint's weights to the backend, piece by piece. `progress` gets (weights done, weights in all).
    pub fn load(backend: &B, checkpoint: &mut Checkpoint, mut progress: impl FnMut(usize, usize)) -> Result<Self> {
        let parameters = checkpoint.config.parameters();
        let total = checkpoint.config.parameter_count();
        let (mut matrices, mut vectors, mut done) = (HashMap::new(), HashMap::new(), 0);
        for parameter in parameters {
            let Parameter { name, rows, cols, vector } = &parameter;
            progress(done, total);
            if *vector {
                let data = checkpoint.read(&parameter)?;
                vectors.insert(name.clone(), backend.upload(&data, 1, *cols)?);
                done += cols;
                continue;
            }
            let form = checkpoint.form(name)?;
            let mut stored = backend.stored(name, form, *rows, *cols)?;
            for piece in pieces(0..*rows, form.bytes(1, *cols)) {
                backend.fill(&mut stored, piece.start, &checkpoint.read_rows(&parameter, form, piece.clone())?)?;
                done += piece.len() * cols;
                progress(done, total);
            }
            matrices.insert(name.clone(), (stored, *rows, *cols));
        }
        progress(total, total);
        Ok(Self { matrices, vectors })
    }
}

impl<B: Backend> Engine<B> {
    /// A matrix as it is now.
    pub(super) fn weight(&self, name: &str) -> Result<Weight<'_, B>> {
        let unknown = || EngineError::UnknownParameter(name.into());
        let (frozen, rows, cols) = self.frozen.matrices.get(name).ok_or_else(unknown)?;
        let (whole, windows) = match self.tuned.borrow().matrices.get(name) {
            None => (None, None),
            Some(Masters::Whole(whole)) => (Some(whole.clone()), None),
            Some(Masters::Windows { below, windows }) => (below.clone(), Some(windows.clone())),
        };
        Ok(Weight { frozen, whole, windows, rows: *rows, cols: *cols })
    }

    /// A bias or a gain as it is now; `None` where the family has none.
    pub(super) fn optional_vector(&self, name: &str) -> Option<B::Tensor> {
        self.tuned.borrow().vectors.get(name).or_else(|| self.frozen.vectors.get(name)).cloned()
    }

    /// A bias or a gain as it is now.
    pub(super) fn vector(&self, name: &str) -> Result<B::Tensor> {
        self.optional_vector(name).ok_or_else(|| EngineError::UnknownParameter(name.into()))
    }

    /// Where gradients to `slices` are put.
    ///
    /// # Errors
    /// An unknown parameter.
    pub fn segments(&self, slices: &[ParameterSlice]) -> Result<Segments> {
        for slice in slices {
            if !self.frozen.matrices.contains_key(&slice.name) && !self.frozen.vectors.contains_key(&slice.name) {
                return Err(EngineError::UnknownParameter(slice.name.clone()));
            }
        }
        Ok(Segments::new(slices, &self.config, self.backend.largest_tensor()))
    }

    /// The flat tensors of `segments`, zero.
    ///
    /// # Errors
    /// A device failure.
    pub fn flat(&self, segments: &Segments) -> Result<Vec<B::Tensor>> {
        segments.sizes.iter().map(|(size, _)| self.backend.zeros(1, *size)).collect()
    }

    /// Lays fresh masters, equal to the present values, over the slices; returns their flat tensors.
    pub(super) fn lay_masters(&self, segments: &Segments) -> Result<Vec<B::Tensor>> {
        let b = &self.backend;
        let flat = self.flat(segments)?;
        let mut tuned = self.tuned.borrow().clone();
        let mut parameters: BTreeMap<&str, Vec<Place>> = BTreeMap::new();
        for place in &segments.places {
            parameters.entry(&place.slice.name).or_default().push(place.clone());
        }
        for (name, places) in parameters {
            let masters = &flat[places[0].segment];
            if places[0].slice.vector {
                let present = self.vector(name)?;
                let master = b.view(masters, places[0].start, 1, b.shape(&present).1)?;
                b.copy_window(&master, 0, 0, &present, 0..1, 0..b.shape(&present).1)?;
                tuned.vectors.insert(name.into(), master);
                continue;
            }
            let weight = self.weight(name)?;
            for Place { slice, start, .. } in &places {
                let master = b.view(masters, *start, slice.rows.len(), slice.cols.len())?;
                self.widen(&weight, slice.rows.clone(), slice.cols.clone(), &master)?;
            }
            let whole = places[0].slice.len() == weight.rows * weight.cols;
            let laid = if whole {
                Masters::Whole(b.view(masters, places[0].start, weight.rows, weight.cols)?)
            } else {
                let below = match weight.windows {
                    // Windows over windows: those below become part of a whole.
                    Some(_) => {
                        let all = b.zeros(weight.rows, weight.cols)?;
                        self.widen(&weight, 0..weight.rows, 0..weight.cols, &all)?;
                        Some(all)
                    }
                    None => weight.whole.clone(),
                };
                Masters::Windows { below, windows: Rc::new(self.windows(name, &weight, &places, masters)?) }
            };
            tuned.matrices.insert(name.into(), laid);
        }
        self.tuned.replace(tuned);
        Ok(flat)
    }

    /// Copies a window's present values to `out`, piece by piece.
    fn widen(&self, weight: &Weight<'_, B>, rows: Range<usize>, cols: Range<usize>, out: &B::Tensor) -> Result<()> {
        let start = rows.start;
        for piece in pieces(rows, 4 * cols.len() as u64) {
            let first = piece.start - start;
            let rows = 0..piece.len();
            let values = self.widened(weight, piece, cols.clone())?;
            self.backend.copy_window(out, first, 0, &values, rows, 0..cols.len())?;
        }
        Ok(())
    }

    /// The places, windows of one matrix, as they lie in the flat tensor `masters`.
    fn windows(
        &self,
        name: &str,
        weight: &Weight<'_, B>,
        places: &[Place],
        masters: &B::Tensor,
    ) -> Result<Windows<B::Tensor>> {
        let whole_rows = places.iter().all(|p| p.slice.cols.len() == weight.cols);
        let whole_columns = places.iter().all(|p| p.slice.rows.len() == weight.rows);
        // Embeddings are read by row as well as multiplied.
        if !(whole_rows || whole_columns) || name == EMBEDDING || name == self.config.unembedding() {
            return Err(EngineError::Untrainable(name.into()));
        }
        let by_column = !whole_rows;
        let mut untrained = vec![1.0; if by_column { weight.cols } else { weight.rows }];
        let mut windows = Vec::with_capacity(places.len());
        for Place { slice, start, .. } in places {
            let span = if by_column { slice.cols.clone() } else { slice.rows.clone() };
            untrained[span.clone()].fill(0.0);
            windows.push((span, self.backend.view(masters, *start, slice.rows.len(), slice.cols.len())?));
        }
        let untrained = self.backend.upload(&untrained, 1, untrained.len())?;
        Ok(Windows { by_column, masters: windows, untrained })
    }

    /// A window's present values.
    fn widened(&self, weight: &Weight<'_, B>, rows: Range<usize>, cols: Range<usize>) -> Result<B::Tensor> {
        let b = &self.backend;
        let ids = PackedIds::new((rows.start as u32..rows.end as u32).collect());
        let out = b.weight_rows(weight, &b.ids(ids)?, cols.clone())?;
        let Some(windows) = &weight.windows else { return Ok(out) };
        let wanted = if windows.by_column { &cols } else { &rows };
        for (span, master) in &windows.masters {
            let here = span.start.max(wanted.start)..span.end.min(wanted.end);
            if here.is_empty() {
                continue;
            }
            let (from, to) = (here.start - span.start..here.end - span.start, here.start - wanted.start);
            match windows.by_column {
                true => b.copy_window(&out, 0, to, master, rows.clone(), from)?,
                false => b.copy_window(&out, to, 0, master, from, cols.clone())?,
            }
        }
        Ok(out)
    }

    /// The present state of the weights. It costs nothing: masters are shared, and each training has its own.
    pub fn snapshot(&self) -> Snapshot<B> {
        Snapshot(self.tuned.borrow().clone())
    }

    /// Returns to a state.
    pub fn restore(&self, snapshot: &Snapshot<B>) {
        self.tuned.replace(snapshot.0.clone());
    }

    /// A whole weight, row-major.
    ///
    /// # Errors
    /// An unknown parameter or a device failure.
    pub async fn read_parameter(&self, name: &str) -> Result<Vec<f32>> {
        if let Some(vector) = self.optional_vector(name) {
            return Ok(self.backend.read(&[&vector]).await?.swap_remove(0));
        }
        let weight = self.weight(name)?;
        let mut all = Vec::with_capacity(weight.rows * weight.cols);
        for piece in pieces(0..weight.rows, 4 * weight.cols as u64) {
            let piece = self.widened(&weight, piece, 0..weight.cols)?;
            all.extend(self.backend.read(&[&piece]).await?.swap_remove(0));
        }
        Ok(all)
    }

    /// Overwrites a whole matrix: its master where it has one, else by a new one.
    ///
    /// # Errors
    /// An unknown matrix, a wrong number of values, or a device failure.
    pub fn write_parameter(&self, name: &str, data: &[f32]) -> Result<()> {
        let weight = self.weight(name)?;
        if data.len() != weight.rows * weight.cols {
            return Err(EngineError::UnknownParameter(format!("{name} with {} values", data.len())));
        }
        let new = self.backend.upload(data, weight.rows, weight.cols)?;
        match (&weight.whole, &weight.windows) {
            (Some(whole), None) => self.backend.copy_window(whole, 0, 0, &new, 0..weight.rows, 0..weight.cols),
            _ => {
                self.tuned.borrow_mut().matrices.insert(name.into(), Masters::Whole(new));
                Ok(())
            }
        }
    }
}
