//! The secrets that people and machines hold: a passphrase, the content of a key file, a recovery
//! key of 24 words. Each is checked when it is made, kept in memory that is wiped, and never
//! printed except where a method says so.

use bip39::{Language, Mnemonic};
use zeroize::{Zeroize as _, Zeroizing};

use super::random::random_array;

/// Longest passphrase in bytes.
pub const MAX_PASSPHRASE_LEN: usize = 64 * 1024;
/// Shortest key file in bytes: 256 bits, if they are random.
pub const MIN_KEY_FILE_LEN: usize = 32;
/// Longest key file in bytes.
pub const MAX_KEY_FILE_LEN: usize = 1024 * 1024;
/// Words in a recovery key.
pub const RECOVERY_WORDS: usize = 24;
/// Bytes that a recovery key stands for.
pub const RECOVERY_LEN: usize = 32;

/// A secret that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The passphrase has no characters.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// The passphrase exceeds [`MAX_PASSPHRASE_LEN`].
    #[error("the passphrase is longer than {MAX_PASSPHRASE_LEN} bytes")]
    LongPassphrase,
    /// The key file is below [`MIN_KEY_FILE_LEN`].
    #[error(
        "the key file holds {length} bytes; at least {MIN_KEY_FILE_LEN} random bytes are needed"
    )]
    ShortKeyFile {
        /// Its length in bytes.
        length: usize,
    },
    /// The key file exceeds [`MAX_KEY_FILE_LEN`].
    #[error("the key file is longer than {MAX_KEY_FILE_LEN} bytes; is it the right file?")]
    LongKeyFile,
    /// The recovery key has more or fewer words than [`RECOVERY_WORDS`].
    #[error("a recovery key has {RECOVERY_WORDS} words; this one has {words}")]
    WordCount {
        /// How many there were.
        words: usize,
    },
    /// A word is not in the list of BIP-39.
    #[error("word {position} of the recovery key is not in the list of words; is it spelt right?")]
    UnknownWord {
        /// Which, from 1.
        position: usize,
    },
    /// All the words are known, but they do not fit together.
    #[error("the words do not make a recovery key: one is wrong, or two are swapped")]
    Checksum,
}

/// A passphrase, taken byte for byte: no Unicode normalisation, no trimming.
///
/// ```compile_fail
/// fn print<T: std::fmt::Debug>() {}
/// print::<strongroom::crypto::Passphrase>();
/// ```
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes over the bytes.
    ///
    /// # Errors
    /// When there are none, or more than [`MAX_PASSPHRASE_LEN`].
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Result<Self, SecretError> {
        match bytes.len() {
            0 => Err(SecretError::EmptyPassphrase),
            length if length > MAX_PASSPHRASE_LEN => Err(SecretError::LongPassphrase),
            _ => Ok(Self(bytes)),
        }
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// The content of a key file: at least 32 bytes, which must be random, because no slow derivation
/// protects a guessable one.
pub struct KeyFile(Zeroizing<Vec<u8>>);

impl KeyFile {
    /// Takes over the content.
    ///
    /// # Errors
    /// When it is shorter than [`MIN_KEY_FILE_LEN`] or longer than [`MAX_KEY_FILE_LEN`].
    pub fn new(content: Zeroizing<Vec<u8>>) -> Result<Self, SecretError> {
        match content.len() {
            length if length < MIN_KEY_FILE_LEN => Err(SecretError::ShortKeyFile { length }),
            length if length > MAX_KEY_FILE_LEN => Err(SecretError::LongKeyFile),
            _ => Ok(Self(content)),
        }
    }

    /// The content for a new key file: 64 random bytes.
    ///
    /// # Panics
    /// When the operating system cannot give random bytes.
    pub fn generate_content() -> Zeroizing<Vec<u8>> {
        Zeroizing::new(Zeroizing::new(random_array::<64>()).to_vec())
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// A recovery key: 256 random bits, written as 24 English words of BIP-39 (the last of which
/// carries an 8-bit checksum).
///
/// ```compile_fail
/// fn print<T: std::fmt::Display>() {}
/// print::<strongroom::crypto::RecoveryKey>();
/// ```
pub struct RecoveryKey(Zeroizing<[u8; RECOVERY_LEN]>);

impl RecoveryKey {
    /// A new random recovery key.
    ///
    /// # Panics
    /// When the operating system cannot give random bytes.
    pub fn generate() -> Self {
        Self(Zeroizing::new(random_array()))
    }

    /// Reads the words as a person types them: in any case, with any white space between.
    ///
    /// # Errors
    /// When they are not 24 known words whose checksum fits.
    pub fn parse(words: &str) -> Result<Self, SecretError> {
        let words = Zeroizing::new(words.to_ascii_lowercase());
        let count = words.split_whitespace().count();
        if count != RECOVERY_WORDS {
            return Err(SecretError::WordCount { words: count });
        }
        let mnemonic = Mnemonic::parse_in_normalized(Language::English, &words).map_err(
            |error| match error {
                bip39::Error::UnknownWord(index) => {
                    SecretError::UnknownWord { position: index.saturating_add(1) }
                }
                _ => SecretError::Checksum,
            },
        )?;
        let (mut entropy, _) = mnemonic.to_entropy_array();
        let mut bytes = Zeroizing::new([0u8; RECOVERY_LEN]);
        bytes.copy_from_slice(&entropy[..RECOVERY_LEN]);
        entropy.zeroize();
        Ok(Self(bytes))
    }

    /// The 24 words, separated by single spaces, to be shown to the owner once.
    ///
    /// # Panics
    /// Never: 256 bits always make 24 words.
    pub fn words(&self) -> Zeroizing<String> {
        let mnemonic = Mnemonic::from_entropy_in(Language::English, self.0.as_ref())
            .expect("256 bits are a length of BIP-39");
        // The longest word has eight letters: the string never grows, so no copy stays behind.
        let mut text = Zeroizing::new(String::with_capacity(RECOVERY_WORDS * 9));
        for word in mnemonic.words() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        text
    }

    pub(super) fn expose(&self) -> &[u8; RECOVERY_LEN] {
        &self.0
    }
}

/// What opens a key slot.
pub enum Secret {
    /// A passphrase.
    Passphrase(Passphrase),
    /// The content of a key file.
    KeyFile(KeyFile),
    /// A recovery key.
    RecoveryKey(RecoveryKey),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn bytes(length: usize) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(vec![7; length])
    }

    #[test]
    fn passphrases_have_bounds() {
        assert_eq!(Passphrase::new(bytes(0)).err(), Some(SecretError::EmptyPassphrase));
        assert!(Passphrase::new(bytes(1)).is_ok());
        assert!(Passphrase::new(bytes(MAX_PASSPHRASE_LEN)).is_ok());
        let long = Passphrase::new(bytes(MAX_PASSPHRASE_LEN + 1));
        assert_eq!(long.err(), Some(SecretError::LongPassphrase));
    }

    #[test]
    fn key_files_have_bounds() {
        let short = KeyFile::new(bytes(31));
        assert_eq!(short.err(), Some(SecretError::ShortKeyFile { length: 31 }));
        assert!(KeyFile::new(bytes(32)).is_ok());
        assert!(KeyFile::new(bytes(MAX_KEY_FILE_LEN)).is_ok());
        let long = KeyFile::new(bytes(MAX_KEY_FILE_LEN + 1));
        assert_eq!(long.err(), Some(SecretError::LongKeyFile));
        assert_ne!(*KeyFile::generate_content(), *KeyFile::generate_content());
    }

    /// The test vectors that BIP-39 refers to (trezor/python-mnemonic, `vectors.json`).
    #[test]
    fn words_are_those_of_bip_39() {
        let zero = RecoveryKey(Zeroizing::new([0; 32]));
        assert_eq!(*zero.words(), format!("{}art", "abandon ".repeat(23)));
        let ones = RecoveryKey(Zeroizing::new([0xff; 32]));
        assert_eq!(*ones.words(), format!("{}vote", "zoo ".repeat(23)));
    }

    #[test]
    fn typed_words_are_read_leniently_and_checked_strictly() {
        let good = format!("  {}\n{} ART ", "Abandon ".repeat(12), "abandon\t".repeat(11));
        assert_eq!(RecoveryKey::parse(&good).unwrap().expose(), &[0; 32]);

        let few = "abandon ".repeat(12);
        assert_eq!(RecoveryKey::parse(&few).err(), Some(SecretError::WordCount { words: 12 }));
        let unknown = format!("abandon abandn {}art", "abandon ".repeat(21));
        let error = RecoveryKey::parse(&unknown).err();
        assert_eq!(error, Some(SecretError::UnknownWord { position: 2 }));
        let wrong = "abandon ".repeat(24);
        assert_eq!(RecoveryKey::parse(&wrong).err(), Some(SecretError::Checksum));
    }

    proptest! {
        #[test]
        fn words_and_bits_are_one_to_one(bits: [u8; 32]) {
            let key = RecoveryKey(Zeroizing::new(bits));
            let read = RecoveryKey::parse(&key.words()).unwrap();
            prop_assert_eq!(read.expose(), &bits);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".*") {
            let _ = RecoveryKey::parse(&text);
        }
    }
}
