//! Looks at a source and says what a migration would do, what it needs, and what stands in its
//! way. Changes nothing.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::blocker::Blocker;
use super::config::{self, PlannedEdit};
use super::disk::Disk;
use super::error::{Error, Result};
use super::inventory::{Inventory, inventory};
use super::place::{self, overlap, refuse_covered};
use super::record::{Commands, Reading, SetValue, StoredPath, SwitchMode};
use super::steps::{PASSING, find_stores, left_open};
use super::survey::{Observer, Stage};
use crate::stores::{self, Component};
use crate::tree::{EntryKind, LocalTree, Patterns, TreePath};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The directory to move into a vault.
    pub source: PathBuf,
    /// Further names of it, through symlinks, that configuration may use.
    pub names: Vec<PathBuf>,
    /// The vault; it need not exist yet.
    pub vault: PathBuf,
    /// Where the app will find it mounted; ignored with [`SwitchMode::InPlace`].
    pub mount_point: PathBuf,
    /// How the app is brought there.
    pub mode: SwitchMode,
    /// Configuration files to edit.
    pub configs: Vec<PathBuf>,
    /// Values to set in them.
    pub sets: Vec<SetValue>,
    /// How they are read.
    pub reading: Reading,
    /// What is left behind.
    pub exclude: Vec<String>,
    /// Leave the originals aside instead of wiping them.
    pub keep_originals: bool,
    /// The wipe is agreed to already.
    pub wipe_agreed: bool,
    /// The app's commands.
    pub commands: Commands,
    /// Go on although a store is damaged already.
    pub accept_damage: bool,
}

/// Space on one filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Space {
    /// A path on it.
    pub path: StoredPath,
    /// Bytes that the migration takes at most.
    pub needed: u64,
    /// Bytes that are free.
    pub available: u64,
    /// Inodes that the migration takes at most.
    pub inodes_needed: u64,
    /// Inodes that are free; `None` where the filesystem makes them as it needs them.
    pub inodes_available: Option<u64>,
}

impl Space {
    /// Whether it is not enough.
    pub fn is_short(&self) -> bool {
        self.available < self.needed || self.inodes_short()
    }

    /// Whether there are too few inodes.
    pub fn inodes_short(&self) -> bool {
        self.inodes_available.is_some_and(|available| available < self.inodes_needed)
    }
}

/// What a migration would do.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The source, canonical.
    pub source: StoredPath,
    /// The vault.
    pub vault: StoredPath,
    /// Where it will be mounted.
    pub mount_point: StoredPath,
    /// How the app is brought there.
    pub mode: SwitchMode,
    /// What is there.
    pub inventory: Inventory,
    /// The stores found, by content.
    pub components: Vec<Component>,
    /// Processes that hold files of the source.
    pub open_files: Vec<stores::OpenFile>,
    /// Processes that could not be looked into.
    pub unseen_processes: usize,
    /// The space it takes.
    pub space: Vec<Space>,
    /// The edits of configuration files.
    pub edits: Vec<PlannedEdit>,
    /// How far the originals can be wiped.
    pub wipe: Disk,
    /// What stands in the way.
    pub blockers: Vec<Blocker>,
    /// The request, with canonical paths.
    #[serde(skip)]
    pub request: Request,
}

/// Looks, and plans.
///
/// # Errors
/// When the source is no directory or belongs to an unfinished migration, and when it cannot be
/// read. What merely stands in the way is in [`Plan::blockers`].
pub fn plan(request: &Request, observer: &dyn Observer) -> Result<Plan> {
    observer.stage(Stage::Plan, None);
    let request = canonical_request(request)?;
    let source = request.source.as_path();
    refuse_covered(source)?;
    // A symlink that a migration put where its source was leads away from its marker.
    request.names.iter().try_for_each(|name| refuse_covered(name))?;
    let patterns = Patterns::new(&request.exclude).map_err(Error::Pattern)?;
    let tree = LocalTree::open(source)?;
    let inventory = inventory(&tree, source, &patterns, observer)?;
    let mut blockers = Vec::new();
    check_places(&request, &mut blockers);
    check_source(&request, &inventory, &mut blockers)?;
    let (components, open, unseen) =
        look_at_stores(&request, source, &patterns, &mut blockers, observer)?;
    let space = space(&request.vault, &inventory)?;
    blockers.extend(space.iter().filter(|space| space.is_short()).cloned().map(Blocker::NoSpace));
    let edits = config::plan(&request, &mut blockers);
    let wipe = Disk::under(source).map_err(|error| Error::io("inspect", source, error))?;
    Ok(Plan {
        source: source.into(),
        vault: request.vault.as_path().into(),
        mount_point: request.mount_point.as_path().into(),
        mode: request.mode,
        inventory,
        components,
        open_files: open,
        unseen_processes: unseen,
        space,
        edits,
        wipe,
        blockers,
        request,
    })
}

/// The request with every path canonical. A configuration file that is a symlink stays one: the
/// edit goes through it.
fn canonical_request(request: &Request) -> Result<Request> {
    let source = fs::canonicalize(&request.source)
        .map_err(|error| Error::io("find", &request.source, error))?;
    if !source.is_dir() {
        let error = io::Error::from_raw_os_error(libc::ENOTDIR);
        return Err(Error::io("migrate", &source, error));
    }
    let mount_point = match request.mode {
        SwitchMode::InPlace => source.clone(),
        SwitchMode::Repoint | SwitchMode::Symlink => place::canonical(&request.mount_point)?,
    };
    let mut names = request.names.clone();
    let named = absolute(&request.source)?;
    if named != source {
        names.push(named);
    }
    let configs = request.configs.iter().map(|path| absolute(path)).collect::<Result<_>>()?;
    let sets = request
        .sets
        .iter()
        .map(|set| {
            let file = absolute(set.file.as_path())?;
            Ok(SetValue { file: file.as_path().into(), ..set.clone() })
        })
        .collect::<Result<_>>()?;
    let mut reading = request.reading.clone();
    for (file, _) in &mut reading.formats {
        *file = StoredPath(absolute(file.as_path())?);
    }
    for file in &mut reading.optional {
        *file = StoredPath(absolute(file.as_path())?);
    }
    let vault = place::canonical(&request.vault)?;
    Ok(Request { source, names, vault, mount_point, configs, sets, reading, ..request.clone() })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io("find", path, error))
}

fn check_places(request: &Request, blockers: &mut Vec<Blocker>) {
    let mut pairs = vec![(&request.source, &request.vault)];
    if request.mode != SwitchMode::InPlace {
        pairs.push((&request.source, &request.mount_point));
        pairs.push((&request.vault, &request.mount_point));
    }
    for (one, other) in pairs {
        if overlap(one, other) {
            let (one, other) = (one.as_path().into(), other.as_path().into());
            blockers.push(Blocker::Overlap { one, other });
        }
    }
    if request.mode != SwitchMode::InPlace
        && let Some(reason) = unusable_mount_point(&request.mount_point)
    {
        blockers.push(Blocker::MountPoint { reason });
    }
}

fn unusable_mount_point(path: &Path) -> Option<String> {
    let shown = path.display();
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("{shown} cannot be used: {error}")),
        Ok(stat) if !stat.is_dir() => Some(format!("{shown} is no directory")),
        Ok(_) if is_mount_point(path) => {
            Some(format!("{shown} has something mounted on it already"))
        }
        Ok(_) => match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(false) => None,
            Ok(true) => Some(format!("{shown} is not empty")),
            Err(error) => Some(format!("{shown} cannot be read: {error}")),
        },
    }
}

/// Whether something is mounted on a directory.
pub(super) fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
    rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn check_source(
    request: &Request,
    inventory: &Inventory,
    blockers: &mut Vec<Blocker>,
) -> Result<()> {
    let source = &request.source;
    let renames = request.mode != SwitchMode::Repoint || request.keep_originals;
    if is_mount_point(source) {
        blockers.push(Blocker::SourceIsMountPoint);
    }
    if renames
        && let Some(parent) = source.parent()
        && rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).is_err()
    {
        blockers.push(Blocker::ParentNotWritable);
    }
    if inventory.fixed.count > 0 {
        blockers.push(Blocker::Fixed(inventory.fixed.clone()));
    }
    if inventory.mounted_below.count > 0 {
        blockers.push(Blocker::MountedBelow(inventory.mounted_below.clone()));
    }
    if !rustix::process::geteuid().is_root() {
        for remarks in [&inventory.foreign, &inventory.privileged_attributes, &inventory.devices] {
            if remarks.count > 0 {
                blockers.push(Blocker::NeedsRoot(remarks.clone()));
            }
        }
    }
    Ok(())
}

fn look_at_stores(
    request: &Request,
    source: &Path,
    patterns: &Patterns,
    blockers: &mut Vec<Blocker>,
    observer: &dyn Observer,
) -> Result<(Vec<Component>, Vec<stores::OpenFile>, usize)> {
    let scan = find_stores(source, observer)?;
    let denied = scan.unreadable.iter().find(|error| {
        let path = error.path().strip_prefix(source).unwrap_or(error.path());
        error.io_kind() == Some(io::ErrorKind::PermissionDenied) && !leaves_out(patterns, path)
    });
    if let Some(error) = denied {
        blockers.push(Blocker::Unreadable { reason: error.to_string() });
    }
    let components = scan
        .components
        .into_iter()
        .filter(|component| !leaves_out(patterns, &component.path))
        .collect();
    let open = left_open(source, PASSING, observer)?;
    // With a command that stops the app, what is open after it counts.
    if !open.files.is_empty() && request.commands.stop.is_none() {
        blockers.push(Blocker::OpenFiles { files: open.files.clone() });
    }
    Ok((components, open.files, open.unseen.len()))
}

/// Whether patterns leave out a path, or a directory that it is in.
pub(super) fn leaves_out(patterns: &Patterns, path: &Path) -> bool {
    let mut below = TreePath::root();
    let components: Vec<_> = path.components().collect();
    components.iter().enumerate().any(|(at, component)| {
        let Ok(next) = below.join(component.as_os_str().as_bytes()) else { return false };
        below = next;
        let kind = if at + 1 < components.len() || path.as_os_str().is_empty() {
            EntryKind::Directory
        } else {
            EntryKind::Regular
        };
        patterns.matches(&below, kind)
    })
}

/// Inodes for what a vault and a migration have besides the entries: the vault's files and its
/// journal, the snapshot, the migration's journal and its temporaries.
const OWN_INODES: u64 = 64;

/// The space that copy and snapshot take at most on the vault's filesystem.
fn space(vault: &Path, inventory: &Inventory) -> Result<Vec<Space>> {
    let existing = vault.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let free = rustix::fs::statvfs(existing)
        .map_err(|error| Error::io("inspect", existing, io::Error::from(error)))?;
    let entries = inventory.totals.entries;
    let data = inventory.allocated;
    // A block of 4096 bytes takes 28 more, a file its header and a page's rest. The snapshot may
    // not compress at all, and takes a kilobyte an entry for headers and its list.
    let copy = data + data / 128 + entries * 4608;
    let snapshot = data + data / 1024 + entries * 2048;
    Ok(vec![Space {
        path: existing.into(),
        needed: copy + snapshot + (16 << 20),
        available: free.f_bavail.saturating_mul(free.f_frsize),
        inodes_needed: inventory.vault_inodes + OWN_INODES,
        // Btrfs says 0 of 0.
        inodes_available: (free.f_files > 0).then_some(free.f_favail),
    }])
}

/// The home directory of the user that a file belongs to.
pub(super) fn home_of_owner(path: &Path) -> Option<PathBuf> {
    let owner = fs::metadata(path).ok()?.uid();
    if owner == rustix::process::geteuid().as_raw() {
        // Of this very user the environment knows better.
        return std::env::home_dir();
    }
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(owner)).ok()??;
    Some(user.dir)
}
