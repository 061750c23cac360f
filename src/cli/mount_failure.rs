//! What it means that a vault could not be mounted: the exit code, and what to do about it.

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::shell::quote_path;
use crate::fuse::MountError;

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        let code = match &error {
            MountError::Missing(_)
            | MountError::NotDirectory(_)
            | MountError::NotEmpty(_)
            | MountError::Occupied { .. }
            | MountError::Dead(_)
            | MountError::InsideVault(_)
            | MountError::VaultInside(_)
            | MountError::Access { .. }
            | MountError::HelperRefused(_)
            | MountError::Refused { .. } => ExitCode::MountPoint,
            MountError::DeviceMissing
            | MountError::DeviceDenied(_)
            | MountError::HelperMissing
            | MountError::AllowOtherForbidden
            | MountError::Connection(_) => ExitCode::FuseUnavailable,
        };
        let failure = Self::new(code, error.to_string());
        match hint(&error) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// What to do about it, where that is known.
fn hint(error: &MountError) -> Option<String> {
    match error {
        MountError::Missing(path) => Some(format!("make it: mkdir -p {}", quote_path(path))),
        MountError::NotEmpty(_) => Some(
            "take another directory, or -o nonempty to hide what it holds while mounted".to_owned(),
        ),
        MountError::Occupied { path, .. } => {
            Some(format!("strongroom umount {}, or take another directory", quote_path(path)))
        }
        MountError::Dead(path) => Some(format!("fusermount3 -uz {}", quote_path(path))),
        MountError::InsideVault(_) | MountError::VaultInside(_) => {
            Some("take a directory beside the vault".to_owned())
        }
        MountError::DeviceMissing => Some(
            "as root: modprobe fuse; in a container: start it with --device /dev/fuse \
             --cap-add SYS_ADMIN"
                .to_owned(),
        ),
        MountError::DeviceDenied(_) => Some(
            "as root: chmod 666 /dev/fuse, or add the user to the group that owns it".to_owned(),
        ),
        MountError::HelperMissing => Some(
            "install it: apt install fuse3 (Debian, Ubuntu), dnf install fuse3 (Fedora), \
             apk add fuse3 (Alpine), pacman -S fuse3 (Arch)"
                .to_owned(),
        ),
        MountError::AllowOtherForbidden => {
            Some("as root, put the line user_allow_other into /etc/fuse.conf".to_owned())
        }
        MountError::HelperRefused(text) if text.contains("write access") => {
            Some("take a directory of your own".to_owned())
        }
        MountError::Refused { error, .. } if error.raw_os_error() == Some(libc::EPERM) => Some(
            "mounting wants root, or the program fusermount3 (package fuse3); a container \
             must be started with --device /dev/fuse --cap-add SYS_ADMIN"
                .to_owned(),
        ),
        MountError::NotDirectory(_)
        | MountError::Access { .. }
        | MountError::HelperRefused(_)
        | MountError::Refused { .. }
        | MountError::Connection(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_to_be_done_can_be_copied() {
        let failure = Failure::from(MountError::Missing("/srv/My Mount".into()));
        assert_eq!(failure.hint.unwrap(), "make it: mkdir -p '/srv/My Mount'");
        let refused = MountError::HelperRefused("user has no write access to mountpoint".into());
        assert!(Failure::from(refused).hint.is_some());
    }
}
