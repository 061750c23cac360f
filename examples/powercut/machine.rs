//! Owns the moment of the cut. From it on nothing is answered any more.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use parking_lot::Mutex;

use super::disk::Disk;
use super::image;

struct State {
    disk: Disk,
    /// Changes and syncs until the power is cut.
    left: Option<u64>,
}

/// A disk with a power supply.
pub struct Machine {
    state: Mutex<State>,
    /// Where the disk is kept that a cut leaves.
    to: PathBuf,
    ended: Sender<io::Result<String>>,
}

impl Machine {
    /// Cuts the power at the `after`th change or sync, the first being 1: when a change is done
    /// and nobody knows it yet, before a sync. The second tells of the end.
    pub fn new(
        disk: Disk,
        after: Option<u64>,
        to: PathBuf,
    ) -> (Self, Receiver<io::Result<String>>) {
        let (ended, end) = channel();
        (Self { state: Mutex::new(State { disk, left: after }), to, ended }, end)
    }

    /// Looks at the disk.
    pub fn with<T>(&self, look: impl FnOnce(&mut Disk) -> T) -> T {
        look(&mut self.state.lock().disk)
    }

    /// Changes something.
    pub fn change<T>(&self, change: impl FnOnce(&mut Disk) -> T) -> T {
        let mut state = self.state.lock();
        let done = change(&mut state.disk);
        self.count(&mut state);
        done
    }

    /// Syncs a file or directory.
    pub fn sync(&self, ino: u64, data_only: bool) {
        let mut state = self.state.lock();
        self.count(&mut state);
        state.disk.sync(ino, data_only);
    }

    fn count(&self, state: &mut State) {
        if let Some(left) = &mut state.left {
            *left -= 1;
            if *left == 0 {
                self.cut_in(state);
            }
        }
    }

    /// Cuts the power now.
    pub fn cut(&self) {
        self.cut_in(&mut self.state.lock());
    }

    /// Never returns: the disk stays locked, and who waits for an answer waits for ever.
    fn cut_in(&self, state: &mut State) {
        let (left, words) = state.disk.after_cut();
        let _ = self.ended.send(image::save(&left, &self.to).map(|()| words));
        loop {
            thread::park();
        }
    }

    /// The disk was unmounted.
    pub fn unmounted(&self) {
        let all = self.state.lock().disk.all();
        let saved = image::save(&all, &self.to);
        let _ = self.ended.send(saved.map(|()| "unmounted".to_owned()));
    }
}
