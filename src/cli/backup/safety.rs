//! What stands between a restore and what it replaces: a question, and a backup of it.

use std::path::{Path, PathBuf};

use super::RestoreArgs;
use super::defaults::sensitive_of;
use super::keys::secret_of;
use super::run::{Bar, Interrupt};
use crate::archive::{ArchiveKind, KeySet, Keyring, ReadBack, SealingKeys, WriteOptions};
use crate::backup::{
    self, Catalog, Chain, Component, CreateRequest, Details, Error, Filter, Lock, Replaced,
    Sensitive, Source, Terms,
};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::prompt::{confirm, has_terminal};
use crate::profile::Profile;
use crate::tree::{LocalTree, Timestamp};
use crate::vault::calibrated_cost;

/// What is added to the name of a backup of what a restore replaces.
const SAFETY: &str = "before-restore";
/// What such a backup calls what it holds.
const PART: &str = "replaced";

/// Asks, and saves what is going to be replaced.
pub(super) fn before(
    args: &RestoreArgs,
    profile: Option<&Profile>,
    chain: &Chain<'_>,
    keyring: &Keyring,
    replaced: &[Replaced<'_>],
    interrupt: &Interrupt,
    context: &Context,
) -> Result<Option<PathBuf>, Failure> {
    if replaced.is_empty() {
        return Ok(None);
    }
    // All that goes with --merge is the log of a database that is gone.
    if !args.force && !args.merge {
        if !has_terminal() {
            return Err(Failure::from(Error::NotEmpty(replaced[0].target.path.clone())));
        }
        let places: Vec<String> =
            replaced.iter().map(|one| one.target.path.display().to_string()).collect();
        confirm(&format!("Replace what is in {}?", places.join(", ")), false)?;
    }
    if args.no_safety_backup {
        return Ok(None);
    }
    let directory = match args.archive.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let patterns = Terms::new(&sensitive_of(profile), &[])?;
    let safety = Safety { args, chain, keyring, replaced, patterns, interrupt, context };
    let made = match chain.reader().header() {
        None => safety.of_unsealed(&directory),
        Some(header) => keyring
            .set_of(header.config.unverified().vault_id, |keys| {
                safety.make(&directory, Some(keys), None)
            })
            .unwrap_or_else(|| Err(Error::Archive(crate::archive::Error::NoSecret).into())),
    };
    made.map(Some).map_err(|failure| {
        let message = format!("no safety backup could be made: {}", failure.message);
        Failure { message, ..failure }
            .hint("nothing was changed; --no-safety-backup replaces without one")
    })
}

/// A backup of what is going to be replaced.
struct Safety<'a> {
    args: &'a RestoreArgs,
    chain: &'a Chain<'a>,
    keyring: &'a Keyring,
    replaced: &'a [Replaced<'a>],
    /// What is sealed even where the backup is not.
    patterns: Terms,
    interrupt: &'a Interrupt,
    context: &'a Context,
}

impl Safety<'_> {
    /// Beside a backup that is not sealed: what is sensitive is sealed all the same.
    fn of_unsealed(&self, directory: &Path) -> Result<PathBuf, Failure> {
        let trees = self.trees()?;
        let (sources, cancelled) = (self.sources(&trees), self.interrupt.flag());
        if !backup::has_sensitive(&self.patterns, &sources, &self.filter()?, cancelled)? {
            return self.make(directory, None, None);
        }
        let asked;
        let ring = if self.keyring.has_secret() {
            self.keyring
        } else {
            let Self { args, context, .. } = self;
            let secret = secret_of(&args.archive, &args.secret, &args.profile, context)?;
            if !secret.is_given() && !has_terminal() {
                let message = "what would be replaced holds files that are sealed even where the \
                               backup is not, such as .env, and no secret is given";
                return Err(Failure::new(ExitCode::NoSecret, message).hint(
                    "nothing was changed; give --passphrase-file, or --no-safety-backup to replace \
                     without one",
                ));
            }
            let secret = secret.args().obtain_new("the safety backup", &context.output)?;
            asked = Keyring::new().with_secret(secret);
            &asked
        };
        let created = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
        let keys = ring.new_set(calibrated_cost, created)?;
        self.make(directory, None, Some(&keys))
    }

    fn trees(&self) -> Result<Vec<LocalTree>, Failure> {
        let trees = self.replaced.iter().map(|one| LocalTree::open(&one.target.path));
        Ok(trees.collect::<Result<Vec<_>, _>>().map_err(Error::from)?)
    }

    fn sources<'t>(&self, trees: &'t [LocalTree]) -> Vec<Source<'t>> {
        self.replaced
            .iter()
            .zip(trees)
            .map(|(one, reader)| Source {
                section: one.target.section.clone(),
                path: one.target.path.clone(),
                reader,
            })
            .collect()
    }

    /// Exactly what goes, in each of the sections.
    fn parts(&self) -> Vec<Component> {
        self.replaced
            .iter()
            .map(|one| Component {
                name: PART.to_owned(),
                kind: "files".to_owned(),
                section: one.target.section.clone(),
                paths: one.paths.clone(),
                bytes: 0,
                config: false,
            })
            .collect()
    }

    fn filter(&self) -> Result<Filter, Failure> {
        let include = Terms::new(&[PART.to_owned()], &self.parts())?;
        Ok(Filter { include, ..Filter::default() })
    }

    fn make(
        &self,
        directory: &Path,
        keys: Option<&KeySet>,
        for_sensitive: Option<&KeySet>,
    ) -> Result<PathBuf, Failure> {
        let bar = Bar::new(self.context, "saving what will be replaced", None);
        let _lock = Lock::take(directory)?;
        let catalog = Catalog::read(directory)?;
        let trees = self.trees()?;
        let now = jiff::Timestamp::now();
        let name = format!("{}-{SAFETY}", self.chain.reader().metadata().name);
        let made = backup::create(CreateRequest {
            name: &name,
            kind: ArchiveKind::Full,
            base: None,
            catalog: &catalog,
            sources: &self.sources(&trees),
            filter: &self.filter()?,
            // Restored to where it came from, it leaves alone what was not replaced.
            details: Details {
                components: self.parts(),
                include: vec![PART.to_owned()],
                tag: Some(SAFETY.to_owned()),
                ..Details::default()
            },
            keys: keys.map(|keys| keys as &dyn SealingKeys),
            sensitive: for_sensitive.map(|keys| Sensitive { files: &self.patterns, keys }),
            options: WriteOptions {
                // What it holds is about to be replaced.
                read_back: ReadBack::Whole,
                cancelled: self.interrupt.flag(),
                progress: &bar,
                ..WriteOptions::default()
            },
            now: Timestamp { seconds: now.as_second(), nanoseconds: 0 },
        })?;
        Ok(made.path)
    }
}
