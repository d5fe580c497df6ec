//! Hydrant as its users know it: whole nodes in process, driven through their use cases by a clock
//! that the tests move. `contract` holds every promise of docs/contract.md, one test a line;
//! `one_sentence` holds the first of them against random histories.

#[path = "../support/mod.rs"]
mod support;

mod contract;
mod one_sentence;
