//! `weft check`: what would become of manifests, before anything runs.
//!
//! Reads directories as `weft control` would, judges every object as it would (`index::verdict`), and prints one table.
//! Meant for people and for CI: the exit status says whether anything is wrong. Changes nothing.

use super::{Environment, fail, mesh, policy, refuse};
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use weft_index::Index;
use weft_index::config::Config;
use weft_index::verdict::{self, State, Verdict};
use weft_model::object::{Change, Key};
use weft_resources::directory::read_once;
use weft_resources::report::{Finding, Report};

pub(crate) const ABOUT: &str = "Say of each manifest whether it would be in force, and if not, why";

pub(crate) fn arguments(command: clap::Command) -> clap::Command {
    let command = command
        .arg(
            Arg::new("manifests")
                .long("manifests")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .action(ArgAction::Append)
                .required(true)
                .help("Directory of manifests; repeatable"),
        )
        .arg(Arg::new("strict").long("strict").action(ArgAction::SetTrue).help(
            "Fail also on what is only a warning: objects that wait for others, and parts without effect",
        ));
    mesh::naming(policy::arguments(command))
}

pub(crate) fn run(matches: &ArgMatches, _: &Environment) -> ExitCode {
    let config = match policy::config(matches) {
        Ok(config) => config,
        Err(mistakes) => return refuse(mistakes),
    };
    let roots = matches.get_many::<PathBuf>("manifests").into_iter().flatten().map(PathBuf::as_path);
    let checked = match check(roots, config) {
        Ok(checked) => checked,
        Err(error) => return fail(error),
    };
    print!("{}", checked.table());
    let worst = if matches.get_flag("strict") { Severity::Warning } else { Severity::Error };
    if checked.rows.iter().any(|row| row.severity >= worst) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// How bad a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Fine,
    Warning,
    Error,
}

/// A row of the table.
#[derive(Debug)]
struct Row {
    file: String,
    line: u32,
    object: String,
    state: &'static str,
    about: String,
    severity: Severity,
}

/// What a check found.
#[derive(Default)]
struct Checked {
    rows: Vec<Row>,
    files: usize,
    /// Documents of kinds that have no effect, by `apiVersion/kind`.
    ignored: BTreeMap<String, usize>,
    /// Objects that Linkerd's control plane would make something else of, and what.
    differing: Vec<(String, String)>,
}

fn check<'a>(roots: impl Iterator<Item = &'a Path>, config: Config) -> Result<Checked, String> {
    let (mut checked, mut index) = (Checked::default(), Index::new(config));
    // Whose an object is: files are told apart by their directory only where there are several.
    let mut known = BTreeMap::<Key, PathBuf>::new();
    let roots: Vec<_> = roots.collect();
    for root in &roots {
        let shown = |file: &str| match roots.len() {
            1 => file.to_owned(),
            _ => root.join(file).display().to_string(),
        };
        let (objects, report) =
            read_once(root).map_err(|error| format!("{} cannot be read: {error}", root.display()))?;
        checked.reported(&report, shown);
        for (key, object) in objects {
            let place = shown(&object.meta().origin.file);
            match known.get(&key) {
                Some(other) => checked.rows.push(Row {
                    file: place,
                    line: object.meta().origin.line,
                    object: key.to_string(),
                    state: "conflicted",
                    about: format!("it is also in {}; the one that changes last counts", other.display()),
                    severity: Severity::Error,
                }),
                None => {
                    known.insert(key, place.into());
                    index.apply([Change::Upsert(object)]);
                }
            }
        }
    }
    let file = |key: &Key| known.get(key).map(|place| place.display().to_string()).unwrap_or_default();
    for verdict in verdict::verdicts(&index) {
        checked.judged(&verdict, file(&verdict.key));
    }
    checked.rows.sort_by(|a, b| (&a.file, a.line, &a.object).cmp(&(&b.file, b.line, &b.object)));
    Ok(checked)
}

impl Checked {
    /// What could not be taken in.
    fn reported(&mut self, report: &Report, shown: impl Fn(&str) -> String) {
        self.files += report.files;
        for (kind, count) in &report.ignored {
            *self.ignored.entry(kind.clone()).or_default() += count;
        }
        let mut row = |finding: &Finding, state, severity| {
            let about = match finding.field.as_str() {
                "" => finding.message.clone(),
                field => format!("{field}: {}", finding.message),
            };
            let (file, line, object) = (shown(&finding.file), finding.line, finding.object.clone());
            self.rows.push(Row { file, line, object, state, about, severity });
        };
        report.rejected.iter().for_each(|finding| row(finding, "rejected", Severity::Error));
        report.warnings.iter().for_each(|finding| row(finding, "warning", Severity::Warning));
        if report.more > 0 {
            self.rows.push(Row {
                file: String::new(),
                line: 0,
                object: String::new(),
                state: "rejected",
                about: format!("and {} findings more, which are not shown", report.more),
                severity: Severity::Error,
            });
        }
    }

    fn judged(&mut self, verdict: &Verdict, file: String) {
        let severity = match (&verdict.state, verdict.notes.is_empty()) {
            (State::Conflicted { .. } | State::Refused { .. }, _) => Severity::Error,
            (State::Dangling { .. }, _) | (_, false) => Severity::Warning,
            (State::Accepted, true) => Severity::Fine,
        };
        let about: Vec<_> = verdict.state.why().into_iter().chain(verdict.notes.iter().cloned()).collect();
        self.rows.push(Row {
            file,
            line: verdict.origin.line,
            object: verdict.key.to_string(),
            state: verdict.state.as_str(),
            about: about.join("; "),
            severity,
        });
        self.differing.extend(verdict.differs.iter().map(|about| (verdict.key.to_string(), about.clone())));
    }

    /// The table with its summary.
    fn table(&self) -> String {
        let mut lines = vec![["PLACE", "OBJECT", "STATE", "WHY"].map(str::to_owned)];
        lines.extend(self.rows.iter().map(|row| {
            let place = if row.line == 0 { row.file.clone() } else { format!("{}:{}", row.file, row.line) };
            [place, row.object.clone(), row.state.to_owned(), row.about.clone()]
        }));
        let width =
            |column: usize| lines.iter().filter_map(|l| l.get(column)).map(|t| t.chars().count()).max();
        let [place, object, state] = [0, 1, 2].map(|column| width(column).unwrap_or_default());
        let mut text = String::new();
        for [a, b, c, d] in &lines {
            text.push_str(format!("{a:place$}  {b:object$}  {c:state$}  {d}").trim_end());
            text.push('\n');
        }
        let mut counts = BTreeMap::<&str, usize>::new();
        self.rows.iter().for_each(|row| *counts.entry(row.state).or_default() += 1);
        let counted: Vec<_> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
        let counted = if counted.is_empty() { "no objects".to_owned() } else { counted.join(", ") };
        text.push_str(&format!("\n{counted}, in {} files\n", self.files));
        if !self.ignored.is_empty() {
            let kinds: Vec<_> =
                self.ignored.iter().map(|(kind, count)| format!("{kind} ({count})")).collect();
            text.push_str(&format!("without effect here: {}\n", kinds.join(", ")));
        }
        if !self.differing.is_empty() {
            text.push_str("\nOtherwise under Linkerd's control plane:\n");
            let wide =
                self.differing.iter().map(|(object, _)| object.chars().count()).max().unwrap_or_default();
            for (object, about) in &self.differing {
                text.push_str(&format!("{object:wide$}  {about}\n"));
            }
        }
        text
    }
}
