//! Compiles bpf/*.bpf.c with clang, for the target's architecture, into OUT_DIR, packs them, and writes
//! a list of them for the sources to include; nothing else.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=BPF_CLANG");
    println!("cargo::rerun-if-env-changed=BPF_STRIP");
    if env::var_os("CARGO_FEATURE_BPF").is_none() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let clang = tool("BPF_CLANG", "clang");
    let strip = tool("BPF_STRIP", "llvm-strip");
    let mut sources: Vec<PathBuf> = std::fs::read_dir("bpf")
        .expect("bpf/ is part of the sources")
        .map(|entry| entry.expect("bpf/ can be read").path())
        .filter(|path| path.to_string_lossy().ends_with(".bpf.c"))
        .collect();
    sources.sort();
    let mut list = String::from("&[\n");
    for source in sources {
        let name = source.file_stem().expect("it has a name");
        let object = out.join(name).with_extension("o"); // cgroup.bpf.c: cgroup.o
        compile(&clang, &source, &object);
        run(Command::new(&strip).args(dead_weight(&object)).arg(&object));
        let packed = object.with_extension("deflate");
        let len = pack(&object, &packed);
        let name = object.file_stem().expect("it has one still");
        list += &format!("({name:?}, {len}, include_bytes!({packed:?})),\n");
    }
    std::fs::write(out.join("programs.rs"), list + "]\n").expect("OUT_DIR can be written");
}

/// What goes of an object: DWARF, and relocations of the types' sections, which libbpf does not read. The
/// types of the maps stay. Where a program fits itself to the kernel (by "0:" and a path of numbers
/// among the strings of .BTF), how it does stays too; else that section holds but line numbers.
fn dead_weight(object: &Path) -> Vec<&'static str> {
    let bytes = std::fs::read(object).expect("clang wrote it");
    let fits = bytes.windows(3).any(|bytes| bytes == b"\x000:");
    let mut arguments = vec!["-g", "-R", ".rel.BTF", "-R", ".rel.BTF.ext"];
    if !fits {
        arguments.extend(["-R", ".BTF.ext"]);
    }
    arguments
}

/// Packs a file as the zlib that is linked anyway unpacks it; returns how long it was before. What gzip
/// puts around that is left out: all of it is known, or was just written here.
fn pack(from: &Path, to: &Path) -> u64 {
    const HEAD_LEN: usize = 10; // without a name or a time (-n)
    const TAIL_LEN: usize = 8; // sum and length
    let packed = Command::new("gzip")
        .args(["-9", "-n", "-c"])
        .arg(from)
        .output();
    let packed = packed.expect("gzip can be run: apt-get install gzip (or --no-default-features)");
    assert!(
        packed.status.success(),
        "gzip -9 -n -c {from:?}: {}",
        packed.status
    );
    let bytes = &packed.stdout;
    assert_eq!(
        bytes.get(..4),
        Some(&[0x1f, 0x8b, 8, 0][..]),
        "gzip: {from:?}"
    );
    let deflated = bytes.get(HEAD_LEN..bytes.len() - TAIL_LEN);
    std::fs::write(to, deflated.expect("longer than that")).expect("OUT_DIR can be written");
    std::fs::metadata(from).expect("clang wrote it").len()
}

/// A program of LLVM: as the environment says, or the newest that Debian has by a number, or plain.
fn tool(variable: &str, name: &str) -> String {
    if let Ok(tool) = env::var(variable) {
        return tool;
    }
    let works = |tool: &String| {
        let told = Command::new(tool).arg("--version").output();
        told.is_ok_and(|output| output.status.success())
    };
    let numbered = (14..=22).rev().map(|version| format!("{name}-{version}"));
    numbered
        .chain([name.to_owned()])
        .find(works)
        .unwrap_or_else(|| {
            panic!("no {name}: apt-get install clang llvm (or --no-default-features)")
        })
}

fn compile(clang: &str, source: &Path, object: &Path) {
    let architecture = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => "x86",
        Ok("aarch64") => "arm64",
        other => panic!("no probes for {other:?}: --no-default-features builds without them"),
    };
    // libbpf's own headers for programs; their types come from this machine's <linux/types.h> no more
    // than the programs' do: bpf/types.h declares what is read.
    let include = env::var("DEP_BPF_INCLUDE").expect("libbpf-sys says where its headers are");
    let mut command = Command::new(clang);
    command
        .args([
            "-target", "bpf", "-mcpu=v1", "-O2", "-g", "-Wall", "-Werror",
        ])
        .args([
            "-fno-ident",
            "-ffile-prefix-map=bpf/=/conntracker/bpf/",
            "-fdebug-compilation-dir=/conntracker",
        ])
        .arg(format!("-ffile-prefix-map={include}=/libbpf"))
        .arg(format!("-D__TARGET_ARCH_{architecture}"))
        .arg(format!("-I{include}"))
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(object);
    run(&mut command);
}

fn run(command: &mut Command) {
    let status = command.status();
    assert!(
        status.as_ref().is_ok_and(|status| status.success()),
        "{command:?}: {status:?}"
    );
}
