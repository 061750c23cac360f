//! Owns commands and what they may refer to.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

/// A program with its arguments. No shell reads it; words may hold placeholders: `{data}`,
/// `{mount}`, `{vault}`, `{root}` and those that its place in the profile adds; `{{` is a brace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Command {
    words: Vec<String>,
}

/// A command whose placeholders can't all be filled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?}: {reason}")]
pub struct PlaceholderError {
    /// The word.
    pub word: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Values of placeholders.
pub type Placeholders<'a> = BTreeMap<&'a str, &'a Path>;

impl Command {
    /// A command of words.
    ///
    /// # Errors
    /// Where there is none, or the program is empty, or a placeholder is none of `known`.
    pub fn new(words: Vec<String>, known: &[&str]) -> Result<Self, String> {
        if words.first().is_none_or(String::is_empty) {
            return Err("a command needs a program".to_owned());
        }
        if words.iter().any(|word| word.contains('\0')) {
            return Err("a word has a NUL byte".to_owned());
        }
        for word in &words {
            fill(word, &mut |name| known.contains(&name).then(String::new))
                .map_err(|error| error.to_string())?;
        }
        Ok(Self { words })
    }

    /// The words as they stand in the profile.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The words with their placeholders filled.
    ///
    /// # Errors
    /// For a placeholder without a value, or whose value is not UTF-8.
    pub fn with(&self, values: &Placeholders<'_>) -> Result<Vec<String>, PlaceholderError> {
        self.words.iter().map(|word| fill_with(word, values)).collect()
    }
}

/// Fills the placeholders of one text.
///
/// # Errors
/// As [`Command::with`].
pub(super) fn fill_with(word: &str, values: &Placeholders<'_>) -> Result<String, PlaceholderError> {
    fill(word, &mut |name| values.get(name)?.to_str().map(str::to_owned))
}

/// Fills the placeholders of one text.
pub(super) fn fill(
    word: &str,
    value: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<String, PlaceholderError> {
    let failed = |reason: String| PlaceholderError { word: word.to_owned(), reason };
    let mut result = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, brace) = rest.split_at(at);
        result.push_str(before);
        if let Some(after) = brace.strip_prefix("{{") {
            result.push('{');
            rest = after;
        } else if let Some(after) = brace.strip_prefix("}}") {
            result.push('}');
            rest = after;
        } else if let Some((name, after)) = brace.strip_prefix('{').and_then(|b| b.split_once('}'))
        {
            let value =
                value(name).ok_or_else(|| failed(format!("{{{name}}} has no value here")))?;
            result.push_str(&value);
            rest = after;
        } else {
            return Err(failed("a brace stands alone; write {{ or }}".to_owned()));
        }
    }
    result.push_str(rest);
    Ok(result)
}

/// Reads a length of time: `30s`, `5m`, `2h`, `7d` or `4w`.
///
/// # Errors
/// A message where it is none, or not between a second and ten years.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no length of time such as 30s, 5m, 2h, 7d or 4w");
    let unit = text.chars().last().ok_or_else(bad)?;
    let number = &text[..text.len() - unit.len_utf8()];
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(bad()),
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let number: u64 = number.parse().map_err(|_| bad())?;
    number
        .checked_mul(seconds)
        .filter(|seconds| (1..=315_360_000).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text:?} is not between a second and ten years"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn placeholders_are_filled() {
        let command = Command::new(words(&["cp", "{data}/a{{b}}", "x"]), &["data"]).unwrap();
        let values = Placeholders::from([("data", Path::new("/d"))]);
        assert_eq!(command.with(&values).unwrap(), ["cp", "/d/a{b}", "x"]);
        assert!(command.with(&Placeholders::new()).is_err());
        for bad in
            [words(&[]), words(&[""]), words(&["a", "{other}"]), words(&["a", "{"]), words(&["a}"])]
        {
            assert!(Command::new(bad.clone(), &["data"]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lengths_of_time() {
        assert_eq!(duration("30s").unwrap(), Duration::from_secs(30));
        assert_eq!(duration("2w").unwrap(), Duration::from_secs(1_209_600));
        for bad in
            ["", "s", "0s", "-1s", "1", "1y", "1.5h", "99999999999999999999s", "9999999w", "1é"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
