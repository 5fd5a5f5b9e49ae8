//! Rule 5: how large things may grow, and a ratchet for what is larger today.
//!
//! Lines, arguments, type parameters; and no boolean among a public function's arguments, because it
//! cannot be read where the function is called.

use super::source::{Source, Word, closing, closing_angle, split_commas};
use super::tree::Tree;
use crate::finding::Finding;
use std::collections::{BTreeMap, BTreeSet};

/// Lines a file, without its tests.
const FILE: usize = 700;
/// Lines a function, from its name to its last bracket.
const FUNCTION: usize = 70;
/// Arguments a function, without its receiver.
const ARGUMENTS: usize = 5;
/// Lines a product crate, without its tests.
const CRATE: usize = 6_000;
/// Lines a where-clause.
const WHERE: usize = 3;
/// Type parameters a type that others see. One that stays inside its crate may have one more: it is read
/// beside its only user.
const PARAMETERS: usize = 1;
/// Files whose types are generic in a key and a value: containers.
const CONTAINERS: &[&str] = &["crates/discover/src/cache.rs", "crates/discover/src/lookup.rs"];

/// What exceeds its budget today, and by how much: place, budget, size. A row may only shrink, and goes
/// when its place fits; the check demands both.
const RATCHET: &[(&str, &str, usize)] = &[];

/// Crates that are not part of the product have no budget as a whole.
const BESIDE: &[&str] = &["testkit", "scenarios", "xtask", "bench", "fuzz"];

/// What is over its budget.
struct Excess {
    /// Where: a path, or a path and a name.
    place: String,
    path: String,
    line: usize,
    budget: &'static str,
    size: usize,
    limit: usize,
}

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    let mut excesses = Vec::new();
    let mut crates: BTreeMap<&str, usize> = BTreeMap::new();
    for file in &tree.files {
        if file.text.starts_with("// @generated") {
            continue;
        }
        let lines = file.product_lines();
        *crates.entry(file.krate()).or_default() += lines;
        excesses.extend(excess(file, 0, ("file", "")).sized(lines, FILE));
        for word in file.words().filter(|word| !file.is_test(word.at)) {
            match word.text {
                "fn" => function(file, word, &mut excesses, findings),
                "struct" | "enum" => parameters(file, word, &mut excesses),
                "where" => where_clause(file, word, &mut excesses),
                _ => {}
            }
        }
    }
    for (krate, lines) in crates.iter().filter(|(krate, _)| !BESIDE.contains(krate)) {
        let path = format!("crates/{krate}");
        let excess = Excess { place: path.clone(), path, line: 0, budget: "crate", size: 0, limit: 0 };
        excesses.extend(excess.sized(*lines, CRATE));
    }
    // A row is stale only where there is something it could be about.
    let scanned = |row: &&(&str, &str, usize)| {
        let path = row.0.split('#').next().unwrap_or_default();
        tree.files.iter().any(|file| file.path.starts_with(path))
    };
    let ratchet: Vec<_> = RATCHET.iter().filter(scanned).copied().collect();
    settle(excesses, &ratchet, findings);
}

fn excess(file: &Source, at: usize, (budget, name): (&'static str, &str)) -> Excess {
    let place = if name.is_empty() { file.path.clone() } else { format!("{}#{name}", file.path) };
    Excess { place, path: file.path.clone(), line: file.line(at), budget, size: 0, limit: 0 }
}

impl Excess {
    fn sized(self, size: usize, limit: usize) -> Option<Self> {
        (size > limit).then_some(Self { size, limit, ..self })
    }
}

fn function(file: &Source, word: Word<'_>, excesses: &mut Vec<Excess>, findings: &mut Vec<Finding>) {
    let code = &file.code;
    let Some((name, list)) = signature(code, word) else { return };
    let end = closing(code, list);
    let arguments = split_commas(&code[list + 1..end.saturating_sub(1).max(list + 1)]);
    let is_receiver = |argument: &&&str| {
        let bare = argument.trim_start_matches(['&', ' ']).trim_start_matches("mut ");
        bare == "self"
            || bare.starts_with("self:")
            || argument.starts_with("&'") && argument.ends_with(" self")
    };
    let count = arguments.len() - arguments.iter().filter(is_receiver).count();
    excesses.extend(excess(file, word.at, ("arguments", name)).sized(count, ARGUMENTS));
    let body = code[end..].find(['{', ';']).map_or(code.len(), |offset| end + offset);
    if code.as_bytes().get(body) == Some(&b'{') {
        let lines = file.line(closing(code, body).saturating_sub(1)) - file.line(word.at) + 1;
        excesses.extend(excess(file, word.at, ("function", name)).sized(lines, FUNCTION));
    }
    if file.before(word).ends_with("pub") || file.before(word).ends_with("pub async") {
        for argument in arguments.iter().filter(|argument| argument.ends_with(": bool")) {
            let message =
                format!("`{argument}` of `{name}`: a caller cannot read what true means; use an enum of two");
            findings.push(Finding {
                path: file.path.clone(),
                line: file.line(word.at),
                rule: "boolean",
                message,
            });
        }
    }
}

/// Name, and where the list of arguments opens. None for a function type or a macro's template.
fn signature<'a>(code: &'a str, word: Word<'_>) -> Option<(&'a str, usize)> {
    let at = word.at + word.text.len();
    let start = at + code[at..].find(|c: char| !c.is_whitespace())?;
    let length = code[start..].find(|c: char| !c.is_alphanumeric() && c != '_')?;
    let mut open = start + length;
    if length == 0 {
        return None;
    }
    if code[open..].starts_with('<') {
        open = closing_angle(code, open);
    }
    code[open..].starts_with('(').then_some((&code[start..start + length], open))
}

fn parameters(file: &Source, word: Word<'_>, excesses: &mut Vec<Excess>) {
    let after = file.after(word);
    let Some(open) = after.find(|c: char| !c.is_alphanumeric() && c != '_') else { return };
    if open == 0 || !after[open..].starts_with('<') {
        return;
    }
    let list = &after[open + 1..closing_angle(after, open).saturating_sub(1).max(open + 1)];
    let is_type = |parameter: &&str| !parameter.starts_with('\'') && !parameter.starts_with("const ");
    let count = split_commas(list).iter().filter(|parameter| is_type(parameter)).count();
    let more = !file.before(word).ends_with("pub") || CONTAINERS.contains(&file.path.as_str());
    let limit = PARAMETERS + usize::from(more);
    excesses.extend(excess(file, word.at, ("parameters", &after[..open])).sized(count, limit));
}

fn where_clause(file: &Source, word: Word<'_>, excesses: &mut Vec<Excess>) {
    let after = file.after(word);
    let clause = &after[..after.find(['{', ';']).unwrap_or(after.len())];
    let lines = clause.lines().filter(|line| !line.trim().is_empty()).count();
    excesses.extend(excess(file, word.at, ("where", &file.line(word.at).to_string())).sized(lines, WHERE));
}

/// Compares with the ratchet.
fn settle(excesses: Vec<Excess>, ratchet: &[(&str, &str, usize)], findings: &mut Vec<Finding>) {
    let mut used = BTreeSet::new();
    for Excess { place, path, line, budget, size, limit } in excesses {
        let row = ratchet.iter().find(|row| row.0 == place && row.1 == budget);
        let message = match row {
            Some((_, _, allowed)) if size == *allowed => None,
            Some((_, _, allowed)) if size < *allowed => Some(format!(
                "{place} shrank to {size}: lower its row in the ratchet of {} from {allowed}",
                file!()
            )),
            Some((_, _, allowed)) => Some(format!(
                "{place} grew to {size}; its ratchet is at {allowed}, the {budget} budget at {limit}"
            )),
            None => Some(format!("{place} has {size}, the {budget} budget is {limit}; {}", remedy(budget))),
        };
        used.insert((place, budget));
        findings.extend(message.map(|message| Finding { path, line, rule: "budget", message }));
    }
    for (place, budget, _) in ratchet.iter().filter(|row| !used.contains(&(row.0.to_owned(), row.1))) {
        let message = format!(
            "{place} keeps to its {budget} budget now: remove its row from the ratchet in {}",
            file!()
        );
        findings.push(Finding { path: (*place).to_owned(), line: 0, rule: "budget", message });
    }
}

fn remedy(budget: &str) -> &'static str {
    match budget {
        "file" | "crate" => "split it where the subject changes",
        "function" => "name its parts",
        "arguments" => "put what belongs together into a type",
        "parameters" => "use the one concrete type of the data path",
        _ => "shorten it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_text(text: &str, expected: &[&str]) {
        let file = Source::new("crates/x/src/a.rs", text.to_owned());
        let tree = Tree { files: vec![file], manifests: BTreeMap::new() };
        let mut findings = Vec::new();
        check(&tree, &mut findings);
        let shown: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), expected.len(), "{shown:#?}");
        for (shown, expected) in shown.iter().zip(expected) {
            assert!(shown.contains(expected), "{shown} lacks {expected}");
        }
    }

    #[test]
    fn long_files_and_functions_are_found() {
        check_text(&format!("fn f() {{\n{}}}\n", "x;\n".repeat(68)), &[]);
        check_text(
            &format!("fn f() {{\n{}}}\n", "x;\n".repeat(69)),
            &["a.rs:1: [budget] crates/x/src/a.rs#f has 71"],
        );
        check_text(&"x;\n".repeat(701), &["has 701, the file budget is 700"]);
        check_text(&format!("x;\n#[cfg(test)]\nmod tests {{\n{}}}\n", "x;\n".repeat(900)), &[]);
    }

    #[test]
    fn arguments_are_counted_without_the_receiver() {
        check_text("fn f<F: Fn(u8, u8) -> u8>(&'a self, a: (u8, u8), b: B<C, D>, c: C, d: D, e: E) {}", &[]);
        check_text("fn f(a: A, b: B, c: C, d: D, e: E, f: F);", &["#f has 6, the arguments budget is 5"]);
        check_text("type F = fn(A, B, C, D, E, F);", &[]);
    }

    #[test]
    fn public_booleans_and_greedy_generics_are_found() {
        check_text(
            "pub fn f(on: bool) {}\nfn g(on: bool) {}\npub(crate) fn h(on: bool) {}",
            &["[boolean] `on: bool`"],
        );
        check_text("pub struct A<'a, T, const N: usize> { t: T }\nstruct B<T, U>(T, U);", &[]);
        check_text("pub struct A<T, U>(T, U);", &["#A has 2, the parameters budget is 1"]);
        check_text("struct A<T, U, V>(T, U, V);", &["#A has 3, the parameters budget is 2"]);
        check_text(
            "fn f()\nwhere\n    A: B,\n    C: D,\n    E: F,\n    G: H,\n{\n}",
            &["the where budget is 3"],
        );
    }

    #[test]
    fn the_ratchet_only_goes_down() {
        let settled = |size, ratchet: &[(&str, &str, usize)]| {
            let (place, path) = ("a".to_owned(), "a".to_owned());
            let mut findings = Vec::new();
            let excess = Excess { place, path, line: 1, budget: "file", size, limit: 700 };
            settle(vec![excess], ratchet, &mut findings);
            findings.into_iter().map(|finding| finding.message).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(settled(750, &[("a", "file", 750)]), "");
        assert!(settled(751, &[("a", "file", 750)]).contains("grew to 751"));
        assert!(settled(749, &[("a", "file", 750)]).contains("lower its row"));
        assert!(settled(750, &[("a", "file", 750), ("b", "file", 800)]).contains("remove its row"));
    }
}
