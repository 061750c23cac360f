//! Ages, as the command line takes them.

use jiff::SignedDuration;

use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;

/// `30d`, `8w`, `6m`, `1y`, `12h`.
pub(super) fn age(text: &str) -> Result<SignedDuration, Failure> {
    const HOUR: i64 = 3600;
    let bad =
        || Failure::new(ExitCode::Usage, format!("{text:?} is no age such as 30d, 8w, 6m or 1y"));
    let split = text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at));
    let (number, unit) = text.split_at(split.ok_or_else(bad)?);
    let number: i64 = number.parse().map_err(|_| bad())?;
    let seconds = match unit {
        "h" => HOUR,
        "d" => 24 * HOUR,
        "w" => 7 * 24 * HOUR,
        "m" => 31 * 24 * HOUR,
        "y" => 366 * 24 * HOUR,
        _ => return Err(bad()),
    };
    let seconds = number.checked_mul(seconds).filter(|seconds| *seconds > 0).ok_or_else(bad)?;
    Ok(SignedDuration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ages() {
        assert_eq!(age("12h").unwrap(), SignedDuration::from_hours(12));
        assert_eq!(age("30d").unwrap(), SignedDuration::from_hours(720));
        assert_eq!(age("1y").unwrap(), SignedDuration::from_hours(366 * 24));
        for bad in
            ["", "d", "3", "-3d", "0d", "3x", "3é", "99999999999999999999d", "9999999999999999d"]
        {
            assert!(age(bad).is_err(), "{bad}");
        }
    }
}
