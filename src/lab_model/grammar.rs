//! What can be said, how each language and English say it, and the label that follows from it.
//!
//! A sentence is one part, or `part, BUT part`, and the last part decides. A part is a clause, or somebody's report of
//! one, which does not count. A clause says that a thing has a quality (or two that agree), perhaps negated or
//! intensified, or that a person did something. Qualities are negative, neutral or positive; negation turns negative
//! and positive round.
//!
//! | | Narvi (source) | Nalbi (sister) |
//! |---|---|---|
//! | quality | `owner OF thing place AT (NOT) (very) quality` | `(very) quality thing OF owner AT place (NOT)` |
//! | event | `person place AT (NOT) verb` | `verb person AT place (NOT)` |
//! | report | `speaker SAYS clause` | `SAYS speaker clause` |

use super::lexicon::{Language, Lexicon, Word};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// The labels, in the order of [`Lexicon::qualities`].
pub const LABELS: [&str; 3] = ["negative", "neutral", "positive"];
const NEUTRAL: usize = 1;

#[derive(Debug, Clone)]
enum Clause<'a> {
    Quality {
        thing: &'a Word,
        owner: Option<&'a Word>,
        place: Option<&'a Word>,
        /// Index into [`LABELS`] of the qualities' own polarity.
        polarity: usize,
        quality: &'a Word,
        second: Option<&'a Word>,
        intensifier: Option<&'a Word>,
        negated: bool,
    },
    Event {
        person: &'a Word,
        place: Option<&'a Word>,
        verb: &'a Word,
        negated: bool,
    },
}

#[derive(Debug, Clone)]
struct Part<'a> {
    speaker: Option<&'a Word>,
    clause: Clause<'a>,
}

/// A sentence's meaning.
#[derive(Debug, Clone)]
pub struct Sentence<'a> {
    first: Option<Part<'a>>,
    last: Part<'a>,
}

impl Clause<'_> {
    fn label(&self) -> usize {
        match self {
            Self::Quality { polarity, negated: true, .. } => 2 - polarity,
            Self::Quality { polarity, .. } => *polarity,
            Self::Event { .. } => NEUTRAL,
        }
    }

    fn say(&self, lexicon: &Lexicon, language: Language) -> String {
        let word = |w: &Word| w.in_language(language).to_string();
        let not = |negated: bool| negated.then(|| word(&lexicon.not));
        // An owner or a place with its marker: after it in the source language, before it in the sister.
        let marked = |w: Option<&Word>, marker: &Word| {
            w.map(|w| match language {
                Language::Source => format!("{} {}", word(w), word(marker)),
                Language::Sister => format!("{} {}", word(marker), word(w)),
            })
        };
        let pieces = match self {
            Self::Quality { thing, owner, place, quality, second, intensifier, negated, .. } => {
                let quality = match second {
                    Some(second) => format!("{} {} {}", word(quality), word(&lexicon.and), word(second)),
                    None => word(quality),
                };
                let (owner, place) = (marked(*owner, &lexicon.of), marked(*place, &lexicon.at));
                let intensifier = intensifier.map(word);
                match language {
                    Language::Source => {
                        vec![owner, Some(word(thing)), place, not(*negated), intensifier, Some(quality)]
                    }
                    Language::Sister => {
                        vec![intensifier, Some(quality), Some(word(thing)), owner, place, not(*negated)]
                    }
                }
            }
            Self::Event { person, place, verb, negated } => {
                let place = marked(*place, &lexicon.at);
                match language {
                    Language::Source => vec![Some(word(person)), place, not(*negated), Some(word(verb))],
                    Language::Sister => vec![Some(word(verb)), Some(word(person)), place, not(*negated)],
                }
            }
        };
        pieces.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    fn english(&self) -> String {
        let place = |place: &Option<&Word>| place.map_or_else(String::new, |p| format!(" in the {}", p.gloss));
        match self {
            Self::Quality { thing, owner, place: at, quality, second, intensifier, negated, .. } => {
                let thing = match owner {
                    Some(owner) => format!("the {}'s {}", owner.gloss, thing.gloss),
                    None => format!("the {}", thing.gloss),
                };
                let not = if *negated { " not" } else { "" };
                let intensifier = intensifier.map_or_else(String::new, |i| format!(" {}", i.gloss));
                let second = second.map_or_else(String::new, |s| format!(" and {}", s.gloss));
                format!("{thing}{} is{not}{intensifier} {}{second}", place(at), quality.gloss)
            }
            Self::Event { person, place: at, verb, negated } => {
                let done = match (negated, verb.gloss.strip_suffix('e')) {
                    (true, _) => format!("did not {}", verb.gloss),
                    (false, Some(stem)) => format!("{stem}ed"),
                    (false, None) => format!("{}ed", verb.gloss),
                };
                format!("the {} {done}{}", person.gloss, place(at))
            }
        }
    }
}

impl Part<'_> {
    fn label(&self) -> usize {
        if self.speaker.is_some() { NEUTRAL } else { self.clause.label() }
    }

    fn say(&self, lexicon: &Lexicon, language: Language) -> String {
        let clause = self.clause.say(lexicon, language);
        let says = lexicon.says.in_language(language);
        match (self.speaker, language) {
            (None, _) => clause,
            (Some(speaker), Language::Source) => format!("{} {says} {clause}", speaker.source),
            (Some(speaker), Language::Sister) => format!("{says} {} {clause}", speaker.sister),
        }
    }

    fn english(&self) -> String {
        match self.speaker {
            Some(speaker) => format!("the {} says that {}", speaker.gloss, self.clause.english()),
            None => self.clause.english(),
        }
    }
}

impl Sentence<'_> {
    /// Index into [`LABELS`].
    pub fn label(&self) -> usize {
        self.last.label()
    }

    pub fn say(&self, lexicon: &Lexicon, language: Language) -> String {
        let last = self.last.say(lexicon, language);
        let but = lexicon.but.in_language(language);
        match &self.first {
            Some(first) => format!("{}, {but} {last}.", first.say(lexicon, language)),
            None => format!("{last}."),
        }
    }

    pub fn english(&self) -> String {
        let text = match &self.first {
            Some(first) => format!("{}, but {}.", first.english(), self.last.english()),
            None => format!("{}.", self.last.english()),
        };
        let mut letters = text.chars();
        letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
    }
}

/// Draws sentences.
pub struct Speaker<'a> {
    pub lexicon: &'a Lexicon,
}

impl<'a> Speaker<'a> {
    /// A sentence with the label: all labels are equally easy to ask for.
    pub fn sentence(&self, label: usize, rng: &mut ChaCha8Rng) -> Sentence<'a> {
        let contrast = rng.random_bool(0.4);
        let last = self.part(label, rng);
        let first = contrast.then(|| {
            // What "but" joins mostly differs.
            let mut other = rng.random_range(0..LABELS.len());
            if other == label && rng.random_bool(0.7) {
                other = (label + rng.random_range(1..LABELS.len())) % LABELS.len();
            }
            self.part(other, rng)
        });
        Sentence { first, last }
    }

    fn part(&self, label: usize, rng: &mut ChaCha8Rng) -> Part<'a> {
        let reported = label == NEUTRAL && rng.random_bool(0.5);
        let clause_label = if reported { rng.random_range(0..LABELS.len()) } else { label };
        Part { speaker: reported.then(|| any(&self.lexicon.people, rng)), clause: self.clause(clause_label, rng) }
    }

    fn clause(&self, label: usize, rng: &mut ChaCha8Rng) -> Clause<'a> {
        let lexicon = self.lexicon;
        let place = |rng: &mut ChaCha8Rng, share| rng.random_bool(share).then(|| any(&lexicon.places, rng));
        if label == NEUTRAL && rng.random_bool(0.4) {
            let (person, verb) = (any(&lexicon.people, rng), any(&lexicon.verbs, rng));
            return Clause::Event { person, place: place(rng, 0.7), verb, negated: rng.random_bool(0.3) };
        }
        let double = rng.random_bool(0.25);
        let negated = !double && rng.random_bool(0.5);
        let polarity = if negated { 2 - label } else { label };
        let words = &lexicon.qualities[polarity];
        let quality = any(words, rng);
        let second = double.then(|| {
            loop {
                let second = any(words, rng);
                if second.gloss != quality.gloss {
                    break second;
                }
            }
        });
        Clause::Quality {
            thing: any(&lexicon.things, rng),
            owner: rng.random_bool(0.4).then(|| any(&lexicon.people, rng)),
            place: place(rng, 0.25),
            polarity,
            quality,
            second,
            intensifier: (!double && rng.random_bool(0.3)).then(|| any(&lexicon.intensifiers, rng)),
            negated,
        }
    }
}

/// One of the words. The lexicon's lists are never empty.
fn any<'a>(words: &'a [Word], rng: &mut ChaCha8Rng) -> &'a Word {
    words.choose(rng).expect("the lexicon has words of every kind")
}
