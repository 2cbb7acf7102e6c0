//! What a run is to do, written into its prompt, so that the model's answer is a function of the request.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const BEGIN: char = '⟦';
const END: char = '⟧';
/// Tokens before calls.
const FEW_TOKENS: usize = 4;

/// What one run does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Names the run; without dots.
    pub run: String,
    /// The tools that are called in each step before the last.
    pub steps: Vec<Vec<Tool>>,
    /// Tokens of the last step's text.
    pub tokens: usize,
    /// Milliseconds before each delta.
    pub pace_ms: u64,
    /// Milliseconds that each tool takes.
    pub tool_ms: u64,
}

/// A tool of the harness, and what it means to call it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    /// `once`
    Charge,
    /// `idempotent`
    Keep,
    /// `pure`
    Look,
}

impl Tool {
    pub const ALL: [Self; 3] = [Self::Charge, Self::Keep, Self::Look];

    pub fn name(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Keep => "keep",
            Self::Look => "look",
        }
    }
}

/// A planned call, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub step: usize,
    pub call: usize,
}

/// One earlier turn as the model was told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnSeen {
    pub run: String,
    /// All that the assistant said in it.
    pub text: String,
}

/// What a request to the model says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub plan: Plan,
    /// The turns before.
    pub before: Vec<TurnSeen>,
    /// Calls of this run that have an output.
    pub answered: Vec<Place>,
}

impl Plan {
    /// The text of the user's message.
    pub fn prompt(&self) -> String {
        let plan = serde_json::to_string(self).unwrap_or_default();
        format!("{BEGIN}{plan}{END} Do as planned.")
    }

    /// The plan in a prompt.
    pub fn of_prompt(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once(BEGIN)?;
        let (plan, _) = rest.split_once(END)?;
        serde_json::from_str(plan).ok()
    }

    /// The first step of which something is missing, and the calls that are; the last step has none.
    pub fn next_step(&self, answered: &[Place]) -> (usize, Vec<(Place, Tool)>) {
        for (step, tools) in self.steps.iter().enumerate() {
            let calls = tools.iter().enumerate();
            let missing: Vec<_> = calls
                .map(|(call, tool)| (Place { step, call }, *tool))
                .filter(|(place, _)| !answered.contains(place))
                .collect();
            if !missing.is_empty() {
                return (step, missing);
            }
        }
        (self.steps.len(), Vec::new())
    }

    /// How many tokens the model says in a step.
    pub fn tokens_of(&self, step: usize) -> usize {
        if step < self.steps.len() {
            FEW_TOKENS
        } else {
            self.tokens
        }
    }

    /// Arguments of a call, which say where it belongs.
    pub fn arguments(&self, place: Place, attempt: u32) -> Value {
        json!({ "run": self.run, "step": place.step, "call": place.call, "attempt": attempt, "ms": self.tool_ms })
    }
}

/// Reads a request to the model; nothing if no plan is in it.
pub fn asked(request: &Value) -> Option<Asked> {
    let mut turns: Vec<(Plan, TurnSeen)> = Vec::new();
    let mut calls: Vec<(String, Place)> = Vec::new();
    let mut answered = Vec::new();
    for item in request["input"].as_array()? {
        match item["type"].as_str().unwrap_or("message") {
            "message" if item["role"] == "user" => {
                if let Some(plan) = Plan::of_prompt(&text_of(&item["content"])) {
                    let run = plan.run.clone();
                    let text = String::new();
                    turns.push((plan, TurnSeen { run, text }));
                    calls.clear();
                    answered.clear();
                }
            }
            "message" if item["role"] == "assistant" => {
                if let Some((_, turn)) = turns.last_mut() {
                    turn.text.push_str(&text_of(&item["content"]));
                }
            }
            "function_call" => {
                let id = item["call_id"].as_str().unwrap_or_default().to_owned();
                let arguments = item["arguments"].as_str().unwrap_or_default();
                if let Ok(place) = serde_json::from_str(arguments) {
                    calls.push((id, place));
                }
            }
            "function_call_output" => {
                let id = item["call_id"].as_str().unwrap_or_default();
                let places = calls.iter().filter(|(known, _)| known == id);
                answered.extend(places.map(|(_, place)| *place));
            }
            _ => {}
        }
    }
    let (plan, _) = turns.pop()?;
    Some(Asked {
        plan,
        before: turns.into_iter().map(|(_, turn)| turn).collect(),
        answered,
    })
}

/// The text of a message's content, in either of its forms.
pub fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect(),
        _ => String::new(),
    }
}

/// The token that the model says in this place.
pub fn token(run: &str, step: usize, attempt: u32, number: usize) -> String {
    format!("⟨{run}.{step}.{attempt}.{number}⟩")
}

/// What one item's text holds: `count` tokens from 0 on, all of one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    pub run: String,
    pub step: usize,
    pub attempt: u32,
    pub count: usize,
}

/// Reads the text of one item; the error says what is lost, repeated, or does not belong together.
pub fn tokens(text: &str) -> Result<Option<Tokens>, String> {
    let mut found: Option<Tokens> = None;
    let mut rest = text;
    while !rest.is_empty() {
        let broken = || format!("{rest:?} is no token, in {text:?}");
        let inner = rest.strip_prefix('⟨').ok_or_else(broken)?;
        let (inner, after) = inner.split_once('⟩').ok_or_else(broken)?;
        let mut fields = inner.splitn(4, '.');
        let mut field = || fields.next().ok_or_else(broken);
        let run = field()?.to_owned();
        let number = |text: &str| text.parse::<usize>().map_err(|_| broken());
        let step = number(field()?)?;
        let attempt = u32::try_from(number(field()?)?).map_err(|_| broken())?;
        let place = number(field()?)?;
        let tokens = found.get_or_insert(Tokens {
            run: run.clone(),
            step,
            attempt,
            count: 0,
        });
        if (&tokens.run, tokens.step, tokens.attempt) != (&run, step, attempt) {
            return Err(format!("⟨{inner}⟩ is of another answer, in {text:?}"));
        }
        if tokens.count != place {
            return Err(format!("⟨{inner}⟩ is number {}, in {text:?}", tokens.count));
        }
        tokens.count += 1;
        rest = after;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(run: &str) -> Plan {
        Plan {
            run: run.to_owned(),
            steps: vec![vec![Tool::Charge, Tool::Look], vec![Tool::Keep]],
            tokens: 5,
            pace_ms: 1,
            tool_ms: 2,
        }
    }

    #[test]
    fn a_request_says_what_comes_next() {
        let place = |step, call| Place { step, call };
        let user = |plan: &Plan| json!({ "role": "user", "content": plan.prompt() });
        let call = |id: &str, at: Place| {
            json!({ "type": "function_call", "call_id": id, "name": "x",
                "arguments": plan("b").arguments(at, 0).to_string() })
        };
        let output =
            |id: &str| json!({ "type": "function_call_output", "call_id": id, "output": "" });
        let said = json!({ "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "hm" }] });
        let input = json!({ "input": [
            user(&plan("a")), said, user(&plan("b")), call("1", place(0, 0)), call("2", place(0, 1)), output("2"),
        ] });

        let asked = asked(&input).expect("there is a plan");

        assert_eq!(asked.plan, plan("b"));
        let before = TurnSeen {
            run: "a".into(),
            text: "hm".into(),
        };
        assert_eq!(asked.before, [before]);
        assert_eq!(asked.answered, [place(0, 1)]);
        let next = asked.plan.next_step(&asked.answered);
        assert_eq!(next, (0, vec![(place(0, 0), Tool::Charge)]));
        let all = [place(0, 0), place(0, 1), place(1, 0)];
        assert_eq!(asked.plan.next_step(&all), (2, vec![]));
    }

    #[test]
    fn lost_repeated_and_spliced_tokens_are_seen() {
        let text = |places: &[(u32, usize)]| -> String {
            let token = |(attempt, number): &(u32, usize)| token("r", 1, *attempt, *number);
            places.iter().map(token).collect()
        };
        let good = Tokens {
            run: "r".into(),
            step: 1,
            attempt: 0,
            count: 2,
        };
        assert_eq!(tokens(&text(&[(0, 0), (0, 1)])), Ok(Some(good)));
        assert_eq!(tokens(""), Ok(None));
        for wrong in [
            text(&[(0, 1)]),
            text(&[(0, 0), (0, 2)]),
            text(&[(0, 0), (0, 0)]),
            text(&[(0, 0), (1, 1)]),
            text(&[(0, 0)]) + "x",
        ] {
            assert!(tokens(&wrong).is_err(), "{wrong}");
        }
    }
}
