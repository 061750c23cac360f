//! Copying out what is left of what cannot be repaired: the readable blocks of damaged files, and
//! whatever lies below a directory whose names are lost, under names that tell it apart.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::data::byte_ranges;
use super::finding::{Finding, Location, Problem, Severity};
use super::session::{CheckError, Observer, Phase, Report, Session};
use super::structure::{Header, read_header};
use super::walk::{Folder, Item, Visitor, walk};
use crate::backing::{Access, Directory, File, FileKind, SetTime, Stat};
use crate::format::block::{BlockCipher, Opened};
use crate::format::layout::{
    BLOCK_OVERHEAD, BLOCK_SIZE, BlockIndex, CIPHER_BLOCK_SIZE, plain_size,
};
use crate::format::symlink::split_overflow;
use crate::vault::OVERFLOW_NAME;

const DIRECTORY_MODE: u32 = 0o700;
const CIPHER_BLOCK: u64 = CIPHER_BLOCK_SIZE as u64;
/// How many names are tried where one is taken.
const TRIES: u32 = 10_000;

/// One file that was salvaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SalvagedFile {
    /// Where it was.
    pub location: Location,
    /// Where it is, below the target directory; `None` when nothing could be written of it.
    pub target: Option<Vec<u8>>,
    /// Its size in bytes.
    pub size: u64,
    /// What could not be read, in bytes; holes in the copy.
    pub missing: Vec<Range<u64>>,
    /// Why it was not salvaged, or not all of it.
    pub failure: Option<String>,
}

/// What was salvaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// Everything that was tried.
    pub files: Vec<SalvagedFile>,
}

impl Session {
    /// Copies what can be read of everything that `report` says is damaged into `target`, an empty
    /// directory. Nothing in the vault is changed.
    ///
    /// # Errors
    /// [`CheckError::Io`] when the vault's directories can't be read, or `target` not be synced.
    pub fn salvage(
        &self,
        report: &Report,
        target: &dyn Directory,
        observer: &dyn Observer,
    ) -> Result<Salvage, CheckError> {
        let damaged: HashSet<Vec<u8>> = report
            .findings
            .iter()
            .filter(|finding| finding.problem.severity() == Severity::Damage)
            .map(|finding| finding.location.stored.clone())
            .collect();
        let lost_names = report
            .findings
            .iter()
            .filter(|finding| {
                matches!(
                    finding.problem,
                    Problem::DirectoryRecord | Problem::Name | Problem::LongName
                )
            })
            .map(|finding| finding.location.stored.clone())
            .collect();
        observer.phase(Phase::Salvage, None);
        let mut salvager = Salvager {
            session: self,
            observer,
            target,
            damaged,
            lost_names,
            linked: HashSet::new(),
            salvage: Salvage::default(),
        };
        walk(&*self.vault, &self.codecs, &mut salvager)?;
        let salvage = salvager.salvage;
        if !target.sync_filesystem()? {
            target.sync()?;
        }
        Ok(salvage)
    }
}

/// Where something is put.
struct Place {
    directory: Box<dyn Directory>,
    name: Vec<u8>,
    /// Below the target directory.
    path: Vec<u8>,
}

struct Salvager<'a> {
    session: &'a Session,
    observer: &'a dyn Observer,
    target: &'a dyn Directory,
    /// Stored paths of what is damaged.
    damaged: HashSet<Vec<u8>>,
    /// Stored paths below which nothing can be reached through a mount.
    lost_names: HashSet<Vec<u8>>,
    linked: HashSet<u64>,
    salvage: Salvage,
}

impl Visitor for Salvager<'_> {
    fn found(&mut self, _finding: Finding) {}

    fn folder(&mut self, _folder: &Arc<Folder>) -> Result<(), CheckError> {
        Ok(())
    }

    fn item(&mut self, item: Item) -> Result<(), CheckError> {
        if self.observer.cancelled() {
            return Err(CheckError::Cancelled);
        }
        let location = item.location();
        if !self.damaged.contains(&location.stored) && !self.is_out_of_reach(&location.stored) {
            return Ok(());
        }
        if item.stat.links > 1
            && item.stat.kind != FileKind::Directory
            && !self.linked.insert(item.stat.ino)
        {
            return Ok(());
        }
        let mut file =
            SalvagedFile { location, target: None, size: 0, missing: Vec::new(), failure: None };
        let salvaged = match item.stat.kind {
            FileKind::Regular => self.regular(&item, &mut file),
            FileKind::Symlink => self.symlink(&item, &mut file),
            // Directories come with what is in them.
            _ => return Ok(()),
        };
        if let Err(error) = salvaged {
            file.failure = Some(error.to_string());
        }
        self.salvage.files.push(file);
        self.observer.advance(1);
        Ok(())
    }

    fn is_ours(&self, _folder: &Folder, _entry: &[u8], _stat: &Stat) -> bool {
        false
    }
}

impl Salvager<'_> {
    /// Whether the names of a path, or one of a directory above it, are lost.
    fn is_out_of_reach(&self, stored: &[u8]) -> bool {
        let ends = stored.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        !self.lost_names.is_empty()
            && ends.chain([stored.len()]).any(|end| self.lost_names.contains(&stored[..end]))
    }

    fn regular(&mut self, item: &Item, salvaged: &mut SalvagedFile) -> io::Result<()> {
        let source = item.folder.directory.open_file(&item.entry, Access::Read)?;
        let stat = source.stat()?;
        salvaged.size = plain_size(stat.size);
        let Place { directory, name, path } = self.place(&salvaged.location)?;
        let copy = directory.create_file(&name, 0o600)?;
        salvaged.target = Some(path);
        let codecs = &self.session.codecs;
        match read_header(codecs, &*source, stat.size)? {
            Header::Authentic(id) | Header::Mended(id) => {
                let failed = copy_blocks(&*source, &*copy, &codecs.blocks(id), &stat)?;
                salvaged.missing = byte_ranges(&failed, salvaged.size);
            }
            Header::Lost if salvaged.size > 0 => salvaged.missing.push(0..salvaged.size),
            Header::None | Header::Lost => {}
        }
        copy.set_len(salvaged.size)?;
        // What the owner may do with it stays; set-user-ID and the like would be a surprise.
        copy.set_mode(stat.mode & 0o777)?;
        copy.set_times(SetTime::Keep, SetTime::At(stat.modified))
    }

    fn symlink(&mut self, item: &Item, salvaged: &mut SalvagedFile) -> io::Result<()> {
        let text = item.folder.directory.read_link(&item.entry)?;
        let text = match split_overflow(&text) {
            Some((id, first)) => {
                let overflow = self.session.vault.open_directory(OVERFLOW_NAME.as_bytes())?;
                [first, &overflow.read_link(id.as_bytes())?].concat()
            }
            None => text,
        };
        let target = self.session.codecs.symlinks.open(&text);
        let target = target.map_err(|_| io::Error::other("its target does not authenticate"))?;
        let Place { directory, name, path } = self.place(&salvaged.location)?;
        directory.make_symlink(&target, &name)?;
        salvaged.target = Some(path);
        Ok(())
    }

    /// A free name for something, in its directory, which is made where it is missing.
    fn place(&self, location: &Location) -> io::Result<Place> {
        let plain = location.plain.as_deref().unwrap_or_default();
        // Names were authenticated when they were decrypted; still none leads out of the target.
        let mut components: Vec<Vec<u8>> = plain
            .split(|byte| *byte == b'/')
            .filter(|name| !matches!(*name, b"" | b"." | b".."))
            .map(<[u8]>::to_vec)
            .collect();
        let name = components.pop().unwrap_or_else(|| b"unnamed".to_vec());
        let mut directory = self.target.open_directory(b".")?;
        for component in &components {
            match directory.make_directory(component, DIRECTORY_MODE) {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
                _ => directory = directory.open_directory(component)?,
            }
        }
        let mut free = name.clone();
        for number in 1..TRIES {
            if directory.stat(&free).is_err() {
                break;
            }
            free = [&name[..name.len().min(240)], format!(".{number}").as_bytes()].concat();
        }
        components.push(free.clone());
        Ok(Place { directory, name: free, path: components.join(&b'/') })
    }
}

/// Copies the blocks that can be read; the indices of the others.
fn copy_blocks(
    source: &dyn File,
    copy: &dyn File,
    cipher: &BlockCipher,
    stat: &Stat,
) -> io::Result<Vec<u64>> {
    let end = BlockIndex::count(plain_size(stat.size));
    let (mut sealed, mut plain) = ([0u8; CIPHER_BLOCK_SIZE], [0u8; BLOCK_SIZE]);
    let mut failed = Vec::new();
    let mut next = BlockIndex(0);
    while next < end {
        let Some(data) = source.seek_data(next.cipher_offset())? else { break };
        let skipped = data.saturating_sub(BlockIndex(0).cipher_offset()) / CIPHER_BLOCK;
        let index = BlockIndex(skipped.max(next.0));
        next = index.next();
        let Ok(read) = source.read_at(&mut sealed, index.cipher_offset()) else {
            failed.push(index.0);
            continue;
        };
        let len = read.saturating_sub(BLOCK_OVERHEAD);
        if len == 0 {
            continue;
        }
        match cipher.open(index, &sealed[..read], &mut plain[..len]) {
            Ok(Opened::Data) => copy.write_at(&plain[..len], index.plain_offset())?,
            Ok(Opened::Hole) => {}
            Err(_) => failed.push(index.0),
        }
    }
    Ok(failed)
}
