//! The baseline that knows which words a sentence has but not their order: multinomial logistic regression.

use super::LabModelError;
use super::corpus::Example;
use super::grammar::LABELS;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use std::collections::BTreeMap;

const STEPS: usize = 400;

/// Accuracy on `test` of a classifier fitted to the word counts of `train`: the number correct.
///
/// # Errors
/// A failure of the tensor library.
pub fn correct(train: &[Example], test: &[Example]) -> Result<usize, LabModelError> {
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_string).collect()
    };
    let mut index = BTreeMap::new();
    for word in train.iter().flat_map(|e| words(&e.text)) {
        let next = index.len();
        index.entry(word).or_insert(next);
    }
    let counts = |examples: &[Example]| -> candle_core::Result<Tensor> {
        let mut data = vec![0f32; examples.len() * index.len()];
        for (example, row) in examples.iter().zip(data.chunks_mut(index.len())) {
            for word in words(&example.text) {
                // A word that training never saw says nothing.
                if let Some(column) = index.get(&word) {
                    row[*column] += 1.0;
                }
            }
        }
        Tensor::from_vec(data, (examples.len(), index.len()), &Device::Cpu)
    };
    let parameters = VarMap::new();
    let builder = VarBuilder::from_varmap(&parameters, DType::F32, &Device::Cpu);
    let classifier = candle_nn::linear(index.len(), LABELS.len(), builder)?;
    let settings = ParamsAdamW { lr: 0.05, weight_decay: 0.01, ..ParamsAdamW::default() };
    let mut optimiser = AdamW::new(parameters.all_vars(), settings)?;
    let labels: Vec<u32> = train.iter().map(|e| e.label as u32).collect();
    let (features, labels) = (counts(train)?, Tensor::from_vec(labels, train.len(), &Device::Cpu)?);
    for _ in 0..STEPS {
        optimiser.backward_step(&candle_nn::loss::cross_entropy(&classifier.forward(&features)?, &labels)?)?;
    }
    let predicted = classifier.forward(&counts(test)?)?.argmax(1)?.to_vec1::<u32>()?;
    Ok(predicted.iter().zip(test).filter(|(p, e)| **p as usize == e.label).count())
}
