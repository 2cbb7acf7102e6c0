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
                if !self.has_events {
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
