//! Ids: a prefix that says what a thing is, and where in which response it stands.
//!
//! A response is a UUIDv7, and its items carry that id and their own place, so an item is found without an index, and
//! the same run always names the same item the same way.

use std::fmt;

use uuid::Uuid;

/// The id of a response: `resp_` and 32 hex digits; of one that came from a Hermes server, 28.
///
/// Those 28 are the last digits of a UUID that begins with four zeros, which no UUIDv7 of ours does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResponseId(pub Uuid);

/// The id of a conversation: `conv_` and 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationId(pub Uuid);

/// Where an item stands: which response made it or took it in, and at which place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ItemPlace {
    pub response: Uuid,
    pub side: Side,
    pub index: u32,
}

/// The input or the output of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Input,
    Output,
}

impl ResponseId {
    /// Reads `resp_…`; anything else is no id of ours.
    pub fn parse(id: &str) -> Option<Self> {
        Self::from_digits(id.strip_prefix("resp_")?)
    }

    /// Reads `run_…`, as which Hermes' API knows the same response.
    pub fn parse_run(id: &str) -> Option<Self> {
        Self::from_digits(id.strip_prefix("run_")?)
    }

    /// The id of the run that the response records: `run_…`.
    pub fn run_id(self) -> String {
        format!("run_{}", self.digits())
    }

    /// The id of the chat completion that it is shown as: `chatcmpl-…`.
    pub fn chat_completion_id(self) -> String {
        format!("chatcmpl-{}", self.digits())
    }

    fn from_digits(digits: &str) -> Option<Self> {
        if digits.len() == IMPORTED_DIGITS {
            return parse_hex(&format!("0000{digits}")).map(Self);
        }
        parse_hex(digits).map(Self).filter(|id| !id.is_imported())
    }

    fn digits(self) -> String {
        let digits = self.0.simple().to_string();
        if self.is_imported() {
            return digits[digits.len() - IMPORTED_DIGITS..].to_owned();
        }
        digits
    }

    /// Whether it came from a Hermes server.
    pub fn is_imported(self) -> bool {
        self.0.as_bytes()[..2] == [0, 0]
    }
}

/// Hex digits of a Hermes server's ids.
const IMPORTED_DIGITS: usize = 28;

impl ConversationId {
    /// Reads `conv_…`; anything else is no id of ours.
    pub fn parse(id: &str) -> Option<Self> {
        parse_hex(id.strip_prefix("conv_")?).map(Self)
    }
}

impl fmt::Display for ResponseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resp_{}", self.digits())
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "conv_{}", self.0.simple())
    }
}

impl ItemPlace {
    /// The item's id under the prefix of its type: `msg_<response>o0`.
    pub fn id(&self, item_type: &str) -> String {
        let side = match self.side {
            Side::Input => 'i',
            Side::Output => 'o',
        };
        format!(
            "{}_{}{side}{}",
            prefix(item_type),
            self.response.simple(),
            self.index
        )
    }

    /// Reads an item's id, whatever its prefix.
    pub fn parse(id: &str) -> Option<Self> {
        let (_, rest) = id.rsplit_once('_')?;
        let response = parse_hex(rest.get(..32)?)?;
        let mut place = rest.get(32..)?.chars();
        let side = match place.next()? {
            'i' => Side::Input,
            'o' => Side::Output,
            _ => return None,
        };
        let digits = place.as_str();
        let canonical = digits == "0" || !digits.starts_with('0');
        let index = digits
            .parse()
            .ok()
            .filter(|_| canonical && !digits.starts_with('+'))?;
        Some(Self {
            response,
            side,
            index,
        })
    }
}

/// The prefix of ids of items of this type, as OpenAI uses them.
pub fn prefix(item_type: &str) -> &'static str {
    match item_type {
        "message" => "msg",
        "function_call" => "fc",
        "function_call_output" => "fco",
        "custom_tool_call" => "ctc",
        "custom_tool_call_output" => "ctco",
        "reasoning" => "rs",
        "web_search_call" => "ws",
        "file_search_call" => "fs",
        "image_generation_call" => "ig",
        "code_interpreter_call" => "ci",
        "computer_call" => "cu",
        "mcp_call" => "mcp",
        "mcp_list_tools" => "mcpl",
        "mcp_approval_request" => "mcpr",
        "mcp_approval_response" => "mcpa",
        "compaction" => "cmp",
        "local_shell_call" => "lsh",
        "shell_call" => "sh",
        "apply_patch_call" => "apc",
        "tool_search_call" => "tsc",
        "tool_search_output" => "tso",
        _ => "item",
    }
}

fn parse_hex(digits: &str) -> Option<Uuid> {
    let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (digits.len() == 32 && digits.bytes().all(lower_hex))
        .then(|| Uuid::try_parse(digits).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: Uuid = Uuid::from_u128(0x0192_3456_789a_7bcd_8ef0_1234_5678_9abc);

    #[test]
    fn ids_read_back_as_what_they_name() {
        let place = ItemPlace {
            response: RESPONSE,
            side: Side::Output,
            index: 12,
        };

        assert_eq!(
            place.id("message"),
            "msg_019234567 89a7bcd8ef0123456789abco12".replace(' ', "")
        );
        assert_eq!(ItemPlace::parse(&place.id("reasoning")), Some(place));
        let response = ResponseId(RESPONSE);
        assert_eq!(ResponseId::parse(&response.to_string()), Some(response));
        let conversation = ConversationId(RESPONSE);
        assert_eq!(
            ConversationId::parse(&conversation.to_string()),
            Some(conversation)
        );
    }

    #[test]
    fn ids_of_a_hermes_server_keep_their_spelling() {
        let id = "resp_0123456789abcdef0123456789ab";
        let response = ResponseId::parse(id).unwrap();

        assert!(response.is_imported());
        assert_eq!(response.to_string(), id);
        assert_eq!(response.run_id(), id.replace("resp_", "run_"));
        assert_eq!(ResponseId::parse_run(&response.run_id()), Some(response));
        // One id, one spelling.
        assert_eq!(ResponseId::parse(&id.replace("resp_", "resp_0000")), None);
    }

    #[test]
    fn other_spellings_are_no_ids() {
        let hex = RESPONSE.simple().to_string();
        for id in [
            "resp_".to_owned(),
            hex.clone(),
            format!("conv_{hex}"),
            format!("resp_{}", hex.to_uppercase()),
            format!("resp_{hex}0"),
            format!("resp_{}é", &hex[..31]),
        ] {
            assert_eq!(ResponseId::parse(&id), None, "{id}");
        }
        for id in ["", "i01", "o+1", "x1", "o-1", "o99999999999"] {
            assert_eq!(ItemPlace::parse(&format!("msg_{hex}{id}")), None, "{id}");
        }
    }
}
