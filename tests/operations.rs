//! The runbook keeps to what the program is: its commands can be given, its messages are the sources',
//! every refusal is in it, its keys exist, its links lead somewhere.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

use clap::{Parser as _, error::ErrorKind};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use synchromesh::cli::Cli;

const RUNBOOK: &str = "docs/operations.md";
/// Documents for operators.
const DOCUMENTS: [&str; 2] = [RUNBOOK, "packaging/README.md"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The fenced shell blocks, and the text without any fenced block.
fn split(markdown: &str) -> (Vec<String>, String) {
    let (mut blocks, mut prose) = (Vec::new(), String::new());
    let mut parts = markdown.split("```");
    prose += parts.next().unwrap();
    while let Some(block) = parts.next() {
        if let Some(commands) = block.strip_prefix("sh\n") {
            blocks.push(commands.to_owned());
        }
        prose += parts.next().expect("every fence is closed");
    }
    (blocks, prose)
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Arguments of a command line, up to what the shell takes for itself.
fn arguments(line: &str) -> Vec<String> {
    let words = line.split_whitespace();
    let words = words.take_while(|word| !["|", ">", "2>", "&", "&&", ";"].contains(word));
    words.map(|word| word.trim_matches(['\'', '"']).to_owned()).collect()
}

fn refused(line: &str) -> Option<clap::Error> {
    Cli::try_parse_from(arguments(line)).err()
}

#[test]
fn every_command_of_the_program_can_be_given() {
    let mut checked = 0;
    for document in DOCUMENTS {
        let (blocks, prose) = split(&read(document));
        for line in blocks.iter().flat_map(|block| block.lines()).map(str::trim) {
            if line.starts_with("synchromesh ") {
                assert!(refused(line).is_none(), "{document}: {line}: {}", refused(line).unwrap());
                checked += 1;
            }
        }
        // In a sentence, what a command is about may be left out.
        for line in quoted(&prose).filter(|text| text.starts_with("synchromesh ")) {
            let error = refused(line).filter(|error| {
                error.kind() != ErrorKind::MissingRequiredArgument
                    && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            });
            assert!(error.is_none(), "{document}: {line}: {}", error.unwrap());
            checked += 1;
        }
    }
    assert!(checked > 20, "commands are found: {checked}");
    assert!(refused("synchromesh frobnicate").is_some());
    assert!(refused("synchromesh status --frobnicate").is_some());
}

#[test]
fn every_block_of_commands_is_one_for_a_shell() {
    for document in DOCUMENTS {
        let (blocks, _) = split(&read(document));
        assert!(!blocks.is_empty());
        for block in blocks {
            let checked = Command::new("bash").args(["-n", "-c", &block]).output().unwrap();
            assert!(checked.status.success() && checked.stderr.is_empty(), "{block}{checked:?}");
        }
    }
}

/// The sources, each string in one line, and without the backticks that messages may have.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &one_line(&fs::read_to_string(path).unwrap());
        }
    }
    text
}

fn one_line(source: &str) -> String {
    let mut parts = source.split("\\\n");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| text + part.trim_start()).replace('`', "")
}

/// Whether a message, in which `…` stands for what the program fills in, occurs in a text.
fn occurs(message: &str, text: &str) -> bool {
    const FILLED_IN: usize = 60;
    let pieces: Vec<_> =
        message.split('…').map(str::trim).filter(|piece| !piece.is_empty()).collect();
    let (first, rest) = pieces.split_first().expect("a message has words");
    text.match_indices(first).any(|(at, _)| {
        let mut end = at + first.len();
        rest.iter().all(|piece| {
            let near: String = text[end..].chars().take(FILLED_IN + piece.len()).collect();
            let found = near.find(piece);
            end += found.unwrap_or_default() + piece.len();
            found.is_some()
        })
    })
}

/// Messages that the runbook explains: first cells of tables that say so.
fn explained() -> Vec<String> {
    let text = read(RUNBOOK);
    let mut messages = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line.strip_prefix('|') {
            None => inside = false,
            Some(row) if row.starts_with(" the message says |") => inside = true,
            Some(row) if inside => {
                messages.extend(quoted(row.split(" | ").next().unwrap()).map(str::to_owned));
            }
            Some(_) => {}
        }
    }
    assert!(messages.len() > 40, "messages are found");
    messages
}

#[test]
fn every_message_that_is_explained_is_one_of_the_program() {
    let sources = sources(&root().join("src"));
    for message in explained() {
        assert!(occurs(&message, &sources), "no source says {message:?}");
    }
    assert!(!occurs("the weather is …", &sources));
}

/// The texts of a file's error variants, with `…` for what is filled in.
fn errors(path: &str) -> Vec<String> {
    let text = one_line(&read(path));
    let attributes = text.split("#[error(").skip(1);
    let literals = attributes.filter_map(|rest| rest.trim_start().strip_prefix('"'));
    let texts = literals.map(|literal| {
        let mut depth = 0;
        literal[..literal.find('"').unwrap()].chars().fold(String::new(), |mut shown, c| {
            match c {
                '{' => depth += 1,
                '}' => {
                    depth -= 1;
                    shown.push('…');
                }
                c if depth == 0 => shown.push(c),
                _ => {}
            }
            shown
        })
    });
    // One with hardly a word of its own wraps another.
    texts.filter(|text| text.chars().filter(|c| c.is_alphabetic()).count() >= 10).collect()
}

#[test]
fn every_way_to_refuse_a_bundle_is_explained() {
    let explained = explained();
    let mut checked = 0;
    for path in ["src/bundle/fault.rs", "src/bundle/geometry.rs", "src/engine/load.rs"] {
        for error in
            errors(path).into_iter().filter(|error| !error.starts_with("bundle … is refused"))
        {
            let found = explained.iter().any(|message| occurs(message, &error));
            assert!(found, "{path}: {error:?} is not explained");
            checked += 1;
        }
    }
    assert!(checked > 25, "errors are found: {checked}");
}

#[test]
fn every_reason_that_a_call_can_be_refused_for_is_explained() {
    let source = read("src/observe/errors.rs");
    let table = source.split("fn reason(").nth(1).unwrap().split("\n}\n").next().unwrap();
    let reasons: Vec<_> = table.split('"').skip(1).step_by(2).collect();
    assert!(reasons.len() > 15);
    let runbook = read(RUNBOOK);
    for reason in reasons {
        assert!(runbook.contains(&format!("`{reason}`")), "{reason} is not explained");
    }
}

#[test]
fn every_key_that_is_named_exists() {
    let config = read("config/synchromesh.yaml");
    let sections = ["listen", "peers", "storage", "prefetch", "limits", "log"];
    let mut checked = 0;
    for document in DOCUMENTS {
        let (_, prose) = split(&read(document));
        for (section, key) in quoted(&prose).filter_map(|text| text.split_once('.')) {
            // A value may stand behind it.
            let key = key.split(':').next().unwrap();
            if sections.contains(&section) {
                let mut lines = config.lines().skip_while(|line| *line != format!("{section}:"));
                let is_section = lines.next().is_some();
                let mut keys = lines.take_while(|line| line.starts_with(' '));
                let stands = |line: &str| {
                    line.trim_start_matches([' ', '#']).starts_with(&format!("{key}:"))
                };
                assert!(is_section && keys.any(stands), "{document}: `{section}.{key}`");
                checked += 1;
            }
        }
    }
    assert!(checked > 10, "keys are found: {checked}");
}

/// A heading's anchor.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    for document in DOCUMENTS {
        let (_, prose) = split(&read(document));
        let folder = Path::new(document).parent().unwrap();
        let links = prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, part) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => root().join(document),
                file => root().join(folder).join(file),
            };
            assert!(target.exists(), "{document}: {link}");
            let text =
                if part.is_empty() { String::new() } else { fs::read_to_string(target).unwrap() };
            let mut headings = text.lines().filter_map(|line| line.strip_prefix('#'));
            let found = headings.any(|heading| anchor(heading.trim_matches(['#', ' '])) == part);
            assert!(part.is_empty() || found, "{document}: {link}");
        }
    }
}
