//! The files' last good content, and what follows from all of it together. Pure.
//!
//! `directory.rs` puts what it found on the shelf and asks what should be in force. A file that cannot
//! be read keeps what it last held; so does each object whose document went bad. [`guard`] holds back
//! removals that look like an accident.

use crate::parse::{KIND_LIMIT, OTHER_KINDS};
use crate::report::{Finding, Hold};
use crate::scan::{Content, Known, Scan};
use crate::write::is_own;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_index::verdict::settle;
use weft_model::attach::RouteRule;
use weft_model::object::{Key, Kind, Object, Origin};

/// Most objects in force; the rest, by file name, is reported and left out. Each takes some 3 KiB.
pub(crate) const OBJECT_LIMIT: usize = 50_000;
/// Most endpoints of slices in force, routes of profiles, and matches and backends of routes, together; the objects of the
/// rest are left out.
/// Each takes half a KiB, and as much again in each answer that has it.
pub(crate) const ENTRY_LIMIT: usize = 120_000;

/// One file's last good content.
#[derive(Debug, Default)]
struct Shelved {
    known: Option<Known>,
    objects: Vec<Object>,
    rejected: Vec<Finding>,
    warnings: Vec<Finding>,
    ignored: BTreeMap<String, usize>,
    /// Why the file cannot be read now.
    unreadable: Option<Finding>,
}

/// All files' last good content.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    files: BTreeMap<Arc<str>, Shelved>,
    /// What the last look found beside files.
    findings: Vec<Finding>,
}

/// What should be in force, before anything is held back.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) objects: BTreeMap<Key, Object>,
    pub(crate) rejected: Vec<Finding>,
    pub(crate) warnings: Vec<Finding>,
}

impl Shelf {
    /// Documents without effect, by kind.
    pub(crate) fn ignored(&self) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        for (kind, count) in self.files.values().flat_map(|shelved| &shelved.ignored) {
            let kind = if all.len() < KIND_LIMIT || all.contains_key(kind) { kind } else { OTHER_KINDS };
            *all.entry(kind.to_owned()).or_insert(0) += count;
        }
        all
    }

    /// What the next look needs to know.
    pub(crate) fn known(&self) -> BTreeMap<Arc<str>, Known> {
        self.files.iter().filter_map(|(file, s)| Some((file.clone(), s.known.clone()?))).collect()
    }

    /// How many files there are.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Takes in what a look found.
    pub(crate) fn absorb(&mut self, scan: Scan) {
        let Scan { files, unlisted, findings } = scan;
        self.findings = findings;
        self.files.retain(|file, _| {
            files.contains_key(file) || unlisted.iter().any(|prefix| file.starts_with(prefix))
        });
        for (file, content) in files {
            match content {
                Content::Same => {}
                Content::Touched(known) => {
                    if let Some(shelved) = self.files.get_mut(&file) {
                        shelved.known = Some(known);
                    }
                }
                Content::Unreadable(message) => {
                    let shelved = self.files.entry(file.clone()).or_default();
                    shelved.known = None;
                    shelved.unreadable = Some(finding(&file, 0, String::new(), message));
                }
                Content::New { parsed, known } => {
                    let shelved = self.files.entry(file).or_default();
                    let mut objects = parsed.objects;
                    let fresh: BTreeSet<Key> = objects.iter().map(Object::key).collect();
                    let stays = |key: &Key| parsed.unreadable || parsed.broken.contains(key);
                    objects.extend(shelved.objects.drain(..).filter(|o| {
                        let key = o.key();
                        !fresh.contains(&key) && stays(&key)
                    }));
                    *shelved = Shelved {
                        known: Some(known),
                        objects,
                        rejected: parsed.rejected,
                        warnings: parsed.warnings,
                        ignored: parsed.ignored,
                        unreadable: None,
                    };
                }
            }
        }
    }

    /// What should be in force now, given what was. Of several manifests of one object the one that was
    /// in force stays.
    pub(crate) fn wanted(&self, in_force: &BTreeMap<Key, Object>) -> Wanted {
        let all: Vec<Object> = self.files.values().flat_map(|s| s.objects.iter().cloned()).collect();
        let (mut objects, duplicates) = settle(all, |key| in_force.get(key).map(|o| o.meta().origin.clone()));
        let mut rejected = self.findings.clone();
        for shelved in self.files.values() {
            rejected.extend(shelved.unreadable.iter().chain(&shelved.rejected).cloned());
        }
        for duplicate in duplicates {
            let key = duplicate.rejected.key().to_string();
            let lost = &duplicate.rejected.meta().origin;
            let (kept, loser) = (&duplicate.kept, lost.to_string());
            rejected.push(finding(
                &lost.file,
                lost.line,
                key.clone(),
                format!("it is defined in {kept} too, which stays"),
            ));
            rejected.push(finding(
                &kept.file,
                kept.line,
                key,
                format!("it is defined in {loser} too; this one stays"),
            ));
        }
        leave_out(&mut objects, &mut rejected);
        let warnings = self.files.values().flat_map(|s| s.warnings.iter().cloned()).collect();
        Wanted { objects, rejected, warnings }
    }
}

/// Leaves out what is beyond the limits, by file name and line.
fn leave_out(objects: &mut BTreeMap<Key, Object>, rejected: &mut Vec<Finding>) {
    if objects.len() <= OBJECT_LIMIT && objects.values().map(entries).sum::<usize>() <= ENTRY_LIMIT {
        return;
    }
    let mut by_file: Vec<(Origin, Key)> =
        objects.iter().map(|(key, object)| (object.meta().origin.clone(), key.clone())).collect();
    by_file.sort_by(|(a, _), (b, _)| (&a.file, a.line).cmp(&(&b.file, b.line)));
    let (mut kept, mut total) = (0, 0);
    for (origin, key) in by_file {
        let more = objects.get(&key).map_or(0, entries);
        if kept < OBJECT_LIMIT && total + more <= ENTRY_LIMIT {
            (kept, total) = (kept + 1, total + more);
            continue;
        }
        objects.remove(&key);
        let message = match kept < OBJECT_LIMIT {
            false => format!("there are more than {OBJECT_LIMIT} objects; it is left out"),
            true => format!("there are more than {ENTRY_LIMIT} endpoints and routes; it is left out"),
        };
        rejected.push(finding(&origin.file, origin.line, key.to_string(), message));
    }
}

/// How many parts of an object are limited in all.
fn entries(object: &Object) -> usize {
    match object {
        Object::EndpointSlice(slice) => slice.endpoints.iter().map(|e| e.ips.len().max(1)).sum(),
        Object::ServiceProfile(profile) => profile.routes.len(),
        Object::HttpRoute(route)
        | Object::PolicyHttpRoute(route)
        | Object::GrpcRoute(route)
        | Object::TlsRoute(route)
        | Object::TcpRoute(route) => {
            let of_rule = |rule: &RouteRule| rule.matches.len().max(1) + rule.backends.len();
            route.rules.iter().map(of_rule).sum()
        }
        _ => 0,
    }
}

fn finding(file: &Arc<str>, line: u32, object: String, message: String) -> Finding {
    Finding { file: file.clone(), line, object, field: String::new(), message }
}

/// When removals are held back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guard {
    /// The share of all services, or of all workloads, that may go at once, 0–1.
    pub share: f64,
    /// Up to this many services or workloads may go at once whatever the share, as long as not
    /// everything goes.
    pub least: usize,
}

impl Default for Guard {
    /// Half (§8.3), and up to three: a small mesh is often rearranged by hand.
    fn default() -> Self {
        Self { share: 0.5, least: 3 }
    }
}

/// Which part of the guard applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Only against everything going: at start, when much may have changed meanwhile.
    Everything,
    /// Also against most of a kind going.
    Most,
}

/// Objects in force that are not wanted any more but must not go, because so many at once look like an
/// unmounted volume or a broken synchronisation. Objects that the mesh wrote itself are not counted and
/// not held: they come and go with processes.
pub(crate) fn guard(
    in_force: &BTreeMap<Key, Object>,
    wanted: &BTreeMap<Key, Object>,
    guard: Guard,
    watch: Watch,
) -> Option<(Hold, Vec<Object>)> {
    let counted = |o: &&Object| !is_own(&o.meta().origin.file);
    let before: Vec<&Object> = in_force.values().filter(counted).collect();
    let missing: Vec<&Object> = before.iter().filter(|o| !wanted.contains_key(&o.key())).copied().collect();
    let all_gone = !missing.is_empty() && !wanted.values().any(|o| counted(&o));
    let most_gone = |kind: Kind| {
        let of_kind = |list: &[&Object]| list.iter().filter(|o| o.kind() == kind).count();
        let (lost, had) = (of_kind(&missing), of_kind(&before));
        lost > guard.least && lost as f64 > had as f64 * guard.share
    };
    let reason = if all_gone {
        "all objects would go"
    } else if watch == Watch::Most && most_gone(Kind::Service) {
        "too many of the services would go at once"
    } else if watch == Watch::Most && most_gone(Kind::ExternalWorkload) {
        "too many of the workloads would go at once"
    } else {
        return None;
    };
    let hold = Hold {
        missing: missing.len(),
        of: before.len(),
        examples: missing.iter().take(5).map(|o| o.key().to_string()).collect(),
        message: format!("{reason}; they stay until the files are back or the removal is confirmed"),
    };
    Some((hold, missing.into_iter().cloned().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse;

    /// Services `s0`, `s1` … and workloads `w0` …, each in a file of its own; `own` of the services more in
    /// files that the mesh wrote itself.
    fn objects(services: usize, workloads: usize, own: usize) -> BTreeMap<Key, Object> {
        let mut all = Vec::new();
        for n in 0..services + own {
            let file =
                if n < services { format!("s{n}.yaml") } else { format!("weft-run-service_a_s{n}.yaml") };
            let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}");
            all.extend(parse(&file.into(), &text).objects);
        }
        for n in 0..workloads {
            let text = format!(
                "{{apiVersion: workload.linkerd.io/v1beta1, kind: ExternalWorkload, metadata: {{name: w{n}}},
                spec: {{meshTLS: {{identity: a.b, serverName: a.b}}}}}}"
            );
            all.extend(parse(&"w.yaml".into(), &text).objects);
        }
        all.into_iter().map(|o| (o.key(), o)).collect()
    }

    #[test]
    fn removals_are_held_back_if_all_go_or_most_of_a_kind() {
        type Mesh = (usize, usize, usize);
        let cases: [(Mesh, Mesh, Option<usize>, Option<usize>); 10] = [
            // before, after, missing at start, missing later
            ((0, 0, 0), (0, 0, 0), None, None),
            ((1, 0, 0), (0, 0, 0), Some(1), Some(1)),
            ((2, 0, 0), (1, 0, 0), None, None),
            ((8, 8, 0), (4, 8, 0), None, None),
            ((8, 8, 0), (3, 8, 0), None, Some(5)),
            ((8, 8, 0), (8, 3, 0), None, Some(5)),
            ((3, 8, 0), (0, 8, 0), None, None),
            ((0, 0, 5), (0, 0, 0), None, None),
            ((1, 0, 5), (1, 0, 0), None, None),
            ((2, 2, 5), (0, 0, 5), Some(2), Some(2)),
        ];
        for (before, after, at_start, later) in cases {
            let of = |(s, w, own): Mesh| objects(s, w, own);
            let (before_objects, after_objects) = (of(before), of(after));
            for (watch, expected) in [(Watch::Everything, at_start), (Watch::Most, later)] {
                let held = guard(&before_objects, &after_objects, Guard::default(), watch);
                let held = held.map(|(hold, kept)| {
                    assert_eq!(hold.missing, kept.len());
                    hold.missing
                });
                assert_eq!(held, expected, "{before:?} → {after:?}, {watch:?}");
            }
        }
    }
}
