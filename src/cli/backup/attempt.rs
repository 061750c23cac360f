//! One backup being made: the look at its source, and what stands for stores in use, from the beginning as
//! often as it takes.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use super::CreateArgs;
use super::defaults::Job;
use super::keys::{Asked, Deriving, Seal};
use super::noticed::NAMED_MAX;
use super::run::Interrupt;
use super::servers::{Servers, is_dump};
use super::trees::Trees;
use super::writing::Work;
use crate::archive::{Amount, SectionName};
use crate::backup::{self, Catalog, Created, Details, Filter, LiveTree, Terms, Watched};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::prompt::has_terminal;
use crate::stores;
use crate::tree::{EntryKind, Listing, LocalTree, TreeReader};

/// How many stores that change while they are read begin a backup anew.
const UNSTEADY_MAX: usize = 8;
/// Up to so many bytes a source's files that are hardly of a store are looked at when they are read: what
/// is read for nothing, where one is, takes a moment.
const LOOK_LATER_MAX: u64 = 1 << 30;
/// Up to so many bytes of memory (some 50,000 entries) a source is listed once, for the look and the backup.
const LISTED_MAX: usize = 16 << 20;

/// One backup to be made, from the beginning as often as stores change while it reads them.
pub(super) struct Attempt<'a, 'scope> {
    pub(super) args: &'a CreateArgs,
    pub(super) job: &'a Job,
    pub(super) context: &'a Context,
    pub(super) interrupt: &'a Interrupt,
    pub(super) catalog: &'a Catalog,
    pub(super) vault: Option<&'a PathBuf>,
    /// The keys of a sealed backup, derived once.
    pub(super) deriving: Option<Deriving<'scope>>,
    /// Those of what is sealed in a backup that is not.
    pub(super) seal: Option<Seal>,
    /// Stores, by their path in the source, that are copied though nobody had them open: their app
    /// opens them only for moments.
    pub(super) unsteady: Vec<PathBuf>,
    /// Whether the files that are hardly of a store are looked at, too, before any is read.
    pub(super) every_file: bool,
}

/// Why a backup is begun anew.
pub(super) enum Again {
    /// Of a store, by its path in the source, a consistent copy is to be made.
    Copy(PathBuf),
    /// A file that was not looked at may be of a store, or this one changed since all were listed.
    EveryFile(Option<PathBuf>),
}

impl Attempt<'_, '_> {
    pub(super) fn until_steady(mut self) -> Result<Created, Failure> {
        loop {
            let again = RefCell::new(None);
            let failure = match self.make(&again) {
                Ok(made) => return Ok(made),
                Err(failure) => failure,
            };
            let why = match again.take() {
                Some(Again::EveryFile(changed)) if !self.every_file => {
                    self.every_file = true;
                    let every = "every file is looked at before any is read";
                    changed.map_or(every.to_owned(), |changed| {
                        format!("{} changed: {every}", self.job.source.join(changed).display())
                    })
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
        let plain = LocalTree::open(&job.source).map_err(backup::Error::from)?;
        // Of what is being written to nothing is kept: no more is to be missed than must be.
        let listing = Listing::new(&plain, if args.live { 0 } else { LISTED_MAX });
        let likely = (!self.every_file)
            .then(|| backup::scan_listed(&job.source, &listing, interrupt.flag()))
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
        let is_at_rest = !args.live && live.is_none();
        let listing = Some(listing).filter(|_| !self.every_file && is_at_rest);
        let reader: &dyn TreeReader = match (&live, &listing) {
            (Some(live), _) => live,
            (None, Some(listing)) => listing,
            (None, None) => &plain,
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
            listing: listing.as_ref(),
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
                *again.borrow_mut() = Some(Again::EveryFile(None));
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

pub(super) fn interrupted() -> Failure {
    Failure::new(ExitCode::Interrupted, "interrupted; no backup was made")
}
