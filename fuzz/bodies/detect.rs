//! Detection: more bytes never take back a decision, and with enough of them there always is one.

use super::detection::{Detected, LIMIT, detect};

pub(super) fn run(data: &[u8]) {
    let data = &data[..data.len().min(LIMIT)];
    let whole = detect(data);
    // A decision on a prefix is the decision; only a ClientHello's end has to be waited for.
    for cut in [1, data.len() / 3, data.len() / 2, data.len().saturating_sub(1)] {
        let early = detect(&data[..cut.min(data.len())]);
        assert!(early == Detected::NeedMore || early == whole, "{early:?} became {whole:?}");
    }
    if data.len() == LIMIT {
        assert_ne!(whole, Detected::NeedMore);
    }
}
