//! Bulk throughput over loopback: bodies of 1 MiB in both directions, with the CPU time that both ends took together.
//!
//! `cargo run --release -p pgmesh-transport --example loopback -- [mebibytes] [streams] [key=value …]`; the keys are
//! `initial`, `mtu`, `stream`, `connection`, `send` (KiB), `gso` (0 or 1) and `socket` (KiB).
#![allow(
    clippy::disallowed_methods,
    reason = "a test or an example may spawn without a name and read the clock"
)]

use std::{
    env, fs, process,
    time::{Duration, Instant},
};

use bytes::Bytes;
use pgmesh_transport::{Client, MeshCa, MeshId, Role, Server, Tuning};

const BODY: usize = 1024 * 1024;

type AnyError = Box<dyn std::error::Error>;

fn main() -> Result<(), AnyError> {
    let mut numbers = Vec::new();
    let mut tuning = Tuning::default();
    for argument in env::args().skip(1) {
        match argument.split_once('=') {
            Some((key, value)) => set(&mut tuning, key, value.parse()?)?,
            None => numbers.push(argument.parse::<usize>()?),
        }
    }
    let mebibytes = numbers.first().copied().unwrap_or(1024);
    let streams = numbers.get(1).copied().unwrap_or(4);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(tuning, mebibytes, streams))
}

fn set(tuning: &mut Tuning, key: &str, value: u32) -> Result<(), AnyError> {
    match key {
        "initial" => tuning.initial_mtu = value.try_into()?,
        "mtu" => tuning.largest_mtu = value.try_into()?,
        "stream" => tuning.stream_window = value * 1024,
        "connection" => tuning.connection_window = value * 1024,
        "send" => tuning.send_window = u64::from(value) * 1024,
        "gso" => tuning.segmentation_offload = value != 0,
        "socket" => tuning.socket_buffer = usize::try_from(value)? * 1024,
        _ => return Err(format!("unknown key {key}").into()),
    }
    Ok(())
}

async fn run(tuning: Tuning, mebibytes: usize, streams: usize) -> Result<(), AnyError> {
    let ca = MeshCa::create(MeshId::random()?)?;
    let day = Duration::from_secs(86_400);
    let node = ca.issue(&Role::Node, &"node".parse()?, day)?;
    let admin = ca.issue(&Role::Admin, &"admin".parse()?, day)?;
    let server = Server::bind_with("127.0.0.1:0".parse()?, &node, tuning.clone())?;
    let address = server.local_address()?.to_string();
    tokio::spawn(serve(server));
    let client = Client::with(&admin, tuning)?;
    let connection = client.connect(&address).await?;
    let per_stream = mebibytes / streams;
    // The server sends as much: both directions are measured.
    for upload in [true, false] {
        let (start, before) = (Instant::now(), cpu_seconds());
        let mut tasks = Vec::new();
        for _ in 0..streams {
            let mut stream = connection.open().await?;
            tasks.push(tokio::spawn(async move {
                stream.send(&(upload, per_stream as u64)).await?;
                if upload {
                    let body = Bytes::from(vec![7; BODY]);
                    for _ in 0..per_stream {
                        stream.send_bytes(&body).await?;
                    }
                }
                stream.finish()?;
                if !upload {
                    for _ in 0..per_stream {
                        stream.recv_bytes(BODY as u64, BODY).await?;
                    }
                }
                stream.recv::<bool>(16).await
            }));
        }
        for task in tasks {
            task.await??;
        }
        let (wall, (user, system)) = (start.elapsed().as_secs_f64(), cpu_seconds());
        let gib = mebibytes as f64 / 1024.0;
        let statistics = connection.statistics();
        println!(
            "{}: {:.0} MiB/s; both ends, per GiB: user {:.2} s, system {:.2} s; mtu {}, lost {} of {}, rtt {:?}",
            if upload { "upload  " } else { "download" },
            mebibytes as f64 / wall,
            (user - before.0) / gib,
            (system - before.1) / gib,
            statistics.path.current_mtu,
            statistics.path.lost_packets,
            statistics.path.sent_packets,
            connection.rtt(),
        );
    }
    println!("resident at its highest: {}", peak_memory().unwrap_or_default());
    client.close(Duration::from_secs(1)).await;
    process::exit(0)
}

async fn serve(server: Server) {
    while let Some(incoming) = server.accept().await {
        let Ok(session) = incoming.establish().await else {
            continue;
        };
        while let Ok(mut stream) = session.accept_stream().await {
            tokio::spawn(async move {
                let (upload, bodies) = stream.recv::<(bool, u64)>(64).await?;
                let body = Bytes::from(vec![7; BODY]);
                for _ in 0..bodies {
                    if upload {
                        stream.recv_bytes(BODY as u64, BODY).await?;
                    } else {
                        stream.send_bytes(&body).await?;
                    }
                }
                stream.send(&true).await?;
                stream.finish()?;
                stream.delivered().await
            });
        }
    }
}

/// User and system time of this process; a tick is 10 ms on Linux.
fn cpu_seconds() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .filter_map(|f| f.parse().ok())
        .collect();
    // The state, a letter, is not among the numbers: utime is the 11th of them, stime the 12th.
    (
        fields.get(10).copied().unwrap_or_default() / 100.0,
        fields.get(11).copied().unwrap_or_default() / 100.0,
    )
}

fn peak_memory() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some(status.lines().find(|line| line.starts_with("VmHWM"))?.trim().to_owned())
}
