//! Sorts words in place, byte by byte from the highest (American flag sort: McIlroy, Bostic and McIlroy,
//! Engineering Radix Sort, 1993). A million lines of a report are sorted several times, by parts of
//! their keys; a sort that compares them walks to and fro in memory for each.

/// So few are sorted by insertion.
const FEW: usize = 32;
const VALUES: usize = 256;

/// Sorts.
#[cfg_attr(small, optimize(speed))]
pub fn sort(words: &mut [u64]) {
    by_byte(words, u64::BITS - 8);
}

/// Sorts by the byte at a shift and those below; the bytes above are the same in all.
#[cfg_attr(small, optimize(speed))]
fn by_byte(words: &mut [u64], shift: u32) {
    if words.len() <= FEW {
        return by_insertion(words);
    }
    let value = |word: u64| (word >> shift) as usize & (VALUES - 1);
    let mut ends = [0u32; VALUES];
    words.iter().for_each(|word| ends[value(*word)] += 1);
    let mut count = 0;
    for end in &mut ends {
        count += *end;
        *end = count;
    }
    if ends[value(words[0])] as usize - before(&ends, value(words[0])) != words.len() {
        permute(words, &ends, value);
    }
    if let Some(next) = shift.checked_sub(8) {
        let mut start = 0;
        for end in ends {
            by_byte(&mut words[start..end as usize], next);
            start = end as usize;
        }
    }
}

/// Where the words with a value begin.
#[cfg_attr(small, optimize(speed))]
fn before(ends: &[u32; VALUES], value: usize) -> usize {
    value.checked_sub(1).map_or(0, |lower| ends[lower] as usize)
}

/// Puts each word where those with its value stand.
#[cfg_attr(small, optimize(speed))]
fn permute(words: &mut [u64], ends: &[u32; VALUES], value: impl Fn(u64) -> usize) {
    let mut next = [0u32; VALUES];
    for (number, next) in next.iter_mut().enumerate() {
        *next = before(ends, number) as u32;
    }
    for number in 0..VALUES {
        while next[number] < ends[number] {
            let at = next[number] as usize;
            let belongs = value(words[at]);
            if belongs != number {
                words.swap(at, next[belongs] as usize);
            }
            next[belongs] += 1;
        }
    }
}

#[cfg_attr(small, optimize(speed))]
fn by_insertion(words: &mut [u64]) {
    for end in 1..words.len() {
        let word = words[end];
        let mut at = end;
        while at > 0 && words[at - 1] > word {
            words[at] = words[at - 1];
            at -= 1;
        }
        words[at] = word;
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::random;
    use super::*;

    #[test]
    fn words_of_all_kinds_come_in_order() {
        let mut random = random();
        let mut some = |count: usize, mask: u64| -> Vec<u64> {
            let words = random.by_ref().take(count);
            words.map(|word| word & mask).collect()
        };
        for count in [0, 1, 2, FEW, FEW + 1, 100, 1000, 70_000] {
            for mask in [
                0,
                1,
                0xff,
                0xff00,
                0xff00_0000_0000_00ff,
                0x0101_0101_0101_0101,
                u64::MAX,
            ] {
                let mut words = some(count, mask);
                let mut expected = words.clone();
                expected.sort_unstable();
                sort(&mut words);
                assert_eq!(words, expected, "{count} with {mask:x}");
                sort(&mut words);
                assert_eq!(words, expected, "again");
                words.reverse();
                sort(&mut words);
                assert_eq!(words, expected, "reversed");
            }
        }
    }
}
