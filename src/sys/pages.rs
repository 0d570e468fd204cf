//! Pages of memory, asked for before they are touched: each that is touched first is an interruption on top of
//! what it costs to have it.

use std::mem::MaybeUninit;

/// How far memory that is written from its beginning to its end has pages.
#[derive(Debug)]
pub struct Pages {
    /// Bytes that are asked for at once.
    at_once: usize,
    page_len: usize,
    end: usize,
    /// The kernel does not do that (before Linux 5.14): each page comes when it is touched.
    refused: bool,
}

impl Pages {
    /// None was asked for yet.
    pub fn new(at_once: usize) -> Pages {
        Pages {
            at_once,
            page_len: page_len(),
            end: 0,
            refused: false,
        }
    }

    /// Sees to it that the next `count` values of `room`, where none was written yet, have pages.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn ahead<T>(&mut self, room: &mut [MaybeUninit<T>], count: usize) {
        let begin = room.as_ptr() as usize;
        if begin + count * size_of::<T>() > self.end && !self.refused {
            self.ask(begin, begin + size_of_val(room));
        }
    }

    fn ask(&mut self, begin: usize, room_end: usize) {
        let whole = |at: usize| at / self.page_len * self.page_len;
        let begin = whole(begin.max(self.end));
        let end = whole((begin + self.at_once).min(room_end));
        if end <= begin {
            return;
        }
        // SAFETY: it changes nothing of what is there; the first page has what was written before the
        // room, all others are the room's alone.
        let result =
            unsafe { libc::madvise(begin as *mut _, end - begin, libc::MADV_POPULATE_WRITE) };
        self.refused = result != 0;
        self.end = end;
    }
}

/// Not by rustix, which reads the auxiliary vector for it, with what that says of the vDSO: valgrind has none.
fn page_len() -> usize {
    // SAFETY: it takes a number and gives one.
    let len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(len).map_or(4096, |len| len.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Value = [u64; 64];

    /// How many pages of a range are there, as the kernel says (mincore(2)).
    fn resident(room: &[MaybeUninit<Value>], page_len: usize) -> usize {
        let begin = (room.as_ptr() as usize).next_multiple_of(page_len);
        let end = (room.as_ptr() as usize + size_of_val(room)) / page_len * page_len;
        let mut pages = vec![0u8; (end - begin) / page_len];
        // SAFETY: the vector has a byte for each page.
        let result =
            unsafe { libc::mincore(begin as *mut _, end - begin, pages.as_mut_ptr().cast()) };
        assert_eq!(result, 0);
        pages.iter().filter(|page| **page & 1 != 0).count()
    }

    #[test]
    fn pages_are_there_before_they_are_touched_and_not_many_more() {
        const VALUES: usize = 128 << 10; // 64 MiB, which come from mmap(2)
        let mut values: Vec<Value> = Vec::with_capacity(VALUES);
        let page_len = page_len();
        let mut pages = Pages::new(16 * page_len);
        assert!(resident(values.spare_capacity_mut(), page_len) <= 1);
        pages.ahead(values.spare_capacity_mut(), 10);
        assert!(!pages.refused, "needs Linux 5.14");
        let first = resident(values.spare_capacity_mut(), page_len);
        assert!((15..=17).contains(&first), "{first}");
        pages.ahead(values.spare_capacity_mut(), 10);
        assert_eq!(resident(values.spare_capacity_mut(), page_len), first);
        while values.len() + 10 < VALUES {
            pages.ahead(values.spare_capacity_mut(), 10);
            let at = values.as_ptr() as usize + size_of_val(&values[..]);
            let left = (VALUES - values.len()) * size_of::<Value>();
            let next = 10 * size_of::<Value>();
            assert!(at + next <= pages.end || left < page_len + next);
            values.extend([[1; 64]; 10]);
        }
        pages.ahead(values.spare_capacity_mut(), 10);
        assert!(!pages.refused, "nothing is asked for beyond the end");
    }
}
