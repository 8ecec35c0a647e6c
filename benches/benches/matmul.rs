//! Placeholder bench target.
fn main() {}
