//! The demo's live view: redrawn in place on a terminal, a plain line a second elsewhere.
//!
//! Whoever runs the demo gives a [`DemoStats`]; the screen asks it and draws. To show something more: a field of
//! [`Snapshot`], a line in [`render`].

use std::io::Write;
use std::time::Duration;

use console::{Term, measure_text_width, truncate_str};
use tokio::sync::watch;
use tokio::time::Instant;

/// What the screen shows, as it stands.
pub trait DemoStats: Send + Sync {
    fn snapshot(&self) -> Snapshot;
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    pub shops: u64,
    pub variants: u64,
    pub at_risk: u64,
    /// Facts applied since the start.
    pub facts: u64,
    pub decisions: u64,
    pub open_proposals: u64,
    /// Facts in the log that are not applied yet.
    pub lag: u64,
    /// The newest first.
    pub recent: Vec<RecentDecision>,
    pub handlers: Vec<HandlerResults>,
    /// Where to look next: (what, address).
    pub links: Vec<(String, String)>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct RecentDecision {
    /// Time of day.
    pub at: String,
    pub shop: String,
    pub title: String,
    /// None for a warning.
    pub quantity: Option<i64>,
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct HandlerResults {
    pub name: String,
    pub done: u64,
    pub waiting: u64,
    pub failed: u64,
    /// What the stand-in itself has counted.
    pub received: Option<u64>,
}

/// How a demo went.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub last: Snapshot,
    pub seconds: f64,
}

const FRAME: Duration = Duration::from_millis(250);
const LINE: Duration = Duration::from_secs(1);
/// The rate is the mean over so long.
const RATE_WINDOW: Duration = Duration::from_secs(3);

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
/// Between these two a terminal that knows them draws at once.
const BEGIN_FRAME: &str = "\x1b[?2026h";
const END_FRAME: &str = "\x1b[?2026l";
const CLEAR_TO_LINE_END: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Shows `stats` on stdout until `stop` says so.
pub async fn run(stats: &dyn DemoStats, mut stop: watch::Receiver<bool>) -> std::io::Result<Ended> {
    let term = Term::stdout();
    let live = term.is_term();
    let began = Instant::now();
    let mut rate = Rate::default();
    let mut drawn = 0;
    let mut timer = tokio::time::interval(if live { FRAME } else { LINE });
    // On the way out of any error the cursor has to come back.
    let _cursor = live.then(HiddenCursor::new).transpose()?;
    loop {
        let ended = tokio::select! {
            _ = timer.tick() => false,
            // The stop's sender is gone: that is a stop too.
            _ = stop.wait_for(|s| *s) => true,
        };
        let snapshot = stats.snapshot();
        let view = View {
            snapshot: &snapshot,
            facts_per_second: rate.of(snapshot.facts, began.elapsed()),
            seconds: began.elapsed().as_secs(),
        };
        if live {
            let (height, width) = term.size();
            let lines = render(&view, width.into(), height.into());
            write_out(&frame(&lines, drawn))?;
            drawn = lines.len();
        } else {
            write_out(&format!("{}\n", plain(&view)))?;
        }
        if ended {
            return Ok(Ended { last: snapshot, seconds: began.elapsed().as_secs_f64() });
        }
    }
}

/// The last words, after the screen has ended.
pub fn summary(ended: &Ended) -> String {
    let s = &ended.last;
    let mut text = format!(
        "\n{} facts of {} shops in {:.0} s: {} decisions, {} open proposals, {} of {} variants at risk.\n",
        group(s.facts),
        group(s.shops),
        ended.seconds,
        group(s.decisions),
        group(s.open_proposals),
        group(s.at_risk),
        group(s.variants)
    );
    for h in &s.handlers {
        text += &format!("{}: {} done, {} waiting, {} failed\n", h.name, group(h.done), group(h.waiting), group(h.failed));
    }
    text
}

struct HiddenCursor;

impl HiddenCursor {
    fn new() -> std::io::Result<HiddenCursor> {
        write_out(HIDE_CURSOR)?;
        Ok(HiddenCursor)
    }
}

impl Drop for HiddenCursor {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = write_out(SHOW_CURSOR);
    }
}

/// In one write, so that no half of a frame is ever seen.
fn write_out(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Facts a second over the last few seconds.
#[derive(Default)]
struct Rate {
    seen: std::collections::VecDeque<(Duration, u64)>,
}

impl Rate {
    fn of(&mut self, facts: u64, at: Duration) -> f64 {
        self.seen.push_back((at, facts));
        while self.seen.len() > 2 && self.seen.front().is_some_and(|(t, _)| at - *t > RATE_WINDOW) {
            self.seen.pop_front();
        }
        match self.seen.front() {
            Some((t, n)) if at > *t => facts.saturating_sub(*n) as f64 / (at - *t).as_secs_f64(),
            _ => 0.0,
        }
    }
}

struct View<'a> {
    snapshot: &'a Snapshot,
    facts_per_second: f64,
    seconds: u64,
}

/// Lines that fit a terminal of that size.
fn render(view: &View<'_>, width: usize, height: usize) -> Vec<String> {
    let s = view.snapshot;
    let mut lines = vec![
        format!("Stockwarden demo   {:02}:{:02}   Ctrl-C ends it", view.seconds / 60, view.seconds % 60),
        String::new(),
        columns(&[
            ("shops", group(s.shops)),
            ("variants", group(s.variants)),
            ("at risk", group(s.at_risk)),
            ("open proposals", group(s.open_proposals)),
        ]),
        columns(&[
            ("facts/s", group(view.facts_per_second.round() as u64)),
            ("facts", group(s.facts)),
            ("decisions", group(s.decisions)),
            ("lag", group(s.lag)),
        ]),
        String::new(),
    ];
    for h in &s.handlers {
        let received = h.received.map_or(String::new(), |n| format!(", {} received there", group(n)));
        lines.push(format!(
            "{:<12} {} done, {} waiting, {} failed{received}",
            h.name,
            group(h.done),
            group(h.waiting),
            group(h.failed)
        ));
    }
    let links: Vec<String> = s.links.iter().map(|(what, address)| format!("{what:<12} {address}")).collect();
    // The links stay; decisions take what is left.
    let room = height.saturating_sub(lines.len() + links.len() + 4);
    if !s.recent.is_empty() && room > 0 {
        lines.push(String::new());
        lines.push("last decisions".to_owned());
        for d in s.recent.iter().take(room.min(10)) {
            let what = d.quantity.map_or("warning".to_owned(), |q| format!("order {q}"));
            lines.push(format!("{}  {:<10} {}  {}  ({})", d.at, what, d.title, d.reason, d.shop));
        }
    }
    if !links.is_empty() {
        lines.push(String::new());
        lines.extend(links);
    }
    lines.truncate(height.saturating_sub(1).max(1));
    // The last column stays free: some terminals wrap when it is written.
    let room = width.saturating_sub(1);
    let tail = if room > 1 { "…" } else { "" };
    lines.iter().map(|l| truncate_str(l, room, tail).into_owned()).collect()
}

/// Draws over the `before` lines of the last frame.
fn frame(lines: &[String], before: usize) -> String {
    let mut text = String::from(BEGIN_FRAME);
    if before > 0 {
        text += &format!("\x1b[{before}A\r");
    }
    for line in lines {
        text += line;
        text += CLEAR_TO_LINE_END;
        text += "\n";
    }
    text += CLEAR_BELOW;
    text += END_FRAME;
    text
}

fn plain(view: &View<'_>) -> String {
    let s = view.snapshot;
    let mut line = format!(
        "{} s: {} shops, {} variants, {} at risk, {} facts, {:.0} facts/s, lag {}, {} decisions",
        view.seconds, s.shops, s.variants, s.at_risk, s.facts, view.facts_per_second, s.lag, s.decisions
    );
    for h in &s.handlers {
        line += &format!(", {} {} done {} failed", h.name, h.done, h.failed);
    }
    line
}

fn columns(cells: &[(&str, String)]) -> String {
    cells
        .iter()
        .map(|(name, value)| {
            let cell = format!("{name} {value}");
            let pad = 24usize.saturating_sub(measure_text_width(&cell)).max(2);
            cell + &" ".repeat(pad)
        })
        .collect::<String>()
        .trim_end()
        .to_owned()
}

/// 1234567 as 1,234,567.
fn group(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(d);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let recent = (0..20).map(|i| RecentDecision {
            at: format!("12:00:{i:02}"),
            shop: "alpine-goods-0001.myshopify.com".into(),
            title: "Bottle, Green".into(),
            quantity: (i % 2 == 0).then_some(48),
            reason: "10 available at location 82000000100, at or below the threshold of 10".into(),
        });
        Snapshot {
            shops: 20,
            variants: 2_000,
            facts: 1_234_567,
            recent: recent.collect(),
            handlers: vec![HandlerResults { name: "mail".into(), done: 12, received: Some(12), ..HandlerResults::default() }],
            links: vec![("API".into(), "http://127.0.0.1:8080".into())],
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_frame_fits_the_terminal_whatever_its_size() {
        let s = snapshot();
        let view = View { snapshot: &s, facts_per_second: 12.4, seconds: 75 };
        for (width, height) in [(200, 60), (80, 24), (40, 12), (20, 3), (1, 1), (0, 0)] {
            let lines = render(&view, width, height);
            assert!(lines.len() < height.max(2), "{} lines in {height}", lines.len());
            assert!(lines.iter().all(|l| measure_text_width(l) <= width), "{width}: {lines:#?}");
        }
        let text = render(&view, 200, 60).join("\n");
        for part in ["01:15", "facts/s 12", "1,234,567", "order 48", "warning", "12 received there", "http://127.0.0.1:8080"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn the_next_frame_is_drawn_over_the_last_one() {
        let lines = ["a".to_owned(), "b".to_owned()];
        assert!(!frame(&lines, 0).contains('A'));
        let again = frame(&lines, 7);
        assert!(again.contains("\x1b[7A\r") && again.ends_with("\x1b[J\x1b[?2026l") && again.contains("a\x1b[K\nb\x1b[K\n"));
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut rate = Rate::default();
        assert_eq!(rate.of(100, Duration::ZERO), 0.0);
        for s in 1..=10 {
            rate.of(100 + s * 50, Duration::from_secs(s));
        }
        assert_eq!(rate.of(5_600, Duration::from_secs(11)), (5_600.0 - 500.0) / 3.0);
    }

    struct Fixed;

    impl DemoStats for Fixed {
        fn snapshot(&self) -> Snapshot {
            Snapshot { facts: 7, ..snapshot() }
        }
    }

    #[tokio::test]
    async fn a_stop_ends_it_with_the_last_numbers() {
        let (stop, stopped) = watch::channel(false);
        stop.send(true).expect("a receiver");
        let ended = run(&Fixed, stopped).await.expect("drawn");
        assert_eq!(ended.last.facts, 7);
        assert!(summary(&ended).contains("7 facts of 20 shops") && summary(&ended).contains("mail: 12 done"));
    }
}
