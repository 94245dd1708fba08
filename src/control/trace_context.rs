//! W3C Trace Context: which trace a call belongs to. What is not as the standard has it is as if it
//! were not there.

use crate::engine::TraceContext;
use tonic::metadata::MetadataMap;

/// The trace of a call, from its `traceparent`.
pub(super) fn trace_context(metadata: &MetadataMap) -> Option<TraceContext> {
    parse(metadata.get("traceparent")?.to_str().ok()?)
}

/// `00-<trace id>-<span id>-<flags>` in lower-case hexadecimal; later versions may add more behind.
fn parse(text: &str) -> Option<TraceContext> {
    let mut parts = text.split('-');
    let mut next = |digits: usize| {
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        parts.next().filter(|part| part.len() == digits && part.bytes().all(lower))
    };
    let (version, trace_id, span_id, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let trace_id = u128::from_str_radix(trace_id, 16).ok().filter(|id| *id != 0)?;
    let span_id = u64::from_str_radix(span_id, 16).ok().filter(|id| *id != 0)?;
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    Some(TraceContext { trace_id, span_id, sampled })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_as_the_standard_has_it() {
        let trace = parse(EXAMPLE).unwrap();
        assert_eq!(trace.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((trace.span_id, trace.sampled), (0x00f0_67aa_0ba9_02b7, true));
        assert!(!parse(&EXAMPLE.replace("-01", "-00")).unwrap().sampled);
        let later = EXAMPLE.replacen("00", "cc", 1);
        assert_eq!(parse(&later), Some(trace));
        assert_eq!(parse(&format!("{later}-what-comes-later")), Some(trace));
    }

    #[test]
    fn what_is_not_a_traceparent_is_none() {
        let zero_trace = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let zero_span = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01";
        let more = format!("{EXAMPLE}-more");
        let upper = EXAMPLE.replace('f', "F");
        let forbidden = EXAMPLE.replacen("00", "ff", 1);
        let short = &EXAMPLE[..EXAMPLE.len() - 1];
        let signed = EXAMPLE.replace("-01", "-+1");
        for text in ["", "-", zero_trace, zero_span, &more, &upper, &forbidden, short, &signed] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
