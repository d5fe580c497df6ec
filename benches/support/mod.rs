//! What the benchmarks share: the processes they start, the machine's figures, the rows and requests
//! they make up, the load they put on, and how they tell what came out. Nothing here is a test, and
//! nothing is measured that isn't also checked to be the right answer.
#![allow(dead_code, reason = "each benchmark is a program of its own and uses its part")]

pub mod feast;
pub mod load;
pub mod machine;
pub mod process;
pub mod promise;
pub mod redis_reads;
pub mod redis_server;
pub mod report;
pub mod rocksdb_rows;
pub mod streams;
pub mod training;
pub mod transport;
pub mod views;

pub use hydrant::bench::random;
