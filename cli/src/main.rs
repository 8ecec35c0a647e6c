//! The `gable` command.
fn main() {}
