//! The steps that change nothing of the user's: reading the source, the copy, its verification.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::blocker::Blocker;
use super::command;
use super::disk::Disk;
use super::engine::{Engine, Side, local};
use super::environment::{Mount, MountAccess};
use super::error::{Error, Result};
use super::ledger::{self, Changed, LedgerReader};
use super::operations::Change;
use super::plan::leaves_out;
use super::record::{LedgerReference, Record};
use super::survey::{Observer, Stage, Totals, TreeProgress};
use super::verify::StoreReport;
use super::watched::WatchedTree;
use crate::stores::{self, CheckOptions, CheckReport, Component, Outcome};
use crate::tree::{
    self, CompareOptions, Comparison, CopyOptions, Digest, Durability, Entry, LocalTree, Mismatch,
    TreePath, TreeReader, TreeWriter,
};

/// How long files may stay open after the app's stop command succeeded.
const CLOSING: Duration = Duration::from_secs(10);
/// How long where nothing is stopped: a process that is just being started holds for a moment what
/// its parent has open.
pub(super) const PASSING: Duration = Duration::from_millis(500);

/// How many differences of a comparison are kept. The tree may have any number of entries.
const DIFFERENCES: usize = 1000;

/// The stores in a tree, unless it is cancelled.
pub(super) fn find_stores(root: &Path, observer: &dyn Observer) -> Result<stores::Scan> {
    let scan = stores::scan_until(root, observer.cancelled());
    observer.check()?;
    scan.map_err(Error::Store)
}

/// Whether two directories are read in less time side by side than one after the other: not from one
/// disk that turns.
fn can_be_read_beside(one: &Path, other: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let turns = |path: &Path| Disk::under(path).ok().and_then(|disk| disk.rotational) == Some(true);
    device(one) != device(other) || !turns(one)
}

/// Which files of a tree are still open when `patience` is over; sooner when none is.
pub(super) fn left_open(
    root: &Path,
    patience: Duration,
    observer: &dyn Observer,
) -> Result<stores::OpenFiles> {
    let begun = Instant::now();
    loop {
        let open = stores::open_files(root).map_err(Error::Store)?;
        if open.files.is_empty() || begun.elapsed() >= patience {
            return Ok(open);
        }
        observer.check()?;
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Engine<'_> {
    /// Stops the app, and reads the source whole.
    pub(super) fn survey(&mut self) -> Result<()> {
        let observer = self.environment.observer;
        let source = self.originals()?;
        observer.stage(Stage::Quiesce, None);
        if let Some(stop) = self.state().begun.commands.stop.clone() {
            self.journal.append(Record::Stopping)?;
            command::run(&self.environment.hands, "stop", &stop)?;
        }
        self.refuse_open_files(&source)?;
        // Before the list is made: a check may move the change time of a log.
        observer.stage(Stage::Check, None);
        self.check_source(&source)?;
        observer.stage(Stage::Survey, None);
        let key = self.environment.vault.migration_key();
        let path = self.place.source_ledger();
        let tree = local(&source)?;
        let reference = self
            .with_survey(Side::Source, true, |options| ledger::write(&path, key, &tree, options))?;
        self.journal.append(Record::Surveyed(reference))
    }

    /// Checks the stores of the source, and tells what the checks found or could not look at.
    fn check_source(&mut self, source: &Path) -> Result<()> {
        let accept = self.state().begun.accept_damage;
        let reports = self.check_stores(Side::Source, source)?;
        for StoreReport { component, report } in &reports {
            if report.outcome == Outcome::Damaged && !accept {
                let (component, findings) = (Box::new(component.clone()), report.findings.clone());
                return Err(Error::StoreDamaged { component, findings });
            }
            if let Some(text) = remark(component, report) {
                self.environment.observer.note(&text);
            }
        }
        self.store_reports = reports;
        Ok(())
    }

    /// What the checks of the source's stores said, where this run made them.
    pub fn store_reports(&self) -> &[StoreReport] {
        &self.store_reports
    }

    /// Refuses while a process holds a file of the source, the app's last breaths aside.
    pub(super) fn refuse_open_files(&self, source: &Path) -> Result<()> {
        let patience = if self.state().stopped { CLOSING } else { PASSING };
        let open = left_open(source, patience, self.environment.observer)?;
        if !open.files.is_empty() {
            return Err(Error::Blocked(vec![Blocker::OpenFiles { files: open.files }]));
        }
        if !open.unseen.is_empty() {
            self.environment.observer.note(&format!(
                "{} processes of other users cannot be looked into; be sure that none of them \
                 uses the source",
                open.unseen.len()
            ));
        }
        Ok(())
    }

    /// Every store's own check.
    pub(super) fn check_stores(&self, side: Side, root: &Path) -> Result<Vec<StoreReport>> {
        let accept = self.state().begun.accept_damage;
        let left_out = |path: &Path| side == Side::Source && leaves_out(&self.patterns, path);
        let scan = find_stores(root, self.environment.observer)?;
        for error in scan.unreadable {
            let path = error.path().strip_prefix(root).unwrap_or(error.path());
            if left_out(path) || error.io_kind() == Some(ErrorKind::NotFound) {
                continue;
            }
            // What cannot be looked at may be a store that is damaged. What lies too deep for a
            // path is no store that an app could open.
            if !accept && error.io_kind() != Some(ErrorKind::InvalidFilename) {
                return Err(Error::Store(error));
            }
            self.environment.observer.note(&error.to_string());
        }
        let mut reports = Vec::new();
        for component in scan.components {
            self.environment.observer.check()?;
            if left_out(&component.path) {
                continue;
            }
            let cancelled = Some(self.environment.observer.cancelled());
            let options = CheckOptions { cancelled, ..CheckOptions::default() };
            let checked = stores::check(root, &component, &options);
            self.environment.observer.check()?;
            let report = match checked {
                Err(error) if accept => CheckReport::not_checked(error.to_string()),
                checked => checked.map_err(Error::Store)?,
            };
            reports.push(StoreReport { component, report });
        }
        Ok(reports)
    }

    pub(super) fn source_reference(&self) -> Result<LedgerReference> {
        self.state().source.clone().ok_or(Error::State {
            what: "the source has not been read yet",
            phase: self.state().phase,
        })
    }

    /// The source's ledger, opened anew.
    pub(super) fn source_ledger(&self) -> Result<LedgerReader> {
        let key = self.environment.vault.migration_key();
        LedgerReader::open(&self.place.source_ledger(), key, &self.source_reference()?)
    }

    /// What of the originals changed since they were read.
    pub(super) fn source_changes(&self) -> Result<Changed> {
        let source = local(&self.originals()?)?.without_xattrs();
        let ledger = self.source_ledger()?;
        self.with_survey(Side::Source, false, |options| ledger::changes(ledger, &source, options))
    }

    /// Refuses when the originals changed since they were read.
    pub(super) fn refuse_changed_source(&self) -> Result<()> {
        let Changed { paths, count } = self.source_changes()?;
        if count == 0 { Ok(()) } else { Err(Error::SourceChanged { paths, count }) }
    }

    pub(super) fn source_totals(&self) -> Option<Totals> {
        let ledger = self.state().source.as_ref()?;
        Some(Totals { entries: ledger.entries, files: ledger.files, bytes: ledger.bytes })
    }

    /// Copies the source into the vault, through the mount.
    pub(super) fn copy(&mut self) -> Result<()> {
        self.copy_but(&HashSet::new())
    }

    /// Copies what is not there already; what `distrusted` names is copied again.
    fn copy_but(&mut self, distrusted: &HashSet<TreePath>) -> Result<()> {
        let again = self.state().copies > 0;
        self.journal.append(Record::Copying)?;
        let point = self.working_mount_point()?;
        let mount = self.environment.mount(&point, MountAccess::ReadWrite)?;
        let copied = self.copy_to(&mount, again, distrusted);
        let unmounted = self.environment.unmount();
        copied?;
        unmounted?;
        self.sync_vault()?;
        self.refuse_changed_source()?;
        self.journal.append(Record::Copied)
    }

    fn copy_to(&self, mount: &Mount, again: bool, distrusted: &HashSet<TreePath>) -> Result<()> {
        let environment = &self.environment;
        environment.observer.stage(Stage::Copy, self.source_totals());
        let source = local(&self.originals()?)?;
        // The clean unmount that follows makes all of it durable, at one go.
        let target = environment.open(mount)?.with_durability(Durability::Filesystem);
        let target = if again { target } else { target.filling_an_empty_one() };
        let target = WatchedTree { tree: &target, hands: &environment.hands };
        let exclude = |path: &TreePath, kind| self.excludes(Side::Source, path, kind);
        // What an earlier run completed has its size and times; verification reads it anyway, so
        // no digest is needed here.
        let copied_before = |entry: &Entry| {
            let there = !distrusted.contains(&entry.path)
                && again
                && is_complete(entry, target.existing(&entry.path));
            there.then_some(Digest([0; 32]))
        };
        let options = CopyOptions {
            exclude: &exclude,
            jobs: Some(environment.threads()),
            cancelled: environment.observer.cancelled(),
            progress: &TreeProgress(environment.observer),
            copied_before: &copied_before,
            replace: again,
        };
        tree::copy(&source, &target, &options, &|_| Ok(()))?;
        Ok(())
    }

    /// Makes everything in the vault's directory durable.
    fn sync_vault(&self) -> Result<()> {
        let vault = self.environment.vault.directory();
        self.environment.hands.perform(Change::Sync, vault, || {
            super::operations::open_directory(vault)
                .and_then(|directory| Ok(rustix::fs::syncfs(&directory)?))
                .map_err(|error| Error::io("sync", vault, error))
        })
    }

    /// Reads vault and source afresh, and compares both with what was read at first. A copy that
    /// was interrupted may be wanting, and is mended once.
    pub(super) fn verify_copy(&mut self) -> Result<()> {
        let source = self.originals()?;
        let beside = can_be_read_beside(&source, self.environment.vault.directory());
        let (mut found, mut source_found) = self.compare_vault(beside.then_some(&*source))?;
        if !found.is_equal() && self.state().copies > 1 {
            self.environment.observer.note("what an interrupted copy left is copied again");
            self.mend(&found)?;
            (found, source_found) = self.compare_vault(None)?;
        }
        if !found.is_equal() {
            return Err(Error::Mismatch { of: "the copy in the vault", found: Box::new(found) });
        }
        let read = match source_found {
            Some(read) => read,
            None => {
                self.environment.observer.stage(Stage::VerifySource, self.source_totals());
                self.compare_source(&source, None)?
            }
        };
        if !read.is_equal() {
            let count = read.total_differences;
            let paths = read.differences.into_iter().map(|found| found.path).collect();
            return Err(Error::SourceChanged { paths, count });
        }
        self.refuse_changed_source()?;
        self.journal.append(Record::Verified)
    }

    fn mend(&mut self, found: &Comparison) -> Result<()> {
        let point = self.working_mount_point()?;
        let mount = self.environment.mount(&point, MountAccess::ReadWrite)?;
        let all_known = usize::try_from(found.total_differences) == Ok(found.differences.len());
        let removed = self.environment.open(&mount).and_then(|tree| {
            let tree = WatchedTree { tree: &tree, hands: &self.environment.hands };
            if all_known {
                remove_extra(&tree, found)
            } else {
                // More than are told of: all of it is copied again.
                remove_entry(&tree, &TreePath::root())
            }
        });
        self.environment.unmount()?;
        removed?;
        self.copy_but(&found.differences.iter().map(|found| found.path.clone()).collect())
    }

    /// Compares the vault, through a fresh mount, with the source's ledger, and checks its stores.
    /// With `source`, that is compared meanwhile; the outcome comes where the vault is equal.
    pub(super) fn compare_vault(
        &self,
        source: Option<&Path>,
    ) -> Result<(Comparison, Option<Comparison>)> {
        let point = self.working_mount_point()?;
        self.environment.unmount()?;
        super::caches::drop(self.environment.vault.directory());
        let mount = self.environment.mount(&point, MountAccess::ReadOnly)?;
        let compared = self
            .environment
            .open(&mount)
            .and_then(|vault| match source {
                Some(source) => self.compare_both(&vault, source),
                None => {
                    self.environment.observer.stage(Stage::VerifyVault, self.source_totals());
                    Ok((self.compare(Side::Vault, &vault, self.source_ledger()?)?, None))
                }
            })
            .and_then(|found| {
                if found.0.is_equal() {
                    self.refuse_damaged_stores(&mount.content)?;
                    self.environment.expect_mounted(&mount)?;
                }
                Ok(found)
            });
        self.environment.unmount()?;
        compared
    }

    /// Compares the vault and, side by side with it, the source.
    fn compare_both(
        &self,
        vault: &LocalTree,
        source: &Path,
    ) -> Result<(Comparison, Option<Comparison>)> {
        let twice = |totals: Totals| Totals {
            entries: totals.entries.saturating_mul(2),
            files: totals.files.saturating_mul(2),
            bytes: totals.bytes.saturating_mul(2),
        };
        self.environment.observer.stage(Stage::VerifyBoth, self.source_totals().map(twice));
        let compare_vault =
            || self.source_ledger().and_then(|ledger| self.compare(Side::Vault, vault, ledger));
        let pointless = AtomicBool::new(false);
        let (found, beside) = std::thread::scope(|scope| {
            let compare_source = || self.compare_source(source, Some(&pointless));
            let beside = Builder::new().spawn_scoped(scope, compare_source).ok();
            let found = compare_vault();
            if !found.as_ref().is_ok_and(Comparison::is_equal) && !got_no_thread(&found) {
                pointless.store(true, Ordering::Relaxed);
            }
            let join = |beside: ScopedJoinHandle<'_, _>| {
                beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            (found, beside.map(join))
        });
        // What got no thread beside the other may get one now.
        let found = if got_no_thread(&found) { compare_vault()? } else { found? };
        if !found.is_equal() {
            return Ok((found, None));
        }
        let source = match beside.filter(|compared| !got_no_thread(compared)) {
            Some(compared) => compared?,
            None => self.compare_source(source, None)?,
        };
        Ok((found, Some(source)))
    }

    /// Compares the source, read from the disk, with its ledger.
    fn compare_source(&self, source: &Path, stopped: Option<&AtomicBool>) -> Result<Comparison> {
        super::caches::drop(source);
        let tree = local(source)?.from_the_disk();
        self.compare_overlooking(Side::Source, &tree, self.source_ledger()?, stopped, &|_, _| false)
    }

    /// The stores' checks on the copy: what was sound must be sound.
    fn refuse_damaged_stores(&self, root: &Path) -> Result<()> {
        self.environment.observer.stage(Stage::Check, None);
        let damaged = self
            .check_stores(Side::Vault, root)?
            .into_iter()
            .find(|store| store.report.outcome == Outcome::Damaged);
        match damaged {
            Some(StoreReport { component, report }) if !self.state().begun.accept_damage => {
                let findings = report.findings;
                Err(Error::StoreDamaged { component: Box::new(component), findings })
            }
            _ => Ok(()),
        }
    }

    /// Reads a tree of that side and compares it with a ledger.
    pub(super) fn compare(
        &self,
        side: Side,
        tree: &dyn TreeReader,
        ledger: LedgerReader,
    ) -> Result<Comparison> {
        self.compare_overlooking(side, tree, ledger, None, &|_, _| false)
    }

    /// The same; differences of which `overlook` says so don't count.
    pub(super) fn compare_overlooking(
        &self,
        side: Side,
        tree: &dyn TreeReader,
        ledger: LedgerReader,
        stopped: Option<&AtomicBool>,
        overlook: &(dyn Fn(&TreePath, &Mismatch) -> bool + Sync),
    ) -> Result<Comparison> {
        let environment = &self.environment;
        let exclude = |path: &TreePath, kind| self.excludes(side, path, kind);
        let options = CompareOptions {
            exclude: &exclude,
            jobs: Some(environment.threads()),
            cancelled: environment.observer.cancelled(),
            stopped,
            progress: &TreeProgress(environment.observer),
            limit: DIFFERENCES,
            overlook,
            ..CompareOptions::default()
        };
        Ok(tree::compare_manifest(ledger, tree, &options)?)
    }
}

/// What a person should know of a store's check; nothing of a sound one.
fn remark(component: &Component, report: &CheckReport) -> Option<String> {
    let store = format!("{} {}", component.kind, component.path.display());
    let first = report.findings.first().map(String::as_str);
    let more = match report.findings.len() {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    let why = format!("{}{more}", first.unwrap_or("no reason is given"));
    match report.outcome {
        Outcome::Damaged => Some(format!("{store} is damaged and is copied as it is: {why}")),
        Outcome::NotChecked => Some(format!("{store} was not checked: {why}")),
        _ => first.is_some().then(|| format!("{store}: {why}")),
    }
}

/// Whether what is there can only be the complete copy of `entry`: a copy's times are set last.
fn is_complete(entry: &Entry, there: tree::Result<Option<Entry>>) -> bool {
    there.ok().flatten().is_some_and(|there| {
        let accessed = entry.metadata.accessed;
        tree::Metadata { accessed, ..there.metadata } == entry.metadata
    })
}

/// Whether a comparison was not begun: a limit on tasks was reached.
fn got_no_thread(compared: &Result<Comparison>) -> bool {
    matches!(compared, Err(Error::Tree(tree::Error::NoThread(_))))
}

/// Removes from the vault what the source does not have.
fn remove_extra(vault: &WatchedTree<'_>, found: &Comparison) -> Result<()> {
    found
        .differences
        .iter()
        .filter(|found| matches!(found.mismatch, Mismatch::OnlyRight { .. }))
        .try_for_each(|found| remove_entry(vault, &found.path))
}

/// Removes an entry of the vault; of the root, all that it holds.
fn remove_entry(vault: &WatchedTree<'_>, path: &TreePath) -> Result<()> {
    match vault.remove(path) {
        // Gone with the directory that held it.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        outcome => Ok(outcome?),
    }
}
