//! The turns on a pipe in the place of the connection: its flags are set alike, and whoever reads it
//! while there is nothing returns at once or sleeps.

#![allow(clippy::unwrap_used)]

use std::io::{self, PipeWriter, Read as _, Write as _};
use std::sync::atomic::AtomicUsize;

use super::*;

/// Server threads that read requests, one byte each, from a pipe.
struct Server {
    turns: Turns,
    sender: PipeWriter,
    /// While this is held, requests that wait for it are not answered.
    gate: Arc<Mutex<()>>,
    answered: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

/// A request that is answered when the gate is open.
const GATED: u8 = 1;
/// No test waits longer.
const PATIENCE: Duration = Duration::from_secs(60);

impl Server {
    fn new(threads: usize) -> Self {
        let (receiver, sender) = io::pipe().unwrap();
        let turns = Turns::new(threads);
        turns.connect(receiver.try_clone().unwrap().into(), || ());
        let receiver = Arc::new(receiver);
        let gate = Arc::new(Mutex::new(()));
        let answered = Arc::new(AtomicUsize::new(0));
        let serve = || {
            let (turns, receiver) = (turns.share(), Arc::clone(&receiver));
            let (gate, answered) = (Arc::clone(&gate), Arc::clone(&answered));
            thread::spawn(move || {
                let mut request = [0u8];
                loop {
                    match (&*receiver).read(&mut request) {
                        Ok(0) => return,
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(error) => panic!("{error}"),
                    }
                    let _turn = turns.begin();
                    if request[0] == GATED {
                        drop(gate.lock());
                    }
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let threads = (0..threads).map(|_| serve()).collect();
        Self { turns, sender, gate, answered, threads }
    }

    fn ask(&self, request: u8) {
        (&self.sender).write_all(&[request]).unwrap();
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    /// Asks and waits for the answer, as one process would, so many times.
    fn ask_one_by_one(&self, count: usize) {
        for _ in 0..count {
            let before = self.answered();
            self.ask(0);
            until(|| self.answered() > before);
        }
    }

    fn end(self) {
        drop(self.sender);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.turns.close();
    }
}

fn until(condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "nothing came of it");
        thread::yield_now();
    }
}

/// Whether this machine lets it become hot at all.
fn has_processors() -> bool {
    thread::available_parallelism().map_or(1, usize::from) > 1
}

#[test]
fn all_is_answered_by_one_asker_and_by_many() {
    let server = Server::new(4);
    server.ask_one_by_one(2000);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..2000).for_each(|_| server.ask(0)));
        }
    });
    until(|| server.answered() == 10_000);
    server.end();
}

#[test]
fn threads_rest_while_it_is_hot_and_go_on_when_it_is_cold() {
    let server = Server::new(3);
    let shared = Arc::clone(&server.turns.shared);
    if !has_processors() {
        server.ask_one_by_one(500);
        assert!(!shared.hot.load(Ordering::SeqCst), "threads never rest on one processor");
        server.end();
        return;
    }
    // Other tests may crowd the processors for a while.
    until(|| {
        server.ask_one_by_one(50);
        shared.hot.load(Ordering::SeqCst) && shared.state.lock().resting > 0
    });
    until(|| {
        thread::sleep(TICK);
        !shared.hot.load(Ordering::SeqCst)
    });
    until(|| shared.waiting.load(Ordering::SeqCst) == 3);
    assert_eq!(shared.state.lock().resting, 0);
    let flags = fcntl_getfl(shared.connection.get().unwrap()).unwrap();
    assert!(!flags.contains(OFlags::NONBLOCK), "threads sleep in the kernel again");
    server.end();
}

#[test]
fn a_slow_request_holds_up_no_other() {
    let server = Server::new(2);
    for _ in 0..20 {
        server.ask_one_by_one(50);
        let closed = server.gate.lock();
        server.ask(GATED);
        server.ask_one_by_one(1);
        let before = server.answered();
        drop(closed);
        until(|| server.answered() == before + 1);
    }
    server.end();
}

#[test]
fn the_end_finds_nobody_at_rest() {
    for _ in 0..20 {
        let server = Server::new(4);
        server.ask_one_by_one(100);
        // At once, while it may be hot.
        server.end();
    }
}

#[test]
fn what_is_done_beside_is_done_while_hot_and_once_more_after() {
    let (receiver, _sender) = io::pipe().unwrap();
    let turns = Turns::new(1);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    turns.connect(receiver.into(), move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    if has_processors() {
        until(|| {
            drop(turns.begin());
            turns.are_hot()
        });
        until(|| !turns.are_hot());
        let seen = calls.load(Ordering::SeqCst);
        assert!(seen > 0);
    }
    turns.close();
}
