//! CT-SFT Lab: find the attention heads that do a task, tune only those, measure what was gained and forgotten.
//!
//! The folders are the method's stages and data flows down this list, never back up:
//! [`model`] what a checkpoint is → [`data`] what a labelled set is → [`engine`] what can be computed →
//! [`circuit`] which heads matter → [`tuning`] which weights are trained → [`measures`] what came of it →
//! [`experiment`] recipe in, record out → `web` and `bin/ctsft.rs`, the two ways to run it.

pub mod bench;
pub mod circuit;
pub mod data;
pub mod engine;
pub mod experiment;
#[cfg(feature = "cli")]
pub mod lab_model;
pub mod measures;
pub mod model;
pub mod progress;
pub mod tuning;
pub mod web;
