//! Amounts as people read them, in three digits with a unit.

/// Bytes with a unit of powers of ten: "1.05 MB".
pub fn bytes(count: u64) -> String {
    match count {
        ..10_000 => format!("{count} B"),
        10_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", count as f64 / 1e6),
        _ => format!("{:.2} GB", count as f64 / 1e9),
    }
}

/// A count with a unit of powers of ten: "41.3 M".
pub fn count(count: u64) -> String {
    match count {
        ..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{:.1} k", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", count as f64 / 1e6),
        _ => format!("{:.2} G", count as f64 / 1e9),
    }
}

/// `part` of `whole` in percent, empty when there is no whole.
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 { String::new() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

#[cfg(test)]
mod tests {
    use super::{count, share};

    #[test]
    fn numbers_are_short() {
        assert_eq!((count(9999), count(41_320_000)), ("9999".to_owned(), "41.3 M".to_owned()));
        assert_eq!((share(1, 3), share(0, 0)), ("33.3 %".to_owned(), String::new()));
    }
}
