//! The two languages described for people: a grammar and dictionary to read in a sitting, and to print, made from the
//! program's own words so that it is never wrong about them.

use super::corpus::{Corpus, SPLITS};
use super::grammar::LABELS;
use super::lexicon::{Language, Word};

/// Sentences of each label shown as examples.
const EXAMPLES: usize = 4;

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Narvi and Nalbi</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem }
th, td { border: 1px solid #bbb; padding: 0.25rem 0.6rem; text-align: start; vertical-align: top }
thead th { background: #f0f0f0 }
.dictionary { columns: 2 24rem }
.dictionary section { break-inside: avoid }
</style>
</head>
<body>
"#;

/// A table; the cells hold nothing that needs escaping.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let row = |tag: &str, cells: &[String]| -> String {
        let cells: String = cells.iter().map(|c| format!("<{tag}>{c}</{tag}>")).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let body: String = rows.into_iter().map(|cells| row("td", &cells)).collect();
    format!("<table>\n<thead>{}</thead>\n<tbody>\n{body}</tbody>\n</table>\n", row("th", &head).trim_end())
}

/// The page, in HTML.
pub fn describe(corpus: &Corpus) -> String {
    let lexicon = &corpus.lexicon;
    let [source, sister] = Language::ALL.map(Language::name);
    let friend = |(bad, good): &(&Word, &Word)| {
        format!(
            "<i>{}</i>, which looks like {source} <i>{}</i> “{}”, means “{}”, and the other way round",
            good.sister, bad.source, bad.gloss, good.gloss
        )
    };
    let friends: Vec<String> = lexicon.false_friends().iter().map(friend).collect();
    let mut page = format!(
        "{HEAD}<h1>{source} and {sister}</h1>
<p>Two made-up, related languages. The built-in lab model knows {source} well and has seen little of {sister}. This page is
written by <code>ctsft make-lab-model</code> from the dictionary it speaks with.</p>
<h2>What a sentence means</h2>
<p>A sentence is <b>one part</b>, or <b>part, but part</b>, and the last part decides. A part is a clause, or somebody's
report of a clause (“the farmer says that …”), which does not count: it is neutral. A clause says that a thing has a
quality, or two that agree, perhaps negated or intensified; or that a person did something, which is neutral.
<i>Not</i> turns positive and negative round and leaves neutral alone. Intensifiers change nothing.</p>
<h2>How it is said</h2>
"
    );
    let italic = |word: &Word, language: Language| format!("<i>{}</i>", word.in_language(language));
    let [of, at, not] = [&lexicon.of, &lexicon.at, &lexicon.not].map(|w| Language::ALL.map(|l| italic(w, l)));
    let [says, but, and] = [&lexicon.says, &lexicon.but, &lexicon.and].map(|w| Language::ALL.map(|l| italic(w, l)));
    let rule = |name: &str, source: String, sister: String| vec![name.to_string(), source, sister];
    page += &table(
        &["", source, sister],
        [
            rule(
                "a quality",
                format!("(owner {}) thing (place {}) ({}) (intensifier) quality", of[0], at[0], not[0]),
                format!("(intensifier) quality thing ({} owner) ({} place) ({})", of[1], at[1], not[1]),
            ),
            rule(
                "an event",
                format!("person (place {}) ({}) verb", at[0], not[0]),
                format!("verb person ({} place) ({})", at[1], not[1]),
            ),
            rule("a report", format!("speaker {} clause", says[0]), format!("{} speaker clause", says[1])),
            rule("a contrast", format!("part, {} part", but[0]), format!("part, {} part", but[1])),
            rule("two qualities", format!("quality {} quality", and[0]), format!("quality {} quality", and[1])),
        ],
    );
    page += &format!(
        "<p>{sister} kept most of {source}'s roots, under regular sound changes: <i>v</i> became <i>b</i>, <i>r</i> became
<i>l</i>, and <i>o</i> at the end of a word became <i>u</i>. About every fifth word has a root of its own, and so have the
words for <i>not</i> and <i>says</i>. False friends changed places: {}.</p>
<h2>Examples</h2>
",
        friends.join("; ")
    );
    let sets = Language::ALL.into_iter().zip(&corpus.sets);
    let examples = sets.flat_map(|(language, sets)| {
        LABELS.iter().enumerate().flat_map(move |(label, name)| {
            let of_label = sets[0].iter().filter(move |e| e.label == label).take(EXAMPLES);
            of_label.map(move |e| vec![language.name().into(), e.text.clone(), e.english.clone(), (*name).into()])
        })
    });
    page += &table(&["language", "sentence", "English", "label"], examples);
    let sizes: Vec<String> = SPLITS.iter().map(|(split, size)| format!("{split} {size}")).collect();
    page += &format!(
        "<p>The sample sets hold, for each language: {}. No meaning stands in two of them, in either language, nor in what
the model was made from.</p>\n<h2>Dictionary</h2>\n<div class=\"dictionary\">\n",
        sizes.join(", ")
    );
    let [negative, neutral, positive] = &lexicon.qualities;
    let kinds: [(&str, &[Word]); 8] = [
        ("Positive qualities", positive),
        ("Negative qualities", negative),
        ("Neutral qualities", neutral),
        ("Intensifiers", &lexicon.intensifiers),
        ("Things", &lexicon.things),
        ("People", &lexicon.people),
        ("Places", &lexicon.places),
        ("Verbs", &lexicon.verbs),
    ];
    for (title, words) in kinds {
        let rows = words.iter().map(|word| {
            let own = if word.replaced { " (own root)" } else { "" };
            vec![word.gloss.into(), word.source.clone(), format!("{}{own}", word.sister)]
        });
        page += &format!("<section><h3>{title}</h3>\n{}</section>\n", table(&["English", source, sister], rows));
    }
    page + "</div>\n</body>\n</html>\n"
}
