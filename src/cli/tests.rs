//! Every option, its wrong values, and what goes with what.

use super::*;

fn capture(arguments: &[&str]) -> Options {
    match parse(arguments) {
        Ok(Command::Capture(options)) => options,
        other => panic!("{arguments:?} gave {other:?}"),
    }
}

fn refused(arguments: &[&str]) -> String {
    let error = parse(arguments).expect_err(&format!("{arguments:?} must be refused"));
    assert_eq!(error.exit_status(), 2, "{error}");
    assert!(!error.to_string().contains('\n'), "one line: {error}");
    error.to_string()
}

#[test]
fn nothing_is_a_capture_with_the_seeds_defaults() {
    let options = capture(&[]);
    assert_eq!(options, Options::default());
    assert_eq!(options.output, Output::File("/tmp/conntracker.log".into()));
    for option in ["-f", "--foreground"] {
        let foreground = true;
        assert_eq!(
            capture(&[option]),
            Options {
                foreground,
                ..options.clone()
            }
        );
    }
}

#[test]
fn every_option_takes_effect() {
    let options = capture(&[
        "-o",
        "-",
        "--format=json",
        "--follow",
        "--for",
        "1.5",
        "--capacity",
        "10",
        "--buffer=4k",
        "--all-netns",
        "--activate",
        "legacy",
        "--record",
        "r",
        "--proto",
        "tcp,99",
        "--net",
        "10.0.0.0/8",
        "--not-net",
        "::1",
        "--port",
        "80,1000-2000",
        "-4",
    ]);
    assert_eq!(
        (options.output, options.format, options.follow),
        (Output::Stdout, Format::Json, true)
    );
    assert_eq!(
        (options.duration, options.capacity),
        (Some(Duration::from_millis(1500)), 10)
    );
    assert_eq!(
        (options.buffer_bytes, options.all_netns),
        (Some(4096), true)
    );
    assert_eq!(
        (options.activation, options.record),
        (Activation::Legacy, Some("r".into()))
    );
    assert_eq!(options.filter.protocols, [6, 99]);
    assert_eq!(
        (
            options.filter.networks[0].prefix_bits,
            options.filter.not_networks[0].prefix_bits
        ),
        (8, 128)
    );
    assert_eq!(
        (options.filter.ports, options.filter.ipv6),
        (vec![(80, 80), (1000, 2000)], Some(false))
    );
}

#[test]
fn times_come_with_units() {
    for (word, seconds) in [
        ("10", 10.0),
        ("0.5", 0.5),
        ("1.25", 1.25),
        ("0.001", 0.001),
        ("90s", 90.0),
        ("5m", 300.0),
        ("2h", 7200.0),
    ] {
        assert_eq!(
            capture(&["--for", word]).duration,
            Some(Duration::from_secs_f64(seconds)),
            "{word}"
        );
    }
}

#[test]
fn help_and_version_win() {
    assert_eq!(parse(["-h"]).unwrap(), Command::Help);
    assert_eq!(parse(["--for", "3", "--help"]).unwrap(), Command::Help);
    assert_eq!(parse(["-V"]).unwrap(), Command::Version);
}

#[test]
fn replay_takes_one_file_and_no_capture_options() {
    let Command::Replay(file, options) = parse(["replay", "f", "-o-", "--format", "json"]).unwrap()
    else {
        panic!()
    };
    assert_eq!((file, options.output), ("f".into(), Output::Stdout));
    assert!(refused(&["replay"]).contains("which file"));
    assert!(refused(&["replay", "f", "g"]).contains("\"g\""));
    assert!(refused(&["replay", "f", "--for", "3"]).contains("--for"));
    assert!(refused(&["f"]).contains("unexpected argument"));
}

#[test]
fn a_daemon_has_its_options_and_they_need_each_other() {
    for option in ["-d", "--daemon"] {
        assert!(capture(&[option]).daemon, "{option}");
    }
    let options = capture(&[
        "-d",
        "--pidfile",
        "p",
        "--status=s",
        "--every",
        "5m",
        "--dry-run",
    ]);
    assert_eq!(
        (options.pidfile, options.status, options.every),
        (
            Some("p".into()),
            Some("s".into()),
            Some(Duration::from_secs(300))
        )
    );
    assert!(options.dry_run);
    let (bytes, count) = (1 << 20, 4);
    let rotated = capture(&["--follow", "--rotate", "1m,4"]);
    assert_eq!(rotated.rotate, Some(Rotate { bytes, count }));
    let rotated = capture(&["--follow", "--rotate", "1048576"]);
    assert_eq!(rotated.rotate, Some(Rotate { bytes, count: 1 }));
    for (arguments, named) in [
        (&["-d", "-o", "-"][..], "-o"),
        (&["-d", "-f"], "-d and -f"),
        (&["--pidfile", "p"], "--pidfile needs -d"),
        (&["-d", "--pidfile", "-"], "--pidfile"),
        (&["--status", ""], "--status"),
        (&["--every", "0.5"], "--every"),
        (&["--every", "x"], "--every"),
        (&["--rotate", "1m"], "--follow"),
        (&["--follow", "-o-", "--rotate", "1m"], "-o FILE"),
        (&["--follow", "-o-", "--every", "9"], "-o FILE"),
        (&["--follow", "--rotate", "1k"], "1k"),
        (&["--follow", "--rotate", "1m,0"], "1m,0"),
        (&["--follow", "--rotate", ",1"], ",1"),
        (&["-o", "x", "--status", "x"], "same file"),
        (&["-d", "-o", "x", "--pidfile", "x"], "same file"),
        (&["blame", "-d"], "-o"),
    ] {
        assert!(
            refused(arguments).contains(named),
            "{arguments:?}: {}",
            refused(arguments)
        );
    }
    for arguments in [&["replay", "f", "-d"][..], &["replay", "f", "--every", "9"]] {
        assert!(refused(arguments).contains("is for a capture"));
    }
}

#[test]
fn check_takes_what_a_capture_takes() {
    let Command::Check(options) = parse(["check", "-t", "-b", "--format", "json"]).unwrap() else {
        panic!()
    };
    assert!(options.trace && options.owners);
    assert_eq!(
        (options.format, options.output),
        (Format::Json, Output::Stdout)
    );
    assert!(refused(&["check", "x"]).contains("unexpected argument"));
}

#[test]
fn tracing_has_its_options_and_they_need_each_other() {
    let options = capture(&["-te", "--trace-rate", "7", "--trace-rung", "nft"]);
    assert!(options.trace && options.everything && !options.blame);
    assert_eq!((options.trace_rate, options.trace_rung), (7, Rung::Nft));
    assert!(refused(&["-e"]).contains("-e needs -t"));
    assert!(refused(&["--trace-rate", "7"]).contains("need -t"));
    for rate in ["0", "abc", "-1", "1000001"] {
        assert!(refused(&["-t", "--trace-rate", rate]).contains(rate));
    }
    assert!(refused(&["-t", "--trace-rung", "best"]).contains("best"));
}

#[test]
fn owners_have_their_rungs() {
    let options = capture(&["-b", "--owner", "cgroup", "--btf", "f"]);
    assert!(options.owners && !options.trace);
    assert_eq!(options.owner_rung, OwnerRung::Cgroup);
    assert_eq!(options.btf, Some("f".into()));
    let rungs = [
        ("auto", OwnerRung::Auto),
        ("trace", OwnerRung::Trace),
        ("kprobe", OwnerRung::Kprobe),
        ("legacy", OwnerRung::Legacy),
        ("procfs", OwnerRung::Procfs),
    ];
    for (word, rung) in rungs {
        assert_eq!(capture(&["--bpf", "--owner", word]).owner_rung, rung);
    }
    assert!(refused(&["-b", "--owner", "best"]).contains("best"));
    for option in ["--owner=cgroup", "--btf=f"] {
        assert!(refused(&[option]).contains("need -b"));
    }
    assert!(refused(&["replay", "f", "-b"]).contains("-b is for a capture"));
}

#[test]
fn blame_traces_everything_and_answers_where_one_looks() {
    let Ok(Command::Blame(options)) = parse(["blame", "--port", "443"]) else {
        panic!("blame is a command");
    };
    assert!(options.blame && options.trace && options.everything);
    assert_eq!(options.output, Output::Stdout);
    let named = parse(["-o", OUTPUT_DEFAULT, "blame"]).unwrap();
    assert!(matches!(
        named,
        Command::Blame(Options {
            output: Output::File(_),
            ..
        })
    ));
    let of_file = parse(["blame", "-", "--format", "json"]).unwrap();
    assert!(matches!(of_file, Command::BlameReport(file, _) if file.as_os_str() == "-"));
    assert!(refused(&["blame", "f", "--for", "3"]).contains("--for is for a capture"));
    assert!(refused(&["blame", "f", "g"]).contains("unexpected"));
    assert!(refused(&["blame", "--follow"]).contains("--follow"));
}

#[test]
fn wrong_values_are_refused_by_name() {
    for (arguments, named) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["-x"], "-x"),
        (&["--for"], "--for"),
        (&["--for", "x"], "\"x\""),
        (&["--for", "0"], "\"0\""),
        (&["--for", "-1"], "\"-1\""),
        (&["--for", "inf"], "\"inf\""),
        (&["--for", "1.0001"], "1.0001"),
        (&["--for", "."], "--for"),
        (&["--for", "99999999999999999999"], "--for"),
        (&["--for", "1e400"], "1e400"),
        (&["--for", ""], "--for"),
        (&["--capacity", "0"], "--capacity"),
        (&["--capacity", "99999999999"], "--capacity"),
        (&["--buffer", "0"], "--buffer"),
        (&["--buffer", "4096m"], "--buffer"),
        (&["--format", "xml"], "xml"),
        (&["--activate", "maybe"], "maybe"),
        (&["--net", "10.0.0.0/33"], "10.0.0.0/33"),
        (&["--net", "foo"], "foo"),
        (&["--net", "fd00::/129"], "fd00::/129"),
        (&["--not-net", ""], "\"\""),
        (&["--port", "70000"], "70000"),
        (&["--port", "20-10"], "20-10"),
        (&["--proto", "tpc"], "tpc"),
        (&["--proto", "256"], "256"),
        (&["-4", "-6"], "-4 and -6"),
        (&["-o", ""], "empty"),
    ] {
        assert!(
            refused(arguments).contains(named),
            "{arguments:?}: {}",
            refused(arguments)
        );
    }
}

#[test]
fn no_argument_steers_the_terminal() {
    for argument in ["-\u{1b}", "--a\u{7}b", "stray\n", "--port=\u{9b}2J"] {
        assert!(
            !refused(&[argument]).contains(char::is_control),
            "{argument:?}"
        );
    }
}

#[test]
fn the_help_fits_one_screen_and_names_every_option() {
    assert!(HELP.lines().count() <= 40 && HELP.lines().all(|line| line.len() <= 100));
    for option in [
        "--foreground",
        "--output",
        "--format",
        "--follow",
        "--for",
        "--proto",
        "--net",
        "--not-net",
        "--port",
        "--all-netns",
        "--capacity",
        "--buffer",
        "--activate",
        "--record",
        "--trace-rate",
        "--trace-rung",
        "--owner",
        "--btf",
        "--daemon",
        "--pidfile",
        "--status",
        "--every",
        "--rotate",
        "--dry-run",
        "--help",
        "--version",
    ] {
        assert!(HELP.contains(option), "{option}");
    }
}
