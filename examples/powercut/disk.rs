//! Owns the disk: names and contents as everybody sees them and as they are durable, what a sync
//! makes durable, and what is left after a cut.

use std::collections::{BTreeSet, HashMap};
use std::time::SystemTime;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::content::Content;
use super::file::{Fault, FileData};
use super::tree::{Change, Inode, Place, ROOT, Tree};

/// What is durable of names and attributes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Metadata {
    /// All of them, at once.
    Immediate,
    /// A beginning of what was done (ext4, xfs): a sync makes durable what was done up to the last
    /// change of the file or directory synced, and promises nothing of what was done later.
    Ordered,
    /// A beginning of what was done, and in addition what was synced with all that it builds upon
    /// (btrfs, f2fs).
    PerFile,
}

/// How the power is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// What becomes of data.
    pub fault: Fault,
    /// What becomes of names and attributes.
    pub metadata: Metadata,
    /// For everything that is left to chance.
    pub seed: u64,
}

/// What is on a disk when nothing is under way.
pub struct Image {
    /// Names and attributes.
    pub tree: Tree,
    /// The content of files.
    pub contents: HashMap<u64, Content>,
    /// The next inode's number; none is given twice.
    pub next_ino: u64,
}

/// The disk.
pub struct Disk {
    cut: Cut,
    random: StdRng,
    /// As everybody sees it.
    pub tree: Tree,
    /// How often the kernel was told of an inode.
    lookups: HashMap<u64, u64>,
    durable: Tree,
    /// What was changed in the one and not yet in the other.
    log: Vec<(Change, SystemTime)>,
    files: HashMap<u64, FileData>,
    next_ino: u64,
    writes: u64,
}

impl Disk {
    /// A disk that holds `image`.
    pub fn new(image: Image, cut: Cut) -> Self {
        let durable = |(ino, content)| (ino, FileData::durable(content));
        Self {
            cut,
            random: StdRng::seed_from_u64(cut.seed),
            tree: image.tree.clone(),
            lookups: HashMap::new(),
            durable: image.tree,
            log: Vec::new(),
            files: image.contents.into_iter().map(durable).collect(),
            next_ino: image.next_ino.max(ROOT + 1),
            writes: 0,
        }
    }

    /// A new inode under a vacant name.
    pub fn create(&mut self, at: Place, inode: Inode) -> u64 {
        let ino = self.next_ino;
        self.next_ino += 1;
        if inode.is(libc::S_IFREG) {
            self.files.insert(ino, FileData::default());
        }
        self.change(Change::Create { ino, at, inode: Box::new(inode) });
        ino
    }

    /// Changes names or attributes.
    pub fn change(&mut self, change: Change) {
        let now = SystemTime::now();
        let lookups = &self.lookups;
        self.tree.apply(&change, now, |ino| lookups.contains_key(&ino));
        if self.cut.metadata == Metadata::Immediate {
            self.durable.apply(&change, now, |_| false);
        } else {
            self.log.push((change, now));
        }
    }

    /// The content of a file.
    pub fn file(&self, ino: u64) -> Option<&Content> {
        self.files.get(&ino).map(|file| &file.cache)
    }

    /// Changes the content of a file.
    pub fn change_file(&mut self, ino: u64, change: impl FnOnce(&mut FileData)) {
        if let Some(file) = self.files.get_mut(&ino) {
            change(file);
        }
        if let Some(inode) = self.tree.inodes.get_mut(&ino) {
            inode.modified = SystemTime::now();
            inode.changed = inode.modified;
        }
    }

    /// Writes to a file.
    pub fn write(&mut self, ino: u64, offset: u64, data: &[u8]) {
        self.writes += 1;
        let number = self.writes;
        self.change_file(ino, |file| file.write(offset, data, number));
        let writes_back = matches!(self.cut.fault, Fault::Pages | Fault::Sectors);
        if writes_back
            && self.random.random_ratio(1, 4)
            && let Some(file) = self.files.get_mut(&ino)
        {
            file.write_back(self.cut.fault, &mut self.random);
        }
    }

    /// Syncs a file or directory.
    pub fn sync(&mut self, ino: u64, data_only: bool) {
        let forced: BTreeSet<usize> = match self.cut.metadata {
            Metadata::Immediate => BTreeSet::new(),
            Metadata::Ordered => {
                let last = self.log.iter().rposition(|(it, _)| it.is_synced_with(ino, data_only));
                (0..last.map_or(0, |last| last + 1)).collect()
            }
            Metadata::PerFile => self.with_all_needed(ino, data_only),
        };
        self.force(&forced);
        if let Some(file) = self.files.get_mut(&ino) {
            file.sync();
            if let (Some(seen), Some(durable)) =
                (self.tree.inodes.get(&ino), self.durable.inodes.get_mut(&ino))
            {
                durable.modified = seen.modified;
                durable.changed = seen.changed;
            }
        }
    }

    /// Makes changes durable, by their place in the log.
    fn force(&mut self, forced: &BTreeSet<usize>) {
        let mut number = 0;
        let durable = &mut self.durable;
        self.log.retain(|(change, time)| {
            let goes = forced.contains(&number);
            number += 1;
            if goes {
                durable.apply(change, *time, |_| false);
            }
            !goes
        });
    }

    fn with_all_needed(&self, ino: u64, data_only: bool) -> BTreeSet<usize> {
        let synced =
            |(_, (change, _)): &(usize, &(Change, _))| change.is_synced_with(ino, data_only);
        let mut open: Vec<usize> =
            self.log.iter().enumerate().filter(synced).map(|(number, _)| number).collect();
        let mut found = BTreeSet::new();
        while let Some(number) = open.pop() {
            if found.insert(number) {
                let change = &self.log[number].0;
                open.extend((0..number).filter(|&it| change.builds_upon(&self.log[it].0)));
            }
        }
        found
    }

    /// The kernel was told of an inode once more.
    pub fn looked_up(&mut self, ino: u64) {
        *self.lookups.entry(ino).or_default() += 1;
    }

    /// The kernel forgot it that often.
    pub fn forget(&mut self, ino: u64, count: u64) {
        let left = self.lookups.get(&ino).copied().unwrap_or(0).saturating_sub(count);
        if left > 0 {
            self.lookups.insert(ino, left);
            return;
        }
        self.lookups.remove(&ino);
        if self.tree.inodes.get(&ino).is_some_and(|inode| inode.links == 0) {
            self.tree.inodes.remove(&ino);
            let waits = |(change, _): &(Change, _)| change.concern().inodes.contains(&ino);
            if !self.durable.inodes.contains_key(&ino) && !self.log.iter().any(waits) {
                self.files.remove(&ino);
            }
        }
    }

    /// What the disk has when it is unmounted: everything.
    pub fn all(&self) -> Image {
        let mut tree = self.tree.clone();
        tree.inodes.retain(|_, inode| inode.links > 0);
        let content = |(ino, file): (&u64, &FileData)| (*ino, file.cache.clone());
        let named = |(ino, _): &(u64, Content)| tree.inodes.contains_key(ino);
        let contents = self.files.iter().map(content).filter(named).collect();
        Image { tree, contents, next_ino: self.next_ino }
    }

    /// What the disk has after a cut at this moment, and that in words.
    pub fn after_cut(&mut self) -> (Image, String) {
        let Self { cut, random, durable, log, files, tree: seen, .. } = self;
        let kept = match (cut.fault, random.random_range(0..3)) {
            (Fault::LastTorn, _) | (_, 0) => log.len(),
            (_, 1) => 0,
            _ => random.random_range(0..=log.len()),
        };
        let mut tree = durable.clone();
        for (change, time) in &log[..kept] {
            tree.apply(change, *time, |_| false);
        }
        let last = files.values().filter_map(FileData::last_write).max();
        let mut contents = HashMap::new();
        let mut numbers: Vec<u64> = files.keys().copied().collect();
        // The order decides what chance gives to whom.
        numbers.sort_unstable();
        for ino in numbers {
            let Some(inode) = tree.inodes.get_mut(&ino) else { continue };
            let file = &files[&ino];
            let tears = last.is_some() && file.last_write() == last;
            let (content, touched) = file.cut(cut.fault, tears, random);
            if let Some(seen) = seen.inodes.get(&ino).filter(|_| touched) {
                inode.modified = seen.modified;
                inode.changed = seen.changed;
            }
            contents.insert(ino, content);
        }
        let words = format!(
            "{:?}, {:?}, seed {}: kept {kept} of {} changes of names and attributes",
            cut.fault,
            cut.metadata,
            cut.seed,
            log.len()
        );
        (Image { tree, contents, next_ino: self.next_ino }, words)
    }
}
