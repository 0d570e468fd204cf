//! Requests that make and remove an nf_tables table
//! (include/uapi/linux/netfilter/nf_tables.h; net/netfilter/nf_tables_api.c).
//!
//! A change is one batch: BATCH_BEGIN, the objects, BATCH_END; the kernel applies all of it or
//! nothing. Every number in nf_tables attributes is big-endian, strings end with a NUL.

pub mod expression;

use super::attr::{Attributes, be32_of, be64_of};
use super::kernel::*;
use super::kernel_trace::*;
use super::request::Request;

/// A set that rules enter keys into.
#[derive(Clone, Copy, Debug)]
pub struct KeySet<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number within the batch, by which rules of the same batch refer to it.
    pub id: u32,
    /// What the key is made of, in nft's own numbering of types; the kernel only keeps it.
    pub key_types: &'a [u32],
    /// Bytes of a key.
    pub key_len: u32,
    /// Keys that it holds at most.
    pub size: u32,
    /// How long a key stays, in milliseconds.
    pub timeout_ms: u64,
}

/// A batch under construction. Each object asks for its own acknowledgement.
#[derive(Debug)]
pub struct Batch<'a> {
    request: Request,
    family: u8,
    table: &'a str,
    sequence: u32,
    acknowledged: u32,
}

impl<'a> Batch<'a> {
    /// Begins a batch on the table `table` of `family` (NFPROTO_*).
    pub fn new(family: u8, table: &'a str) -> Self {
        let mut request = Request::default();
        request.message(
            NFNL_MSG_BATCH_BEGIN,
            NLM_F_REQUEST,
            1,
            AF_UNSPEC,
            NFNL_SUBSYS_NFTABLES,
        );
        Batch {
            request,
            family,
            table,
            sequence: 1,
            acknowledged: 0,
        }
    }

    fn object(&mut self, message: u16, flags: u16) -> &mut Request {
        self.sequence = self.sequence.saturating_add(1);
        self.acknowledged = self.acknowledged.saturating_add(1);
        let kind = (NFNL_SUBSYS_NFTABLES << 8) | message;
        self.request.message(
            kind,
            NLM_F_REQUEST | NLM_F_ACK | flags,
            self.sequence,
            self.family,
            0,
        );
        &mut self.request
    }

    /// Creates the table; fails when it exists. `flags` are NFT_TABLE_F_*.
    pub fn new_table(&mut self, flags: u32) {
        let table = self.table;
        let request = self.object(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);
        request.put_str(NFTA_TABLE_NAME, table);
        if flags != 0 {
            request.put_be32(NFTA_TABLE_FLAGS, flags);
        }
    }

    /// Deletes the table and everything in it; fails when it does not exist.
    pub fn delete_table(&mut self) {
        let table = self.table;
        self.object(NFT_MSG_DELTABLE, 0)
            .put_str(NFTA_TABLE_NAME, table);
    }

    /// Creates a chain that no hook leads to: no packet ever passes it.
    pub fn new_chain(&mut self, name: &str) {
        let table = self.table;
        let request = self.object(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
        request.put_str(NFTA_CHAIN_TABLE, table);
        request.put_str(NFTA_CHAIN_NAME, name);
    }

    /// Creates a filter chain at a hook (NF_INET_*) that lets everything pass.
    pub fn new_base_chain(&mut self, name: &str, hook: u32, priority: i32) {
        self.new_chain(name);
        let request = &mut self.request;
        request.nest(NFTA_CHAIN_HOOK, |at| {
            at.put_be32(NFTA_HOOK_HOOKNUM, hook);
            at.put(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
        });
        request.put(NFTA_CHAIN_POLICY, &NF_ACCEPT.to_be_bytes());
        request.put_str(NFTA_CHAIN_TYPE, "filter");
    }

    /// Creates a set.
    pub fn new_set(&mut self, set: KeySet<'_>) {
        const TYPE_BITS: u32 = 6; // of each part of a concatenated type
        let key_type = set
            .key_types
            .iter()
            .fold(0, |types: u32, part| (types << TYPE_BITS) | part);
        let table = self.table;
        let request = self.object(NFT_MSG_NEWSET, NLM_F_CREATE);
        request.put_str(NFTA_SET_TABLE, table);
        request.put_str(NFTA_SET_NAME, set.name);
        request.put_be32(NFTA_SET_FLAGS, NFT_SET_TIMEOUT | NFT_SET_EVAL);
        request.put_be32(NFTA_SET_KEY_TYPE, key_type);
        request.put_be32(NFTA_SET_KEY_LEN, set.key_len);
        request.put_be32(NFTA_SET_ID, set.id);
        request.put(NFTA_SET_TIMEOUT, &set.timeout_ms.to_be_bytes());
        request.nest(NFTA_SET_DESC, |desc| {
            desc.put_be32(NFTA_SET_DESC_SIZE, set.size);
        });
    }

    /// Appends a rule made of what `expressions` puts.
    pub fn new_rule(&mut self, chain: &str, expressions: impl FnOnce(&mut Request)) {
        let table = self.table;
        let request = self.object(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
        request.put_str(NFTA_RULE_TABLE, table);
        request.put_str(NFTA_RULE_CHAIN, chain);
        request.nest(NFTA_RULE_EXPRESSIONS, expressions);
    }

    /// Appends a rule with a comment, which nft shows behind it.
    pub fn new_rule_with_comment(
        &mut self,
        chain: &str,
        comment: &str,
        expressions: impl FnOnce(&mut Request),
    ) {
        self.new_rule(chain, expressions);
        self.request
            .put(NFTA_RULE_USERDATA, &comment_bytes(comment));
    }

    /// Removes the rule that the kernel gave this handle.
    pub fn delete_rule(&mut self, chain: &str, handle: u64) {
        let table = self.table;
        let request = self.object(NFT_MSG_DELRULE, 0);
        request.put_str(NFTA_RULE_TABLE, table);
        request.put_str(NFTA_RULE_CHAIN, chain);
        request.put(NFTA_RULE_HANDLE, &handle.to_be_bytes());
    }

    /// The batch without an end: the kernel checks all of it, answers, and forgets it, as for `nft --check`.
    pub fn unfinished(self) -> (Request, u32) {
        (self.request, self.acknowledged)
    }

    /// Ends the batch: the bytes, and how many acknowledgements they ask for.
    pub fn finish(mut self) -> (Request, u32) {
        let sequence = self.sequence.saturating_add(1);
        self.request.message(
            NFNL_MSG_BATCH_END,
            NLM_F_REQUEST,
            sequence,
            AF_UNSPEC,
            NFNL_SUBSYS_NFTABLES,
        );
        (self.request, self.acknowledged)
    }
}

/// `ct state invalid`. That a rule refers to conntrack, reachable or not, is what makes the kernel track
/// in this namespace (net/netfilter/nft_ct.c, nft_ct_get_init); one without a test is no rule to nft.
pub fn ct_state(expressions: &mut Request) {
    const INVALID: u32 = 1; // NF_CT_STATE_INVALID_BIT
    expression::ct(expressions, NFT_CT_STATE, 0);
    expression::mask(expressions, 0, INVALID);
    expression::compare(expressions, 0, NFT_CMP_NEQ, &[0; 4]);
}

/// A request for all rules of all families.
pub fn rules_request(sequence: u32) -> Request {
    let kind = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETRULE;
    Request::new(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, AF_UNSPEC)
}

/// A request for all chains of all families.
pub fn chains_request(sequence: u32) -> Request {
    let kind = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETCHAIN;
    Request::new(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, AF_UNSPEC)
}

/// A request for all flowtables of all families (Linux 4.16).
pub fn flowtables_request(sequence: u32) -> Request {
    let kind = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETFLOWTABLE;
    Request::new(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, AF_UNSPEC)
}

/// A flowtable (the attributes of an NFT_MSG_NEWFLOWTABLE message): its table, its name, and whether
/// devices forward its flows by themselves.
pub fn flowtable(attributes: Attributes<'_>) -> Option<(&[u8], &[u8], bool)> {
    let flags = of_kind(attributes, NFTA_FLOWTABLE_FLAGS)
        .next()
        .and_then(be32_of);
    let in_hardware = flags.is_some_and(|flags| flags & NFT_FLOWTABLE_HW_OFFLOAD != 0);
    let table = text_of(attributes, NFTA_FLOWTABLE_TABLE)?;
    let name = text_of(attributes, NFTA_FLOWTABLE_NAME)?;
    Some((table, name, in_hardware))
}

/// A request for the number of the ruleset's generation.
pub fn generation_request(sequence: u32) -> Request {
    let kind = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETGEN;
    Request::new(kind, NLM_F_REQUEST | NLM_F_ACK, sequence, AF_UNSPEC)
}

/// A comment as nft keeps it in a rule's user data: its kind (0), its length, and text with a NUL. A
/// comment that is too long is cut.
fn comment_bytes(comment: &str) -> Vec<u8> {
    let text = comment.as_bytes();
    let text = text.get(..text.len().min(127)).unwrap_or_default();
    let len = u8::try_from(text.len())
        .unwrap_or(u8::MAX)
        .saturating_add(1);
    [&[0, len], text, &[0]].concat()
}

/// Whether a rule has this comment, and no other user data.
pub fn has_comment(rule: Attributes<'_>, comment: &str) -> bool {
    of_kind(rule, NFTA_RULE_USERDATA).any(|data| data == comment_bytes(comment))
}

/// The handle that the kernel gave a rule.
pub fn handle_of(rule: Attributes<'_>) -> Option<u64> {
    of_kind(rule, NFTA_RULE_HANDLE).next().and_then(be64_of)
}

/// The packets that the first counter of a rule has counted.
pub fn counted_packets(rule: Attributes<'_>) -> Option<u64> {
    let expressions = of_kind(rule, NFTA_RULE_EXPRESSIONS).flat_map(Attributes::new);
    expressions
        .filter_map(Result::ok)
        .find_map(|(_, expression)| {
            let attributes = Attributes::new(expression);
            let name = of_kind(attributes, NFTA_EXPR_NAME).next().map(without_nul);
            let data = of_kind(attributes, NFTA_EXPR_DATA).next()?;
            let packets = of_kind(Attributes::new(data), NFTA_COUNTER_PACKETS).next();
            packets
                .filter(|_| name == Some(b"counter"))
                .and_then(be64_of)
        })
}

/// A request for the rules of one chain; a kernel before 4.7 answers with more.
pub fn chain_rules_request(sequence: u32, family: u8, table: &str, chain: &str) -> Request {
    let kind = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETRULE;
    let mut request = Request::new(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, family);
    request.put_str(NFTA_RULE_TABLE, table);
    request.put_str(NFTA_RULE_CHAIN, chain);
    request
}

/// Whether a rule (the attributes of an NFT_MSG_NEWRULE message) has an expression that is `wanted`,
/// by its name and attributes, or an xt match or target whose name is `wanted_extension`.
pub fn has_expression(
    rule: Attributes<'_>,
    wanted: impl Fn(&[u8], Attributes<'_>) -> bool,
    wanted_extension: impl Fn(&[u8]) -> bool,
) -> bool {
    let expressions = of_kind(rule, NFTA_RULE_EXPRESSIONS).flat_map(Attributes::new);
    expressions.filter_map(Result::ok).any(|(_, expression)| {
        let attributes = Attributes::new(expression);
        let data = Attributes::new(
            of_kind(attributes, NFTA_EXPR_DATA)
                .next()
                .unwrap_or_default(),
        );
        match of_kind(attributes, NFTA_EXPR_NAME).next().map(without_nul) {
            // NFTA_MATCH_NAME and NFTA_TARGET_NAME are the same number.
            Some(b"match" | b"target") => {
                of_kind(data, NFTA_MATCH_NAME).any(|name| wanted_extension(without_nul(name)))
            }
            Some(name) => wanted(name, data),
            None => false,
        }
    })
}

/// The payload of an attribute.
pub fn attribute_of(attributes: Attributes<'_>, kind: u16) -> Option<&[u8]> {
    of_kind(attributes, kind).next()
}

/// The text of an attribute, without its NUL.
pub fn text_of(attributes: Attributes<'_>, kind: u16) -> Option<&[u8]> {
    of_kind(attributes, kind).next().map(without_nul)
}

/// The family that a nat expression translates (NFPROTO_*), which in an inet table is its own.
pub fn nat_family(nat: Attributes<'_>) -> Option<u32> {
    of_kind(nat, NFTA_NAT_FAMILY).next().and_then(be32_of)
}

fn of_kind(attributes: Attributes<'_>, wanted: u16) -> impl Iterator<Item = &[u8]> {
    attributes
        .map_while(Result::ok)
        .filter(move |(kind, _)| *kind == wanted)
        .map(|(_, payload)| payload)
}

pub(super) fn without_nul(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::message::Messages;
    use super::*;

    #[test]
    fn a_batch_is_framed_and_counts_its_acknowledgements() {
        let mut batch = Batch::new(NFPROTO_INET, "t");
        batch.new_table(NFT_TABLE_F_OWNER);
        batch.new_chain("c");
        batch.new_rule("c", ct_state);
        let (request, acknowledged) = batch.finish();
        let kinds: Vec<_> = Messages::new(request.bytes())
            .map(|m| m.unwrap().kind)
            .collect();
        assert_eq!(kinds, [0x10, 0x0a00, 0x0a03, 0x0a06, 0x11]);
        assert_eq!(acknowledged, 3);
    }

    #[test]
    fn a_batch_without_an_end_is_one_that_the_kernel_forgets() {
        let mut batch = Batch::new(NFPROTO_INET, "t");
        batch.new_table(NFT_TABLE_F_OWNER);
        let (request, acknowledged) = batch.unfinished();
        let kinds: Vec<_> = Messages::new(request.bytes())
            .map(|m| m.unwrap().kind)
            .collect();
        assert_eq!((&kinds[..], acknowledged), (&[0x10, 0x0a00][..], 1));
    }

    #[test]
    fn flowtables_are_read_with_and_without_flags() {
        let of = |flags: Option<u32>| {
            let mut request = Request::new(0, 0, 0, NFPROTO_INET);
            request.put_str(NFTA_FLOWTABLE_TABLE, "fast");
            request.put_str(NFTA_FLOWTABLE_NAME, "swift");
            if let Some(flags) = flags {
                request.put_be32(NFTA_FLOWTABLE_FLAGS, flags);
            }
            request
        };
        for (flags, in_hardware) in [(None, false), (Some(2), false), (Some(1), true)] {
            let request = of(flags);
            let message = Messages::new(request.bytes()).next().unwrap().unwrap();
            let (_, attributes) = message.netfilter().unwrap();
            let expected = (&b"fast"[..], &b"swift"[..], in_hardware);
            assert_eq!(flowtable(attributes), Some(expected));
        }
        assert_eq!(flowtable(Attributes::new(&[])), None);
        let dump = flowtables_request(1);
        let message = Messages::new(dump.bytes()).next().unwrap().unwrap();
        assert_eq!((message.kind, message.flags), (0x0a17, 0x301));
    }

    #[test]
    fn expressions_are_found_by_name_and_extensions_by_theirs() {
        let mut request = Request::new(0, 0, 0, 0);
        request.nest(NFTA_RULE_EXPRESSIONS, |expressions| {
            ct_state(expressions);
            expressions.nest(NFTA_LIST_ELEM, |element| {
                element.put_str(NFTA_EXPR_NAME, "match");
                element.nest(NFTA_EXPR_DATA, |data| {
                    data.put_str(NFTA_MATCH_NAME, "connmark")
                });
            });
        });
        let has = |expression: &str, extension: &str| {
            let rule = Attributes::new(&request.bytes()[20..]);
            has_expression(
                rule,
                |name, _| name == expression.as_bytes(),
                |name| name == extension.as_bytes(),
            )
        };
        assert!(has("ct", "") && has("", "connmark"));
        assert!(!has("connmark", "ct") && !has("match", "match"));
    }

    #[test]
    fn what_is_told_of_a_rule_is_read() {
        let mut batch = Batch::new(NFPROTO_INET, "t");
        batch.new_rule_with_comment("c", "ours", expression::counter);
        let (request, _) = batch.finish();
        let message = Messages::new(request.bytes()).nth(1).unwrap().unwrap();
        let (_, rule) = message.netfilter().unwrap();
        assert!(has_comment(rule, "ours") && !has_comment(rule, "our"));
        assert_eq!((handle_of(rule), counted_packets(rule)), (None, None));
        let mut told = Request::new(0, 0, 0, 0);
        told.put(NFTA_RULE_HANDLE, &7u64.to_be_bytes());
        told.nest(NFTA_RULE_EXPRESSIONS, |expressions| {
            ct_state(expressions);
            expressions.nest(NFTA_LIST_ELEM, |element| {
                element.put_str(NFTA_EXPR_NAME, "counter");
                element.nest(NFTA_EXPR_DATA, |data| {
                    data.put(1, &1000u64.to_be_bytes()); // NFTA_COUNTER_BYTES
                    data.put(NFTA_COUNTER_PACKETS, &42u64.to_be_bytes());
                });
            });
        });
        let told = Attributes::new(&told.bytes()[20..]);
        assert_eq!(
            (handle_of(told), counted_packets(told)),
            (Some(7), Some(42))
        );
    }

    #[test]
    fn a_comment_that_is_too_long_is_cut() {
        let bytes = comment_bytes(&"x".repeat(300));
        assert_eq!((bytes.len(), bytes[1]), (130, 128));
    }
}
