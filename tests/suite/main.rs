//! Hydrant as its users know it: whole nodes in process, driven through their use cases by a clock
//! that the tests move. `one_sentence` holds the first promise of the contract against random
//! histories.

#[path = "../support/mod.rs"]
mod support;

mod one_sentence;
