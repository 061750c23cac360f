//! Brings the app to the vault: takes the source's path over or edits the configuration, mounts,
//! starts, and asks whether the app is well. Until the wipe every deed here can be undone.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::command;
use super::config;
use super::engine::Engine;
use super::environment::{Mount, MountAccess};
use super::error::{Error, Result};
use super::operations::{Change, exists, sibling};
use super::place::is_at;
use super::record::{Origin, Phase, Record, StoredPath, SwitchMode, Switching};
use super::survey::Stage;

/// How long an app has to become well after its start, where nobody says.
const BECOMING_WELL: Duration = Duration::from_secs(30);

impl Engine<'_> {
    /// Switches, or goes on with it.
    pub(super) fn switch(&mut self) -> Result<()> {
        self.environment.observer.stage(Stage::Switch, None);
        if self.state().phase == Phase::Verified {
            let originals = self.originals()?;
            self.refuse_open_files(&originals)?;
            self.refuse_changed_source()?;
            let switching = self.plan_switch()?;
            self.journal.append(Record::Switching(switching))?;
        }
        let switching = self.switching()?;
        self.environment.unmount()?;
        match self.state().begun.mode {
            SwitchMode::Repoint => {}
            SwitchMode::InPlace => self.take_over(|engine, at| {
                // Made private; who may look into it is the mounted vault's to say.
                engine.environment.hands.make_directory(at, 0o700)
            })?,
            SwitchMode::Symlink => {
                let target = self.state().begun.mount_point.clone();
                self.take_over(|engine, at| {
                    engine.environment.hands.make_symlink(target.as_path(), at)
                })?;
            }
        }
        let mount = self.mount_for_app()?;
        for edit in &switching.edits {
            config::apply(&self.environment.hands, edit, &mount.content)?;
        }
        self.journal.append(Record::Switched)
    }

    pub(super) fn switching(&self) -> Result<Switching> {
        self.state()
            .switching
            .clone()
            .ok_or(Error::State { what: "the switch was not begun", phase: self.state().phase })
    }

    fn plan_switch(&self) -> Result<Switching> {
        let mut blockers = Vec::new();
        let edits = config::plan(&self.request(), &mut blockers);
        if !blockers.is_empty() {
            return Err(Error::Blocked(blockers));
        }
        let aside = match self.state().begun.mode {
            SwitchMode::Repoint => None,
            SwitchMode::InPlace | SwitchMode::Symlink => Some(StoredPath(self.aside())),
        };
        Ok(Switching { edits: edits.into_iter().map(|planned| planned.edit).collect(), aside })
    }

    /// Puts what `make` makes at the source's path, and the source aside, in one step where the
    /// filesystem can.
    fn take_over(&self, make: impl Fn(&Self, &Path) -> Result<()>) -> Result<()> {
        let begun = &self.state().begun;
        let source = begun.source.as_path();
        let aside = self.aside();
        if !is_at(begun.identity, &aside)? {
            if !present(&aside)? {
                make(self, &aside)?;
            }
            match self.environment.hands.exchange(&aside, source) {
                Err(Error::Io { source: error, .. }) if cannot_exchange(&error) => {
                    self.discard_stand_in(&aside)?;
                    self.environment.hands.rename(source, &aside)?;
                }
                outcome => outcome?,
            }
        }
        if !present(source)? {
            make(self, source)?;
        }
        Ok(())
    }

    /// Removes the directory or symlink that stands where the source was, or was to stand there.
    /// What somebody else has put there, or into it, is kept under a name of its own.
    pub(super) fn discard_stand_in(&self, path: &Path) -> Result<()> {
        let hands = &self.environment.hands;
        let stat = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("inspect", path, error)),
            Ok(stat) => stat,
        };
        if stat.is_symlink() {
            let target = std::fs::read_link(path).map_err(|e| Error::io("read", path, e))?;
            if target == self.state().begun.mount_point.as_path() {
                return hands.unlink(path);
            }
        }
        if stat.is_dir() {
            hands.set_immutable(path, false)?;
            match hands.remove_directory(path) {
                Err(Error::Io { source, .. })
                    if source.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                outcome => return outcome,
            }
        }
        for found in self.found_names() {
            if !present(&found)? {
                return hands.rename(path, &found);
            }
        }
        let full = io::Error::from_raw_os_error(libc::EEXIST);
        Err(Error::io("keep", path, full))
    }

    /// Names for what somebody else has put where the source was.
    fn found_names(&self) -> impl Iterator<Item = PathBuf> {
        let source = self.state().begun.source.as_path().to_owned();
        let id = self.journal.id();
        (1..100).map(move |number| match number {
            1 => sibling(&source, "", &format!(".found-{id}")),
            number => sibling(&source, "", &format!(".found-{id}-{number}")),
        })
    }

    /// What somebody else had put where the source was, where it is now.
    pub(super) fn found(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for path in self.found_names() {
            if !present(&path)? {
                break;
            }
            found.push(path);
        }
        Ok(found)
    }

    /// Mounts the vault where the app will find it. What lies under the mount is empty and can't
    /// be written, so that an app started without its vault fails instead of writing plaintext.
    pub(super) fn mount_for_app(&self) -> Result<Mount> {
        let begun = &self.state().begun;
        let point = begun.mount_point.as_path();
        self.make_mount_point()?;
        let ours = begun.makes_mount_point || begun.mode == SwitchMode::InPlace;
        if ours && rustix::process::geteuid().is_root() {
            self.protect(point)?;
        }
        self.environment.mount(point, MountAccess::ReadWrite)
    }

    fn protect(&self, point: &Path) -> Result<()> {
        let hands = &self.environment.hands;
        if self.environment.current_mount()?.is_some() {
            return Ok(());
        }
        hands.set_immutable(point, false)?;
        hands.set_mode(point, 0o555)?;
        if !hands.set_immutable(point, true)? {
            self.environment.observer.note(
                "this filesystem has no immutable flag, so an app that runs as root could write \
                 under the mount point while the vault is not mounted",
            );
        }
        Ok(())
    }

    /// Removes the mount point, if this migration made it.
    pub(super) fn remove_mount_point(&self) -> Result<()> {
        let begun = &self.state().begun;
        let point = begun.mount_point.as_path();
        if begun.makes_mount_point && present(point)? {
            self.environment.hands.set_immutable(point, false)?;
            match self.environment.hands.remove_directory(point) {
                Err(Error::Io { source, .. })
                    if source.kind() == io::ErrorKind::DirectoryNotEmpty =>
                {
                    self.environment
                        .observer
                        .note(&format!("{} is not empty and is left", point.display()));
                }
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Starts the app and asks whether it is well; if not, everything goes back.
    pub(super) fn accept(&mut self) -> Result<()> {
        if self.environment.current_mount()?.is_none() {
            self.mount_for_app()?;
        }
        let commands = self.state().begun.commands.clone();
        self.environment.observer.stage(Stage::Health, None);
        let outcome = self.start_app().and_then(|()| match &commands.health {
            Some(health) => self.await_health(health, commands.health_seconds),
            None => Ok(()),
        });
        match outcome {
            Ok(()) => self.journal.append(Record::Accepted),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => {
                self.environment.observer.note("the app is not well; everything goes back");
                if let Some(stop) = &commands.stop {
                    // It may not be running at all.
                    let _ = command::run(&self.environment.hands, "stop", stop);
                }
                self.roll_back_to(Origin::Originals)?;
                Err(Error::BackedOut { source: Box::new(error) })
            }
        }
    }

    /// Runs the app's start command, where it has one and was stopped, or is to be started.
    pub(super) fn start_app(&self) -> Result<()> {
        match &self.state().begun.commands.start {
            Some(start) => command::run(&self.environment.hands, "start", start),
            None => Ok(()),
        }
    }

    fn await_health(&self, health: &str, seconds: Option<u64>) -> Result<()> {
        let patience = seconds.map_or(BECOMING_WELL, Duration::from_secs);
        let begun = Instant::now();
        loop {
            match command::run(&self.environment.hands, "health", health) {
                Ok(()) => return Ok(()),
                Err(error) if begun.elapsed() >= patience => return Err(error),
                Err(Error::Command { .. }) => {
                    self.environment.observer.check()?;
                    std::thread::sleep(Duration::from_secs(1));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a path names something, a dangling symlink included.
pub(super) fn present(path: &Path) -> Result<bool> {
    exists(path).map_err(|error| Error::io("inspect", path, error))
}

/// Whether the filesystem does not know `RENAME_EXCHANGE`.
pub(super) fn cannot_exchange(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP))
}

impl super::operations::Hands {
    /// Sets the permission bits of a directory.
    ///
    /// # Errors
    /// As `chmod(2)` gives them.
    pub(super) fn set_mode(&self, path: &Path, mode: u32) -> Result<()> {
        self.perform(Change::Protect, path, || {
            super::operations::open_directory(path)
                .and_then(|directory| {
                    Ok(rustix::fs::fchmod(&directory, rustix::fs::Mode::from_raw_mode(mode))?)
                })
                .map_err(|error| Error::io("protect", path, error))
        })
    }
}
