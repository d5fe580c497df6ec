//! A whole server in this process, on ports of its own, driven through its client and by strangers:
//! what each service answers, what it refuses, and that it goes on serving afterwards.

mod access;
mod admission;
mod audit;
mod catalog;
mod flight;
mod freshness;
mod hostile;
mod lifecycle;
mod masking;
mod monitoring;
mod oidc;
mod quotas;
mod revoked;
mod services;
mod streaming;
mod support;
mod tls;
mod training_sets;
