//! All workloads.

use crate::workload::Workload;

/// Every row, in the order of the table.
pub fn all() -> Vec<Box<dyn Workload>> {
    Vec::new()
}

/// Those of `all` that one of `wanted` names, whole or as a prefix that ends at a dash (`rtp`, `call`); all when none is wanted.
///
/// # Errors
/// When a name fits no workload.
pub fn selected(wanted: &[String]) -> anyhow::Result<Vec<Box<dyn Workload>>> {
    let fits = |name: &str, wanted: &str| {
        name.strip_prefix(wanted)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    for word in wanted {
        anyhow::ensure!(
            all().iter().any(|workload| fits(&workload.name(), word)),
            "no workload is called {word}"
        );
    }
    let mut selected = all();
    selected.retain(|workload| wanted.is_empty() || wanted.iter().any(|word| fits(&workload.name(), word)));
    Ok(selected)
}
