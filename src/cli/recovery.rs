//! Giving a recovery key to its owner: once, into a file or onto the terminal, never into a log.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Context;
use super::exit_code::ExitCode;
use super::failure::{CommandResult, Failure};
use super::prompt::has_terminal;
use crate::crypto::{RECOVERY_WORDS, RecoveryKey};

/// Words in a printed line.
const COLUMNS: usize = 4;

/// Where the recovery key goes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RecoveryOutput {
    /// Write the recovery key's words to FILE, which must not exist ("-": standard output).
    #[arg(long, value_name = "FILE", help_heading = "Recovery key")]
    pub recovery_key_out: Option<PathBuf>,
    /// Do not ask for two of its words to see that they were written down.
    #[arg(long, help_heading = "Recovery key")]
    pub no_confirm_recovery_key: bool,
}

impl RecoveryOutput {
    /// Whether there is a place for it.
    pub fn has_place(&self, context: &Context) -> bool {
        self.recovery_key_out.is_some() || (has_terminal() && !context.output.is_json())
    }

    /// Gives the key to the owner.
    ///
    /// # Errors
    /// The file exists or cannot be written, or the terminal cannot.
    pub fn give(&self, key: &RecoveryKey, context: &Context) -> CommandResult {
        let words = key.words();
        match &self.recovery_key_out {
            Some(path) if path == Path::new("-") => {
                if !context.output.is_json() {
                    context.output.print(words.as_str());
                }
                Ok(())
            }
            Some(path) => write_file(path, &words),
            None => self.show(&words),
        }
    }

    /// What the JSON result tells of it.
    pub fn describe(&self, key: &RecoveryKey) -> serde_json::Value {
        match &self.recovery_key_out {
            Some(path) if path == Path::new("-") => key.words().as_str().into(),
            Some(path) => path.display().to_string().into(),
            None => serde_json::Value::Null,
        }
    }

    /// Takes back the file that [`Self::give`] wrote, when what it opens did not come to be.
    pub fn take_back(&self) {
        if let Some(path) = &self.recovery_key_out
            && path != Path::new("-")
        {
            let _ = std::fs::remove_file(path);
        }
    }

    fn show(&self, words: &Zeroizing<String>) -> CommandResult {
        let tty = Path::new("/dev/tty");
        let failed = |error: io::Error| Failure::io("show the recovery key on", tty, &error);
        let mut terminal = OpenOptions::new().read(true).write(true).open(tty).map_err(failed)?;
        let list: Vec<&str> = words.split(' ').collect();
        let mut text = Zeroizing::new(String::with_capacity(1024));
        text.push_str(
            "\nThe recovery key opens the vault when the passphrase is lost. It is shown this \
             once:\n\n",
        );
        for (index, word) in list.iter().enumerate() {
            text.push_str(&format!("  {:2} {word:<9}", index + 1));
            if (index + 1) % COLUMNS == 0 {
                text.push('\n');
            }
        }
        text.push_str("\nWrite the words on paper and keep them apart from this machine.\n");
        terminal.write_all(text.as_bytes()).map_err(failed)?;
        if self.no_confirm_recovery_key {
            return Ok(());
        }
        confirm(&list, &mut terminal).map_err(failed)
    }
}

/// Asks for two of the words, until they are right or waved through.
fn confirm(words: &[&str], terminal: &mut File) -> io::Result<()> {
    let mut lines = BufReader::new(terminal.try_clone()?);
    let first = usize::from(crate::crypto::random_array::<1>()[0]) % (RECOVERY_WORDS / 2);
    let second = RECOVERY_WORDS / 2
        + usize::from(crate::crypto::random_array::<1>()[0]) % (RECOVERY_WORDS / 2);
    loop {
        write!(
            terminal,
            "\nTo see that they are written down, type words {} and {} (or \"skip\"): ",
            first + 1,
            second + 1
        )?;
        let mut line = Zeroizing::new(String::with_capacity(128));
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let typed: Vec<&str> = line.split_whitespace().collect();
        if typed == ["skip"] || typed == [words[first], words[second]] {
            return Ok(());
        }
        writeln!(terminal, "That is not what stands there.")?;
    }
}

fn write_file(path: &Path, words: &Zeroizing<String>) -> CommandResult {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(
        |error| match error.kind() {
            io::ErrorKind::AlreadyExists => Failure::new(
                ExitCode::AlreadyExists,
                format!("{} exists; a recovery key overwrites nothing", path.display()),
            )
            .hint("name a file that does not exist"),
            _ => Failure::io("write the recovery key to", path, &error),
        },
    )?;
    let written = file
        .write_all(words.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all());
    written.map_err(|error| {
        let _ = std::fs::remove_file(path);
        Failure::io("write the recovery key to", path, &error)
    })
}
