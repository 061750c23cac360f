//! `strongroom backup create`.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::CreateArgs;
use super::defaults::Job;
use super::events::{facts, unusual};
use super::keys::{Asked, Deriving, Seal};
use super::noticed::{NAMED_MAX, warn_of};
use super::run::{Bar, Interrupt};
use super::servers::{Servers, is_dump};
use super::trees::{Trees, vault_of};
use crate::archive::{
    Amount, ArchiveKind, ArchiveReader, KeySet, Keyring, OnChange, SealingKeys, SectionName,
    WriteOptions,
};
use crate::backup::{
    self, BaseBackup, Catalog, CreateRequest, Created, Details, Filter, LiveTree, Lock, Sensitive,
    Source, Terms, Watched,
};
use crate::cli::Context;
use crate::cli::events::Listeners;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{CommandResult, Failure};
use crate::cli::output::human_size;
use crate::cli::prompt::has_terminal;
use crate::profile::Event;
use crate::stores;
use crate::tree::{EntryKind, LocalTree, Timestamp, TreeReader};

/// The section with a vault's keys.
pub(super) const VAULT_SECTION: &str = "vault";
pub(super) const VAULT_CONFIG: &str = "vault.json";
/// How many stores that change while they are read begin a backup anew.
const UNSTEADY_MAX: usize = 8;
/// Up to so many bytes a source's files that are hardly of a store are looked at when they are read: what
/// is read for nothing, where one is, takes a moment.
const LOOK_LATER_MAX: u64 = 1 << 30;

pub(super) fn command(args: &CreateArgs, context: &Context) -> CommandResult {
    let made = make(args, context)?;
    let Created { path, sidecar, .. } = &made;
    let output = &context.output;
    output.say(format!(
        "{} ({}, {} of {} entries, {:.1} s)",
        path.display(),
        sidecar.kind,
        human_size(sidecar.size),
        sidecar.entries,
        std::time::Duration::from_millis(sidecar.duration_ms).as_secs_f64()
    ));
    output.result("backup create", &result(&made));
    Ok(())
}

/// What is told of a backup that was made.
pub(super) fn result(made: &Created) -> Value {
    let mut value = serde_json::to_value(&made.sidecar).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        fields.insert("archive".into(), made.path.display().to_string().into());
        let not_visited = made.noticed.mount_points.iter().map(|(_, path)| path.to_string());
        fields.insert("not_visited".into(), not_visited.collect::<Vec<_>>().into());
        // `type` says that it is a result.
        if let Some(kind) = fields.remove("type") {
            fields.insert("backup_type".into(), kind);
        }
    }
    value
}

/// Makes a backup, and tells whoever wants to know.
pub(super) fn make(args: &CreateArgs, context: &Context) -> Result<Created, Failure> {
    let job = Job::new(args, context)?;
    let subject = [("name", json!(job.name)), ("source", json!(job.source.display().to_string()))];
    let listeners = Listeners::new(&args.events, job.profile.as_ref(), &subject, context);
    listeners.tell(Event::BackupStarted, &[("type", json!(job.kind))], context);
    match make_job(args, &job, context) {
        Ok((made, catalog)) => {
            listeners.tell(Event::BackupCompleted, &facts(&made.path, &made.sidecar), context);
            let odd = unusual(&made.sidecar, &catalog);
            if !odd.is_empty() {
                let odd = odd.join("; ");
                context.output.warn(format!("this backup is out of the usual: {odd}"));
                let mut facts = facts(&made.path, &made.sidecar);
                facts.push(("unusual", json!(odd)));
                listeners.tell(Event::BackupUnusual, &facts, context);
            }
            Ok(made)
        }
        Err(failure) => {
            let room = "no backup was made; make room, or give --output another place";
            let failure = failure.hint_at(ExitCode::NoSpace, room);
            listeners.tell_failure(Event::BackupFailed, &failure, context);
            Err(failure)
        }
    }
}

fn make_job(
    args: &CreateArgs,
    job: &Job,
    context: &Context,
) -> Result<(Created, Catalog), Failure> {
    let interrupt = Interrupt::watch()?;
    backup::make_output(&job.output)?;
    let _lock = Lock::take(&job.output)?;
    let catalog = Catalog::read(&job.output)?;
    let vault = args.vault.clone().or_else(|| vault_of(&job.source));
    let ask = || Asked::ask(args, job, vault.as_ref(), &catalog, context);
    let asked = job.encrypt.then(ask).transpose()?;
    let made = std::thread::scope(|scope| {
        let attempt = Attempt {
            args,
            job,
            context,
            interrupt: &interrupt,
            catalog: &catalog,
            vault: vault.as_ref(),
            deriving: asked.map(|asked| asked.begin(scope)).transpose()?,
            seal: None,
            unsteady: Vec::new(),
            every_file: !job.is_read_whole(),
        };
        attempt.until_steady()
    })?;
    Ok((made, catalog))
}

/// One backup to be made, from the beginning as often as stores change while it reads them.
struct Attempt<'a, 'scope> {
    args: &'a CreateArgs,
    job: &'a Job,
    context: &'a Context,
    interrupt: &'a Interrupt,
    catalog: &'a Catalog,
    vault: Option<&'a PathBuf>,
    /// The keys of a sealed backup, derived once.
    deriving: Option<Deriving<'scope>>,
    /// Those of what is sealed in a backup that is not.
    seal: Option<Seal>,
    /// Stores, by their path in the source, that are copied though nobody had them open: their app
    /// opens them only for moments.
    unsteady: Vec<PathBuf>,
    /// Whether the files that are hardly of a store are looked at, too, before any is read.
    every_file: bool,
}

/// Why a backup is begun anew.
enum Again {
    /// Of a store, by its path in the source, a consistent copy is to be made.
    Copy(PathBuf),
    /// A file that was not looked at may be of a store.
    EveryFile,
}

impl Attempt<'_, '_> {
    fn until_steady(mut self) -> Result<Created, Failure> {
        loop {
            let again = RefCell::new(None);
            let failure = match self.make(&again) {
                Ok(made) => return Ok(made),
                Err(failure) => failure,
            };
            let why = match again.take() {
                Some(Again::EveryFile) if !self.every_file => {
                    self.every_file = true;
                    "every file is looked at for stores".to_owned()
                }
                // One that was copied already stands in for what else changes all the time.
                Some(Again::Copy(store))
                    if !self.unsteady.contains(&store) && self.unsteady.len() < UNSTEADY_MAX =>
                {
                    let changed = self.job.source.join(&store);
                    self.unsteady.push(store);
                    format!(
                        "{} changed while it was read: a consistent copy is made of it",
                        changed.display()
                    )
                }
                _ => return Err(failure),
            };
            self.context.output.detail(format!("{why}, from the beginning"));
        }
    }

    /// Makes the backup; `again` is told why one that fails may succeed if it is begun anew.
    fn make(&mut self, again: &RefCell<Option<Again>>) -> Result<Created, Failure> {
        let Self { args, job, context, interrupt, catalog, vault, .. } = *self;
        let likely = (!self.every_file)
            .then(|| stores::scan_likely(&job.source, interrupt.flag()))
            .transpose()
            .map_err(unreadable)?
            .filter(|scan| scan.bytes <= LOOK_LATER_MAX);
        self.every_file = likely.is_none();
        let scan = match likely {
            Some(scan) => scan,
            None => stores::scan_until(&job.source, interrupt.flag()).map_err(unreadable)?,
        };
        let servers = Servers::look(job, context)?;
        let mut components = job.components(&scan.components, &servers)?;
        let mut exclude = job.exclude.clone();
        exclude.extend(servers.left_out());
        let filter = job.filter(&components, &exclude)?;
        servers.prepare(&components, &filter)?;
        let live = self.live_source(&scan.components, &filter, &servers, again)?;
        let dumps = match live.as_ref().and_then(LiveTree::scratch) {
            Some(place) => servers.dump(&filter, place)?,
            None => Vec::new(),
        };
        for dump in &dumps {
            let of_it = components.iter_mut().filter(|one| one.section == dump.section);
            of_it.for_each(|one| one.bytes = dump.bytes);
        }
        // One that was not wanted is not in it.
        components.retain(|one| {
            let dumped = || dumps.iter().any(|dump| dump.section == one.section);
            let left_out = |path| filter.exclude.name(&one.section, path);
            (!is_dump(&one.section) || dumped()) && !(one.config && one.paths.iter().all(left_out))
        });
        let plain;
        let reader: &dyn TreeReader = match &live {
            Some(live) => live,
            None => {
                plain = LocalTree::open(&job.source).map_err(backup::Error::from)?;
                &plain
            }
        };
        let missed = Arc::default();
        let watched = Watched::new(reader, Arc::clone(&missed));
        let reader = if self.every_file { reader } else { &watched };
        let details = Details {
            components,
            tag: job.tag.clone(),
            include: job.include.clone(),
            exclude,
            not_running: servers.not_running().to_vec(),
            ..Details::default()
        };
        let trees = Trees::new(args, job, &filter, vault.map(PathBuf::as_path), &dumps)?;
        let sensitive = Terms::new(&job.sensitive, &[])?;
        let work = Work {
            args,
            job,
            context,
            interrupt,
            catalog,
            stores: &scan.components,
            again,
            missed: &missed,
            filter: &trees.filter(&filter),
            sensitive: &sensitive,
            details,
            servers: &servers,
            expected: Amount {
                entries: scan.entries,
                bytes: dumps.iter().fold(scan.bytes, |sum, dump| sum.saturating_add(dump.bytes)),
            },
        };
        let sources = trees.sources(reader, &job.source);
        if let Some(deriving) = &self.deriving {
            deriving.calibrated();
            return work.create(&sources, Some(deriving), None);
        }
        context.output.detail("not sealed, as asked for");
        if !work.has_sensitive(&sources)? {
            return work.create(&sources, None, None);
        }
        let seal = self.seal().map_err(|failure| {
            if failure.code == ExitCode::NoSecret && !has_terminal() {
                failure.hint(
                    "the source holds files that are sealed even with --no-encrypt, such as \
                         .env: give --passphrase-file, or --exclude them",
                )
            } else {
                failure
            }
        })?;
        seal.with(|keys| work.create(&sources, None, Some((keys, seal.ring()))))
    }

    fn seal(&mut self) -> Result<&Seal, Failure> {
        let Self { args, job, context, catalog, vault, .. } = *self;
        let seal = match self.seal.take() {
            Some(seal) => seal,
            None => Asked::ask(args, job, vault, catalog, context)?.finish(context)?,
        };
        Ok(self.seal.insert(seal))
    }

    /// Looks who uses the source, and prepares consistent copies where that is needed and possible.
    fn live_source(
        &self,
        found: &[stores::Component],
        filter: &Filter,
        servers: &Servers<'_>,
        again: &RefCell<Option<Again>>,
    ) -> Result<Option<LiveTree>, Failure> {
        let Self { args, job, context, .. } = self;
        let wanted: Vec<stores::Component> = found
            .iter()
            .filter(|component| {
                !servers.is_at_rest(Some(&component.path))
                    && super::defaults::tree_path(&component.path).is_ok_and(|path| {
                        !filter.excludes(&SectionName::data(), &path, EntryKind::Regular)
                    })
            })
            .cloned()
            .collect();
        let mut in_use = backup::in_use(&job.source, &wanted)?;
        for component in &wanted {
            if self.unsteady.contains(&component.path) && !in_use.to_copy.contains(component) {
                in_use.to_copy.push(component.clone());
            }
        }
        in_use.in_the_way.retain(|file| {
            let inside = file.path.strip_prefix(&job.source).ok();
            if servers.is_at_rest(inside) {
                return false;
            }
            let path = inside.and_then(|path| super::defaults::tree_path(path).ok());
            path.is_none_or(|path| {
                !filter.excludes(&SectionName::data(), &path, EntryKind::Regular)
            })
        });
        if !in_use.in_the_way.is_empty() {
            let mut holders: Vec<String> = in_use
                .in_the_way
                .iter()
                .take(NAMED_MAX)
                .map(|file| format!("{} ({}) has {}", file.command, file.pid, file.path.display()))
                .collect();
            if in_use.in_the_way.len() > NAMED_MAX {
                holders.push(format!("and {} more", in_use.in_the_way.len() - NAMED_MAX));
            }
            if !args.live {
                // It may be of a store that can be copied, and was not looked at.
                *again.borrow_mut() = Some(Again::EveryFile);
                return Err(backup::Error::InUse { path: job.source.clone(), holders }.into());
            }
            context.output.warn(format!("written to meanwhile: {}", holders.join(", ")));
        }
        if in_use.unseen > 0 {
            context.output.detail(format!(
                "{} processes of other users could not be looked into",
                in_use.unseen
            ));
        }
        if in_use.to_copy.is_empty() && !servers.has_dumps(filter) {
            return Ok(None);
        }
        let live = LiveTree::new(&job.source, &in_use.to_copy, args.scratch.as_deref())?;
        context.output.detail(format!("{} live stores copied consistently", live.copied()));
        Ok(Some(live))
    }
}

fn unreadable(error: stores::Error) -> Failure {
    match error {
        stores::Error::Cancelled { .. } => interrupted(),
        error => Failure::new(ExitCode::Failure, error.to_string()),
    }
}

fn interrupted() -> Failure {
    Failure::new(ExitCode::Interrupted, "interrupted; no backup was made")
}

/// All that is known when writing begins.
struct Work<'a, 's> {
    args: &'a CreateArgs,
    job: &'a Job,
    context: &'a Context,
    interrupt: &'a Interrupt,
    catalog: &'a Catalog,
    stores: &'a [stores::Component],
    again: &'a RefCell<Option<Again>>,
    /// Set where a file that was read may be of a store, and was not looked at before.
    missed: &'a AtomicBool,
    filter: &'a Filter,
    sensitive: &'a Terms,
    details: Details,
    servers: &'a Servers<'s>,
    /// What the sources hold, with what is left out of the backup.
    expected: Amount,
}

impl Work<'_, '_> {
    fn has_sensitive(&self, sources: &[Source<'_>]) -> Result<bool, Failure> {
        Ok(backup::has_sensitive(self.sensitive, sources, self.filter, self.interrupt.flag())?)
    }

    fn create(
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
                let path =
                    error.changed().map(|path| Path::new(OsStr::from_bytes(path.as_bytes())));
                let store = path.and_then(|path| backup::store_of(path, self.stores));
                *self.again.borrow_mut() = match self.missed.load(Ordering::Relaxed) {
                    true => Some(Again::EveryFile),
                    false => store.map(|store| Again::Copy(store.path.clone())),
                };
                return Err(error.into());
            }
            Ok(created) => created,
        };
        warn_of(&created.noticed, &context.output);
        Ok(created)
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
