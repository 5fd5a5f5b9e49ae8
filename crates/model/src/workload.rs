//! Workloads: who asks the control plane, and on whose behalf a proxy runs.

/// Who asks, as the context token and the policy workload say it; empty fields are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Asker {
    /// Its namespace.
    pub namespace: String,
    /// Its workload name.
    pub workload: String,
    /// The host it runs on.
    pub node: String,
}
