//! Seeded, stratified subsets.

use super::{Dataset, Example};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// How many of each label a subset gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// The same number of each label, as far as there are enough.
    Equal,
    /// As in the whole set.
    Proportional,
}

/// A stratified subset of at most `n` examples, in the order of their rows; all of them for `n` = 0.
pub fn sample(set: &Dataset, n: usize, balance: Balance, seed: u64) -> Vec<Example> {
    if n == 0 || n >= set.examples.len() {
        return set.examples.clone();
    }
    let mut by_label = shuffled_by_label(set, seed);
    let sizes: Vec<usize> = by_label.iter().map(Vec::len).collect();
    let mut taken = vec![0usize; sizes.len()];
    // One at a time to the label that is furthest behind its share.
    for _ in 0..n {
        let share = |y: usize| match balance {
            Balance::Equal => 1.0,
            Balance::Proportional => sizes[y] as f64,
        };
        let open = (0..sizes.len()).filter(|y| taken[*y] < sizes[*y]);
        let next = open
            .min_by(|a, b| ((taken[*a] as f64 + 0.5) / share(*a)).total_cmp(&((taken[*b] as f64 + 0.5) / share(*b))));
        if let Some(next) = next {
            taken[next] += 1;
        }
    }
    for (group, taken) in by_label.iter_mut().zip(&taken) {
        group.truncate(*taken);
    }
    let mut chosen: Vec<Example> = by_label.into_iter().flatten().cloned().collect();
    chosen.sort_by_key(|e| e.row);
    chosen
}

/// Splits a set into two, stratified: `test_share` of each label goes to the second.
pub fn train_and_test(set: &Dataset, test_share: f64, seed: u64) -> (Dataset, Dataset) {
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for group in shuffled_by_label(set, seed) {
        let (held_out, kept) = group.split_at((test_share * group.len() as f64).round() as usize);
        test.extend(held_out.iter().copied().cloned());
        train.extend(kept.iter().copied().cloned());
    }
    let part = |mut examples: Vec<Example>| {
        examples.sort_by_key(|e| e.row);
        let mut part = Dataset { examples, ..set.clone() };
        part.report.used = part.examples.len();
        part.report.label_counts =
            (0..set.labels.len()).map(|y| part.examples.iter().filter(|e| e.label == y).count()).collect();
        part
    };
    (part(train), part(test))
}

fn shuffled_by_label(set: &Dataset, seed: u64) -> Vec<Vec<&Example>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut groups: Vec<Vec<&Example>> = vec![Vec::new(); set.labels.len()];
    for example in &set.examples {
        groups[example.label].push(example);
    }
    groups.iter_mut().for_each(|group| group.shuffle(&mut rng));
    groups
}
