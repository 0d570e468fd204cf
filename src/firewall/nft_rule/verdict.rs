//! Verdicts (enum nft_verdict_attributes).

use crate::event::step::Verdict;
use crate::wire::kernel::*;
use crate::wire::kernel_nft::*;

use super::nest::Nest;

/// From the attributes of NFTA_DATA_VERDICT; `None` for a code that we do not know.
pub(super) fn read(verdict: Nest<'_>) -> Option<Verdict> {
    let chain = || verdict.text(NFTA_VERDICT_CHAIN).map(String::into_boxed_str);
    let code = verdict.be32(NFTA_VERDICT_CODE)?;
    Some(match i32::from_ne_bytes(code.to_ne_bytes()) {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        2 => Verdict::Stolen,
        3 => Verdict::Queue,
        NFT_CONTINUE => Verdict::Continue,
        NFT_JUMP => Verdict::Jump(chain()?),
        NFT_GOTO => Verdict::Goto(chain()?),
        NFT_RETURN => Verdict::Return,
        _ => return None,
    })
}

/// As nft(8) writes it.
pub(super) fn text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
        other => other.name().to_owned(),
    }
}
