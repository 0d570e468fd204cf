//! The wall clock is set back, or forward, or begins in 1970: what passes meanwhile is seen all the
//! same, and nothing waits for the time to come again.

use super::input::{Input, What};
use super::owner_input::OwnerInput;
use super::pipeline::Pipeline;
use super::trace_input::TraceInput;
use super::ways_tests::{ACCEPT, hit};
use crate::counters::Counters;
use crate::event::{Moment, Source};
use crate::flow::filter::Filter;
use crate::flow::key::Side;
use crate::flow::table::Table;
use crate::limits::{COOKIES_MAX, OWNERS_MAX};
use crate::wire::conntrack::Tuple;
use crate::wire::kernel::*;
use crate::wire::probe::{COMM_LEN, RECORD_LEN, Record};
use crate::wire::request::Request;

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;
const HOUR: u64 = 3600 * S;
/// The autumn of 2026.
const TODAY: u64 = 1_790_000_000 * S;
const HERE: [u8; 4] = [10, 0, 0, 1];
const THERE: [u8; 4] = [192, 0, 2, 9];
const PID: u32 = 77;

fn address(bytes: [u8; 4]) -> [u8; 16] {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&bytes);
    address
}

/// A connection from here, one of many.
fn ends(port: u16) -> Tuple {
    Tuple {
        proto: IPPROTO_TCP,
        src: address(HERE),
        dst: address(THERE),
        sport: port,
        dport: 80,
        ..Tuple::default()
    }
}

fn new_flow(port: u16) -> Vec<u8> {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let mut request = Request::new(NFNL_SUBSYS_CTNETLINK << 8, flags, 0, NFPROTO_IPV4);
    for (kind, src, dst, sport, dport) in [
        (CTA_TUPLE_ORIG, HERE, THERE, port, 80u16),
        (CTA_TUPLE_REPLY, THERE, HERE, 80, port),
    ] {
        request.nest(kind, |tuple| {
            tuple.nest(CTA_TUPLE_IP, |ip| {
                ip.put(CTA_IP_V4_SRC, &src);
                ip.put(CTA_IP_V4_DST, &dst);
            });
            tuple.nest(CTA_TUPLE_PROTO, |proto| {
                proto.put(CTA_PROTO_NUM, &[IPPROTO_TCP]);
                proto.put(CTA_PROTO_SRC_PORT, &sport.to_be_bytes());
                proto.put(CTA_PROTO_DST_PORT, &dport.to_be_bytes());
            });
        });
    }
    request.put_be32(CTA_ID, u32::from(port) + 1); // none has the id 0
    request.bytes().to_vec()
}

fn connect(port: u16, at_ns: u64) -> Record {
    Record {
        at_ns,
        cookie: None,
        netns: None,
        pid: Some(PID),
        uid: Some(0),
        source: Source::Probe,
        moment: Moment::Connect,
        ends: ends(port),
        inherited: false,
        comm: [b'x'; COMM_LEN],
    }
}

struct Machine {
    pipeline: Pipeline<'static>,
    /// Monotonic time.
    up_ns: u64,
    /// What the wall clock is ahead of it.
    offset_ns: u64,
}

impl Machine {
    /// A machine that was started a minute ago, and whose clock says this.
    fn new(wall_ns: u64) -> Machine {
        let table = Table::new(5000, [1, 2]);
        let mut machine = Machine {
            pipeline: Pipeline::new(table, Filter::default(), None),
            up_ns: 60 * S,
            offset_ns: wall_ns.wrapping_sub(60 * S),
        };
        machine.take(What::Trace(TraceInput::Began {
            everything: true,
            lets_go: false,
        }));
        machine.take(What::Owner(OwnerInput::Began { rung: "test" }));
        let local = [&[0][..], &address(HERE)].concat();
        machine.take(What::Owner(OwnerInput::Addresses(&local)));
        machine
    }

    fn wall_ns(&self) -> u64 {
        self.up_ns.wrapping_add(self.offset_ns)
    }

    fn take(&mut self, what: What<'_>) {
        let at_ns = self.wall_ns();
        self.pipeline.take(&Input { at_ns, what });
    }

    fn record(&mut self, record: &Record) {
        self.take(What::Owner(OwnerInput::Records {
            clock_offset_ns: self.offset_ns,
            bytes: &record.to_bytes(),
        }));
    }

    /// A connection is made, and a packet from elsewhere is denied. Of every third connection no
    /// process is told.
    fn step(&mut self, number: u16) {
        let at_ns = self.up_ns;
        if number % 3 != 0 {
            self.record(&connect(number, at_ns));
        }
        self.up_ns += MS;
        let bytes = new_flow(number);
        self.take(What::Events {
            bytes: &bytes,
            truncated: false,
            netns: None,
        });
        let number = u64::from(number);
        self.take(What::Trace(TraceInput::Nft(&hit(number, 4, ACCEPT))));
        self.take(What::Trace(TraceInput::Nft(&hit(number, 5, 0))));
        for _ in 0..2 {
            self.up_ns += 5 * MS;
            self.rest();
        }
    }

    fn rest(&mut self) {
        self.take(What::Trace(TraceInput::Quiet));
        let before_ns = self.wall_ns().saturating_sub(60 * MS);
        self.take(What::Owner(OwnerInput::Settle { before_ns }));
    }

    /// All that was told so far was understood, within a few moments; returns how many steps.
    fn check(&mut self, steps: u16) {
        for _ in 0..10 {
            self.up_ns += 10 * MS;
            self.rest();
        }
        let Counters {
            traced, unasked, ..
        } = self.pipeline.counters;
        assert_eq!((traced, unasked), (u64::from(steps), 0));
        assert!(!self.pipeline.tracer.as_ref().unwrap().is_waiting());
        assert!(!self.pipeline.table.wants_owners());
        let asked = &self.pipeline.attributor.as_ref().unwrap().asked;
        let asked_for: Vec<u16> = asked.iter().map(|ends| ends.sport).collect();
        let unnamed: Vec<u16> = (0..steps).filter(|number| number % 3 == 0).collect();
        assert_eq!(asked_for, unnamed);
        for (place, flow) in self.pipeline.table.iter() {
            let port = flow.tuple(Side::Original).sport;
            if flow.id().is_some() {
                let is_known = self.pipeline.table.owned(place).owners[0] != 0;
                assert_eq!(is_known, port % 3 != 0, "{port}");
            } else {
                assert!(self.pipeline.table.traced(place).blamed().is_some());
            }
        }
        assert_eq!(self.pipeline.table.len(), 2 * u32::from(steps));
    }

    /// 300 steps, this in the middle of one, and 300 more.
    fn live_through(mut self, set_clock: impl Fn(&mut Machine)) {
        (0..300).for_each(|number| self.step(number));
        set_clock(&mut self);
        (300..600).for_each(|number| self.step(number));
        self.check(600);
    }
}

#[test]
fn the_clock_goes_as_it_should() {
    Machine::new(TODAY).live_through(|_| {});
}

#[test]
fn the_clock_is_set_back_an_hour() {
    Machine::new(TODAY).live_through(|machine| machine.offset_ns -= HOUR);
}

#[test]
fn the_clock_is_set_back_a_little() {
    Machine::new(TODAY).live_through(|machine| machine.offset_ns -= 30 * MS);
}

#[test]
fn the_clock_is_set_forward_a_day() {
    Machine::new(TODAY).live_through(|machine| machine.offset_ns += 24 * HOUR);
}

#[test]
fn the_clock_begins_in_1970_and_is_set_at_last() {
    for wall_ns in [0, 1, 60 * S] {
        Machine::new(wall_ns).live_through(|machine| {
            machine.offset_ns = TODAY;
        });
    }
}

#[test]
fn the_clock_is_set_back_to_1970() {
    Machine::new(TODAY).live_through(|machine| {
        machine.offset_ns = 0u64.wrapping_sub(machine.up_ns);
    });
}

/// Each answer about a socket has its cookie and its process, over the months more than there is room
/// for.
#[test]
fn sockets_that_are_long_gone_keep_no_owner() {
    let mut machine = Machine::new(TODAY);
    let count = COOKIES_MAX.max(OWNERS_MAX) as u32 + 3000;
    let mut bytes = Vec::with_capacity(RECORD_LEN * 64);
    for number in 0..count {
        let answer = Record {
            cookie: Some(u64::from(number) + 1),
            pid: Some(number + 1),
            source: Source::Diag,
            moment: Moment::Socket,
            ..connect(number as u16, machine.up_ns)
        };
        bytes.extend(answer.to_bytes());
        if number % 64 == 63 || number + 1 == count {
            machine.take(What::Owner(OwnerInput::Records {
                clock_offset_ns: machine.offset_ns,
                bytes: &bytes,
            }));
            bytes.clear();
            machine.rest();
        }
    }
    assert_eq!(machine.pipeline.counters.owners_refused, 0);
    assert!(machine.pipeline.owners.len() <= OWNERS_MAX);
}
