//! Requests that make and remove an nf_tables table
//! (include/uapi/linux/netfilter/nf_tables.h; net/netfilter/nf_tables_api.c).
//!
//! A change is one batch: BATCH_BEGIN, the objects, BATCH_END; the kernel applies all of it or
//! nothing. Every number in nf_tables attributes is big-endian, strings end with a NUL.

use super::attr::{Attributes, be32_of};
use super::kernel::*;
use super::request::Request;

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

    /// Appends a rule made of what `expressions` puts.
    pub fn new_rule(&mut self, chain: &str, expressions: impl FnOnce(&mut Request)) {
        let table = self.table;
        let request = self.object(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
        request.put_str(NFTA_RULE_TABLE, table);
        request.put_str(NFTA_RULE_CHAIN, chain);
        request.nest(NFTA_RULE_EXPRESSIONS, expressions);
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

/// `ct state` loaded into the first register. That a rule refers to conntrack, reachable or not, is
/// what makes the kernel track in this namespace (net/netfilter/nft_ct.c, nft_ct_get_init).
pub fn ct_state(expressions: &mut Request) {
    expressions.nest(NFTA_LIST_ELEM, |element| {
        element.put_str(NFTA_EXPR_NAME, "ct");
        element.nest(NFTA_EXPR_DATA, |ct| {
            ct.put_be32(NFTA_CT_DREG, NFT_REG_1);
            ct.put_be32(NFTA_CT_KEY, NFT_CT_STATE);
        });
    });
}

/// A request for all rules of all families.
pub fn rules_request(sequence: u32) -> Request {
    let kind = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETRULE;
    Request::new(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, AF_UNSPEC)
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

fn without_nul(name: &[u8]) -> &[u8] {
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
}
