//! strongroom puts an app's plaintext data behind encryption without changing the app.
//!
//! The crate is a library and a thin binary. The modules and the directions in which they may
//! depend on each other:
//!
//! ```text
//! crypto <- format <- vault <- { check, tree::vault, fuse }
//! backing <- { vault, migrate journal, archive files }
//! tree <- { archive, migrate, backup }      stores, profile, repoint: leaves
//! everything <- cli <- main
//! ```
//!
//! (`A <- B`: B may use A.) Only [`cli`] prints, prompts or exits; the library returns errors.

pub mod archive;
pub mod backing;
pub mod backup;
pub mod check;
pub mod cli;
pub mod crypto;
pub mod format;
#[cfg(feature = "mount")]
pub mod fuse;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod migrate;
pub mod profile;
pub mod repoint;
pub mod stores;
pub mod tree;
pub mod vault;
