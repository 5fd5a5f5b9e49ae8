//! Matches by the paths that they can meet, so that a request is compared with few of many.
//!
//! Made and asked by `matching.rs` where a policy has more matches than are worth looking through. It narrows down and never decides:
//! each match that it names is still compared in full, and every match that could meet a path is named.

use std::collections::HashMap;

/// Up to so many matches, looking through them is faster. A guess: a look-up hashes a piece of the path for each of its
/// segments, which costs about as much as comparing these.
const FEW: usize = 8;

/// Where a match stands: its route, its rule there, and its number in the rule. Ordered as they are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) route: u32,
    pub(crate) rule: u32,
    /// Beyond the last match, for a rule that has none.
    pub(crate) of: u32,
    /// The number of a header that must be there at all, 0 for none; it takes no part in the order, as no two matches have
    /// the rest in common.
    pub(crate) needs: u8,
}

/// The paths that a match can meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Paths {
    /// This one.
    Exact(String),
    /// Those that begin with these segments; no slash at the end.
    Below(String),
    /// Perhaps any.
    Any,
}

/// Matches by their paths.
#[derive(Debug, Default)]
pub(crate) struct Places {
    exact: HashMap<Box<str>, Vec<Place>>,
    below: HashMap<Box<str>, Vec<Place>>,
    /// Most slashes in a key of `below`: what lies deeper in a path need not be looked up.
    depth: usize,
    any: Vec<Place>,
}

impl Places {
    /// Sorts matches; `None` if they are too few for it to be worth while.
    pub(crate) fn of(matches: Vec<(Place, Paths)>) -> Option<Self> {
        if matches.len() <= FEW {
            return None;
        }
        let mut places = Self::default();
        for (place, paths) in matches {
            match paths {
                Paths::Exact(path) => places.exact.entry(path.into()).or_default().push(place),
                Paths::Below(path) => {
                    places.depth = places.depth.max(path.matches('/').count());
                    places.below.entry(path.into()).or_default().push(place);
                }
                Paths::Any => places.any.push(place),
            }
        }
        Some(places)
    }

    /// Names every match that can meet a path, in no order.
    pub(crate) fn each(&self, path: &str, mut name: impl FnMut(Place)) {
        let mut among =
            |places: Option<&Vec<Place>>| places.into_iter().flatten().for_each(|place| name(*place));
        if !self.exact.is_empty() {
            among(self.exact.get(path));
        }
        if !self.below.is_empty() {
            let ends = path.match_indices('/').map(|(at, _)| at).take(self.depth + 1);
            ends.for_each(|end| among(path.get(..end).and_then(|start| self.below.get(start))));
            among(self.below.get(path));
        }
        among(Some(&self.any));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &[u32]) {
        let keys = [
            Paths::Exact("/a/b".into()),
            Paths::Below(String::new()),
            Paths::Below("/a".into()),
            Paths::Below("/a/b".into()),
            Paths::Below("/a//b".into()),
            Paths::Exact("*".into()),
            Paths::Any,
            Paths::Exact("/x".into()),
            Paths::Below("/x".into()),
        ];
        let place = |route: usize| Place { route: u32::try_from(route).unwrap(), rule: 0, of: 0, needs: 0 };
        let places =
            Places::of(keys.into_iter().enumerate().map(|(n, key)| (place(n), key)).collect()).unwrap();
        let mut found = Vec::new();
        places.each(path, |place| found.push(place.route));
        found.sort_unstable();
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn whoever_can_meet_a_path_is_named() {
        check("/", &[1, 6]);
        check("/a", &[1, 2, 6]);
        check("/ab", &[1, 6]);
        check("/a/", &[1, 2, 6]);
        check("/a/b", &[0, 1, 2, 3, 6]);
        check("/a/b/c/d/e", &[1, 2, 3, 6]);
        check("/a//b", &[1, 2, 4, 6]);
        check("*", &[5, 6]);
        check("", &[1, 6]);
    }

    #[test]
    fn few_matches_are_not_sorted() {
        assert!(Places::of(vec![(Place { route: 0, rule: 0, of: 0, needs: 0 }, Paths::Any); FEW]).is_none());
    }
}
