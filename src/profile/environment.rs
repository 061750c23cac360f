//! Owns what a profile's paths may refer to: `~`, `$VAR`, `${VAR}`, `${VAR:-default}` and the XDG
//! directories with their defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The user and the variables that a profile is resolved for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The home directory.
    pub home: Option<PathBuf>,
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
}

/// XDG's base directories, below the home directory where the variable is not set.
const XDG: [(&str, &str); 4] = [
    ("XDG_CACHE_HOME", ".cache"),
    ("XDG_CONFIG_HOME", ".config"),
    ("XDG_DATA_HOME", ".local/share"),
    ("XDG_STATE_HOME", ".local/state"),
];

impl Environment {
    /// This process's user and variables. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let variables: BTreeMap<_, _> = std::env::vars_os().filter_map(text).collect();
        let home = variables.get("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let home = home.or_else(|| home_of(nix::unistd::User::from_uid(nix::unistd::geteuid())));
        Self { home, variables }
    }

    /// The same for another user: the home directory and XDG's are that user's.
    ///
    /// `None` where there is no such user.
    pub fn of_user(&self, name: &str) -> Option<Self> {
        let home = home_of(nix::unistd::User::from_name(name))?;
        if self.home.as_ref() == Some(&home) {
            return Some(self.clone());
        }
        let mut variables = self.variables.clone();
        variables.retain(|name, _| !name.starts_with("XDG_"));
        variables.insert("HOME".to_owned(), home.to_string_lossy().into_owned());
        Some(Self { home: Some(home), variables })
    }

    fn variable(&self, name: &str) -> Option<String> {
        if let Some(value) = self.variables.get(name).filter(|value| !value.is_empty()) {
            return Some(value.clone());
        }
        let home = self.home.as_ref()?;
        if name == "HOME" {
            return Some(home.to_string_lossy().into_owned());
        }
        let (_, below) = XDG.iter().find(|(xdg, _)| *xdg == name)?;
        Some(home.join(below).to_string_lossy().into_owned())
    }

    /// Expands a path's text.
    ///
    /// # Errors
    /// A message about a variable that is not set, or a brace that is not closed.
    pub fn expand(&self, text: &str) -> Result<PathBuf, String> {
        let mut result = String::new();
        let mut rest = text;
        if let Some(after) = text.strip_prefix('~') {
            if !after.is_empty() && !after.starts_with('/') {
                return Err("~ must be followed by a slash".to_owned());
            }
            let home = self.home.as_ref().ok_or("the home directory is not known")?;
            result.push_str(&home.to_string_lossy());
            rest = after;
        }
        while let Some((before, after)) = rest.split_once('$') {
            result.push_str(before);
            let (reference, default, after) = if let Some(inner) = after.strip_prefix('{') {
                let (inner, after) = inner.split_once('}').ok_or("a ${ has no }")?;
                let (name, default) = match inner.split_once(":-") {
                    Some((name, default)) => (name, Some(default)),
                    None => (inner, None),
                };
                (name, default, after)
            } else {
                let end = after
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(after.len());
                (&after[..end], None, &after[end..])
            };
            match (self.variable(reference), default) {
                (Some(value), _) => result.push_str(&value),
                (None, Some(default)) => {
                    result.push_str(&self.expand(default)?.to_string_lossy());
                }
                (None, None) => return Err(format!("the variable {reference} is not set")),
            }
            rest = after;
        }
        result.push_str(rest);
        Ok(PathBuf::from(result))
    }

    /// Expands a path's text; a relative one lies below `root`.
    ///
    /// # Errors
    /// As [`Self::expand`], and where it is relative and there is no root.
    pub fn resolve(&self, text: &str, root: Option<&Path>) -> Result<PathBuf, String> {
        let path = self.expand(text)?;
        match root {
            _ if path.as_os_str().is_empty() => Err("it is empty".to_owned()),
            _ if path.is_absolute() => Ok(path),
            Some(root) => Ok(root.join(path)),
            None => Err(format!("{} is relative, and there is no root", path.display())),
        }
    }
}

fn home_of(user: nix::Result<Option<nix::unistd::User>>) -> Option<PathBuf> {
    user.ok().flatten().map(|user| user.dir)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn environment() -> Environment {
        Environment {
            home: Some("/home/ada".into()),
            variables: [
                ("APP".to_owned(), "/srv/app".to_owned()),
                ("EMPTY".to_owned(), String::new()),
                ("XDG_CACHE_HOME".to_owned(), "/var/cache/ada".to_owned()),
            ]
            .into(),
        }
    }

    #[test]
    fn what_expands() {
        for (text, expanded) in [
            ("~", "/home/ada"),
            ("~/x", "/home/ada/x"),
            ("/a/~/b", "/a/~/b"),
            ("$APP/x", "/srv/app/x"),
            ("${APP}x", "/srv/appx"),
            ("$HOME/$APP", "/home/ada//srv/app"),
            ("${MISSING:-~/y}/z", "/home/ada/y/z"),
            ("${EMPTY:-/e}", "/e"),
            ("${APP:-/e}", "/srv/app"),
            ("${XDG_DATA_HOME}/a", "/home/ada/.local/share/a"),
            ("$XDG_CACHE_HOME/a", "/var/cache/ada/a"),
            ("plain", "plain"),
        ] {
            assert_eq!(environment().expand(text).unwrap(), Path::new(expanded), "{text}");
        }
        for text in ["$MISSING", "${APP", "~other/x", "$", "${}"] {
            assert!(environment().expand(text).is_err(), "{text}");
        }
    }

    #[test]
    fn relative_paths_need_a_root() {
        let environment = environment();
        assert_eq!(environment.resolve("a", Some(Path::new("/r"))).unwrap(), Path::new("/r/a"));
        assert_eq!(environment.resolve("/a", Some(Path::new("/r"))).unwrap(), Path::new("/a"));
        assert!(environment.resolve("a", None).is_err());
        assert!(environment.resolve("", Some(Path::new("/r"))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_expands_or_not(text in "[~/${}:a-zA-Z -]{0,20}") {
            let _ = environment().expand(&text);
        }
    }
}
