//! The man page, the help and the completions know the options of the command line, all of them, and
//! no others.
#![cfg(all(
    feature = "owners",
    feature = "trace",
    feature = "daemon",
    feature = "record",
    feature = "check"
))]

use conntracker::cli;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = include_str!("../src/cli.rs");
const MANUAL: &str = include_str!("../scripts/appliance/conntracker.8");
const BASH: &str = include_str!("../scripts/appliance/completions/conntracker.bash");
const ZSH: &str = include_str!("../scripts/appliance/completions/_conntracker");
const FISH: &str = include_str!("../scripts/appliance/completions/conntracker.fish");

/// Options that take one word of a few, and these words are told when it is another.
const CHOICES: [&str; 4] = ["--format", "--activate", "--trace-rung", "--owner"];

/// What looks like an option: `-x` or `--word`.
fn options_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .filter(|word| is_option(word))
        .map(str::to_owned)
        .collect()
}

fn is_option(word: &str) -> bool {
    let name = word
        .strip_prefix("--")
        .unwrap_or(&word[word.len().min(1)..]);
    let is_long = word.starts_with("--") && name.len() > 1;
    let is_short = word.starts_with('-') && word.len() == 2 && name != "-";
    (is_long || is_short) && !name.starts_with('-')
}

/// All of the command line: the literals that `parse` compares with.
fn of_the_program() -> BTreeSet<String> {
    let literals = SOURCE.split('"').skip(1).step_by(2);
    let options: BTreeSet<String> = literals
        .filter(|literal| is_option(literal) && options_in(literal).contains(*literal))
        .map(str::to_owned)
        .collect();
    for option in &options {
        let error = cli::parse([option]).err().map(|error| error.to_string());
        let unknown = error.filter(|error| error.contains("unknown option"));
        assert_eq!(unknown, None, "{option} is parsed");
    }
    assert!(options.len() > 40, "{options:?}");
    options
}

/// The entries of the manual's section of options; what it says in passing does not count.
fn of_the_manual() -> BTreeSet<String> {
    let section = MANUAL.split(".SH OPTIONS").nth(1).unwrap();
    let section = section.split("\n.SH ").next().unwrap();
    let entries = section.split(".TP\n").skip(1);
    let tags: String = entries.map(|entry| entry.lines().next().unwrap()).collect();
    options_in(&plain(&tags.replace("\\fR", "\\fR ")))
}

/// Without fonts and escapes.
fn plain(roff: &str) -> String {
    let mut text = roff.replace("\\-", "-");
    for font in ["\\fB", "\\fI", "\\fR"] {
        text = text.replace(font, "");
    }
    text
}

fn without_comments(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}

/// What `complete` is told: the word behind -s is a letter, the one behind -l a name.
fn of_fish() -> BTreeSet<String> {
    let words: Vec<&str> = FISH.split_whitespace().collect();
    let named = |pair: &[&str]| match pair[0] {
        "-s" => Some(format!("-{}", pair[1])),
        "-l" => Some(format!("--{}", pair[1])),
        _ => None,
    };
    words
        .windows(2)
        .filter(|pair| pair[1] != "commands" && pair[1] != "bare" && pair[1] != "capture")
        .filter_map(named)
        .collect()
}

#[test]
fn the_manual_has_every_option_and_no_other() {
    assert_eq!(of_the_manual(), of_the_program());
}

#[test]
fn the_help_has_no_other_option() {
    let help = options_in(cli::HELP);
    let known = of_the_program();
    let unknown: Vec<_> = help.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    // two that have a letter in the help have no name there
    let left_out: Vec<_> = known.difference(&help).collect();
    assert_eq!(left_out, ["--ipv4", "--ipv6"]);
}

#[test]
fn the_completions_have_every_option_and_no_other() {
    let known = of_the_program();
    let code = without_comments(BASH);
    let lists: Vec<&str> = code.split("local of_").skip(1).collect();
    let listed: String = lists
        .iter()
        .map(|list| list.split('\'').nth(1).unwrap())
        .collect::<Vec<_>>()
        .join(" ");
    assert_eq!(options_in(&listed), known, "bash");
    let (_, specs) = ZSH.split_once("\nof_reports=(").unwrap();
    assert_eq!(options_in(specs), known, "zsh");
    assert_eq!(of_fish(), known, "fish");
}

/// The words that an option takes, as the program tells them when it is given another.
fn choices(option: &str) -> Vec<String> {
    let error = cli::parse([option, "nonsense"]).unwrap_err().to_string();
    let list = match error.split_once("is not one of ") {
        Some((_, list)) => list.replace(',', " "),
        None => error
            .split_once("is neither ")
            .unwrap()
            .1
            .replace(" nor ", " "),
    };
    let list = list.split(" (").next().unwrap(); // the hint behind it
    list.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_values_of_options_are_the_programs() {
    for option in CHOICES {
        let choices = choices(option);
        assert!(choices.len() > 1, "{option}: {choices:?}");
        let words = choices.join(" ");
        for (name, text, line) in [
            ("bash", BASH, format!("{option}) values='{words}' ;;")),
            ("zsh", ZSH, format!("({words})'")),
            ("fish", FISH, format!("-l {} -x -a '{words}'", &option[2..])),
        ] {
            assert!(text.contains(&line), "{name}: {line}");
        }
        let manual = plain(MANUAL);
        let entry = manual
            .split(&format!("\n{option} "))
            .nth(1)
            .unwrap_or_else(|| {
                panic!("{option} has an entry in the manual");
            });
        let entry = entry.split("\n.TP").next().unwrap();
        for word in choices {
            let is_there = entry
                .split([' ', '\n', '|', ',', '"', '.'])
                .any(|it| it == word);
            assert!(is_there, "{option}: {word} in {entry}");
        }
    }
}

/// What bash offers for the last of these words.
fn offered(words: &[&str]) -> Vec<String> {
    let script = "source \"$0\"; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _conntracker; \
                  printf '%s\\n' \"${COMPREPLY[@]}\"";
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("bash")
        .args([
            "-c",
            script,
            "scripts/appliance/completions/conntracker.bash",
        ])
        .arg("conntracker")
        .args(words)
        .current_dir(folder)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn bash_completes() {
    assert_eq!(offered(&[""]), ["blame", "replay", "check"]);
    assert_eq!(offered(&["--act"]), ["--activate"]);
    assert_eq!(
        offered(&["blame", "--trace-"]),
        ["--trace-rate", "--trace-rung"]
    );
    assert_eq!(
        offered(&["-t", "--trace-rung", "nft"]),
        ["nft-owned", "nft"]
    );
    assert_eq!(offered(&["--format", "=", "j"]), ["json"]);
    assert_eq!(offered(&["--format", "="]), ["text", "json"]);
    assert_eq!(offered(&["--proto", "tcp,ic"]), ["tcp,icmp", "tcp,icmpv6"]);
    assert_eq!(offered(&["-o", "Cargo.to"]), ["Cargo.toml"]);
    assert_eq!(offered(&["replay", "LICEN"]), ["LICENSE"]);
    assert_eq!(
        offered(&["replay", "LICENSE", "--fo"]),
        ["--format", "--follow"]
    );
    assert_eq!(
        offered(&["--fo"]),
        ["--format", "--follow", "--for", "--foreground"]
    );
    assert_eq!(offered(&["--port", ""]), Vec::<String>::new());
}

#[test]
fn protocols_that_are_offered_are_known() {
    let protocols = offered(&["--proto", ""]);
    assert!(protocols.len() > 10, "{protocols:?}");
    cli::parse(["--proto", &protocols.join(",")]).unwrap();
    for text in [
        ZSH.to_owned(),
        FISH.to_owned(),
        plain(MANUAL).replace(',', ""),
    ] {
        assert!(text.replace('\n', " ").contains(&protocols.join(" ")));
    }
}

/// `OPTIONS="..."` of a file, as words.
fn options_of(text: &str) -> Vec<&str> {
    let line = text
        .lines()
        .find(|line| line.trim().starts_with("OPTIONS="));
    let words = line.unwrap().split('"').nth(1).unwrap();
    words.split_whitespace().collect()
}

#[test]
fn the_daemons_options_are_understood() {
    let configured = options_of(include_str!("../scripts/appliance/conntracker.default"));
    for how in [&["-d", "--pidfile", "/run/conntracker.pid"][..], &["-f"]] {
        let words = [how, &configured].concat();
        let command = cli::parse(words.iter()).unwrap();
        assert!(matches!(command, cli::Command::Capture(_)), "{command:?}");
    }
    // where there is no configuration, it is the same
    for (name, script) in [
        (
            "init",
            include_str!("../scripts/appliance/conntracker.init"),
        ),
        (
            "procd",
            include_str!("../scripts/appliance/conntracker.procd"),
        ),
    ] {
        assert_eq!(options_of(script), configured, "{name}");
    }
    let openrc = include_str!("../scripts/appliance/conntracker.openrc");
    assert!(openrc.contains(&format!("${{OPTIONS:-{}}}", configured.join(" "))));
}
