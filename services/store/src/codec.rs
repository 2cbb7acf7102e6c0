//! How bodies are stored: a codec byte, then the bytes it describes.

use std::cell::RefCell;

use bytes::Bytes;

/// As it is.
const PLAIN: u8 = 0;
/// zstd.
const ZSTD: u8 = 1;

/// Bodies shorter than this gain nothing from compression.
const WORTHWHILE_BYTES: usize = 256;
/// The largest body that is unpacked: more than any request and answer together.
const LARGEST_BYTES: usize = 512 << 20;
const LEVEL: i32 = 1;

thread_local! {
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> =
        RefCell::new(zstd::bulk::Compressor::new(LEVEL).ok());
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        RefCell::new(zstd::bulk::Decompressor::new().ok());
}

/// Packs a body for storage.
pub fn pack(body: &[u8]) -> Vec<u8> {
    if body.len() >= WORTHWHILE_BYTES
        && let Some(packed) = compress(body)
        && packed.len() < body.len()
    {
        return packed;
    }
    let mut plain = Vec::with_capacity(body.len() + 1);
    plain.push(PLAIN);
    plain.extend_from_slice(body);
    plain
}

/// Unpacks a stored body; the error says what is wrong with it.
pub fn unpack(packed: &[u8]) -> Result<Bytes, String> {
    match packed.split_first() {
        Some((&PLAIN, body)) => Ok(Bytes::copy_from_slice(body)),
        Some((&ZSTD, body)) => decompress(body).map(Bytes::from),
        Some((codec, _)) => Err(format!("codec {codec} is unknown to this version")),
        None => Err("it is empty".to_owned()),
    }
}

fn compress(body: &[u8]) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|compressor| {
        let mut packed = vec![0; 1 + zstd::zstd_safe::compress_bound(body.len())];
        packed[0] = ZSTD;
        let length = compressor
            .as_mut()?
            .compress_to_buffer(body, &mut packed[1..])
            .ok()?;
        packed.truncate(1 + length);
        Some(packed)
    })
}

fn decompress(body: &[u8]) -> Result<Vec<u8>, String> {
    let length = zstd::zstd_safe::get_frame_content_size(body).ok().flatten();
    let length = length.and_then(|length| usize::try_from(length).ok());
    let length = length
        .filter(|length| *length <= LARGEST_BYTES)
        .ok_or("its size is not sane")?;
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        let decompressor = decompressor.as_mut().ok_or("zstd has no memory")?;
        decompressor
            .decompress(body, length)
            .map_err(|error| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bodies_come_back_as_they_were(word in proptest::collection::vec(any::<u8>(), 0..40), times in 1..200usize) {
            let body = word.repeat(times);
            prop_assert_eq!(unpack(&pack(&body)).unwrap(), body);
        }

        #[test]
        fn damaged_bodies_are_errors(packed in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = unpack(&packed);
        }
    }
}
