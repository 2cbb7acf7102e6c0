//! `talaria.v1.EventChunk` as it travels: encoded once, decoded where its events are needed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{DecodeContext, WireType, encode_key, encode_varint};
use prost::{DecodeError, Message};

use crate::v1::Event;

/// Events that follow each other without gaps, in protobuf encoding.
///
/// On the wire this is the message `EventChunk { repeated Event events = 1; }` of the contract. In memory it stays
/// encoded: the writer encodes it once, and the log, the live feed and every subscriber share the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventChunk {
    encoded: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Decoded {
    #[prost(message, repeated, tag = "1")]
    events: Vec<Event>,
}

impl EventChunk {
    /// Encodes `events`.
    pub fn of(events: &[Event]) -> Self {
        // As large as it gets: a chunk stays in memory for a while.
        let length = |event| prost::encoding::message::encoded_len(1, event);
        let mut encoded = BytesMut::with_capacity(events.iter().map(length).sum());
        for event in events {
            prost::encoding::message::encode(1, event, &mut encoded);
        }
        Self {
            encoded: encoded.freeze(),
        }
    }

    /// Takes bytes that are an encoded chunk.
    pub fn from_encoded(encoded: Bytes) -> Self {
        Self { encoded }
    }

    /// The encoded chunk.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// Decodes the events.
    pub fn events(&self) -> Result<Vec<Event>, DecodeError> {
        Ok(Decoded::decode(self.encoded.clone())?.events)
    }
}

impl Message for EventChunk {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.encoded);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != 1 {
            return prost::encoding::skip_field(wire_type, tag, buf, ctx);
        }
        let mut event = Bytes::new();
        prost::encoding::bytes::merge(wire_type, &mut event, buf, ctx)?;
        let mut encoded = BytesMut::from(std::mem::take(&mut self.encoded));
        encode_key(1, WireType::LengthDelimited, &mut encoded);
        encode_varint(event.len() as u64, &mut encoded);
        encoded.extend_from_slice(&event);
        self.encoded = encoded.freeze();
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.encoded.len()
    }

    fn clear(&mut self) {
        self.encoded = Bytes::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{PartDelta, SubscribeRunResponse, event::Kind};

    fn delta(sequence_number: u64) -> Event {
        let delta = PartDelta {
            delta: format!("word {sequence_number}"),
            ..Default::default()
        };
        Event {
            sequence_number,
            kind: Some(Kind::OutputTextDelta(delta)),
            at_ms: sequence_number * 20,
            note: None,
        }
    }

    #[test]
    fn a_chunk_keeps_its_events_across_the_wire() {
        let events = vec![delta(0), delta(1), delta(2)];
        let sent = SubscribeRunResponse {
            events: Some(EventChunk::of(&events)),
        };

        let received = SubscribeRunResponse::decode(sent.encode_to_vec().as_slice()).unwrap();

        assert_eq!(received, sent);
        assert_eq!(received.events.unwrap().events().unwrap(), events);
    }
}
