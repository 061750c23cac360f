//! Making a backup.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::base::Base;
use super::catalog::{Backup, Catalog};
use super::details::Details;
use super::error::{Error, Result};
use super::filter::Filter;
use super::name::BackupName;
use super::place::{PREFIX, holds_way_back};
use super::sealed::{self, Sensitive};
use super::sidecar::{ComponentNote, Sidecar};
use crate::archive::{
    ArchiveId, ArchiveKind, ArchiveReader, ChainLink, Control, Description, Noticed,
    PendingArchive, SealingKeys, Section, SectionName, WriteOptions, Written,
};
use crate::tree::{Digest, Entry, EntryKind, LocalTree, Timestamp, TreePath, TreeReader};

/// One tree of a backup.
pub struct Source<'a> {
    /// Its section in the archive.
    pub section: SectionName,
    /// Where it lies, to be noted.
    pub path: PathBuf,
    /// How it is read.
    pub reader: &'a dyn TreeReader,
}

/// The backup that another one builds on.
pub struct BaseBackup<'a> {
    /// Opened.
    pub reader: &'a ArchiveReader,
    /// Its name, taken apart.
    pub name: BackupName,
}

/// What is to be backed up, and how.
pub struct CreateRequest<'a> {
    /// What the backup is of; the beginning of its file name.
    pub name: &'a str,
    /// Full, or on top of `base`.
    pub kind: ArchiveKind,
    /// For all kinds but a full one.
    pub base: Option<BaseBackup<'a>>,
    /// Where it goes. Its [`super::Lock`] is held.
    pub catalog: &'a Catalog,
    /// The trees.
    pub sources: &'a [Source<'a>],
    /// What of them.
    pub filter: &'a Filter,
    /// What is noted: components, tag, terms. The sources are filled in.
    pub details: Details,
    /// What it is sealed with; nothing: it is a plain archive.
    pub keys: Option<&'a dyn SealingKeys>,
    /// What is sealed even in a plain archive.
    pub sensitive: Option<Sensitive<'a>>,
    /// How it is written.
    pub options: WriteOptions<'a>,
    /// The present time.
    pub now: Timestamp,
}

/// A backup made.
#[derive(Clone, Debug)]
pub struct Created {
    /// The archive.
    pub path: PathBuf,
    /// What is noted beside it.
    pub sidecar: Sidecar,
    /// What was noticed on the way.
    pub noticed: Noticed,
}

/// Backups of one name that are ahead of the clock by no more were made in quick succession.
const CLOSE_SECONDS: i64 = 60;

/// The backup that one of this kind builds on: the newest of any kind for an incremental one, the
/// newest full one for a differential one. `None`: it has to be a full one.
pub fn find_base<'a>(catalog: &'a Catalog, name: &str, kind: ArchiveKind) -> Option<&'a Backup> {
    match kind {
        ArchiveKind::Incremental => catalog.latest(
            name,
            &[ArchiveKind::Full, ArchiveKind::Incremental, ArchiveKind::Differential],
        ),
        ArchiveKind::Differential => catalog.latest(name, &[ArchiveKind::Full]),
        ArchiveKind::Full | ArchiveKind::Snapshot => None,
    }
}

/// Makes a backup: written under a temporary name and read back from there, then named. What fails leaves
/// nothing.
///
/// # Errors
/// When a source cannot be read or changes, or the backup cannot be written;
/// [`Error::HalfRestored`].
pub fn create(request: CreateRequest<'_>) -> Result<Created> {
    let begun = Instant::now();
    let CreateRequest { name, base, catalog, sources, filter, keys, options, now, .. } = &request;
    let mut name = BackupName::new(name, *now, options.compression, keys.is_some())?;
    // The time in a name tells it from others, and their order, also of backups that were made
    // within one second; not so where the clock was wrong.
    for other in catalog.backups().iter().filter(|other| other.name.name == name.name) {
        if (0..CLOSE_SECONDS).contains(&(other.name.created - name.created)) {
            name.created = other.name.created + 1;
        }
    }
    let mut details = request.details.clone();
    for source in *sources {
        details.set_source(&source.section, &source.path);
    }
    if !filter.include.is_empty() && !includes_any(sources, filter, options.cancelled)? {
        return Err(Error::NoSuchComponent(details.include.join(", ")));
    }
    let half_restored = HalfRestored::default();
    for source in *sources {
        half_restored.look_at_top(source, filter)?;
    }
    let sealed_apart = match request.sensitive.as_ref().filter(|_| keys.is_none()) {
        Some(sensitive)
            if sealed::has_sensitive(sensitive.files, sources, filter, options.cancelled)? =>
        {
            let created = Timestamp { seconds: name.created, nanoseconds: 0 };
            sealed::write(sensitive, sources, filter, catalog.directory(), created, options)?
        }
        _ => None,
    };
    let apart = sealed_apart.as_ref().and(request.sensitive.as_ref());
    let excludes: Vec<_> = sources
        .iter()
        .map(|source| {
            let (section, half_restored) = (&source.section, &half_restored);
            move |path: &TreePath, kind: EntryKind| {
                half_restored.look(source, filter, path, kind);
                filter.excludes(section, path, kind)
                    || apart.is_some_and(|sensitive| {
                        kind != EntryKind::Directory && sensitive.files.name(section, path)
                    })
            }
        })
        .collect();
    let mut sections: Vec<_> = sources
        .iter()
        .zip(&excludes)
        .map(|(source, exclude)| Section {
            name: source.section.clone(),
            reader: source.reader,
            exclude,
        })
        .collect();
    let sealed_tree =
        sealed_apart.as_ref().map(|directory| LocalTree::open(directory.path())).transpose()?;
    if let Some(reader) = &sealed_tree {
        let exclude = &crate::tree::exclude_nothing;
        sections.push(Section { name: sealed::section(), reader, exclude });
    }
    let description = Description {
        name: name.name.clone(),
        kind: base.as_ref().map_or(ArchiveKind::Full, |_| request.kind),
        created: Timestamp { seconds: name.created, nanoseconds: now.nanoseconds },
        chain: base.as_ref().map(chain_on).unwrap_or_default(),
        details: serde_json::to_value(&details).unwrap_or_default(),
    };
    let mut pending = PendingArchive::create(catalog.directory())?;
    let written = write(&mut pending, &request, &description, &sections)?;
    half_restored.refuse()?;
    let components = details
        .components
        .iter()
        .filter(|one| {
            one.paths.iter().any(|path| !filter.excludes(&one.section, path, EntryKind::Regular))
        })
        .map(|one| ComponentNote {
            name: one.name.clone(),
            kind: one.kind.clone(),
            bytes: one.bytes,
        })
        .collect();
    let duration = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let file = name.file_name();
    let tag = details.tag.clone();
    let mut sidecar =
        Sidecar::of(file.clone(), keys.is_some(), &written, tag, components, duration);
    sidecar.not_running.clone_from(&details.not_running);
    let path = catalog.directory().join(&file);
    // First: notes without an archive say nothing, an archive without notes would be of no use
    // to the next incremental backup.
    sidecar.write(&path)?;
    match pending.publish(&file) {
        Ok(path) => Ok(Created { path, sidecar, noticed: written.noticed }),
        Err(error) => {
            if let Some(notes) = super::name::sidecar_path(&path) {
                // The archive's own error is the one to tell.
                let _ = std::fs::remove_file(notes);
            }
            Err(error.into())
        }
    }
}

/// The first directory in which an interrupted restore left what it replaced. Restores' directories are
/// in no backup; of one with these, all would seem well.
#[derive(Default)]
struct HalfRestored(Mutex<Option<PathBuf>>);

impl HalfRestored {
    fn look(&self, source: &Source<'_>, filter: &Filter, path: &TreePath, kind: EntryKind) {
        // Of a section with one file, the others beside it are none of its concern.
        let is_one_file = || filter.only.iter().any(|(name, _)| *name == source.section);
        let place = || source.path.join(path.as_path());
        if kind == EntryKind::Directory
            && path.name().is_some_and(|name| name.starts_with(PREFIX.as_bytes()))
            && !is_one_file()
            && !filter.exclude.name(&source.section, path)
            && holds_way_back(&place())
            && let Ok(mut found) = self.0.lock()
        {
            found.get_or_insert_with(place);
        }
    }

    /// Most are there, and need no walk to be found.
    fn look_at_top(&self, source: &Source<'_>, filter: &Filter) -> Result<()> {
        for name in std::fs::read_dir(&source.path).into_iter().flatten().flatten() {
            if let Ok(path) = TreePath::new(name.file_name().as_bytes()) {
                self.look(source, filter, &path, EntryKind::Directory);
            }
        }
        self.refuse()
    }

    fn refuse(&self) -> Result<()> {
        match self.0.lock().ok().and_then(|mut found| found.take()) {
            Some(found) => Err(Error::HalfRestored(found)),
            None => Ok(()),
        }
    }
}

/// Refuses to go on once somebody asked to stop.
pub(super) fn refuse_cancelled(cancelled: &AtomicBool) -> Result<()> {
    if cancelled.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
}

/// Whether there is anything of what was asked for.
fn includes_any(sources: &[Source<'_>], filter: &Filter, cancelled: &AtomicBool) -> Result<bool> {
    for source in sources {
        let exclude =
            |path: &TreePath, kind: EntryKind| filter.excludes(&source.section, path, kind);
        for entry in source.reader.walk(&exclude)? {
            refuse_cancelled(cancelled)?;
            if filter.include.name(&source.section, &entry?.path) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn chain_on(base: &BaseBackup<'_>) -> Vec<ChainLink> {
    let metadata = base.reader.metadata();
    let mut chain = metadata.chain.clone();
    chain.push(ChainLink { id: metadata.id, file: base.name.file_name() });
    chain
}

fn write(
    pending: &mut PendingArchive,
    request: &CreateRequest<'_>,
    description: &Description,
    sections: &[Section<'_>],
) -> Result<Written> {
    let CreateRequest { keys, options, .. } = request;
    let Some(base) = &request.base else {
        return Ok(pending.write(*keys, description, sections, None, options)?);
    };
    let quiet = Control { cancelled: options.cancelled, progress: &() };
    std::thread::scope(|scope| {
        let mut base = Base::new(scope, base.reader, base.name.created, quiet)?;
        let mut unchanged = |section: &SectionName, entry: &Entry| -> Option<(Digest, ArchiveId)> {
            base.unchanged(section, entry)
        };
        let written = pending.write(*keys, description, sections, Some(&mut unchanged), options);
        let vouched = base.finish();
        let written = written?;
        vouched?;
        Ok(written)
    })
}

/// A directory for backups: made where it is missing, readable by its owner alone.
///
/// # Errors
/// When it cannot be made.
pub fn make_output(directory: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if directory.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(Error::io("create", directory))
}
