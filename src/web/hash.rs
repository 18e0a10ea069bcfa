//! SHA-256 of what arrives piece by piece: the browser's own digest wants all of it at once.

use sha2::{Digest, Sha256};
use wasm_bindgen::prelude::*;

/// A SHA-256 being computed.
#[wasm_bindgen]
#[derive(Default)]
pub struct Hash(Sha256);

#[wasm_bindgen]
impl Hash {
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all bytes so far, hexadecimal.
    pub fn hex(&self) -> String {
        crate::model::hex(&self.0.clone().finalize())
    }
}
