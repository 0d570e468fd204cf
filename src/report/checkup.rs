//! What `check` found: one table for people, or one JSON object a line.

use super::block::Block;
use super::json::{Object, SCHEMA_VERSION};
use super::{Format, escaped};

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, but something is worse than it could be.
    Degraded,
    /// It is not there, or does not work.
    Missing,
    /// It cannot be seen from here.
    Unknown,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Degraded => "degraded",
            State::Missing => "missing",
            State::Unknown => "unknown",
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it is about: a word for programs.
    pub name: &'static str,
    /// How that is.
    pub state: State,
    /// The rung that would be used, where there are several.
    pub rung: &'static str,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty where there is nothing to do.
    pub advice: String,
    /// Without it there is no capture.
    pub vital: bool,
}

impl Line {
    /// A line without advice.
    pub fn new(name: &'static str, state: State, detail: impl Into<String>) -> Line {
        Line {
            name,
            state,
            rung: "",
            detail: detail.into(),
            advice: String::new(),
            vital: false,
        }
    }

    /// What to do about it.
    pub fn advise(self, advice: impl Into<String>) -> Line {
        Line {
            advice: advice.into(),
            ..self
        }
    }

    /// The rung that would be used.
    pub fn on(self, rung: &'static str) -> Line {
        Line { rung, ..self }
    }

    /// Without it there is no capture.
    pub fn vital(self) -> Line {
        Line {
            vital: true,
            ..self
        }
    }

    fn fails(&self) -> bool {
        self.vital && self.state == State::Missing
    }
}

/// Whether a capture would work.
pub fn works(lines: &[Line]) -> bool {
    !lines.iter().any(Line::fails)
}

/// Appends all of it, and at the end whether a capture would work.
pub fn write(lines: &[Line], format: Format, out: &mut Block) {
    match format {
        Format::Text => text(lines, out),
        Format::Json => json(lines, out),
    }
}

fn text(lines: &[Line], out: &mut Block) {
    let width = lines.iter().map(|line| line.name.len()).max().unwrap_or(0);
    for line in lines {
        let name = format!("{:<8}  {:<width$}  ", line.state.name(), line.name);
        out.slice(name.as_bytes());
        if !line.rung.is_empty() {
            out.slice(line.rung.as_bytes());
            out.put(b": ");
        }
        escaped(out, &line.detail);
        out.push(b'\n');
        if !line.advice.is_empty() {
            out.slice(format!("{:<8}  {:<width$}  -> ", "", "").as_bytes());
            escaped(out, &line.advice);
            out.push(b'\n');
        }
    }
    let because: Vec<&str> = failures(lines).map(|line| line.name).collect();
    let verdict = match because[..] {
        [] => "a capture works here".to_owned(),
        _ => format!("a capture does not work here: {}", because.join(", ")),
    };
    out.slice(verdict.as_bytes());
    out.push(b'\n');
}

fn json(lines: &[Line], out: &mut Block) {
    for line in lines {
        Object::line(out, |object| {
            object.number("v", SCHEMA_VERSION);
            object.string("type", "check");
            object.string("name", line.name);
            object.string("state", line.state.name());
            for (name, value) in [
                ("rung", line.rung),
                ("detail", line.detail.as_str()),
                ("advice", line.advice.as_str()),
            ] {
                if !value.is_empty() {
                    object.string(name, value);
                }
            }
        });
    }
    Object::line(out, |object| {
        object.number("v", SCHEMA_VERSION);
        object.string("type", "summary");
        object.string("version", env!("CARGO_PKG_VERSION"));
        object.boolean("works", works(lines));
        let states = [State::Ok, State::Degraded, State::Missing, State::Unknown];
        for state in states {
            let count = lines.iter().filter(|line| line.state == state).count();
            object.number(state.name(), count as u64);
        }
        if !works(lines) {
            object.array("because", failures(lines), |out, line| {
                super::json::string(out, line.name);
            });
        }
    });
}

fn failures(lines: &[Line]) -> impl Iterator<Item = &Line> {
    lines.iter().filter(|line| line.fails())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lines: &[Line], format: Format) -> String {
        super::super::block::written(|out| write(lines, format, out))
    }

    fn some() -> Vec<Line> {
        vec![
            Line::new("kernel", State::Ok, "Linux 6.18"),
            Line::new("nflog", State::Degraded, "taken by \x1b[2J").advise("end it"),
            Line::new("trace", State::Ok, "tried").on("nft-owned"),
        ]
    }

    #[test]
    fn the_table_says_what_to_do_below_each_line() {
        let expected = "ok        kernel  Linux 6.18\n\
                        degraded  nflog   taken by \\u{1b}[2J\n          \
                        \x20       -> end it\n\
                        ok        trace   nft-owned: tried\n\
                        a capture works here\n";
        assert_eq!(written(&some(), Format::Text), expected);
    }

    #[test]
    fn only_what_is_vital_decides() {
        let mut lines = some();
        lines.push(Line::new("procfs", State::Missing, "x"));
        assert!(works(&lines));
        lines.push(Line::new("root", State::Unknown, "x").vital());
        assert!(works(&lines));
        lines.push(Line::new("ctnetlink", State::Missing, "x").vital());
        assert!(!works(&lines));
        let text = written(&lines, Format::Text);
        assert!(text.ends_with("a capture does not work here: ctnetlink\n"));
        let json = written(&lines, Format::Json);
        assert!(json.ends_with(
            ",\"works\":false,\"ok\":2,\"degraded\":1,\"missing\":2,\"unknown\":1,\"because\":[\"ctnetlink\"]}\n"
        ));
    }

    #[test]
    fn json_has_one_object_a_line_and_nothing_of_a_strangers_terminal() {
        let json = written(&some(), Format::Json);
        let lines: Vec<&str> = json.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            lines[1],
            r#"{"v":1,"type":"check","name":"nflog","state":"degraded","detail":"taken by \u001b[2J","advice":"end it"}"#
        );
    }
}
