//! The programs of a loaded object, attached, and the buffers that they send records into.

use super::{Link, Object, Refusal, checked, told};
use libbpf_sys as c;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

/// Name of the map that records come through.
const EVENTS: &str = "events";

/// How a program is attached.
#[derive(Clone, Copy, Debug)]
pub enum How<'a> {
    /// To a control group, and all below.
    Cgroup(BorrowedFd<'a>),
    /// Where a function of the kernel begins: by perf, or by what the kernel has instead.
    Kprobe(&'a str),
    /// Likewise, by a line in kprobe_events of a mounted tracefs.
    KprobeEvents(&'a str),
    /// As its section says.
    Section,
}

/// What came in since the last read.
#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
    lens: Vec<usize>,
    lost: u64,
}

/// A loaded object whose records are read; dropped, nothing of it is left in the kernel.
pub struct Attached {
    // Order matters: programs go first, and the buffers leave their map before that goes.
    links: Vec<Link>,
    buffers: NonNull<c::perf_buffer>,
    inbox: NonNull<Inbox>,
    object: Object,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links = &self.links.len();
        f.debug_struct("Attached").field("links", links).finish()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.links.clear();
        // SAFETY: both are ours; the buffers, which hold a pointer to the inbox, go before it.
        unsafe {
            c::perf_buffer__free(self.buffers.as_ptr());
            drop(Box::from_raw(self.inbox.as_ptr()));
        }
    }
}

impl Attached {
    /// Makes the buffers, of `pages` pages for each CPU (a power of two). No program is attached yet.
    pub fn new(object: Object, pages: usize) -> Result<Attached, Refusal> {
        told::listen();
        let refused = |error: io::Error| told::refusal(&error);
        let map = object.map(EVENTS).map_err(refused)?;
        let inbox = NonNull::from(Box::leak(Box::new(Inbox::default())));
        // SAFETY: the map is the loaded object's. The inbox lives until after the buffers are freed.
        let buffers = unsafe {
            c::perf_buffer__new(
                c::bpf_map__fd(map),
                pages as _,
                Some(sample),
                Some(lost),
                inbox.as_ptr().cast(),
                ptr::null(),
            )
        };
        if let Some(buffers) = NonNull::new(buffers) {
            let links = Vec::new();
            return Ok(Attached {
                links,
                buffers,
                inbox,
                object,
            });
        }
        let error = io::Error::last_os_error();
        // SAFETY: there are no buffers that would know of it.
        drop(unsafe { Box::from_raw(inbox.as_ptr()) });
        Err(refused(error))
    }

    /// Attaches a program that was loaded.
    pub fn attach(&mut self, name: &str, how: How<'_>) -> Result<(), Refusal> {
        told::listen();
        let refused = |error: io::Error| told::refusal(&error);
        let program = self.object.program(name).map_err(refused)?;
        let raw = match how {
            // SAFETY: the program is the object's and loaded; the descriptor is open.
            How::Cgroup(group) => unsafe {
                c::bpf_program__attach_cgroup(program, group.as_raw_fd())
            },
            How::Kprobe(function) => {
                kprobe(program, function, c::PROBE_ATTACH_MODE_DEFAULT).map_err(refused)?
            }
            How::KprobeEvents(function) => {
                kprobe(program, function, c::PROBE_ATTACH_MODE_LEGACY).map_err(refused)?
            }
            // SAFETY: the program is the object's and loaded.
            How::Section => unsafe { c::bpf_program__attach(program) },
        };
        self.links.push(Link::new(raw).map_err(refused)?);
        Ok(())
    }

    /// A descriptor that is readable while records wait. To be read to the end then: it tells of news
    /// only once.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the buffers are, which `self` keeps.
        unsafe { BorrowedFd::borrow_raw(c::perf_buffer__epoll_fd(self.buffers.as_ptr())) }
    }

    /// Hands out all records that wait, without waiting for any. A record may have padding behind it.
    pub fn read(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        // SAFETY: the callbacks only reach the inbox, of which there is no reference now.
        let result = unsafe { c::perf_buffer__consume(self.buffers.as_ptr()) };
        // SAFETY: the callbacks run in `consume` alone; `self` is borrowed for us alone.
        let inbox = unsafe { self.inbox.as_mut() };
        let mut rest = inbox.bytes.as_slice();
        for len in &inbox.lens {
            let (record, behind) = rest.split_at(*len);
            take(record);
            rest = behind;
        }
        inbox.bytes.clear();
        inbox.lens.clear();
        checked(result)
    }

    /// Records that found no room: exactly, but the kernel tells it only with the next record that does.
    pub fn lost(&self) -> u64 {
        // SAFETY: as in `read`; nobody changes it while `self` is borrowed.
        unsafe { self.inbox.as_ref() }.lost
    }
}

fn kprobe(
    program: *mut c::bpf_program,
    function: &str,
    mode: c::probe_attach_mode,
) -> io::Result<*mut c::bpf_link> {
    let function = CString::new(function)?;
    let options = c::bpf_kprobe_opts {
        sz: size_of::<c::bpf_kprobe_opts>() as _,
        attach_mode: mode,
        ..Default::default()
    };
    // SAFETY: the program is a loaded one; libbpf copies what it needs of the rest.
    Ok(unsafe {
        c::bpf_program__attach_kprobe_opts(program, function.as_ptr(), &raw const options)
    })
}

/// Called by `consume` for each record. A panic would abort: nothing unwinds through C.
unsafe extern "C" fn sample(
    inbox: *mut libc::c_void,
    _cpu: libc::c_int,
    data: *mut libc::c_void,
    len: u32,
) {
    // SAFETY: it is the inbox of the `Attached` that reads, which holds no reference to it now; the
    // record is `len` bytes that stay until we return.
    let (inbox, record) = unsafe {
        let record = std::slice::from_raw_parts(data.cast::<u8>(), len as usize);
        (&mut *inbox.cast::<Inbox>(), record)
    };
    inbox.bytes.extend_from_slice(record);
    inbox.lens.push(record.len());
}

/// Called by `consume` where the kernel had no room for records.
unsafe extern "C" fn lost(inbox: *mut libc::c_void, _cpu: libc::c_int, count: u64) {
    // SAFETY: as above.
    let inbox = unsafe { &mut *inbox.cast::<Inbox>() };
    inbox.lost = inbox.lost.saturating_add(count);
}
