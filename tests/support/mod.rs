//! What the tests of the suite share: a node in process by a clock that the test moves, tables out of
//! JSON, random numbers that can be replayed, and an oracle that knows the contract and no code. It
//! never looks behind the use cases.

pub mod node;
pub mod oracle;
pub mod random;
pub mod sets;
pub mod table;
pub mod webhook;
