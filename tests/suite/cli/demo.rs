//! The demo, as a newcomer runs it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(90);

/// One run in `dir`, told to stop by Ctrl-C once a line satisfies `enough`. Gives its lines, and what it said besides.
fn run_until(dir: &Path, enough: impl Fn(&str) -> bool) -> (Vec<String>, String) {
    let said = dir.join("said");
    let args = ["demo", "--listen", "127.0.0.1:0", "--shops", "4", "--variants", "80", "--rate", "200"];
    let mut demo = Command::new(env!("CARGO_BIN_EXE_stockwarden"))
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&said).expect("a file"))
        .spawn()
        .expect("the demo starts");
    let started = Instant::now();
    let mut lines = Vec::new();
    let mut told = false;
    for line in BufReader::new(demo.stdout.take().expect("piped")).lines() {
        let line = line.expect("text");
        if !told && (enough(&line) || started.elapsed() > PATIENCE) {
            interrupt(&demo);
            told = true;
        }
        lines.push(line);
    }
    let status = demo.wait().expect("it ends");
    assert!(status.success(), "{status}: {lines:#?}");
    assert!(lines.iter().any(|l| enough(l)), "in vain: {lines:#?}");
    (lines, std::fs::read_to_string(said).expect("text"))
}

fn interrupt(child: &Child) {
    let done = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(done.success());
}

/// The number before `what` in a line such as `8 s: 12 shops, 600 variants, 104 at risk`.
fn number(line: &str, what: &str) -> Option<u64> {
    let part = line.split([',', ':']).find(|p| p.trim_end().ends_with(what))?;
    part.split_whitespace().find_map(|word| word.parse().ok())
}

#[test]
fn ctrl_c_ends_the_demo_cleanly_and_a_second_start_goes_on_from_its_data() {
    let dir = tempfile::tempdir().expect("a folder");
    let busy = |l: &str| number(l, "decisions").is_some_and(|n| n > 0) && l.contains("mail") && number(l, "variants") == Some(80);
    let (first, said) = run_until(dir.path(), busy);
    let all = format!("{}\n{said}", first.join("\n"));
    assert!(all.contains("stopped cleanly; the data is in data/demo"), "{all}");
    let open = |lines: &[String]| lines.iter().rev().find_map(|l| number(l, "open proposals")).unwrap_or_default();
    assert!(open(&first) > 0, "{all}");

    let (second, said) = run_until(dir.path(), |l| number(l, "variants") == Some(80));
    assert!(said.contains("going on in data/demo"), "{said}");
    assert!(open(&second) > 0, "the proposals of the first run are still known: {second:#?}");
}
