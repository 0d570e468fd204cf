//! Unpacks what build.rs has packed, by the zlib that libelf brings along.

use libc::{c_char, c_int, c_uint, c_ulong, c_void};
use std::io;
use std::mem::MaybeUninit;

/// As <zlib.h> has it.
#[repr(C)]
struct Stream {
    next_in: *const u8,
    avail_in: c_uint,
    total_in: c_ulong,
    next_out: *mut u8,
    avail_out: c_uint,
    total_out: c_ulong,
    msg: *const c_char,
    state: *mut c_void,
    zalloc: Option<unsafe extern "C" fn(*mut c_void, c_uint, c_uint) -> *mut c_void>,
    zfree: Option<unsafe extern "C" fn(*mut c_void, *mut c_void)>,
    opaque: *mut c_void,
    data_type: c_int,
    adler: c_ulong,
    reserved: c_ulong,
}

unsafe extern "C" {
    #[link_name = "inflateInit2_"]
    fn init(stream: *mut Stream, bits: c_int, version: *const c_char, len: c_int) -> c_int;
    #[link_name = "inflate"]
    fn step(stream: *mut Stream, flush: c_int) -> c_int;
    #[link_name = "inflateEnd"]
    fn end(stream: *mut Stream) -> c_int;
}

const Z_OK: c_int = 0;
const Z_STREAM_END: c_int = 1;
const Z_FINISH: c_int = 4;
/// The largest window, and negative: nothing stands around the packed bytes.
const RAW: c_int = -15;

/// Unpacks bytes that were `len` before, no less and no more.
pub fn inflate(packed: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let short = |len: usize| c_uint::try_from(len).map_err(|_| io::ErrorKind::InvalidInput);
    let mut bytes = vec![0; len];
    // SAFETY: all of it may be zero: null pointers, none of the functions, numbers.
    let mut stream: Stream = unsafe { MaybeUninit::zeroed().assume_init() };
    stream.next_in = packed.as_ptr();
    stream.avail_in = short(packed.len())?;
    stream.next_out = bytes.as_mut_ptr();
    stream.avail_out = short(len)?;
    let stream = &raw mut stream;
    let stream_len = c_int::try_from(size_of::<Stream>()).unwrap_or_default();
    // SAFETY: the stream is laid out as zlib's own, which it checks by version and size.
    if unsafe { init(stream, RAW, c"1".as_ptr(), stream_len) } != Z_OK {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    // SAFETY: it reads and writes no further than `avail_in` and `avail_out` say, which are the lengths
    // of slices that outlive it; nothing moves the stream between the calls.
    let (result, left) = unsafe {
        let result = step(stream, Z_FINISH);
        end(stream);
        (result, (*stream).avail_out)
    };
    if result == Z_STREAM_END && left == 0 {
        Ok(bytes)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 times "a", by zlib's raw deflate.
    const PACKED: &[u8] = &[0x4b, 0x4c, 0xa4, 0x3d, 0x00, 0x00];

    #[test]
    fn what_was_packed_is_unpacked() {
        assert_eq!(inflate(PACKED, 100).unwrap(), [b'a'; 100]);
    }

    #[test]
    fn anything_else_is_an_error() {
        let kind = |packed: &[u8], len| inflate(packed, len).unwrap_err().kind();
        for (packed, len) in [(PACKED, 99), (PACKED, 101), (&PACKED[..4], 100)] {
            assert_eq!(kind(packed, len), io::ErrorKind::InvalidData, "{len}");
        }
        assert_eq!(kind(&[0xff; 8], 100), io::ErrorKind::InvalidData);
        assert_eq!(kind(&[], 0), io::ErrorKind::InvalidData);
    }
}
