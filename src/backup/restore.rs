//! Restoring a backup: to a place of its own first, checked there, then put in place.

use std::path::{Path, PathBuf};

use super::chain::{Chain, Restored};
use super::error::{Error, Result};
use super::place::{Extent, Place, Placed};
use crate::archive::{Control, SectionName, Select};
use crate::stores::{self, CheckOptions, CheckReport, Outcome};
use crate::tree::{self, LocalTree, TreeWriter};

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
    pub select: Select<'a>,
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
    /// Whether an earlier restore had been interrupted, and was undone first.
    pub recovered: bool,
    /// Where something of what was replaced is left, because it cannot be removed.
    pub leftovers: Vec<PathBuf>,
}

/// Restores. `before` is called when all is restored and checked, before anything of the targets
/// changes, with those of them of which something is going to be replaced: to ask, or to save what
/// is there.
///
/// # Errors
/// When the backup cannot be read, the target not be written, a store is damaged, or `before`
/// fails. The targets are then as they were before.
pub fn restore(
    request: &RestoreRequest<'_>,
    before: &mut dyn FnMut(&[&Target]) -> Result<()>,
) -> Result<RestoreOutcome> {
    let mut outcome = RestoreOutcome::default();
    let mut places = Vec::new();
    for target in request.targets {
        if !request.replace
            && matches!(target.extent, Extent::Whole | Extent::Keeping(_))
            && !is_empty(&target.path)?
        {
            return Err(Error::NotEmpty(target.path.clone()));
        }
        let (place, recovered) = Place::prepare(&target.path, target.extent.clone())?;
        outcome.recovered |= recovered;
        places.push(place);
    }
    let trees: Vec<LocalTree> = places
        .iter()
        .map(|place| {
            let tree = LocalTree::open(place.new_root())?;
            // An ordinary user gets the files of others as their own, as from every archive.
            let root = rustix::process::geteuid().is_root();
            Ok::<_, tree::Error>(if root { tree } else { tree.as_permitted() })
        })
        .collect::<std::result::Result<_, _>>()?;
    let targets: Vec<(SectionName, &dyn TreeWriter)> = request
        .targets
        .iter()
        .zip(&trees)
        .map(|(target, tree)| (target.section.clone(), tree as &dyn TreeWriter))
        .collect();
    let RestoreRequest { chain, select, devices, control, .. } = *request;
    outcome.restored = chain.restore(&targets, select, devices, control)?;
    for tree in &trees {
        outcome.let_go_of += tree.let_go_of();
        tree.sync()?;
    }
    if request.check_stores {
        for place in &places {
            outcome.stores.extend(check_stores(&place.new_root())?);
        }
    }
    let mut replaced = Vec::new();
    for (place, target) in places.iter().zip(request.targets) {
        if place.replaces()? {
            if !request.replace {
                return Err(Error::NotEmpty(target.path.clone()));
            }
            replaced.push(target);
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
                for place in places[..at].iter_mut().rev() {
                    place.undo()?;
                }
                return Err(error);
            }
        }
    }
    for place in places {
        outcome.leftovers.extend(place.finish()?);
    }
    Ok(outcome)
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
/// [`Error::StoreDamaged`] for the first that is.
pub fn check_stores(root: &Path) -> Result<Vec<StoreCheck>> {
    let failed = |error: stores::Error| Error::io("check", root)(std::io::Error::other(error));
    let scan = stores::scan(root).map_err(failed)?;
    let mut checks = Vec::new();
    for component in &scan.components {
        let options = CheckOptions { scratch: Some(root.to_owned()) };
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
