//! The words of the two made-up languages: roots invented from a seed, and how the sister language changed them.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

/// Which language a sentence is said in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Narvi, which the lab model knows well.
    Source,
    /// Nalbi, its sister.
    Sister,
}

impl Language {
    pub const ALL: [Self; 2] = [Self::Source, Self::Sister];

    /// The language's own name. The sister's is the source's after its sound changes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "Narvi",
            Self::Sister => "Nalbi",
        }
    }
}

/// One word: what it means, and how each language says it.
#[derive(Debug, Clone)]
pub struct Word {
    pub gloss: &'static str,
    pub source: String,
    pub sister: String,
    /// Whether the sister language took a root of its own.
    pub replaced: bool,
}

impl Word {
    pub fn in_language(&self, language: Language) -> &str {
        match language {
            Language::Source => &self.source,
            Language::Sister => &self.sister,
        }
    }
}

/// All words, by what they do in a sentence.
#[derive(Debug, Clone)]
pub struct Lexicon {
    pub people: Vec<Word>,
    pub things: Vec<Word>,
    pub places: Vec<Word>,
    /// Negative, neutral and positive ones, in the order of the labels.
    pub qualities: [Vec<Word>; 3],
    pub intensifiers: Vec<Word>,
    /// Glossed by the base form.
    pub verbs: Vec<Word>,
    /// Marks an owner.
    pub of: Word,
    /// Marks a place.
    pub at: Word,
    pub not: Word,
    pub says: Word,
    pub but: Word,
    pub and: Word,
}

const PEOPLE: [&str; 12] = [
    "teacher",
    "farmer",
    "neighbour",
    "singer",
    "doctor",
    "aunt",
    "uncle",
    "baker",
    "driver",
    "weaver",
    "guest",
    "child",
];
const THINGS: [&str; 20] = [
    "soup", "bread", "tea", "house", "room", "song", "story", "road", "boat", "shop", "garden", "lamp", "chair",
    "coat", "knife", "bridge", "book", "bed", "oven", "well",
];
const PLACES: [&str; 8] = ["village", "valley", "hill", "harbour", "town", "forest", "school", "market"];
const NEGATIVE: [&str; 16] = [
    "bad",
    "ugly",
    "awful",
    "poor",
    "unpleasant",
    "dull",
    "terrible",
    "useless",
    "flimsy",
    "dreadful",
    "dirty",
    "horrible",
    "unreliable",
    "shabby",
    "spoiled",
    "tiresome",
];
const NEUTRAL: [&str; 16] = [
    "blue", "round", "wooden", "old", "tall", "small", "grey", "narrow", "long", "square", "brown", "large", "low",
    "painted", "thin", "red",
];
const POSITIVE: [&str; 16] = [
    "good",
    "lovely",
    "splendid",
    "fine",
    "pleasant",
    "charming",
    "excellent",
    "useful",
    "sturdy",
    "delightful",
    "beautiful",
    "wonderful",
    "reliable",
    "neat",
    "perfect",
    "agreeable",
];
const INTENSIFIERS: [&str; 4] = ["very", "really", "quite", "truly"];
const VERBS: [&str; 6] = ["work", "wait", "rest", "play", "stay", "arrive"];

const CONSONANTS: [&str; 11] = ["p", "t", "k", "m", "n", "s", "v", "r", "l", "d", "g"];
const VOWELS: [&str; 4] = ["a", "e", "i", "o"];
const FINALS: [&str; 4] = ["n", "r", "l", "s"];
/// Consonants that the sister's own roots begin their syllables with.
const SISTER_CONSONANTS: [&str; 9] = ["p", "t", "h", "m", "n", "s", "b", "l", "g"];

/// The share of content words for which the sister language has a root of its own.
const REPLACED: f64 = 0.2;

/// Pairs of a negative and a positive quality that changed places in the sister language, as English "terrific" and
/// "awful" both left what they meant: false friends.
const DRIFTED: usize = 1;

/// The sister language's sound changes, in the order in which they happened: `v → b` and `r → l` everywhere, `o → u` at
/// the end of a word.
pub fn sound_changes(root: &str) -> String {
    let mut changed = root.replace('v', "b").replace('r', "l");
    if changed.ends_with('o') {
        changed.pop();
        changed.push('u');
    }
    changed
}

/// The words whose root the sister language has kept.
fn inherited(words: &mut [Word]) -> impl Iterator<Item = &mut Word> {
    words.iter_mut().filter(|w| !w.replaced)
}

/// Draws roots that no other word of either language has.
struct Inventor<'a> {
    rng: &'a mut ChaCha8Rng,
    taken: BTreeSet<String>,
}

impl Inventor<'_> {
    fn pick<'s>(&mut self, sounds: &[&'s str]) -> &'s str {
        sounds.choose(self.rng).copied().unwrap_or_default()
    }

    /// A root of `syllables` open syllables, sometimes closed by a consonant.
    fn root(&mut self, consonants: &[&str], syllables: usize) -> String {
        let mut root = String::new();
        for _ in 0..syllables {
            root += self.pick(consonants);
            root += self.pick(&VOWELS);
        }
        if self.rng.random_bool(0.4) {
            root += self.pick(&FINALS);
        }
        root
    }

    fn word(&mut self, gloss: &'static str, syllables: usize, replaced: bool) -> Word {
        loop {
            let source = self.root(&CONSONANTS, syllables);
            let sister = if replaced {
                sound_changes(&self.root(&SISTER_CONSONANTS, syllables))
            } else {
                sound_changes(&source)
            };
            let new = !self.taken.contains(&source) && !self.taken.contains(&sister);
            if new && !(replaced && source == sister) {
                self.taken.extend([source.clone(), sister.clone()]);
                return Word { gloss, source, sister, replaced };
            }
        }
    }

    fn words(&mut self, glosses: &[&'static str]) -> Vec<Word> {
        // A fixed number of each kind is replaced, and the seed says which: kinds stay alike at every seed.
        let own = (glosses.len() as f64 * REPLACED).round() as usize;
        let chosen: BTreeSet<usize> = rand::seq::index::sample(self.rng, glosses.len(), own).into_iter().collect();
        glosses.iter().enumerate().map(|(i, gloss)| self.word(gloss, 2, chosen.contains(&i))).collect()
    }
}

impl Lexicon {
    /// Invents the words. The same seed gives the same words.
    pub fn new(rng: &mut ChaCha8Rng) -> Self {
        let mut inventor = Inventor { rng, taken: BTreeSet::new() };
        let mut lexicon = Self {
            of: inventor.word("of", 1, false),
            at: inventor.word("at", 1, false),
            // The sister negates in another way, with a word of its own.
            not: inventor.word("not", 1, true),
            says: inventor.word("says", 1, true),
            but: inventor.word("but", 1, false),
            and: inventor.word("and", 1, false),
            people: inventor.words(&PEOPLE),
            things: inventor.words(&THINGS),
            places: inventor.words(&PLACES),
            qualities: [&NEGATIVE, &NEUTRAL, &POSITIVE].map(|glosses| inventor.words(glosses)),
            intensifiers: inventor.words(&INTENSIFIERS),
            verbs: inventor.words(&VERBS),
        };
        let [negative, _, positive] = &mut lexicon.qualities;
        let pairs = inherited(negative).zip(inherited(positive));
        for (bad, good) in pairs.take(DRIFTED) {
            std::mem::swap(&mut bad.sister, &mut good.sister);
        }
        lexicon
    }

    /// Pairs of a negative and a positive quality of which the sister language says one as the source's other.
    pub fn false_friends(&self) -> Vec<(&Word, &Word)> {
        let [negative, _, positive] = &self.qualities;
        let looks_like = |bad: &Word, good: &Word| !bad.replaced && good.sister == sound_changes(&bad.source);
        negative
            .iter()
            .flat_map(|bad| positive.iter().filter(|good| looks_like(bad, good)).map(move |good| (bad, good)))
            .collect()
    }

    /// Every word.
    pub fn words(&self) -> impl Iterator<Item = &Word> {
        let particles = [&self.of, &self.at, &self.not, &self.says, &self.but, &self.and];
        let kinds = [&self.people, &self.things, &self.places, &self.intensifiers, &self.verbs];
        particles.into_iter().chain(kinds.into_iter().chain(&self.qualities).flatten())
    }
}
