//! The header for C and C++ is what the source says. With `SYNCHROMESH_BLESS=1` it is written anew.

#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::{env, fs, path::Path};

const SOURCE: &str = "src/client/c/mod.rs";
const HEADER: &str = "include/synchromesh.h";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the module says of itself is what a reader of the header must know first.
fn preamble() -> String {
    let text = fs::read_to_string(root().join(SOURCE)).unwrap();
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    let lines: Vec<_> = lines.map(|line| format!("//{}", line.replace('`', ""))).collect();
    lines.join("\n")
}

fn header() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    let builder = cbindgen::Builder::new().with_config(config).with_header(preamble());
    let mut text = Vec::new();
    builder.with_src(root().join(SOURCE)).generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn the_header_is_made_of_the_source() {
    let (made, path) = (header(), root().join(HEADER));
    if env::var_os("SYNCHROMESH_BLESS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(made == kept, "{HEADER} is old: run SYNCHROMESH_BLESS=1 cargo test --test header");
}
