//! Where the library's log goes: standard error, a file, or the system's log.
//!
//! It holds neither secrets nor plain names, but for the path of a file in which damage was found.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::failure::Failure;

/// Where log lines go.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Standard error.
    StandardError,
    /// The end of a file.
    File(PathBuf),
    /// The system's log (`/dev/log`: journald, syslogd); nowhere, where there is none.
    System,
}

const SYSTEM_SOCKET: &str = "/dev/log";

/// Begins to log, once in a process.
///
/// # Errors
/// The file cannot be written.
pub fn begin(destination: &Destination, level: LevelFilter) -> Result<(), Failure> {
    // The FUSE library's own lines below a warning describe requests, names among them.
    let filter =
        Targets::new().with_default(level).with_target("fuser", level.min(LevelFilter::WARN));
    let layer = tracing_subscriber::fmt::layer().with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    let begun = match destination {
        Destination::StandardError => {
            registry.with(layer.with_ansi(false).without_time().with_writer(io::stderr)).try_init()
        }
        Destination::File(path) => {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path)
                .map_err(|error| Failure::io("write the log to", path, &error))?;
            registry.with(layer.with_ansi(false).with_writer(Arc::new(file))).try_init()
        }
        Destination::System => {
            let writer = SystemLog::new(Path::new(SYSTEM_SOCKET));
            let layer = layer.with_ansi(false).without_time().with_level(false);
            registry.with(layer.with_writer(writer)).try_init()
        }
    };
    // Another subscriber is there already: in tests, or when a command serves two mounts.
    let _ = begun;
    Ok(())
}

/// The system's log: one datagram a line (RFC 3164).
struct SystemLog {
    socket: Option<UnixDatagram>,
    tag: String,
}

impl SystemLog {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.connect(path)?;
            // A log that hangs shall not hold the mount up.
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Self { socket: socket.ok(), tag: format!("strongroom[{}]", std::process::id()) }
    }
}

struct Line<'a> {
    log: &'a SystemLog,
    priority: u8,
}

/// The facility `daemon`, times eight.
const DAEMON: u8 = 3 * 8;

impl<'a> MakeWriter<'a> for SystemLog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { log: self, priority: DAEMON + 6 }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        let severity = match *metadata.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        Line { log: self, priority: DAEMON + severity }
    }
}

impl Write for Line<'_> {
    /// Called once for each line.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if let Some(socket) = &self.log.socket {
            let mut datagram = format!("<{}>{}: ", self.priority, self.log.tag).into_bytes();
            datagram.extend_from_slice(text.trim_ascii_end());
            // Nobody could be told.
            let _ = socket.send(&datagram);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn system_log_takes_a_datagram_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let server = UnixDatagram::bind(&path).unwrap();
        let log = SystemLog::new(&path);
        log.make_writer().write_all(b"a line\n").unwrap();
        let mut buffer = [0; 100];
        let count = server.recv(&mut buffer).unwrap();
        let expected = format!("<30>strongroom[{}]: a line", std::process::id());
        assert_eq!(std::str::from_utf8(&buffer[..count]).unwrap(), expected);
    }

    #[test]
    fn without_a_system_log_nothing_fails() {
        let log = SystemLog::new(Path::new("/nonexistent/log"));
        log.make_writer().write_all(b"a line\n").unwrap();
    }
}
