//! A folder of files in one file: how a checkpoint becomes a snapshot.
//!
//! ```text
//! magic "PGMSNAP1", u32 length of the header, header, u32 CRC-32C of the header
//! for each file: u16 length of its name (not 0), name, u64 length, content, u32 CRC-32C of the content
//! u16 zero, u32 number of files
//! ```
//! Numbers are little-endian. The header is the caller's.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

const MAGIC: &[u8; 8] = b"PGMSNAP1";
const BUFFER: usize = 256 << 10;
const HEADER_LIMIT: u32 = 1 << 20;

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a snapshot: {what}"))
}

/// Writes all files of `folder` (which has no subfolders) to `to`. Nothing is synced.
pub(super) fn pack(folder: &Path, header: &[u8], to: &File) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(BUFFER, to);
    writer.write_all(MAGIC)?;
    let length = u32::try_from(header.len()).map_err(|_| invalid("header too long"))?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(header)?;
    writer.write_all(&crc32c::crc32c(header).to_le_bytes())?;
    let mut names = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    for name in &names {
        let text = name.to_str().ok_or_else(|| invalid("a file name is not UTF-8"))?;
        pack_file(&folder.join(name), text, &mut writer)?;
    }
    writer.write_all(&0_u16.to_le_bytes())?;
    let count = u32::try_from(names.len()).map_err(|_| invalid("too many files"))?;
    writer.write_all(&count.to_le_bytes())?;
    writer.flush()
}

fn pack_file(path: &Path, name: &str, writer: &mut impl Write) -> io::Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let name_length = u16::try_from(name.len()).map_err(|_| invalid("a file name is too long"))?;
    writer.write_all(&name_length.to_le_bytes())?;
    writer.write_all(name.as_bytes())?;
    writer.write_all(&length.to_le_bytes())?;
    let crc = copy(&mut file, writer, length)?;
    writer.write_all(&crc.to_le_bytes())
}

/// Copies exactly `length` bytes and returns their CRC-32C.
fn copy(reader: &mut impl Read, writer: &mut impl Write, mut length: u64) -> io::Result<u32> {
    let mut buffer = vec![0; BUFFER];
    let mut crc = 0;
    while length > 0 {
        let part = usize::try_from(length).map_or(BUFFER, |length| length.min(BUFFER));
        let part = buffer.get_mut(..part).unwrap_or_default();
        reader.read_exact(part)?;
        crc = crc32c::crc32c_append(crc, part);
        writer.write_all(part)?;
        length -= part.len() as u64;
    }
    Ok(crc)
}

/// Reads the header of a packed file.
pub(super) fn read_header(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    if &array::<8>(reader)? != MAGIC {
        return Err(invalid("wrong magic"));
    }
    let length = u32::from_le_bytes(array(reader)?);
    if length > HEADER_LIMIT {
        return Err(invalid("header too long"));
    }
    let mut header = vec![0; length as usize];
    reader.read_exact(&mut header)?;
    if u32::from_le_bytes(array(reader)?) != crc32c::crc32c(&header) {
        return Err(invalid("damaged header"));
    }
    Ok(header)
}

/// Writes the files of a packed file into `folder`, which must be empty, synced, and returns the header. Anything that
/// is missing, too much or damaged is an error.
pub(super) fn unpack(from: &File, folder: &Path) -> io::Result<Vec<u8>> {
    let mut reader = BufReader::with_capacity(BUFFER, from);
    let header = read_header(&mut reader)?;
    let mut files = 0_u32;
    loop {
        let name_length = u16::from_le_bytes(array(&mut reader)?);
        if name_length == 0 {
            break;
        }
        unpack_file(&mut reader, name_length, folder)?;
        files += 1;
    }
    if u32::from_le_bytes(array(&mut reader)?) != files {
        return Err(invalid("wrong number of files"));
    }
    if reader.read(&mut [0])? != 0 {
        return Err(invalid("bytes after the end"));
    }
    File::open(folder)?.sync_all()?;
    Ok(header)
}

fn unpack_file(reader: &mut impl Read, name_length: u16, folder: &Path) -> io::Result<()> {
    let mut name = vec![0; usize::from(name_length)];
    reader.read_exact(&mut name)?;
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if !name.iter().all(is_plain) || name.first() == Some(&b'.') {
        return Err(invalid("a file name that no checkpoint has"));
    }
    let name = String::from_utf8(name).map_err(|_| invalid("a file name is not UTF-8"))?;
    let length = u64::from_le_bytes(array(reader)?);
    let mut file = File::create_new(folder.join(name))?;
    let crc = copy(reader, &mut file, length)?;
    if u32::from_le_bytes(array(reader)?) != crc {
        return Err(invalid("damaged content"));
    }
    file.sync_all()
}

fn array<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use super::*;

    fn packed(root: &Path) -> Vec<u8> {
        let folder = root.join("in");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("000001.sst"), vec![7; 1000]).unwrap();
        fs::write(folder.join("CURRENT"), b"x").unwrap();
        fs::write(folder.join("EMPTY"), b"").unwrap();
        let mut file = File::create_new(root.join("packed")).unwrap();
        pack(&folder, b"header", &file).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        fs::read(root.join("packed")).unwrap()
    }

    fn unpacked(root: &Path, bytes: &[u8], number: usize) -> io::Result<Vec<u8>> {
        let source = root.join(format!("source-{number}"));
        let folder = root.join(format!("out-{number}"));
        fs::write(&source, bytes).unwrap();
        fs::create_dir(&folder).unwrap();
        unpack(&File::open(source).unwrap(), &folder)
    }

    #[test]
    fn a_folder_comes_back() {
        let root = tempfile::tempdir().unwrap();
        let bytes = packed(root.path());
        assert_eq!(unpacked(root.path(), &bytes, 0).unwrap(), b"header");
        let out = root.path().join("out-0");
        assert_eq!(fs::read(out.join("000001.sst")).unwrap(), vec![7; 1000]);
        assert_eq!(fs::read(out.join("EMPTY")).unwrap(), b"");
        assert_eq!(fs::read_dir(out).unwrap().count(), 3);
    }

    #[test]
    fn every_damage_is_found() {
        let root = tempfile::tempdir().unwrap();
        let bytes = packed(root.path());
        let positions = (0..bytes.len()).filter(|at| !(150..1000).contains(at));
        for (number, at) in positions.enumerate() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let result = unpacked(root.path(), &damaged, 1 + number);
            // A file's name is not covered by a checksum; RocksDB misses the file then.
            let names_changed = result.is_ok()
                && fs::read_dir(root.path().join(format!("out-{}", 1 + number)))
                    .unwrap()
                    .any(|entry| {
                        let name = entry.unwrap().file_name();
                        !["000001.sst", "CURRENT", "EMPTY"].contains(&name.to_str().unwrap())
                    });
            assert!(result.is_err() || names_changed, "byte {at}");
        }
        for length in [0, 5, 40, bytes.len() - 1] {
            assert!(unpacked(root.path(), &bytes[..length], 10_000 + length).is_err());
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(unpacked(root.path(), &longer, 20_000).is_err());
    }
}
