//! How far a long command is: a bar on stderr while a terminal watches, nothing otherwise.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over a known number of rows.
pub fn rows(label: &str, total: u64) -> ProgressBar {
    const TEMPLATE: &str = "{prefix:<28} {bar:32} {human_pos}/{human_len} rows  {per_sec}  {eta} left";
    let style = ProgressStyle::with_template(TEMPLATE).expect("the template is valid");
    ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_prefix(label.to_owned())
}
