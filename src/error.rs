//! What we tried, on what, why it failed, and what to do about it.

use std::fmt;

/// An error that ends the program, as one line for a person.
#[derive(Debug)]
pub struct Error {
    message: String,
    exit_status: u8,
}

/// The result of anything that can end the program.
pub type Result<T> = std::result::Result<T, Error>;

/// The system would not let us start, or would not take the report.
pub const EXIT_FAILED: u8 = 1;
/// The command line is wrong.
pub const EXIT_USAGE: u8 = 2;
/// The run succeeded, but something was lost.
pub const EXIT_INCOMPLETE: u8 = 3;

impl Error {
    /// "doing: cause (advice)". The advice may be empty.
    pub fn failed(doing: impl fmt::Display, cause: impl fmt::Display, advice: &str) -> Error {
        let message = match advice {
            "" => format!("{doing}: {cause}"),
            advice => format!("{doing}: {cause} ({advice})"),
        };
        Error::new(message, EXIT_FAILED)
    }

    /// A mistake on the command line.
    pub fn usage(message: impl fmt::Display) -> Error {
        Error::new(format!("{message} (try 'conntracker --help')"), EXIT_USAGE)
    }

    /// What somebody else chose, a file's name or an argument, may not steer a terminal.
    fn new(message: String, exit_status: u8) -> Error {
        let message = message.replace(char::is_control, "?");
        Error {
            message,
            exit_status,
        }
    }

    /// The process's exit status.
    pub fn exit_status(&self) -> u8 {
        self.exit_status
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
