//! The transport header: what is decoded is encoded to the same meaning, and no prefix of it decodes to another.

use weft_wire::header::{Header, Progress};

pub(super) fn run(data: &[u8]) {
    let Ok(Progress::Done { header, consumed }) = Header::decode(data) else { return };
    assert!(consumed <= data.len());
    for cut in [0, consumed / 2, consumed - 1] {
        assert!(
            matches!(Header::decode(&data[..cut]), Ok(Progress::NeedMore(n)) if n > cut && n <= consumed)
        );
    }
    let again = Header::decode(&header.encode()).expect("our own header decodes");
    assert!(matches!(again, Progress::Done { header: same, .. } if same == header));
}
