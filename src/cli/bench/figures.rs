//! Figures as people read them: durations in the unit that fits, numbers to three digits.

/// `87 µs`, `1.23 ms`, `2.1 s`.
pub fn micros(micros: f64) -> String {
    match micros {
        few if few < 999.5 => format!("{} µs", three_digits(few)),
        more if more < 999_500.0 => format!("{} ms", three_digits(more / 1e3)),
        many => format!("{} s", three_digits(many / 1e6)),
    }
}

/// `500 B`, `5.3 MB`.
pub fn bytes(bytes: f64) -> String {
    match bytes {
        few if few < 999.5 => format!("{} B", three_digits(few)),
        more if more < 999_500.0 => format!("{} kB", three_digits(more / 1e3)),
        many if many < 999.5e6 => format!("{} MB", three_digits(many / 1e6)),
        most => format!("{} GB", three_digits(most / 1e9)),
    }
}

/// `12,345`, and `0.25` where there is less than ten.
pub fn rate(rate: f64) -> String {
    if rate < 9.995 { three_digits(rate) } else { super::super::output::count(rate.round() as u64) }
}

/// To three digits, without needless zeros.
pub fn three_digits(number: f64) -> String {
    if !number.is_finite() {
        return "-".to_owned();
    }
    let digits = match number.abs() {
        large if large >= 99.95 => 0,
        middle if middle >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{number:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// For programs: to a tenth of a microsecond, a hundredth of a rate.
pub fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_the_unit_that_fits() {
        let shown = [0.0, 87.3, 999.6, 1_234.0, 45_600.0, 999_700.0, 2_100_000.0].map(micros);
        assert_eq!(shown, ["0 µs", "87.3 µs", "1 ms", "1.23 ms", "45.6 ms", "1 s", "2.1 s"]);
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!([0.256, 12.34, 123.4, 100.0, 5.0].map(three_digits), ["0.26", "12.3", "123", "100", "5"]);
        assert_eq!([0.5, 9.0, 12_345.4].map(rate), ["0.5", "9", "12,345"]);
        assert_eq!([500.0, 16_384.0, 5.25e6].map(bytes), ["500 B", "16.4 kB", "5.25 MB"]);
    }
}
