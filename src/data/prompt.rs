//! Prompt template, verbalizer, and examples as token ids (METHOD.md §0).

use super::{DataError, Example};
use crate::engine::Prompt;
use crate::model::Tokenizer;

/// A template in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    /// `{text}` or `{premise}`.
    Text,
    /// `{hypothesis}`.
    Second,
}

impl Template {
    /// Parses `{text}`, or `{premise}` and `{hypothesis}`; `{{` and `}}` are braces.
    ///
    /// # Errors
    /// An unknown or unclosed placeholder, or none for the text.
    pub fn parse(template: &str) -> Result<Self, DataError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = template.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '{' | '}' if rest.peek() == Some(&c) => {
                    rest.next();
                    literal.push(c);
                }
                '{' => {
                    let mut name = String::new();
                    loop {
                        match rest.next() {
                            Some('}') => break,
                            Some(c) => name.push(c),
                            None => return Err(DataError::UnclosedBrace),
                        }
                    }
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(match name.as_str() {
                        "text" | "premise" => Piece::Text,
                        "hypothesis" => Piece::Second,
                        _ => return Err(DataError::UnknownPlaceholder(name)),
                    });
                }
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        if !pieces.contains(&Piece::Text) {
            return Err(DataError::NoPlaceholder);
        }
        Ok(Self { pieces })
    }

    fn fill(&self, text: &str, second: Option<&str>) -> Result<String, DataError> {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => out.push_str(literal),
                Piece::Text => out.push_str(text),
                Piece::Second => {
                    out.push_str(second.ok_or(DataError::UnmappedPlaceholder { placeholder: "hypothesis" })?)
                }
            }
        }
        Ok(out)
    }
}

/// The answer words, one a label, each one token after the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verbalizer {
    pub words: Vec<String>,
    pub tokens: Vec<u32>,
}

/// Examples as prompts.
#[derive(Debug, Clone)]
pub struct EncodedSet {
    pub prompts: Vec<Prompt>,
    pub verbalizer: Verbalizer,
    /// Rows whose text was cut to the limit.
    pub cut_rows: Vec<usize>,
}

/// Encodes examples and checks the answer words after every one of their prompts. Prompts longer than `limit` tokens
/// lose the end of their text, never a part of the template.
///
/// # Errors
/// Answer words that are not one distinct token each, a template that alone exceeds the limit, or a missing column.
pub fn encode(
    examples: &[Example],
    template: &Template,
    words: &[String],
    labels: usize,
    tokenizer: &Tokenizer,
    limit: usize,
) -> Result<EncodedSet, DataError> {
    if words.len() != labels {
        return Err(DataError::WordCount { labels, words: words.len() });
    }
    let (mut prompts, mut cut_rows) = (Vec::with_capacity(examples.len()), Vec::new());
    let mut verbalizer: Option<Verbalizer> = None;
    for example in examples {
        let mut filled = template.fill(&example.text, example.second.as_deref())?;
        let mut tokens = tokenizer.encode(&filled)?;
        if tokens.len() > limit {
            (filled, tokens) = cut(example, template, tokenizer, limit)?;
            cut_rows.push(example.row);
        }
        let found = answer_tokens(&filled, &tokens, words, tokenizer)?;
        match &verbalizer {
            None => verbalizer = Some(found),
            // The same word must be the same token after every prompt.
            Some(known) => {
                if let Some(i) = (0..words.len()).find(|i| known.tokens[*i] != found.tokens[*i]) {
                    return Err(DataError::WordMergesWithPrompt { word: words[i].clone(), hint: String::new() });
                }
            }
        }
        prompts.push(Prompt { tokens, label: example.label });
    }
    let verbalizer = verbalizer.unwrap_or(Verbalizer { words: words.to_vec(), tokens: Vec::new() });
    Ok(EncodedSet { prompts, verbalizer, cut_rows })
}

fn answer_tokens(
    prompt: &str,
    tokens: &[u32],
    words: &[String],
    tokenizer: &Tokenizer,
) -> Result<Verbalizer, DataError> {
    let mut found = Vec::with_capacity(words.len());
    for word in words {
        let hint = || match (prompt.ends_with(char::is_whitespace), word.starts_with(' ')) {
            (true, false) => {
                " (the template ends with a blank: most tokenizers want it at the start of the word instead)"
                    .to_string()
            }
            (false, false) => " (most tokenizers want a blank before the word)".to_string(),
            _ => String::new(),
        };
        let whole = tokenizer.encode(&format!("{prompt}{word}"))?;
        if whole.len() <= tokens.len() || whole[..tokens.len()] != *tokens {
            return Err(DataError::WordMergesWithPrompt { word: word.clone(), hint: hint() });
        }
        if whole.len() != tokens.len() + 1 {
            return Err(DataError::WordNotOneToken {
                word: word.clone(),
                tokens: whole.len() - tokens.len(),
                hint: hint(),
            });
        }
        let token = whole[tokens.len()];
        if let Some(first) = found.iter().position(|t| *t == token) {
            return Err(DataError::WordsCollide { first: words[first].clone(), second: word.clone() });
        }
        found.push(token);
    }
    Ok(Verbalizer { words: words.to_vec(), tokens: found })
}

/// Keeps as many characters of the example's texts, cut alike from the end, as fit the limit.
fn cut(
    example: &Example,
    template: &Template,
    tokenizer: &Tokenizer,
    limit: usize,
) -> Result<(String, Vec<u32>), DataError> {
    let keep = |text: &str, share: usize, of: usize| -> String {
        text.chars().take(text.chars().count() * share / of).collect()
    };
    let longest = example.text.chars().count().max(example.second.as_ref().map_or(0, |s| s.chars().count()));
    let at = |share: usize| -> Result<(String, Vec<u32>), DataError> {
        let second = example.second.as_ref().map(|s| keep(s, share, longest));
        let filled = template.fill(&keep(&example.text, share, longest), second.as_deref())?;
        let tokens = tokenizer.encode(&filled)?;
        Ok((filled, tokens))
    };
    let bare = at(0)?;
    if bare.1.len() > limit {
        return Err(DataError::TemplateTooLong { template: bare.1.len(), limit });
    }
    let (mut low, mut high, mut best) = (0, longest, bare);
    while low + 1 < high {
        let middle = usize::midpoint(low, high);
        let tried = at(middle)?;
        if tried.1.len() <= limit {
            (low, best) = (middle, tried);
        } else {
            high = middle;
        }
    }
    Ok(best)
}
