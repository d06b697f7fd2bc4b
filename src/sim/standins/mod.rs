//! Local stand-ins for what handlers talk to: on loopback, on free ports, as much of each protocol as its client needs.
//! They check what they are sent, count it, and forget all but the last.

mod smtp;
mod target;

pub use smtp::{Mail, MailSink};
pub use target::{Received, TargetStandIn};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// A line without its end; `None` at the end of the stream. Longer lines than `limit` are an error.
pub(in crate::sim) async fn read_line<R: AsyncRead + Unpin>(
    stream: &mut BufReader<R>,
    limit: usize,
) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let part = stream.fill_buf().await?;
        if part.is_empty() {
            return Ok(None);
        }
        let (take, done) = match part.iter().position(|b| *b == b'\n') {
            Some(i) => (i + 1, true),
            None => (part.len(), false),
        };
        if line.len() + take > limit {
            return Err(std::io::Error::other(format!("a line is longer than {limit} bytes")));
        }
        line.extend_from_slice(&part[..take]);
        stream.consume(take);
        if done {
            while matches!(line.last(), Some(b'\n' | b'\r')) {
                line.pop();
            }
            return Ok(Some(line));
        }
    }
}
