//! What the admin listener answers below `/v1/`: verdicts on manifests, and why a request goes where it goes.
//!
//! Called by `admin.rs` for clients on this host and for those with an identity of this mesh. Every answer is a JSON object with
//! `apiVersion`; lists are in `items`, with what did not fit counted in `left_off`. It changes nothing.

use http::StatusCode;
use serde_json::{Value, json};
use weft_explain::why::{self, Hypothesis};
use weft_index::verdict::{self, State, Verdict};
use weft_serve::views::Views;

/// What every answer says of its shape.
const VERSION: &str = "weft/v1";

/// Most items of one answer.
pub(crate) const ITEMS: usize = 1000;

/// What is answered, and with which status.
pub(crate) type Answered = (StatusCode, Value);

/// Answers a path below `/v1/`; `None` if there is nothing there. Costs time in all objects.
pub(crate) fn answer(views: &Views, path: &str, query: &str) -> Option<Answered> {
    match path {
        "verdicts" => Some(verdicts(views, query)),
        "why" => Some(why(views, query)),
        _ => None,
    }
}

fn wrong(problem: impl Into<String>) -> Answered {
    (StatusCode::BAD_REQUEST, json!({ "apiVersion": VERSION, "error": problem.into() }))
}

/// Objects that are not, or not wholly, in force as they are written; with `all=true` every object. `namespace=` picks one.
fn verdicts(views: &Views, query: &str) -> Answered {
    let (mut everything, mut namespace) = (false, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("all", "true")) => everything = true,
            Some(("all", "false")) => everything = false,
            Some(("namespace", name)) => namespace = Some(name),
            _ => return wrong(format!("`{pair}` is not known; expected all=true or namespace=NAME")),
        }
    }
    let mut found = views.read(verdict::verdicts);
    found.retain(|v| {
        (everything || is_notable(v) || !v.differs.is_empty())
            && namespace.is_none_or(|namespace| v.key.namespace == namespace)
    });
    let left_off = found.len().saturating_sub(ITEMS);
    let items: Vec<_> = found.iter().take(ITEMS).map(told).collect();
    (StatusCode::OK, json!({ "apiVersion": VERSION, "items": items, "left_off": left_off }))
}

/// What would become of a request that the query describes.
fn why(views: &Views, query: &str) -> Answered {
    let hypothesis = match Hypothesis::from_query(query) {
        Ok(hypothesis) => hypothesis,
        Err(problem) => return wrong(problem),
    };
    match views.read(|index| why::why(index, &hypothesis)) {
        Ok(told) => {
            let answer = json!({
                "apiVersion": VERSION,
                "items": told.steps,
                "left_off": 0,
                "outcome": told.outcome,
                "reason": told.reason,
            });
            (StatusCode::OK, answer)
        }
        Err(refusal) => wrong(refusal.message),
    }
}

/// Whether there is anything to say about an object.
pub(crate) fn is_notable(verdict: &Verdict) -> bool {
    verdict.state != State::Accepted || !verdict.notes.is_empty()
}

/// A verdict as JSON.
pub(crate) fn told(verdict: &Verdict) -> Value {
    json!({
        "object": verdict.key.to_string(),
        "file": *verdict.origin.file,
        "line": verdict.origin.line,
        "state": verdict.state.as_str(),
        "about": verdict.state.why(),
        "notes": verdict.notes,
        "differs": verdict.differs,
    })
}
