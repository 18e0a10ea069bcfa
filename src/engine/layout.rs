//! Where packed tokens stand, and which attend to which.

use super::backend::Side;

/// Prompts packed without padding (METHOD.md §0): the tokens that all of them begin with once, then what each has of its
/// own, end to end. What is computed of the shared tokens is the same for every sequence, so nothing is lost by it, and
/// gradients to them add up over the sequences by themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedLayout {
    /// Tokens that all sequences begin with.
    pub prefix: usize,
    /// First own token of each sequence, and the total at the end: B+1 entries, the first of them `prefix`.
    pub starts: Vec<usize>,
}

impl PackedLayout {
    pub fn tokens(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    pub fn sequences(&self) -> usize {
        self.starts.len() - 1
    }

    /// Length of each sequence, shared tokens included.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.starts.windows(2).map(|w| self.prefix + w[1] - w[0])
    }

    /// Packed token at a position of a sequence.
    pub fn token(&self, sequence: usize, position: usize) -> usize {
        if position < self.prefix { position } else { self.starts[sequence] + position - self.prefix }
    }

    /// The last token of each sequence: the answer positions.
    pub fn answers(&self) -> Vec<u32> {
        self.starts[1..].iter().map(|end| (end - 1) as u32).collect()
    }

    /// Every token that has a next one in its sequence, with that one; shared tokens once for each sequence.
    pub fn next_tokens(&self) -> Vec<(usize, usize)> {
        let pairs = |(i, length)| (1..length).map(move |p| (self.token(i, p - 1), self.token(i, p)));
        self.lengths().enumerate().flat_map(pairs).collect()
    }

    /// Who attends where every token does.
    pub fn attention(&self) -> Attention {
        let mut queries = Vec::with_capacity(self.tokens());
        let mut keys = Vec::with_capacity(self.tokens());
        let mut push = |position, token, end, shift| {
            queries.push([shift, position]);
            keys.push([token, position, end]);
        };
        for t in 0..self.prefix {
            push(t, t, self.tokens(), 0);
        }
        for own in self.starts.windows(2) {
            for t in own[0]..own[1] {
                push(self.prefix + t - own[0], t, own[1], own[0] - self.prefix);
            }
        }
        Attention { prefix: self.prefix, step: 1, queries, keys }
    }

    /// Who attends where only the answer positions do: the sequence is the number of its query.
    pub fn answers_attention(&self) -> Attention {
        let count = self.sequences();
        let mut keys: Vec<[usize; 3]> = (0..self.prefix).map(|t| [0, t, count]).collect();
        let mut queries = Vec::with_capacity(count);
        for (i, own) in self.starts.windows(2).enumerate() {
            keys.extend((own[0]..own[1]).map(|t| [i, self.prefix + t - own[0], i + 1]));
            queries.push([own[0] - self.prefix, self.prefix + own[1] - own[0] - 1]);
        }
        Attention { prefix: self.prefix, step: 0, queries, keys }
    }
}

/// Which tokens attend to which, causally.
#[derive(Debug, Clone)]
pub struct Attention {
    pub prefix: usize,
    /// Of each query: its shift and its position. The key at a position up to that is the token of that number below
    /// `prefix`, and `shift` more beyond.
    pub queries: Vec<[usize; 2]>,
    /// Of each token: the first query that attends to it, its position, the end of those queries. All between attend.
    pub keys: Vec<[usize; 3]>,
    /// By how much that first query rises from a token to the next of its sequence.
    pub step: usize,
}

impl Attention {
    /// The position of each query, or of each key.
    pub fn positions(&self, side: Side) -> Vec<usize> {
        match side {
            Side::Queries => self.queries.iter().map(|query| query[1]).collect(),
            Side::Keys => self.keys.iter().map(|key| key[1]).collect(),
        }
    }

    /// The queries in bands of at most `most` that stand one after the other in a sequence, each band as (first query,
    /// queries, shift, position of the first).
    pub fn query_bands(&self, most: usize) -> Vec<[usize; 4]> {
        let mut bands: Vec<[usize; 4]> = Vec::new();
        for (t, &[shift, position]) in self.queries.iter().enumerate() {
            match bands.last_mut() {
                Some([_, count, of, first]) if *count < most && *of == shift && *first + *count == position => {
                    *count += 1
                }
                _ => bands.push([t, 1, shift, position]),
            }
        }
        bands
    }

    /// The keys likewise, each band as (first key, keys, first query that attends to the first, end of the queries).
    pub fn key_bands(&self, most: usize) -> Vec<[usize; 4]> {
        let mut bands: Vec<[usize; 4]> = Vec::new();
        for (s, &[first, _, end]) in self.keys.iter().enumerate() {
            match bands.last_mut() {
                Some([_, count, of, until]) if *count < most && *until == end && *of + *count * self.step == first => {
                    *count += 1;
                }
                _ => bands.push([s, 1, first, end]),
            }
        }
        bands
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
