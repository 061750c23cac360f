//! Where secrets come from: the terminal, a file, a command, a descriptor, standard input, a
//! systemd credential, a keyring. Never the arguments, never the environment.

use std::fs::File;
use std::io::{self, BufRead as _, IsTerminal as _, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use super::exit_code::ExitCode;
use super::failure::{Failure, plain_reason};
use super::output::Output;
use super::secret_stores;
use crate::crypto::{
    KeyFile, MAX_KEY_FILE_LEN, MAX_PASSPHRASE_LEN, Passphrase, RecoveryKey, Secret, SecretError,
};

/// The longest passphrase, in bytes, newline included.
const MAX_PASSPHRASE: usize = MAX_PASSPHRASE_LEN + 2;
/// The longest key file, in bytes; one more, so that a longer one is told from one of that length.
const MAX_KEY_FILE: usize = MAX_KEY_FILE_LEN + 1;
/// The names under which a systemd credential is looked for (`systemd.exec(5)`), in this order.
const CREDENTIALS: [(&str, Kind); 3] = [
    ("strongroom.passphrase", Kind::Passphrase),
    ("strongroom.key-file", Kind::KeyFile),
    ("passphrase", Kind::Passphrase),
];

/// Bytes that are wiped when dropped.
pub type SecretBytes = Zeroizing<Vec<u8>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Passphrase,
    KeyFile,
    RecoveryKey,
}

impl Kind {
    const fn noun(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::KeyFile => "key file",
            Self::RecoveryKey => "recovery key",
        }
    }

    fn give(self, bytes: SecretBytes) -> Result<Secret, SecretError> {
        match self {
            Self::Passphrase => Passphrase::new(bytes).map(Secret::Passphrase),
            Self::KeyFile => KeyFile::new(bytes).map(Secret::KeyFile),
            Self::RecoveryKey => {
                let words = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
                RecoveryKey::parse(&words).map(Secret::RecoveryKey)
            }
        }
    }
}

/// Options that give the secret that opens a vault or an archive.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(id = "secret", multiple = false)]
pub struct SecretArgs {
    /// Read the passphrase from FILE ("-": standard input); a newline at its end is not part of
    /// it.
    #[arg(long, value_name = "FILE", help_heading = "Secret")]
    pub passphrase_file: Option<PathBuf>,
    /// Run COMMAND with `sh -c` and take its output as the passphrase.
    #[arg(long, value_name = "COMMAND", help_heading = "Secret")]
    pub passphrase_command: Option<String>,
    /// Read the passphrase from the open file descriptor N.
    #[arg(long, value_name = "N", help_heading = "Secret")]
    pub passphrase_fd: Option<u32>,
    /// Use the key file FILE.
    #[arg(long, value_name = "FILE", help_heading = "Secret")]
    pub key_file: Option<PathBuf>,
    /// Take the passphrase from the kernel's keyring: the key NAME, or the one that
    /// `key store VAULT keyring` made.
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true,
        default_missing_value = "", help_heading = "Secret")]
    pub keyring: Option<String>,
    /// Take the passphrase from the desktop's Secret Service, where
    /// `key store VAULT secret-service` put it.
    #[arg(long, help_heading = "Secret")]
    pub secret_service: bool,
    /// Ask for the recovery key's words.
    #[arg(long, help_heading = "Secret")]
    pub recovery_key: bool,
    /// Read the recovery key's words from FILE.
    #[arg(long, value_name = "FILE", help_heading = "Secret")]
    pub recovery_key_file: Option<PathBuf>,
}

/// Options that give a new secret, for a key slot to be made.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(id = "new-secret", multiple = false)]
pub struct NewSecretArgs {
    /// Read the new passphrase from FILE ("-": standard input).
    #[arg(long, value_name = "FILE", help_heading = "New secret")]
    pub new_passphrase_file: Option<PathBuf>,
    /// Run COMMAND with `sh -c` and take its output as the new passphrase.
    #[arg(long, value_name = "COMMAND", help_heading = "New secret")]
    pub new_passphrase_command: Option<String>,
    /// Read the new passphrase from the open file descriptor N.
    #[arg(long, value_name = "N", help_heading = "New secret")]
    pub new_passphrase_fd: Option<u32>,
    /// Use the key file FILE as the new secret.
    #[arg(long, value_name = "FILE", help_heading = "New secret")]
    pub new_key_file: Option<PathBuf>,
}

enum Source<'a> {
    File(&'a Path),
    Command(&'a str),
    Descriptor(u32),
    Keyring(&'a str),
    SecretService,
    Terminal,
    StandardInput,
}

impl SecretArgs {
    /// The secret that opens `subject` ("the vault /srv/vault"). `id` is the vault's, by which
    /// others keep its secret.
    pub fn obtain(
        &self,
        subject: &str,
        id: Option<&str>,
        output: &Output,
    ) -> Result<Secret, Failure> {
        let (kind, bytes) = self.obtain_bytes(subject, id, output)?;
        give(kind, bytes)
    }

    /// A passphrase that opens `subject`, to be kept elsewhere: the secret, and its bytes.
    pub fn obtain_passphrase(
        &self,
        subject: &str,
        id: &str,
        output: &Output,
    ) -> Result<(Secret, SecretBytes), Failure> {
        let (kind, bytes) = self.obtain_bytes(subject, Some(id), output)?;
        if kind != Kind::Passphrase {
            return Err(Failure::new(
                ExitCode::Usage,
                format!("only a passphrase can be kept there, not a {}", kind.noun()),
            ));
        }
        Ok((give(kind, bytes.clone())?, bytes))
    }

    fn obtain_bytes(
        &self,
        subject: &str,
        id: Option<&str>,
        output: &Output,
    ) -> Result<(Kind, SecretBytes), Failure> {
        let (kind, source) = self.source()?;
        let prompt = format!("{} of {subject}", capitalised(kind.noun()));
        obtain_bytes(kind, &source, &prompt, id, false, output)
    }

    /// The secret of something that is being made: a passphrase typed is typed twice.
    pub fn obtain_new(&self, subject: &str, output: &Output) -> Result<Secret, Failure> {
        let (kind, source) = self.source()?;
        let prompt = format!("New {} for {subject}", kind.noun());
        obtain(kind, &source, &prompt, true, output)
    }

    /// Whether one of the options was given.
    pub fn is_given(&self) -> bool {
        self.passphrase_file.is_some()
            || self.passphrase_command.is_some()
            || self.passphrase_fd.is_some()
            || self.key_file.is_some()
            || self.keyring.is_some()
            || self.secret_service
            || self.recovery_key
            || self.recovery_key_file.is_some()
    }

    /// Whether the secret will be typed, so that a typing error deserves another try.
    pub fn is_typed(&self) -> bool {
        matches!(self.source(), Ok((_, Source::Terminal)))
    }

    fn source(&self) -> Result<(Kind, Source<'_>), Failure> {
        if let Some(path) = &self.passphrase_file {
            Ok((Kind::Passphrase, Source::File(path)))
        } else if let Some(command) = &self.passphrase_command {
            Ok((Kind::Passphrase, Source::Command(command)))
        } else if let Some(descriptor) = self.passphrase_fd {
            Ok((Kind::Passphrase, Source::Descriptor(descriptor)))
        } else if let Some(path) = &self.key_file {
            Ok((Kind::KeyFile, Source::File(path)))
        } else if let Some(name) = &self.keyring {
            Ok((Kind::Passphrase, Source::Keyring(name)))
        } else if self.secret_service {
            Ok((Kind::Passphrase, Source::SecretService))
        } else if let Some(path) = &self.recovery_key_file {
            Ok((Kind::RecoveryKey, Source::File(path)))
        } else if self.recovery_key {
            Ok((Kind::RecoveryKey, ask_or_read()))
        } else {
            Ok((Kind::Passphrase, ask_or_read()))
        }
    }
}

impl NewSecretArgs {
    /// The new secret for `subject`.
    pub fn obtain(&self, subject: &str, output: &Output) -> Result<Secret, Failure> {
        let (kind, source) = if let Some(path) = &self.new_passphrase_file {
            (Kind::Passphrase, Source::File(path))
        } else if let Some(command) = &self.new_passphrase_command {
            (Kind::Passphrase, Source::Command(command))
        } else if let Some(descriptor) = self.new_passphrase_fd {
            (Kind::Passphrase, Source::Descriptor(descriptor))
        } else if let Some(path) = &self.new_key_file {
            (Kind::KeyFile, Source::File(path))
        } else {
            (Kind::Passphrase, ask_or_read())
        };
        let prompt = format!("New {} for {subject}", kind.noun());
        obtain(kind, &source, &prompt, true, output)
    }
}

/// Whether a person can be asked.
pub fn has_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Asks a yes-or-no question on the terminal. `yes` (the option `--yes`) answers it; without a
/// terminal and without the option it is refused.
pub fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !has_terminal() {
        return Err(Failure::new(
            ExitCode::NotConfirmed,
            format!("this wants confirmation, and there is no terminal to ask on: {question}"),
        )
        .hint("give --yes to answer it beforehand"));
    }
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{question} [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES") {
        return Ok(());
    }
    Err(Failure::new(ExitCode::NotConfirmed, "not confirmed; nothing was changed"))
}

fn ask_or_read() -> Source<'static> {
    if has_terminal() { Source::Terminal } else { Source::StandardInput }
}

fn obtain(
    kind: Kind,
    source: &Source<'_>,
    prompt: &str,
    twice: bool,
    output: &Output,
) -> Result<Secret, Failure> {
    let (kind, bytes) = obtain_bytes(kind, source, prompt, None, twice, output)?;
    give(kind, bytes)
}

fn obtain_bytes(
    kind: Kind,
    source: &Source<'_>,
    prompt: &str,
    id: Option<&str>,
    twice: bool,
    output: &Output,
) -> Result<(Kind, SecretBytes), Failure> {
    let limit = if kind == Kind::KeyFile { MAX_KEY_FILE } else { MAX_PASSPHRASE };
    let (kind, bytes) = match source {
        Source::File(path) if kind != Kind::KeyFile && *path == Path::new("-") => {
            (kind, read_bounded(&mut io::stdin().lock(), limit, "standard input")?)
        }
        Source::File(path) => (kind, read_file(path, kind, limit, output)?),
        Source::Command(command) => (kind, run_command(command, limit)?),
        Source::Descriptor(number) => (kind, read_descriptor(*number, limit)?),
        Source::Keyring(name) => (kind, secret_stores::from_keyring(name, id)?),
        Source::SecretService => (kind, secret_stores::from_service(id)?),
        Source::Terminal if !twice || kind == Kind::RecoveryKey => (kind, ask(prompt)?),
        Source::Terminal => (kind, ask_twice(prompt)?),
        Source::StandardInput => match credential()? {
            Some(found) if kind == Kind::Passphrase => found,
            _ => (kind, read_bounded(&mut io::stdin().lock(), limit, "standard input")?),
        },
    };
    let bytes = if kind == Kind::KeyFile { bytes } else { without_newline(bytes) };
    if bytes.is_empty() {
        return Err(match source {
            Source::StandardInput => Failure::new(
                ExitCode::NoSecret,
                format!("no {} was given, and there is no terminal to ask on", kind.noun()),
            )
            .hint(
                "use --passphrase-file, --passphrase-command, --passphrase-fd or --key-file, or \
                 write the passphrase to standard input",
            ),
            _ => Failure::new(ExitCode::NoSecret, format!("the {} is empty", kind.noun())),
        });
    }
    Ok((kind, bytes))
}

fn give(kind: Kind, bytes: SecretBytes) -> Result<Secret, Failure> {
    kind.give(bytes).map_err(|error| {
        let code = match error {
            SecretError::EmptyPassphrase | SecretError::LongPassphrase => ExitCode::NoSecret,
            SecretError::ShortKeyFile { .. }
            | SecretError::LongKeyFile
            | SecretError::WordCount { .. }
            | SecretError::UnknownWord { .. }
            | SecretError::Checksum => ExitCode::WrongSecret,
        };
        Failure::new(code, error.to_string())
    })
}

/// A credential that systemd put at our disposal.
fn credential() -> Result<Option<(Kind, SecretBytes)>, Failure> {
    let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") else {
        return Ok(None);
    };
    for (name, kind) in CREDENTIALS {
        let path = Path::new(&directory).join(name);
        if path.exists() {
            let limit = if kind == Kind::KeyFile { MAX_KEY_FILE } else { MAX_PASSPHRASE };
            // systemd lets in whom the unit runs as, by its own rules.
            let mut file = File::open(&path)
                .map_err(|error| Failure::io("read the secret in", &path, &error))?;
            return Ok(Some((kind, read_bounded(&mut file, limit, name)?)));
        }
    }
    Ok(None)
}

fn read_file(
    path: &Path,
    kind: Kind,
    limit: usize,
    output: &Output,
) -> Result<SecretBytes, Failure> {
    let mut file =
        File::open(path).map_err(|error| Failure::io("read the secret in", path, &error))?;
    if let Ok(metadata) = file.metadata()
        && metadata.is_file()
        && metadata.permissions().mode() & 0o077 != 0
    {
        output.warn(format!(
            "other users may read the {} in {}; chmod 600 keeps it yours",
            kind.noun(),
            path.display()
        ));
    }
    read_bounded(&mut file, limit, &path.display().to_string())
}

fn read_descriptor(number: u32, limit: usize) -> Result<SecretBytes, Failure> {
    if number == 0 {
        return read_bounded(&mut io::stdin().lock(), limit, "standard input");
    }
    // Opening it anew under /dev/fd takes no ownership of a descriptor that somebody else opened.
    let path = PathBuf::from(format!("/dev/fd/{number}"));
    let mut file = File::open(&path).map_err(|error| {
        Failure::new(
            ExitCode::NoSecret,
            format!("cannot read from file descriptor {number}: {}", plain_reason(&error)),
        )
        .hint("open it in the shell, for example: strongroom … --passphrase-fd 3 3<FILE")
    })?;
    read_bounded(&mut file, limit, &format!("file descriptor {number}"))
}

fn run_command(command: &str, limit: usize) -> Result<SecretBytes, Failure> {
    let failed = |reason: String| {
        Failure::new(ExitCode::CommandFailed, format!("the passphrase command {reason}"))
            .hint("run it by hand; it must write the passphrase to standard output and exit with 0")
    };
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("could not be started: {}", plain_reason(&error))))?;
    let read = match child.stdout.take() {
        Some(mut stdout) => read_bounded(&mut stdout, limit, "the passphrase command"),
        None => Ok(Zeroizing::new(Vec::new())),
    };
    let status =
        child.wait().map_err(|error| failed(format!("was lost: {}", plain_reason(&error))))?;
    if !status.success() {
        return Err(failed(format!("failed ({status})")));
    }
    read
}

/// Reads all, at most `limit` bytes. Grows by whole copies that are wiped, so that no part of the
/// secret stays behind in memory given back.
fn read_bounded(source: &mut dyn Read, limit: usize, name: &str) -> Result<SecretBytes, Failure> {
    let mut buffer = Zeroizing::new(vec![0u8; 4096]);
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            if filled > limit {
                return Err(Failure::new(
                    ExitCode::NoSecret,
                    format!("the secret from {name} is longer than {limit} bytes"),
                ));
            }
            let mut larger = Zeroizing::new(vec![0u8; buffer.len() * 2]);
            larger[..filled].copy_from_slice(&buffer);
            buffer = larger;
        }
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(Failure::new(
                    ExitCode::NoSecret,
                    format!("cannot read the secret from {name}: {}", plain_reason(&error)),
                ));
            }
        }
    }
    if filled > limit {
        return Err(Failure::new(
            ExitCode::NoSecret,
            format!("the secret from {name} is longer than {limit} bytes"),
        ));
    }
    buffer.truncate(filled);
    Ok(buffer)
}

fn ask(prompt: &str) -> Result<SecretBytes, Failure> {
    match rpassword::prompt_password(format!("{prompt}: ")) {
        Ok(text) => Ok(Zeroizing::new(text.into_bytes())),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            Err(Failure::new(ExitCode::Interrupted, "interrupted; nothing was changed"))
        }
        Err(error) => Err(Failure::new(
            ExitCode::NoSecret,
            format!("cannot ask on the terminal: {}", plain_reason(&error)),
        )),
    }
}

fn ask_twice(prompt: &str) -> Result<SecretBytes, Failure> {
    let first = ask(prompt)?;
    let second = ask("Once more, to be sure")?;
    if *first == *second {
        Ok(first)
    } else {
        Err(Failure::new(ExitCode::NotConfirmed, "the two do not match; nothing was changed"))
    }
}

fn without_newline(mut bytes: SecretBytes) -> SecretBytes {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    bytes
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Cursor;

    use super::*;

    fn trimmed(text: &[u8]) -> Vec<u8> {
        without_newline(Zeroizing::new(text.to_vec())).to_vec()
    }

    #[test]
    fn one_newline_goes() {
        assert_eq!(trimmed(b"secret\n"), b"secret");
        assert_eq!(trimmed(b"secret\r\n"), b"secret");
        assert_eq!(trimmed(b"secret\n\n"), b"secret\n");
        assert_eq!(trimmed(b"secret "), b"secret ");
        assert_eq!(trimmed(b"secret\r"), b"secret\r");
        assert_eq!(trimmed(b"\n"), b"");
    }

    #[test]
    fn reading_is_bounded() {
        let exact = vec![7u8; MAX_PASSPHRASE];
        let read = read_bounded(&mut Cursor::new(&exact), MAX_PASSPHRASE, "x").unwrap();
        assert_eq!(*read, exact);
        let longer = vec![7u8; MAX_PASSPHRASE + 1];
        let failure = read_bounded(&mut Cursor::new(&longer), MAX_PASSPHRASE, "x").unwrap_err();
        assert_eq!(failure.code, ExitCode::NoSecret);
        // And an endless source ends.
        assert!(read_bounded(&mut io::repeat(1), MAX_PASSPHRASE, "x").is_err());
    }

    #[test]
    fn commands_give_passphrases_or_fail() {
        let bytes = run_command("printf 'hidden\\n'", MAX_PASSPHRASE).unwrap();
        assert_eq!(trimmed(&bytes), b"hidden");
        let failure = run_command("printf nearly; exit 3", MAX_PASSPHRASE).unwrap_err();
        assert_eq!(failure.code, ExitCode::CommandFailed);
    }
}
