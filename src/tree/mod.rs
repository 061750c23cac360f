//! Owns the idea of a plain file tree: readers and writers of one, and their implementations on
//! a local directory and on a vault. It must know nothing of why a tree is read or written.
