//! Restoring a backup: to a place of its own first, checked there, then put in place.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::chain::{Chain, Restored, Selection};
use super::create::refuse_cancelled;
use super::error::{Error, Result};
use super::glance::Glancing;
use super::place::{Extent, Place, Placed, unfinished};
use crate::archive::{Control, SectionName};
use crate::stores::{self, CheckOptions, CheckReport, Outcome};
use crate::tree::{self, LocalTree, TreePath, TreeWriter};

/// Where one section goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// The section.
    pub section: SectionName,
    /// The directory; need not exist.
    pub path: PathBuf,
    /// How much of it changes.
    pub extent: Extent,
}

/// What is to be restored, and how.
pub struct RestoreRequest<'a> {
    /// The backup, opened.
    pub chain: &'a Chain<'a>,
    /// Where its sections go; others are left out.
    pub targets: &'a [Target],
    /// What of them.
    pub selection: Selection<'a>,
    /// Whether what is there may be replaced.
    pub replace: bool,
    /// Whether device files may be made.
    pub devices: bool,
    /// Whether the stores found in what was restored are checked before it is put in place.
    pub check_stores: bool,
    /// How it is stopped and watched.
    pub control: Control<'a>,
}

/// A store that was checked.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StoreCheck {
    /// What it is.
    pub kind: String,
    /// Where it lies in the backup.
    pub path: String,
    /// How the check came out.
    #[serde(flatten)]
    pub report: CheckReport,
}

/// What was restored.
#[derive(Clone, Debug, Default)]
pub struct RestoreOutcome {
    /// What came out of the archives.
    pub restored: Restored,
    /// What was put in place.
    pub placed: Placed,
    /// The stores that were checked.
    pub stores: Vec<StoreCheck>,
    /// How many entries have not the owners or attributes that only root may give.
    pub let_go_of: u64,
    /// Where something of what was replaced is left, because it cannot be removed.
    pub leftovers: Vec<PathBuf>,
}

/// What of a target is going to be replaced.
#[derive(Clone, Debug)]
pub struct Replaced<'a> {
    /// The target.
    pub target: &'a Target,
    /// What of it, with all that it holds; the root: everything.
    pub paths: Vec<TreePath>,
}

/// Refuses a restore that would replace the backup that it restores from, or the directory of it,
/// where what is replaced is saved.
///
/// # Errors
/// [`Error::BackupInTarget`].
pub fn refuse_to_replace_backups(chain: &Chain<'_>, targets: &[Target]) -> Result<()> {
    for reader in std::iter::once(chain.reader()).chain(chain.needed()) {
        let archive = reader.path();
        let directory = match archive.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        for path in [directory, archive].iter().filter_map(|path| path.canonicalize().ok()) {
            if let Some(target) = targets.iter().find(|target| target.goes_with(&path)) {
                let (archive, target) = (archive.to_owned(), target.path.clone());
                return Err(Error::BackupInTarget { archive, target });
            }
        }
    }
    Ok(())
}

impl Target {
    /// Whether a file or directory, by its canonical path, is replaced or removed.
    fn goes_with(&self, path: &Path) -> bool {
        let Ok(root) = self.path.canonicalize() else { return false };
        let Ok(inside) = path.strip_prefix(&root) else { return false };
        let Ok(inside) = TreePath::new(inside.as_os_str().as_bytes()) else { return true };
        match &self.extent {
            Extent::Whole => true,
            Extent::Missing => false,
            Extent::Parts(parts) => parts.iter().any(|part| inside.is_within(part)),
            Extent::Keeping(kept) => !kept.iter().any(|kept| inside.is_within(kept)),
        }
    }
}

/// Restores. `before` is called when all is restored and checked, before anything of the targets
/// changes, with what of them is going to be replaced: to ask, or to save what is there.
///
/// # Errors
/// When the backup cannot be read, the target not be written, a store is damaged, or `before`
/// fails. The targets are then as they were before.
pub fn restore(
    request: &RestoreRequest<'_>,
    before: &mut dyn FnMut(&[Replaced<'_>]) -> Result<()>,
) -> Result<RestoreOutcome> {
    refuse_to_replace_backups(request.chain, request.targets)?;
    let mut outcome = RestoreOutcome::default();
    let mut places = Vec::new();
    let _made = Shared::make(request.targets)?;
    for target in request.targets {
        if let Some(left) = unfinished(&target.path)?.pop() {
            return Err(Error::Unfinished(left));
        }
    }
    for target in request.targets {
        if !request.replace
            && matches!(target.extent, Extent::Whole | Extent::Keeping(_))
            && !is_empty(&target.path)?
        {
            return Err(Error::NotEmpty(target.path.clone()));
        }
        places.push(Place::prepare(&target.path, target.extent.clone())?);
    }
    let trees: Vec<Glancing> = places
        .iter()
        .map(|place| {
            let tree = LocalTree::open(place.new_root())?.filling_an_empty_one();
            // An ordinary user gets the files of others as their own, as from every archive.
            let root = rustix::process::geteuid().is_root();
            Ok::<_, tree::Error>(Glancing::new(if root { tree } else { tree.as_permitted() }))
        })
        .collect::<std::result::Result<_, _>>()?;
    let targets: Vec<(SectionName, &dyn TreeWriter)> = request
        .targets
        .iter()
        .zip(&trees)
        .map(|(target, tree)| (target.section.clone(), tree as &dyn TreeWriter))
        .collect();
    let RestoreRequest { chain, selection, devices, control, .. } = *request;
    outcome.restored = chain.restore(&targets, selection, devices, control)?;
    for tree in &trees {
        outcome.let_go_of += tree.tree().let_go_of();
        tree.sync()?;
    }
    if request.check_stores {
        for (place, _) in places.iter().zip(&trees).filter(|(_, tree)| tree.may_hold_stores()) {
            outcome.stores.extend(check_stores(&place.new_root(), control.cancelled)?);
        }
    }
    let mut replaced = Vec::new();
    for (place, target) in places.iter().zip(request.targets) {
        let paths = place.replaced()?;
        if !paths.is_empty() {
            if !request.replace {
                return Err(Error::NotEmpty(target.path.clone()));
            }
            replaced.push(Replaced { target, paths });
        }
    }
    before(&replaced)?;
    for at in 0..places.len() {
        match places[at].commit() {
            Ok(placed) => {
                outcome.placed.put += placed.put;
                outcome.placed.replaced += placed.replaced;
                outcome.placed.skipped += placed.skipped;
            }
            Err(error) => {
                let before = places[..at].iter_mut().rev();
                return Err(before.fold(error, |error, place| place.undo_after(error)));
            }
        }
    }
    // All are kept before anything of one is given up. One that cannot be told so is in place all the
    // same, and what it replaced is left.
    for place in &mut places {
        let _ = place.settle();
    }
    outcome.leftovers.extend(places.into_iter().filter_map(Place::finish));
    Ok(outcome)
}

/// Directories that are missing and in which more than one section goes: none of those may take the
/// place of the whole. Dropped, they go again where they are empty.
struct Shared<'a>(Vec<&'a Path>);

impl<'a> Shared<'a> {
    fn make(targets: &'a [Target]) -> Result<Self> {
        let mut shared = Self(Vec::new());
        for (at, target) in targets.iter().enumerate() {
            let mut others = targets.iter().enumerate().filter(|(other, _)| *other != at);
            if !target.path.exists()
                && others.any(|(_, other)| other.path.starts_with(&target.path))
            {
                std::fs::create_dir_all(&target.path).map_err(Error::io("create", &target.path))?;
                shared.0.push(&target.path);
            }
        }
        Ok(shared)
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        for directory in &self.0 {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

fn is_empty(directory: &Path) -> Result<bool> {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io("list", directory)(error)),
    }
}

/// Runs the stores' own checks on a tree at rest.
///
/// # Errors
/// [`Error::StoreDamaged`] for the first that is; [`Error::Cancelled`].
pub fn check_stores(root: &Path, cancelled: &AtomicBool) -> Result<Vec<StoreCheck>> {
    let failed = |error: stores::Error| match error {
        stores::Error::Cancelled { .. } => Error::Cancelled,
        error => Error::io("check", root)(std::io::Error::other(error)),
    };
    let scan = stores::scan_until(root, cancelled).map_err(failed)?;
    let mut checks = Vec::new();
    for component in &scan.components {
        refuse_cancelled(cancelled)?;
        let options = CheckOptions { scratch: Some(root.to_owned()), cancelled: Some(cancelled) };
        let report = stores::check(root, component, &options).map_err(failed)?;
        if report.outcome == Outcome::Damaged {
            return Err(Error::StoreDamaged {
                store: component.path.display().to_string(),
                finding: report.findings.first().cloned().unwrap_or_default(),
            });
        }
        checks.push(StoreCheck {
            kind: component.kind.to_string(),
            path: component.path.display().to_string(),
            report,
        });
    }
    Ok(checks)
}
