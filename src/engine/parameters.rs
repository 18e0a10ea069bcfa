//! Windows of the weights: what is trained, saved, restored and read.

use super::{Backend, Engine, EngineError, Result};
use std::ops::Range;

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

/// Copies of slices, kept on the device, to return to.
pub struct Snapshot<T> {
    slices: Vec<ParameterSlice>,
    values: Vec<T>,
}

impl<B: Backend> Engine<B> {
    /// Copies the slices' present values.
    ///
    /// # Errors
    /// An unknown parameter or a device failure.
    pub fn snapshot(&self, slices: &[ParameterSlice]) -> Result<Snapshot<B::Tensor>> {
        let copy = |s: &ParameterSlice| {
            self.backend.copy_window(self.weight(&s.name)?, s.rows.start, s.cols.start, s.rows.len(), s.cols.len())
        };
        Ok(Snapshot { slices: slices.to_vec(), values: slices.iter().map(copy).collect::<Result<_>>()? })
    }

    /// Puts a snapshot's values back.
    ///
    /// # Errors
    /// An unknown parameter or a device failure.
    pub fn restore(&self, snapshot: &Snapshot<B::Tensor>) -> Result<()> {
        for (slice, value) in snapshot.slices.iter().zip(&snapshot.values) {
            self.backend.write_window(self.weight(&slice.name)?, slice.rows.start, slice.cols.start, value)?;
        }
        Ok(())
    }

    /// A whole weight, row-major.
    ///
    /// # Errors
    /// An unknown parameter or a device failure.
    pub async fn read_parameter(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.backend.read(&[self.weight(name)?]).await?.swap_remove(0))
    }

    /// Overwrites a whole weight.
    ///
    /// # Errors
    /// An unknown parameter, a wrong number of values, or a device failure.
    pub fn write_parameter(&self, name: &str, data: &[f32]) -> Result<()> {
        let weight = self.weight(name)?;
        let (rows, cols) = self.backend.shape(weight);
        if data.len() != rows * cols {
            return Err(EngineError::UnknownParameter(format!("{name} with {} values", data.len())));
        }
        self.backend.write_window(weight, 0, 0, &self.backend.upload(data, rows, cols)?)
    }
}
