//! The codec of the contract's services: prost, with buffers that fit one event.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Bytes that a call's buffer starts with. A stream holds two of them for as long as it is open, and most streams
/// carry one small event at a time.
const BUFFER_BYTES: usize = 1024;
/// Bytes of messages that are gathered before they are handed on.
const YIELD_BYTES: usize = 32 * 1024;

/// As [`ProstCodec`], but thrifty with streams that are open for long.
#[derive(Debug)]
pub struct ThriftyCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for ThriftyCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for ThriftyCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}
