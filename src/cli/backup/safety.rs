//! What stands between a restore and what it replaces: a question, and a backup of it.

use std::path::{Path, PathBuf};

use super::RestoreArgs;
use super::run::{Bar, Interrupt};
use crate::archive::{ArchiveKind, KeySet, Keyring, WriteOptions};
use crate::backup::{
    self, Catalog, Chain, Component, CreateRequest, Details, Error, Extent, Filter, Lock, Source,
    Target, Terms,
};
use crate::cli::Context;
use crate::cli::failure::Failure;
use crate::cli::prompt::{confirm, has_terminal};
use crate::tree::{LocalTree, Timestamp};

/// What is added to the name of a backup of what a restore replaces.
const SAFETY: &str = "before-restore";

/// Asks, and saves what is going to be replaced.
pub(super) fn before(
    args: &RestoreArgs,
    chain: &Chain<'_>,
    keyring: &Keyring,
    replaced: &[&Target],
    interrupt: &Interrupt,
    context: &Context,
) -> Result<Option<PathBuf>, Failure> {
    if replaced.is_empty() || args.merge {
        return Ok(None);
    }
    let places: Vec<String> =
        replaced.iter().map(|target| target.path.display().to_string()).collect();
    if !args.force {
        if !has_terminal() {
            return Err(Failure::from(Error::NotEmpty(replaced[0].path.clone())));
        }
        confirm(&format!("Replace what is in {}?", places.join(", ")), false)?;
    }
    if args.no_safety_backup {
        return Ok(None);
    }
    let directory = match args.archive.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let made = match chain.reader().header() {
        None => safety_backup(chain, &directory, replaced, None, interrupt, context),
        Some(header) => keyring
            .set_of(header.config.unverified().vault_id, |keys| {
                safety_backup(chain, &directory, replaced, Some(keys), interrupt, context)
            })
            .unwrap_or_else(|| Err(Error::Archive(crate::archive::Error::NoSecret).into())),
    };
    made.map(Some).map_err(|failure| {
        let message = format!("no safety backup could be made: {}", failure.message);
        Failure { message, ..failure }
            .hint("nothing was changed; --no-safety-backup replaces without one")
    })
}

fn safety_backup(
    chain: &Chain<'_>,
    directory: &Path,
    replaced: &[&Target],
    keys: Option<&KeySet>,
    interrupt: &Interrupt,
    context: &Context,
) -> Result<PathBuf, Failure> {
    let bar = Bar::new(context, "saving what will be replaced", None);
    let _lock = Lock::take(directory)?;
    let catalog = Catalog::read(directory)?;
    let trees = replaced
        .iter()
        .map(|target| LocalTree::open(&target.path))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Error::from)?;
    let sources: Vec<Source<'_>> = replaced
        .iter()
        .zip(&trees)
        .map(|(target, reader)| Source {
            section: target.section.clone(),
            path: target.path.clone(),
            reader,
        })
        .collect();
    let pseudo = |name: &str, kept: bool| -> Vec<Component> {
        replaced
            .iter()
            .filter_map(|target| {
                let paths = match (&target.extent, kept) {
                    (Extent::Parts(paths), false) | (Extent::Keeping(paths), true) => paths.clone(),
                    _ => return None,
                };
                Some(Component {
                    name: name.to_owned(),
                    kind: String::new(),
                    section: target.section.clone(),
                    paths,
                    bytes: 0,
                    config: false,
                })
            })
            .collect()
    };
    let (parts, kept) = (pseudo("parts", false), pseudo("kept", true));
    let terms = |name: &str, components: &[Component]| {
        if components.is_empty() {
            return Ok(Terms::default());
        }
        Terms::new(&[name.to_owned()], components)
    };
    let filter = Filter {
        include: terms("parts", &parts)?,
        exclude: terms("kept", &kept)?,
        only: Vec::new(),
    };
    let now = jiff::Timestamp::now();
    let name = format!("{}-{SAFETY}", chain.reader().metadata().name);
    let made = backup::create(CreateRequest {
        name: &name,
        kind: ArchiveKind::Full,
        base: None,
        catalog: &catalog,
        sources: &sources,
        filter: &filter,
        details: Details { tag: Some(SAFETY.to_owned()), ..Details::default() },
        keys,
        sensitive: None,
        options: WriteOptions {
            cancelled: interrupt.flag(),
            progress: &bar,
            ..WriteOptions::default()
        },
        verify: true,
        now: Timestamp { seconds: now.as_second(), nanoseconds: 0 },
        written: &|_| {},
    })?;
    Ok(made.path)
}
