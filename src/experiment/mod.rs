//! Recipe in, record out; and the check of an engine against golden values.

pub mod verify;
