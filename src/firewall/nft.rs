//! Our table in nf_tables: owned by our socket where the kernel can do that (Linux 5.12), so that
//! it goes when we go, however we go; else a plain one that is removed at the end.

use super::Removal;
use crate::limits::DUMP_DATAGRAM_LEN;
use crate::sys::netlink::{Batch as Buffers, Socket};
use crate::sys::signal;
use crate::wire::attr::Attributes;
use crate::wire::kernel::{
    NFNL_SUBSYS_NFTABLES, NFT_TABLE_F_OWNER, NFTA_RULE_CHAIN, NFTA_RULE_TABLE, NLM_F_DUMP_INTR,
    NLMSG_DONE, NLMSG_ERROR,
};
use crate::wire::message::Messages;
use crate::wire::nftables::{
    Batch, ct_state, flowtable, flowtables_request, has_expression, rules_request, text_of,
};
use crate::wire::request::Request;
use rustix::event::PollFlags;
use std::io;
use std::time::Duration;

/// The name of our table.
pub const TABLE: &str = "conntracker";
const CHAIN: &str = "activate";
/// How often rules are read again that somebody changes meanwhile.
const PATIENCE: u32 = 20;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A table of ours. Dropping an owned one removes it, since its socket closes.
#[derive(Debug)]
pub struct Table {
    socket: Socket,
    family: u8,
    name: &'static str,
    owned: bool,
}

impl Table {
    /// Makes the table with a chain that no packet passes and whose rule refers to conntrack.
    /// `family` is NFPROTO_*.
    pub fn create(family: u8, owned: bool) -> io::Result<Table> {
        Table::create_with(family, TABLE, owned, |batch| {
            batch.new_chain(CHAIN);
            batch.new_rule(CHAIN, ct_state);
        })
    }

    /// Makes a table with what `fill` puts into it, all of it or nothing.
    pub fn create_with(
        family: u8,
        name: &'static str,
        owned: bool,
        fill: impl FnOnce(&mut Batch<'_>),
    ) -> io::Result<Table> {
        let socket = Socket::open()?;
        let mut batch = Batch::new(family, name);
        batch.new_table(if owned { NFT_TABLE_F_OWNER } else { 0 });
        fill(&mut batch);
        transact(&socket, batch.finish())?;
        Ok(Table {
            socket,
            family,
            name,
            owned,
        })
    }

    /// Whether such a table could be made now: the kernel checks that, and makes none. Asks nf_tables,
    /// which is to be there already.
    pub fn could_be_made(family: u8, name: &str, owned: bool) -> io::Result<()> {
        let socket = Socket::open()?;
        let mut batch = Batch::new(family, name);
        batch.new_table(if owned { NFT_TABLE_F_OWNER } else { 0 });
        transact(&socket, batch.unfinished())
    }

    /// Whether the kernel removes the table when this process ends.
    pub fn is_owned(&self) -> bool {
        self.owned
    }

    /// Its family: NFPROTO_*.
    pub fn family(&self) -> u8 {
        self.family
    }

    /// Changes what is in it.
    pub fn change(&self, fill: impl FnOnce(&mut Batch<'_>)) -> io::Result<()> {
        let mut batch = Batch::new(self.family, self.name);
        fill(&mut batch);
        transact(&self.socket, batch.finish())
    }

    /// Removes the table; that somebody has done so already (`nft flush ruleset`) is no error.
    pub fn remove(self) -> io::Result<()> {
        remove(&self.socket, self.family, self.name).map(drop)
    }
}

/// Removes a plain table that an earlier run left, where it is as we made it.
pub fn remove_leftover(family: u8) -> io::Result<Removal> {
    let socket = Socket::open()?;
    let rules = patiently(|| {
        let mut rules = Vec::new();
        read_rules(&mut |rule_family, rule| {
            if rule_family == family && text_of(rule, NFTA_RULE_TABLE) == Some(TABLE.as_bytes()) {
                let in_chain = text_of(rule, NFTA_RULE_CHAIN) == Some(CHAIN.as_bytes());
                rules.push(in_chain && has_expression(rule, |name, _| name == b"ct", |_| false));
            }
            true
        })?;
        Ok(rules)
    })?;
    match rules[..] {
        [] => Ok(Removal::NotThere),
        [true] => remove(&socket, family, TABLE),
        _ => Ok(Removal::NotOurs),
    }
}

/// Removes a plain table where each of its rules is one that we made.
pub fn remove_if(
    family: u8,
    table: &str,
    is_ours: impl Fn(Attributes<'_>) -> bool,
) -> io::Result<Removal> {
    let ours = patiently(|| {
        let mut ours = true;
        read_rules(&mut |rule_family, rule| {
            let in_table =
                rule_family == family && text_of(rule, NFTA_RULE_TABLE) == Some(table.as_bytes());
            ours &= !in_table || is_ours(rule);
            ours
        })?;
        Ok(ours)
    })?;
    if ours {
        remove(&Socket::open()?, family, table)
    } else {
        Ok(Removal::NotOurs)
    }
}

/// Reads again where the rules changed while they were read.
pub fn patiently<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..PATIENCE {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
    read()
}

/// Changes what is in a plain table.
pub fn change(
    family: u8,
    table: &'static str,
    fill: impl FnOnce(&mut Batch<'_>),
) -> io::Result<()> {
    let mut batch = Batch::new(family, table);
    fill(&mut batch);
    transact(&Socket::open()?, batch.finish())
}

/// Reads all rules of nf_tables; `take` gets the family and the attributes of each, and says whether
/// to go on. An error where not all of them were read: then nothing may be concluded from what is not
/// there.
pub fn read_rules(take: &mut dyn FnMut(u8, Attributes<'_>) -> bool) -> io::Result<()> {
    read_rules_of(&rules_request(1), take)
}

/// Whether nf_tables has a rule that is not the one which switches conntrack on for us.
pub fn any_rule() -> bool {
    let mut any = false;
    let _ = read_rules(&mut |_, rule| {
        any = text_of(rule, NFTA_RULE_TABLE) != Some(TABLE.as_bytes());
        !any
    }); // a kernel without nf_tables has none
    any
}

/// The flowtables of this namespace, as "name in table table" and whether hardware has them. Asks
/// nf_tables, which is to be there already.
pub fn flowtables() -> io::Result<Vec<(String, bool)>> {
    let mut found = Vec::new();
    let read = read_rules_of(&flowtables_request(1), &mut |_, attributes| {
        if let Some((table, name, in_hardware)) = flowtable(attributes) {
            let [table, name] = [table, name].map(String::from_utf8_lossy);
            found.push((format!("{name} in table {table}"), in_hardware));
        }
        true
    });
    match read {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
            Ok(found) // a kernel without them
        }
        read => read.map(|()| found),
    }
}

/// Reads the rules that `request` asks for. An error where not all of them were read, or not as they
/// are at one time.
pub fn read_rules_of(
    request: &Request,
    take: &mut dyn FnMut(u8, Attributes<'_>) -> bool,
) -> io::Result<()> {
    let whole = exchange(
        request,
        &mut Buffers::new(1, DUMP_DATAGRAM_LEN),
        &mut |bytes| {
            let messages = Messages::new(bytes).map_while(Result::ok);
            let mut rules = messages.filter(|message| message.kind >> 8 == NFNL_SUBSYS_NFTABLES);
            rules.all(|rule| match rule.netfilter() {
                Ok((family, attributes)) => take(family, attributes),
                Err(_) => true,
            })
        },
    )?;
    if whole {
        Ok(())
    } else {
        Err(io::ErrorKind::Interrupted.into())
    }
}

/// One question and its answer, on a socket of its own, so that no answer meets another question.
/// `take` gets each datagram of it, and says whether to go on; the rest goes with the socket. Says
/// whether what was read is of one piece.
pub fn exchange(
    request: &Request,
    buffers: &mut Buffers,
    take: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<bool> {
    let socket = Socket::open()?;
    socket.send(request.bytes())?;
    let mut of_one_piece = true;
    loop {
        let readable = signal::wait([(socket.fd(), PollFlags::IN)], Some(ANSWER_TIMEOUT))?;
        if readable == [false] {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.receive(buffers)?;
        for datagram in buffers.datagrams() {
            if !take(datagram.bytes) {
                return Ok(of_one_piece);
            }
            of_one_piece &= !datagram.truncated;
            for message in Messages::new(datagram.bytes) {
                let message = message.map_err(|_| io::ErrorKind::InvalidData)?;
                of_one_piece &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => return Ok(of_one_piece),
                    NLMSG_ERROR => {
                        let errno = message.errno().map_err(|_| io::ErrorKind::InvalidData)?;
                        return match errno {
                            0 => Ok(of_one_piece),
                            errno => Err(io::Error::from_raw_os_error(errno)),
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}

fn remove(socket: &Socket, family: u8, table: &str) -> io::Result<Removal> {
    let mut batch = Batch::new(family, table);
    batch.delete_table();
    match transact(socket, batch.finish()) {
        Ok(()) => Ok(Removal::Removed),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Removal::NotThere),
        Err(error) => Err(error),
    }
}

/// Sends a batch and waits for its acknowledgements, or for the first error.
pub(super) fn transact(socket: &Socket, (request, mut expected): (Request, u32)) -> io::Result<()> {
    socket.send(request.bytes())?;
    let mut buffers = Buffers::new(16, 4096);
    while expected > 0 {
        let [readable] = signal::wait([(socket.fd(), PollFlags::IN)], Some(ANSWER_TIMEOUT))?;
        if !readable {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.receive(&mut buffers)?;
        for message in buffers
            .datagrams()
            .flat_map(|datagram| Messages::new(datagram.bytes))
        {
            let message = message.map_err(|_| io::ErrorKind::InvalidData)?;
            if message.kind != NLMSG_ERROR {
                continue;
            }
            match message.errno().map_err(|_| io::ErrorKind::InvalidData)? {
                0 => expected -= 1,
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
    Ok(())
}
