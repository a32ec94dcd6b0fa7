//! The routes end to end inside the process: real validation, engine and driver, a shard that follows a script.
//!
//! `harness` has the shard and the calls; the other files are tables of requests and their exact answers.

mod chat;
mod completions;
mod constraints;
mod edge;
mod fuzz;
mod fuzz_grammars;
mod harness;
mod patience;
mod routes;
mod tgi;
mod tools;
mod trace;
