//! Legacy rules as the kernel hands out a whole table (struct ipt_entry, struct ip6t_entry and what
//! follows them; include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h,
//! netfilter/x_tables.h; 64-bit layout, host byte order).

use super::attr::BrokenFraming;

/// Where an entry says how far its target and the next entry are, and where its matches begin.
struct Layout {
    target_offset: usize,
    next_offset: usize,
    matches: usize,
}

const IPV4: Layout = Layout {
    target_offset: 88,
    next_offset: 90,
    matches: 112,
};
const IPV6: Layout = Layout {
    target_offset: 140,
    next_offset: 142,
    matches: 168,
};

/// struct xt_entry_match and xt_entry_target begin alike: size (u16), name (29 bytes), revision.
const NAME_OFFSET: usize = 2;
const NAME_LEN: usize = 29;

/// Whether the rule set of a table has a match or target whose name is `wanted`.
pub fn has_extension(
    table: &[u8],
    ipv6: bool,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<bool, BrokenFraming> {
    let layout = if ipv6 { IPV6 } else { IPV4 };
    let mut rest = table;
    while !rest.is_empty() {
        let target = u16_at(rest, layout.target_offset).ok_or(BrokenFraming)?;
        let next = u16_at(rest, layout.next_offset).ok_or(BrokenFraming)?;
        let entry = rest.get(..next).ok_or(BrokenFraming)?;
        let mut matches = entry.get(layout.matches..target).ok_or(BrokenFraming)?;
        while !matches.is_empty() {
            if wanted(name(matches).ok_or(BrokenFraming)?) {
                return Ok(true);
            }
            let size = u16_at(matches, 0)
                .filter(|size| *size > 0)
                .ok_or(BrokenFraming)?;
            matches = matches.get(size..).ok_or(BrokenFraming)?;
        }
        let target = entry.get(target..).ok_or(BrokenFraming)?;
        if wanted(name(target).ok_or(BrokenFraming)?) {
            return Ok(true);
        }
        rest = rest.get(next..).filter(|_| next > 0).ok_or(BrokenFraming)?;
    }
    Ok(false)
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<usize> {
    let (value, _) = bytes.get(offset..)?.split_first_chunk()?;
    Some(usize::from(u16::from_ne_bytes(*value)))
}

fn name(extension: &[u8]) -> Option<&[u8]> {
    let name = extension.get(NAME_OFFSET..)?.get(..NAME_LEN)?;
    name.split(|byte| *byte == 0).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension(name: &str) -> Vec<u8> {
        let mut bytes = 40u16.to_ne_bytes().to_vec(); // size, with some data behind the header
        bytes.extend(name.as_bytes());
        bytes.resize(40, 0);
        bytes
    }

    fn entry(ipv6: bool, matches: &[&str], target: &str) -> Vec<u8> {
        let layout = if ipv6 { IPV6 } else { IPV4 };
        let mut bytes = vec![0; layout.matches];
        matches
            .iter()
            .for_each(|name| bytes.extend(extension(name)));
        let target_offset = bytes.len() as u16;
        bytes.extend(extension(target));
        let next_offset = bytes.len() as u16;
        bytes[layout.target_offset..][..2].copy_from_slice(&target_offset.to_ne_bytes());
        bytes[layout.next_offset..][..2].copy_from_slice(&next_offset.to_ne_bytes());
        bytes
    }

    fn finds(table: &[u8], ipv6: bool, wanted: &str) -> Result<bool, BrokenFraming> {
        has_extension(table, ipv6, |name| name == wanted.as_bytes())
    }

    #[test]
    fn matches_and_targets_are_found_in_every_rule() {
        for ipv6 in [false, true] {
            let mut table = entry(ipv6, &[], "");
            table.extend(entry(ipv6, &["tcp", "conntrack"], "LOG"));
            table.extend(entry(ipv6, &[], "MASQUERADE"));
            for (name, found) in [
                ("conntrack", true),
                ("LOG", true),
                ("MASQUERADE", true),
                ("conn", false),
            ] {
                assert_eq!(finds(&table, ipv6, name), Ok(found), "{name}");
            }
        }
    }

    #[test]
    fn every_truncation_and_change_has_an_answer() {
        let mut table = entry(false, &["tcp"], "ACCEPT");
        table.extend(entry(false, &["udp"], "DROP"));
        for len in 1..table.len() {
            let _ = finds(&table[..len], false, "none");
        }
        for at in 0..table.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = table.clone();
                changed[at] = value;
                let _ = finds(&changed, false, "none");
            }
        }
        assert_eq!(finds(&table[..100], false, "none"), Err(BrokenFraming));
    }
}
