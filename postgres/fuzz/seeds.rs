//! Writes seeds for all targets. usage: seeds CORPUS SEGMENT..., consecutive segments of 1 MiB of one timeline.

use std::path::Path;
use std::{env, fs};

use pgmesh_postgres::wal::SegmentMap;
use pgmesh_postgres::{SegmentName, WalHeader};

/// `XLOG_BLCKSZ`.
const PAGE: usize = 8192;
/// The bytes of a stored map that the target for joins makes itself.
const NAMES: usize = 6;
/// Longer seeds make a fuzzer slow.
const LONGEST: usize = 32 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let corpus = arguments.next().ok_or("no corpus")?;
    let mut run = Vec::new();
    for (number, path) in arguments.enumerate() {
        let name: SegmentName = Path::new(&path)
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or("no name")?
            .parse()?;
        let bytes = fs::read(&path)?;
        let header = WalHeader::parse(&bytes)?;
        let chosen = u8::try_from(header.version().major() - 14)?;
        let write = |target: &str, what: usize, seed: &[u8]| {
            let folder = Path::new(&corpus).join(target);
            fs::create_dir_all(&folder)?;
            fs::write(
                folder.join(format!("{}-{number}-{what}", header.version())),
                &seed[..seed.len().min(LONGEST)],
            )
        };
        for (place, pages) in bytes.chunks(2 * PAGE).enumerate().step_by(5) {
            let mut seed = vec![chosen, 9];
            for (at, page) in pages.chunks(PAGE).enumerate() {
                let first = place == 0 && at == 0;
                seed.extend([page[2] & !2, 1, page[16], page[17], page[18], 0]);
                seed.extend(&page[if first { 40 } else { 24 }..PAGE - if at == 0 && !first { 16 } else { 0 }]);
            }
            write("segment", place, &seed)?;
        }
        let raw = [&[chosen | 0x80, 9], &bytes[..3 * PAGE]].concat();
        write("segment", bytes.len(), &raw)?;
        let stored = SegmentMap::of(name, header.segment_size, header.version(), &bytes).encode();
        write("map", 0, &stored)?;
        let part = &stored[NAMES..stored.len().min(u16::MAX.into())];
        run.extend(u16::try_from(part.len())?.to_le_bytes());
        run.extend(part);
        write("joiner", 0, &run)?;
        if number % 3 == 2 {
            run.clear();
        }
    }
    Ok(())
}
