//! The journal of one migration: what has been made durable, in the order in which it was.
//!
//! One small file, `VAULT/migrations/ID/journal`, replaced whole at every transition (temporary
//! name, write, fsync, rename, fsync directory), so that a crash leaves the old or the new one and
//! nothing between:
//!
//! ```text
//! journal = header "\n" nonce (12) ciphertext tag (16)
//! header  = one line of JSON: version, vault ID, migration ID, sequence number, phase
//! ```
//!
//! The ciphertext is the list of records as JSON under the vault's migration key, with the header
//! as associated data: it cannot be changed, cut, reordered or carried to another vault or
//! migration. The header names no path, is enough to tell without a key whether a migration is
//! unfinished, and is trusted for nothing else. That an old journal has been put back whole
//! cannot be told from the file; so every step checks the files that it is about to touch, by
//! identity and digest, before it touches them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::operations::{Change, Hands};
use super::record::{Begun, Phase, Record, State};
use crate::backing::{Access, Directory, RenameMode};
use crate::crypto::{
    AssociatedData, Domain, MigrationKey, NONCE_LEN, Nonce, SealingKey, TAG_LEN, random_array,
};

/// The journal's name in its directory.
const JOURNAL: &[u8] = b"journal";
const TEMPORARY: &[u8] = b"journal.new";
/// The version of the journal's format.
const VERSION: u32 = 1;
/// Longest journal that is read. It holds the configuration files twice, each at most
/// `CONFIG_LIMIT`.
const LIMIT: u64 = 256 << 20;
/// Longest header line.
const HEADER_LIMIT: usize = 4096;

/// The ID of a vault, as its configuration has it.
pub type VaultId = [u8; 16];

/// The ID of a migration: a number that counts up in a vault, and 32 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MigrationId {
    /// Counts up in one vault, so that the newest is known without trust in a clock.
    pub number: u32,
    /// Tells migrations of different vaults apart.
    pub random: u32,
}

impl MigrationId {
    /// A new ID with this number.
    pub fn new(number: u32) -> Self {
        Self { number, random: u32::from_le_bytes(random_array()) }
    }
}

impl fmt::Display for MigrationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04}-{:08x}", self.number, self.random)
    }
}

/// Not the form `NNNN-XXXXXXXX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the ID of a migration")]
pub struct IdError;

impl FromStr for MigrationId {
    type Err = IdError;

    fn from_str(text: &str) -> std::result::Result<Self, IdError> {
        let (number, random) = text.split_once('-').ok_or(IdError)?;
        let id = Self {
            number: number.parse().map_err(|_| IdError)?,
            random: u32::from_str_radix(random, 16).map_err(|_| IdError)?,
        };
        // One form only: no sign, no other padding.
        if id.to_string() == text { Ok(id) } else { Err(IdError) }
    }
}

/// What a journal says without a key. Somebody with write access to the vault may have made it up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    strongroom_migration: u32,
    vault: String,
    id: String,
    /// How many records.
    pub sequence: u64,
    /// Where the migration stands.
    pub phase: Phase,
}

/// The open journal of one migration. Its owner holds the vault's migration lock.
pub struct Journal {
    directory: Box<dyn Directory>,
    path: PathBuf,
    hands: Hands,
    key: SealingKey,
    vault: VaultId,
    id: MigrationId,
    records: Vec<Record>,
    state: State,
    limit: u64,
}

impl Journal {
    /// Begins a journal in a directory that has none. `path` is the directory's, for messages.
    ///
    /// # Errors
    /// When there is one already, or it cannot be written.
    pub fn create(
        directory: Box<dyn Directory>,
        path: &Path,
        hands: Hands,
        key: &MigrationKey,
        (vault, id): (VaultId, MigrationId),
        begun: Begun,
    ) -> Result<Self> {
        match directory.stat(JOURNAL) {
            Ok(_) => {
                let error = io::Error::from_raw_os_error(libc::EEXIST);
                return Err(Error::io("create", &path.join("journal"), error));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("inspect", &path.join("journal"), error)),
        }
        let records = vec![Record::Begun(Box::new(begun))];
        let state = State::from_records(&records).expect("a migration starts with this record");
        let journal = Self {
            directory,
            path: path.join("journal"),
            hands,
            key: SealingKey::new(key.expose()),
            vault,
            id,
            records,
            state,
            limit: LIMIT,
        };
        journal.write(&journal.records, journal.state.phase)?;
        Ok(journal)
    }

    /// Opens and authenticates the journal in `directory`.
    ///
    /// # Errors
    /// [`Error::JournalDamaged`] when it is not what this program wrote for this vault and this
    /// migration.
    pub fn open(
        directory: Box<dyn Directory>,
        path: &Path,
        hands: Hands,
        key: &MigrationKey,
        (vault, id): (VaultId, MigrationId),
    ) -> Result<Self> {
        let path = path.join("journal");
        let damaged = |why: &'static str| Error::JournalDamaged { path: path.clone(), why };
        let bytes = read(&*directory, LIMIT).map_err(|error| Error::io("read", &path, error))?;
        let (line, header) = parse_header(&bytes).map_err(damaged)?;
        if header.vault != hexadecimal(&vault) {
            return Err(damaged("it belongs to another vault"));
        }
        if header.id != id.to_string() {
            return Err(damaged("it belongs to another migration"));
        }
        let sealed = &bytes[line.len() + 1..];
        if sealed.len() < NONCE_LEN + TAG_LEN {
            return Err(damaged("it is cut short"));
        }
        let (nonce, rest) = sealed.split_at(NONCE_LEN);
        let (cipher, tag) = rest.split_at(rest.len() - TAG_LEN);
        let key = SealingKey::new(key.expose());
        let mut plain = vec![0; cipher.len()];
        let (Ok(nonce), Ok(tag)) = (nonce.try_into(), tag.try_into()) else {
            return Err(damaged("it is cut short"));
        };
        key.open(nonce, &associated_data(line), cipher, tag, &mut plain)
            .map_err(|_| damaged("it does not authenticate"))?;
        let records: Vec<Record> = serde_json::from_slice(&plain)
            .map_err(|_| damaged("a newer version of strongroom wrote it"))?;
        let state = State::from_records(&records)
            .filter(|state| state.phase == header.phase)
            .ok_or_else(|| damaged("its records do not follow each other"))?;
        Ok(Self { directory, path, hands, key, vault, id, records, state, limit: LIMIT })
    }

    /// Adds a record; durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written: then the journal is as it was.
    ///
    /// # Panics
    /// When the record cannot follow the state; that is a defect of the caller.
    pub fn append(&mut self, record: Record) -> Result<()> {
        let mut state = self.state.clone();
        assert!(
            state.apply(&record).is_some(),
            "{record:?} cannot follow {}",
            self.state.phase.name()
        );
        let mut records = self.records.clone();
        records.push(record);
        self.write(&records, state.phase)?;
        self.records = records;
        self.state = state;
        Ok(())
    }

    /// The state after the last record.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The migration's ID.
    pub fn id(&self) -> MigrationId {
        self.id
    }

    fn write(&self, records: &[Record], phase: Phase) -> Result<()> {
        let header = Header {
            strongroom_migration: VERSION,
            vault: hexadecimal(&self.vault),
            id: self.id.to_string(),
            sequence: u64::try_from(records.len()).unwrap_or(u64::MAX),
            phase,
        };
        let failed = |error| Error::io("write", &self.path, error);
        let mut bytes = serde_json::to_vec(&header).map_err(|error| failed(error.into()))?;
        let nonce = Nonce::random();
        let nonce_bytes = nonce.bytes();
        let associated = associated_data(&bytes);
        let plain = serde_json::to_vec(records).map_err(|error| failed(error.into()))?;
        let mut cipher = vec![0; plain.len()];
        let tag = self.key.seal(nonce, &associated, &plain, &mut cipher);
        bytes.push(b'\n');
        bytes.extend_from_slice(&nonce_bytes);
        bytes.extend_from_slice(&cipher);
        bytes.extend_from_slice(&tag);
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > self.limit {
            // It could not be read again.
            return Err(failed(io::Error::from_raw_os_error(libc::EFBIG)));
        }
        self.hands.perform(Change::Journal, &self.path, || self.replace(&bytes).map_err(failed))
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        match self.directory.unlink(TEMPORARY) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.directory.create_file(TEMPORARY, 0o600)?;
        file.write_at(bytes, 0)?;
        file.sync_all()?;
        self.directory.rename(TEMPORARY, &*self.directory, JOURNAL, RenameMode::Replace)?;
        self.directory.sync()
    }
}

/// Reads the unauthenticated header of the journal in `directory`; `None` where there is no
/// journal.
///
/// # Errors
/// As the filesystem gives them; `InvalidData` for what is no journal.
pub fn peek(directory: &dyn Directory) -> io::Result<Option<Header>> {
    let file = match directory.open_file(JOURNAL, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; HEADER_LIMIT];
    let len = file.read_at(&mut bytes, 0)?;
    bytes.truncate(len);
    let (_, header) =
        parse_header(&bytes).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
    Ok(Some(header))
}

fn associated_data(header: &[u8]) -> AssociatedData {
    AssociatedData::new(Domain::Migration, &[b"j", header])
}

fn parse_header(bytes: &[u8]) -> std::result::Result<(&[u8], Header), &'static str> {
    let head = &bytes[..bytes.len().min(HEADER_LIMIT)];
    let end = head.iter().position(|byte| *byte == b'\n').ok_or("it is no journal")?;
    let line = &bytes[..end];
    let header: Header = serde_json::from_slice(line).map_err(|_| "it is no journal")?;
    if header.strongroom_migration != VERSION {
        return Err("a newer version of strongroom wrote it");
    }
    Ok((line, header))
}

fn read(directory: &dyn Directory, limit: u64) -> io::Result<Vec<u8>> {
    let file = directory.open_file(JOURNAL, Access::Read)?;
    let size = file.stat()?.size;
    if size > limit {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let len = usize::try_from(size).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
