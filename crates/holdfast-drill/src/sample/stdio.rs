//! One client on stdin and stdout: a line is a message.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use super::Sample;
use super::duplex::Duplex;

/// Serves until the input ends, a fault ends the connection, or the output cannot be written.
///
/// # Errors
/// What reading or writing met.
pub(super) async fn serve(
    input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    sample: Arc<Sample>,
) -> io::Result<()> {
    let duplex = Duplex::open(&sample, "stdio", 1);
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    let mut position = 0;
    let result = loop {
        tokio::select! {
            // An unfinished line stays in `line` when the other branch wins.
            read = input.read_until(b'\n', &mut line) => match read {
                Ok(0) => break Ok(()),
                Ok(_) => {
                    let message = line.trim_ascii();
                    if !message.is_empty() {
                        duplex.receive(&Bytes::copy_from_slice(message));
                    }
                    line.clear();
                }
                Err(error) => break Err(error),
            },
            item = duplex.out.next(position) => match item {
                Some(item) => {
                    position = item.position;
                    let written = async {
                        output.write_all(item.text.as_bytes()).await?;
                        output.write_all(b"\n").await?;
                        output.flush().await
                    };
                    if let Err(error) = written.await {
                        break Err(error);
                    }
                }
                None => break Ok(()),
            },
        }
    };
    duplex.close();
    result
}
