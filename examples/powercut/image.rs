//! Owns how a disk is kept in a directory while it is not served: its inodes as JSON, and their
//! pages one after the other.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::content::{Content, Page, index, length};
use super::disk::Image;
use super::tree::{Inode, Slot, Tree};

const INODES: &str = "inodes.json";
const PAGES: &str = "pages";
const PAGE_BYTES: usize = 4096;

#[derive(Serialize, Deserialize)]
struct SavedInode {
    ino: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    rdev: u32,
    links: u32,
    target: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Name, inode and cookie.
    entries: Vec<(Vec<u8>, u64, u64)>,
    times: [SystemTime; 3],
    size: u64,
    /// Runs of pages with data, and how many; they follow each other in the other file.
    data: Vec<(u64, u64)>,
    /// Runs of pages without.
    allocated: Vec<(u64, u64)>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    next_ino: u64,
    last_cookie: u64,
    inodes: Vec<SavedInode>,
}

fn add(runs: &mut Vec<(u64, u64)>, page: u64) {
    match runs.last_mut() {
        Some((first, count)) if *first + *count == page => *count += 1,
        _ => runs.push((page, 1)),
    }
}

/// Keeps `image` in `directory`, which is made.
pub fn save(image: &Image, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut pages = BufWriter::new(fs::File::create(directory.join(PAGES))?);
    let mut inodes = Vec::new();
    for (ino, inode) in &image.tree.inodes {
        let (mut data, mut allocated) = (Vec::new(), Vec::new());
        let content = image.contents.get(ino);
        for (number, page) in content.into_iter().flat_map(Content::pages) {
            match page {
                Page::Data(bytes) => {
                    add(&mut data, number);
                    pages.write_all(&bytes[..])?;
                }
                Page::Allocated => add(&mut allocated, number),
            }
        }
        let entry = |(name, slot): (&Vec<u8>, &Slot)| (name.clone(), slot.ino, slot.cookie);
        inodes.push(SavedInode {
            ino: *ino,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            links: inode.links,
            target: inode.target.clone(),
            xattrs: inode.xattrs.clone().into_iter().collect(),
            entries: inode.entries.iter().map(entry).collect(),
            times: [inode.accessed, inode.modified, inode.changed],
            size: content.map_or(0, |content| content.size),
            data,
            allocated,
        });
    }
    pages.flush()?;
    let saved = Saved { next_ino: image.next_ino, last_cookie: image.tree.last_cookie, inodes };
    // Its presence says that the image is whole.
    let temporary = directory.join("new");
    fs::write(&temporary, serde_json::to_vec(&saved)?)?;
    fs::rename(temporary, directory.join(INODES))
}

/// The image in `directory`; an empty disk where there is none.
pub fn load(directory: &Path) -> io::Result<Image> {
    let text = match fs::read(directory.join(INODES)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Image { tree: Tree::new(), contents: HashMap::new(), next_ino: 0 });
        }
        read => read?,
    };
    let saved: Saved = serde_json::from_slice(&text)?;
    let pages = fs::read(directory.join(PAGES))?;
    let mut pages = pages.chunks_exact(PAGE_BYTES);
    let (mut inodes, mut contents) = (HashMap::new(), HashMap::new());
    for saved in saved.inodes {
        if saved.mode & libc::S_IFMT == libc::S_IFREG {
            let mut content = Content::default();
            for (first, count) in saved.allocated {
                content.allocate(first * length(PAGE_BYTES), count * length(PAGE_BYTES));
            }
            for (first, count) in saved.data {
                for (number, bytes) in (first..).zip(pages.by_ref().take(index(count))) {
                    let bytes = bytes.try_into().expect("a chunk is a page");
                    content.put(number, Some(Page::Data(Arc::new(bytes))));
                }
            }
            content.size = saved.size;
            contents.insert(saved.ino, content);
        }
        let entry = |(name, ino, cookie)| (name, Slot { ino, cookie });
        let inode = Inode {
            mode: saved.mode,
            uid: saved.uid,
            gid: saved.gid,
            rdev: saved.rdev,
            links: saved.links,
            target: saved.target,
            xattrs: saved.xattrs.into_iter().collect(),
            entries: saved.entries.into_iter().map(entry).collect::<BTreeMap<_, _>>(),
            accessed: saved.times[0],
            modified: saved.times[1],
            changed: saved.times[2],
        };
        inodes.insert(saved.ino, inode);
    }
    let tree = Tree { inodes, last_cookie: saved.last_cookie };
    Ok(Image { tree, contents, next_ino: saved.next_ino })
}
