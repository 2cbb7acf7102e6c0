//! A Hermes server's response store, as it would have written it.

use std::path::Path;

use rusqlite::{Connection, params};
use serde_json::{Value, json};

pub const SESSIONS: usize = 10;
pub const TURNS: usize = 10;

/// How conversations point to responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// `conversations(name, response_id)`.
    Released,
    /// `conversations(name, latest_completed_response_id, active_response_id)`.
    TwoPointers,
}

/// A response, and what must be seen of it after an import.
#[derive(Clone, Debug)]
pub struct Stored {
    pub id: String,
    /// What the import makes of its status.
    pub status: &'static str,
    pub session: String,
    /// The row's `data`.
    pub data: Value,
    /// Its output, without ids.
    pub output: Vec<Value>,
    /// All items up to its end, as a model must be shown them, without ids.
    pub context: Vec<Value>,
    /// The response that it continues.
    pub previous: Option<String>,
}

/// Ten sessions of ten turns each: 100 responses, one after the other.
pub fn hundred() -> Vec<Stored> {
    (0..SESSIONS).flat_map(session).collect()
}

/// The last completed response of a session.
pub fn last_of(stored: &[Stored], session: usize) -> &Stored {
    let of_session = &stored[session * TURNS..(session + 1) * TURNS];
    let mut completed = of_session.iter().filter(|one| one.status == "completed");
    completed.next_back().expect("some turns complete")
}

/// Writes the store; the conversation `chat n` continues session n from its last response.
pub fn write(path: &Path, schema: Schema, stored: &[Stored]) -> Connection {
    let database = Connection::open(path).unwrap();
    let pointers = match schema {
        Schema::Released => "response_id TEXT NOT NULL",
        Schema::TwoPointers => "latest_completed_response_id TEXT, active_response_id TEXT",
    };
    let tables = format!(
        "CREATE TABLE responses (response_id TEXT PRIMARY KEY, data TEXT NOT NULL, accessed_at REAL NOT NULL);
         CREATE TABLE conversations (name TEXT PRIMARY KEY, {pointers});"
    );
    database.execute_batch(&tables).unwrap();
    for (index, one) in stored.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "there are a hundred")]
        let accessed_at = 1_790_000_000.5 + index as f64;
        database
            .execute(
                "INSERT INTO responses VALUES (?, ?, ?)",
                params![one.id, as_python(&one.data), accessed_at],
            )
            .unwrap();
    }
    for session in 0..stored.len() / TURNS {
        let last = &stored[(session + 1) * TURNS - 1];
        let latest = &last_of(stored, session).id;
        let name = format!("chat {session}");
        match schema {
            Schema::Released => database.execute(
                "INSERT INTO conversations VALUES (?, ?)",
                params![name, last.id],
            ),
            Schema::TwoPointers => database.execute(
                "INSERT INTO conversations VALUES (?, ?, ?)",
                params![name, latest, (last.id != *latest).then_some(&last.id)],
            ),
        }
        .unwrap();
    }
    database
}

/// JSON as Python writes it: ASCII alone.
fn as_python(value: &Value) -> String {
    let escape = |c: char| {
        let mut units = [0; 2];
        let units = c.encode_utf16(&mut units);
        let escaped: Vec<String> = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
        escaped.concat()
    };
    let text = value.to_string();
    text.chars()
        .map(|c| {
            if c.is_ascii() {
                c.to_string()
            } else {
                escape(c)
            }
        })
        .collect()
}

/// One turn: the messages of its transcript, the items that they are, and the output that Hermes stores.
#[derive(Default)]
struct Turn {
    messages: Vec<Value>,
    input: Vec<Value>,
    output: Vec<Value>,
    stored_output: Vec<Value>,
    status: &'static str,
}

impl Turn {
    fn ask(&mut self, content: &Value, parts: &Value) {
        self.messages
            .push(json!({"role": "user", "content": content}));
        self.input
            .push(json!({"type": "message", "role": "user", "content": parts}));
    }

    fn answer(&mut self, text: &str) {
        self.messages.push(
            json!({"role": "assistant", "content": text, "reasoning": "hm", "finish_reason": "stop"}),
        );
        self.output.push(message(text));
        self.stored_output.push(stored_message(text));
    }

    /// A call and its result; a streamed turn stores long ones cut.
    fn call(&mut self, id: &str, arguments: &str, result: &str, streamed: bool) {
        let function = json!({"name": "read_file", "arguments": arguments});
        self.messages
            .push(json!({"role": "assistant", "content": "", "tool_calls": [
                {"id": id, "type": "function", "function": function}
            ]}));
        self.messages
            .push(json!({"role": "tool", "tool_call_id": id, "content": result}));
        let parts = |text: &str| {
            if streamed {
                json!([{"type": "input_text", "text": text}])
            } else {
                text.into()
            }
        };
        let call = |arguments: &str| json!({"type": "function_call", "name": "read_file", "arguments": arguments, "call_id": id});
        let output = |text: &str| json!({"type": "function_call_output", "call_id": id, "output": parts(text)});
        self.output
            .extend([call(arguments), output(result)].map(|mut item| {
                item["status"] = "completed".into();
                item
            }));
        let cut: String = if streamed {
            result.chars().take(500).collect()
        } else {
            result.into()
        };
        self.stored_output.extend([call(arguments), output(&cut)]);
    }
}

fn session(number: usize) -> Vec<Stored> {
    let mut stored: Vec<Stored> = Vec::new();
    let mut transcript: Vec<Value> = Vec::new();
    let mut context: Vec<Value> = Vec::new();
    let mut previous: Option<String> = None;
    for at in 0..TURNS {
        let turn = turn(number, at);
        let id = format!("resp_{:028x}", 0xabc_0000 + number * 256 + at);
        let session = format!("session {number}");
        let history = [&transcript[..], &turn.messages].concat();
        let items = [&context[..], &turn.input, &turn.output].concat();
        let mut response = json!({
            "id": id, "object": "response", "status": turn.status, "created_at": 1_780_000_000 + number * 1000 + at,
            "model": "hermes-agent", "output": turn.stored_output,
            "usage": {"input_tokens": 10 + at, "output_tokens": 5, "total_tokens": 15 + at},
        });
        if turn.status == "failed" {
            response["error"] = json!({"message": "The model is gone.", "type": "server_error"});
        }
        stored.push(Stored {
            id: id.clone(),
            status: match turn.status {
                "queued" | "in_progress" => "incomplete",
                status => status,
            },
            data: json!({
                "response": response, "conversation_history": history,
                "instructions": (number == 1).then_some("Be brief."), "session_id": session,
            }),
            session,
            output: turn.output,
            context: items.clone(),
            previous: previous.clone(),
        });
        if turn.status == "completed" {
            (transcript, context, previous) = (history, items, Some(id));
        }
    }
    stored
}

fn turn(session: usize, at: usize) -> Turn {
    let mut turn = Turn {
        status: "completed",
        ..Turn::default()
    };
    let question = format!("question {at} of session {session}");
    let plain = json!([{"type": "input_text", "text": question}]);
    let call = format!("call_{session}_{at}");
    match (session + at) % 7 {
        0 => {
            turn.ask(&json!(question), &plain);
            turn.answer("A plain answer.");
        }
        1 => {
            turn.ask(&json!(question), &plain);
            turn.call(&call, r#"{"path": "/etc"}"#, &"long ".repeat(400), true);
            turn.answer("Streamed, with a tool.");
        }
        2 => {
            turn.ask(&json!(question), &plain);
            turn.call(&call, "{}", "short", false);
            turn.call(&format!("{call}_2"), "{}", "nul \u{0} byte", false);
            turn.answer("At once, with two tools.");
        }
        3 => {
            let image = "data:image/png;base64,iVBORw0KGgo=";
            let content = json!([
                {"type": "text", "text": question},
                {"type": "image_url", "image_url": {"url": image, "detail": "high"}},
            ]);
            let parts = json!([
                {"type": "input_text", "text": question},
                {"type": "input_image", "image_url": image, "detail": "high"},
            ]);
            turn.ask(&content, &parts);
            turn.answer("A picture.");
        }
        4 => {
            let text = "Grüße, 世界 😀 \u{0} \u{7f} \"quoted\" \\ \n end";
            turn.ask(&json!(text), &json!([{"type": "input_text", "text": text}]));
            turn.answer(text);
        }
        5 => {
            turn.ask(&json!(question), &plain);
            turn.status = ["failed", "incomplete", "in_progress", "queued"][session % 4];
            if turn.status == "failed" || turn.status == "incomplete" {
                turn.answer("Half an");
                turn.output[0]["status"] = "incomplete".into();
            }
        }
        _ => {
            turn.ask(&json!(question), &plain);
            turn.answer("The same answer as always.");
        }
    }
    turn
}

fn message(text: &str) -> Value {
    json!({
        "type": "message", "status": "completed", "role": "assistant",
        "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": text}],
    })
}

fn stored_message(text: &str) -> Value {
    json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]})
}
