//! Hugging Face tokenizers, from `tokenizer.json` or from a GGUF file's metadata.

use super::ModelError;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, SplitDelimiterBehavior};

// Both expressions are those of the models' own tokenizer.json; they differ in how many digits make a token.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Token types of GGUF that mark a token as matched whole in the text.
const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;

/// Text to token ids, by the model's own conventions.
pub struct Tokenizer(tokenizers::Tokenizer);

impl Tokenizer {
    /// From the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// What the tokenizers library says is wrong with the file.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ModelError> {
        tokenizers::Tokenizer::from_bytes(bytes)
            .map(Self)
            .map_err(|e| ModelError::Tokenizer(format!("tokenizer.json: {e}")))
    }

    /// From GGUF's lists. `types` holds GGUF's token types, `pre` names its pre-tokenizer, `beginning` is
    /// the token put before every text, where the model wants one.
    pub(super) fn from_gguf(
        tokens: Vec<String>,
        merges: Vec<String>,
        types: &[u32],
        pre: &str,
        beginning: Option<u32>,
    ) -> Result<Self, ModelError> {
        let failed = |e: tokenizers::Error| ModelError::Tokenizer(e.to_string());
        let merges = merges
            .iter()
            .map(|merge| match merge.split_once(' ') {
                Some((a, b)) => Ok((a.to_string(), b.to_string())),
                None => Err(ModelError::Tokenizer(format!("merge `{merge}` is not two tokens"))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let vocabulary = tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32));
        let model = BPE::builder().vocab_and_merges(vocabulary.collect::<Vocab>(), merges).build().map_err(failed)?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        let split = |expression: &str| -> Result<PreTokenizerWrapper, ModelError> {
            let split = Split::new(SplitPattern::Regex(expression.into()), SplitDelimiterBehavior::Isolated, false)
                .map_err(failed)?;
            Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, false, false).into()]).into())
        };
        let pre_tokenizer = match pre {
            "qwen2" => {
                tokenizer.with_normalizer(Some(NormalizerWrapper::from(NFC))).map_err(failed)?;
                split(QWEN2)?
            }
            "llama-bpe" | "llama3" => split(LLAMA3)?,
            "smollm" => Sequence::new(vec![Digits::new(true).into(), ByteLevel::new(false, false, true).into()]).into(),
            "default" | "gpt-2" | "gpt2" => ByteLevel::new(false, false, true).into(),
            other => {
                return Err(ModelError::Tokenizer(format!(
                    "pre-tokenizer `{other}` of the GGUF file is not known (known: qwen2, llama-bpe, smollm, gpt-2); open the safetensors form of this model with its tokenizer.json"
                )));
            }
        };
        tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        let whole = tokens.iter().zip(types).filter(|(_, kind)| matches!(**kind, CONTROL | USER_DEFINED));
        let added: Vec<AddedToken> =
            whole.map(|(token, kind)| AddedToken::from(token.clone(), *kind == CONTROL).normalized(false)).collect();
        tokenizer.add_tokens(added).map_err(failed)?;
        if let Some(id) = beginning {
            let token = tokens
                .get(id as usize)
                .ok_or_else(|| ModelError::Tokenizer(format!("bos_token_id {id} is outside the vocabulary")))?;
            let template = TemplateProcessing::builder()
                .try_single(vec![token.clone(), "$A".to_string()])
                .map_err(ModelError::Tokenizer)?
                .special_tokens(vec![(token.clone(), id)])
                .build()
                .map_err(|e| ModelError::Tokenizer(e.to_string()))?;
            tokenizer.with_post_processor(Some(template));
        }
        Ok(Self(tokenizer))
    }

    /// Token ids of `text`, with whatever the model puts before every text.
    ///
    /// # Errors
    /// What the tokenizers library says.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.0.encode(text, true).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of one token, as people read it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.0.decode(&[id], false).ok()
    }

    /// Vocabulary size, added tokens included.
    pub fn vocabulary_size(&self) -> usize {
        self.0.get_vocab_size(true)
    }
}
