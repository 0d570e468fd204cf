//! Parse, dispatch, and turn an error into one line and an exit status.

use conntracker::cli::{self, Command};
use conntracker::error::Result;
use conntracker::run;
use conntracker::sys::privileges;
use conntracker::sys::process::{self, Told};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: conntracker::sys::alloc::Counting = conntracker::sys::alloc::Counting;

fn main() -> ExitCode {
    privileges::close_umask();
    let told = process::take_environment();
    let outcome =
        cli::parse(std::env::args_os().skip(1)).and_then(|command| dispatch(command, &told));
    match outcome {
        Ok(exit_status) => ExitCode::from(exit_status),
        Err(error) => {
            run::log::failure(format_args!("{error}"));
            ExitCode::from(error.exit_status())
        }
    }
}

fn dispatch(command: Command, told: &Told) -> Result<u8> {
    match command {
        Command::Help => run::log::print(cli::HELP),
        Command::Version => run::log::print(&cli::version()),
        Command::Capture(options) | Command::Blame(options) if options.dry_run => {
            run::dry_run::run(&options)
        }
        Command::Capture(options) | Command::Blame(options) => run::capture::run(&options, told),
        Command::Check(options) => run::check::run(&options),
        Command::BlameReport(file, options) => run::blame::run(&file, &options),
        Command::Replay(file, options) => run::replay::run(&file, &options),
    }
}
