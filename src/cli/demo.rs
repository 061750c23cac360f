//! `strongroom demo`: the life of a migration on a store that it makes itself, before the
//! reader's eyes, with the evidence of each step. Everything lies in one temporary directory,
//! which goes again, also when it is interrupted or fails.

mod app;
mod evidence;
mod lmdb;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use self::app::App;
use super::Context;
use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure};
use super::migrate::{Interrupt, OpenVault, Shown, VaultMounter, account_lines, failure};
use super::output::human_size;
use super::shell::quote_path;
use crate::crypto::{Argon2Parameters, Passphrase, Secret, random_array};
use crate::migrate::{
    self, Commands, Engine, Environment, From, Hands, Request, RollbackOptions, SwitchMode,
    WipeOptions,
};
use crate::tree::{CompareOptions, LocalTree, Mismatch, compare};
use crate::vault::{NewSlot, Vault};

const EXAMPLES: &str = "\
Examples:
  strongroom demo           as root or as an ordinary user; some seconds
  strongroom demo --keep    leaves its directory, to look around";

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Leave the directory as it is before the way back, mounted, to look around.
    #[arg(long)]
    keep: bool,
    /// Where the temporary directory is made.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Runs the demo.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let interrupt = Interrupt::watch()?;
    let parent = args.directory.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new()
        .prefix("strongroom-demo-")
        .tempdir_in(&parent)
        .map_err(|error| Failure::io("make a directory in", &parent, &error))?;
    let root = directory
        .path()
        .canonicalize()
        .map_err(|error| Failure::io("find", directory.path(), &error))?;
    let mut demo = Demo {
        context,
        interrupt: &interrupt,
        app: App::new(&root),
        root,
        directory: Some(directory),
        step: 0,
        begun: Instant::now(),
        results: Vec::new(),
    };
    let outcome = demo.live(args.keep);
    match outcome {
        Ok(()) => {
            let seconds = demo.begun.elapsed().as_secs_f64();
            context.output.say(format!("\nDone in {seconds:.1} s."));
            context.output.result(
                "demo",
                &json!({ "seconds": seconds, "steps": demo.results, "kept": args.keep }),
            );
            Ok(())
        }
        Err(failure) => Err(failure.detail("steps", demo.results.clone())),
    }
}

struct Demo<'a> {
    context: &'a Context,
    interrupt: &'a Interrupt,
    app: App,
    root: PathBuf,
    /// Removed when it is dropped, after whatever is mounted in it.
    directory: Option<tempfile::TempDir>,
    step: usize,
    begun: Instant,
    results: Vec<serde_json::Value>,
}

impl Drop for Demo<'_> {
    fn drop(&mut self) {
        let Some(directory) = self.directory.take() else { return };
        for mount in super::mounted::all() {
            if mount.mount_point.starts_with(&self.root)
                && super::umount::unmount_at(&mount.mount_point, 3).is_err()
            {
                let _ = crate::fuse::detach(&mount.mount_point, crate::fuse::Detach::Lazily);
            }
        }
        // As root a bare mount point is immutable.
        migrate::unprotect(&self.app.mount_point());
        if let Err(error) = directory.close() {
            self.context.output.warn(format!("{} is left: {error}", self.root.display()));
        }
    }
}

impl Demo<'_> {
    fn live(&mut self, keep: bool) -> CommandResult {
        self.context.output.say(format!("strongroom demo in {}\n", self.root.display()));
        self.make_app()?;
        let vault = self.make_vault()?;
        let mounter = VaultMounter::new(&vault, self.context, false);
        let shown = Shown::indented(self.context, self.interrupt);
        let environment = Environment {
            vault: &vault,
            mounter: &mounter,
            observer: &shown,
            hands: Hands::new(self.interrupt.watcher()),
            jobs: None,
        };
        self.migrate(environment.clone(), &shown)?;
        self.search()?;
        self.use_app(&environment)?;
        if keep {
            return self.keep();
        }
        self.roll_back(environment, &shown)
    }

    /// Does one step, and says what it is and how long it took.
    fn step(
        &mut self,
        title: &str,
        work: impl FnOnce(&mut Self) -> Result<Vec<String>, Failure>,
    ) -> CommandResult {
        if self.interrupt.is_set() {
            return Err(Failure::new(ExitCode::Interrupted, "stopped on request; nothing is left"));
        }
        self.step += 1;
        let output = &self.context.output;
        output.say(format!("{}. {title}", self.step));
        let begun = Instant::now();
        let evidence = work(self)?;
        let seconds = begun.elapsed().as_secs_f64();
        for line in &evidence {
            output.say(format!("     {line}"));
        }
        output.say(format!("     {seconds:.1} s\n"));
        self.results.push(json!({ "step": title, "seconds": seconds, "evidence": evidence }));
        Ok(())
    }

    fn make_app(&mut self) -> CommandResult {
        self.step("An app's store in plain", |demo| {
            demo.app.make()?;
            // What the app must look like again in the end.
            demo.app.set_aside()?;
            let searched = evidence::search(&demo.app.data(), &demo.app.secrets())?;
            Ok(vec![
                format!(
                    "{}: SQLite (WAL), LMDB, files, a hard link, a symlink, a sparse file{}",
                    demo.app.data().display(),
                    if demo.app.has_attributes() { ", an extended attribute" } else { "" }
                ),
                format!(
                    "{}: its configuration, which names the directory",
                    demo.app.config().display()
                ),
                format!(
                    "grep for \"{}\": found in {} of {} files",
                    app::SECRET,
                    searched.hits,
                    searched.files
                ),
            ])
        })
    }

    fn make_vault(&mut self) -> Result<OpenVault, Failure> {
        let mut made = None;
        self.step("A vault", |demo| {
            let secret = Secret::Passphrase(
                Passphrase::new(zeroize::Zeroizing::new(
                    random_array::<16>()
                        .iter()
                        .flat_map(|byte| format!("{byte:02x}").into_bytes())
                        .collect(),
                ))
                .map_err(|error| Failure::new(ExitCode::Failure, error.to_string()))?,
            );
            // The least that is allowed: this passphrase is random, and nobody will guess it.
            let cost = Argon2Parameters::new(64 * 1024, 1, 1)
                .map_err(|error| Failure::new(ExitCode::Failure, error.to_string()))?;
            let slot = NewSlot { secret: &secret, label: "demo", cost: Some(cost) };
            let vault = Vault::create(&demo.root.join("vault"), None, &[slot])?;
            made = Some(OpenVault::new(vault)?);
            Ok(vec![
                format!("{}, with a random passphrase", demo.root.join("vault").display()),
                "AES-256-GCM-SIV; names, contents, symlinks and attributes are encrypted"
                    .to_owned(),
            ])
        })?;
        made.ok_or_else(|| Failure::new(ExitCode::Failure, "the vault was not made"))
    }

    fn request(&self) -> Request {
        Request {
            source: self.app.data(),
            names: Vec::new(),
            vault: self.root.join("vault"),
            mount_point: self.app.mount_point(),
            mode: SwitchMode::Repoint,
            configs: vec![self.app.config()],
            sets: Vec::new(),
            reading: crate::migrate::Reading::default(),
            exclude: Vec::new(),
            keep_originals: false,
            wipe_agreed: false,
            commands: Commands::default(),
            accept_damage: false,
        }
    }

    fn migrate(&mut self, environment: Environment<'_>, shown: &Shown<'_>) -> CommandResult {
        self.step("The migration: snapshot, copy, verify, switch, wipe", |demo| {
            let vault = environment.vault.directory().to_owned();
            let failed = |error| failure(error, &vault);
            let plan = migrate::plan(&demo.request(), shown).map_err(failed)?;
            let mut engine = Engine::begin(environment, &plan).map_err(failed)?;
            engine.advance().map_err(failed)?;
            let account = engine.wipe(WipeOptions::default(), &mut |_, _| {}).map_err(failed)?;
            shown.end();
            let mut evidence: Vec<String> = plan
                .edits
                .iter()
                .flat_map(|edit| edit.diff.lines().filter(|line| is_change(line)))
                .map(|line| format!("{}  {line}", demo.app.config_name()))
                .collect();
            evidence.extend(account_lines(&account));
            evidence.push(format!("{} is gone", demo.app.data().display()));
            Ok(evidence)
        })
    }

    fn search(&mut self) -> CommandResult {
        self.step("What lies on the disk now", |demo| {
            let vault = demo.root.join("vault");
            let found = evidence::search(&vault, &demo.app.secrets())?;
            if found.hits > 0 {
                return Err(Failure::new(
                    ExitCode::VerificationFailed,
                    format!("plaintext was found in {} files of the vault", found.hits),
                ));
            }
            Ok(vec![format!(
                "grep -r for the store's texts and file names in {} ({} files, {}): nothing",
                vault.display(),
                found.files,
                human_size(found.bytes)
            )])
        })
    }

    fn use_app(&mut self, environment: &Environment<'_>) -> CommandResult {
        self.step("The app goes on, through the mount", |demo| {
            let data = demo.app.configured()?;
            demo.app.write_more(&data)?;
            let before = demo.app.read(&data)?;
            // What it wrote must be in the vault, not in a cache.
            let mounter = environment.mounter;
            let failed = |error: migrate::BoxError| {
                Failure::new(ExitCode::Failure, format!("the mount: {error}"))
            };
            if let Some(mount) = mounter.current().map_err(failed)? {
                mounter.unmount(&mount).map_err(failed)?;
            }
            mounter.mount(&data, migrate::MountAccess::ReadWrite).map_err(failed)?;
            let after = demo.app.read(&data)?;
            if before != after {
                return Err(Failure::new(
                    ExitCode::VerificationFailed,
                    format!("it reads {after:?} after a remount, and read {before:?} before"),
                ));
            }
            Ok(vec![
                format!("its configuration says {}", data.display()),
                format!(
                    "it wrote; after unmounting and mounting again: {} rows in SQLite \
                     (integrity_check: {}), {} entries in LMDB",
                    after.rows, after.integrity, after.entries
                ),
            ])
        })
    }

    fn roll_back(&mut self, environment: Environment<'_>, shown: &Shown<'_>) -> CommandResult {
        self.step("And back, with what was written since", |demo| {
            let vault = environment.vault.directory().to_owned();
            let failed = |error| failure(error, &vault);
            let written = demo.app.read(&demo.app.mount_point())?;
            let mut engine = Engine::open(environment, None).map_err(failed)?;
            let options = RollbackOptions { from: Some(From::Vault), discard_changes: false };
            engine.roll_back(options).map_err(failed)?;
            shown.end();
            let read = demo.app.read(&demo.app.data())?;
            if read != written {
                return Err(Failure::new(
                    ExitCode::VerificationFailed,
                    format!("it reads {read:?} after the way back, and read {written:?} before"),
                ));
            }
            demo.app.check_config()?;
            let changed = demo.changed_since_the_beginning()?;
            Ok(vec![
                format!(
                    "{}: {} rows, {} entries; configuration as before, byte for byte",
                    demo.app.data().display(),
                    read.rows,
                    read.entries
                ),
                format!(
                    "compared with a copy from the beginning, only the stores differ: {changed}"
                ),
            ])
        })
    }

    /// The files that differ from the copy made at the beginning; only the stores may.
    fn changed_since_the_beginning(&self) -> Result<String, Failure> {
        let open = |path: &Path| {
            LocalTree::open(path)
                .map_err(|error| Failure::new(ExitCode::Failure, error.to_string()))
        };
        let (before, after) = (open(&self.app.aside())?, open(&self.app.data())?);
        let found = compare(&before, &after, &CompareOptions::default())
            .map_err(|error| Failure::new(ExitCode::Failure, error.to_string()))?;
        let mut changed: Vec<String> = found
            .differences
            .iter()
            // The stores' own scratch files came and went, and moved the times of directories.
            .filter(|found| !matches!(found.mismatch, Mismatch::Modified { .. }))
            .map(|found| found.path.to_string())
            .collect();
        changed.dedup();
        let odd =
            changed.iter().find(|path| !app::STORES.iter().any(|store| path.starts_with(store)));
        match odd {
            Some(path) => Err(Failure::new(
                ExitCode::VerificationFailed,
                format!("{path} is not what it was at the beginning"),
            )),
            None => Ok(changed.join(", ")),
        }
    }

    fn keep(&mut self) -> CommandResult {
        if let Some(directory) = self.directory.take() {
            let kept = directory.keep();
            self.context.output.say(format!(
                "{} is left. When you have seen enough: strongroom umount {}; then remove it.",
                kept.display(),
                quote_path(&self.app.mount_point())
            ));
        }
        Ok(())
    }
}

/// Whether a line of a diff is a changed one.
fn is_change(line: &str) -> bool {
    (line.starts_with('-') && !line.starts_with("---"))
        || (line.starts_with('+') && !line.starts_with("+++"))
}
