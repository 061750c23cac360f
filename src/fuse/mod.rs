//! Owns the adapter between the kernel's FUSE protocol and the vault core; the only place that names `fuser`.
