//! Owns what is particular to Compose files: which paths are the container's, and which part of a
//! volume is the host's.

use super::scalar::{Key, Part, Role, Scalar};
use super::yaml::Anchors;

/// Keys of a service whose values are read inside the container.
const INSIDE: [&str; 11] = [
    "annotations",
    "command",
    "entrypoint",
    "environment",
    "healthcheck",
    "labels",
    "post_start",
    "pre_stop",
    "tmpfs",
    "user",
    "working_dir",
];

/// Tells which scalars are volumes or the container's own, if the file is a Compose file.
pub(super) fn assign_roles(scalars: &mut [Scalar], anchors: &Anchors) {
    if !is_compose(scalars) {
        return;
    }
    for scalar in scalars {
        if scalar.role != Role::Value {
            continue;
        }
        scalar.role = role(&scalar.key).unwrap_or_else(|| {
            aliased(&scalar.key, anchors).iter().find_map(role).unwrap_or(Role::Value)
        });
    }
}

/// Services with an image or a build, or with what overrides say of services.
fn is_compose(scalars: &[Scalar]) -> bool {
    scalars.iter().any(|scalar| {
        matches!(
            scalar.key.names().as_slice(),
            [Some("services"), Some(_), Some("image" | "build" | "environment"), ..]
                | [Some("services"), Some(_), Some("volumes" | "ports"), None, ..]
        )
    })
}

fn role(key: &Key) -> Option<Role> {
    let names = key.names();
    let [Some("services"), Some(_), Some(section), rest @ ..] = names.as_slice() else {
        return None;
    };
    match (*section, rest) {
        ("volumes" | "devices", [None]) => Some(Role::Volume),
        ("volumes" | "configs" | "secrets", [None, Some("target")])
        | ("build", [Some("args"), ..]) => Some(Role::Container),
        ("develop", [.., Some("target")]) => Some(Role::Container),
        (section, _) if INSIDE.contains(&section) => Some(Role::Container),
        _ => None,
    }
}

/// The keys under which a node is seen through aliases and merges.
fn aliased(key: &Key, anchors: &Anchors) -> Vec<Key> {
    anchors
        .aliases
        .iter()
        .filter_map(|(alias, anchor)| {
            let place = anchors.places.get(anchor)?;
            let rest = key.0.strip_prefix(place.0.as_slice())?;
            let mut seen = alias.0.clone();
            let merge = |part: &Part| *part == Part::Name("<<".to_owned());
            if let Some(at) = seen.iter().position(merge) {
                seen.truncate(at);
            }
            seen.extend_from_slice(rest);
            Some(Key(seen))
        })
        .collect()
}
