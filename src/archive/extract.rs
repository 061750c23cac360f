//! What takes the entries of a pass: nobody (verifying), or tree writers (extracting).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};
use super::metadata::{IndexEntry, SectionName};
use super::sink::{Sink, SmallFile};
use crate::tree::{
    ContentWriter, Digest, EntryKind, Metadata, OpenDirectory, TreePath, TreeWriter,
};

/// Batches of small files on their way to the worker threads.
const QUEUE: usize = 8;
/// Files of a batch at most, and their bytes, but for the last one. Handing one over costs as much as
/// writing it.
const BATCH_FILES: usize = 64;
const BATCH_BYTES: usize = 1 << 20;

/// Says whether an entry is extracted. The directories that it lies in come with it.
pub type Select<'a> = &'a (dyn Fn(&SectionName, &TreePath, EntryKind) -> bool + Sync);

/// Extracts everything.
pub fn select_all(_: &SectionName, _: &TreePath, _: EntryKind) -> bool {
    true
}

/// Where and what an archive is extracted to.
#[derive(Clone, Copy)]
pub struct ExtractOptions<'a> {
    /// A writer for each section that is wanted; the others are only verified.
    pub targets: &'a [(SectionName, &'a dyn TreeWriter)],
    /// What of it is wanted.
    pub select: Select<'a>,
    /// Whether device files may be made. An archive of unknown origin should not.
    pub devices: bool,
}

impl ExtractOptions<'_> {
    /// Nothing is extracted.
    pub(super) fn nothing() -> Self {
        Self { targets: &[], select: &select_all, devices: false }
    }
}

/// Takes the lines of an index.
pub type TakeLine<'a> = dyn FnMut(&IndexEntry) -> Result<()> + 'a;

/// Whose the directories are that an archive is extracted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Directories {
    /// This archive's alone.
    Own,
    /// Those of several archives: they may be there already, and get their metadata from the
    /// caller, when all is there.
    Shared,
}

/// What was extracted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Entries made.
    pub entries: u64,
    /// Bytes of content in them.
    pub bytes: u64,
    /// Entries wanted that are stored in other archives of the chain, or nowhere.
    pub elsewhere: u64,
}

struct Done {
    target: usize,
    path: TreePath,
    metadata: Metadata,
}

type Directory = OpenDirectory<Done>;

/// A directory that the pass is in.
struct Level {
    path: TreePath,
    metadata: Metadata,
    /// Set once something in it is wanted, and it was made.
    made: Option<Arc<Directory>>,
}

/// Small files for a worker thread.
pub(super) struct Batch {
    files: Vec<File>,
    /// Gets their digests, in their order.
    answer: Sender<Vec<Digest>>,
}

struct File {
    target: Option<usize>,
    path: TreePath,
    metadata: Metadata,
    data: Vec<u8>,
    directory: Option<Arc<Directory>>,
}

/// The first failure of a worker thread.
pub(super) type Failure = Mutex<Option<Error>>;

/// Hands entries to the writers, small files by way of worker threads.
pub(super) struct Extractor<'a, 'l> {
    options: &'a ExtractOptions<'a>,
    directories: Directories,
    lines: Option<&'a mut TakeLine<'l>>,
    jobs: Sender<Batch>,
    /// What was not handed over yet, and its bytes.
    batch: Vec<File>,
    batch_bytes: usize,
    /// The digests of what was.
    waiting: VecDeque<Receiver<Vec<Digest>>>,
    digests: std::vec::IntoIter<Digest>,
    failure: &'a Failure,
    levels: Vec<Level>,
    target: Option<usize>,
    extracted: Extracted,
}

/// The queue between an extractor and its worker threads.
pub(super) fn queue() -> (Sender<Batch>, Receiver<Batch>) {
    bounded(QUEUE)
}

/// What a worker thread does.
pub(super) fn work(
    options: &ExtractOptions<'_>,
    directories: Directories,
    jobs: &Receiver<Batch>,
    failure: &Failure,
) {
    for Batch { files, answer } in jobs {
        let made = files.into_iter().map(|file| {
            let File { target, path, metadata, data, directory } = file;
            let digest = Digest(Sha256::digest(&data).into());
            if let Some(target) = target {
                write_file(options, target, &path, &metadata, &data)?;
                release(options, directories, directory)?;
            }
            Ok(digest)
        });
        match made.collect() {
            // Nobody waits for it any more: then it is not wanted.
            Ok(digests) => drop(answer.send(digests)),
            Err(error) => {
                let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert(error);
            }
        }
    }
}

fn writer<'a>(options: &ExtractOptions<'a>, target: usize) -> Result<&'a dyn TreeWriter> {
    options.targets.get(target).map(|(_, writer)| *writer).ok_or(Error::Worker)
}

fn write_file(
    options: &ExtractOptions<'_>,
    target: usize,
    path: &TreePath,
    metadata: &Metadata,
    data: &[u8],
) -> Result<()> {
    let mut file = writer(options, target)?.create_file_for(path, metadata)?;
    file.write_at(data, 0)?;
    Ok(file.finish(metadata)?)
}

fn make_directory(
    options: &ExtractOptions<'_>,
    directories: Directories,
    target: usize,
    path: &TreePath,
) -> Result<()> {
    let writer = writer(options, target)?;
    match writer.create_directory(path) {
        Err(error)
            if directories == Directories::Shared && error.raw_os_error() == Some(libc::EEXIST) =>
        {
            match writer.existing(path)? {
                Some(entry) if entry.metadata.kind == EntryKind::Directory => Ok(()),
                _ => Err(error.into()),
            }
        }
        made => Ok(made?),
    }
}

/// Directories get their metadata when all they hold is complete.
fn release(
    options: &ExtractOptions<'_>,
    directories: Directories,
    directory: Option<Arc<Directory>>,
) -> Result<()> {
    Directory::release(directory, |Done { target, path, metadata }| {
        if directories == Directories::Shared {
            return Ok(());
        }
        Ok(writer(options, target)?.set_metadata(&path, &metadata)?)
    })
}

impl<'a, 'l> Extractor<'a, 'l> {
    pub(super) fn new(
        options: &'a ExtractOptions<'a>,
        directories: Directories,
        jobs: Sender<Batch>,
        failure: &'a Failure,
        lines: Option<&'a mut TakeLine<'l>>,
    ) -> Self {
        let extracted = Extracted::default();
        Self {
            options,
            directories,
            lines,
            jobs,
            batch: Vec::new(),
            batch_bytes: 0,
            waiting: VecDeque::new(),
            digests: Vec::new().into_iter(),
            failure,
            levels: Vec::new(),
            target: None,
            extracted,
        }
    }

    /// Lets the workers end; what was extracted.
    pub(super) fn close(self) -> Extracted {
        self.extracted
    }

    fn check(&self) -> Result<()> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The target, where this entry is wanted and counted; the directories above it are made.
    fn wanted(
        &mut self,
        section: &SectionName,
        path: &TreePath,
        kind: EntryKind,
    ) -> Result<Option<usize>> {
        self.check()?;
        let Some(target) = self.target.filter(|_| (self.options.select)(section, path, kind))
        else {
            return Ok(None);
        };
        let mut parent: Option<Arc<Directory>> = None;
        for level in &mut self.levels {
            if let Some(made) = &level.made {
                parent = Some(Arc::clone(made));
                continue;
            }
            if !level.path.is_root() {
                make_directory(self.options, self.directories, target, &level.path)?;
            }
            self.extracted.entries += 1;
            let (path, metadata) = (level.path.clone(), level.metadata.clone());
            let made = Directory::new(Some(Done { target, path, metadata }), parent);
            parent = Some(Arc::clone(&made));
            level.made = Some(made);
        }
        Ok(Some(target))
    }

    /// Hands over what small files there are.
    fn hand_over(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let (answer, digests) = bounded(1);
        self.waiting.push_back(digests);
        self.batch_bytes = 0;
        let files = std::mem::take(&mut self.batch);
        self.jobs.send(Batch { files, answer }).map_err(|_| Error::Worker)
    }

    fn directory(&self) -> Option<Arc<Directory>> {
        self.levels.last().and_then(|level| level.made.clone())
    }
}

impl Sink for Extractor<'_, '_> {
    fn enter(&mut self, section: &SectionName, path: &TreePath, metadata: &Metadata) -> Result<()> {
        if path.is_root() {
            self.target = self.options.targets.iter().position(|(name, _)| name == section);
        }
        let level = Level { path: path.clone(), metadata: metadata.clone(), made: None };
        self.levels.push(level);
        if self.target.is_some() && (self.options.select)(section, path, EntryKind::Directory) {
            self.wanted(section, path, EntryKind::Directory)?;
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        let level = self.levels.pop();
        release(self.options, self.directories, level.and_then(|level| level.made))
    }

    fn special(
        &mut self,
        section: &SectionName,
        path: &TreePath,
        metadata: &Metadata,
    ) -> Result<()> {
        let Some(target) = self.wanted(section, path, metadata.kind)? else { return Ok(()) };
        if metadata.kind.is_device() && !self.options.devices {
            return Err(Error::malformed(
                "it is a device file, and none may be made from this archive",
            ));
        }
        writer(self.options, target)?.create_special(path, metadata)?;
        self.extracted.entries += 1;
        Ok(())
    }

    fn hard_link(
        &mut self,
        section: &SectionName,
        first: &TreePath,
        path: &TreePath,
        kind: EntryKind,
    ) -> Result<()> {
        let Some(target) = self.wanted(section, path, kind)? else { return Ok(()) };
        if !(self.options.select)(section, first, kind) {
            return Err(Error::malformed(format!(
                "it is another name of {first}, which was not selected with it"
            )));
        }
        writer(self.options, target)?.hard_link(first, path)?;
        self.extracted.entries += 1;
        Ok(())
    }

    fn small(&mut self, file: SmallFile<'_>, at_once: bool) -> Result<()> {
        let SmallFile { section, path, metadata, data } = file;
        let mut target = self.wanted(section, path, EntryKind::Regular)?;
        if let Some(wanted) = target {
            self.extracted.entries += 1;
            self.extracted.bytes += metadata.size;
            if at_once {
                write_file(self.options, wanted, path, metadata, &data)?;
                target = None;
            }
        }
        let directory = target.and_then(|_| self.directory());
        let (path, metadata) = (path.clone(), metadata.clone());
        self.batch_bytes += data.len();
        self.batch.push(File { target, path, metadata, data, directory });
        if self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
            self.hand_over()?;
        }
        Ok(())
    }

    fn next_digest(&mut self) -> Result<Digest> {
        loop {
            if let Some(digest) = self.digests.next() {
                return Ok(digest);
            }
            if self.waiting.is_empty() {
                self.hand_over()?;
            }
            let waiting = self.waiting.pop_front().ok_or(Error::Worker)?;
            // One that cannot tell has told why elsewhere.
            self.digests = waiting.recv().map_err(|_| Error::Cancelled)?.into_iter();
        }
    }

    fn large(
        &mut self,
        section: &SectionName,
        path: &TreePath,
        metadata: &Metadata,
    ) -> Result<Option<Box<dyn ContentWriter>>> {
        let Some(target) = self.wanted(section, path, EntryKind::Regular)? else {
            return Ok(None);
        };
        self.extracted.entries += 1;
        self.extracted.bytes += metadata.size;
        Ok(Some(writer(self.options, target)?.create_file_for(path, metadata)?))
    }

    fn line(&mut self, line: &IndexEntry) -> Result<()> {
        if let Some(take) = &mut self.lines {
            take(line)?;
        }
        let IndexEntry { section, entry, stored, .. } = line;
        let here = *stored == super::metadata::Where::Here;
        if !here
            && self.options.targets.iter().any(|(name, _)| name == section)
            && (self.options.select)(section, &entry.path, entry.metadata.kind)
        {
            self.extracted.elsewhere += 1;
        }
        Ok(())
    }
}
