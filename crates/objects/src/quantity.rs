//! Kubernetes quantities: `100m`, `1.5Gi`, `2e3`.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

/// How a quantity was written, and is written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

/// An amount, exact to one thousandth (finer parts are rounded up, as for CPU requests).
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    milli: i128,
    format: Format,
}

/// A text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

/// Larger amounts are refused: 2^63 - 1 units, as in Kubernetes, with room for sums.
const MAX_UNITS: i128 = i64::MAX as i128;

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { milli: 0, format: Format::Decimal };

    /// Whole units.
    pub fn from_units(units: i64) -> Self {
        Self { milli: i128::from(units) * 1000, format: Format::Decimal }
    }

    /// Thousandths.
    pub fn from_milli(milli: i64) -> Self {
        Self { milli: i128::from(milli), format: Format::Decimal }
    }

    /// Bytes, written with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { milli: i128::from(bytes) * 1000, format: Format::Binary }
    }

    /// Reads a JSON value: text or a number.
    ///
    /// # Errors
    /// Anything else, or malformed text.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, QuantityError> {
        match value {
            serde_json::Value::String(text) => text.parse(),
            serde_json::Value::Number(number) => number.to_string().parse(),
            _ => Err(QuantityError),
        }
    }

    /// In thousandths.
    pub fn milli(self) -> i128 {
        self.milli
    }

    /// In whole units, rounded up.
    pub fn units(self) -> i64 {
        let units = self.milli.div_euclid(1000) + i128::from(self.milli.rem_euclid(1000) != 0);
        units.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.milli < 0
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.milli == other.milli
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.milli.cmp(&other.milli)
    }
}

impl Quantity {
    fn combine(self, other: Self, milli: i128) -> Self {
        // A sum is written like the part that says something.
        let format = if self.milli == 0 { other.format } else { self.format };
        Self { milli, format }
    }
}

impl Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.combine(other, self.milli.saturating_add(other.milli))
    }
}

impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.combine(other, self.milli.saturating_sub(other.milli))
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError);
        }
        let (format, numerator, denominator) = scale(suffix)?;
        let milli = scaled(whole, fraction, numerator, denominator)?;
        Ok(Self { milli: if negative { -milli } else { milli }, format })
    }
}

/// The factor that a suffix means, as thousandths: numerator and denominator.
fn scale(suffix: &str) -> Result<(Format, i128, i128), QuantityError> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    if let Some(power) = BINARY.iter().position(|s| *s == suffix) {
        return Ok((Format::Binary, 1000 << (10 * (power as u32 + 1)), 1));
    }
    if let Some(power) = DECIMAL.iter().position(|s| *s == suffix) {
        return Ok((Format::Decimal, 1000 * 1000_i128.pow(power as u32 + 1), 1));
    }
    match suffix {
        "" => return Ok((Format::Decimal, 1000, 1)),
        "m" => return Ok((Format::Decimal, 1, 1)),
        "u" => return Ok((Format::Decimal, 1, 1000)),
        "n" => return Ok((Format::Decimal, 1, 1_000_000)),
        _ => {}
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
    let exponent: i32 = exponent.parse().map_err(|_| QuantityError)?;
    match exponent {
        0..=18 => Ok((Format::Exponent, 1000 * 10_i128.pow(exponent.unsigned_abs()), 1)),
        -18..0 => Ok((Format::Exponent, 1000, 10_i128.pow(exponent.unsigned_abs()))),
        _ => Err(QuantityError),
    }
}

/// whole.fraction * numerator / denominator, rounded up.
fn scaled(whole: &str, fraction: &str, numerator: i128, denominator: i128) -> Result<i128, QuantityError> {
    const FRACTION_LIMIT: usize = 9;
    let cut = &fraction[..fraction.len().min(FRACTION_LIMIT)];
    let lost = fraction[cut.len()..].bytes().any(|b| b != b'0');
    let digits: i128 = format!("0{whole}{cut}").parse().map_err(|_| QuantityError)?;
    let denominator = denominator * 10_i128.pow(cut.len() as u32);
    let product = digits.checked_mul(numerator).ok_or(QuantityError)?;
    let milli = product / denominator + i128::from(product % denominator != 0 || lost);
    if milli > MAX_UNITS * 1000 { Err(QuantityError) } else { Ok(milli) }
}

impl fmt::Display for Quantity {
    /// The canonical text: no fraction, the largest suffix that keeps it exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milli = self.milli;
        if milli == 0 {
            return f.write_str("0");
        }
        if milli % 1000 != 0 {
            return match self.format {
                Format::Exponent => write!(f, "{milli}e-3"),
                _ => write!(f, "{milli}m"),
            };
        }
        let units = milli / 1000;
        let (base, suffixes): (i128, [&str; 7]) = match self.format {
            // Below 1024 there is nothing binary about it.
            Format::Binary => (1024, ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]),
            Format::Decimal => (1000, ["", "k", "M", "G", "T", "P", "E"]),
            Format::Exponent => (1000, ["", "e3", "e6", "e9", "e12", "e15", "e18"]),
        };
        let (mut value, mut power) = (units, 0);
        while power + 1 < suffixes.len() && value % base == 0 {
            value /= base;
            power += 1;
        }
        write!(f, "{value}{}", suffixes[power])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, wanted) in [
            ("0", "0"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1500", "1500"),
            ("2000", "2k"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("128974848", "128974848"),
            ("129M", "129M"),
            ("-2", "-2"),
            ("+.5", "500m"),
            ("1u", "1m"),
            ("8Ei", "E"),
        ] {
            match text.parse::<Quantity>() {
                Ok(quantity) => assert_eq!(quantity.to_string(), wanted, "{text}"),
                Err(_) => assert_eq!(wanted, "E", "{text}"),
            }
        }
    }

    #[test]
    fn malformed_text_is_refused() {
        for text in [
            "",
            "-",
            ".",
            "1.2.3",
            "1 Gi",
            "Gi",
            "1gi",
            "1K",
            "0x1",
            "1e",
            "1e99",
            "--1",
            "99999999999999999999999999999999999999999999",
        ] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    #[test]
    fn sums_and_order() {
        let sum = "500m".parse::<Quantity>().unwrap() + "1.5".parse().unwrap();
        assert_eq!(sum, Quantity::from_units(2));
        assert_eq!((Quantity::ZERO + "1Gi".parse().unwrap()).to_string(), "1Gi");
        assert!("1G".parse::<Quantity>().unwrap() < "1Gi".parse().unwrap());
        assert_eq!("1001m".parse::<Quantity>().unwrap().units(), 2);
        assert!(("1".parse::<Quantity>().unwrap() - "2".parse().unwrap()).is_negative());
    }
}
