//! What a disk after a power cut must show of a workload.

use std::ops::AddAssign;

use strongroom::backing::crash::{CrashImage, CrashRecorder, Metadata, Sampler};
use strongroom::backing::memory::MemoryDirectory;
use strongroom::backing::{Directory as _, FileKind};
use strongroom::check::{Options, Session, Unobserved};
use strongroom::vault::InodeNumber;

use super::workload::{CALLER, Done, Durable, Moment, ROOT, Tree, look, master, open};

/// How many disks were checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cuts {
    /// After one cut.
    pub images: usize,
    /// After another one, in the recovery from the first.
    pub twice: usize,
}

impl AddAssign for Cuts {
    fn add_assign(&mut self, other: Self) {
        self.images += other.images;
        self.twice += other.twice;
    }
}

impl Done {
    /// Cuts the power at every operation and checks up to `limit` disks of each; of one in
    /// `again_every`, also what a second cut leaves while the first is recovered from.
    pub fn check(&self, metadata: Metadata, seed: u64, limit: usize, again_every: usize) -> Cuts {
        let mut sampler = Sampler::new(seed, limit);
        let mut timeline = self.recorder.timeline(metadata);
        let mut cuts = Cuts::default();
        for at in 0..=self.moments.last().unwrap().operations {
            timeline.advance(at);
            for image in timeline.images(&mut sampler) {
                cuts.images += 1;
                let context = || {
                    format!(
                        "seed {seed}, {metadata:?}, cut at {at}\n{:#?}\n{}",
                        self.steps, image.description
                    )
                };
                if cuts.images.is_multiple_of(again_every) {
                    cuts.twice += self.check_again(metadata, seed, at, &image, &context);
                }
                if let Err(problem) = self.check_disk(metadata, at, &image.directory) {
                    panic!("{problem}\n{}", context());
                }
            }
        }
        cuts
    }

    /// Cuts the power at every operation of the recovery of `image`.
    fn check_again(
        &self,
        metadata: Metadata,
        seed: u64,
        at: usize,
        image: &CrashImage,
        context: &dyn Fn() -> String,
    ) -> usize {
        let recorder = CrashRecorder::on(&image.directory);
        let fs = open(recorder.root());
        // All of it was promised once more.
        let recovered = recorder.operation_count();
        drop(fs);
        let mut sampler = Sampler::new(seed, 2);
        let mut timeline = recorder.timeline(metadata);
        let mut images = 0;
        for again in 0..=recovered {
            timeline.advance(again);
            for second in timeline.images(&mut sampler) {
                images += 1;
                if let Err(problem) = self.check_disk(metadata, at, &second.directory) {
                    panic!(
                        "{problem}\nafter a second cut at {again}: {}\nthe first: {}",
                        second.description,
                        context()
                    );
                }
            }
        }
        images
    }

    fn check_disk(
        &self,
        metadata: Metadata,
        at: usize,
        disk: &MemoryDirectory,
    ) -> Result<(), String> {
        undamaged(disk).map_err(|problem| format!("before recovery: {problem}"))?;
        let fs = open(disk.open_directory(b".").unwrap());
        let found = look(&fs)?;
        let window = Window::new(&self.moments, at);
        if metadata == Metadata::Ordered {
            window.check_order(&found)?;
        }
        window.check_names(&found)?;
        window.check_nothing_lost(&found)?;
        window.check_files(&found)?;
        // And it is a vault as good as any.
        let ino = fs
            .create(&CALLER, ROOT, b"after the cut", 0o600)
            .and_then(|entry| fs.write(entry.attributes.ino, 0, b"after").map(|_| entry))
            .map_err(|error| format!("not writable: {error}"))?
            .attributes
            .ino;
        fs.release(ino);
        fs.forget(ino, 1);
        fs.close().map_err(|error| format!("does not close: {error}"))?;
        let fs = open(disk.open_directory(b".").unwrap());
        if fs.recovered().unclean {
            return Err("unclean after a clean end".into());
        }
        let mut again = look(&fs)?;
        let ours = again.names.remove(&(ROOT, b"after the cut".to_vec()));
        if ours.and_then(|ino| again.files.remove(&ino)).is_none_or(|view| view.content != b"after")
        {
            return Err("what was written after the recovery is lost".into());
        }
        if again != found {
            return Err(format!("changed by a clean end:\n{found:?}\n{again:?}"));
        }
        fs.close().map_err(|error| format!("does not close again: {error}"))?;
        undamaged(disk).map_err(|problem| format!("in the end: {problem}"))
    }
}

fn undamaged(disk: &MemoryDirectory) -> Result<(), String> {
    let vault = disk.open_directory(b".").unwrap();
    let session = Session::open(vault, &master(), "a test").map_err(|error| error.to_string())?;
    let options = Options { read_data: true, threads: 1 };
    let report = session.check(options, &Unobserved).map_err(|error| error.to_string())?;
    match report.damage().next() {
        Some(finding) => Err(format!("damage: {finding:?}")),
        None => Ok(()),
    }
}

/// The moments that a cut leaves possible.
struct Window<'a> {
    moments: &'a [Moment],
    /// Those that had come, at the least.
    acknowledged: usize,
}

impl<'a> Window<'a> {
    /// Of a cut at `at`: up to the moment that was under way.
    fn new(moments: &'a [Moment], at: usize) -> Self {
        let acknowledged = moments.partition_point(|moment| moment.operations <= at);
        // A step may have two.
        let end = moments.get(acknowledged).map_or(0, |moment| moment.operations);
        let possible = moments.partition_point(|moment| moment.operations <= end.max(at));
        Self { moments: &moments[..possible], acknowledged }
    }

    /// The last moment that such a promise covers: what was there is durable.
    fn since(&self, covers: impl Fn(Durable) -> bool) -> usize {
        let all = |durable| durable == Durable::Everything || covers(durable);
        let moments = &self.moments[..self.acknowledged];
        moments.iter().rposition(|moment| all(moment.durable)).unwrap_or(0)
    }

    /// Where the filesystem below keeps the order of metadata, everything but content is as it was
    /// at one moment.
    fn check_order(&self, found: &Tree) -> Result<(), String> {
        let since = self.since(|_| false);
        let bare = |tree: &Tree| {
            let mut tree = tree.clone();
            tree.files.values_mut().for_each(|view| view.content.clear());
            tree
        };
        let found = bare(found);
        if self.moments[since..].iter().any(|moment| bare(&moment.tree) == found) {
            return Ok(());
        }
        let moments: Vec<_> = self.moments[since..].iter().map(|moment| &moment.tree).collect();
        Err(format!("names and attributes of no moment: {found:?}\npossible: {moments:?}"))
    }

    /// Each name means what it meant at a moment since its directory was synced.
    fn check_names(&self, found: &Tree) -> Result<(), String> {
        let directories = found
            .files
            .iter()
            .filter(|(_, view)| view.kind == FileKind::Directory)
            .map(|(ino, _)| *ino);
        for directory in directories {
            let since = self.since(|durable| durable == Durable::Directory(directory));
            let possible = &self.moments[since..];
            let of_directory = |tree: &'a Tree| {
                tree.names
                    .range((directory, Vec::new())..)
                    .take_while(move |((at, _), _)| *at == directory)
            };
            let known = possible.iter().flat_map(|moment| of_directory(&moment.tree));
            let here = found
                .names
                .range((directory, Vec::new())..)
                .take_while(|((at, _), _)| *at == directory);
            for (place, _) in known.chain(here) {
                let is = found.names.get(place);
                if !possible.iter().any(|moment| moment.tree.names.get(place) == is) {
                    let name = place.1.escape_ascii();
                    return Err(format!("{name} in {directory:?} is {is:?}, which it never was"));
                }
            }
        }
        Ok(())
    }

    /// What had a name all the time since everything was durable has one.
    fn check_nothing_lost(&self, found: &Tree) -> Result<(), String> {
        let since = self.since(|_| false);
        let (first, later) = self.moments[since..].split_first().unwrap();
        for (ino, view) in &first.tree.files {
            let stays = |moment: &Moment| {
                moment.tree.files.get(ino).is_some_and(|later| later.kind == view.kind)
            };
            if later.iter().all(stays)
                && found.files.get(ino).is_none_or(|now| now.kind != view.kind)
            {
                return Err(format!("lost: {ino:?}, a {:?}", view.kind));
            }
        }
        Ok(())
    }

    /// Content, attributes and targets are those of moments since they were synced.
    fn check_files(&self, found: &Tree) -> Result<(), String> {
        for (ino, view) in &found.files {
            let of = |since: usize| {
                self.moments[since..].iter().filter_map(|moment| moment.tree.files.get(ino))
            };
            let synced =
                |durable| [Durable::File(*ino), Durable::Directory(*ino)].contains(&durable);
            let since = self.since(synced);
            if !of(since).any(|then| then.xattrs == view.xattrs) {
                return Err(format!("attributes of {ino:?}: {:?}", view.xattrs));
            }
            if !of(since).any(|then| then.mode == view.mode) {
                return Err(format!("mode of {ino:?}: {:o}", view.mode));
            }
            if !of(since).any(|then| then.target == view.target) {
                return Err(format!("target of {ino:?}"));
            }
            let since = self
                .since(|durable| synced(durable) || durable == Durable::Content(*ino))
                .max(self.put_in_place(*ino, found));
            let possible: Vec<&[u8]> = of(since)
                .filter(|then| then.kind == FileKind::Regular)
                .map(|then| &then.content[..])
                .collect();
            check_content(&view.content, &possible)
                .map_err(|problem| format!("content of {ino:?}: {problem}"))?;
        }
        Ok(())
    }

    /// The moment before a file was put in another's place, where the disk shows it there and no
    /// earlier moment can be the reason: it was whole then.
    fn put_in_place(&self, ino: InodeNumber, found: &Tree) -> usize {
        let put = |(index, moment): (usize, &Moment)| {
            let (directory, name, new) = moment.replaced.clone()?;
            let place = (directory, name);
            let since = self.since(|durable| durable == Durable::Directory(directory));
            let is = |tree: &Tree| tree.names.get(&place) == Some(&ino);
            let before = self.moments.get(since..index).unwrap_or_default();
            let told = new == ino && is(found) && !before.iter().any(|moment| is(&moment.tree));
            told.then(|| index - 1)
        };
        self.moments.iter().enumerate().filter_map(put).max().unwrap_or(0)
    }
}

fn check_content(found: &[u8], possible: &[&[u8]]) -> Result<(), String> {
    if possible.is_empty() {
        return if found.is_empty() { Ok(()) } else { Err("of no file that was".into()) };
    }
    let lengths = || possible.iter().map(|content| content.len());
    let (shortest, longest) = (lengths().min().unwrap(), lengths().max().unwrap());
    if !(shortest..=longest).contains(&found.len()) {
        return Err(format!("{} bytes, promised {shortest} to {longest}", found.len()));
    }
    for (offset, byte) in found.iter().enumerate() {
        // Where the file was shorter, what comes after may not have arrived.
        if !possible.iter().any(|content| content.get(offset).unwrap_or(&0) == byte) {
            let promised: Vec<_> = possible.iter().map(|content| content.get(offset)).collect();
            return Err(format!("byte {offset} is {byte}, possible were {promised:?}"));
        }
    }
    Ok(())
}
