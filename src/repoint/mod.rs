//! Owns format-preserving edits of configuration files.
