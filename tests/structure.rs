//! Polices the source tree: which room may use which, how long a function may be, where unsafe code
//! may stand, and what may lie at the top.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files of src, by their path in it.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    let folder = root().join("src");
    walk(&folder, &mut found);
    let name = |path: &PathBuf| {
        path.strip_prefix(&folder)
            .unwrap()
            .to_string_lossy()
            .into_owned()
    };
    let sources: Vec<_> = found
        .iter()
        .map(|path| (name(path), fs::read_to_string(path).unwrap()))
        .collect();
    assert!(sources.len() > 20);
    sources
}

fn room(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap()
}

/// The rooms that the code of a file (not its tests) uses.
fn uses(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap();
    let code = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut rooms = Vec::new();
    for line in code {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let name: String = rest
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            assert!(!name.is_empty(), "name each room: {line}");
            rooms.push(name);
        }
    }
    rooms
}

/// What each room may use, itself aside. `run` may use everything and nothing may use `run`.
fn allowed(room: &str) -> Option<&'static [&'static str]> {
    Some(match room {
        "wire" | "limits" | "error" | "counters" | "hashing" => &[],
        "features" => &["error"],
        "event" => &["wire"],
        "flow" => &["event", "wire", "counters", "hashing", "limits"],
        "report" => &["flow", "event", "wire", "counters", "hashing", "limits"],
        "sys" => &["limits"],
        "firewall" => &[
            "sys", "wire", "event", "flow", "error", "features", "hashing", "limits",
        ],
        "owner" => &["sys", "wire", "error", "hashing", "limits"],
        "cli" => &[
            "error", "features", "firewall", "flow", "limits", "owner", "report", "wire",
        ],
        _ => return None,
    })
}

#[test]
fn rooms_use_only_the_rooms_they_may() {
    for (file, text) in sources() {
        let room = room(&file);
        let Some(allowed) = allowed(room) else {
            assert!(
                ["run", "main", "lib"].contains(&room),
                "{file}: say in this test what its room may use"
            );
            continue;
        };
        for used in uses(&text) {
            assert!(
                used == room || allowed.contains(&used.as_str()),
                "{file} uses {used}"
            );
        }
    }
}

#[test]
fn unsafe_code_stands_in_sys_only() {
    for (file, text) in sources() {
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let found = code.filter(|line| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == "unsafe")
        });
        assert!(
            room(&file) == "sys" || found.count() == 0,
            "{file} has unsafe code"
        );
    }
}

#[test]
fn functions_and_files_stay_short() {
    for (file, text) in sources() {
        let is_attribute = |line: &&str| line.trim_start().starts_with("#[");
        assert!(
            text.lines().filter(|line| !is_attribute(line)).count() <= FILE_LINES_MAX,
            "{file}: does it still hold one thing?"
        );
        let mut open: Option<(usize, usize, &str)> = None;
        for (at, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let begins = line
                .trim_start()
                .trim_start_matches("pub")
                .trim_start_matches("(super)")
                .trim_start();
            if begins.starts_with("fn ") && open.is_none() {
                open = Some((at, indent, line));
            }
            if let Some((start, depth, name)) = open {
                let closes = line.trim_end().ends_with('}') && indent == depth;
                if closes || (line.trim_end().ends_with(';') && indent == depth) {
                    assert!(
                        at - start < FUNCTION_LINES_MAX,
                        "{file}: {} lines: {name}",
                        at - start + 1
                    );
                    open = None;
                }
            }
        }
    }
}

#[test]
fn dependencies_are_the_four() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut section = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.contains("dependencies") && line.contains('=') {
            let name = line.split('=').next().unwrap().trim();
            assert!(
                ["libc", "rustix", "libbpf-sys", "lexopt"].contains(&name),
                "{section} {name}"
            );
        }
    }
}

#[test]
fn the_top_level_is_the_planned_one() {
    let planned = [
        "Cargo.toml",
        "Cargo.lock",
        "build.rs",
        "src",
        "bpf",
        "vendor",
        "scripts",
        "tests",
        "README.md",
        "LICENSE",
        ".gitignore",
        ".ci",
    ];
    let listed = Command::new("git")
        .args(["ls-files"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(listed.status.success(), "git lists the files of a checkout");
    for file in String::from_utf8(listed.stdout).unwrap().lines() {
        let top = file.split('/').next().unwrap();
        assert!(
            planned.contains(&top),
            "{file}: no other top-level entry without a strong reason"
        );
    }
}
