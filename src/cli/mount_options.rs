//! `-o`: the options of mount(8), as people and `/etc/fstab` write them.

use std::path::PathBuf;
use std::time::Duration;

use super::exit_code::ExitCode;
use super::failure::Failure;
use crate::fuse::KernelOptions;
use crate::profile::duration;

/// What `-o` said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// What the kernel sees.
    pub kernel: KernelOptions,
    /// Mount over a directory that holds files.
    pub nonempty: bool,
    /// Let idle CPUs sleep while the mount is busy.
    pub power_saving: bool,
    /// `passphrase_file=`.
    pub passphrase_file: Option<PathBuf>,
    /// `key_file=`.
    pub key_file: Option<PathBuf>,
    /// `config=`.
    pub config: Option<PathBuf>,
    /// `log_file=`.
    pub log_file: Option<PathBuf>,
    /// `keyring` or `keyring=NAME`; empty for the name that the vault's ID makes.
    pub keyring: Option<String>,
    /// `secret_service`.
    pub secret_service: bool,
    /// `idle=`.
    pub idle: Option<Duration>,
}

/// Options that mean something to others (mount(8), systemd) and nothing to us.
const IGNORED: [&str; 21] = [
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "diratime",
    "nodiratime",
    "rw",
    "async",
    "silent",
];

impl MountFlags {
    /// Reads options, each a comma-separated list; later ones win.
    ///
    /// # Errors
    /// An option that is not known.
    pub fn parse(lists: &[String]) -> Result<Self, Failure> {
        let mut flags = Self::default();
        for option in lists.iter().flat_map(|list| list.split(',')).filter(|o| !o.is_empty()) {
            flags.set(option)?;
        }
        Ok(flags)
    }

    fn set(&mut self, option: &str) -> Result<(), Failure> {
        let kernel = &mut self.kernel;
        match option.split_once('=') {
            Some(("passphrase_file" | "passfile", file)) => {
                self.passphrase_file = Some(file.into());
            }
            Some(("key_file" | "keyfile", file)) => self.key_file = Some(file.into()),
            Some(("config", file)) => self.config = Some(file.into()),
            Some(("log_file", file)) => self.log_file = Some(file.into()),
            Some(("keyring", name)) => self.keyring = Some(name.to_owned()),
            Some(("idle", time)) => {
                let idle = duration(time).map_err(|message| {
                    Failure::new(ExitCode::Usage, format!("the mount option idle: {message}"))
                })?;
                self.idle = Some(idle);
            }
            Some(("fsname" | "subtype" | "comment", _)) => {}
            Some((name, _)) if is_foreign(name) => {}
            Some(_) => return Err(unknown(option)),
            None => match option {
                "ro" => kernel.read_only = true,
                "allow_other" => kernel.allow_other = true,
                "default_permissions" => kernel.default_permissions = true,
                "exec" => kernel.no_exec = false,
                "noexec" => kernel.no_exec = true,
                "suid" => kernel.set_user_id = true,
                "nosuid" => kernel.set_user_id = false,
                "dev" => kernel.devices = true,
                "nodev" => kernel.devices = false,
                "atime" => kernel.no_access_time = false,
                "noatime" => kernel.no_access_time = true,
                "sync" => kernel.synchronous = true,
                "dirsync" => kernel.synchronous_directories = true,
                "nonempty" => self.nonempty = true,
                "power_saving" => self.power_saving = true,
                "keyring" => self.keyring = Some(String::new()),
                "secret_service" => self.secret_service = true,
                "allow_root" => {
                    return Err(Failure::new(
                        ExitCode::Usage,
                        "the mount option allow_root is not supported",
                    )
                    .hint("take allow_other: the permissions of the files still hold"));
                }
                name if IGNORED.contains(&name) || is_foreign(name) => {
                    if name == "rw" {
                        kernel.read_only = false;
                    } else if name == "async" {
                        kernel.synchronous = false;
                    }
                }
                _ => return Err(unknown(option)),
            },
        }
        Ok(())
    }
}

fn is_foreign(name: &str) -> bool {
    name.starts_with("x-") || name.starts_with("X-")
}

fn unknown(option: &str) -> Failure {
    Failure::new(ExitCode::Usage, format!("unknown mount option {option}"))
        .hint("strongroom mount --help lists those that are known")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(list: &str) -> Result<MountFlags, Failure> {
        MountFlags::parse(&[list.to_owned()])
    }

    #[test]
    fn lines_of_fstab_are_understood() {
        let flags = parse(
            "defaults,ro,noexec,nosuid,nodev,noatime,allow_other,default_permissions,_netdev,\
             nofail,noauto,user,x-systemd.automount,x-systemd.idle-timeout=10min,comment=abc,\
             key_file=/root/key,config=/etc/vault.json,nonempty,power_saving,idle=10m,keyring,secret_service,",
        )
        .unwrap();
        assert!(flags.kernel.read_only && flags.kernel.no_exec && flags.kernel.no_access_time);
        assert!(flags.kernel.allow_other && flags.kernel.default_permissions && flags.nonempty);
        assert!(flags.power_saving);
        assert!(!flags.kernel.set_user_id && !flags.kernel.devices);
        assert_eq!(flags.key_file.unwrap(), PathBuf::from("/root/key"));
        assert_eq!(flags.config.unwrap(), PathBuf::from("/etc/vault.json"));
        assert_eq!(flags.idle, Some(Duration::from_secs(600)));
        assert_eq!(flags.keyring.as_deref(), Some(""));
        assert!(flags.secret_service);
        assert_eq!(parse("keyring=a").unwrap().keyring.unwrap(), "a");
        assert_eq!(parse("").unwrap(), MountFlags::default());
    }

    #[test]
    fn the_last_word_counts() {
        let lists = ["ro,suid,sync".to_owned(), "rw,nosuid,async".to_owned()];
        assert_eq!(MountFlags::parse(&lists).unwrap(), MountFlags::default());
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for option in ["uid=1000", "bogus", "allow_root", "ro=1", "max_read=1", "idle=soon"] {
            assert_eq!(parse(option).unwrap_err().code, ExitCode::Usage, "{option}");
        }
    }
}
