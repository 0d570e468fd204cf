//! Recording in, report out: one diff to read. `UPDATE_GOLDEN=1` writes the expected reports anew.
//! `CONNTRACKER_RUN` has them made by a program of another architecture: scripts/test.
#![cfg(feature = "record")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

/// The program; `CONNTRACKER_RUN` has another one, with what runs it ("qemu-arm-static PROGRAM").
fn program() -> Command {
    let words = std::env::var("CONNTRACKER_RUN").unwrap_or_default();
    let mut words = words.split_whitespace();
    let first = words.next();
    let mut command = Command::new(first.unwrap_or(env!("CARGO_BIN_EXE_conntracker")));
    command.args(words);
    command
}

fn replay(recording: &Path, options: &[&str]) -> Output {
    let mut command = program();
    command
        .arg("replay")
        .arg(recording)
        .args(["-o", "-"])
        .args(options);
    command.output().expect("the tool runs")
}

/// The report and, behind it, the last line of stderr and the exit status.
fn report(recording: &Path, options: &[&str]) -> String {
    let output = replay(recording, options);
    let report = String::from_utf8(output.stdout).expect("a report is UTF-8");
    let errors = String::from_utf8(output.stderr).expect("messages are UTF-8");
    let status = output.status.code().expect("it was not killed");
    let whole = format!(
        "{report}stderr: {}\nexit status: {status}\n",
        errors.trim_end()
    );
    whole.replace(
        &format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION")),
        "\"version\":\"VERSION\"",
    )
}

fn check(fixture: &str, golden: &str, options: &[&str]) {
    let got = report(&folder("fixtures").join(fixture), options);
    let path = folder("golden").join(golden);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &got).expect("the expected report can be written");
    }
    let expected = fs::read_to_string(&path).expect("there is an expected report");
    assert!(
        got == expected,
        "{golden} differs (UPDATE_GOLDEN=1 writes it anew):\n{got}"
    );
}

#[test]
fn everything_as_text() {
    check("everything.ctrecord", "everything.txt", &[]);
}

#[test]
fn everything_as_json() {
    check(
        "everything.ctrecord",
        "everything.json",
        &["--format", "json"],
    );
}

#[test]
fn everything_as_it_happened() {
    check(
        "everything.ctrecord",
        "everything-follow.txt",
        &["--follow"],
    );
    check(
        "everything.ctrecord",
        "everything-follow.json",
        &["--follow", "--format", "json"],
    );
}

#[test]
fn filters_hold_in_a_replay() {
    check(
        "everything.ctrecord",
        "everything-filtered.txt",
        &["--proto", "tcp,sctp", "--port", "80,36412", "-4"],
    );
}

#[test]
fn a_table_too_small_folds_and_says_so() {
    check("loss.ctrecord", "loss-folded.txt", &["--capacity", "10"]);
}

#[test]
fn a_loss_is_in_the_report() {
    check("loss.ctrecord", "loss.json", &["--format", "json"]);
}

#[test]
fn neither_counters_nor_timestamps() {
    check("plain.ctrecord", "plain.json", &["--format", "json"]);
}

#[test]
fn a_recording_cut_short_gives_what_it_has() {
    let whole = fs::read(folder("fixtures").join("plain.ctrecord")).unwrap();
    let cut = std::env::temp_dir().join(format!("conntracker-cut-{}", std::process::id()));
    fs::write(&cut, &whole[..whole.len() * 3 / 4]).unwrap();
    let got = report(&cut, &[]);
    fs::write(&cut, &whole[..20]).unwrap();
    let headless = replay(&cut, &[]);
    fs::remove_file(&cut).unwrap();
    assert!(
        got.contains("incomplete: the recording is cut short"),
        "{got}"
    );
    assert!(
        got.contains("UDPv4 [           0]") && got.ends_with("exit status: 3\n"),
        "{got}"
    );
    assert_eq!(headless.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&headless.stderr).contains("it is cut short"));
}

#[test]
#[cfg(feature = "trace")]
fn traced_paths_and_the_rules_that_denied() {
    check("traced.ctrecord", "traced.txt", &[]);
    check("traced.ctrecord", "traced.json", &["--format", "json"]);
    check("traced.ctrecord", "traced-follow.txt", &["--follow"]);
}

#[test]
#[cfg(feature = "owners")]
fn processes_at_the_ends_of_flows() {
    check("owned.ctrecord", "owned.txt", &[]);
    check("owned.ctrecord", "owned.json", &["--format", "json"]);
    check("owned.ctrecord", "owned-follow.txt", &["--follow"]);
}
