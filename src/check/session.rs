//! A check from its beginning to its end: the lock, the parts in their order, and what is told
//! meanwhile.

use std::any::Any;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use super::data;
use super::finding::{Finding, Location, Problem, Remedy, Severity};
use super::structure::Structure;
use super::walk::walk;
use crate::backing::{Access, Directory, LockOutcome, Stat};
use crate::crypto::MasterKey;
use crate::format::state::{self, Window};
use crate::vault::{Codecs, Error, LOCK_NAME, OVERFLOW_NAME, STATE_NAME, Survey, TREE_NAME};

/// Files that are replaced by writing a new one beside them.
const REPLACED: [&[u8]; 3] = [b"state.new", b"vault.json.new", b"vault.json.backup.new"];
const STATE_MAX: usize = 64 << 10;
/// Seconds by which clocks and time stamps may disagree.
const CLOCK_SLACK: i64 = 2;

/// Why a check could not be made. The vault is unharmed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Somebody has it mounted.
    #[error("the vault is in use by {holder}")]
    Busy {
        /// What the holder left in the lock file.
        holder: String,
    },
    /// The vault directory has no ciphertext tree.
    #[error("the vault directory has no ciphertext tree")]
    NoTree,
    /// The observer wanted an end.
    #[error("the check was ended before it was complete")]
    Cancelled,
    /// The filesystem below failed.
    #[error("the vault directory could not be read or written: {0}")]
    Io(#[from] io::Error),
    /// The system gives no thread: a limit on tasks was reached. Nothing was changed.
    #[error("no thread can be started: {0}")]
    NoThread(io::Error),
}

impl From<Error> for CheckError {
    fn from(error: Error) -> Self {
        match error {
            Error::Backing(error) => Self::Io(error),
            other => Self::Io(io::Error::from_raw_os_error(other.errno())),
        }
    }
}

/// What is to be checked.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Read and authenticate every block, too.
    pub read_data: bool,
    /// How many threads read blocks.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { read_data: false, threads }
    }
}

/// A part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Going through directories, names and headers; counted in entries.
    Structure,
    /// Reading every block; counted in bytes.
    Data,
    /// Repairing; counted in findings.
    Repair,
    /// Salvaging; counted in files.
    Salvage,
}

/// Is told how far the work is. May be called from several threads.
pub trait Observer: Sync {
    /// A phase begins. `total` is in the phase's unit.
    fn phase(&self, _phase: Phase, _total: Option<u64>) {}
    /// So much more of it is done.
    fn advance(&self, _count: u64) {}
    /// Something was found, in no certain order.
    fn found(&self, _finding: &Finding) {}
    /// Whether to end early.
    fn cancelled(&self) -> bool {
        false
    }
}

/// An observer that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Directories, the root included.
    pub directories: u64,
    /// Regular files, hard links counted once.
    pub files: u64,
    /// Entries of every kind but directories.
    pub entries: u64,
    /// Bytes on disk of the files' content, about.
    pub data: u64,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Everything found, by place.
    pub findings: Vec<Finding>,
    /// How much there is.
    pub totals: Totals,
    /// Bytes of blocks read.
    pub bytes_read: u64,
    /// Whether every block was read.
    pub read_data: bool,
}

impl Report {
    /// The findings that mean a loss.
    pub fn damage(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.problem.severity() == Severity::Damage)
    }

    /// The findings for which there is a remedy.
    pub fn plan(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.remedy.is_some())
    }
}

/// What is known of unclean ends.
pub(super) struct Doubt {
    pub(super) survey: Survey,
    windows: Vec<Window>,
}

impl Doubt {
    /// Whether a file was changed in a span of time whose writes may be torn.
    pub(super) fn suspects(&self, stat: &Stat) -> bool {
        self.windows
            .iter()
            .any(|window| (window.from..=window.until).contains(&stat.changed.seconds))
    }
}

/// An unmounted vault, locked for its check.
pub struct Session {
    pub(super) vault: Box<dyn Directory>,
    pub(super) codecs: Codecs,
    lock: Option<Box<dyn Any + Send + Sync>>,
}

impl Session {
    /// Takes the vault's lock. `owner` is what others are told who find it locked.
    ///
    /// # Errors
    /// [`CheckError::Busy`], [`CheckError::NoTree`], [`CheckError::Io`].
    pub fn open(
        vault: Box<dyn Directory>,
        master: &MasterKey,
        owner: &str,
    ) -> Result<Self, CheckError> {
        let lock = match vault.lock(LOCK_NAME, owner.as_bytes()) {
            Ok(LockOutcome::Held(guard)) => Some(guard),
            Ok(LockOutcome::Busy(holder)) => {
                return Err(CheckError::Busy {
                    holder: String::from_utf8_lossy(&holder).into_owned(),
                });
            }
            // Where nothing can be written nobody can change it, either.
            Err(error) if error.raw_os_error() == Some(libc::EROFS) => None,
            Err(error) => return Err(error.into()),
        };
        match vault.open_directory(TREE_NAME.as_bytes()) {
            Ok(_) => Ok(Self { vault, codecs: Codecs::new(master), lock }),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Err(CheckError::NoTree),
            Err(error) => Err(error.into()),
        }
    }

    /// Checks the vault. Nothing is changed.
    ///
    /// # Errors
    /// [`CheckError::Io`] when not even the vault directory can be read, [`CheckError::Cancelled`],
    /// [`CheckError::NoThread`].
    pub fn check(&self, options: Options, observer: &dyn Observer) -> Result<Report, CheckError> {
        let mut findings = Vec::new();
        let doubt = self.doubt(&mut findings)?;
        self.look_for_leftovers(&mut findings)?;
        for finding in &findings {
            observer.found(finding);
        }
        observer.phase(Phase::Structure, None);
        let mut structure = Structure::new(self, &doubt, observer, findings)?;
        walk(&*self.vault, &self.codecs, &mut structure)?;
        let (mut findings, totals) = structure.finish()?;
        let mut bytes_read = 0;
        if options.read_data {
            observer.phase(Phase::Data, Some(totals.data));
            let outcome = data::read_all(self, &doubt, options.threads, observer)?;
            bytes_read = outcome.bytes_read;
            findings.extend(outcome.findings);
        }
        findings.sort_by(|one, other| one.location.stored.cmp(&other.location.stored));
        Ok(Report { findings, totals, bytes_read, read_data: options.read_data })
    }

    /// What journal and state file tell of unclean ends.
    pub(super) fn doubt(&self, findings: &mut Vec<Finding>) -> Result<Doubt, CheckError> {
        let survey = Survey::new(&*self.vault, &self.codecs)?;
        let mut windows = self.windows(findings)?;
        if survey.unclean {
            let location = Location { stored: b"journal.0".to_vec(), plain: None };
            findings.push(Finding::new(location, Problem::UncleanEnd).remedy(Remedy::Recover));
            if let Some(since) = survey.since {
                let now = self.now();
                windows.push(Window {
                    from: since.saturating_sub(CLOCK_SLACK),
                    until: now.saturating_add(CLOCK_SLACK),
                });
            }
        }
        // A span without a beginning says nothing: all damage would pass for torn.
        windows.retain(|window| window.from > i64::MIN);
        Ok(Doubt { survey, windows })
    }

    /// The present time in seconds, by the clock that stamps the vault's files: the lock file was
    /// just written. Where nothing can be written, the system's.
    fn now(&self) -> i64 {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let system = i64::try_from(system.as_secs()).unwrap_or(i64::MAX);
        let written = self.lock.is_some().then(|| self.vault.stat(LOCK_NAME));
        written.and_then(Result::ok).map_or(system, |stat| stat.changed.seconds)
    }

    fn windows(&self, findings: &mut Vec<Finding>) -> Result<Vec<Window>, CheckError> {
        let file = match self.vault.open_file(STATE_NAME, Access::Read) {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = vec![0; STATE_MAX];
        let read = file.read_at(&mut bytes, 0)?;
        Ok(state::decode(&self.codecs.journal, &bytes[..read]).unwrap_or_else(|| {
            let location = Location { stored: STATE_NAME.to_vec(), plain: None };
            findings.push(Finding::new(location, Problem::StateFile).remedy(Remedy::Remove));
            Vec::new()
        }))
    }

    fn look_for_leftovers(&self, findings: &mut Vec<Finding>) -> Result<(), CheckError> {
        for name in REPLACED {
            if self.vault.stat(name).is_ok() {
                let location = Location { stored: name.to_vec(), plain: None };
                let finding = Finding::new(location, Problem::LeftoverFile);
                findings.push(finding.remedy(Remedy::Remove));
            }
        }
        match self.vault.open_directory(OVERFLOW_NAME.as_bytes()) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                let stored = OVERFLOW_NAME.as_bytes().to_vec();
                let location = Location { stored, plain: None };
                findings.push(Finding::new(location, Problem::PartMissing));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
