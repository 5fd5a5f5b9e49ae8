//! The inspector of HTTP/1 heads: the same verdict at the same byte however the bytes are cut, and nothing
//! passes after an offence.

use weft_net::head::{Inspector, Limits, Verdict};

/// Where it stopped, and why.
fn inspect(data: &[u8], piece: usize) -> (usize, Verdict) {
    let mut inspector = Inspector::new(Limits { head: 4096, headers: 20 });
    let mut at = 0;
    loop {
        let bytes = &data[at..data.len().min(at + piece)];
        let seen = inspector.inspect(bytes);
        assert!(seen.passed <= bytes.len());
        assert!(seen.head_end.is_none_or(|end| end <= seen.passed));
        at += seen.passed;
        match seen.verdict {
            Verdict::Fine => {
                assert_eq!(seen.passed, bytes.len());
                if at == data.len() {
                    return (at, Verdict::Fine);
                }
            }
            Verdict::Handover(_) if at < data.len() => inspector.resume(),
            Verdict::Handover(kind) => return (at, Verdict::Handover(kind)),
            Verdict::Offence(..) => {
                let after = inspector.inspect(b"GET / HTTP/1.1\r\n\r\n");
                assert_eq!((after.passed, after.verdict), (0, seen.verdict));
                return (at, seen.verdict);
            }
        }
    }
}

pub(super) fn run(data: &[u8]) {
    let whole = inspect(data, data.len().max(1));
    for piece in [1, 2, 13] {
        assert_eq!(inspect(data, piece), whole, "in pieces of {piece}");
    }
}
