//! Numbers that may be given as shares.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A number, or a share of `of` in percent, rounded up or down.
pub(crate) fn share(value: &IntOrString, of: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let hundredths = percent.saturating_mul(i64::from(of));
            let rounded = if up { hundredths.saturating_add(99) / 100 } else { hundredths / 100 };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}
