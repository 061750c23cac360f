//! What is told of what was noticed while a backup was written.

use crate::archive::{Noticed, SectionName};
use crate::cli::output::Output;
use crate::tree::TreePath;

/// Most files or processes that are named.
pub(super) const NAMED_MAX: usize = 5;

/// Warns of what is not in the backup, or not as anybody would expect.
pub(super) fn warn_of(noticed: &Noticed, output: &Output) {
    let named = |paths: &[(SectionName, TreePath)]| {
        let named: Vec<String> =
            paths.iter().take(NAMED_MAX).map(|(_, path)| path.to_string()).collect();
        let more = paths.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}", named.join(", "))
    };
    if !noticed.unstable.is_empty() {
        output.warn(format!(
            "changed while they were read, and kept as read last: {}",
            named(&noticed.unstable)
        ));
    }
    if !noticed.vanished.is_empty() {
        output.warn(format!("gone before they were read: {}", named(&noticed.vanished)));
    }
    if !noticed.mount_points.is_empty() {
        output.warn(format!(
            "other filesystems are mounted in the source, and are NOT in this backup: {}",
            named(&noticed.mount_points)
        ));
    }
    if !noticed.outside_links.is_empty() {
        output.warn(format!(
            "these have further names outside of the source, which a restore does not link: {}",
            named(&noticed.outside_links)
        ));
    }
    if !noticed.sockets.is_empty() {
        output.detail(format!("sockets are not stored: {}", named(&noticed.sockets)));
    }
}
