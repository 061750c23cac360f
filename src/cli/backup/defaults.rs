//! What need not be said on the command line: an app's profile, and places that are usual.

use std::path::{Path, PathBuf};

use super::run::absolute;
use super::servers::Servers;
use super::{CreateArgs, ProfileArgs};
use crate::archive::{ArchiveKind, Compression, SectionName};
use crate::backup::{self, Component, Filter, Policy, Terms};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::profile_args;
use crate::cli::prompt::SecretArgs;
use crate::profile::{self, Environment, Plan, Profile, Selector};
use crate::stores;
use crate::tree::TreePath;

/// What is sealed even where the backup is not.
const SENSITIVE: [&str; 16] = [
    ".env",
    ".env.*",
    "*.env",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.keystore",
    "*.jks",
    "*.kdbx",
    "id_rsa",
    "id_ecdsa",
    "id_ed25519",
    ".netrc",
    ".pgpass",
    ".htpasswd",
];

/// What is sealed even where a backup is not: the usual, and what a profile says.
pub(super) fn sensitive_of(profile: Option<&Profile>) -> Vec<String> {
    let own = profile.iter().flat_map(|profile| &profile.sensitive);
    let own = own.map(|pattern| pattern.as_str().to_owned());
    SENSITIVE.iter().map(|one| (*one).to_owned()).chain(own).collect()
}

/// The profile that is meant, if any; `needed` where nothing else tells what is meant.
pub(super) fn profile(
    args: &ProfileArgs,
    needed: bool,
    context: &Context,
) -> Result<Option<Profile>, Failure> {
    profile_args::chosen(args.profile.as_deref(), needed, context)
}

/// Where backups are, where nobody says.
fn usual_output() -> Result<PathBuf, Failure> {
    Environment::of_process().expand("${XDG_DATA_HOME}/strongroom/backups").map_err(|problem| {
        Failure::new(ExitCode::Usage, format!("no directory for backups: {problem}"))
            .hint("name it")
    })
}

/// The directory of backups that a command is about.
pub(super) fn directory(
    given: Option<&Path>,
    profile_args: &ProfileArgs,
    context: &Context,
) -> Result<PathBuf, Failure> {
    if let Some(directory) = given {
        return Ok(directory.to_owned());
    }
    match profile(profile_args, true, context)?.and_then(|profile| profile.backup.output) {
        Some(output) => Ok(output),
        None => usual_output(),
    }
}

/// A configuration file outside the source, with its section.
pub(super) struct ConfigFile {
    pub(super) section: SectionName,
    pub(super) directory: PathBuf,
    pub(super) file: TreePath,
}

/// What is to be backed up, and how: the command line's word, then the profile's, then the usual.
pub(super) struct Job {
    pub(super) profile: Option<Profile>,
    pub(super) name: String,
    pub(super) source: PathBuf,
    pub(super) output: PathBuf,
    pub(super) kind: ArchiveKind,
    pub(super) compression: Compression,
    pub(super) level: Option<i32>,
    pub(super) encrypt: bool,
    pub(super) tag: Option<String>,
    pub(super) include: Vec<String>,
    pub(super) exclude: Vec<String>,
    pub(super) sensitive: Vec<String>,
    pub(super) configs: Vec<ConfigFile>,
    /// Configuration files in the source.
    own_configs: Vec<TreePath>,
    pub(super) retention: Policy,
}

impl Job {
    pub(super) fn new(args: &CreateArgs, context: &Context) -> Result<Self, Failure> {
        let profile = profile(&args.profile, args.source.is_none(), context)?;
        let plan = profile.as_ref().map(|profile| plan(profile, args.plan.as_deref()));
        let plan = plan.transpose()?.cloned();
        let source = match (&args.source, &profile) {
            (Some(source), _) => source.clone(),
            (None, Some(profile)) => data_of(profile),
            (None, None) => {
                return Err(Failure::new(ExitCode::Usage, "nothing says what to back up").hint(
                    "give SOURCE, or --profile with the app's profile, or put one profile in \
                     ~/.config/strongroom/profiles",
                ));
            }
        };
        let source = source.canonicalize().map_err(|error| Failure::io("find", &source, &error))?;
        if !source.is_dir() {
            let problem = format!("{} is not a directory", source.display());
            return Err(Failure::new(ExitCode::Usage, problem));
        }
        let output = match (&args.output, &profile) {
            (Some(output), _) => output.clone(),
            (None, Some(Profile { backup, .. })) if backup.output.is_some() => {
                backup.output.clone().unwrap_or_default()
            }
            _ => usual_output()?,
        };
        let output = absolute(&output)?;
        let settings = profile.as_ref().map(|profile| &profile.backup);
        let compression = match (args.no_compress, args.compression, settings) {
            (true, ..) => Compression::None,
            (false, Some(compression), _) => compression.into(),
            (false, None, Some(settings)) => match settings.compression {
                profile::Compression::Zstd => Compression::Zstd,
                profile::Compression::Gzip => Compression::Gzip,
                profile::Compression::Lz4 => Compression::Lz4,
                profile::Compression::None => Compression::None,
            },
            (false, None, None) => Compression::default(),
        };
        let level = match args.compression_level {
            Some(level) => Some(level),
            None if args.compression.is_some() || args.no_compress => None,
            None => settings.and_then(|settings| settings.compression_level).map(i32::from),
        };
        if compression == Compression::Gzip && level.is_some_and(|level| level > 9) {
            let problem = "gzip's levels go from 1 to 9";
            return Err(Failure::new(ExitCode::Usage, problem));
        }
        let kind = match (args.kind, &plan) {
            (Some(kind), _) => kind.into(),
            (None, Some(plan)) if args.plan.is_some() => kind_of(plan.kind),
            _ => ArchiveKind::Full,
        };
        let name = match (&args.name, &profile) {
            (Some(name), _) => name.clone(),
            (None, Some(profile)) => profile.name.clone(),
            (None, None) => backup::name_of(&source),
        };
        let mut job = Self {
            name,
            kind,
            compression,
            level,
            encrypt: args.encrypt
                || (!args.no_encrypt && settings.is_none_or(|settings| settings.encrypt)),
            tag: args.tag.clone().or_else(|| args.plan.clone()),
            include: args.include.clone(),
            exclude: args.exclude.clone(),
            sensitive: sensitive_of(profile.as_ref()),
            configs: Vec::new(),
            own_configs: Vec::new(),
            retention: plan.as_ref().map(|plan| policy(&plan.retention)).unwrap_or_default(),
            source,
            output,
            profile,
        };
        job.sensitive.extend(args.sensitive.iter().cloned());
        job.add_profile(plan.as_ref());
        job.add_configs(args)?;
        job.leave_output_out()?;
        Ok(job)
    }

    /// Whether every file of the source is read, and nothing is done to servers for that: then what it may
    /// be of can be looked at meanwhile.
    pub(super) fn is_read_whole(&self) -> bool {
        let served = |component: &profile::Component| {
            component.probe.is_some()
                || component.prepare.is_some()
                || component.finish.is_some()
                || component.dump.is_some()
        };
        self.kind == ArchiveKind::Full
            && self.include.is_empty()
            && self.exclude.is_empty()
            && !self.profile.iter().flat_map(|profile| &profile.components).any(served)
    }

    fn add_profile(&mut self, plan: Option<&Plan>) {
        let Some(profile) = &self.profile else { return };
        let text = |selector: &Selector| match selector {
            Selector::Component(name) => name.clone(),
            Selector::Pattern(pattern) => pattern.as_str().to_owned(),
        };
        if self.include.is_empty()
            && let Some(plan) = plan
        {
            self.include = plan.include.iter().map(text).collect();
        }
        if let Some(plan) = plan {
            self.exclude.extend(plan.exclude.iter().map(text));
        }
        if self.include.is_empty() {
            let optional = profile.components.iter().filter(|component| !component.essential);
            self.exclude.extend(optional.map(|component| component.path.as_str().to_owned()));
        }
    }

    fn add_configs(&mut self, args: &CreateArgs) -> Result<(), Failure> {
        let mut files = args.configs.clone();
        let optional: Vec<_> = self.profile.iter().flat_map(|profile| &profile.configs).collect();
        for config in optional {
            if config.file.exists() || !config.optional {
                files.push(config.file.clone());
            }
        }
        for file in files {
            let path = file.canonicalize().map_err(|error| Failure::io("find", &file, &error))?;
            if let Ok(inside) = path.strip_prefix(&self.source) {
                self.own_configs.push(tree_path(inside)?);
                continue;
            }
            let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
                continue;
            };
            self.configs.push(ConfigFile {
                section: SectionName::new(format!("config-{}", self.configs.len()))?,
                directory: directory.to_owned(),
                file: tree_path(Path::new(name))?,
            });
        }
        Ok(())
    }

    /// Backups are not backed up.
    fn leave_output_out(&mut self) -> Result<(), Failure> {
        let output = self.output.canonicalize().unwrap_or_else(|_| self.output.clone());
        if output == self.source {
            let problem = format!("{} cannot hold the backups of itself", output.display());
            return Err(Failure::new(ExitCode::Usage, problem)
                .hint("give --output another directory; one inside of it is left out of them"));
        }
        if let Ok(inside) = output.strip_prefix(&self.source)
            && let Some(text) = inside.to_str().filter(|text| !text.is_empty())
        {
            self.exclude.push(format!("/{}", globset_escape(text)));
        }
        Ok(())
    }

    /// The components: the profile's, the stores found that belong to none of those, and the
    /// configuration files.
    pub(super) fn components(
        &self,
        found: &[stores::Component],
        servers: &Servers<'_>,
    ) -> Result<Vec<Component>, Failure> {
        let mut components = servers.components();
        if let Some(profile) = &self.profile {
            for component in &profile.components {
                if components.iter().any(|dumped| dumped.name == component.name) {
                    continue;
                }
                let (paths, bytes) = self.paths_of(component)?;
                if !paths.is_empty() {
                    components.push(Component {
                        name: component.name.clone(),
                        kind: component.kind.to_string(),
                        section: SectionName::data(),
                        paths,
                        bytes,
                        config: false,
                    });
                }
            }
        }
        for store in found {
            if servers.dumps(&store.path) {
                continue;
            }
            let path = tree_path(&store.path)?;
            let known =
                |component: &Component| component.paths.iter().any(|root| path.is_within(root));
            if components.iter().any(known) {
                continue;
            }
            let mut paths = vec![path.clone()];
            for file in &store.files {
                let file = tree_path(file)?;
                if !file.is_within(&path) {
                    paths.push(file);
                }
            }
            let name = unused_name(&path, &self.name, &components);
            components.push(Component {
                name,
                kind: store.kind.to_string(),
                section: SectionName::data(),
                paths,
                bytes: store.bytes,
                config: false,
            });
        }
        let own = self.own_configs.iter().map(|path| (SectionName::data(), path));
        let others = self.configs.iter().map(|config| (config.section.clone(), &config.file));
        for (section, path) in own.chain(others) {
            components.push(Component {
                name: unused_name(path, "config", &components),
                kind: "configuration".to_owned(),
                section,
                paths: vec![path.clone()],
                bytes: 0,
                config: true,
            });
        }
        Ok(components)
    }

    /// What a component of the profile consists of at present.
    fn paths_of(&self, component: &profile::Component) -> Result<(Vec<TreePath>, u64), Failure> {
        let pattern = &component.path;
        if pattern.is_literal() {
            let path = Path::new(pattern.as_str().trim_start_matches("./").trim_end_matches('/'));
            let there = self.source.join(path).symlink_metadata().is_ok();
            let paths = if there { vec![tree_path(path)?] } else { Vec::new() };
            let bytes = if there { size_below(&self.source.join(path)) } else { 0 };
            return Ok((paths, bytes));
        }
        let (mut paths, mut bytes) = (Vec::new(), 0u64);
        let mut walk = walkdir::WalkDir::new(&self.source).sort_by_file_name().into_iter();
        while let Some(entry) = walk.next() {
            // What cannot be read fails the backup itself.
            let Ok(entry) = entry else { continue };
            let Ok(inside) = entry.path().strip_prefix(&self.source) else { continue };
            if !inside.as_os_str().is_empty() && pattern.matches(inside) {
                paths.push(tree_path(inside)?);
                bytes = bytes.saturating_add(size_below(entry.path()));
                if entry.file_type().is_dir() {
                    walk.skip_current_dir();
                }
            }
        }
        Ok((paths, bytes))
    }

    /// Where the secret comes from.
    pub(super) fn secret(&self, args: &CreateArgs) -> Result<SecretArgs, Failure> {
        match &self.profile {
            Some(profile) if !args.secret.is_given() => profile_args::secret(profile),
            _ => Ok(args.secret.args()),
        }
    }

    /// What is in it and what is not.
    pub(super) fn filter(
        &self,
        components: &[Component],
        exclude: &[String],
    ) -> Result<Filter, Failure> {
        Ok(Filter {
            include: Terms::new(&self.include, components)?,
            exclude: Terms::new(exclude, components)?,
            only: Vec::new(),
        })
    }
}

/// Where an app's data are now: in its vault, where that is mounted.
fn data_of(profile: &Profile) -> PathBuf {
    #[cfg(feature = "mount")]
    if crate::cli::mounted::all().iter().any(|mount| mount.mount_point == profile.mount) {
        return profile.mount.clone();
    }
    profile.data.clone()
}

fn plan<'a>(profile: &'a Profile, name: Option<&str>) -> Result<&'a Plan, Failure> {
    let plans = &profile.backup.plans;
    let found = match name {
        Some(name) => plans.iter().find(|plan| plan.name == name),
        None => plans.first(),
    };
    found.ok_or_else(|| {
        let names: Vec<&str> = plans.iter().map(|plan| &*plan.name).collect();
        let name = name.unwrap_or_default();
        Failure::new(
            ExitCode::Profile,
            format!("the profile {} has no plan {name:?}", profile.name),
        )
        .hint(format!("it has: {}", names.join(", ")))
    })
}

pub(super) fn kind_of(kind: profile::BackupType) -> ArchiveKind {
    match kind {
        profile::BackupType::Full => ArchiveKind::Full,
        profile::BackupType::Incremental => ArchiveKind::Incremental,
        profile::BackupType::Differential => ArchiveKind::Differential,
    }
}

/// A profile's retention as the rules of a cleanup.
pub(super) fn policy(retention: &profile::Retention) -> Policy {
    let count = |count: Option<u32>| usize::try_from(count.unwrap_or(0)).unwrap_or(usize::MAX);
    Policy {
        last: count(retention.keep),
        hourly: count(retention.keep_hourly),
        daily: count(retention.keep_daily),
        weekly: count(retention.keep_weekly),
        monthly: count(retention.keep_monthly),
        yearly: count(retention.keep_yearly),
        within: retention
            .keep_within
            .and_then(|within| jiff::SignedDuration::try_from(within).ok()),
        kind: None,
    }
}

/// A name that no other component has, made of the path's last part without its ending.
fn unused_name(path: &TreePath, whole: &str, components: &[Component]) -> String {
    let last = path.name().map_or_else(
        || whole.to_owned(),
        |name| {
            let name = String::from_utf8_lossy(name).into_owned();
            Path::new(&name).file_stem().map_or(name.clone(), |stem| stem.to_string_lossy().into())
        },
    );
    let taken = |name: &str| components.iter().any(|component| component.name == name);
    if !taken(&last) {
        return last;
    }
    let whole = path.to_string();
    if taken(&whole) { format!("{whole} ({})", components.len()) } else { whole }
}

fn size_below(path: &Path) -> u64 {
    walkdir::WalkDir::new(path)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .filter_map(|entry| entry.metadata().ok())
        .fold(0, |sum, status| sum.saturating_add(status.len()))
}

/// A pattern that matches this text alone.
fn globset_escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '*' | '?' | '[' | ']' | '{' | '}' => {
                escaped.push('[');
                escaped.push(character);
                escaped.push(']');
            }
            // Commas separate terms.
            ',' => escaped.push('?'),
            _ => escaped.push(character),
        }
    }
    escaped
}

pub(super) fn tree_path(path: &Path) -> Result<TreePath, Failure> {
    use std::os::unix::ffi::OsStrExt as _;
    TreePath::new(path.as_os_str().as_bytes()).map_err(|error| {
        Failure::new(ExitCode::Usage, format!("{} cannot be used: {error}", path.display()))
    })
}
