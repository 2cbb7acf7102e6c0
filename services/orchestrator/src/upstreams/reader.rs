//! From the bytes of an answer, in whatever form it comes, to what the model said.

use talaria_domain::model::ModelEvent;
use talaria_proto::v1::Usage;

use super::responses::tracking::Tracking;
use super::sse::{Decoder, Frame};
use super::{CallError, chat_completions, responses};

/// The largest answer that is taken as one JSON document.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// Reads one answer.
#[derive(Debug)]
pub struct Reader {
    form: Form,
    parser: Parser,
    /// Something came that is an event.
    has_events: bool,
    finished: bool,
}

/// How the answer is written. Its first byte tells, its content type does not always.
#[derive(Debug)]
enum Form {
    Unknown,
    Events(Decoder),
    Whole(Vec<u8>),
}

#[derive(Debug)]
enum Parser {
    Responses(responses::parser::Parser),
    ChatCompletions {
        parser: chat_completions::parser::Parser,
        turn: usize,
    },
}

impl Reader {
    /// With `tracking`, of a response that the upstream keeps.
    pub fn responses(tracking: Option<Tracking>) -> Self {
        Self::of(Parser::Responses(responses::parser::Parser::new(tracking)))
    }

    /// `turn` as in [`chat_completions::parser::Parser::new`].
    pub fn chat_completions(turn: usize) -> Self {
        let parser = chat_completions::parser::Parser::new(turn);
        Self::of(Parser::ChatCompletions { parser, turn })
    }

    fn of(parser: Parser) -> Self {
        Self {
            form: Form::Unknown,
            parser,
            has_events: false,
            finished: false,
        }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<ModelEvent>) -> Result<(), CallError> {
        let mut bytes = bytes;
        if let Form::Unknown = self.form {
            bytes = bytes.trim_ascii_start();
            self.form = match bytes.first() {
                None => return Ok(()),
                // A response that goes on is no answer.
                Some(b'{') if self.parser.goes_on() => return Err(CallError::lost()),
                Some(b'{') => Form::Whole(Vec::new()),
                Some(b'<') => {
                    return Err(CallError::protocol(
                        "The upstream answered with a web page.",
                    ));
                }
                Some(_) => Form::Events(Decoder::default()),
            };
        }
        match &mut self.form {
            Form::Unknown => {}
            Form::Events(decoder) => {
                decoder.push(bytes, |frame| {
                    self.has_events = true;
                    self.parser.push(&frame, events);
                })?;
            }
            Form::Whole(body) if body.len() + bytes.len() > MAX_BODY_BYTES => {
                return Err(CallError::protocol("The upstream's answer is too long."));
            }
            Form::Whole(body) => body.extend_from_slice(bytes),
        }
        self.finished = self.parser.is_finished();
        Ok(())
    }

    /// Takes the end of the answer.
    pub fn finish(&mut self, events: &mut Vec<ModelEvent>) -> Result<(), CallError> {
        match std::mem::replace(&mut self.form, Form::Unknown) {
            Form::Unknown => {}
            Form::Events(mut decoder) => {
                decoder.finish(|frame| {
                    self.has_events = true;
                    self.parser.push(&frame, events);
                });
                // Of one that was begun before, nothing may be left.
                if !self.has_events && !self.parser.goes_on() {
                    self.finished = true;
                    return Err(CallError::protocol(
                        "The upstream's answer is no event stream.",
                    ));
                }
                self.parser.finish(events);
            }
            Form::Whole(body) => {
                let said = self.parser.parse_body(&String::from_utf8_lossy(&body));
                let Some(said) = said else {
                    return Err(CallError::protocol("The upstream's answer is no JSON."));
                };
                events.extend(said);
            }
        }
        self.finished = true;
        Ok(())
    }

    /// Whether the model is done, though the stream may go on.
    pub fn is_ending(&self) -> bool {
        match &self.parser {
            Parser::Responses(parser) => parser.is_finished(),
            Parser::ChatCompletions { parser, .. } => parser.is_ending(),
        }
    }

    /// What was said to be used so far, if the answer broke off before its end.
    pub fn take_usage(&mut self) -> Option<Usage> {
        match &mut self.parser {
            Parser::Responses(parser) => parser.take_usage(),
            Parser::ChatCompletions { parser, .. } => parser.take_usage(),
        }
    }

    /// Whether nothing more will be said.
    pub fn is_finished(&self) -> bool {
        self.finished
    }
}

impl Parser {
    /// Whether the stream is one that was begun before.
    fn goes_on(&self) -> bool {
        match self {
            Self::Responses(parser) => parser.goes_on(),
            Self::ChatCompletions { .. } => false,
        }
    }

    fn push(&mut self, frame: &Frame<'_>, events: &mut Vec<ModelEvent>) {
        match self {
            Self::Responses(parser) => parser.push(frame, events),
            Self::ChatCompletions { parser, .. } => parser.push(frame, events),
        }
    }

    fn finish(&mut self, events: &mut Vec<ModelEvent>) {
        match self {
            Self::Responses(_) => {}
            Self::ChatCompletions { parser, .. } => parser.finish(events),
        }
    }

    fn is_finished(&self) -> bool {
        match self {
            Self::Responses(parser) => parser.is_finished(),
            Self::ChatCompletions { parser, .. } => parser.is_finished(),
        }
    }

    fn parse_body(&self, json: &str) -> Option<Vec<ModelEvent>> {
        match self {
            Self::Responses(_) => responses::body::parse(json),
            Self::ChatCompletions { turn, .. } => chat_completions::parser::parse_body(json, *turn),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::CallErrorKind;
    use super::*;

    fn readers() -> [Reader; 3] {
        [
            Reader::responses(None),
            Reader::responses(Some(Tracking::of_new("up"))),
            Reader::chat_completions(1),
        ]
    }

    /// What is said, and the message of the error in which it ends.
    fn read<'a>(
        mut reader: Reader,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<ModelEvent>, Option<String>) {
        let mut events = Vec::new();
        for piece in pieces {
            if reader.is_finished() {
                return (events, None);
            }
            if let Err(error) = reader.push(piece, &mut events) {
                return (events, Some(error.to_string()));
            }
        }
        if reader.is_finished() {
            return (events, None);
        }
        let end = reader.finish(&mut events);
        (events, end.err().map(|error| error.to_string()))
    }

    /// Bytes as upstreams send them, and as they should not.
    fn any_answer() -> impl Strategy<Value = Vec<u8>> {
        let pieces: [&[u8]; 22] = [
            b"data: ",
            b"\n\n",
            b"\r\n\r\n",
            b"event: error\n",
            b": ping\n",
            b"{\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"output_index\":0,\"delta\":\"a\"}",
            b"{\"type\":\"response.output_text.delta\",\"item_id\":\"m\",\"delta\":\"\\ud83d\"}",
            b"{\"type\":\"response.output_item.done\",\"output_index\":0,\"item\":{\"type\":\"message\",\"content\":[{}]}}",
            b"{\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_1\",\"usage\":{}}}",
            b"{\"type\":\"response.completed\",\"response\":{\"output\":[{\"type\":\"message\"}]}}",
            b"{\"type\":\"error\",\"message\":\"No.\"}",
            b"{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}",
            b"{\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":3,\"function\":{\"arguments\":\"{}\"}}]}}]}",
            b"{\"choices\":[{\"delta\":{\"reasoning_details\":[{\"type\":\"reasoning.encrypted\"}]}}]}",
            b"{\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}],\"usage\":{\"prompt_tokens\":-1}}",
            b"{\"error\":{\"message\":\"No.\"}}",
            b"[DONE]",
            b"null",
            b"{",
            b"\"",
            b"\0",
            b"\xF0\x9F",
        ];
        let piece = prop::sample::select(pieces.to_vec());
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_alike_however_they_are_cut(
            bytes in prop_oneof![any_answer(), prop::collection::vec(any::<u8>(), 0..200)],
            length in 1..40_usize,
        ) {
            for ((whole, cut), single) in readers().into_iter().zip(readers()).zip(readers()) {
                let expected = read(whole, [bytes.as_slice()]);
                prop_assert_eq!(&read(cut, bytes.chunks(length)), &expected);
                prop_assert_eq!(&read(single, bytes.chunks(1)), &expected);
                let is_end = |event: &ModelEvent| matches!(event, ModelEvent::Finished { .. });
                let end = expected.0.iter().position(is_end);
                prop_assert!(end.is_none_or(|end| end + 1 == expected.0.len()));
            }
        }
    }

    #[test]
    fn a_line_without_end_and_a_document_without_end_are_not_kept() {
        const MIB: usize = 1024 * 1024;
        let piece = vec![b'x'; MIB];
        let table = [("data: ", 17), ("", 17), ("{\"a\":\"", 65)];
        for (beginning, most) in table {
            for mut reader in readers() {
                let mut events = Vec::new();
                reader.push(beginning.as_bytes(), &mut events).unwrap();
                let mut taken = 0;
                let error = loop {
                    taken += 1;
                    assert!(taken <= most, "{taken} MiB are kept");
                    if let Err(error) = reader.push(&piece, &mut events) {
                        break error;
                    }
                };
                assert_eq!(error.kind, CallErrorKind::Protocol);
                assert_eq!(events, []);
            }
        }
    }
}
