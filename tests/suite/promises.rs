//! `docs/promises` names the test that fails without each promise: a test that is named there exists.

use std::path::{Path, PathBuf};

/// `suite::…` lies in `tests/suite`, everything else in `src`. A module's file, or the nearest one around it: `mod tests` and the
/// modules that a contract makes for its adapters have none.
fn file_of(modules: &[&str]) -> Option<PathBuf> {
    let (root, path) = match modules.split_first()? {
        (&"suite", path) => ("tests/suite", path),
        _ => ("src", modules),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    (1..=path.len()).rev().find_map(|n| {
        let stem = path[..n].join("/");
        [format!("{stem}.rs"), format!("{stem}/mod.rs")].map(|f| root.join(f)).into_iter().find(|f| f.is_file())
    })
}

fn exists(name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let Some((test, modules)) = parts.split_last() else { return false };
    let Some(file) = file_of(modules) else { return false };
    let text = std::fs::read_to_string(file).expect("a readable source");
    text.contains(&format!("fn {test}("))
}

/// What the tables' rows name in backticks as `module::test`.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let rows = text.lines().filter(|l| l.starts_with('|'));
    let is_path = |n: &&str| n.contains("::") && n.chars().all(|c| c == '_' || c == ':' || c.is_ascii_alphanumeric());
    rows.flat_map(|row| row.split('`').skip(1).step_by(2)).filter(is_path)
}

#[test]
fn every_test_that_a_promise_names_exists() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/promises");
    let mut missing = Vec::new();
    for entry in std::fs::read_dir(folder).expect("docs/promises") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        assert!(named(&text).count() > 10, "{} names hardly any test", path.display());
        let lost = named(&text).filter(|name| !exists(name));
        missing.extend(lost.map(|name| format!("{}: {name}", path.file_name().unwrap_or_default().display())));
    }
    assert!(missing.is_empty(), "these tests do not exist:\n{}", missing.join("\n"));
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    assert!(exists("suite::promises::a_test_that_is_not_there_is_missed"));
    assert!(exists("actors::commit::book::tests::what_was_aborted_is_sent_again_before_what_came_later"));
    for gone in ["suite::promises::nobody_wrote_this", "suite::nowhere::rounds", "actors::commit::book::tests::rounds", "rounds"]
    {
        assert!(!exists(gone), "{gone}");
    }
    let row = "| A `key` and `x::y` | `suite::a::b`, `c::d` |\nA line with `e::f`";
    assert_eq!(named(row).collect::<Vec<_>>(), ["x::y", "suite::a::b", "c::d"]);
}
