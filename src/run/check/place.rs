//! Where a capture would live: beside which others, with what left behind, and where it would write.

use crate::cli::{OUTPUT_DEFAULT, Options, Output};
use crate::firewall::state::StateFile;
use crate::owner::probe_events;
use crate::report::checkup::{Line, State};
use crate::sys::instance;
use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, statvfs};
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

pub(super) fn lines(options: &Options) -> Vec<Line> {
    vec![
        other(),
        leftovers(),
        run_folder(),
        output(options),
        syslog(),
    ]
}

/// A process by name and number; the name is its own choice.
pub(in crate::run) fn process(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("process {pid} ({})", name.trim_end_matches('\n'))
}

/// Whether a capture runs in this namespace.
fn other() -> Line {
    const NAME: &str = "instance";
    match instance::holder() {
        Ok(None) => Line::new(NAME, State::Ok, "no other one in this network namespace"),
        Ok(Some(pid)) => {
            let who = match u32::try_from(pid) {
                Ok(pid) if pid > 0 => process(pid),
                _ => "a process that cannot be seen from here".to_owned(),
            };
            let detail =
                format!("one runs in this network namespace, {who}: a second one is refused");
            Line::new(NAME, State::Degraded, detail).advise("end that one first")
        }
        Err(error) => Line::new(
            NAME,
            State::Unknown,
            format!("whether another one runs cannot be seen: {error}"),
        ),
    }
}

fn leftovers() -> Line {
    const NAME: &str = "leftovers";
    let left = match StateFile::of_this_namespace().and_then(|file| file.read()) {
        Ok(left) => left,
        Err(error) => {
            return Line::new(
                NAME,
                State::Unknown,
                format!("what an earlier run left cannot be seen: {error}"),
            );
        }
    };
    let left = left.iter().map(ToString::to_string);
    let left: Vec<String> = left.chain(probe_events::left()).collect();
    if left.is_empty() {
        return Line::new(NAME, State::Ok, "none of an earlier run");
    }
    let detail = format!(
        "an earlier run, or one that runs now, has made: {}",
        left.join(", ")
    );
    Line::new(NAME, State::Degraded, detail)
        .advise("the next start removes what no capture needs any more")
}

/// Where the lock, and what a `kill -9` would leave, are written down.
fn run_folder() -> Line {
    match accessat(CWD, "/run", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => Line::new("run_folder", State::Ok, "/run can be written to"),
        Err(errno) => Line::new("run_folder", State::Degraded, format!("/run: {}", io::Error::from(errno)))
            .advise("mount a tmpfs there: without it nothing keeps two captures apart, and rungs that are written down first are refused"),
    }
}

fn output(options: &Options) -> Line {
    const NAME: &str = "output";
    let (path, is_asked) = match &options.output {
        Output::File(path) => (path.as_path(), true),
        Output::Stdout => (Path::new(OUTPUT_DEFAULT), false),
    };
    let line = match fitness(path) {
        Ok(detail) => Line::new(NAME, State::Ok, detail),
        Err(reason) => {
            Line::new(NAME, State::Missing, reason).advise("name another file with -o; - is stdout")
        }
    };
    // Where no -o says otherwise, a capture has its default: then that file is only one of many.
    if is_asked { line.vital() } else { line }
}

/// Whether a report could be written there, judged without writing.
pub(in crate::run) fn fitness(path: &Path) -> Result<String, String> {
    let shown = path.display();
    if path.as_os_str().to_string_lossy().ends_with('/') {
        return Err(format!("{shown}: that is the name of a folder"));
    }
    match fs::symlink_metadata(path).map(|found| found.file_type()) {
        Ok(kind) if kind.is_symlink() => {
            return Err(format!(
                "{shown}: it is a symbolic link, which is never written through"
            ));
        }
        Ok(kind) if kind.is_dir() => return Err(format!("{shown}: it is a directory")),
        Ok(kind) if kind.is_char_device() => {
            return Ok(format!("{shown} is a device, and is written to"));
        }
        Ok(kind) if !kind.is_file() => {
            return Err(format!("{shown}: it is neither a file nor a device"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(format!("{shown}: {error}")),
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let told = |error: io::Error| format!("{}: {error}", folder.display());
    let kind = fs::metadata(folder).map_err(told)?;
    if !FileType::from_raw_mode(std::os::unix::fs::MetadataExt::mode(&kind)).is_dir() {
        return Err(format!("{}: it is not a folder", folder.display()));
    }
    accessat(
        CWD,
        folder,
        Access::WRITE_OK | Access::EXEC_OK,
        AtFlags::EACCESS,
    )
    .map_err(|errno| told(errno.into()))?;
    let free = statvfs(folder).map(|found| found.f_bavail.saturating_mul(found.f_frsize));
    let free = free.map_err(|errno| told(errno.into()))?;
    if free == 0 {
        return Err(format!("{}: the file system is full", folder.display()));
    }
    Ok(format!(
        "{shown} is replaced when a report is whole; {} MiB are free there",
        free >> 20
    ))
}

/// Where messages of a daemon go.
fn syslog() -> Line {
    const PLACE: &str = "/dev/log";
    match fs::metadata(PLACE) {
        Ok(found) if found.file_type().is_socket() => {
            Line::new("syslog", State::Ok, format!("{PLACE} is there"))
        }
        Ok(_) => Line::new("syslog", State::Missing, format!("{PLACE} is no socket"))
            .advise("start a syslog daemon"),
        Err(error) => Line::new(
            "syslog",
            State::Missing,
            format!("{PLACE}: {error}; the messages of -d wait for it"),
        )
        .advise("start a syslog daemon (busybox: syslogd)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_judged_without_writing() {
        let folder = std::env::temp_dir().join(format!("conntracker-place-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let link = folder.join("link");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        let before = fs::metadata(&folder).unwrap().modified().unwrap();
        assert!(fitness(&folder.join("report")).is_ok());
        for (place, why) in [
            (link.clone(), "symbolic link"),
            (folder.clone(), "a directory"),
            (folder.join("missing/report"), "No such file"),
            (link.join("report"), "Not a directory"),
            (folder.join("x/"), "name of a folder"),
        ] {
            let reason = fitness(&place).unwrap_err();
            assert!(reason.contains(why), "{reason}");
        }
        assert!(fitness(Path::new("/dev/null")).unwrap().contains("device"));
        assert_eq!(fs::metadata(&folder).unwrap().modified().unwrap(), before);
        fs::remove_dir_all(&folder).unwrap();
    }
}
