//! The directories of manifests: feeds their changes to the views, and tells people what is wrong with them.
//!
//! Started by `assemble`; `admin` shows the reports. It decides nothing about manifests: `resources` reads them,
//! `index` judges them.

use crate::Options;
use crate::judged;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use weft_resources::directory::{Directory, Handle, Settings};
use weft_resources::report::{Finding, Report};
use weft_resources::source::{Part, Source};
use weft_serve::views::Views;

/// Every directory that is followed. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sources(Arc<[Followed]>);

struct Followed {
    root: PathBuf,
    report: watch::Receiver<Arc<Report>>,
    handle: Handle,
}

impl Sources {
    /// The latest report of each.
    pub(crate) fn reports(&self) -> Vec<Arc<Report>> {
        self.0.iter().map(|followed| followed.report.borrow().clone()).collect()
    }

    /// The reports with their directories, for people.
    pub(crate) fn shown(&self) -> Vec<Value> {
        let shown = self.0.iter().map(|followed| {
            let mut report = json!(**followed.report.borrow());
            if let Value::Object(fields) = &mut report {
                fields.insert("root".into(), json!(followed.root.display().to_string()));
            }
            report
        });
        shown.collect()
    }

    /// What must come before it is right to answer: a directory that can be read, or was once.
    pub(crate) fn waiting(&self) -> Option<String> {
        let unread =
            self.reports().into_iter().find(|report| report.objects == 0 && report.stale.is_some())?;
        unread.stale.clone()
    }

    /// Lets the removals that are held back now take effect.
    pub(crate) fn confirm_removals(&self) {
        self.0.iter().for_each(|followed| followed.handle.confirm_removals());
    }
}

/// Feeds the views from every directory; the first batch of each is in force on return.
pub(crate) async fn follow(options: &Options, views: &Views) -> (Sources, Vec<JoinHandle<()>>) {
    let (mut followed, mut tasks) = (Vec::new(), Vec::new());
    let changed = Arc::new(watch::Sender::new(0));
    for (n, root) in options.manifests.iter().enumerate() {
        let state = match n {
            0 => options.state.clone(),
            n => options.state.join(format!("manifests-{n}")),
        };
        let mut source = Directory::open(Settings { state: Some(state), ..Settings::new(root) });
        let report = source.reports();
        followed.push(Followed { root: root.clone(), report: report.clone(), handle: source.handle() });
        let first = source.next().await;
        if report.borrow().stale.is_none() {
            tracing::info!(root = %root.display(), objects = first.changes.len(), "manifests read");
        }
        views.apply(first.changes);
        let (views, changed) = (views.clone(), changed.clone());
        tasks.push(tokio::spawn(log_findings(report)));
        tasks.push(tokio::spawn(async move {
            loop {
                let batch = source.next().await;
                debug_assert_eq!(batch.part, Part::Changes);
                tracing::info!(revision = batch.revision, changes = batch.changes.len(), "manifests changed");
                views.apply(batch.changes);
                changed.send_modify(|times| *times += 1);
            }
        }));
    }
    tasks.push(tokio::spawn(judged::log(views.clone(), changed.subscribe())));
    (Sources(followed.into()), tasks)
}

/// Logs everything that is wrong once, when it is first found, and when it is mended.
async fn log_findings(mut reports: watch::Receiver<Arc<Report>>) {
    let mut known = Arc::new(Report::default());
    loop {
        let report = reports.borrow_and_update().clone();
        for finding in fresh(&known.rejected, &report.rejected) {
            tracing::warn!("not in force: {finding}");
        }
        for finding in fresh(&known.warnings, &report.warnings) {
            tracing::warn!("without effect: {finding}");
        }
        match (&known.stale, &report.stale) {
            (before, Some(now)) if before.as_ref() != Some(now) => tracing::error!("{now}"),
            (Some(_), None) => tracing::info!(objects = report.objects, "the manifests can be read again"),
            _ => {}
        }
        match (&known.held, &report.held) {
            (before, Some(hold)) if before.as_ref() != Some(hold) => tracing::warn!(
                missing = hold.missing,
                of = hold.of,
                examples = hold.examples.join(", "),
                "{}; to confirm it: POST /confirm-removals to the admin server",
                hold.message
            ),
            (Some(_), None) => tracing::info!("no removals are held back any more"),
            _ => {}
        }
        if !known.rejected.is_empty() && report.rejected.is_empty() {
            tracing::info!("every manifest is in force");
        }
        known = report;
        if reports.changed().await.is_err() {
            return;
        }
    }
}

fn fresh<'a>(known: &[Finding], now: &'a [Finding]) -> Vec<&'a Finding> {
    let known: BTreeSet<&Finding> = known.iter().collect();
    now.iter().filter(|finding| !known.contains(finding)).collect()
}
