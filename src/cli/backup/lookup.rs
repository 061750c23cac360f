//! Backups that are named without their directory, or by no more than their time.

use std::path::{Path, PathBuf};

use super::ProfileArgs;
use super::defaults::directory;
use crate::backup::{Backup, Catalog};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;

/// The backup that is meant: the file, or the one in the directory of the profile's backups that is
/// called so. What is nowhere is left as it is, for whoever opens it.
pub(super) fn find(
    named: &Path,
    profile: &ProfileArgs,
    context: &Context,
) -> Result<PathBuf, Failure> {
    let bare = named.to_str().filter(|text| !text.contains('/'));
    let Some(text) = bare.filter(|_| named.symlink_metadata().is_err()) else {
        return Ok(named.to_owned());
    };
    // That there is no profile or no such directory is not what is wrong.
    let Some(catalog) =
        directory(None, profile, context).ok().and_then(|directory| Catalog::read(&directory).ok())
    else {
        return Ok(named.to_owned());
    };
    let found: Vec<&Backup> =
        catalog.backups().iter().filter(|backup| is_called(&backup.file_name(), text)).collect();
    match found[..] {
        [] => Ok(named.to_owned()),
        [one] => Ok(one.path.clone()),
        [one, other, ..] => {
            let message = format!(
                "{text} may be {} or {}: give the name of the file",
                one.file_name(),
                other.file_name()
            );
            Err(Failure::new(ExitCode::Usage, message))
        }
    }
}

/// By its whole name, by it without what follows the time, or by the time alone.
fn is_called(file: &str, text: &str) -> bool {
    let stem = file.split_once(".tar").map_or(file, |(stem, _)| stem);
    let time = stem.len().checked_sub("YYYYMMDD-HHMMSS".len()).and_then(|at| stem.get(at..));
    text == file || text == stem || time.is_some_and(|time| text.replace('_', "-") == time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_short() {
        let file = "app-20240912-143022.tar.zst.enc";
        for text in [file, "app-20240912-143022", "20240912-143022", "20240912_143022"] {
            assert!(is_called(file, text), "{text}");
        }
        for text in ["", "app", "app-20240912", "20240912-143023", "143022", "app-20240912-143022."]
        {
            assert!(!is_called(file, text), "{text}");
        }
    }
}
