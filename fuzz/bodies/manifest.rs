//! Manifests: any text is read to its end, and a second reading says the same.

use std::sync::Arc;
use weft_resources::parse::{TEXT_LIMIT, parse};

pub(super) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file: Arc<str> = "fuzz.yaml".into();
    let first = parse(&file, text);
    assert!(first.objects.is_empty() || text.len() <= TEXT_LIMIT);
    let second = parse(&file, text);
    assert_eq!(first.objects.len(), second.objects.len());
    assert_eq!(first.rejected.len(), second.rejected.len());
    assert_eq!(first.unreadable, second.unreadable);
}
