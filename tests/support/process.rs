//! Other processes, told what to do step by step.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What an expression finds: `path`, and the means to open and lock it.
const PRELUDE: &str = r"
import errno, fcntl, os, struct, sys
path = sys.argv[1]
READ, WRITE, NONE = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
NOW, WAIT, TELL = 0, 1, 2
COMMANDS = {'fcntl': (6, 7, 5), 'ofd': (37, 38, 36)}
opened = {}
def use(name, flags=os.O_RDWR, path=path):
    opened[name] = os.open(path, flags)
def lock(name, kind, how, start=0, length=0, then=NOW):
    if kind == 'flock':
        operation = {READ: fcntl.LOCK_SH, WRITE: fcntl.LOCK_EX, NONE: fcntl.LOCK_UN}[how]
        return fcntl.flock(opened[name], operation | (fcntl.LOCK_NB if then == NOW else 0))
    asked = struct.pack('hhqqi0q', how, 0, start, length, 0)
    told = struct.unpack('hhqqi0q', fcntl.fcntl(opened[name], COMMANDS[kind][then], asked))
    return told if then == TELL else None
def count(kind, times):
    for _ in range(times):
        lock('file', kind, WRITE, then=WAIT)
        number = int(os.pread(opened['file'], 20, 0))
        os.pwrite(opened['file'], b'%020d' % (number + 1), 0)
        lock('file', kind, NONE)
def create_each(files):
    made = 0
    for number in range(files):
        try:
            os.close(os.open(f'{path}/{number}', os.O_CREAT | os.O_EXCL))
            made += 1
        except FileExistsError:
            pass
    return made
for line in sys.stdin:
    try:
        print(eval(line), flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
";

/// A process that evaluates expressions of Python.
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// One that knows `path`.
    ///
    /// # Panics
    /// Without `python3`.
    pub fn new(path: &Path) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", PRELUDE])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, input, output }
    }

    /// Has it do something without waiting for it.
    #[track_caller]
    pub fn begin(&mut self, expression: &str) {
        let mut input = self.input.as_ref().expect("its input");
        writeln!(input, "{expression}").expect("it listens");
    }

    /// What came of what was begun first: the value, or the name of the errno.
    #[track_caller]
    pub fn outcome(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it answers");
        assert!(line.ends_with('\n'), "it ended");
        line.trim_end().to_owned()
    }

    /// What an expression gives.
    #[track_caller]
    pub fn ask(&mut self, expression: &str) -> String {
        self.begin(expression);
        self.outcome()
    }

    /// Has it do something that must succeed and gives nothing.
    #[track_caller]
    pub fn does(&mut self, expression: &str) {
        assert_eq!(self.ask(expression), "None", "{expression}");
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it end by itself, and waits for it.
    #[track_caller]
    pub fn exit(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().expect("its end").success());
    }

    /// Kills it, and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("its end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
