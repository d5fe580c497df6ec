//! How far a long command is: a bar on stderr while a terminal watches, nothing otherwise.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over a known number of rows.
pub fn rows(label: &str, total: u64) -> ProgressBar {
    const TEMPLATE: &str = "{prefix:<28} {bar:32} {human_pos}/{human_len} rows  {per_sec}  {eta} left";
    bar(TEMPLATE, label, total)
}

/// A bar over a known number of bytes.
pub fn bytes(label: &str, total: u64) -> ProgressBar {
    bar("{prefix:<28} {bar:32} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left", label, total)
}

/// A line with a message, where nobody knows how much there is to do.
pub fn unknown(label: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:<28} {spinner} {elapsed}  {msg}").expect("the template is valid");
    ProgressBar::new_spinner().with_style(style).with_prefix(label.to_owned())
}

/// A bar over a known time, moved by [`millis`], with room for a message.
pub fn load(label: &str, lasts: Duration) -> ProgressBar {
    bar("{prefix:<28} {bar:32} {eta} left  {msg}", label, millis(lasts))
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn bar(template: &str, label: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_prefix(label.to_owned())
}
