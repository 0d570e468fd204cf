//! Holds the object of the kprobes to what verifiers from 4.4 to 4.15 take. No kernel that old runs
//! the tests, and what clang makes of a program changes with its version.

#![cfg(feature = "bpf")]

use std::ops::Range;

const INSTRUCTIONS_MAX: usize = 4096;
const STACK_MAX: i32 = 512;

/// Helpers that a kprobe of 4.4 may call: maps, probe_read, the clock, the processor, the task, and
/// perf_event_output.
const HELPERS: [i32; 10] = [1, 2, 3, 4, 5, 8, 14, 15, 16, 25];
/// Hash, array, array of programs, array of perf events.
const MAP_TYPES: Range<u32> = 1..5;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(*bytes[at..].first_chunk().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().unwrap())
}

fn size_at(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize
}

fn name_at(names: &[u8], at: usize) -> &str {
    let name = names[at..].split(|byte| *byte == 0).next().unwrap();
    std::str::from_utf8(name).unwrap()
}

// ---------------------------------------------------------------- instructions

struct Instruction {
    code: u8,
    target: u8,
    source: u8,
    offset: i16,
    number: i32,
}

fn instructions(code: &[u8]) -> Vec<Instruction> {
    let read = |bytes: &[u8]| Instruction {
        code: bytes[0],
        target: bytes[1] & 15,
        source: bytes[1] >> 4,
        offset: i16::from_le_bytes([bytes[2], bytes[3]]),
        number: i32::from_le_bytes(*bytes[4..].first_chunk().unwrap()),
    };
    code.chunks_exact(8).map(read).collect()
}

/// What is wrong with a call or a jump.
fn lint_jump(it: &Instruction) -> Option<String> {
    match (it.code & 0xf0, it.source) {
        (0x80, 0) if it.code == 0x85 && HELPERS.contains(&it.number) => None,
        (0x80, 0) if it.code == 0x85 => {
            Some(format!("helper {}, not for kprobes of 4.4", it.number))
        }
        (0x80, 1) => Some("calls a function (4.16)".into()),
        (0x80, _) => Some("calls what is no helper".into()),
        (0x90, _) => None,
        (0xa0..=0xd0, _) => Some("JLT, JLE, JSLT or JSLE (4.14)".into()),
        (0xe0.., _) => Some("a jump of an unknown kind".into()),
        _ if it.offset < 0 => Some("jumps back: a loop (5.3)".into()),
        _ => None,
    }
}

/// What is wrong with one instruction, all by itself.
fn lint_instruction(it: &Instruction) -> Option<String> {
    let is_stack = |register: u8| register == 10 && i32::from(it.offset) < -STACK_MAX;
    match it.code & 7 {
        1 if it.code & 0xe0 != 0x60 => Some("a load of an unknown kind (6.6)".into()),
        1 if is_stack(it.source) => Some("reads below the stack".into()),
        2 | 3 if is_stack(it.target) => Some("writes below the stack".into()),
        3 if it.code & 0xe0 == 0xc0 && it.number != 0 => Some("an atomic but XADD (5.12)".into()),
        3 if !matches!(it.code & 0xe0, 0x60 | 0xc0) => Some("a store of an unknown kind".into()),
        4 | 7 if it.offset != 0 => Some("moves or divides with a sign (6.6)".into()),
        5 => lint_jump(it),
        6 => Some("compares 32 bits (5.1)".into()),
        7 if it.code & 0xf0 == 0xd0 => Some("swaps bytes in a way of its own (6.6)".into()),
        _ => None,
    }
}

fn lint_program(code: &[u8]) -> Vec<String> {
    let list = instructions(code);
    let mut found = Vec::new();
    if list.len() > INSTRUCTIONS_MAX {
        found.push(format!("{} instructions", list.len()));
    }
    let tells = list.iter().any(|it| it.code == 0x85 && it.number == 25);
    let mut at = 0;
    while let Some(it) = list.get(at) {
        let wide = it.code == 0x18;
        let fault = if wide {
            let upper = list.get(at + 1).map(|it| it.number);
            match it.source {
                0 if tells && (it.number, upper) == (-1, Some(0)) => {
                    Some("BPF_F_CURRENT_CPU (4.7)".into())
                }
                0 | 1 => None,
                _ => Some("global data or a function's address".into()),
            }
        } else {
            lint_instruction(it)
        };
        found.extend(fault.map(|fault| format!("{at}: {fault}")));
        let next = list.get(at + 1);
        let copies_stack = it.code == 0xbf && it.source == 10;
        if next.is_some_and(|next| {
            copies_stack
                && (next.code, next.target) == (0x07, it.target)
                && next.number < -STACK_MAX
        }) {
            found.push(format!("{at}: points below the stack"));
        }
        at += if wide { 2 } else { 1 };
    }
    found
}

// ---------------------------------------------------------------- types

/// Bytes behind the three words that every type of BTF begins with.
fn btf_more(kind: u32, members: usize) -> usize {
    match kind {
        1 | 14 | 17 => 4,
        3 => 12,
        4 | 5 | 15 | 19 => 12 * members,
        6 | 13 => 8 * members,
        2 | 7..=12 | 16 | 18 => 0,
        _ => panic!("a kind of BTF that this test does not know: {kind}"),
    }
}

/// The types of the maps, from BTF: `int (*type)[NUMBER]` is a member of the struct of each.
fn map_types(btf: &[u8]) -> Vec<u32> {
    let header = u32_at(btf, 4) as usize;
    let types = header + u32_at(btf, 8) as usize;
    let names = &btf[header + u32_at(btf, 16) as usize..];
    let mut places = vec![0]; // type 0 is void
    let mut at = types;
    while at < types + u32_at(btf, 12) as usize {
        places.push(at);
        let info = u32_at(btf, at + 4);
        at += 12 + btf_more(info >> 24 & 31, (info & 0xffff) as usize);
    }
    let is_maps = |at: usize| {
        u32_at(btf, at + 4) >> 24 & 31 == 15 && name_at(names, u32_at(btf, at) as usize) == ".maps"
    };
    let refers = |at: usize| places[u32_at(btf, at) as usize];
    let section = places[1..].iter().find(|at| is_maps(**at)).unwrap();
    let count = (u32_at(btf, section + 4) & 0xffff) as usize;
    let mut found = Vec::new();
    for variable in 0..count {
        let map = refers(refers(section + 12 + variable * 12) + 8);
        let members = (u32_at(btf, map + 4) & 0xffff) as usize;
        let member = (0..members).map(|index| map + 12 + index * 12);
        let mut typed = member.filter(|at| name_at(names, u32_at(btf, *at) as usize) == "type");
        let pointer = refers(typed.next().unwrap() + 4);
        let array = refers(pointer + 8);
        found.push(u32_at(btf, array + 20));
    }
    found
}

/// Bytes of the relocations by a kernel's BTF, which it has to have for them.
fn core_relocations(btf_ext: &[u8]) -> u32 {
    if u32_at(btf_ext, 4) < 32 {
        return 0;
    }
    u32_at(btf_ext, 28)
}

// ---------------------------------------------------------------- sections

#[derive(Clone, Copy)]
struct Section<'a> {
    name: &'a str,
    /// SHF_ALLOC 2, SHF_EXECINSTR 4
    flags: usize,
    size: usize,
    content: &'a [u8],
}

fn sections(object: &[u8]) -> Vec<Section<'_>> {
    let headers = size_at(object, 40);
    let header = |index: usize| headers + index * 64;
    let content = |at: usize| {
        let is_empty = u32_at(object, at + 4) == 8; // SHT_NOBITS
        let size = if is_empty {
            0
        } else {
            size_at(object, at + 32)
        };
        &object[size_at(object, at + 24)..][..size]
    };
    let names = content(header(u16_at(object, 62).into()));
    let section = |at: usize| Section {
        name: name_at(names, u32_at(object, at) as usize),
        flags: size_at(object, at + 8),
        size: size_at(object, at + 32),
        content: content(at),
    };
    (1..u16_at(object, 60).into())
        .map(|index| section(header(index)))
        .collect()
}

fn lint_section(section: &Section) -> Vec<String> {
    let faults = match section.name {
        _ if section.size == 0 => vec![],
        ".text" => vec!["functions (4.16)".into()],
        ".BTF.ext" if core_relocations(section.content) > 0 => vec!["needs a kernel's BTF".into()],
        ".BTF" => {
            let newer = |map: &u32| !MAP_TYPES.contains(map);
            let maps = map_types(section.content);
            maps.into_iter()
                .filter(newer)
                .map(|map| format!("a map of type {map}"))
                .collect()
        }
        "license" | ".maps" => vec![],
        _ if section.flags & 4 != 0 => lint_program(section.content),
        _ if section.flags & 2 != 0 => vec!["global data (5.2)".into()],
        _ => vec![],
    };
    let named = |fault| format!("{}: {fault}", section.name);
    faults.into_iter().map(named).collect()
}

// ---------------------------------------------------------------- tests

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kprobe.o"));

#[test]
fn old_verifiers_take_the_object() {
    let sections = sections(OBJECT);
    let found: Vec<String> = sections.iter().flat_map(lint_section).collect();
    assert!(found.is_empty(), "{found:#?}");
    let programs = sections
        .iter()
        .filter(|section| section.name.starts_with("kprobe/"));
    assert!(programs.count() >= 8);
    let types = sections.iter().find(|section| section.name == ".BTF");
    assert_eq!(map_types(types.unwrap().content), [4, 2]);
}

/// One instruction as the kernel has it.
fn code(code: u8, registers: u8, offset: i16, number: i32) -> Vec<u8> {
    let mut bytes = vec![code, registers];
    bytes.extend(offset.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes
}

#[test]
fn what_old_verifiers_refuse_is_found() {
    let call = |helper| code(0x85, 0, 0, helper);
    let wide = |registers, low, high| [code(0x18, registers, 0, low), code(0, 0, 0, high)].concat();
    let refused = [
        ("a loop", code(0x05, 0, -2, 0)),
        ("a loop with a condition", code(0x55, 0x01, -5, 0)),
        ("a function", code(0x85, 0x10, 0, -1)),
        ("one of the kernel's functions", code(0x85, 0x20, 0, 7)),
        ("bpf_get_current_task", call(35)),
        ("bpf_probe_read_kernel", call(113)),
        ("bpf_ringbuf_output", call(130)),
        ("JLT", code(0xa5, 0x01, 3, 0)),
        ("JMP32", code(0x16, 0x01, 3, 0)),
        ("an atomic fetch", code(0xdb, 0x21, 0, 1)),
        ("a move of a signed byte", code(0xbf, 0x21, 8, 0)),
        ("a load of a signed byte", code(0x91, 0x21, 0, 0)),
        ("a swap", code(0xd7, 0x01, 0, 16)),
        ("global data", wide(0x21, 0, 0)),
        (
            "the current processor",
            [wide(0x03, -1, 0), call(25)].concat(),
        ),
        ("a deep stack", code(0x7b, 0x1a, -520, 0)),
        (
            "a deep stack by pointer",
            [code(0xbf, 0xa1, 0, 0), code(0x07, 0x01, 0, -600)].concat(),
        ),
        ("length", code(0xb7, 0, 0, 0).repeat(INSTRUCTIONS_MAX + 1)),
    ];
    for (what, code) in refused {
        assert_eq!(
            lint_program(&code).len(),
            1,
            "{what}: {:?}",
            lint_program(&code)
        );
    }
    let taken = [
        wide(0x12, 5, 0),
        call(4),
        code(0x55, 0x01, 5, 0),
        code(0xdb, 0x21, 0, 0),
        code(0x7b, 0x1a, -512, 0),
        code(0xdc, 0x01, 0, 16),
        code(0x95, 0, 0, 0),
    ];
    assert_eq!(lint_program(&taken.concat()), [] as [String; 0]);
}

#[test]
fn sections_that_old_kernels_refuse_are_found() {
    let section = |name, flags| Section {
        name,
        flags,
        size: 8,
        content: &[0x95, 0, 0, 0, 0, 0, 0, 0],
    };
    for (name, flags) in [
        (".rodata", 2),
        (".rodata.str1.1", 2),
        (".bss", 3),
        (".data", 3),
        (".text", 6),
    ] {
        assert_eq!(lint_section(&section(name, flags)).len(), 1, "{name}");
    }
    for (name, flags) in [
        ("license", 3),
        (".maps", 3),
        ("kprobe/f", 6),
        (".strtab", 0),
    ] {
        assert_eq!(
            lint_section(&section(name, flags)),
            [] as [String; 0],
            "{name}"
        );
    }
}
