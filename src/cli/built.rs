//! Refuses what this build cannot do.

use crate::error::Result;
use crate::features::{Check, Daemon, Owners, Record, Trace};

/// Lets an option, or the first word, pass if this build has what it asks for.
pub(super) fn allow(name: &str) -> Result<()> {
    match name {
        "-t" | "--trace" | "-e" | "--everything" | "--trace-rate" | "--trace-rung" | "blame" => {
            Trace::needed_by(name).map(drop)
        }
        "-b" | "--bpf" | "--owner" | "--btf" => Owners::needed_by(name).map(drop),
        "-d" | "--daemon" | "--pidfile" | "--status" | "--every" | "--rotate" => {
            Daemon::needed_by(name).map(drop)
        }
        "--record" | "replay" => Record::needed_by(name).map(drop),
        "--dry-run" | "check" => Check::needed_by(name).map(drop),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::left_out;

    /// What belongs to a feature is refused where it is left out, by name, and nothing else is.
    #[test]
    fn what_was_left_out_is_refused_by_name() {
        let cases = [
            (
                "trace",
                ["-t", "-e", "--trace-rate", "--trace-rung", "blame"].as_slice(),
            ),
            ("owners", &["-b", "--owner", "--btf"]),
            (
                "daemon",
                &["-d", "--pidfile", "--status", "--every", "--rotate"],
            ),
            ("record", &["--record", "replay"]),
            ("check", &["--dry-run", "check"]),
            (
                "",
                &["-o", "--follow", "-f", "--for", "--activate", "a word"],
            ),
        ];
        for (feature, words) in cases {
            let is_left_out = left_out().any(|name| name == feature);
            for word in words {
                let refusal = crate::cli::parse([word])
                    .err()
                    .map(|error| error.to_string());
                let named = refusal.as_deref().is_some_and(|refusal| {
                    refusal.starts_with(&format!("{word}: this build has no "))
                        && refusal.contains(&format!("feature `{feature}`"))
                });
                assert_eq!(named, is_left_out, "{word}: {refusal:?}");
                assert_eq!(allow(word).is_err(), is_left_out, "{word}");
            }
        }
    }
}
