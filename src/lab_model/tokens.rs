//! The lab model's tokenizer: byte-level BPE, as Qwen's, learnt from the texts. Being byte-level it takes any text.

use super::corpus::Texts;
use super::grammar::LABELS;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl};

/// Texts of each kind that the merges are counted on.
const SAMPLE: usize = 4000;

/// Learns `vocabulary` tokens and returns the `tokenizer.json`.
///
/// # Errors
/// What the tokenizers library says.
pub fn learn(texts: &mut Texts<'_>, vocabulary: usize) -> tokenizers::Result<String> {
    let mut sample = Vec::with_capacity(3 * SAMPLE);
    for _ in 0..SAMPLE {
        // As much of the sister as of the source: a rare language would be cut into letters.
        sample.push(texts.story(0.0, 0.0));
        sample.push(texts.story(1.0, 0.0));
        let (prompt, label) = texts.labelled();
        sample.push(format!("{prompt} {}", LABELS[label]));
    }
    let mut tokenizer =
        TokenizerImpl::<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>::new(
            BPE::default(),
        );
    tokenizer.with_normalizer(Some(NormalizerWrapper::from(NFC)))?;
    tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::from(ByteLevel::new(false, false, true))));
    tokenizer.with_decoder(Some(DecoderWrapper::from(ByteLevelDecoder::new(false, false, true))));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    tokenizer.train(&mut trainer, sample.into_iter())?;
    tokenizer.to_string(true)
}
