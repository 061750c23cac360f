//! The edits of configuration files: planned, applied, taken back.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::blocker::Blocker;
use super::error::{Error, Result};
use super::operations::{Change, Hands};
use super::plan::{Request, home_of_owner, leaves_out};
use super::record::{Edit, StoredPath, SwitchMode};
use crate::repoint::{self, Context, Format, Mention, Relocation};
use crate::tree::{ByteString, Patterns, TreePath};

/// Largest configuration file that is edited, in bytes: the journal keeps it.
pub(super) const CONFIG_LIMIT: u64 = 8 << 20;

/// The edit of one file, as a plan shows it.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedEdit {
    /// The file.
    pub file: StoredPath,
    /// Its syntax.
    pub format: Format,
    /// The keys whose values change.
    pub keys: Vec<String>,
    /// What names the old path and is left alone.
    pub mentions: Vec<Mention>,
    /// The edit as a unified diff.
    pub diff: String,
    /// Its place in the source, where it lies there: then its copy in the vault is edited.
    pub inside: Option<TreePath>,
    /// The edit itself.
    #[serde(skip)]
    pub edit: Edit,
}

/// Plans the edits of every file; what cannot be edited stands in the way.
pub(super) fn plan(request: &Request, blockers: &mut Vec<Blocker>) -> Vec<PlannedEdit> {
    let mut planned = Vec::new();
    let mut idle = Vec::new();
    for file in files(request) {
        match plan_file(request, &file) {
            Ok(Some(edit)) => planned.push(edit),
            Ok(None) => idle.push(file.as_path().into()),
            Err(error) => {
                let reason = error.to_string();
                blockers.push(Blocker::Config { file: file.as_path().into(), reason });
            }
        }
    }
    if request.mode == SwitchMode::Repoint {
        // The app would go on with the old path.
        let none = planned.is_empty();
        idle.retain(|file: &StoredPath| none || !request.reading.optional.contains(file));
        blockers.extend(idle.into_iter().map(|file| Blocker::NothingToRepoint { file }));
    }
    planned
}

/// Every file to be edited, once.
fn files(request: &Request) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    let set = request.sets.iter().map(|set| set.file.as_path().to_owned());
    for file in request.configs.iter().cloned().chain(set) {
        if !files.contains(&file) {
            files.push(file);
        }
    }
    files
}

/// The edit of one file; `None` where it has nothing to edit.
///
/// # Errors
/// When it cannot be read or edited.
fn plan_file(request: &Request, file: &Path) -> Result<Option<PlannedEdit>> {
    let original = read(file)?;
    let failed = |source| Error::Config { file: file.to_owned(), source };
    let format = request
        .reading
        .format_of(file)
        .or_else(|| Format::detect(file, &original))
        .ok_or_else(|| Error::UnknownFormat { file: file.to_owned() })?;
    let mut bytes = original.clone();
    let mut edits = Vec::new();
    let mut mentions = Vec::new();
    // With the other modes the old path stays valid, and only what is asked for is set.
    if request.mode == SwitchMode::Repoint && request.configs.iter().any(|path| path == file) {
        let repointed =
            repoint::repoint(&bytes, format, &relocation(request), &context(request, file))
                .map_err(failed)?;
        edits.push(repointed.record(format, &bytes));
        bytes = repointed.bytes;
        mentions = repointed.mentions;
    }
    for set in request.sets.iter().filter(|set| set.file.as_path() == file) {
        let changed = repoint::set(&bytes, format, &set.key, &set.value).map_err(failed)?;
        edits.push(changed.record(format, &bytes));
        bytes = changed.bytes;
    }
    edits.retain(|record| !record.edits.is_empty());
    if bytes == original {
        return Ok(None);
    }
    refuse_unreplaceable(request, file)?;
    let keys = edits.iter().flat_map(|record| &record.edits).map(|edit| edit.key.clone()).collect();
    let inside = inside(&request.source, file);
    let edit = Edit {
        file: file.into(),
        original: ByteString(original),
        edited: ByteString(bytes),
        edits,
        inside: inside.clone(),
    };
    let diff = repoint::diff(file, &edit.original.0, &edit.edited.0);
    Ok(Some(PlannedEdit { file: file.into(), format, keys, mentions, diff, inside, edit }))
}

/// Refuses a file that could not be replaced when its time comes.
///
/// # Errors
/// When it has several names, is immutable, is mounted by itself, or its directory cannot be
/// written; when it lies in the source and would not be found in the vault.
fn refuse_unreplaceable(request: &Request, file: &Path) -> Result<()> {
    use rustix::fs::{Access, AtFlags, CWD, StatxAttributes, StatxFlags};
    let failed = |error: std::io::Error| Error::io("replace", file, error);
    let refused = |why: &str| Err(failed(std::io::Error::other(why)));
    let real = fs::canonicalize(file).map_err(failed)?;
    let stat = rustix::fs::statx(CWD, &real, AtFlags::empty(), StatxFlags::BASIC_STATS)
        .map_err(|error| failed(error.into()))?;
    if stat.stx_nlink > 1 {
        return refused("it has several names (hard links), of which only one would be edited");
    }
    if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return refused("it is mounted by itself, so that nothing can take its place");
    }
    if let Some(inside) = inside(&request.source, file) {
        // Its copy is edited.
        let patterns = Patterns::new(&request.exclude).map_err(Error::Pattern)?;
        if leaves_out(&patterns, inside.as_path()) {
            return refused("--exclude leaves it out, so that the vault will not have it");
        }
        let names = std::iter::once(&request.source).chain(&request.names);
        let by_its_path = names.into_iter().any(|name| file.starts_with(name));
        if request.mode == SwitchMode::Repoint && !by_its_path {
            return refused("it is a symlink into the source, and would lead to the old place");
        }
        return Ok(());
    }
    if stat.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND) {
        return Err(failed(std::io::Error::from_raw_os_error(libc::EPERM)));
    }
    rustix::fs::access(super::operations::parent_of(&real), Access::WRITE_OK)
        .map_err(|error| failed(error.into()))
}

fn relocation(request: &Request) -> Relocation {
    let mut relocation = Relocation::new(&request.source, &request.mount_point);
    for name in &request.names {
        relocation = relocation.also_known_as(name);
    }
    relocation
}

fn context(request: &Request, file: &Path) -> Context {
    let reading = &request.reading;
    Context {
        home: home_of_owner(file),
        directory: fs::canonicalize(file).ok().and_then(|file| file.parent().map(Path::to_owned)),
        working_directory: reading.working_directory.as_ref().map(|path| path.as_path().to_owned()),
        variables: reading.variables.clone(),
    }
}

/// A file's place in the source, if it lies there.
fn inside(source: &Path, file: &Path) -> Option<TreePath> {
    use std::os::unix::ffi::OsStrExt;
    let canonical = fs::canonicalize(file).ok()?;
    let below = canonical.strip_prefix(source).ok()?;
    TreePath::new(below.as_os_str().as_bytes()).ok()
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let failed = |error| Error::io("read", file, error);
    let size = fs::metadata(file).map_err(failed)?.len();
    if size > CONFIG_LIMIT {
        return Err(failed(std::io::Error::from_raw_os_error(libc::EFBIG)));
    }
    fs::read(file).map_err(failed)
}

/// Where the file to edit is: in the vault, where it was copied with the source.
fn place<'a>(edit: &'a Edit, vault: &Path) -> std::borrow::Cow<'a, Path> {
    match &edit.inside {
        Some(inside) => vault.join(inside.as_path()).into(),
        None => edit.file.as_path().into(),
    }
}

/// Makes one edit, unless it is made already.
///
/// # Errors
/// [`Error::ConfigChanged`] when the file is neither as it was nor as it shall be.
pub(super) fn apply(hands: &Hands, edit: &Edit, vault: &Path) -> Result<()> {
    let path = place(edit, vault);
    let current = read(&path)?;
    if current == edit.edited.0 {
        return Ok(());
    }
    if current != edit.original.0 {
        let diff = repoint::diff(&path, &edit.original.0, &current);
        return Err(Error::ConfigChanged { file: path.into_owned(), diff });
    }
    replace(hands, &path, &current, &edit.edited.0)
}

/// How an edit was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TakenBack {
    /// The file holds, byte for byte, what it held before.
    Whole,
    /// Somebody edited it since; only our edits were taken back.
    OwnEdits,
    /// Somebody removed it since.
    Gone,
}

/// Finds out whether an edit can be taken back; changes nothing.
///
/// # Errors
/// As [`take_back`].
pub(super) fn try_take_back(edit: &Edit) -> Result<()> {
    taken_back(edit, edit.file.as_path()).map(|_| ())
}

/// Takes one edit back, unless it is taken back already. Edits of the copy in the vault are left.
///
/// # Errors
/// [`Error::ConfigConflict`] when somebody has since edited the very values that we had edited.
pub(super) fn take_back(hands: &Hands, edit: &Edit) -> Result<TakenBack> {
    take_back_at(hands, edit, edit.file.as_path())
}

/// The same for the file at another path.
pub(super) fn take_back_at(hands: &Hands, edit: &Edit, path: &Path) -> Result<TakenBack> {
    let Some((current, bytes)) = taken_back(edit, path)? else { return Ok(TakenBack::Gone) };
    if bytes != current {
        replace(hands, path, &current, &bytes)?;
    }
    let whole = bytes == edit.original.0;
    Ok(if whole { TakenBack::Whole } else { TakenBack::OwnEdits })
}

/// What a file holds, and what it holds without the edit; `None` where it is gone.
fn taken_back(edit: &Edit, path: &Path) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
    let current = match read(path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        read => read?,
    };
    if current == edit.original.0 || current == edit.edited.0 {
        return Ok(Some((current, edit.original.0.clone())));
    }
    let mut bytes = current.clone();
    for record in edit.edits.iter().rev() {
        bytes = match repoint::revert(&bytes, record) {
            Ok(reverted) => reverted.bytes,
            Err(repoint::Error::Conflict { keys, .. }) => {
                let diff = repoint::diff(path, &edit.edited.0, &current);
                return Err(Error::ConfigConflict { file: path.to_owned(), keys, diff });
            }
            Err(source) => return Err(Error::Config { file: path.to_owned(), source }),
        };
    }
    Ok(Some((current, bytes)))
}

fn replace(hands: &Hands, path: &Path, expected: &[u8], content: &[u8]) -> Result<()> {
    hands.perform(Change::ReplaceFile, path, || {
        repoint::replace_file(path, expected, content)
            .map_err(|source| Error::Config { file: path.to_owned(), source })
    })
}
