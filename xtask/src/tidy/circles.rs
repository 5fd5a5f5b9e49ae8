//! Rule 1: no import circle between the files of a crate.
//!
//! Paths that begin with `crate`, `self` or `super` are followed to the file that they lead to. What a
//! file only passes on (`pub use`) is no import, so a `lib.rs` may list its crate's names; but whoever
//! uses those names inside the crate names the file that defines them.

use super::source::{Source, Word, closing, split_commas};
use super::tree::Tree;
use crate::finding::Finding;
use std::collections::{BTreeMap, BTreeSet};

/// From module to module: the line of one import.
type Imports = BTreeMap<String, BTreeMap<String, usize>>;

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    let crates: BTreeSet<&str> = tree.files.iter().map(Source::krate).collect();
    for krate in crates {
        let files: BTreeMap<String, &Source> =
            tree.of(krate).filter_map(|file| Some((module(&file.path)?, file))).collect();
        let modules: BTreeSet<&str> = files.keys().map(String::as_str).collect();
        let imports: Imports =
            files.iter().map(|(name, file)| (name.clone(), imports_of(file, name, &modules))).collect();
        for circle in circles(&imports) {
            report(&circle, &imports, &files, findings);
        }
    }
}

fn report(
    circle: &[String],
    imports: &Imports,
    files: &BTreeMap<String, &Source>,
    findings: &mut Vec<Finding>,
) {
    let Some(file) = circle.first().and_then(|name| files.get(name)) else { return };
    let inside = |name: &String| circle.contains(name);
    let edges: Vec<String> = circle
        .iter()
        .flat_map(|from| {
            imports[from].iter().filter(|(to, _)| inside(to)).map(move |(to, line)| (from, to, line))
        })
        .map(|(from, to, line)| format!("{} → {} (line {line})", shown(from), shown(to)))
        .collect();
    let line = imports[&circle[0]].iter().find(|(to, _)| inside(to)).map_or(0, |(_, line)| *line);
    let message = format!("import circle: {}; move what both need into a file of its own", edges.join(", "));
    findings.push(Finding { path: file.path.clone(), line, rule: "circles", message });
}

fn shown(module: &str) -> &str {
    if module.is_empty() { "lib.rs" } else { module }
}

/// `crates/x/src/a/b.rs` → `a::b`; the crate's root → the empty name. None outside `src`.
fn module(path: &str) -> Option<String> {
    let (_, inside) = path.split_once("src/").filter(|(before, _)| !before.contains("/tests/"))?;
    let name = inside.strip_suffix(".rs")?;
    let name = name.strip_suffix("/mod").unwrap_or(name);
    let name = if matches!(name, "lib" | "main" | "mod") { "" } else { name };
    Some(name.replace('/', "::"))
}

fn imports_of(file: &Source, own: &str, modules: &BTreeSet<&str>) -> BTreeMap<String, usize> {
    let mut imports = BTreeMap::new();
    for word in file.words() {
        let starts = matches!(word.text, "crate" | "self" | "super") && file.after(word).starts_with("::");
        if !starts || file.before(word).ends_with("::") || file.is_test(word.at) || is_passed_on(file, word) {
            continue;
        }
        for path in paths(&file.code[word.at..]) {
            let Some(target) = resolve(&path, own, modules) else { continue };
            // A file's own inline modules, and a child that is only reached through its own parent's name.
            if target != own {
                imports.entry(target.to_owned()).or_insert_with(|| file.line(word.at));
            }
        }
    }
    imports
}

/// Whether the path stands in a `pub use`, or in the `pub(in …)` of one.
fn is_passed_on(file: &Source, word: Word<'_>) -> bool {
    let statement = file.before(word).rsplit([';', '}']).next().unwrap_or("");
    statement.contains("pub use") || statement.contains(") use") || file.before(word).ends_with("(in")
}

/// The paths of an import tree such as `crate::a::{b, c::{self, D}}`.
fn paths(code: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let end = code.find(|c| !is_path(c)).unwrap_or(code.len());
    let (head, rest) = code.split_at(end);
    if !(head.ends_with("::") && rest.starts_with('{')) {
        return vec![head.trim_end_matches(':').to_owned()];
    }
    let group = &rest[1..closing(rest, 0).saturating_sub(1).max(1)];
    split_commas(group).into_iter().flat_map(paths).map(|tail| format!("{head}{tail}")).collect()
}

/// The longest module that the path passes through.
fn resolve<'a>(path: &str, own: &str, modules: &BTreeSet<&'a str>) -> Option<&'a str> {
    let mut at: Vec<&str> = Vec::new();
    for (number, part) in path.split("::").enumerate() {
        match part {
            "crate" => at.clear(),
            "self" if number == 0 => at = own.split("::").filter(|part| !part.is_empty()).collect(),
            "self" => {}
            "super" => {
                if number == 0 {
                    at = own.split("::").filter(|part| !part.is_empty()).collect();
                }
                at.pop();
            }
            part => at.push(part),
        }
    }
    (0..=at.len()).rev().find_map(|length| modules.get(at[..length].join("::").as_str()).copied())
}

/// Groups of modules that reach each other. Simple and quadratic: a crate has a few dozen files.
fn circles(imports: &Imports) -> Vec<Vec<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        imports.keys().map(|from| (from, reachable(from, imports))).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for from in imports.keys() {
        let circle: Vec<String> = reach[from]
            .iter()
            .filter(|to| reach.get(*to).is_some_and(|back| back.contains(from)))
            .map(|to| (*to).clone())
            .collect();
        if !circle.is_empty() && seen.insert(circle.clone()) {
            found.push(circle);
        }
    }
    found
}

fn reachable<'a>(from: &'a String, imports: &'a Imports) -> BTreeSet<&'a String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        let next = imports.get(module).into_iter().flat_map(BTreeMap::keys);
        open.extend(next.filter(|to| seen.insert(*to)));
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_crate(files: &[(&str, &str)], expected: usize) {
        let file =
            |(name, text): &(&str, &str)| Source::new(&format!("crates/x/src/{name}.rs"), (*text).to_owned());
        let tree = Tree { files: files.iter().map(file).collect(), manifests: BTreeMap::new() };
        let mut findings = Vec::new();
        check(&tree, &mut findings);
        assert_eq!(findings.len(), expected, "{findings:?}");
    }

    #[test]
    fn circles_are_found_through_use_and_paths() {
        check_crate(
            &[("lib", "pub mod a; pub mod b; pub use a::A;"), ("a", "use crate::b::B;"), ("b", "")],
            0,
        );
        check_crate(&[("lib", ""), ("a", "use crate::b::B;"), ("b", "fn f() { super::a::g() }")], 1);
        check_crate(
            &[("a", "use crate::{b::{self, X}, c};"), ("b", ""), ("c", "use crate::b;\nuse crate::a::Y;")],
            1,
        );
        check_crate(&[("a", "use crate::a::b::B;"), ("a/b", "use super::A;")], 1);
        check_crate(&[("a", ""), ("a/b", "use super::c::C;"), ("a/c", "use super::A;")], 0);
    }

    #[test]
    fn what_is_passed_on_and_what_tests_use_is_no_import() {
        check_crate(&[("a", "pub use self::b::B;"), ("a/b", "use super::A;")], 0);
        check_crate(&[("a", "#[cfg(test)]\nmod tests { use crate::b::B; }"), ("b", "use crate::a::A;")], 0);
    }
}
