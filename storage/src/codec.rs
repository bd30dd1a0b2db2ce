//! Compression codecs; decompression is bounded.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The compression of a payload. The names are pgBackRest's `compress-type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Not at all.
    None,
    /// LZ4's block format. There is one level: the encoder has no high-compression mode.
    Lz4,
    /// Zstandard, levels -7 to 22.
    #[default]
    Zst,
    /// gzip, levels 0 to 9.
    Gz,
    /// bzip2, levels 1 to 9.
    Bz2,
}

/// Why compressing or decompressing failed.
#[derive(Debug, Error)]
pub enum CodecError {
    /// The codec has no such level.
    #[error("{codec} has no compression level {level} ({lowest} to {highest} are possible)")]
    Level {
        /// The codec.
        codec: Codec,
        /// The level asked for.
        level: i32,
        /// The lowest level.
        lowest: i32,
        /// The highest level.
        highest: i32,
    },
    /// The compressor failed.
    #[error("compressing with {codec}: {source}")]
    Compress {
        /// The codec.
        codec: Codec,
        /// Its error.
        source: io::Error,
    },
    /// The codec cannot read the bytes, or they hold more than expected.
    #[error("decompressing {codec} to {plain_length} bytes: {source}")]
    Decompress {
        /// The codec.
        codec: Codec,
        /// The length that was expected.
        plain_length: usize,
        /// Its error.
        source: io::Error,
    },
    /// The bytes hold another length than expected.
    #[error("{codec} data holds {found} bytes where {expected} were expected")]
    Length {
        /// The codec.
        codec: Codec,
        /// The length that was expected.
        expected: usize,
        /// The length found, counted no further than one byte past the expected.
        found: usize,
    },
}

thread_local! {
    // A context costs more to set up than a small chunk to compress, so each thread keeps one and its level.
    static ZSTD_COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    static ZSTD_DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

impl Codec {
    /// All codecs.
    pub const ALL: [Self; 5] = [Self::None, Self::Lz4, Self::Zst, Self::Gz, Self::Bz2];

    /// The codec's number in an object's header.
    pub(crate) fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zst => 2,
            Self::Gz => 3,
            Self::Bz2 => 4,
        }
    }

    /// The codec with this number.
    pub(crate) fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.id() == id)
    }

    /// The level if none is configured: pgBackRest's defaults.
    #[must_use]
    pub fn default_level(self) -> i32 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zst => 3,
            Self::Gz => 6,
            Self::Bz2 => 9,
        }
    }

    /// Checks that the codec has this level.
    ///
    /// # Errors
    /// A level that it does not have.
    pub fn check_level(self, level: i32) -> Result<(), CodecError> {
        let (lowest, highest) = match self {
            Self::None => (0, 0),
            Self::Lz4 => (-5, 12),
            Self::Zst => (-7, 22),
            Self::Gz => (0, 9),
            Self::Bz2 => (1, 9),
        };
        if (lowest..=highest).contains(&level) {
            Ok(())
        } else {
            Err(CodecError::Level {
                codec: self,
                level,
                lowest,
                highest,
            })
        }
    }

    /// Compresses `plain` in one piece; `level: None` is the codec's default.
    ///
    /// # Errors
    /// A level that the codec does not have, or a failure of the compressor.
    pub fn compress(self, level: Option<i32>, plain: &[u8]) -> Result<Vec<u8>, CodecError> {
        let level = level.unwrap_or(self.default_level());
        self.check_level(level)?;
        match self {
            Self::None => Ok(plain.to_vec()),
            Self::Lz4 => compress_lz4(plain),
            Self::Zst => compress_zst(level, plain),
            Self::Gz => {
                let level = flate2::Compression::new(level.unsigned_abs());
                let mut encoder = flate2::write::GzEncoder::new(output_for(plain), level);
                encoder.write_all(plain).and_then(|()| encoder.finish())
            }
            .map_err(compress_error(self)),
            Self::Bz2 => {
                let level = bzip2::Compression::new(level.unsigned_abs());
                let mut encoder = bzip2::write::BzEncoder::new(output_for(plain), level);
                encoder.write_all(plain).and_then(|()| encoder.finish())
            }
            .map_err(compress_error(self)),
        }
    }

    /// Decompresses all of `stored` to exactly `plain_length` bytes.
    ///
    /// Never produces more than one byte past `plain_length`, even if `stored` claims to hold more, so a decompression
    /// bomb costs no more memory than an honest payload. The caller bounds `plain_length`.
    ///
    /// # Errors
    /// Bytes that the codec cannot read, that hold another length, or that are followed by other bytes.
    pub fn decompress(self, stored: &[u8], plain_length: usize) -> Result<Vec<u8>, CodecError> {
        let plain = match self {
            Self::None => stored.to_vec(),
            Self::Lz4 => decompress_lz4(stored, plain_length)?,
            Self::Zst => decompress_zst(stored, plain_length)?,
            Self::Gz => {
                let mut decoder = flate2::bufread::GzDecoder::new(stored);
                let plain = self.read_bounded(&mut decoder, plain_length)?;
                self.expect_end(decoder.into_inner(), plain_length)?;
                plain
            }
            Self::Bz2 => {
                let mut decoder = bzip2::bufread::BzDecoder::new(stored);
                let plain = self.read_bounded(&mut decoder, plain_length)?;
                self.expect_end(decoder.into_inner(), plain_length)?;
                plain
            }
        };
        if plain.len() == plain_length {
            Ok(plain)
        } else {
            Err(CodecError::Length {
                codec: self,
                expected: plain_length,
                found: plain.len(),
            })
        }
    }

    /// Reads to the end of a decoder, but no further than one byte past `plain_length`.
    fn read_bounded(self, decoder: &mut impl Read, plain_length: usize) -> Result<Vec<u8>, CodecError> {
        let mut plain = Vec::with_capacity(plain_length.saturating_add(1));
        decoder
            .take(plain_length as u64 + 1)
            .read_to_end(&mut plain)
            .map_err(decompress_error(self, plain_length))?;
        Ok(plain)
    }

    /// Refuses bytes that follow the compressed stream.
    fn expect_end(self, rest: &[u8], plain_length: usize) -> Result<(), CodecError> {
        if rest.is_empty() {
            Ok(())
        } else {
            Err(decompress_error(self, plain_length)(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} bytes follow the compressed data", rest.len()),
            )))
        }
    }
}

/// An output buffer of a size that most compressed data fits into.
fn output_for(plain: &[u8]) -> Vec<u8> {
    Vec::with_capacity(plain.len() / 2 + 64)
}

fn compress_lz4(plain: &[u8]) -> Result<Vec<u8>, CodecError> {
    let mut output = vec![0; lz4_flex::block::get_maximum_output_size(plain.len())];
    let length = lz4_flex::block::compress_into(plain, &mut output)
        .map_err(|error| compress_error(Codec::Lz4)(io::Error::other(error)))?;
    output.truncate(length);
    output.shrink_to_fit();
    Ok(output)
}

fn decompress_lz4(stored: &[u8], plain_length: usize) -> Result<Vec<u8>, CodecError> {
    let mut plain = vec![0; plain_length];
    let length = lz4_flex::block::decompress_into(stored, &mut plain).map_err(|error| {
        decompress_error(Codec::Lz4, plain_length)(io::Error::new(io::ErrorKind::InvalidData, error))
    })?;
    plain.truncate(length);
    Ok(plain)
}

fn compress_zst(level: i32, plain: &[u8]) -> Result<Vec<u8>, CodecError> {
    ZSTD_COMPRESSOR.with_borrow_mut(|slot| {
        let compress = |slot: &mut Option<(i32, zstd::bulk::Compressor<'static>)>| {
            let (current, compressor) = match slot {
                Some(kept) => kept,
                None => slot.insert((level, zstd::bulk::Compressor::new(level)?)),
            };
            if *current != level {
                compressor.set_compression_level(level)?;
                *current = level;
            }
            let mut output = Vec::with_capacity(zstd::zstd_safe::compress_bound(plain.len()));
            compressor.compress_to_buffer(plain, &mut output)?;
            output.shrink_to_fit();
            Ok(output)
        };
        compress(slot).map_err(compress_error(Codec::Zst))
    })
}

fn decompress_zst(stored: &[u8], plain_length: usize) -> Result<Vec<u8>, CodecError> {
    ZSTD_DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompress = |slot: &mut Option<zstd::bulk::Decompressor<'static>>| {
            let decompressor = match slot {
                Some(kept) => kept,
                None => slot.insert(zstd::bulk::Decompressor::new()?),
            };
            // The capacity bounds the output: zstd fails where the data holds more.
            let mut plain = Vec::with_capacity(plain_length);
            decompressor.decompress_to_buffer(stored, &mut plain)?;
            Ok(plain)
        };
        decompress(slot).map_err(decompress_error(Codec::Zst, plain_length))
    })
}

fn compress_error(codec: Codec) -> impl FnOnce(io::Error) -> CodecError {
    move |source| CodecError::Compress { codec, source }
}

fn decompress_error(codec: Codec, plain_length: usize) -> impl FnOnce(io::Error) -> CodecError {
    move |source| CodecError::Decompress {
        codec,
        plain_length,
        source,
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zst => "zst",
            Self::Gz => "gz",
            Self::Bz2 => "bz2",
        })
    }
}

/// A name that is no codec.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no such compression type: {text:?} (none, lz4, zst, gz and bz2 are known)")]
pub struct ParseCodecError {
    text: String,
}

impl FromStr for Codec {
    type Err = ParseCodecError;

    fn from_str(text: &str) -> Result<Self, ParseCodecError> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.to_string() == text)
            .ok_or_else(|| ParseCodecError { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_numbers_round_trip() {
        for codec in Codec::ALL {
            assert_eq!(codec.to_string().parse::<Codec>().unwrap(), codec);
            assert_eq!(Codec::from_id(codec.id()), Some(codec));
            codec.check_level(codec.default_level()).unwrap();
        }
        assert_eq!(Codec::from_id(5), None);
        assert!("zstd".parse::<Codec>().is_err());
    }

    #[test]
    fn levels_that_a_codec_has_not() {
        for (codec, level) in [(Codec::Zst, 23), (Codec::Gz, 10), (Codec::Bz2, 0), (Codec::Gz, -1)] {
            assert!(matches!(
                codec.compress(Some(level), b"x"),
                Err(CodecError::Level { .. })
            ));
        }
    }

    #[test]
    fn the_level_of_a_kept_context_changes() {
        let plain: Vec<u8> = (0..200_000_u32).flat_map(|n| (n / 7 * 31).to_le_bytes()).collect();
        let fast = Codec::Zst.compress(Some(-7), &plain).unwrap();
        let small = Codec::Zst.compress(Some(15), &plain).unwrap();
        assert!(small.len() < fast.len());
        assert_eq!(Codec::Zst.compress(Some(-7), &plain).unwrap(), fast);
    }

    #[test]
    fn a_decompression_bomb_is_refused() {
        let bomb = vec![0; 8 << 20];
        for codec in [Codec::Lz4, Codec::Zst, Codec::Gz, Codec::Bz2] {
            let stored = codec.compress(None, &bomb).unwrap();
            assert!(stored.len() < 64 << 10, "{codec}: {}", stored.len());
            let error = codec.decompress(&stored, 1000).unwrap_err();
            match error {
                CodecError::Decompress { .. } => {}
                CodecError::Length { found, .. } => assert!(found <= 1001, "{codec}: {found}"),
                other => panic!("{codec}: {other}"),
            }
        }
    }

    #[test]
    fn bytes_after_the_stream_are_refused() {
        for codec in [Codec::Lz4, Codec::Zst, Codec::Gz, Codec::Bz2] {
            let mut stored = codec.compress(None, b"some bytes some bytes").unwrap();
            stored.push(7);
            assert!(codec.decompress(&stored, 21).is_err(), "{codec}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(plain in prop::collection::vec(0_u8..4, 0..5000)) {
            for codec in Codec::ALL {
                let stored = codec.compress(None, &plain).unwrap();
                prop_assert_eq!(&codec.decompress(&stored, plain.len()).unwrap(), &plain);
                prop_assert!(codec.decompress(&stored, plain.len() + 1).is_err());
                if !plain.is_empty() {
                    prop_assert!(codec.decompress(&stored, plain.len() - 1).is_err());
                }
            }
        }

        #[test]
        fn any_bytes_are_answered(stored: Vec<u8>, plain_length in 0_usize..100_000) {
            for codec in Codec::ALL {
                if let Ok(plain) = codec.decompress(&stored, plain_length) {
                    prop_assert_eq!(plain.len(), plain_length);
                }
            }
        }
    }
}
