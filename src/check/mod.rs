//! Owns fsck and audit of an unmounted vault.
