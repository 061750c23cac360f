//! Owns what Redis and Valkey leave on disk: dumps (RDB), append-only files, and the directory of
//! append-only files with its manifest. Dumps are checked by their checksum, append-only files by
//! their syntax.

use std::path::{Path, PathBuf};

use crc::{CRC_64_REDIS, Crc, Digest};

use super::report::Findings;
use super::source::{Source, is_file};
use super::{CheckReport, Error, Outcome, Summary};

const CRC: Crc<u64> = Crc::<u64>::new(&CRC_64_REDIS);
/// What ends a dump, before its checksum.
const END: u8 = 0xFF;
/// The longest command part, as Redis bounds it, in bytes.
const MAX_BULK: u64 = 512 << 20;
/// The most parts of a command.
const MAX_PARTS: u64 = 1 << 20;
/// The longest manifest, in bytes.
const MAX_MANIFEST: usize = 1 << 20;

/// What a file's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A dump, or an append-only file that begins with one.
    Dump,
    /// Commands.
    Commands,
    /// The list of a directory's append-only files.
    Manifest,
}

/// What each line of a manifest begins with.
const MANIFEST: &[u8] = b"file ";

/// Recognises a file by its first bytes.
pub(super) fn recognise(head: &[u8]) -> Option<Kind> {
    let digits = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    if head.starts_with(b"REDIS") && head.get(5..9).is_some_and(digits) {
        return Some(Kind::Dump);
    }
    if let Some(rest) = head.strip_prefix(b"*") {
        let end = rest.windows(3).position(|window| window == b"\r\n$")?;
        return digits(&rest[..end]).then_some(Kind::Commands);
    }
    if !head.starts_with(MANIFEST) {
        return None;
    }
    let first = head.split(|byte| *byte == b'\n').next()?;
    manifest_line(first).map(|_| Kind::Manifest)
}

/// The file that a line of a manifest names: `file NAME seq N type b|i|h`.
fn manifest_line(line: &[u8]) -> Option<&str> {
    let words: Vec<&str> = std::str::from_utf8(line).ok()?.split(' ').collect();
    match words.as_slice() {
        ["file", name, "seq", number, "type", "b" | "i" | "h", ..]
            if number.bytes().all(|byte| byte.is_ascii_digit()) && !name.contains('/') =>
        {
            Some(name)
        }
        _ => None,
    }
}

/// The names in a manifest; `None` where it isn't one.
fn manifest_names(source: &Source) -> Result<Option<Vec<String>>, Error> {
    let text = source.head(MAX_MANIFEST)?;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.map(|line| manifest_line(line).map(str::to_owned)).collect())
}

/// The store's files: a manifest's, or the file alone.
pub(super) fn files(path: &Path, kind: Kind) -> Result<Vec<PathBuf>, Error> {
    let mut files = vec![path.to_path_buf()];
    if kind == Kind::Manifest
        && let Some(names) = manifest_names(&Source::open(path)?)?
    {
        let directory = path.parent().unwrap_or(Path::new(""));
        files.extend(names.iter().map(|name| directory.join(name)).filter(|path| is_file(path)));
    }
    Ok(files)
}

/// What a whole reading told.
#[derive(Default)]
struct Reading {
    findings: Findings,
    dumps: u64,
    commands: u64,
    /// Whether a dump had no checksum.
    unchecked: bool,
}

fn read(files: &[PathBuf]) -> Result<Reading, Error> {
    let mut reading = Reading::default();
    let manifest = match files.first() {
        Some(first) => Source::open(first)?,
        None => return Ok(reading),
    };
    if recognise(&manifest.head(256)?) != Some(Kind::Manifest) {
        read_file(&manifest, true, &mut reading)?;
        return Ok(reading);
    }
    match manifest_names(&manifest)? {
        None => reading.findings.damage("the manifest is malformed"),
        Some(names) => {
            for (index, name) in names.iter().enumerate() {
                let named =
                    |path: &&PathBuf| path.file_name().is_some_and(|own| own == name.as_str());
                match files.iter().skip(1).find(named) {
                    Some(path) => {
                        read_file(&Source::open(path)?, index + 1 == names.len(), &mut reading)?;
                    }
                    None => reading.findings.damage(format!("{name} is missing")),
                }
            }
        }
    }
    Ok(reading)
}

/// Reads one file. Only the last one may end within a command.
fn read_file(source: &Source, last: bool, reading: &mut Reading) -> Result<(), Error> {
    let name = source.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut commands_from = 0;
    if source.head(9)?.starts_with(b"REDIS") {
        reading.dumps += 1;
        match dump_end(source)? {
            DumpEnd::Checked(end) => commands_from = end,
            DumpEnd::Unchecked => {
                reading.unchecked = true;
                return Ok(());
            }
            DumpEnd::Damaged => {
                reading.findings.damage(format!("{name}: the dump's checksum fails"));
                return Ok(());
            }
        }
    }
    let mut parser = Parser::default();
    source.for_each_piece(commands_from, |piece| {
        parser.feed(piece);
        Ok(())
    })?;
    reading.commands += parser.commands;
    match parser.state {
        State::Bad => {
            let at = commands_from + parser.read;
            reading.findings.damage(format!("{name}: not a command at byte {at}"));
        }
        State::Start => {}
        _ if last => reading.findings.remark(format!("{name} ends within a command")),
        _ => reading.findings.damage(format!("{name} ends within a command")),
    }
    Ok(())
}

/// Where a dump ends.
enum DumpEnd {
    /// Here: its checksum holds.
    Checked(u64),
    /// At the end of the file: it was written without a checksum.
    Unchecked,
    Damaged,
}

/// Finds the end of a dump: the first end mark whose following eight bytes are the checksum of
/// everything up to it.
fn dump_end(source: &Source) -> Result<DumpEnd, Error> {
    const TAIL: u64 = 8;
    let mut digest: Digest<'_, u64> = CRC.digest();
    let mut found = None;
    let mut read = 0_u64;
    let mut carry: Vec<u8> = Vec::new();
    source.for_each_piece(0, |piece| {
        if found.is_some() {
            return Ok(());
        }
        // The checksum after a mark may lie in the next piece.
        carry.extend_from_slice(piece);
        let mut start = 0;
        while let Some(at) = carry[start..].iter().position(|byte| *byte == END) {
            let end = start + at + 1;
            let Some(tail) = carry.get(end..end + 8) else { break };
            digest.update(&carry[start..end]);
            start = end;
            if digest.clone().finalize().to_le_bytes() == tail {
                found = Some(read + u64::try_from(end).unwrap_or(0) + TAIL);
                return Ok(());
            }
        }
        let keep = carry.len().min(8);
        let safe = carry.len() - keep;
        if safe > start {
            // No mark up to here, or one whose checksum is not all there yet.
            let mark = carry[start..].iter().position(|byte| *byte == END).map(|at| start + at);
            let until = mark.map_or(safe, |mark| mark.min(safe));
            digest.update(&carry[start..until]);
            start = until;
        }
        read += u64::try_from(start).unwrap_or(0);
        carry.drain(..start);
        Ok(())
    })?;
    if let Some(end) = found {
        return Ok(DumpEnd::Checked(end));
    }
    // A dump written with checksums turned off ends with zeros.
    let tail = match source.length().checked_sub(TAIL + 1) {
        Some(at) => source.bytes_at::<9>(at)?,
        None => None,
    };
    Ok(match tail {
        Some([END, 0, 0, 0, 0, 0, 0, 0, 0]) => DumpEnd::Unchecked,
        _ => DumpEnd::Damaged,
    })
}

/// Where in a command the reading is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before one.
    #[default]
    Start,
    /// In the count of its parts.
    Count { value: u64, digits: u8 },
    /// Before the `$` of a part.
    Dollar,
    /// In the length of a part.
    Length { value: u64, digits: u8 },
    /// In a part, so many bytes before its end.
    Data(u64),
    /// In the line break after a number (`true`) or a part.
    Break { number: bool },
    /// In a comment line (a time stamp).
    Comment,
    /// Past something that is no command.
    Bad,
}

/// Reads commands in pieces.
#[derive(Default)]
struct Parser {
    state: State,
    /// What follows the line break that is being read.
    after: Option<u64>,
    parts: u64,
    commands: u64,
    read: u64,
}

impl Parser {
    fn feed(&mut self, piece: &[u8]) {
        let mut at = 0;
        while at < piece.len() && self.state != State::Bad {
            if let State::Data(left) = self.state {
                let here = u64::try_from(piece.len() - at).unwrap_or(u64::MAX).min(left);
                at += usize::try_from(here).unwrap_or(0);
                self.read += here;
                self.state = match left - here {
                    0 => State::Break { number: false },
                    rest => State::Data(rest),
                };
                // A part may be empty: its break is read in the next round.
                continue;
            }
            self.state = self.step(piece[at]);
            if self.state != State::Bad {
                self.read += 1;
            }
            at += 1;
        }
    }

    fn step(&mut self, byte: u8) -> State {
        let digit = |value: u64, digits: u8| {
            (byte.is_ascii_digit() && digits < 10)
                .then(|| (value * 10 + u64::from(byte - b'0'), digits + 1))
        };
        match (self.state, byte) {
            (State::Start, b'*') => State::Count { value: 0, digits: 0 },
            (State::Start, b'#') => State::Comment,
            (State::Comment, b'\n') => State::Start,
            (State::Comment, _) => State::Comment,
            (State::Count { value, digits }, b'\r')
                if digits > 0 && (1..=MAX_PARTS).contains(&value) =>
            {
                self.parts = value;
                self.after = None;
                State::Break { number: true }
            }
            (State::Count { value, digits }, _) => digit(value, digits)
                .map_or(State::Bad, |(value, digits)| State::Count { value, digits }),
            (State::Dollar, b'$') => State::Length { value: 0, digits: 0 },
            (State::Length { value, digits }, b'\r') if digits > 0 && value <= MAX_BULK => {
                self.after = Some(value);
                State::Break { number: true }
            }
            (State::Length { value, digits }, _) => digit(value, digits)
                .map_or(State::Bad, |(value, digits)| State::Length { value, digits }),
            (State::Break { number: true }, b'\n') => match self.after {
                Some(length) => State::Data(length),
                None => State::Dollar,
            },
            (State::Break { number: false }, b'\r') => State::Break { number: false },
            (State::Break { number: false }, b'\n') => {
                self.parts -= 1;
                if self.parts == 0 {
                    self.commands += 1;
                    State::Start
                } else {
                    State::Dollar
                }
            }
            _ => State::Bad,
        }
    }
}

/// Checks dumps and commands.
pub(super) fn check(files: &[PathBuf]) -> Result<CheckReport, Error> {
    let mut reading = read(files)?;
    if reading.unchecked {
        reading.findings.remark("a dump was written without a checksum");
    }
    let outcome = if reading.unchecked { Outcome::StructureOnly } else { Outcome::Sound };
    Ok(reading.findings.report(outcome, "checksums of dumps, syntax of commands"))
}

/// Facts: how many dumps and commands.
pub(super) fn summary(files: &[PathBuf]) -> Result<Option<Summary>, Error> {
    let reading = read(files)?;
    let mut summary = Summary::default();
    let mut put = |name: &str, value: u64| summary.facts.insert(name.to_owned(), value.to_string());
    put("dumps", reading.dumps);
    put("commands", reading.commands);
    Ok(Some(summary))
}
