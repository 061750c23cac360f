//! `strongroom profile list|show|check|init`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure};
use super::profile_args::load;
use super::shell::quote_path;
use crate::profile::{
    ComponentKind, Draft, DraftComponent, Environment, Library, Listed, Profile, Severity, check,
    draft,
};
use crate::repoint::{self, Format, Relocation};
use crate::stores::{self, StoreKind};

const EXAMPLES: &str = "\
Examples:
  strongroom profile list
  strongroom profile show aico            everything spelled out, paths resolved
  strongroom profile check aico           compared with this machine
  strongroom profile init ~/app/data      a first draft, from the stores found there
  strongroom profile init ~/app/data --config ~/app/app.yaml --output -

Profiles are looked for in ~/.config/strongroom/profiles, /etc/strongroom/profiles and
/usr/share/strongroom/profiles; docs/profiles.md describes them.";

/// Larger files are no configuration, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Arguments of `profile`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    command: ProfileCommand,
}

#[derive(Debug, Subcommand)]
enum ProfileCommand {
    /// List the profiles.
    List,
    /// Show a profile with everything spelled out.
    Show(NameArgs),
    /// Compare a profile with this machine.
    Check(NameArgs),
    /// Look at a directory and write a first draft of a profile.
    Init(InitArgs),
}

#[derive(Debug, clap::Args)]
struct NameArgs {
    /// The profile: a name, or a file.
    profile: String,
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// The directory of the app's data.
    directory: PathBuf,
    /// The profile's name; by default the directory's.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A configuration file of the app; files beside the directory that name it are found anyway.
    #[arg(long = "config", value_name = "FILE")]
    configs: Vec<PathBuf>,
    /// Write it to FILE ("-": standard output); by default among this user's profiles.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Args {
    /// The name, as results give it.
    pub const fn name(&self) -> &'static str {
        match self.command {
            ProfileCommand::List => "profile list",
            ProfileCommand::Show(_) => "profile show",
            ProfileCommand::Check(_) => "profile check",
            ProfileCommand::Init(_) => "profile init",
        }
    }
}

/// Runs a subcommand.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    match &args.command {
        ProfileCommand::List => list(context),
        ProfileCommand::Show(args) => show(args, context),
        ProfileCommand::Check(args) => compare(args, context),
        ProfileCommand::Init(args) => init(args, context),
    }
}

fn list(context: &Context) -> CommandResult {
    let environment = Environment::of_process();
    let library = Library::standard(&environment);
    let listed = library.list(&environment)?;
    let output = &context.output;
    if listed.is_empty() {
        let places: Vec<_> =
            library.directories().iter().map(|place| place.display().to_string()).collect();
        output.print(format!("No profiles in {}.", places.join(", ")));
    }
    let width = listed.iter().map(|profile| profile.name.len()).max().unwrap_or(0);
    for Listed { name, path, profile } in &listed {
        let what = match profile {
            Ok(profile) => profile.description.clone().unwrap_or_default(),
            Err(error) => format!("cannot be used: {error}"),
        };
        output.print(format!("{name:width$}  {what}  ({})", path.display()));
    }
    let described: Vec<Value> = listed.iter().map(describe).collect();
    output.result("profile list", &json!({ "profiles": described }));
    Ok(())
}

fn describe(listed: &Listed) -> Value {
    let path = listed.path.display().to_string();
    match &listed.profile {
        Ok(profile) => json!({
            "name": listed.name, "path": path, "usable": true,
            "description": profile.description, "data": profile.data.display().to_string(),
        }),
        Err(error) => json!({
            "name": listed.name, "path": path, "usable": false, "error": error.to_string(),
        }),
    }
}

fn show(args: &NameArgs, context: &Context) -> CommandResult {
    let (profile, path) = load(&args.profile)?;
    let text = profile.to_toml().map_err(|error| Failure::new(ExitCode::Profile, error))?;
    context.output.print(format!("# {}\n{}", path.display(), text.trim_end()));
    context
        .output
        .result("profile show", &json!({ "path": path.display().to_string(), "profile": profile }));
    Ok(())
}

fn compare(args: &NameArgs, context: &Context) -> CommandResult {
    let (profile, path) = load(&args.profile)?;
    let findings = check(&profile, &path, &found_stores(&profile, context)?);
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let output = &context.output;
    for finding in &findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        output.print(format!("{severity:8} {}: {}", finding.key, finding.message));
    }
    if findings.is_empty() {
        output.print(format!("{} fits this machine.", profile.name));
    }
    if errors > 0 {
        return Err(Failure::new(
            ExitCode::Profile,
            format!("the profile {} does not fit this machine: {errors} errors", profile.name),
        )
        .detail("findings", json!(findings)));
    }
    output.result(
        "profile check",
        &json!({ "path": path.display().to_string(), "findings": findings }),
    );
    Ok(())
}

/// The stores in the data directory, where there is one.
fn found_stores(
    profile: &Profile,
    context: &Context,
) -> Result<Vec<(ComponentKind, PathBuf)>, Failure> {
    if !profile.data.is_dir() {
        return Ok(Vec::new());
    }
    let scan = scan(&profile.data, context)?;
    Ok(scan.into_iter().map(|found| (found.kind, found.path)).collect())
}

fn scan(directory: &Path, context: &Context) -> Result<Vec<DraftComponent>, Failure> {
    let scan = stores::scan(directory)
        .map_err(|error| Failure::new(ExitCode::Failure, error.to_string()))?;
    for error in &scan.unreadable {
        context.output.warn(error);
    }
    let found = |component: stores::Component| DraftComponent {
        kind: kind_of(component.kind),
        path: component.path,
    };
    Ok(scan.components.into_iter().map(found).collect())
}

const fn kind_of(kind: StoreKind) -> ComponentKind {
    match kind {
        StoreKind::Sqlite => ComponentKind::Sqlite,
        StoreKind::SqlCipher => ComponentKind::SqlCipher,
        StoreKind::Lmdb => ComponentKind::Lmdb,
        StoreKind::RocksDb => ComponentKind::RocksDb,
        StoreKind::LevelDb => ComponentKind::LevelDb,
        StoreKind::Chroma => ComponentKind::Chroma,
        StoreKind::DuckDb => ComponentKind::DuckDb,
        StoreKind::Postgres => ComponentKind::Postgres,
        StoreKind::Redis => ComponentKind::Redis,
        StoreKind::Neo4j => ComponentKind::Neo4j,
    }
}

fn init(args: &InitArgs, context: &Context) -> CommandResult {
    let data = args
        .directory
        .canonicalize()
        .map_err(|error| Failure::io("look at", &args.directory, &error))?;
    if !data.is_dir() {
        let message = format!("{} is no directory", data.display());
        return Err(Failure::new(ExitCode::Usage, message));
    }
    let environment = Environment::of_process();
    let mut configs = Vec::new();
    for config in &args.configs {
        let config = config.canonicalize().map_err(|e| Failure::io("look at", config, &e))?;
        configs.push(config);
    }
    for found in configs_beside(&data, environment.home.as_deref()) {
        if !configs.contains(&found) {
            configs.push(found);
        }
    }
    let named = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let draft_of = Draft {
        name: args.name.clone().or_else(|| named(&data)).unwrap_or_default(),
        components: scan(&data, context)?,
        configs,
        home: environment.home.clone(),
        data,
    };
    let text = draft(&draft_of).map_err(|error| Failure::new(ExitCode::Profile, error))?;
    // What it is called is what the draft made of the name.
    let profile = Profile::parse(&text, Path::new("draft"), &environment)?;
    let found = json!({
        "name": profile.name,
        "components": profile.components.len(),
        "configs": profile.configs.len(),
    });
    if args.output.as_deref() == Some(Path::new("-")) {
        context.output.print(text.trim_end());
        context.output.result("profile init", &json!({ "profile": found, "path": null }));
        return Ok(());
    }
    let path = match &args.output {
        Some(path) => path.clone(),
        None => own_place(&environment, &profile.name)?,
    };
    write_new(&path, &text)?;
    context.output.say(format!(
        "Wrote {}: {} stores, {} configuration files. Complete it, then: strongroom profile check {}",
        path.display(),
        profile.components.len(),
        profile.configs.len(),
        if args.output.is_some() { quote_path(&path) } else { profile.name.clone() },
    ));
    context
        .output
        .result("profile init", &json!({ "profile": found, "path": path.display().to_string() }));
    Ok(())
}

fn own_place(environment: &Environment, name: &str) -> Result<PathBuf, Failure> {
    let library = Library::standard(environment);
    let directory = library.directories().first().cloned().unwrap_or_default();
    fs::create_dir_all(&directory).map_err(|e| Failure::io("make", &directory, &e))?;
    Ok(directory.join(format!("{name}.toml")))
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::new(ExitCode::AlreadyExists, format!("{} exists already", path.display()))
                .hint("give another --name or --output, or remove it")
        }
        _ => Failure::io("write", path, error),
    };
    let mut options = fs::OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(0o644).open(path).map_err(|e| failed(&e))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| failed(&e))
}

/// Files beside a directory, and one level below what is beside it, that name it in their values.
fn configs_beside(data: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let Some(parent) = data.parent() else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries(parent) {
        if entry.is_dir() && entry != data {
            found.extend(entries(&entry).into_iter().filter(|file| names(file, data, home)));
        } else if names(&entry, data, home) {
            found.push(entry);
        }
    }
    found.sort();
    found
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    // Enough for where an app lies; a directory of a million files is none.
    entries.flatten().take(1000).map(|entry| entry.path()).collect()
}

/// Whether a file is configuration that names the directory.
fn names(file: &Path, data: &Path, home: Option<&Path>) -> bool {
    let is_small = file.symlink_metadata().is_ok_and(|m| m.is_file() && m.len() <= MAX_CONFIG);
    if !is_small {
        return false;
    }
    let Ok(bytes) = fs::read(file) else { return false };
    let Some(format) = Format::detect(file, &bytes) else { return false };
    let context = repoint::Context {
        home: home.map(Path::to_path_buf),
        directory: file.parent().map(Path::to_path_buf),
        ..repoint::Context::default()
    };
    let relocation = Relocation::new(data, "/strongroom-probe");
    repoint::repoint(&bytes, format, &relocation, &context)
        .is_ok_and(|repointed| !repointed.edits.is_empty())
}
