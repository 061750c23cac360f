//! The trees that a backup holds beside its source: configuration files, dumps of servers, and a vault's
//! keys. It must not know how a backup is written.

use std::path::{Path, PathBuf};

use super::CreateArgs;
use super::create::{VAULT_CONFIG, VAULT_SECTION};
use super::defaults::{ConfigFile, Job, tree_path};
use super::servers::{Dumped, place_of_dumps};
use crate::archive::SectionName;
use crate::backup::{self, Filter, Source};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::tree::{LocalTree, TreePath, TreeReader};

/// The trees beside the source.
pub(super) struct Trees {
    others: Vec<(SectionName, PathBuf, LocalTree, TreePath)>,
}

impl Trees {
    pub(super) fn new(
        args: &CreateArgs,
        job: &Job,
        filter: &Filter,
        vault: Option<&Path>,
        dumps: &[Dumped],
    ) -> Result<Self, Failure> {
        let open = |path: &Path| LocalTree::open(path).map_err(backup::Error::from);
        let mut others = Vec::new();
        let wanted = |config: &&ConfigFile| !filter.exclude.name(&config.section, &config.file);
        for config in job.configs.iter().filter(wanted) {
            let tree = open(&config.directory)?;
            let directory = config.directory.clone();
            others.push((config.section.clone(), directory, tree, config.file.clone()));
        }
        for dump in dumps {
            let tree = open(&dump.directory)?;
            let place = place_of_dumps(&job.source);
            others.push((dump.section.clone(), place, tree, dump.file.clone()));
        }
        if let Some(vault) = vault {
            let vault = vault.canonicalize().map_err(|error| Failure::io("find", vault, &error))?;
            if vault.join(VAULT_CONFIG).is_file() {
                let file = tree_path(Path::new(VAULT_CONFIG))?;
                let section = SectionName::new(VAULT_SECTION)?;
                others.push((section, vault.clone(), open(&vault)?, file));
            } else if args.vault.is_some() {
                return Err(Failure::new(
                    ExitCode::NotAVault,
                    format!("{} has no {VAULT_CONFIG}", vault.display()),
                ));
            }
        }
        Ok(Self { others })
    }

    /// Of the other trees only one file each.
    pub(super) fn filter(&self, filter: &Filter) -> Filter {
        let only = self
            .others
            .iter()
            .map(|(section, _, _, file)| (section.clone(), file.clone()))
            .collect();
        Filter { only, ..filter.clone() }
    }

    pub(super) fn sources<'a>(
        &'a self,
        reader: &'a dyn TreeReader,
        source: &Path,
    ) -> Vec<Source<'a>> {
        let data = Source { section: SectionName::data(), path: source.to_owned(), reader };
        let others = self.others.iter().map(|(section, path, tree, _)| Source {
            section: section.clone(),
            path: path.clone(),
            reader: tree,
        });
        std::iter::once(data).chain(others).collect()
    }
}

/// The vault that is mounted where the source is.
#[cfg(feature = "mount")]
pub(super) fn vault_of(source: &Path) -> Option<PathBuf> {
    let mounts = crate::cli::mounted::all();
    mounts.into_iter().find(|mount| source.starts_with(&mount.mount_point)).map(|mount| mount.vault)
}

#[cfg(not(feature = "mount"))]
pub(super) fn vault_of(_source: &Path) -> Option<PathBuf> {
    None
}
