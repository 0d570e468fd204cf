use super::way::{Trust, is_everybody};
use super::*;
use rustix::fs::{CWD, Stat, mkfifoat};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

const ROOT: Trust = Trust {
    own: 0,
    group: None,
    outside: None,
};
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static SERIAL: AtomicUsize = AtomicUsize::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("conntracker-place-{}-{serial}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        fs::create_dir(&folder.0).unwrap();
        folder.allow("", 0o755);
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn place(&self, name: &str) -> Place {
        Place::find(&self.at(name)).unwrap()
    }

    fn allow(&self, name: &str, mode: u32) {
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn stat(kind: u32, mode: u32, user: u32, group: u32) -> Stat {
    let mut stat = statat(CWD, "/", AtFlags::empty()).unwrap();
    stat.st_mode = kind | mode;
    stat.st_uid = user;
    stat.st_gid = group;
    stat.st_nlink = 1;
    stat
}

fn cause<T>(result: Result<T, Unfit>) -> String {
    result.err().expect("a refusal").cause
}

#[test]
fn folders_that_nobody_else_can_change() {
    let fit = |trust: Trust, mode, user, group, listed| {
        trust
            .against_folder(&stat(FOLDER, mode, user, group), || listed)
            .is_none()
    };
    for (mode, group) in [
        (0o755, 0),
        (0o1777, 0),
        (0o775, 110),
        (0o2775, 999),
        (0o1775, 1000),
    ] {
        assert!(
            fit(ROOT, mode, 0, group, false),
            "{mode:o} of group {group}"
        );
        assert!(!fit(ROOT, mode, 1000, group, false), "{mode:o} of a user");
        assert!(!fit(ROOT, mode, 65534, group, false), "{mode:o} of nobody");
    }
    for (mode, group) in [
        (0o777, 0),
        (0o757, 0),
        (0o775, 1000),
        (0o775, 100),
        (0o2775, 65534),
    ] {
        assert!(
            !fit(ROOT, mode, 0, group, false),
            "{mode:o} of group {group}"
        );
    }
    assert!(!fit(ROOT, 0o775, 0, 0, true), "an access list");
    assert!(
        fit(ROOT, 0o755, 0, 0, true),
        "an access list that lets nobody write"
    );
    let user = Trust {
        own: 1000,
        group: Some(1000),
        outside: None,
    };
    assert!(fit(user, 0o775, 1000, 1000, false) && fit(user, 0o755, 0, 0, false));
    assert!(!fit(user, 0o775, 1000, 1001, false) && !fit(user, 0o755, 1001, 1000, false));
    let inside = Trust {
        outside: Some(65534),
        ..ROOT
    };
    assert!(fit(inside, 0o755, 65534, 65534, false) && !fit(inside, 0o755, 1000, 0, false));
}

#[test]
fn links_that_nobody_else_can_change() {
    let fit = |user, names, is_shared| {
        let mut link = stat(LINK, 0o777, user, 0);
        link.st_nlink = names;
        ROOT.against_link(&link, is_shared).is_none()
    };
    assert!(fit(0, 1, false) && fit(0, 2, false) && fit(0, 1, true));
    assert!(!fit(0, 2, true) && !fit(1000, 1, false) && !fit(1000, 1, true));
}

#[test]
fn files_that_can_only_be_ours() {
    let fit = |mode, user, group| ROOT.against_file(&stat(FILE, mode, user, group)).is_none();
    assert!(fit(0o600, 0, 0) && fit(0o664, 0, 4));
    assert!(!fit(0o600, 1000, 0) && !fit(0o602, 0, 0) && !fit(0o664, 0, 1000));
}

#[test]
fn the_first_user_namespace() {
    assert!(is_everybody("         0          0 4294967295\n"));
    assert!(!is_everybody("         0       1000          1\n"));
    assert!(!is_everybody("0 0 1\n") && !is_everybody("0 0 1000\n1000 5000 4294967295\n"));
}

#[test]
fn the_way_is_gone_step_by_step() {
    let folder = Folder::new();
    fs::create_dir_all(folder.at("a/b")).unwrap();
    symlink("a", folder.at("short")).unwrap();
    symlink(folder.at("short/b"), folder.at("a/long")).unwrap();
    symlink("round", folder.at("round")).unwrap();
    for way in [
        "a/b",
        "./a//b/.",
        "a/../a/b",
        "short/b",
        "a/long",
        "short/long/../long",
    ] {
        let place = folder.place(&format!("{way}/file"));
        place.create_new().unwrap();
        fs::remove_file(folder.at("a/b/file")).unwrap();
    }
    let refused = |name: &str| cause(Place::find(&folder.at(name)));
    assert!(refused("none/file").contains("none: No such file"));
    assert!(refused("round/file").contains("symbolic link"));
    fs::write(folder.at("plain"), "").unwrap();
    assert!(refused("plain/file").contains("plain: Not a directory"));
    assert!(refused("a/").contains("name of a folder"));
    assert!(refused("a/..").contains("not the name of a file"));
    assert_eq!(
        cause(Place::find(Path::new("/"))),
        "that is the name of a folder"
    );
}

#[test]
fn each_folder_on_the_way_counts() {
    let folder = Folder::new();
    fs::create_dir_all(folder.at("open/inner")).unwrap();
    symlink("open/inner", folder.at("way")).unwrap();
    folder.allow("open/inner", 0o755);
    folder.allow("open", 0o777);
    for name in ["open/file", "open/inner/file", "way/file"] {
        let why = cause(Place::find(&folder.at(name)));
        assert!(
            why.contains("/open can be written by everybody"),
            "{name}: {why}"
        );
    }
    folder.allow("open", 0o1777);
    folder.place("open/file").create_new().unwrap();
    folder.place("way/file").create_new().unwrap();
}

#[test]
fn a_relative_name_is_of_the_current_folder() {
    let place = Place::find(Path::new("conntracker-no-such-file")).unwrap();
    assert_eq!(place.shown(), "conntracker-no-such-file");
    assert_eq!(place.kind().unwrap(), None);
    let current = fs::metadata(".").unwrap();
    assert_eq!(fstat(&place.folder).unwrap().st_ino, current.ino());
}

#[test]
fn what_is_there_is_never_written_on() {
    let folder = Folder::new();
    fs::write(folder.at("victim"), "victim").unwrap();
    symlink("victim", folder.at("link")).unwrap();
    symlink("nothing", folder.at("dangling")).unwrap();
    fs::hard_link(folder.at("victim"), folder.at("second")).unwrap();
    fs::create_dir(folder.at("folder")).unwrap();
    mkfifoat(CWD, folder.at("pipe"), PRIVATE).unwrap();
    let _listener = UnixListener::bind(folder.at("socket")).unwrap();
    let before = folder.names();
    for (name, why) in [
        ("link", "symbolic link"),
        ("dangling", "symbolic link"),
        ("second", "another name"),
        ("folder", "directory"),
        ("pipe", "neither a file"),
        ("socket", "neither a file"),
    ] {
        let place = folder.place(name);
        for refused in [
            cause(place.open_to_append()),
            cause(place.open_to_lock()),
            cause(place.open_to_read()),
        ] {
            assert!(refused.contains(why), "{name}: {refused}");
        }
        let error = place.create_new().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{name}");
        cause(place.open_device());
    }
    folder.allow("victim", 0o646);
    fs::remove_file(folder.at("second")).unwrap();
    assert!(cause(folder.place("victim").open_to_append()).contains("everybody"));
    assert_eq!(fs::read_to_string(folder.at("victim")).unwrap(), "victim");
    assert_eq!(folder.names().len(), before.len() - 1);
}

#[test]
fn a_file_grows_and_a_lock_is_kept() {
    let folder = Folder::new();
    let place = folder.place("log");
    assert!(place.open_to_read().unwrap().is_none());
    for text in ["one\n", "two\n"] {
        place
            .open_to_append()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }
    let mut held = place.open_to_lock().unwrap();
    let mut text = String::new();
    held.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one\ntwo\n");
    assert_eq!(
        fs::metadata(folder.at("log")).unwrap().mode() & 0o777,
        0o600
    );
    assert!(place.holds(&held));
    place.move_to(&place.beside(".1").unwrap()).unwrap();
    assert!(!place.holds(&held));
    assert_eq!(folder.names(), ["log.1"]);
    place.open_to_append().unwrap();
    assert!(!place.holds(&held));
    place.remove().unwrap();
    place.remove().unwrap();
    assert_eq!(folder.names(), ["log.1"]);
}

#[test]
fn a_draft_replaces_what_is_there_or_leaves_nothing() {
    let folder = Folder::new();
    fs::write(folder.at("victim"), "victim").unwrap();
    let place = folder.place("report");
    drop(place.draft().unwrap());
    place.try_folder().unwrap();
    assert_eq!(folder.names(), ["victim"]);
    let prepare: [fn(&Folder); 4] = [
        |folder| symlink("victim", folder.at("report")).unwrap(),
        |folder| symlink("nothing", folder.at("report")).unwrap(),
        |folder| fs::hard_link(folder.at("victim"), folder.at("report")).unwrap(),
        |folder| mkfifoat(CWD, folder.at("report"), PRIVATE).unwrap(),
    ];
    for prepare in prepare {
        prepare(&folder);
        let (mut file, mut draft) = place.draft().unwrap();
        file.write_all(b"report").unwrap();
        draft.publish().unwrap();
        assert_eq!(place.kind().unwrap(), Some(FileType::RegularFile));
        assert_eq!(fs::read_to_string(folder.at("report")).unwrap(), "report");
        assert_eq!(fs::read_to_string(folder.at("victim")).unwrap(), "victim");
        assert_eq!(folder.names(), ["report", "victim"]);
        place.remove().unwrap();
    }
    fs::create_dir(folder.at("report")).unwrap();
    let (_, mut draft) = place.draft().unwrap();
    assert!(
        draft
            .publish()
            .unwrap_err()
            .to_string()
            .contains("beside it, in .report.")
    );
}
