//! `stockwarden simulate`: load as many shops would make it, to HTTP or straight to the log, open loop.

use std::fs::File;
use std::io::{BufWriter, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::events::time;
use crate::ports::EventLog;
use crate::sim::sinks::{Counters, HttpSink, Pace, Report, to_log};
use crate::sim::{Delivery, Faults, Profile, RecordHeaders, Settings, Simulation, webhook_secret};

/// Unanswered requests at a time, unless told otherwise.
const IN_FLIGHT: usize = 512;

#[derive(Debug, Clone, clap::Args)]
pub struct SimulateArgs {
    /// Where to: a base URL (signed webhooks), or "log" (straight to the log of --config)
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub to: String,
    #[arg(long, default_value_t = 20)]
    pub shops: usize,
    /// Over all shops
    #[arg(long, default_value_t = 2_000)]
    pub variants: usize,
    /// Of each shop
    #[arg(long, default_value_t = 2)]
    pub locations: usize,
    /// Facts a second where the profile's factor is 1
    #[arg(long, default_value_t = 100.0)]
    pub rate: f64,
    /// Ends after so many facts, the catalogue not counted
    #[arg(long, default_value_t = 100_000)]
    pub facts: u64,
    /// Ends after so long: 90s, 5m, 2h
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    pub duration: Duration,
    /// flat, diurnal or black-friday
    #[arg(long, default_value = "flat")]
    pub profile: Profile,
    /// Simulated seconds a second: 3600 shows a day in 24 s; the rate stays what --rate says
    #[arg(long, default_value_t = 1.0)]
    pub speedup: f64,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Simulated time of the first fact, RFC 3339; default: so that the run ends now. With it, runs are the same byte for byte
    #[arg(long, value_parser = parse_start)]
    pub start: Option<i64>,
    /// Share of deliveries that come twice
    #[arg(long)]
    pub duplicates: Option<f64>,
    /// Share of deliveries that come after newer ones
    #[arg(long)]
    pub late: Option<f64>,
    /// Share of deliveries that never come
    #[arg(long)]
    pub lost: Option<f64>,
    /// Skip products and first levels: the target knows them from an earlier run with this seed
    #[arg(long)]
    pub no_catalogue: bool,
    /// As fast as the target takes it, without a schedule
    #[arg(long)]
    pub unpaced: bool,
    /// With --to log: records without headers, as someone else's producer writes them
    #[arg(long)]
    pub foreign: bool,
    /// Unanswered requests at a time; what is due beyond it is skipped and counted
    #[arg(long, default_value_t = IN_FLIGHT)]
    pub in_flight: usize,
    /// Environment variable with the webhook secret of all shops; default: a secret for each, derived from --seed
    #[arg(long, value_name = "NAME")]
    pub secret_env: Option<String>,
    /// Write the hidden truth, the latent demand included, to this file as JSON lines
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// Print the shops with their webhook secrets as JSON lines, and send nothing
    #[arg(long)]
    pub print_shops: bool,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(format!("\"{text}\" is not a duration; examples are 90s, 5m, 2h")),
    };
    let seconds = number.parse::<f64>().map_err(|_| format!("\"{text}\" is not a duration; examples are 90s, 5m, 2h"))? * factor;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|d| !d.is_zero() && d.as_secs() <= 31_536_000)
        .ok_or_else(|| format!("{text} is not between nothing and a year"))
}

fn parse_start(text: &str) -> Result<i64, String> {
    time::parse_millis(text).ok_or_else(|| format!("\"{text}\" is not an RFC 3339 time; an example is 2025-11-28T00:00:00Z"))
}

impl SimulateArgs {
    /// `now` in Unix milliseconds.
    fn settings(&self, now: i64) -> anyhow::Result<(Settings, Pace)> {
        if !(self.speedup.is_finite() && self.speedup > 0.0) {
            bail!("--speedup is {}; it must be above 0", self.speedup);
        }
        let rate = self.rate / self.speedup;
        let by_time = self.duration.as_secs_f64() * self.speedup;
        let by_count = self.facts as f64 / rate.max(f64::MIN_POSITIVE);
        let span_s = if self.unpaced { by_count } else { by_count.min(by_time) };
        let d = Faults::default();
        let settings = Settings {
            seed: self.seed,
            shops: self.shops,
            variants: self.variants,
            locations_per_shop: self.locations,
            rate,
            profile: self.profile,
            // What is dated ahead of its arrival is not believed (DESIGN §10), so the run ends now.
            start_time: self.start.unwrap_or(now - (span_s.min(1e9) * 1000.0) as i64),
            lead_time: None,
            faults: Faults {
                duplicates: self.duplicates.unwrap_or(d.duplicates),
                late: self.late.unwrap_or(d.late),
                lost: self.lost.unwrap_or(d.lost),
                ..d
            },
            catalogue: !self.no_catalogue,
            facts: Some(self.facts),
            duration: (!self.unpaced).then(|| Duration::from_secs_f64(by_time.min(1e9))),
        };
        settings.check()?;
        let pace =
            Pace { speedup: (!self.unpaced).then_some(self.speedup), at_most: Some(self.duration + Duration::from_secs(5)) };
        Ok((settings, pace))
    }
}

/// Runs it; `open_log` is called for `--to log` only. Prints the summary and what to do next; whether all was accepted.
pub async fn run(
    args: SimulateArgs,
    json: bool,
    open_log: impl AsyncFnOnce() -> anyhow::Result<Arc<dyn EventLog>>,
) -> anyhow::Result<bool> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let (settings, pace) = args.settings(i64::try_from(now).unwrap_or(i64::MAX))?;
    let mut simulation = Simulation::new(settings)?;
    if args.print_shops {
        print_shops(&simulation, args.seed)?;
        return Ok(true);
    }
    let virtual_start = simulation.settings().start_time * 1_000_000;
    let truth = match &args.truth {
        Some(path) => {
            simulation.keep_truth();
            Some(BufWriter::new(File::create(path).with_context(|| format!("cannot write the truth to {}", path.display()))?))
        }
        None => None,
    };
    let catalogue = simulation.catalogue_size();
    let mut source = Source { simulation, truth, failed: None };

    let (stop, stopped) = watch::channel(false);
    let interrupt = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            let _ = stop.send(true);
        }
        // Keeps the sender, so that waiting for a stop that never comes is waiting.
        std::future::pending::<()>().await;
    });
    let counters = Arc::new(Counters::default());
    let progress = tokio::spawn(show_progress(counters.clone(), catalogue, args.facts));

    let report = if args.to == "log" {
        let log = open_log().await?;
        let headers = if args.foreign { RecordHeaders::None } else { RecordHeaders::Ours };
        to_log(&*log, headers, &mut source, virtual_start, pace, &counters, stopped).await?
    } else {
        let secret = match &args.secret_env {
            Some(name) => Some(std::env::var(name).with_context(|| format!("--secret-env names {name}, which is not set"))?),
            None => None,
        };
        let seed = args.seed;
        let secret_of = move |shop: &str| secret.clone().unwrap_or_else(|| webhook_secret(seed, shop));
        let sink = Arc::new(HttpSink::new(&args.to, secret_of, args.in_flight)?);
        sink.run(&mut source, virtual_start, pace, counters.clone(), stopped).await
    };
    progress.abort();
    interrupt.abort();
    source.finish()?;
    summarise(&args, json, &report)?;
    Ok(report.is_clean())
}

/// The simulation, with its truth written beside.
struct Source {
    simulation: Simulation,
    truth: Option<BufWriter<File>>,
    failed: Option<std::io::Error>,
}

impl Iterator for Source {
    type Item = Delivery;

    fn next(&mut self) -> Option<Delivery> {
        let next = self.simulation.next();
        if self.truth.is_some() && self.failed.is_none() {
            self.failed = self.write_truth().err();
        }
        next
    }
}

impl Source {
    fn write_truth(&mut self) -> std::io::Result<()> {
        if let Some(out) = &mut self.truth {
            for row in self.simulation.take_truth() {
                serde_json::to_writer(&mut *out, &row)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<()> {
        let flushed = self.truth.as_mut().map_or(Ok(()), |out| out.flush());
        self.failed.map_or(flushed, Err).context("cannot write the truth")
    }
}

fn print_shops(simulation: &Simulation, seed: u64) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for shop in simulation.shops() {
        let line = serde_json::json!({ "shop": &**shop, "webhook_secret": webhook_secret(seed, shop) });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// A bar on a terminal, a line every five seconds elsewhere; on stderr, so that the summary can be piped.
async fn show_progress(counters: Arc<Counters>, catalogue: u64, facts: u64) {
    let terminal = std::io::stderr().is_terminal();
    let bar = if terminal { ProgressBar::new(catalogue + facts) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} facts  {per_sec}  {msg}") {
        bar.set_style(style);
    }
    let mut timer = tokio::time::interval(if terminal { Duration::from_millis(200) } else { Duration::from_secs(5) });
    timer.tick().await;
    loop {
        timer.tick().await;
        let n = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed);
        let (products, live, accepted, refused) =
            (n(&counters.catalogue), n(&counters.live), n(&counters.accepted), n(&counters.refused));
        bar.set_position(products + live);
        bar.set_message(format!("{accepted} accepted, {refused} refused"));
        if !terminal {
            eprintln!("catalogue {products} of {catalogue}, facts {live} of {facts}, {accepted} accepted, {refused} refused");
        }
    }
}

fn summarise(args: &SimulateArgs, json: bool, report: &Report) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
        return Ok(());
    }
    let r = report;
    writeln!(out, "sent to      {}", r.target)?;
    writeln!(out, "catalogue    {} products and levels", r.catalogue)?;
    writeln!(out, "facts        {} in {:.1} s, {} a second", r.live, r.seconds, r.facts_per_second)?;
    writeln!(out, "accepted     {} of {}", r.accepted, r.catalogue + r.live)?;
    if !r.answers.is_empty() {
        let answers: Vec<String> = r.answers.iter().map(|(a, n)| format!("{a}: {n}")).collect();
        writeln!(out, "answers      {}", answers.join("  "))?;
    }
    writeln!(out, "answer time  p50 {} ms, p99 {} ms, max {} ms", r.latency.p50_ms, r.latency.p99_ms, r.latency.max_ms)?;
    writeln!(out, "sent late    p50 {} ms, p99 {} ms, max {} ms", r.lateness.p50_ms, r.lateness.p99_ms, r.lateness.max_ms)?;
    if let Some(why) = &r.stopped {
        writeln!(out, "stopped      {why}")?;
    }
    for line in r.advice() {
        writeln!(out, "\n{line}")?;
    }
    if r.is_clean() && args.to != "log" {
        writeln!(out, "\nNext: GET /v1/shops, or /v1/reorders, shows what came of it.")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn args(line: &str) -> Result<SimulateArgs, clap::Error> {
        Cli::try_parse_from(std::iter::once("simulate").chain(line.split_whitespace())).map(|c| c.args)
    }

    #[test]
    fn the_rate_is_that_of_the_wall_and_the_run_ends_now() {
        let now = 1_800_000_000_000;
        let (settings, pace) = args("--rate 500 --speedup 10 --duration 2m").expect("valid").settings(now).expect("good");
        assert_eq!((settings.rate, settings.duration), (50.0, Some(Duration::from_secs(1200))));
        assert_eq!(settings.start_time, now - 1_200_000);
        assert_eq!(pace.speedup, Some(10.0));
        let (settings, pace) =
            args("--rate 500 --facts 1000 --unpaced --start 2025-11-28T00:00:00Z").expect("valid").settings(now).expect("good");
        assert_eq!((settings.start_time, settings.duration, pace.speedup), (1_764_288_000_000, None, None));
    }

    #[test]
    fn wrong_usage_is_told_with_an_example() {
        for (line, hint) in [("--duration soon", "90s"), ("--start yesterday", "2025-11-28"), ("--profile xmas", "black-friday")]
        {
            let told = args(line).expect_err(line).to_string();
            assert!(told.contains(hint), "{told}");
        }
        assert!(args("--rate 0").expect("parses").settings(0).expect_err("no rate").to_string().contains("rate is 0"));
    }
}
