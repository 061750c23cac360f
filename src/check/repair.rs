//! Carrying out the plan. Each remedy looks again before it acts, and is durable when it is done.

use std::io;

use super::finding::{Finding, Problem, Remedy};
use super::session::{CheckError, Observer, Phase, Report, Session};
use super::structure::{Header, read_header, whole_size};
use super::walk::{holds_only_its_record, open_path};
use crate::backing::{Access, Directory, File, RenameMode, SetTime};
use crate::format::block::is_hole;
use crate::format::directory::{DirId, RECORD_NAME};
use crate::format::header::{FileId, HEADER_LEN};
use crate::format::layout::{BLOCK_OVERHEAD, BLOCK_SIZE, BlockIndex, CIPHER_BLOCK_SIZE};
use crate::format::name::{long_entry_of, sidecar_of};
use crate::vault::{FileSystem, punch};

const TEMPORARY: &[u8] = b"strongroom.tmp.fsck";
const HEADER: u64 = HEADER_LEN as u64;
const OWNER_ACCESS: u32 = 0o600;

/// What became of a finding that had a remedy.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The finding.
    pub finding: Finding,
    /// Why it was not repaired; `None` when it was.
    pub failure: Option<String>,
}

/// Why a remedy was not carried out.
#[derive(Debug, thiserror::Error)]
enum RemedyError {
    #[error("it is not as it was found any more")]
    Changed,
    #[error("the directory's record does not authenticate")]
    NoRecord,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Core(#[from] crate::vault::Error),
}

impl Session {
    /// Carries out the remedies of a report that [`Self::check`] of this session made, but for
    /// [`Remedy::WriteConfigCopies`], which is left out.
    ///
    /// # Errors
    /// [`CheckError::Io`] when the journal could not be written in place: nothing else was done
    /// then, and nothing is lost.
    pub fn repair(
        &self,
        report: &Report,
        observer: &dyn Observer,
    ) -> Result<Vec<Outcome>, CheckError> {
        let mut plan: Vec<&Finding> =
            report.plan().filter(|it| it.problem != Problem::ConfigCopies).collect();
        // Renames last, those furthest down first: they change the paths of what lies below.
        plan.sort_by_key(|finding| match finding.remedy {
            Some(Remedy::Recover) => 0,
            Some(Remedy::RestoreName { .. } | Remedy::RenameNeutral { .. }) => 2,
            _ => 1,
        });
        let renames = plan.partition_point(|finding| {
            !matches!(
                finding.remedy,
                Some(Remedy::RestoreName { .. } | Remedy::RenameNeutral { .. })
            )
        });
        plan[renames..].sort_by(|one, other| other.location.stored.cmp(&one.location.stored));
        observer.phase(Phase::Repair, u64::try_from(plan.len()).ok());
        let mut outcomes = Vec::new();
        for finding in plan {
            let Some(remedy) = &finding.remedy else { continue };
            if *remedy == Remedy::Recover {
                FileSystem::recover(&*self.vault, &self.codecs)?;
            }
            let failure = self.apply(finding, remedy).err().map(|error| error.to_string());
            outcomes.push(Outcome { finding: finding.clone(), failure });
            observer.advance(1);
        }
        self.forget_unclean_ends(report, &outcomes)?;
        Ok(outcomes)
    }

    /// Once every block was read, and every torn one is a hole, nothing is suspect any more.
    fn forget_unclean_ends(&self, report: &Report, outcomes: &[Outcome]) -> Result<(), CheckError> {
        let settled = report.read_data
            && report.damage().next().is_none()
            && outcomes.iter().all(|outcome| outcome.failure.is_none());
        let noted = self.vault.stat(crate::vault::STATE_NAME).is_ok();
        if settled && noted && !outcomes.is_empty() {
            FileSystem::forget_unclean_ends(&*self.vault, &self.codecs)?;
        }
        Ok(())
    }

    fn apply(&self, finding: &Finding, remedy: &Remedy) -> Result<(), RemedyError> {
        let (parent, entry) = split(&finding.location.stored);
        match remedy {
            Remedy::Recover | Remedy::WriteConfigCopies => Ok(()),
            Remedy::WriteRecord { directory } => {
                let opened = open_path(&*self.vault, &finding.location.stored)?;
                self.write_record(&*opened, *directory)
            }
            Remedy::WriteHeader { file } => self.write_header(parent, entry, *file),
            Remedy::ClearContent => self.clear_content(parent, entry),
            Remedy::Truncate { len } => self.truncate(parent, entry, *len),
            Remedy::PunchTorn => self.punch_torn(parent, entry, finding),
            Remedy::Remove => {
                let directory = open_path(&*self.vault, parent)?;
                if let Some(long) = long_entry_of(entry)
                    && directory.stat(&long).is_ok()
                {
                    return Err(RemedyError::Changed);
                }
                keeping_times(&*directory, || directory.unlink(entry))
            }
            Remedy::RemoveDirectory => {
                let directory = open_path(&*self.vault, parent)?;
                if !holds_only_its_record(&*directory, entry) {
                    return Err(RemedyError::Changed);
                }
                keeping_times(&*directory, || {
                    match directory.open_directory(entry)?.unlink(RECORD_NAME) {
                        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
                        _ => directory.remove_directory(entry),
                    }
                })
            }
            Remedy::RestoreName { entry: known } => {
                let directory = open_path(&*self.vault, parent)?;
                keeping_times(&*directory, || {
                    directory.rename(entry, &*directory, known, RenameMode::NoReplace)
                })
            }
            Remedy::WriteSidecar { target } => {
                let directory = open_path(&*self.vault, parent)?;
                let sidecar = sidecar_of(entry).ok_or(RemedyError::Changed)?;
                replace_symlink(&*directory, target, &sidecar)
            }
            Remedy::RenameNeutral { plain } => {
                let directory = open_path(&*self.vault, parent)?;
                let record = directory.read_link(RECORD_NAME)?;
                let id = self.codecs.directories.decode(&record);
                let id = id.map_err(|_| RemedyError::NoRecord)?;
                let name = self.codecs.names(id).encrypt(plain);
                let name = name.map_err(|_| RemedyError::Changed)?;
                keeping_times(&*directory, || {
                    directory.rename(entry, &*directory, name.entry(), RenameMode::NoReplace)
                })
            }
        }
    }

    fn write_record(&self, directory: &dyn Directory, id: DirId) -> Result<(), RemedyError> {
        replace_symlink(directory, &self.codecs.directories.encode(id), RECORD_NAME)
    }

    fn write_header(&self, parent: &[u8], entry: &[u8], id: FileId) -> Result<(), RemedyError> {
        self.change(parent, entry, |file, size| match read_header(&self.codecs, file, size)? {
            Header::Mended(mended) if mended == id => {
                Ok(file.write_at(&self.codecs.headers.encode(id), 0)?)
            }
            _ => Err(RemedyError::Changed),
        })
    }

    fn clear_content(&self, parent: &[u8], entry: &[u8]) -> Result<(), RemedyError> {
        self.change(parent, entry, |file, size| {
            if !matches!(read_header(&self.codecs, file, size)?, Header::Lost) {
                return Err(RemedyError::Changed);
            }
            punch(file, HEADER, size.saturating_sub(HEADER))?;
            file.write_at(&self.codecs.headers.encode(FileId::random()), 0)?;
            match whole_size(size) {
                Some(len) => Ok(file.set_len(len)?),
                None => Ok(()),
            }
        })
    }

    fn truncate(&self, parent: &[u8], entry: &[u8], len: u64) -> Result<(), RemedyError> {
        self.change(parent, entry, |file, size| match whole_size(size) {
            Some(whole) if whole == len => Ok(file.set_len(len)?),
            // Done with the header.
            None if size == len => Ok(()),
            _ => Err(RemedyError::Changed),
        })
    }

    fn punch_torn(
        &self,
        parent: &[u8],
        entry: &[u8],
        finding: &Finding,
    ) -> Result<(), RemedyError> {
        self.change(parent, entry, |file, size| {
            let (Header::Authentic(id) | Header::Mended(id)) =
                read_header(&self.codecs, file, size)?
            else {
                return Err(RemedyError::Changed);
            };
            let cipher = self.codecs.blocks(id);
            let (mut sealed, mut plain) = ([0u8; CIPHER_BLOCK_SIZE], [0u8; BLOCK_SIZE]);
            for range in &finding.ranges {
                let first = BlockIndex::containing(range.start).0;
                for index in (first..BlockIndex::count(range.end).0).map(BlockIndex) {
                    let at = index.cipher_offset();
                    let read = file.read_at(&mut sealed, at)?;
                    let sealed = &sealed[..read];
                    let len = read.saturating_sub(BLOCK_OVERHEAD);
                    let whole = len > 0 && cipher.open(index, sealed, &mut plain[..len]).is_ok();
                    if !whole && !is_hole(sealed) {
                        let until = index.next().cipher_offset().min(size);
                        punch(file, at, until.saturating_sub(at))?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Changes a file, keeping its time of modification; durable when this returns.
    fn change(
        &self,
        parent: &[u8],
        entry: &[u8],
        change: impl FnOnce(&dyn File, u64) -> Result<(), RemedyError>,
    ) -> Result<(), RemedyError> {
        let directory = open_path(&*self.vault, parent)?;
        let file = match directory.open_file(entry, Access::ReadWrite) {
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                // The owner may have taken the permission from itself; it is given back at once.
                let mode = directory.stat(entry)?.mode;
                directory.set_mode(entry, mode | OWNER_ACCESS)?;
                let opened = directory.open_file(entry, Access::ReadWrite);
                directory.set_mode(entry, mode)?;
                opened?
            }
            opened => opened?,
        };
        let stat = file.stat()?;
        change(&*file, stat.size)?;
        file.set_times(SetTime::Keep, SetTime::At(stat.modified))?;
        Ok(file.sync_all()?)
    }
}

/// Parent and entry of a path below the vault directory.
pub(super) fn split(stored: &[u8]) -> (&[u8], &[u8]) {
    match stored.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&stored[..at], &stored[at + 1..]),
        None => (b"", stored),
    }
}

/// Makes a symlink in place of another, or of none.
fn replace_symlink(
    directory: &dyn Directory,
    target: &[u8],
    name: &[u8],
) -> Result<(), RemedyError> {
    keeping_times(directory, || {
        match directory.unlink(TEMPORARY) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
        directory.make_symlink(target, TEMPORARY)?;
        directory.rename(TEMPORARY, directory, name, RenameMode::Replace)
    })
}

/// Changes the entries of a directory, keeping its time of modification: for its user nothing
/// happened. Durable when this returns.
fn keeping_times(
    directory: &dyn Directory,
    change: impl FnOnce() -> io::Result<()>,
) -> Result<(), RemedyError> {
    let before = directory.stat(b".")?;
    change()?;
    directory.set_times(b".", SetTime::Keep, SetTime::At(before.modified))?;
    Ok(directory.sync()?)
}
