//! Owns the finding of profiles by name.

use std::path::{Path, PathBuf};

use super::{Environment, Error, Profile};

/// Directories of profiles, the first having precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    directories: Vec<PathBuf>,
}

/// One profile file of a library.
#[derive(Debug)]
pub struct Listed {
    /// The name to ask for it by: its file's, without `.toml`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The profile, or why it can't be used.
    pub profile: Result<Profile, Error>,
}

/// Below this likeness (Jaro-Winkler, 0 to 1) a name is not suggested.
const LIKENESS: f64 = 0.8;

impl Library {
    /// A library of these directories. Those that don't exist have no profiles.
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories }
    }

    /// The user's own profiles, the machine's, and those that come with strongroom.
    pub fn standard(environment: &Environment) -> Self {
        let own = environment.expand("${XDG_CONFIG_HOME}/strongroom/profiles").ok();
        let shared = ["/etc/strongroom/profiles", "/usr/share/strongroom/profiles"];
        let shared = shared.into_iter().map(PathBuf::from);
        Self::new(own.into_iter().chain(shared).collect())
    }

    /// Where profiles are looked for.
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// Every profile, by name.
    ///
    /// # Errors
    /// Where a directory exists but can't be read. Profiles that can't be used are listed as such.
    pub fn list(&self, environment: &Environment) -> Result<Vec<Listed>, Error> {
        let mut listed: Vec<Listed> = Vec::new();
        for (name, path) in self.files()? {
            if listed.iter().all(|other| other.name != name) {
                let profile = Profile::read(&path, environment);
                listed.push(Listed { name, path, profile });
            }
        }
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    fn files(&self) -> Result<Vec<(String, PathBuf)>, Error> {
        let mut files = Vec::new();
        for directory in &self.directories {
            let failed = |source| Error::Io { path: directory.clone(), action: "list", source };
            let entries = match std::fs::read_dir(directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            for entry in entries {
                let path = entry.map_err(failed)?.path();
                let stem = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
                let is_profile = path.extension().is_some_and(|extension| extension == "toml");
                if let Some(name) = stem.filter(|_| is_profile && path.is_file()) {
                    files.push((name, path));
                }
            }
        }
        Ok(files)
    }

    /// The file of a profile: `text` is a path where it has a slash or ends with `.toml`, else a
    /// name.
    ///
    /// # Errors
    /// [`Error::NotFound`], with the name of a profile like it if there is one.
    pub fn find(&self, text: &str) -> Result<PathBuf, Error> {
        if text.contains('/') || text.ends_with(".toml") {
            return Ok(PathBuf::from(text));
        }
        let files = self.files()?;
        if let Some((_, path)) = files.iter().find(|(name, _)| name == text) {
            return Ok(path.clone());
        }
        let likeness = |name: &str| strsim::jaro_winkler(name, text);
        let similar = files
            .iter()
            .map(|(name, _)| (likeness(name), name))
            .filter(|(likeness, _)| *likeness >= LIKENESS)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, name)| name.clone());
        Err(Error::NotFound { name: text.to_owned(), searched: self.directories.clone(), similar })
    }

    /// Finds and reads a profile.
    ///
    /// # Errors
    /// As [`Self::find`] and [`Profile::read`].
    pub fn read(&self, text: &str, environment: &Environment) -> Result<(Profile, PathBuf), Error> {
        let path = self.find(text)?;
        Ok((Profile::read(Path::new(&path), environment)?, path))
    }
}
