//! The writing of a backup, once all is known of what goes into it.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::CreateArgs;
use super::attempt::{Again, interrupted};
use super::defaults::Job;
use super::keys::Deriving;
use super::noticed::warn_of;
use super::run::{Bar, Interrupt};
use super::servers::Servers;
use crate::archive::{
    Amount, ArchiveKind, ArchiveReader, KeySet, Keyring, OnChange, SealingKeys, WriteOptions,
};
use crate::backup::{
    self, BaseBackup, Catalog, CreateRequest, Created, Details, Filter, Sensitive, Source, Terms,
};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::stores;
use crate::tree::{Listing, Timestamp};

/// All that is known when writing begins.
pub(super) struct Work<'a, 's> {
    pub(super) args: &'a CreateArgs,
    pub(super) job: &'a Job,
    pub(super) context: &'a Context,
    pub(super) interrupt: &'a Interrupt,
    pub(super) catalog: &'a Catalog,
    pub(super) stores: &'a [stores::Component],
    pub(super) again: &'a RefCell<Option<Again>>,
    /// Set where a file that was read may be of a store, and was not looked at before.
    pub(super) missed: &'a AtomicBool,
    /// How the source is listed, where that is done before.
    pub(super) listing: Option<&'a Listing<'a>>,
    pub(super) filter: &'a Filter,
    pub(super) sensitive: &'a Terms,
    pub(super) details: Details,
    pub(super) servers: &'a Servers<'s>,
    /// What the sources hold, with what is left out of the backup.
    pub(super) expected: Amount,
}

impl Work<'_, '_> {
    pub(super) fn has_sensitive(&self, sources: &[Source<'_>]) -> Result<bool, Failure> {
        Ok(backup::has_sensitive(self.sensitive, sources, self.filter, self.interrupt.flag())?)
    }

    pub(super) fn create(
        &self,
        sources: &[Source<'_>],
        keys: Option<&Deriving<'_>>,
        for_sensitive: Option<(&KeySet, &Keyring)>,
    ) -> Result<Created, Failure> {
        let Self { args, job, context, catalog, .. } = self;
        let found = backup::find_base(catalog, &job.name, job.kind);
        if found.is_none() && job.kind != ArchiveKind::Full {
            context
                .output
                .warn(format!("there is no backup of {} to build on: this one is full", job.name));
        }
        let base = match found {
            Some(found) => {
                let ring = for_sensitive.map(|(_, ring)| ring);
                Some((self.open_base(&found.path, keys, ring)?, found.name.clone()))
            }
            None => None,
        };
        let writing = Bar::new(context, "writing the backup", None);
        let now = jiff::Timestamp::now();
        let nanoseconds = u32::try_from(now.subsec_nanosecond()).unwrap_or(0);
        let created = backup::create(CreateRequest {
            name: &job.name,
            kind: job.kind,
            base: base.as_ref().map(|(reader, name)| BaseBackup { reader, name: name.clone() }),
            catalog,
            sources,
            filter: self.filter,
            details: self.details.clone(),
            keys: keys.map(|keys| keys as &dyn SealingKeys),
            sensitive: for_sensitive.map(|(keys, _)| Sensitive { files: self.sensitive, keys }),
            options: WriteOptions {
                compression: job.compression,
                level: job.level,
                expected: Some(self.expected),
                threads: None,
                on_change: if args.live { OnChange::Keep } else { OnChange::Fail },
                read_back: args.read_back(),
                cancelled: self.interrupt.flag(),
                progress: &writing,
            },
            now: Timestamp { seconds: now.as_second(), nanoseconds },
        });
        drop(writing);
        self.servers.finish();
        if let Some(keys) = keys.filter(|_| !self.interrupt.is_set()) {
            // Without keys, that is the error to tell.
            keys.get(context)?;
        }
        let created = match created {
            Err(_) if self.interrupt.is_set() => {
                return Err(interrupted());
            }
            Err(error) => {
                *self.again.borrow_mut() = self.why_again(&error);
                return Err(error.into());
            }
            Ok(created) => created,
        };
        warn_of(&created.noticed, &context.output);
        Ok(created)
    }

    /// Why a backup that ended so may succeed, if it is begun anew.
    fn why_again(&self, error: &backup::Error) -> Option<Again> {
        if self.missed.load(Ordering::Relaxed) {
            return Some(Again::EveryFile(None));
        }
        let changed = Path::new(OsStr::from_bytes(error.changed()?.as_bytes()));
        if let Some(store) = backup::store_of(changed, self.stores) {
            return Some(Again::Copy(store.path.clone()));
        }
        // Before most of the time that the backup took.
        let was_listed_before = self.listing.is_some_and(Listing::was_walked);
        was_listed_before.then(|| Again::EveryFile(Some(changed.to_path_buf())))
    }

    /// Opens the backup that this one builds on.
    fn open_base(
        &self,
        path: &Path,
        keys: Option<&Deriving<'_>>,
        ring: Option<&Keyring>,
    ) -> Result<ArchiveReader, Failure> {
        let opened = match keys {
            Some(keys) => keys
                .get(self.context)?
                .with(|keys| ArchiveReader::open_with(path, keys).map_err(Failure::from)),
            None => {
                ArchiveReader::open(path, ring.unwrap_or(&Keyring::new())).map_err(Failure::from)
            }
        };
        opened.map_err(|failure| match failure.code {
            ExitCode::WrongSecret | ExitCode::NoSecret => failure.hint(
                "this backup builds on an earlier one, which the secret does not open: use that \
                 one's secret, or --type full",
            ),
            _ => failure,
        })
    }
}
