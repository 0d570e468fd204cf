//! Firewall rules, as legacy tables of both families and as an nf_tables rule. A name that is offered
//! is in the bytes; one that was offered is found when it is asked for, and no other is.
#![no_main]

use conntracker::wire::attr::Attributes;
use conntracker::wire::nftables::{has_expression, nat_family, text_of};
use conntracker::wire::xtables::has_extension;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

/// Names asked for a second time.
const ASKED_MAX: usize = 8;

/// Takes note of what is offered, and wants none of it.
struct Offered<'a> {
    bytes: &'a [u8],
    names: RefCell<Vec<Vec<u8>>>,
}

impl<'a> Offered<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Offered {
            bytes,
            names: RefCell::default(),
        }
    }

    fn want(&self, name: &[u8]) -> bool {
        assert!(!name.contains(&0), "a name ends before its NUL");
        let (whole, part) = (self.bytes.as_ptr_range(), name.as_ptr_range());
        assert!(
            name.is_empty() || (whole.start <= part.start && part.end <= whole.end),
            "a name is a part of the bytes"
        );
        self.names.borrow_mut().push(name.to_vec());
        false
    }

    fn has(&self, name: &[u8]) -> bool {
        self.names.borrow().iter().any(|offered| offered == name)
    }

    fn each(&self, ask: impl Fn(&[u8])) {
        let names = self.names.borrow();
        names.iter().take(ASKED_MAX).for_each(|name| ask(name));
    }
}

fn legacy(data: &[u8], ipv6: bool) {
    let offered = Offered::new(data);
    let answer = has_extension(data, ipv6, |name| offered.want(name));
    assert_ne!(answer, Ok(true), "nothing was wanted");
    offered.each(|wanted| {
        assert!(wanted.len() <= 29);
        let answer = has_extension(data, ipv6, |name| name == wanted);
        assert_eq!(answer, Ok(true), "it was offered");
    });
    for wanted in [&b"conntrack"[..], b"MASQUERADE"] {
        let found = has_extension(data, ipv6, |name| name == wanted) == Ok(true);
        assert_eq!(found, offered.has(wanted));
        assert!(!found || data.windows(wanted.len()).any(|part| part == wanted));
    }
}

fn nf_tables(data: &[u8]) {
    let rule = Attributes::new(data);
    let [expressions, extensions, texts] = [(); 3].map(|()| Offered::new(data));
    assert!(!has_expression(
        rule,
        |name, attributes| {
            nat_family(attributes);
            (0..4).for_each(|kind| {
                text_of(attributes, kind).map(|text| texts.want(text));
            });
            expressions.want(name)
        },
        |name| extensions.want(name)
    ));
    expressions.each(|wanted| assert!(has_expression(rule, |name, _| name == wanted, |_| false)));
    extensions.each(|wanted| assert!(has_expression(rule, |_, _| false, |name| name == wanted)));
    for wanted in [&b"ct"[..], b"conntrack"] {
        let found = has_expression(rule, |name, _| name == wanted, |name| name == wanted);
        assert_eq!(found, expressions.has(wanted) || extensions.has(wanted));
        assert!(!found || data.windows(wanted.len()).any(|part| part == wanted));
    }
}

fuzz_target!(|data: &[u8]| {
    legacy(data, false);
    legacy(data, true);
    nf_tables(data);
});
