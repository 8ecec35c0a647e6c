//! Block formats: what they look like on file, and how rows are read from them.

mod format;

pub use format::Format;
