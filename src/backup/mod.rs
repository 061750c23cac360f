//! Owns backups: create, restore, verify, retention, schedule. Names neither FUSE nor the vault's insides.
