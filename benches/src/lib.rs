//! Layer shapes shared by the benches.
