//! The names of backups: `NAME-YYYYMMDD-HHMMSS.tar.zst.enc`, and of what lies beside them.

use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::error::{Error, Result};
use crate::archive::Compression;
use crate::tree::Timestamp;

const SEALED: &str = ".enc";
const SIDECAR: &str = ".metadata.json";
const STAMP: &str = "%Y%m%d-%H%M%S";
const STAMP_LEN: usize = 15;
/// Longest name: with everything behind it, a file name stays below 255 bytes.
const NAME_MAX: usize = 200;

/// The name of a backup's file, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupName {
    /// What it is of.
    pub name: String,
    /// When it was begun, in seconds since 1970.
    pub created: i64,
    /// How it is compressed.
    pub compression: Compression,
    /// Whether it is sealed.
    pub sealed: bool,
}

impl BackupName {
    /// Checks the name.
    ///
    /// # Errors
    /// [`Error::BadName`].
    pub fn new(
        name: &str,
        created: Timestamp,
        compression: Compression,
        sealed: bool,
    ) -> Result<Self> {
        if is_name(name) {
            let name = name.to_owned();
            Ok(Self { name, created: created.seconds, compression, sealed })
        } else {
            Err(Error::BadName(name.to_owned()))
        }
    }

    /// The file's name.
    pub fn file_name(&self) -> String {
        let Self { name, compression, .. } = self;
        let sealed = if self.sealed { SEALED } else { "" };
        format!("{name}-{}{}{sealed}", stamp(self.created), compression.extension())
    }

    /// Takes a file's name apart; `None` where it is not a backup's.
    pub fn parse(file_name: &str) -> Option<Self> {
        let (rest, sealed) = match file_name.strip_suffix(SEALED) {
            Some(rest) => (rest, true),
            None => (file_name, false),
        };
        let all = [Compression::Zstd, Compression::Gzip, Compression::Lz4, Compression::None];
        let (rest, compression) = all
            .into_iter()
            .find_map(|one| rest.strip_suffix(one.extension()).map(|rest| (rest, one)))?;
        let split = rest.len().checked_sub(STAMP_LEN + 1)?;
        let (name, stamp) = rest.split_at_checked(split)?;
        let stamp = stamp.strip_prefix('-')?;
        let time = DateTime::strptime(STAMP, stamp).ok()?;
        let created = time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second();
        // Spaces for zeros and a sixtieth second are read, too, but never written.
        let good = is_name(name) && stamp == self::stamp(created);
        good.then(|| Self { name: name.to_owned(), created, compression, sealed })
    }
}

fn stamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().strftime(STAMP).to_string()
}

fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// A name made of whatever a directory is called.
pub fn name_of(path: &Path) -> String {
    let last = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let plain = |character: char| {
        if character.is_ascii_alphanumeric() || "._-".contains(character) { character } else { '-' }
    };
    let name: String = last.chars().map(plain).take(NAME_MAX).collect();
    let name = name.trim_start_matches(['.', '-']);
    if name.is_empty() { "backup".to_owned() } else { name.to_owned() }
}

/// Where the notes on a backup lie.
pub fn sidecar_path(archive: &Path) -> Option<PathBuf> {
    let file_name = archive.file_name()?.to_str()?;
    let BackupName { name, created, .. } = BackupName::parse(file_name)?;
    Some(archive.with_file_name(format!("{name}-{}{SIDECAR}", stamp(created))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_and_back() {
        let created = Timestamp { seconds: 1_760_704_200, nanoseconds: 7 };
        for (compression, sealed, end) in [
            (Compression::Zstd, true, ".tar.zst.enc"),
            (Compression::Gzip, false, ".tar.gz"),
            (Compression::Lz4, true, ".tar.lz4.enc"),
            (Compression::None, false, ".tar"),
            (Compression::None, true, ".tar.enc"),
        ] {
            let name = BackupName::new("aico-backup", created, compression, sealed).unwrap();
            let file = name.file_name();
            assert_eq!(file, format!("aico-backup-20251017-123000{end}"));
            assert_eq!(BackupName::parse(&file), Some(name));
            let sidecar = sidecar_path(&Path::new("/backups").join(&file)).unwrap();
            assert_eq!(sidecar, Path::new("/backups/aico-backup-20251017-123000.metadata.json"));
        }
    }

    #[test]
    fn other_names_are_not_backups() {
        for name in [
            "",
            "x",
            "x.tar",
            "x-20251017-123000",
            "x-20251017-123000.zip",
            "x-20251399-123000.tar",
            "x-20251017-256000.tar",
            "x-2025 017-123000.tar",
            "x-20251017-123060.tar",
            "x_20251017-123000.tar",
            "-20251017-123000.tar",
            ".x-20251017-123000.tar",
            "x y-20251017-123000.tar",
            "é-20251017-123000.tar",
            ".strongroom-partial-0123456789abcdef",
        ] {
            assert_eq!(BackupName::parse(name), None, "{name}");
        }
        for name in ["", "a/b", "..", "-x", "x y", &"x".repeat(201)] {
            let made = BackupName::new(name, Timestamp::default(), Compression::None, false);
            assert!(made.is_err(), "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_file_name(name in ".{0,40}(-[0-9]{8}-[0-9]{6})?(\\.tar)?(\\.zst|\\.gz|\\.lz4)?(\\.enc)?") {
            if let Some(parsed) = BackupName::parse(&name) {
                proptest::prop_assert_eq!(parsed.file_name(), name);
            }
        }
    }

    #[test]
    fn names_of_directories() {
        for (path, name) in [
            ("/home/user/notes", "notes"),
            ("/", "backup"),
            ("/srv/.hidden", "hidden"),
            ("/srv/my données", "my-donn-es"),
            ("/srv/---", "backup"),
        ] {
            assert_eq!(name_of(Path::new(path)), name);
        }
    }
}
