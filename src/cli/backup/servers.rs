//! Servers among a profile's components: asked whether they run, made ready, dumped, and let go on;
//! and their dumps, brought back.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::defaults::{Job, tree_path};
use crate::archive::SectionName;
use crate::backup::{Component, Details, Filter, Target};
use crate::cli::Context;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{CommandResult, Failure, plain_reason};
use crate::cli::prompt::confirm;
use crate::profile::{self, Dump, Profile};
use crate::tree::{EntryKind, TreePath};

/// How the sections begin that hold a dump each.
const SECTION: &str = "dump-";
/// What is added to the name of the data directory for the one that dumps are restored to.
const BESIDE: &str = ".dumps";

/// Whether a section holds a dump.
pub(super) fn is_dump(section: &SectionName) -> bool {
    section.as_str().starts_with(SECTION)
}

/// Where the dumps of what lies at `data` are restored to: beside it.
pub(super) fn place_of_dumps(data: &Path) -> PathBuf {
    let mut name = data.as_os_str().to_owned();
    name.push(BESIDE);
    PathBuf::from(name)
}

/// A dump to be made of a component.
struct Planned<'a> {
    component: &'a profile::Component,
    dump: &'a Dump,
    section: SectionName,
    file: TreePath,
}

/// A dump that was made.
pub(super) struct Dumped {
    pub(super) section: SectionName,
    pub(super) directory: PathBuf,
    pub(super) file: TreePath,
    pub(super) bytes: u64,
}

/// The servers of a backup's source. What was made ready is let go on when this is dropped.
pub(super) struct Servers<'a> {
    profile: Option<&'a Profile>,
    source: &'a Path,
    context: &'a Context,
    dumps: Vec<Planned<'a>>,
    /// Those that run and are copied as files.
    copied: Vec<&'a profile::Component>,
    not_running: Vec<String>,
    /// What is still to be run, by component.
    finish: RefCell<Vec<(&'a str, Vec<String>)>>,
    /// Components whose files are at rest by their commands.
    at_rest: RefCell<Vec<&'a profile::Component>>,
}

impl<'a> Servers<'a> {
    /// Asks which of them run.
    pub(super) fn look(job: &'a Job, context: &'a Context) -> Result<Self, Failure> {
        let mut servers = Self {
            profile: job.profile.as_ref(),
            source: &job.source,
            context,
            dumps: Vec::new(),
            copied: Vec::new(),
            not_running: Vec::new(),
            finish: RefCell::default(),
            at_rest: RefCell::default(),
        };
        for component in job.profile.iter().flat_map(|profile| &profile.components) {
            if let Some(probe) = &component.probe {
                let words = servers.words(probe, None)?;
                if !succeeds(&words) {
                    servers.not_running.push(component.name.clone());
                    continue;
                }
            }
            if let Some(dump) = &component.dump {
                let section = SectionName::new(format!("{SECTION}{}", servers.dumps.len()))?;
                let file = tree_path(Path::new(&dump.file))?;
                servers.dumps.push(Planned { component, dump, section, file });
            } else if component.prepare.is_some() || component.finish.is_some() {
                servers.copied.push(component);
            }
        }
        Ok(servers)
    }

    /// The components that will be dumped.
    pub(super) fn components(&self) -> Vec<Component> {
        let component = |planned: &Planned<'_>| Component {
            name: planned.component.name.clone(),
            kind: planned.component.kind.to_string(),
            section: planned.section.clone(),
            paths: vec![planned.file.clone()],
            bytes: 0,
            config: false,
        };
        self.dumps.iter().map(component).collect()
    }

    /// Whether a path lies among the files of a component that is dumped.
    pub(super) fn dumps(&self, path: &Path) -> bool {
        self.dumps.iter().any(|planned| planned.component.path.matches(path))
    }

    /// What of the source is left out, because a dump stands for it.
    pub(super) fn left_out(&self) -> Vec<String> {
        let dumped = self.dumps.iter().map(|planned| planned.component.path.as_str());
        dumped.map(|path| format!("/{}", path.trim_start_matches("./"))).collect()
    }

    /// Servers that were to be asked and do not run.
    pub(super) fn not_running(&self) -> &[String] {
        &self.not_running
    }

    /// Whether a dump is wanted.
    pub(super) fn has_dumps(&self, filter: &Filter) -> bool {
        self.dumps.iter().any(|planned| planned.is_wanted(filter))
    }

    /// Makes ready what is wanted.
    pub(super) fn prepare(&self, components: &[Component], filter: &Filter) -> CommandResult {
        for name in &self.not_running {
            self.context.output.warn(format!(
                "the server of {name} does not run: it is not asked for its data; its files are \
                 copied as they are"
            ));
        }
        let dumped = self.dumps.iter().filter(|planned| planned.is_wanted(filter));
        let dumped = dumped.map(|planned| planned.component);
        let copied = self.copied.iter().copied().filter(|component| {
            components.iter().filter(|one| one.name == component.name).any(|one| {
                one.paths
                    .iter()
                    .any(|path| !filter.excludes(&one.section, path, EntryKind::Directory))
            })
        });
        for component in dumped.chain(copied) {
            // Before: a command that fails may have done half of it.
            if let Some(finish) = &component.finish {
                let words = self.words(finish, None)?;
                self.finish.borrow_mut().push((&component.name, words));
            }
            if let Some(prepare) = &component.prepare {
                let words = self.words(prepare, None)?;
                run(&words, &component.name, "prepare", Stdio::null())?;
                self.context.output.detail(format!("{} is made ready", component.name));
            }
            self.at_rest.borrow_mut().push(component);
        }
        Ok(())
    }

    /// Whether the files at a path, relative to the source, are at rest although a process has them
    /// open. `None`: it is a path of a container.
    pub(super) fn is_at_rest(&self, path: Option<&Path>) -> bool {
        let at_rest = self.at_rest.borrow();
        match path {
            Some(path) => at_rest.iter().any(|component| component.path.matches(path)),
            None => !at_rest.is_empty(),
        }
    }

    /// Dumps what is wanted into directories below `place`.
    pub(super) fn dump(&self, filter: &Filter, place: &Path) -> Result<Vec<Dumped>, Failure> {
        let mut made = Vec::new();
        for planned in self.dumps.iter().filter(|planned| planned.is_wanted(filter)) {
            let Planned { component, dump, section, file } = planned;
            let directory = place.join(section.as_str());
            std::fs::create_dir(&directory)
                .map_err(|error| Failure::io("create", &directory, &error))?;
            let path = directory.join(&dump.file);
            let failed = |error| Failure::io("write the dump", &path, &error);
            let output = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(failed)?;
            let words = self.words(&dump.command, Some(&path))?;
            let stdout =
                if names_file(&dump.command) { Stdio::null() } else { Stdio::from(output) };
            run(&words, &component.name, "dump", stdout)?;
            let bytes = std::fs::metadata(&path).map_err(failed)?.len();
            if bytes == 0 {
                return Err(Failure::new(
                    ExitCode::CommandFailed,
                    format!("the dump of {} is empty; no backup was made", component.name),
                ));
            }
            made.push(Dumped { section: section.clone(), directory, file: file.clone(), bytes });
        }
        Ok(made)
    }

    /// Lets go on what was made ready. A command that fails is told.
    pub(super) fn finish(&self) {
        self.at_rest.borrow_mut().clear();
        for (name, words) in self.finish.take().into_iter().rev() {
            if let Err(failure) = run(&words, name, "finish", Stdio::null()) {
                self.context.output.warn(failure.message);
            }
        }
    }

    fn words(
        &self,
        command: &profile::Command,
        file: Option<&Path>,
    ) -> Result<Vec<String>, Failure> {
        match self.profile {
            Some(profile) => words(profile, command, self.source, file),
            None => Ok(command.words().to_vec()),
        }
    }
}

impl Drop for Servers<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Planned<'_> {
    fn is_wanted(&self, filter: &Filter) -> bool {
        !filter.excludes(&self.section, &self.file, EntryKind::Regular)
    }
}

/// Tells where dumps were restored to, and lets the servers of `profile` read them.
pub(super) fn bring_back(
    profile: Option<&Profile>,
    details: &Details,
    targets: &[Target],
    yes: bool,
    context: &Context,
) -> Result<Vec<String>, Failure> {
    let mut brought = Vec::new();
    for target in targets.iter().filter(|target| is_dump(&target.section)) {
        let components = details.components.iter().filter(|one| one.section == target.section);
        for (component, file) in components.flat_map(|one| one.paths.iter().map(move |p| (one, p)))
        {
            let path = target.path.join(file.as_path());
            let restore = profile
                .and_then(|profile| Some((profile, profile.component(&component.name)?)))
                .and_then(|(profile, one)| Some((profile, one.dump.as_ref()?.restore.as_ref()?)));
            let Some((profile, command)) = restore else {
                context.output.say(format!(
                    "the dump of {} ({}) is in {}: its server has to read it, by --profile or \
                     its own tools",
                    component.name,
                    component.kind,
                    path.display()
                ));
                continue;
            };
            confirm(
                &format!("Let {} read its dump, in place of what it has?", component.name),
                yes,
            )?;
            let input =
                std::fs::File::open(&path).map_err(|error| Failure::io("open", &path, &error))?;
            let words = words(profile, command, &profile.data, Some(&path))?;
            let stdin = if names_file(command) { Stdio::null() } else { Stdio::from(input) };
            execute(&words, &component.name, "restore", stdin, Stdio::null())
                .map_err(|failure| failure.hint(format!("the dump stays in {}", path.display())))?;
            context.output.say(format!("{} has read its dump", component.name));
            // It is plain, and of no more use.
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_dir(&target.path);
            brought.push(component.name.clone());
        }
    }
    Ok(brought)
}

fn names_file(command: &profile::Command) -> bool {
    command.words().iter().any(|word| word.contains("{file}"))
}

fn words(
    profile: &Profile,
    command: &profile::Command,
    data: &Path,
    file: Option<&Path>,
) -> Result<Vec<String>, Failure> {
    let mut values = profile.placeholders(data);
    if let Some(file) = file {
        values.insert("file", file);
    }
    command.with(&values).map_err(|error| {
        Failure::new(ExitCode::Profile, format!("the profile {}: {error}", profile.name))
    })
}

fn succeeds(words: &[String]) -> bool {
    let [program, arguments @ ..] = words else { return false };
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn run(words: &[String], component: &str, purpose: &str, stdout: Stdio) -> CommandResult {
    execute(words, component, purpose, Stdio::null(), stdout)
}

fn execute(
    words: &[String],
    component: &str,
    purpose: &str,
    stdin: Stdio,
    stdout: Stdio,
) -> CommandResult {
    let failed = |reason: String| {
        let message = format!("the {purpose} command of {component} {reason}");
        Failure::new(ExitCode::CommandFailed, message)
    };
    let [program, arguments @ ..] = words else { return Err(failed("is empty".to_owned())) };
    let output = Command::new(program)
        .args(arguments)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .map_err(|error| failed(format!("could not be run: {}", plain_reason(&error))))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().lines().last().map_or(String::new(), |line| format!(": {line}"));
    Err(failed(format!("failed ({}){said}", output.status)))
}
