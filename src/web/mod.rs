//! The boundary to JavaScript: one object that a worker owns. Calls are coarse, values cross as the types of
//! [`messages`], and every refusal is an [`messages::ErrorMessage`].

#[cfg(target_arch = "wasm32")]
mod blob;
#[cfg(target_arch = "wasm32")]
mod hash;
#[cfg(target_arch = "wasm32")]
mod lab;
pub mod messages;
