#![forbid(unsafe_code)]
pub mod convert;
