//! Load, and what comes of it: when requests are due, which keys they are about, how answers and
//! their latencies are counted. `hydrant bench` and the programs in `benches/` are built on it. It
//! knows no transport, no message and no command line: what it calls is a [`load::Target`].

pub mod arrivals;
pub mod load;
pub mod machine;
pub mod random;
pub mod search;
pub mod tally;
pub mod timer;
