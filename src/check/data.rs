//! Reading every block: one thread walks, several read and authenticate. Memory does not grow with
//! the vault, but for the hard links in it and for what is found.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Builder;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::finding::{Finding, Location, Problem, Remedy};
use super::session::{CheckError, Doubt, Observer, Session};
use super::structure::{Header, read_header};
use super::walk::{Folder, Item, Visitor, walk};
use crate::backing::{Access, File, FileKind, Stat};
use crate::format::block::BlockCipher;
use crate::format::header::FileId;
use crate::format::layout::{
    BLOCK_OVERHEAD, BLOCK_SIZE, BlockIndex, CIPHER_BLOCK_SIZE, plain_size,
};
use crate::vault::Codecs;

/// Blocks read at once.
const STEP: usize = 256;
const STEP_BLOCKS: u64 = STEP as u64;
const CIPHER_BLOCK: u64 = CIPHER_BLOCK_SIZE as u64;
/// Blocks of one task: large files are shared between the threads.
const TASK_BLOCKS: u64 = 64 * STEP_BLOCKS;
/// Tasks that wait; each may hold a file open.
const QUEUE: usize = 64;

/// What reading the blocks found.
pub(super) struct Outcome {
    pub(super) findings: Vec<Finding>,
    pub(super) bytes_read: u64,
}

/// A file whose blocks are being read.
struct Subject {
    file: Box<dyn File>,
    id: FileId,
    cipher: BlockCipher,
    location: Location,
    plain_size: u64,
    suspect: bool,
    failed: Mutex<Failed>,
}

/// What could not be read of one file; reported when the last task lets go of the file.
#[derive(Default)]
struct Failed {
    blocks: Vec<u64>,
    reason: Option<String>,
}

struct Task {
    subject: Arc<Subject>,
    blocks: Range<u64>,
}

struct Shared<'a> {
    doubt: &'a Doubt,
    observer: &'a dyn Observer,
    findings: Mutex<Vec<Finding>>,
    bytes_read: AtomicU64,
}

/// Reads and authenticates every block of the vault.
pub(super) fn read_all(
    session: &Session,
    doubt: &Doubt,
    threads: usize,
    observer: &dyn Observer,
) -> Result<Outcome, CheckError> {
    let shared =
        Shared { doubt, observer, findings: Mutex::default(), bytes_read: AtomicU64::new(0) };
    let (sender, receiver) = bounded(QUEUE);
    let walked = std::thread::scope(|scope| {
        for started in 0..threads.max(1) {
            let receiver = receiver.clone();
            let shared = &shared;
            match Builder::new().spawn_scoped(scope, move || work(shared, &receiver)) {
                Err(error) if started == 0 => return Err(CheckError::NoThread(error)),
                // As many as the system gives will do.
                Err(_) => break,
                Ok(_) => {}
            }
        }
        drop(receiver);
        let mut feeder =
            Feeder { codecs: &session.codecs, shared: &shared, sender, linked: HashSet::new() };
        walk(&*session.vault, &session.codecs, &mut feeder)
    });
    walked?;
    if observer.cancelled() {
        return Err(CheckError::Cancelled);
    }
    Ok(Outcome {
        findings: shared.findings.into_inner(),
        bytes_read: shared.bytes_read.into_inner(),
    })
}

/// The visitor that hands files to the threads.
struct Feeder<'a> {
    codecs: &'a Codecs,
    shared: &'a Shared<'a>,
    sender: Sender<Task>,
    linked: HashSet<u64>,
}

impl Feeder<'_> {
    fn feed(&mut self, item: &Item) -> io::Result<()> {
        let file = item.folder.directory.open_file(&item.entry, Access::Read)?;
        let stat = file.stat()?;
        let (Header::Authentic(id) | Header::Mended(id)) =
            read_header(self.codecs, &*file, stat.size)?
        else {
            return Ok(());
        };
        let plain_size = plain_size(stat.size);
        let subject = Arc::new(Subject {
            file,
            id,
            cipher: self.codecs.blocks(id),
            location: item.location(),
            plain_size,
            suspect: self.shared.doubt.suspects(&stat),
            failed: Mutex::default(),
        });
        let end = BlockIndex::count(plain_size);
        let mut next = BlockIndex(0);
        while next < end {
            let Some(data) = subject.file.seek_data(next.cipher_offset())? else { break };
            let hole = subject.file.seek_hole(data)?.unwrap_or(stat.size);
            let first = block_at(data).max(next.0);
            let after =
                (block_at(hole.saturating_sub(1)) + 1).clamp(first + 1, end.0.max(first + 1));
            let mut at = first;
            while at < after.min(end.0) {
                let until = (at + TASK_BLOCKS).min(after);
                let task = Task { subject: Arc::clone(&subject), blocks: at..until };
                if self.sender.send(task).is_err() {
                    return Ok(());
                }
                at = until;
            }
            next = BlockIndex(after);
        }
        finish(self.shared, subject);
        Ok(())
    }
}

/// The block that holds an offset of the file on disk; the first for the header.
fn block_at(cipher_offset: u64) -> u64 {
    cipher_offset.saturating_sub(BlockIndex(0).cipher_offset()) / CIPHER_BLOCK
}

impl Visitor for Feeder<'_> {
    fn found(&mut self, _finding: Finding) {
        // The structure's visitor has reported it.
    }

    fn folder(&mut self, _folder: &Arc<Folder>) -> Result<(), CheckError> {
        Ok(())
    }

    fn item(&mut self, item: Item) -> Result<(), CheckError> {
        if self.shared.observer.cancelled() {
            return Err(CheckError::Cancelled);
        }
        if item.stat.kind != FileKind::Regular || item.stat.size == 0 {
            return Ok(());
        }
        if item.stat.links > 1 && !self.linked.insert(item.stat.ino) {
            return Ok(());
        }
        // What cannot even be opened, the structure's visitor has reported.
        let _ = self.feed(&item);
        Ok(())
    }

    fn is_ours(&self, _folder: &Folder, _entry: &[u8], _stat: &Stat) -> bool {
        false
    }
}

fn work(shared: &Shared<'_>, tasks: &Receiver<Task>) {
    let mut buffer = vec![0; STEP * CIPHER_BLOCK_SIZE];
    for Task { subject, blocks } in tasks {
        let mut at = blocks.start;
        // When the walk was cancelled, what waits is let go.
        while at < blocks.end && !shared.observer.cancelled() {
            let until = (at + STEP_BLOCKS).min(blocks.end);
            let read = read_blocks(&subject, at..until, shared.doubt, &mut buffer);
            shared.bytes_read.fetch_add(read, Ordering::Relaxed);
            shared.observer.advance(read);
            at = until;
        }
        finish(shared, subject);
    }
}

/// Reports what is wrong with a file, when nobody reads it any more.
fn finish(shared: &Shared<'_>, subject: Arc<Subject>) {
    let Some(subject) = Arc::into_inner(subject) else { return };
    let Failed { mut blocks, reason } = subject.failed.into_inner();
    let mut findings = Vec::new();
    if let Some(reason) = reason {
        findings.push(Finding::new(subject.location.clone(), Problem::Unreadable { reason }));
    }
    if !blocks.is_empty() {
        blocks.sort_unstable();
        let ranges = byte_ranges(&blocks, subject.plain_size);
        findings.push(if subject.suspect {
            Finding::new(subject.location, Problem::TornBlocks)
                .ranges(ranges)
                .remedy(Remedy::PunchTorn)
        } else {
            Finding::new(subject.location, Problem::Blocks).ranges(ranges)
        });
    }
    for finding in findings {
        shared.observer.found(&finding);
        shared.findings.lock().push(finding);
    }
}

/// The bytes of ascending blocks, joined where they touch.
pub(super) fn byte_ranges(blocks: &[u64], plain_size: u64) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for block in blocks {
        let start = BlockIndex(*block).plain_offset();
        let end = BlockIndex(*block).next().plain_offset().min(plain_size);
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    ranges
}

/// Reads and authenticates some blocks of a file; the bytes read.
fn read_blocks(subject: &Subject, blocks: Range<u64>, doubt: &Doubt, buffer: &mut [u8]) -> u64 {
    let first = BlockIndex(blocks.start);
    let len = usize::try_from(blocks.end - blocks.start).unwrap_or(STEP).min(STEP);
    let buffer = &mut buffer[..len * CIPHER_BLOCK_SIZE];
    let mut bad = Vec::new();
    let read = match subject.file.read_at(buffer, first.cipher_offset()) {
        Ok(read) => {
            for (number, sealed) in (first.0..).zip(buffer[..read].chunks(CIPHER_BLOCK_SIZE)) {
                if !opens(subject, BlockIndex(number), sealed) {
                    bad.push(number);
                }
            }
            read
        }
        // Some sector cannot be read: which blocks it costs is found one by one.
        Err(error) => {
            subject.failed.lock().reason.get_or_insert_with(|| error.to_string());
            let mut total = 0;
            for number in blocks {
                let block = &mut buffer[..CIPHER_BLOCK_SIZE];
                match subject.file.read_at(block, BlockIndex(number).cipher_offset()) {
                    Ok(read) => {
                        total += read;
                        if !opens(subject, BlockIndex(number), &block[..read]) {
                            bad.push(number);
                        }
                    }
                    Err(_) => bad.push(number),
                }
            }
            total
        }
    };
    bad.retain(|number| !doubt.survey.covers(subject.id, BlockIndex(*number)));
    if !bad.is_empty() {
        subject.failed.lock().blocks.extend(bad);
    }
    u64::try_from(read).unwrap_or(u64::MAX)
}

fn opens(subject: &Subject, index: BlockIndex, sealed: &[u8]) -> bool {
    // What is too short to be a block counts for nothing: the file's size tells of it.
    if sealed.len() <= BLOCK_OVERHEAD {
        return true;
    }
    let mut plain = [0u8; BLOCK_SIZE];
    subject.cipher.open(index, sealed, &mut plain[..sealed.len() - BLOCK_OVERHEAD]).is_ok()
}
