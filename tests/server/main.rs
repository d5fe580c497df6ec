//! A whole server in this process, on ports of its own, driven through its client and by strangers:
//! what each service answers, what it refuses, and that it goes on serving afterwards.

mod admission;
mod catalog;
mod flight;
mod hostile;
mod lifecycle;
mod services;
mod streaming;
mod support;
mod tls;
mod training_sets;
