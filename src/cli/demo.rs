//! `demo`: everything on this machine. What it does is in `app::demo`.

use std::path::PathBuf;

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "A second start goes on from the data of the first. Remove the folder of --data-dir to begin anew.")]
pub struct Args {
    /// Where its log and store live
    #[arg(long, default_value = "data/demo", value_name = "FOLDER")]
    pub data_dir: PathBuf,
    /// Where to serve HTTP; a free port if that one is taken
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    pub listen: String,
    /// Simulated shops
    #[arg(long, default_value_t = 12)]
    pub shops: usize,
    /// Their variants, over all shops
    #[arg(long, default_value_t = 600)]
    pub variants: usize,
    /// Webhooks a second
    #[arg(long, default_value_t = 150.0)]
    pub rate: f64,
    /// Ends by itself after so many seconds; default: at Ctrl-C
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u64>,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}
