//! Words of commands for a shell, so that what is suggested or written down means the same there. Must not
//! run any.

use std::path::Path;

/// A word that a shell takes as it is (POSIX.1-2024, Shell Command Language, 2.2).
pub fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A path as such a word; what is not UTF-8 in it is replaced, as wherever paths are shown.
pub fn quote_path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted() {
        for (word, quoted) in
            [("a-b/c.d=e", "a-b/c.d=e"), ("", "''"), ("a b", "'a b'"), ("it's $x", r"'it'\''s $x'")]
        {
            assert_eq!(quote(word), quoted);
        }
        assert_eq!(quote_path(Path::new("/srv/My Vault")), "'/srv/My Vault'");
    }
}
