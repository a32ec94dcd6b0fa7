//! Measures a running router from outside: token interval at several numbers of streams, or requests/s.
//!
//! Meant for a router in front of `fake_shard`, whose steps take a known time:
//! `bench_router --address 127.0.0.1:3000 --step-ms 2.7 --streams 1,16,64`. Raw sockets, one thread, no
//! JSON parsing, so that the client costs little beside what it measures.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

#[derive(Debug, Clone, Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:3000")]
    address: String,
    /// Concurrent streams; one line of figures each.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    streams: Vec<usize>,
    /// Tokens of each stream.
    #[arg(long, default_value_t = 400)]
    tokens: usize,
    /// The shard's step, subtracted from the token interval.
    #[arg(long, default_value_t = 2.7)]
    step_ms: f64,
    /// Words of the prompt.
    #[arg(long, default_value_t = 30)]
    prompt_words: usize,
    /// Instead: this many requests for one token on each stream, one after the other.
    #[arg(long)]
    requests: Option<usize>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.tokens >= 8, "--tokens is {}, expected at least 8", args.tokens);
    for &n_streams in &args.streams {
        match args.requests {
            Some(n_requests) => measure_requests(&args, n_streams, n_requests).await?,
            None => measure_streams(&args, n_streams).await?,
        }
    }
    Ok(())
}

/// When one stream's events arrived.
struct Arrivals {
    sent: Instant,
    /// One for each token.
    tokens: Vec<Instant>,
}

async fn measure_streams(args: &Args, n_streams: usize) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    for i in 0..n_streams {
        let args = args.clone();
        tasks.spawn(async move { stream_one(&args, i).await });
    }
    let mut intervals = Vec::new();
    let mut first_tokens = Vec::new();
    let mut gaps = Vec::new();
    while let Some(arrivals) = tasks.join_next().await {
        let Arrivals { sent, tokens } = arrivals.context("a stream panicked")??;
        ensure!(
            tokens.len() == args.tokens,
            "a stream has {} tokens, expected {}",
            tokens.len(),
            args.tokens
        );
        let millis = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        first_tokens.push(millis(sent, tokens[0]));
        // While other streams are still being admitted, steps hold prompts: count from a quarter on.
        let steady = &tokens[args.tokens / 4..];
        intervals.push(millis(steady[0], steady[steady.len() - 1]) / (steady.len() - 1) as f64);
        gaps.extend(steady.windows(2).map(|pair| millis(pair[0], pair[1])));
    }
    gaps.sort_by(f64::total_cmp);
    let mean = intervals.iter().sum::<f64>() / intervals.len() as f64;
    let first = first_tokens.iter().sum::<f64>() / first_tokens.len() as f64;
    println!(
        "{n_streams:4} streams: token interval {mean:.3} ms, minus step {:+.3} ms, p99 gap {:.2} ms, first token {first:.2} ms",
        mean - args.step_ms,
        gaps[gaps.len() * 99 / 100],
    );
    Ok(())
}

async fn stream_one(args: &Args, index: usize) -> anyhow::Result<Arrivals> {
    let mut socket = connect(args).await?;
    let request = post("/generate_stream", &body(args, index, args.tokens), "close");
    let sent = Instant::now();
    socket.write_all(request.as_bytes()).await?;
    let mut tokens = Vec::with_capacity(args.tokens);
    let mut chunk = vec![0; 64 << 10];
    let mut last_byte = 0;
    let mut checked = false;
    loop {
        let n = socket.read(&mut chunk).await?;
        let now = Instant::now();
        if n == 0 {
            return Ok(Arrivals { sent, tokens });
        }
        if !checked {
            check_status(&chunk[..n])?;
            checked = true;
        }
        // Only an event's end holds two newlines in a row: JSON escapes them, HTTP puts \r before them.
        for &byte in &chunk[..n] {
            if byte == b'\n' && last_byte == b'\n' {
                tokens.push(now);
            }
            last_byte = byte;
        }
    }
}

async fn measure_requests(args: &Args, n_streams: usize, n_requests: usize) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for i in 0..n_streams {
        let args = args.clone();
        tasks.spawn(async move { request_in_turn(&args, i, n_requests).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a client panicked")??;
    }
    let elapsed = started.elapsed();
    let rate = (n_streams * n_requests) as f64 / elapsed.as_secs_f64();
    println!("{n_streams:4} clients: {rate:.0} requests/s over {:.1} s", elapsed.as_secs_f64());
    Ok(())
}

async fn request_in_turn(args: &Args, index: usize, n_requests: usize) -> anyhow::Result<()> {
    let mut socket = connect(args).await?;
    let request = post("/generate", &body(args, index, 1), "keep-alive");
    let mut reply = Vec::with_capacity(4096);
    for _ in 0..n_requests {
        socket.write_all(request.as_bytes()).await?;
        reply.clear();
        while !is_complete(&reply)? {
            ensure!(socket.read_buf(&mut reply).await? > 0, "the router closed the connection");
        }
        check_status(&reply)?;
    }
    Ok(())
}

/// True once `reply` holds the headers and as many bytes as they announce.
fn is_complete(reply: &[u8]) -> anyhow::Result<bool> {
    let Some(head_len) = reply.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(false) };
    let head = std::str::from_utf8(&reply[..head_len]).context("headers are not UTF-8")?;
    let header = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned);
    let length = head.lines().find_map(header).context("the reply has no content-length")?;
    Ok(reply.len() >= head_len + 4 + length.trim().parse::<usize>().context("content-length")?)
}

async fn connect(args: &Args) -> anyhow::Result<TcpStream> {
    let connecting = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(&args.address));
    let socket = connecting.await?.with_context(|| format!("cannot connect to {}", args.address))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

fn body(args: &Args, index: usize, max_new_tokens: usize) -> String {
    let words: Vec<String> = (0..args.prompt_words).map(|i| format!("word{}", (index + i) % 10)).collect();
    let prompt = words.join(" ");
    format!(r#"{{"inputs":"{prompt}","parameters":{{"max_new_tokens":{max_new_tokens}}}}}"#)
}

fn post(path: &str, body: &str, connection: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n\r\n{body}"
    )
}

fn check_status(reply: &[u8]) -> anyhow::Result<()> {
    ensure!(reply.starts_with(b"HTTP/1.1 200 "), "the router answered {}", String::from_utf8_lossy(reply));
    Ok(())
}
