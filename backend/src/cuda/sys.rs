//! The C header of the CUDA kernels (`csrc/include/quern_kernels.h`) as bindgen translates it: names, sizes and comments
//! are the header's. Called by the rest of `cuda` alone.
#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_docs,
    unsafe_code,
    clippy::all
)]

include!(concat!(env!("OUT_DIR"), "/quern_kernels.rs"));
