//! Opening archives: what they say of themselves, their index, and passes over all they hold.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::ahead::{Ahead, FILLED_IN_FLIGHT, Filled, InPlace};
use super::compress::decompressor;
use super::error::{Error, Result};
use super::extract::{self, Directories, ExtractOptions, Extracted, Extractor, TakeLine};
use super::file::check_length;
use super::frames::ZstdFrames;
use super::growing::{Growing, Growth};
use super::index::{Lines, parse_part, read_own};
use super::keys::{KeySet, Keyring};
use super::metadata::{
    Amount, ArchiveIndex, ArchiveMetadata, INDEX_NAME, METADATA_LIMIT, METADATA_NAME, PART_LIMIT,
};
use super::pass::{self, Contents, Control, Passed};
use super::pipe::{Extent, Input};
use super::tar::TarReader;
use super::threads::{start_in, start_some};
use super::write::part_name;
use crate::crypto::ArchiveKey;
use crate::format::archive::{
    ArchiveFormatError, ArchiveHeader, Compression, FOOTER_LEN, Footer, PREFIX_LEN, SegmentLayout,
    UnverifiedHeader, header_len,
};
use crate::tree::Digest;

/// An archive, opened: its header is authentic, where it is sealed, and its metadata are read.
/// The rest is checked as it is read.
pub struct ArchiveReader {
    input: Arc<Input>,
    compression: Compression,
    /// Bytes of the compressed tar.
    compressed_len: u64,
    footer: Option<Footer>,
    header: Option<ArchiveHeader>,
    metadata: ArchiveMetadata,
}

/// Finds the key that authenticates a header.
pub(super) type Unlock<'a> = dyn Fn(&UnverifiedHeader) -> Result<ArchiveKey> + 'a;

/// Reads a sealed archive's header without a key: how it is compressed and which key slots it
/// has. `None` for an archive that is not sealed.
///
/// # Errors
/// When the file cannot be read or its header not be understood.
pub fn peek(path: &Path) -> Result<Option<UnverifiedHeader>> {
    let file = open_file(path)?;
    Ok(read_header(&file, path)?.map(|(header, _)| header))
}

fn format_error(path: &Path) -> impl Fn(ArchiveFormatError) -> Error {
    let path = path.to_owned();
    move |error| Error::Format { path: path.clone(), error }
}

/// The header and its length.
fn read_header(file: &File, path: &Path) -> Result<Option<(UnverifiedHeader, u64)>> {
    let read = |bytes: &mut [u8]| {
        file.read_exact_at(bytes, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => format_error(path)(ArchiveFormatError::Truncated),
            _ => Error::io("read", path)(error),
        })
    };
    let status = file.metadata().map_err(Error::io("read", path))?;
    if !status.is_file() {
        let source = io::Error::other("it is not a regular file");
        return Err(Error::io("read", path)(source));
    }
    let mut prefix = [0u8; PREFIX_LEN];
    read(&mut prefix)?;
    let length = match header_len(&prefix) {
        Err(ArchiveFormatError::NotAnArchive) => return Ok(None),
        other => other.map_err(format_error(path))?,
    };
    let mut bytes = vec![0u8; length];
    read(&mut bytes)?;
    let header = UnverifiedHeader::decode(bytes).map_err(format_error(path))?;
    Ok(Some((header, u64::try_from(length).unwrap_or(u64::MAX))))
}

/// What an archive that is not sealed begins with.
fn detect(file: &File, path: &Path) -> Result<Compression> {
    let mut bytes = [0u8; 512];
    file.read_exact_at(&mut bytes[..8], 0).map_err(Error::io("read", path))?;
    Ok(match bytes {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x04, 0x22, 0x4d, 0x18, ..] => Compression::Lz4,
        _ => {
            let whole = file.read_exact_at(&mut bytes, 0).is_ok();
            if whole && &bytes[257..262] == b"ustar" {
                Compression::None
            } else {
                return Err(format_error(path)(ArchiveFormatError::NotAnArchive));
            }
        }
    })
}

impl ArchiveReader {
    /// Opens an archive, sealed or not.
    ///
    /// # Errors
    /// When it cannot be read, no secret of the ring opens it, or it was altered.
    pub fn open(path: &Path, keyring: &Keyring) -> Result<Self> {
        Self::of_file(open_file(path)?, path, &|header| keyring.unlock(header))
    }

    /// The same, with the key set that it was sealed with.
    ///
    /// # Errors
    /// Those of [`Self::open`]; [`Error::WrongSecret`] where it was sealed with another one.
    pub fn open_with(path: &Path, keys: &KeySet) -> Result<Self> {
        Self::of_file(open_file(path)?, path, &|header| {
            let key = keys.archive_key(header.unverified().id);
            if header.is_authentic(&key) { Ok(key) } else { Err(Error::WrongSecret) }
        })
    }

    /// Opens an archive of which the key set is known.
    pub(super) fn of_file(file: File, path: &Path, unlock: &Unlock<'_>) -> Result<Self> {
        Self::of(file, path, unlock, None)
    }

    /// As [`Self::verify_written`], of an archive that is still being written, to its end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn verify_growing(
        file: File,
        path: &Path,
        unlock: &Unlock<'_>,
        growth: &Arc<Growth>,
        control: Control<'_>,
    ) -> Result<()> {
        // The header is written at once.
        growth.wait(0);
        let again = file.try_clone().map_err(Error::io("open", path))?;
        Self::of(file, path, unlock, Some(growth))?.verify_written(control)?;
        // It ends: as whoever reads it opens it, by its footer.
        check_length(&again, path, growth.wait(u64::MAX).unwrap_or(u64::MAX))?;
        Self::of_file(again, path, unlock).map(drop)
    }

    fn of(
        file: File,
        path: &Path,
        unlock: &Unlock<'_>,
        growth: Option<&Arc<Growth>>,
    ) -> Result<Self> {
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let growing = |sealed| growth.map(|growth| Growing::new(Arc::clone(growth), sealed));
        let (input, compression, header) = match read_header(&file, path)? {
            None => {
                let compression = detect(&file, path)?;
                let extent = growing(None).map_or(Extent::Plain(length), Extent::Growing);
                (Input::new(file, path, None, extent), compression, None)
            }
            Some((header, header_len)) => {
                let key = unlock(&header)?;
                let (header, cipher) = header.verify(&key).map_err(format_error(path))?;
                let segment_log2 = header.segment_log2;
                let extent = match growing(Some((header_len, segment_log2))) {
                    Some(growing) => Extent::Growing(growing),
                    None => SegmentLayout::new(header_len, segment_log2, length)
                        .map(Extent::Sealed)
                        .map_err(format_error(path))?,
                };
                let input = Input::new(file, path, Some(cipher), extent);
                (input, header.compression, Some(header))
            }
        };
        let input = Arc::new(input);
        // At the end of what may not be there yet.
        let has_footer = header.is_some() && growth.is_none();
        let footer = has_footer.then(|| read_footer(&input)).transpose()?;
        let compressed_len = footer.map_or(input.len(), |footer| footer.compressed_len);
        let metadata = read_metadata(&input, compression, compressed_len)?;
        let same = metadata.compression == compression
            && header.as_ref().is_none_or(|header| header.id == metadata.id);
        if !same {
            return Err(Error::malformed("its metadata are those of another archive"));
        }
        Ok(Self { input, compression, compressed_len, footer, header, metadata })
    }

    /// What the archive says of itself.
    pub fn metadata(&self) -> &ArchiveMetadata {
        &self.metadata
    }

    /// The header with the key slots; `None` where the archive is not sealed.
    pub fn header(&self) -> Option<&ArchiveHeader> {
        self.header.as_ref()
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.input.path()
    }

    /// The decompressed tar from a frame's beginning on.
    fn tar_from(&self, offset: u64) -> Result<TarReader<Box<dyn Read + Send>>> {
        let length = self.compressed_len.saturating_sub(offset);
        let range = self.input.range(offset, length);
        let tar = decompressor(range, self.compression).map_err(Error::from_io)?;
        Ok(TarReader::new(tar))
    }

    /// Reads all of it and checks every byte: seals, compression, order, names, limits, and each
    /// entry against the index.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, control: Control<'_>) -> Result<Passed> {
        self.extract(&ExtractOptions::nothing(), control).map(|(passed, _)| passed)
    }

    /// The same of an archive that was written a moment ago, whether it comes back from the file as it was
    /// made. Contents are held against the checksums that the compression keeps of them; where nothing is
    /// compressed, against their digests in the index. These alone would show what went wrong between
    /// the reading of a file and its compression, and frames that changed places where no seal
    /// numbers them.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify_written(&self, control: Control<'_>) -> Result<Passed> {
        let contents = match self.compression {
            Compression::None => Contents::Digests,
            Compression::Zstd | Compression::Gzip | Compression::Lz4 => Contents::Frames,
        };
        self.run(&ExtractOptions::nothing(), contents, Directories::Own, control, None)
            .map(|(passed, _)| passed)
    }

    /// Extracts in one pass, checking as [`Self::verify`] does. **What was written is to be
    /// relied on only when this returns**: extract to a place of its own. The caller syncs the
    /// writers.
    ///
    /// # Errors
    /// What is wrong with the archive, or a writer's; what was written is of no use then.
    pub fn extract(
        &self,
        options: &ExtractOptions<'_>,
        control: Control<'_>,
    ) -> Result<(Passed, Extracted)> {
        self.run(options, Contents::Digests, Directories::Own, control, None)
    }

    /// As [`Self::extract`], for one of several archives that are extracted to the same place:
    /// directories may be there already, and their metadata are left to the caller. Every line of
    /// the index is given to `take`.
    ///
    /// # Errors
    /// Those of [`Self::extract`], or of `take`.
    pub fn extract_part(
        &self,
        options: &ExtractOptions<'_>,
        control: Control<'_>,
        take: &mut TakeLine<'_>,
    ) -> Result<(Passed, Extracted)> {
        self.run(options, Contents::Digests, Directories::Shared, control, Some(take))
    }

    /// How much it holds, as its index says, without what other archives store; `None` of an archive that
    /// is not sealed: it would have to be read whole.
    ///
    /// # Errors
    /// When its index cannot be read.
    pub fn amount(&self) -> Result<Option<Amount>> {
        let Some(footer) = self.footer else { return Ok(None) };
        Ok(Some(read_index(&mut self.tar_from(footer.index_offset)?)?.amount))
    }

    fn run(
        &self,
        options: &ExtractOptions<'_>,
        contents: Contents,
        directories: Directories,
        control: Control<'_>,
        lines: Option<&mut TakeLine<'_>>,
    ) -> Result<(Passed, Extracted)> {
        let input = self.input.range(0, self.compressed_len);
        let opened = Ahead::new(input, self.input.in_flight())?;
        let threads = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        // While it is written, other threads want the processors to compress.
        let decompressing = if self.input.is_growing() { threads / 2 } else { threads };
        let tar: Box<dyn BufRead> = match self.compression {
            // To hand on what one thread decompresses takes more memory, and no less time.
            Compression::Zstd if decompressing <= 1 => {
                Box::new(InPlace::new(ZstdFrames::new(opened, 0)))
            }
            Compression::Zstd => {
                let frames = ZstdFrames::new(opened, decompressing);
                Box::new(Ahead::new(frames, ZstdFrames::IN_FLIGHT)?)
            }
            other => {
                let tar = decompressor(opened, other).map_err(Error::from_io)?;
                Box::new(Ahead::new(Filled(tar), FILLED_IN_FLIGHT)?)
            }
        };
        let failure = Mutex::new(None);
        let (send, jobs) = extract::queue();
        let passed = std::thread::scope(|scope| {
            start_some(threads.clamp(2, 8), || {
                let (jobs, failure) = (jobs.clone(), &failure);
                start_in(scope, move || extract::work(options, directories, &jobs, failure))
            })?;
            drop(jobs);
            let mut sink = Extractor::new(options, directories, send, &failure, lines);
            let passed = pass::pass(tar, &self.metadata, contents, &mut sink, control);
            let extracted = sink.close();
            passed.map(|passed| (passed, extracted))
        });
        // A worker's failure comes first: the pass may only have noticed it.
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => passed,
        }
    }

    /// Gives every line of the index to `take`, in order; **to be relied on only when this
    /// returns**. Of a sealed archive only the index is read; of another one everything is, and
    /// is verified.
    ///
    /// # Errors
    /// What is wrong with the archive, or an error of `take`.
    pub fn index(&self, control: Control<'_>, take: &mut TakeLine<'_>) -> Result<Passed> {
        let Some(footer) = self.footer else {
            return self
                .run(
                    &ExtractOptions::nothing(),
                    Contents::Digests,
                    Directories::Own,
                    control,
                    Some(take),
                )
                .map(|(passed, _)| passed);
        };
        let index = read_index(&mut self.tar_from(footer.index_offset)?)?;
        let mut lines = Lines::default();
        let mut hash = Sha256::new();
        for (number, part) in index.parts.iter().enumerate() {
            super::gather::check(control.cancelled)?;
            let mut tar = self.tar_from(part.offset)?;
            let entry = tar.next_entry()?;
            let name = part_name(number);
            let Some(entry) = entry.filter(|entry| entry.name == name.as_bytes()) else {
                return Err(Error::malformed("a part of its index is not in its place"));
            };
            let bytes = read_own(&mut tar, &entry, PART_LIMIT)?;
            hash.update(&bytes);
            for line in parse_part(&bytes) {
                let line = line?;
                lines.check(&line, &self.metadata)?;
                take(&line)?;
            }
        }
        if Digest(hash.finalize().into()) != index.sha256 {
            return Err(Error::malformed("its index does not add up"));
        }
        Ok(Passed { amount: index.amount, entries: lines.count })
    }
}

fn read_footer(input: &Arc<Input>) -> Result<Footer> {
    let footer_len = u64::try_from(FOOTER_LEN).unwrap_or(u64::MAX);
    let start = input.len().checked_sub(footer_len);
    let error = format_error(input.path());
    let start = start.ok_or_else(|| error(ArchiveFormatError::Truncated))?;
    let mut bytes = [0u8; FOOTER_LEN];
    input.range(start, footer_len).read_exact(&mut bytes).map_err(Error::from_io)?;
    Footer::decode(&bytes, input.len()).map_err(error)
}

fn read_metadata(
    input: &Arc<Input>,
    compression: Compression,
    compressed_len: u64,
) -> Result<ArchiveMetadata> {
    let start = input.range(0, compressed_len);
    let mut tar = TarReader::new(decompressor(start, compression).map_err(Error::from_io)?);
    let entry = tar.next_entry()?.filter(|entry| entry.name == METADATA_NAME.as_bytes());
    let entry = entry.ok_or_else(|| Error::malformed("it does not begin with its metadata"))?;
    ArchiveMetadata::decode(&read_own(&mut tar, &entry, METADATA_LIMIT)?)
}

fn read_index<R: Read>(tar: &mut TarReader<R>) -> Result<ArchiveIndex> {
    let entry = tar.next_entry()?.filter(|entry| entry.name == INDEX_NAME.as_bytes());
    let entry = entry.ok_or_else(|| Error::malformed("its index is not in its place"))?;
    let bytes = read_own(tar, &entry, METADATA_LIMIT)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::malformed(format!("its index cannot be read: {error}")))
}

fn open_file(path: &Path) -> Result<File> {
    // A FIFO must not make us wait.
    File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(Error::io("open", path))
}
