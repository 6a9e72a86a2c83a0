//! What Fluoroscope asks of a tokenizer, in terms of the `tokenizers` crate. Safe Rust; errors are messages for the user.

use std::sync::OnceLock;

use tokenizers::models::ModelWrapper;
use tokenizers::Tokenizer;

/// Immutable once made: `&self` from any thread.
pub struct FsTokenizer {
    /// Reads special tokens that are written in a text as plain text, which is what nearly every request wants.
    plain: Tokenizer,
    /// The same tokenizer with special tokens parsed. Made by the first request that wants it: it doubles the vocabulary's memory.
    parsing: OnceLock<Tokenizer>,
    vocabulary_size: usize,
    /// The ids of an ordinary letter and their text: what a label stands behind so that its leading space is kept.
    anchor: (Vec<u32>, String),
}

impl FsTokenizer {
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let mut plain = Tokenizer::from_bytes(json).map_err(|e| e.to_string())?;
        if let ModelWrapper::BPE(bpe) = plain.get_model() {
            if bpe.dropout.is_some_and(|dropout| dropout > 0.0) {
                return Err("model.dropout is set: it makes every encoding random; set it to null".to_string());
            }
        }
        // Settings of somebody's training run. Here a text is never cut and never padded.
        plain.with_truncation(None).map_err(|e| e.to_string())?;
        plain.with_padding(None);
        plain.set_encode_special_tokens(true);
        let vocabulary_size = plain.get_vocab_size(true);
        let mut tokenizer = Self { plain, parsing: OnceLock::new(), vocabulary_size, anchor: (Vec::new(), String::new()) };
        // A tokenizer of whole words may not know this one; then there is no anchor, and its labels need none.
        if let Ok((ids, _)) = tokenizer.encode("a", false, false) {
            tokenizer.anchor = (ids.clone(), tokenizer.decode(&ids, false)?);
        }
        Ok(tokenizer)
    }

    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.plain.token_to_id(token)
    }

    /// The ids, and for each whether the post-processor added it (1) or it comes from the text (0).
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<(Vec<u32>, Vec<u8>), String> {
        let tokenizer = if parse_special { self.parsing() } else { &self.plain };
        let encoding = tokenizer.encode_fast(text, add_special).map_err(|e| e.to_string())?;
        let added: Vec<u8> = encoding.get_special_tokens_mask().iter().map(|&mask| (mask != 0) as u8).collect();
        if !parse_special {
            self.check_plain(text, encoding.get_ids(), &added)?;
        }
        Ok((encoding.get_ids().to_vec(), added))
    }

    /// Switching off the parsing of special tokens does not help where the model itself has them as pieces (many Unigram vocabularies).
    /// Better no answer than a control token that nobody asked for.
    fn check_plain(&self, text: &str, ids: &[u32], added: &[u8]) -> Result<(), String> {
        let vocabulary = self.plain.get_added_vocabulary();
        for (&id, _) in ids.iter().zip(added).filter(|(_, &added)| added == 0) {
            let Some(token) = vocabulary.simple_id_to_token(id) else { continue };
            if vocabulary.is_special_token(&token) && text.contains(&token) {
                return Err(format!(
                    "the text contains {token:?}, which this tokenizer cannot read as plain text; set parse_special_tokens to mean the token"
                ));
            }
        }
        Ok(())
    }

    fn parsing(&self) -> &Tokenizer {
        self.parsing.get_or_init(|| {
            let mut parsing = self.plain.clone();
            parsing.set_encode_special_tokens(false);
            parsing
        })
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, String> {
        // The crate leaves out ids that it does not know.
        if let Some(id) = ids.iter().find(|&&id| self.plain.id_to_token(id).is_none()) {
            return Err(format!("token id {id} is not in the tokenizer's vocabulary of {} tokens", self.vocabulary_size));
        }
        self.plain.decode(ids, skip_special).map_err(|e| e.to_string())
    }

    /// SentencePiece-like decoders drop the space in front of a text's first word, so " Mary" and "Mary" would both read "Mary".
    pub fn token_text(&self, id: u32) -> Result<String, String> {
        let (anchor, anchor_text) = &self.anchor;
        if self.plain.id_to_token(id).is_some_and(|token| token.starts_with('▁')) {
            let ids: Vec<u32> = anchor.iter().copied().chain([id]).collect();
            if let Some(text) = self.decode(&ids, false)?.strip_prefix(anchor_text.as_str()) {
                return Ok(text.to_string());
            }
        }
        self.decode(&[id], false)
    }
}
