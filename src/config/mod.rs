//! What an operator can set. [`Config`] holds every option, with its default in `default.toml`,
//! which is compiled in and is the reference manual. Nothing here opens a file of the data
//! directory, binds a port or reads the environment by itself: the loader is handed what it reads.

pub mod durations;
mod loader;
mod oidc;
mod units;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

pub use durations::InvalidDuration;
pub use loader::{ConfigError, Loader, Origin};
pub use oidc::{GrantConfig, IssuerConfig, SignatureAlgorithm, check_address};
pub use units::{ByteSize, InvalidSize, Span};

use crate::sending::is_address;

/// The compiled-in defaults, commented: the reference manual.
pub const REFERENCE: &str = include_str!("default.toml");

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub server: ServerConfig,
    pub tls: TlsConfig,
    pub auth: AuthConfig,
    pub admission: AdmissionConfig,
    pub storage: StorageConfig,
    pub log: LogConfig,
    pub ingest: IngestConfig,
    pub partitions: PartitionsConfig,
    pub serving: ServingConfig,
    pub landing: LandingConfig,
    pub compaction: CompactionConfig,
    pub history: HistoryConfig,
    pub training_sets: TrainingSetsConfig,
    pub backfill: BackfillConfig,
    pub backup: BackupConfig,
    pub audit: AuditConfig,
    pub freshness: FreshnessConfig,
    pub alerts: AlertsConfig,
    pub openlineage: OpenLineageConfig,
    pub telemetry: TelemetryConfig,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    pub grpc_addr: SocketAddr,
    pub flight_addr: SocketAddr,
    pub http_addr: SocketAddr,
    pub grpc_max_message: ByteSize,
    pub flight_max_message: ByteSize,
    pub max_connections: usize,
    pub max_streams_per_connection: u32,
    pub max_call_time: Span,
    pub idle_time: Span,
    pub drain_time: Span,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Empty: no TLS.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Empty: clients need no certificate.
    pub client_ca: PathBuf,
}

impl TlsConfig {
    pub fn is_on(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }

    pub fn demands_client_certificates(&self) -> bool {
        !self.client_ca.as_os_str().is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    pub enabled: bool,
    /// Listen beyond loopback without TLS.
    pub insecure: bool,
    /// Issuers whose tokens are taken beside keys.
    pub oidc: Vec<IssuerConfig>,
    pub oidc_clock_skew: Span,
    pub oidc_keys_max_age: Span,
    pub oidc_keys_stale: Span,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmissionConfig {
    pub online_places: usize,
    pub target_wait: Span,
    pub max_waiting: usize,
    pub max_waiting_bytes: ByteSize,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    pub data_dir: PathBuf,
    pub partitions: usize,
    pub block_cache: ByteSize,
    pub row_cache: ByteSize,
    pub write_buffers: ByteSize,
    pub background_threads: u16,
    pub direct_reads: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    pub segment: ByteSize,
    pub max_request: ByteSize,
    pub max_waiting: usize,
    pub recent: ByteSize,
    pub producer_horizon: Span,
    pub producers: ByteSize,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestConfig {
    pub max_rows: usize,
    pub max_request: ByteSize,
    pub max_key: ByteSize,
    pub max_in_flight: usize,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionsConfig {
    pub threads: usize,
    pub flush_interval: Span,
    pub trim_interval: Span,
    pub reopen_delay: Span,
    pub max_reopen_delay: Span,
    pub max_reopens: u32,
    pub max_tail: ByteSize,
    pub max_lag: u64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServingConfig {
    pub max_rows: usize,
    pub max_cells: usize,
    pub max_in_flight: usize,
    pub read_threads: usize,
    pub max_history_reads: usize,
    pub max_streams: usize,
    pub stream_idle_time: Span,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LandingConfig {
    pub tail: ByteSize,
    pub interval: Span,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompactionConfig {
    pub enabled: bool,
    pub interval: Span,
    pub runs_per_level: usize,
    pub file: ByteSize,
    pub rate: ByteSize,
    pub memory: ByteSize,
    pub max_merge: ByteSize,
    pub retention: Span,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryConfig {
    pub max_joins: usize,
    pub threads: usize,
    pub memory: ByteSize,
    pub max_spine_rows: u64,
    pub max_spill: ByteSize,
    pub patience: Span,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSetsConfig {
    pub max_saved: usize,
    pub max_spines: usize,
    pub spine_bytes: ByteSize,
    pub keep_spines: Span,
    pub max_pulls: usize,
    pub found_bytes: ByteSize,
    pub keep_found: Span,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillConfig {
    pub memory: ByteSize,
    pub threads: usize,
    pub max_staged: ByteSize,
    pub rate: ByteSize,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupConfig {
    /// Empty: `backups` in the data directory.
    pub directory: PathBuf,
    pub max_kept: usize,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    pub retention: Span,
    pub segment: ByteSize,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreshnessConfig {
    pub interval: Span,
    pub save_interval: Span,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertsConfig {
    /// Separated by commas or blanks; empty: nobody is told.
    pub webhooks: String,
    /// Empty: notifications are not signed.
    pub secret_file: PathBuf,
    pub timeout: Span,
    pub repeat_interval: Span,
    pub max_queued: usize,
}

impl AlertsConfig {
    pub fn urls(&self) -> Vec<String> {
        let written = self.webhooks.split(|letter: char| letter == ',' || letter.is_whitespace());
        written.filter(|url| !url.is_empty()).map(str::to_owned).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenLineageConfig {
    /// Empty: nobody is told.
    pub url: String,
    pub namespace: String,
    /// Empty: no key is shown.
    pub api_key_file: PathBuf,
    /// Empty: the system's authorities.
    pub ca: PathBuf,
    pub timeout: Span,
    pub max_queued: usize,
    pub max_bytes: ByteSize,
    pub ingest_interval: Span,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    pub log: String,
    pub log_format: LogFormat,
    pub otlp_endpoint: String,
    pub trace_share: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// Delta Lake's log tells of a removed file for as long, by default.
const LONGEST_RETENTION: Span = Span(Duration::from_hours(7 * 24));

/// What a data directory is made of, besides backups.
const DATA_PARTS: [&str; 8] = ["log", "registry", "partitions", "history", "backfill", "spill", "spines", "audit"];

/// What was asked for must be there to be looked up for some time.
const SHORTEST_AUDIT: Span = Span(Duration::from_hours(24));

/// Clocks that are further apart are wrong.
const LONGEST_SKEW: Span = Span(Duration::from_mins(5));

/// Of an issuer's keys: more often would be a load for it, and longer would keep what it has withdrawn.
const SHORTEST_KEYS: Span = Span(Duration::from_mins(1));
const LONGEST_KEYS: Span = Span(Duration::from_hours(7 * 24));

/// Each has a task of its own.
const MAX_WEBHOOKS: usize = 8;
/// Bytes of the name by which events of lineage call this server.
const MAX_NAMESPACE: usize = 64;

/// Less often would not be watching.
const LONGEST_LOOK: Span = Span(Duration::from_hours(1));

/// More often would be work for its own sake.
const SHORTEST_INTERVAL: Span = Span(Duration::from_millis(10));

impl Config {
    /// The embedded default.
    pub fn embedded() -> Self {
        Loader::new().load().expect("the compiled-in defaults are valid")
    }

    /// The rules that no type expresses; every breach, with the option's name.
    fn breaches(&self) -> Vec<(&'static str, String)> {
        let mut breaches = Vec::new();
        let mut demand = |holds: bool, option: &'static str, rule: String| {
            if !holds {
                breaches.push((option, rule));
            }
        };
        let addresses = [
            ("server.grpc_addr", self.server.grpc_addr),
            ("server.flight_addr", self.server.flight_addr),
            ("server.http_addr", self.server.http_addr),
        ];
        for (option, address) in addresses {
            let may_listen = self.may_listen_on(address);
            demand(may_listen.is_ok(), option, may_listen.err().unwrap_or_default());
        }
        for breach in oidc::breaches(&self.auth.oidc) {
            demand(false, "auth.oidc", breach);
        }
        let skew = self.auth.oidc_clock_skew;
        demand(skew <= LONGEST_SKEW, "auth.oidc_clock_skew", format!("{skew} is longer than {LONGEST_SKEW}"));
        for (option, span) in [
            ("auth.oidc_keys_max_age", self.auth.oidc_keys_max_age),
            ("auth.oidc_keys_stale", self.auth.oidc_keys_stale),
        ] {
            let rule = format!("{span} is not between {SHORTEST_KEYS} and {LONGEST_KEYS}");
            demand((SHORTEST_KEYS..=LONGEST_KEYS).contains(&span), option, rule);
        }
        let (fresh, stale) = (self.auth.oidc_keys_max_age, self.auth.oidc_keys_stale);
        let rule = format!("{stale} is shorter than auth.oidc_keys_max_age ({fresh})");
        demand(fresh <= stale, "auth.oidc_keys_stale", rule);
        let not_empty = "must not be empty".to_owned();
        demand(!self.storage.data_dir.as_os_str().is_empty(), "storage.data_dir", not_empty);

        let (has_certificate, has_key) = (self.tls.is_on(), !self.tls.key.as_os_str().is_empty());
        let rule = "a certificate needs its key: set tls.key too".to_owned();
        demand(has_key || !has_certificate, "tls.certificate", rule);
        let rule = "a key needs its certificate: set tls.certificate too".to_owned();
        demand(has_certificate || !has_key, "tls.key", rule);
        let rule = "clients show certificates over TLS only: set tls.certificate and tls.key too".to_owned();
        demand(has_certificate || !self.tls.demands_client_certificates(), "tls.client_ca", rule);

        // A backup's name would be that of a part of the data directory, or lie in one.
        let (backups, data) = (&self.backup.directory, &self.storage.data_dir);
        let apart = backups != data && DATA_PARTS.iter().all(|part| !backups.starts_with(data.join(part)));
        demand(apart, "backup.directory", format!("'{}' is a part of storage.data_dir", backups.display()));

        let urls = self.alerts.urls();
        // What was written is not shown: it may hold what others should not read.
        let rule = "each is of the form https://HOST/PATH or http://HOST/PATH, without a user".to_owned();
        demand(urls.iter().all(|url| is_address(url)), "alerts.webhooks", rule);
        let is_once = urls.iter().enumerate().all(|(index, url)| !urls[..index].contains(url));
        demand(is_once, "alerts.webhooks", "one of them stands there twice".to_owned());
        demand(urls.len() <= MAX_WEBHOOKS, "alerts.webhooks", format!("{} of at most {MAX_WEBHOOKS}", urls.len()));
        let lineage = &self.openlineage;
        let rule = "it is of the form https://HOST/PATH or http://HOST/PATH, without a user".to_owned();
        demand(lineage.url.is_empty() || is_address(&lineage.url), "openlineage.url", rule);
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
        let is_namespace =
            (1..=MAX_NAMESPACE).contains(&lineage.namespace.len()) && lineage.namespace.chars().all(is_letter);
        let rule = format!("it has 1 to {MAX_NAMESPACE} letters, digits, '-', '.' and '_'");
        demand(is_namespace, "openlineage.namespace", rule);
        let (interval, longest) = (self.freshness.interval, LONGEST_LOOK);
        demand(interval <= longest, "freshness.interval", format!("{interval} is longer than {longest}"));

        for (option, value, least, most) in self.bounded_numbers() {
            demand((least..=most).contains(&value), option, format!("{value} is not between {least} and {most}"));
        }
        for (option, value, least, most) in self.bounded_sizes() {
            demand((least..=most).contains(&value), option, format!("{value} is not between {least} and {most}"));
        }
        for (option, value) in self.positive_spans() {
            demand(!value.duration().is_zero(), option, "must be longer than nothing".to_owned());
        }
        for (option, value) in self.intervals() {
            demand(value >= SHORTEST_INTERVAL, option, format!("{value} is shorter than {SHORTEST_INTERVAL}"));
        }
        let share = self.telemetry.trace_share;
        demand((0.0..=1.0).contains(&share), "telemetry.trace_share", format!("{share} is not between 0.0 and 1.0"));
        let endpoint = &self.telemetry.otlp_endpoint;
        demand(
            endpoint.is_empty() || endpoint.starts_with("http://"),
            "telemetry.otlp_endpoint",
            format!("'{endpoint}' is no address of the form http://HOST:PORT"),
        );
        demand(
            self.landing.tail <= self.partitions.max_tail,
            "partitions.max_tail",
            format!("{} is less than landing.tail ({})", self.partitions.max_tail, self.landing.tail),
        );
        let retention = self.compaction.retention;
        let rule = format!("{retention} is longer than {LONGEST_RETENTION}");
        demand(retention <= LONGEST_RETENTION, "compaction.retention", rule);
        let kept = self.audit.retention;
        demand(kept >= SHORTEST_AUDIT, "audit.retention", format!("{kept} is shorter than {SHORTEST_AUDIT}"));
        // Such a request would be refused as one too many, whenever it had to wait.
        let waiting = self.admission.max_waiting_bytes;
        for (option, largest) in
            [("server.grpc_max_message", self.server.grpc_max_message), ("ingest.max_request", self.ingest.max_request)]
        {
            let rule = format!("{waiting} is less than {option} ({largest}): the largest request could never wait");
            demand(largest <= waiting, "admission.max_waiting_bytes", rule);
        }
        breaches
    }

    /// The one place where it is decided who can reach a port: beyond this machine only who shows a key, and
    /// only where nobody on the way can read it.
    fn may_listen_on(&self, address: SocketAddr) -> Result<(), String> {
        if address.ip().is_loopback() {
            return Ok(());
        }
        if !self.auth.enabled {
            return Err(format!(
                "{address} is not a loopback address, and callers are not asked for keys: listen on 127.0.0.1 or [::1], \
                 or set auth.enabled and tls.certificate"
            ));
        }
        if !self.tls.is_on() && !self.auth.insecure {
            return Err(format!(
                "{address} is not a loopback address, and without TLS everybody on the way could read keys and data: set \
                 tls.certificate and tls.key (or, where the network itself is safe, start with --insecure)"
            ));
        }
        Ok(())
    }

    fn bounded_numbers(&self) -> Vec<(&'static str, u64, u64, u64)> {
        let wide = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        vec![
            ("server.max_connections", wide(self.server.max_connections), 1, 1 << 20),
            ("server.max_streams_per_connection", self.server.max_streams_per_connection.into(), 1, 1 << 20),
            ("admission.online_places", wide(self.admission.online_places), 0, 1 << 16),
            ("admission.max_waiting", wide(self.admission.max_waiting), 1, 1 << 20),
            ("storage.partitions", wide(self.storage.partitions), 1, 1 << 10),
            ("storage.background_threads", self.storage.background_threads.into(), 1, 256),
            ("log.max_waiting", wide(self.log.max_waiting), 1, 1 << 20),
            // A row's ordinal in its request is an int32 in history.
            ("ingest.max_rows", wide(self.ingest.max_rows), 1, (1 << 31) - 1),
            ("ingest.max_in_flight", wide(self.ingest.max_in_flight), 1, 1 << 20),
            ("partitions.threads", wide(self.partitions.threads), 0, 256),
            ("partitions.max_reopens", self.partitions.max_reopens.into(), 0, 1 << 20),
            ("serving.max_rows", wide(self.serving.max_rows), 1, (1 << 31) - 1),
            ("serving.max_cells", wide(self.serving.max_cells), 1, 1 << 40),
            ("serving.max_in_flight", wide(self.serving.max_in_flight), 1, 1 << 20),
            ("serving.read_threads", wide(self.serving.read_threads), 1, 256),
            ("serving.max_history_reads", wide(self.serving.max_history_reads), 1, 1 << 10),
            ("serving.max_streams", wide(self.serving.max_streams), 1, 1 << 16),
            ("compaction.runs_per_level", wide(self.compaction.runs_per_level), 2, 256),
            ("history.max_joins", wide(self.history.max_joins), 1, 1 << 10),
            ("history.threads", wide(self.history.threads), 0, 256),
            ("training_sets.max_saved", wide(self.training_sets.max_saved), 0, 1 << 20),
            ("training_sets.max_spines", wide(self.training_sets.max_spines), 1, 1 << 20),
            ("training_sets.max_pulls", wide(self.training_sets.max_pulls), 1, 1 << 10),
            ("backfill.threads", wide(self.backfill.threads), 0, 256),
            ("history.max_spine_rows", self.history.max_spine_rows, 1, 1 << 40),
            ("alerts.max_queued", wide(self.alerts.max_queued), 1, 1 << 16),
            ("openlineage.max_queued", wide(self.openlineage.max_queued), 1, 1 << 16),
            ("backup.max_kept", wide(self.backup.max_kept), 1, 1 << 16),
            ("partitions.max_lag", self.partitions.max_lag, 1, 1 << 40),
        ]
    }

    fn bounded_sizes(&self) -> Vec<(&'static str, ByteSize, ByteSize, ByteSize)> {
        let (mib, gib) = (ByteSize::mib, |count: u64| ByteSize(count << 30));
        let kib = |count: u64| ByteSize(count << 10);
        vec![
            ("server.grpc_max_message", self.server.grpc_max_message, kib(64), gib(1)),
            ("server.flight_max_message", self.server.flight_max_message, mib(1), gib(1)),
            ("admission.max_waiting_bytes", self.admission.max_waiting_bytes, mib(1), gib(1 << 10)),
            ("storage.block_cache", self.storage.block_cache, mib(1), gib(1 << 14)),
            ("storage.row_cache", self.storage.row_cache, ByteSize(0), gib(1 << 14)),
            ("storage.write_buffers", self.storage.write_buffers, mib(4), gib(1 << 14)),
            ("log.segment", self.log.segment, mib(1), gib(2)),
            ("audit.segment", self.audit.segment, kib(64), mib(64)),
            ("log.max_request", self.log.max_request, mib(1), gib(1)),
            ("log.recent", self.log.recent, mib(1), gib(1 << 14)),
            ("log.producers", self.log.producers, mib(1), gib(1 << 14)),
            ("ingest.max_request", self.ingest.max_request, kib(64), gib(1)),
            ("ingest.max_key", self.ingest.max_key, ByteSize(64), mib(1)),
            ("partitions.max_tail", self.partitions.max_tail, mib(1), gib(1 << 20)),
            ("landing.tail", self.landing.tail, kib(64), gib(1 << 14)),
            ("compaction.file", self.compaction.file, kib(64), gib(1 << 10)),
            ("compaction.rate", self.compaction.rate, kib(64), gib(1 << 10)),
            ("compaction.memory", self.compaction.memory, mib(1), gib(1 << 14)),
            ("compaction.max_merge", self.compaction.max_merge, mib(1), gib(1 << 20)),
            ("history.memory", self.history.memory, mib(16), gib(1 << 14)),
            ("training_sets.spine_bytes", self.training_sets.spine_bytes, mib(1), gib(1 << 20)),
            ("training_sets.found_bytes", self.training_sets.found_bytes, ByteSize(0), gib(1 << 20)),
            ("history.max_spill", self.history.max_spill, mib(1), gib(1 << 20)),
            ("backfill.memory", self.backfill.memory, mib(16), gib(1 << 14)),
            ("openlineage.max_bytes", self.openlineage.max_bytes, kib(64), mib(32)),
            ("backfill.max_staged", self.backfill.max_staged, mib(1), gib(1 << 20)),
            ("backfill.rate", self.backfill.rate, kib(64), gib(1 << 10)),
        ]
    }

    fn positive_spans(&self) -> Vec<(&'static str, Span)> {
        vec![
            ("server.max_call_time", self.server.max_call_time),
            ("server.idle_time", self.server.idle_time),
            ("server.drain_time", self.server.drain_time),
            ("serving.stream_idle_time", self.serving.stream_idle_time),
            ("admission.target_wait", self.admission.target_wait),
            ("log.producer_horizon", self.log.producer_horizon),
            ("partitions.reopen_delay", self.partitions.reopen_delay),
            ("partitions.max_reopen_delay", self.partitions.max_reopen_delay),
            ("compaction.retention", self.compaction.retention),
            ("history.patience", self.history.patience),
            ("training_sets.keep_spines", self.training_sets.keep_spines),
            ("training_sets.keep_found", self.training_sets.keep_found),
            ("alerts.timeout", self.alerts.timeout),
            ("alerts.repeat_interval", self.alerts.repeat_interval),
            ("openlineage.timeout", self.openlineage.timeout),
        ]
    }

    /// What is looked after by a timer.
    fn intervals(&self) -> [(&'static str, Span); 7] {
        [
            ("partitions.flush_interval", self.partitions.flush_interval),
            ("partitions.trim_interval", self.partitions.trim_interval),
            ("landing.interval", self.landing.interval),
            ("compaction.interval", self.compaction.interval),
            ("freshness.interval", self.freshness.interval),
            ("freshness.save_interval", self.freshness.save_interval),
            ("openlineage.ingest_interval", self.openlineage.ingest_interval),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_keys_are_asked_for_and_tls_is_spoken() {
        let abroad: SocketAddr = "0.0.0.0:7600".parse().expect("an address");
        let home: SocketAddr = "[::1]:7600".parse().expect("an address");
        for (enabled, insecure, certificate, allowed) in [
            (false, false, "", false),
            (false, true, "", false),
            (false, false, "c.pem", false),
            (true, false, "", false),
            (true, true, "", true),
            (true, false, "c.pem", true),
        ] {
            let mut config = Config::embedded();
            (config.auth.enabled, config.auth.insecure) = (enabled, insecure);
            config.tls.certificate = certificate.into();
            assert_eq!(config.may_listen_on(abroad).is_ok(), allowed, "{enabled} {insecure} {certificate}");
            assert!(config.may_listen_on(home).is_ok());
        }
    }
}
