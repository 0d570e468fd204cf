//! Programs in the kernel, by libbpf: load an object, attach its programs, read what they send.
//!
//! All of it is gone with the process, however that ends: programs live as long as descriptors of
//! ours do (probes by kprobe_events leave a name behind, `owner::probe_events` removes those).

mod attached;
mod told;

pub use attached::{Attached, How};
pub use told::Refusal;

use libbpf_sys as c;
use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};

/// The programs and maps of an ELF file.
#[derive(Debug)]
pub struct Object {
    raw: NonNull<c::bpf_object>,
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: it is ours and is used no more.
        unsafe { c::bpf_object__close(self.raw.as_ptr()) };
    }
}

impl Object {
    /// Reads an object; nothing of it is in the kernel yet. `btf` is where the kernel's types are, if
    /// not in the usual places.
    pub fn open(elf: &[u8], btf: Option<&Path>) -> Result<Object, Refusal> {
        // libelf reads its headers in place, where they must be aligned.
        let mut aligned = vec![0u64; elf.len().div_ceil(8)];
        for (word, bytes) in aligned.iter_mut().zip(elf.chunks(8)) {
            let mut whole = [0; 8];
            for (to, from) in whole.iter_mut().zip(bytes) {
                *to = *from;
            }
            *word = u64::from_ne_bytes(whole);
        }
        let path = btf.map(|path| CString::new(path.as_os_str().as_bytes()));
        let path = path
            .transpose()
            .map_err(|_| Refusal::from("a path with a zero".to_owned()))?;
        let options = c::bpf_object_open_opts {
            sz: size_of::<c::bpf_object_open_opts>() as _,
            object_name: c"conntracker".as_ptr(),
            btf_custom_path: path.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
            ..Default::default()
        };
        told::listen();
        // SAFETY: libbpf copies what it needs of the bytes and of the options.
        let raw = unsafe {
            c::bpf_object__open_mem(aligned.as_ptr().cast(), elf.len() as _, &raw const options)
        };
        match NonNull::new(raw) {
            Some(raw) => Ok(Object { raw }),
            None => Err(told::refusal(&io::Error::last_os_error())),
        }
    }

    /// The programs: name and section.
    pub fn programs(&self) -> Vec<(String, String)> {
        let mut programs = Vec::new();
        let mut at = ptr::null_mut();
        loop {
            // SAFETY: `at` is null or a program of this object.
            at = unsafe { c::bpf_object__next_program(self.raw.as_ptr(), at) };
            if at.is_null() {
                return programs;
            }
            // SAFETY: both live as long as the object does, and end with a zero.
            let (name, section) = unsafe {
                (
                    CStr::from_ptr(c::bpf_program__name(at)),
                    CStr::from_ptr(c::bpf_program__section_name(at)),
                )
            };
            let text = |text: &CStr| text.to_string_lossy().into_owned();
            programs.push((text(name), text(section)));
        }
    }

    /// Leaves a program out. To be called before `load`.
    pub fn leave_out(&mut self, name: &str) -> io::Result<()> {
        let program = self.program(name)?;
        // SAFETY: it is a program of this object.
        checked(unsafe { c::bpf_program__set_autoload(program, false) })
    }

    /// Sets the only constant that the programs have (u32). To be called before `load`; does nothing
    /// where they have none.
    pub fn set_constant(&mut self, value: u32) -> io::Result<()> {
        let Ok(map) = self.map(".rodata") else {
            return Ok(());
        };
        let mut len = 0;
        // SAFETY: the map is one of this object's; `len` is set to the room behind the pointer.
        let room = unsafe { c::bpf_map__initial_value(map, &raw mut len) };
        if room.is_null() || len != size_of::<u32>() as c::size_t {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: there is room for four bytes, as was just checked, and nobody else uses it.
        unsafe { room.cast::<u32>().write_unaligned(value) };
        Ok(())
    }

    /// Sets how many entries a map has. To be called before `load`.
    pub fn set_entries(&mut self, map: &str, entries: u32) -> io::Result<()> {
        let map = self.map(map)?;
        // SAFETY: it is a map of this object.
        checked(unsafe { c::bpf_map__set_max_entries(map, entries) })
    }

    /// Brings all that is not left out into the kernel. After a failure the object is of no use.
    pub fn load(&mut self) -> Result<(), Refusal> {
        told::listen();
        // SAFETY: the object is open and not loaded yet.
        let result = unsafe { c::bpf_object__load(self.raw.as_ptr()) };
        checked(result).map_err(|error| told::refusal(&error))
    }

    /// Runs an iterator to its end: the bytes that it writes.
    pub fn iterate(&self, name: &str) -> Result<Vec<u8>, Refusal> {
        let refused = |error: io::Error| told::refusal(&error);
        told::listen();
        let program = self.program(name).map_err(refused)?;
        // SAFETY: it is a loaded program of this object.
        let raw = unsafe { c::bpf_program__attach_iter(program, ptr::null()) };
        let link = Link::new(raw).map_err(refused)?;
        // SAFETY: the link is alive.
        let fd = unsafe { c::bpf_iter_create(c::bpf_link__fd(link.raw.as_ptr())) };
        if fd < 0 {
            return Err(refused(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is new and nobody else's.
        let mut file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(refused)?;
        Ok(bytes)
    }

    fn program(&self, name: &str) -> io::Result<*mut c::bpf_program> {
        let name = CString::new(name)?;
        // SAFETY: the object is alive and the name ends with a zero.
        let found =
            unsafe { c::bpf_object__find_program_by_name(self.raw.as_ptr(), name.as_ptr()) };
        some(found)
    }

    fn map(&self, name: &str) -> io::Result<*mut c::bpf_map> {
        let name = CString::new(name)?;
        // SAFETY: as above.
        some(unsafe { c::bpf_object__find_map_by_name(self.raw.as_ptr(), name.as_ptr()) })
    }
}

fn some<T>(found: *mut T) -> io::Result<*mut T> {
    if found.is_null() {
        Err(io::ErrorKind::NotFound.into())
    } else {
        Ok(found)
    }
}

/// A program that is attached; dropped, it is not any more.
#[derive(Debug)]
struct Link {
    raw: NonNull<c::bpf_link>,
}

impl Link {
    /// Takes what libbpf returned, and its reason from errno where that is nothing.
    fn new(raw: *mut c::bpf_link) -> io::Result<Link> {
        let raw = NonNull::new(raw).ok_or_else(io::Error::last_os_error)?;
        Ok(Link { raw })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // SAFETY: it is ours and is used no more.
        unsafe { c::bpf_link__destroy(self.raw.as_ptr()) };
    }
}

/// libbpf returns errors as negative numbers.
fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(())
    }
}
