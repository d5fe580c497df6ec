//! The local log over a disk that loses power, runs full and fails.

mod disk;
mod erasing;
mod random;
