//! What is kept tidy: sizes, layers, unsafe code, headers, and what is written down in two places.

#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Modules from the bottom to the top, as in ARCHITECTURE.md. A module imports from rows below
/// its own only.
const LAYERS: [&[&str]; 10] = [
    &["units", "files", "text"],
    &["bundle", "config", "proto", "trace"],
    &["device"],
    &["storage", "compile", "wire", "admission"],
    &["predict", "residency"],
    &["engine"],
    &["observe"],
    &["control", "attach", "client"],
    &["daemon"],
    &["cli"],
];

/// The files that may hold unsafe code.
const UNSAFE: [&str; 16] = [
    "src/admission/peer.rs",
    "src/attach/mod.rs",
    "src/client/attachment.rs",
    "src/client/c/args.rs",
    "src/client/c/attach.rs",
    "src/client/c/lease.rs",
    "src/client/c/tensor.rs",
    "src/client/c/weights.rs",
    "src/daemon/systemd.rs",
    "src/device/cell.rs",
    "src/device/index.rs",
    "src/device/life.rs",
    "src/device/pool.rs",
    "src/device/roster.rs",
    "src/device/table.rs",
    "src/storage/uring/ring.rs",
];

/// Most lines of a file before its tests.
const MAX_LINES: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Each source file: its path from the root, and its text before the tests.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    assert!(files.len() > 40, "the sources are found");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let production =
            text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
        (path.strip_prefix(root()).unwrap().display().to_string(), production)
    };
    files.into_iter().map(read).collect()
}

fn module_of(path: &str) -> &str {
    let rest = path.strip_prefix("src/").unwrap();
    rest.split(['/', '.']).next().unwrap()
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// Names that follow `crate::` in a source, groups included.
fn imports(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join("\n");
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    _ => {}
                }
                if c == ',' && depth == 0 {
                    names.push(std::mem::take(&mut item));
                } else {
                    item.push(c);
                }
            }
            names.push(item);
        } else {
            names.push(rest.to_owned());
        }
    }
    let first_word = |name: String| {
        name.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned()
    };
    names.into_iter().map(first_word).filter(|name| !name.is_empty()).collect()
}

#[test]
fn modules_import_only_from_layers_below() {
    let mut checked = 0;
    for (path, text) in sources() {
        let module = module_of(&path);
        if matches!(module, "lib" | "main") {
            continue;
        }
        let layer = layer_of(module).unwrap_or_else(|| panic!("{path}: give {module} a layer"));
        for import in imports(&text).into_iter().filter(|import| import != module) {
            let below = layer_of(&import).unwrap_or_else(|| panic!("{path}: unknown {import}"));
            assert!(below < layer, "{path} imports {import}, which is not below {module}");
            checked += 1;
        }
    }
    assert!(checked > 50, "imports are found: {checked}");
}

#[test]
fn every_file_says_what_it_is_for_and_stays_small() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{path} begins with what it is for");
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{path} has {lines} lines: split it");
    }
}

#[test]
fn unsafe_code_stands_where_the_architecture_says() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        if code.into_iter().any(|line| line.contains("unsafe {") || line.contains("unsafe fn")) {
            found.push(path);
        }
    }
    found.sort();
    assert_eq!(found, UNSAFE.map(str::to_owned));
}

#[test]
fn lint_exceptions_have_reasons() {
    for (path, text) in sources() {
        for (at, _) in text.match_indices("[allow(").chain(text.match_indices("[expect(")) {
            let end = text[at..].find(")]").unwrap();
            assert!(
                text[at..at + end].contains("reason = "),
                "{path}: an exception without reason"
            );
        }
    }
}

#[test]
fn the_architecture_names_every_module() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for module in LAYERS.iter().flat_map(|row| row.iter()) {
        assert!(architecture.contains(&format!("`{module}`")), "ARCHITECTURE.md lacks {module}");
    }
}

#[test]
fn the_recipe_has_the_licences_checksum() {
    let recipe = "packaging/yocto/recipes-synchromesh/synchromesh/synchromesh_git.bb";
    let recipe = fs::read_to_string(root().join(recipe)).unwrap();
    let sum = Command::new("md5sum").arg(root().join("LICENSE")).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let sum = sum.split_whitespace().next().unwrap();
    let wanted = format!("LIC_FILES_CHKSUM = \"file://LICENSE;md5={sum}\"");
    assert!(recipe.lines().any(|line| line == wanted), "{wanted}");
}

/// The files that draw numbers without a seed, and may: they make ids of a running daemon.
const UNSEEDED: [&str; 2] = ["src/observe/hub.rs", "src/observe/otlp/spans.rs"];

/// Whether this code draws random numbers from a seed that differs from run to run.
fn draws_without_seed(code: &str) -> bool {
    let function = |at: usize| code[at + "fastrand::".len()..].starts_with(char::is_lowercase);
    code.match_indices("fastrand::").any(|(at, _)| function(at))
        || ["Rng::new()", "RngSeed::Random", "thread_rng"].iter().any(|word| code.contains(word))
}

#[test]
fn random_numbers_of_tests_come_from_fixed_seeds() {
    for name in ["PROPTEST_RNG_SEED", "PROPTEST_DISABLE_FAILURE_PERSISTENCE"] {
        assert!(env::var_os(name).is_some(), "{name} is unset: run tests by cargo from the clone");
    }
    let mut files = Vec::new();
    ["src", "tests", "benches"].iter().for_each(|it| rust_files(&root().join(it), &mut files));
    for file in files {
        let path = file.strip_prefix(root()).unwrap().display().to_string();
        if path != "tests/tidy.rs" && !UNSEEDED.contains(&&*path) {
            let code = fs::read_to_string(&file).unwrap();
            assert!(!draws_without_seed(&code), "{path} draws random numbers without a fixed seed");
        }
    }
}

#[test]
fn the_long_run_has_every_target_with_property_tests() {
    let script = fs::read_to_string(root().join("scripts/long-tests.sh")).unwrap();
    let mut files = Vec::new();
    ["src", "tests", "examples"].iter().for_each(|it| rust_files(&root().join(it), &mut files));
    let mut checked = 0;
    for file in files {
        let code = fs::read_to_string(&file).unwrap();
        if !code.lines().any(|line| line.trim() == "proptest! {") {
            continue;
        }
        let path = file.strip_prefix(root()).unwrap().display().to_string();
        let target = match path.strip_prefix("tests/") {
            Some(test) => format!("--test {}", test.split(['/', '.']).next().unwrap()),
            None => "--lib".to_owned(),
        };
        let targets = script.lines().find(|line| line.starts_with("targets=(")).unwrap();
        assert!(targets.contains(&target), "scripts/long-tests.sh lacks {target} for {path}");
        checked += 1;
    }
    assert!(checked >= 10, "property tests are found: {checked}");
}
