//! The command line of Synchromesh.

fn main() {}
