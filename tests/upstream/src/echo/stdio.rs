//! The server that repeats, over stdin and stdout.

use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Echo, QUEUE};

/// Serves until stdin ends.
///
/// # Errors
/// When a stream or the journal breaks.
pub(crate) async fn serve(echo: Arc<Echo>) -> anyhow::Result<()> {
    let (out, said) = mpsc::channel(QUEUE);
    tokio::select! {
        end = read(&echo, out) => end,
        end = write(said) => end,
    }
}

async fn read(echo: &Arc<Echo>, out: mpsc::Sender<String>) -> anyhow::Result<()> {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut tasks = JoinSet::new();
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line).await? > 0 {
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        echo.note(&line)?;
        let text = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
        let (echo, out) = (echo.clone(), out.clone());
        // A task of its own: it may wait for what comes later.
        tasks.spawn(async move { echo.run(echo.plan(&text), &out).await });
        while tasks.try_join_next().is_some() {}
    }
    Ok(())
}

async fn write(mut said: mpsc::Receiver<String>) -> anyhow::Result<()> {
    let mut output = tokio::io::stdout();
    while let Some(text) = said.recv().await {
        // A raw line break is white space between tokens, and a line cannot carry it.
        let text = text.replace('\n', " ");
        let text = text.replace('\r', " ");
        output.write_all(format!("{text}\n").as_bytes()).await?;
        output.flush().await?;
    }
    Ok(())
}
