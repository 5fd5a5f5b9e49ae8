//! Logs what became of objects: each that is not in force, or not wholly, once when that is first so, and when it is mended.
//!
//! `sources.rs` wakes it after each change of the manifests; changes that come while it judges are judged together. It changes
//! nothing.

use crate::api::is_notable;
use std::collections::BTreeMap;
use tokio::sync::watch;
use weft_index::verdict::{self, Verdict};
use weft_model::object::Key;
use weft_serve::views::Views;

/// Most objects told about after one change; the others are counted.
const MOST: usize = 50;

/// What was last said of each object that there is something to say about.
#[derive(Default)]
struct Known(BTreeMap<Key, String>);

/// What is to be logged.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    /// Objects that are not in force, or not wholly, and were not so before.
    wrong: Vec<String>,
    /// Objects that there is nothing more to say about.
    mended: Vec<Key>,
}

impl Known {
    fn news(&mut self, verdicts: &[Verdict]) -> News {
        let now = verdicts.iter().filter(|v| is_notable(v)).map(|v| (v.key.clone(), sentence(v))).collect();
        let before = std::mem::replace(&mut self.0, now);
        let is_new = |(key, text): &(&Key, &String)| before.get(key) != Some(text);
        let wrong = self.0.iter().filter(is_new).map(|(key, text)| format!("{key}: {text}")).collect();
        let mended = before.into_keys().filter(|key| !self.0.contains_key(key)).collect();
        News { wrong, mended }
    }
}

fn sentence(verdict: &Verdict) -> String {
    let state = verdict.state.why().map(|why| format!("{}: {why}", verdict.state.as_str()));
    let parts: Vec<_> = state.into_iter().chain(verdict.notes.iter().cloned()).collect();
    format!("{} ({}:{})", parts.join("; "), verdict.origin.file, verdict.origin.line)
}

/// Logs at once and after each change, until nobody changes anything any more.
pub(crate) async fn log(views: Views, mut changes: watch::Receiver<u64>) {
    let mut known = Known::default();
    loop {
        changes.borrow_and_update();
        let News { wrong, mended } = known.news(&views.read(verdict::verdicts));
        for text in wrong.iter().take(MOST) {
            tracing::warn!("{text}");
        }
        if let Some(more) = wrong.len().checked_sub(MOST).filter(|more| *more > 0) {
            tracing::warn!(
                more,
                "others are not wholly in force either; the admin listener has all: /v1/verdicts"
            );
        }
        for key in mended.iter().take(MOST) {
            tracing::info!("{key}: nothing is wrong with it any more");
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_index::verdict::State;
    use weft_model::object::{Kind, Origin};

    fn verdict(name: &str, missing: Option<&str>, notes: &[&str]) -> Verdict {
        let key = Key { kind: Kind::Server, namespace: "a".into(), name: name.into() };
        let state = match missing {
            Some(missing) => State::Dangling { missing: missing.into() },
            None => State::Accepted,
        };
        let origin = Origin { file: "x.yaml".into(), line: 3 };
        let notes = notes.iter().map(|note| (*note).to_owned()).collect();
        Verdict { key, origin, state, notes, differs: Vec::new() }
    }

    #[test]
    fn an_object_is_told_of_when_it_goes_wrong_and_when_it_is_mended() {
        let mut known = Known::default();
        let check = |known: &mut Known, verdicts: &[Verdict], wrong: &[&str], mended: usize| {
            let news = known.news(verdicts);
            assert_eq!(news.wrong, wrong);
            assert_eq!(news.mended.len(), mended);
        };
        let (good, bad) = (verdict("good", None, &[]), verdict("bad", Some("service b"), &["a note"]));
        let told = "Server a/bad: dangling: service b is missing; a note (x.yaml:3)";
        check(&mut known, &[good.clone(), bad.clone()], &[told], 0);
        check(&mut known, &[good.clone(), bad.clone()], &[], 0);
        let noted = "Server a/bad: a note (x.yaml:3)";
        check(&mut known, &[good.clone(), verdict("bad", None, &["a note"])], &[noted], 0);
        check(&mut known, &[good, verdict("bad", None, &[])], &[], 1);
    }
}
