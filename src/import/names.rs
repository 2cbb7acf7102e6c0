//! Ids of imported records: kept where they can be, and otherwise the same each time.

use sha2::{Digest as _, Sha256};
use talaria_domain::ids::{ConversationId, ResponseId};
use uuid::Uuid;

/// The longest name of a conversation that a request may have, in characters.
const LONGEST_NAME: usize = 256;

/// The id that a stored response has here: its own, if it is one.
pub fn response_id(stored: &str) -> ResponseId {
    ResponseId::parse(stored).unwrap_or_else(|| {
        let mut bytes = digest(&["response", stored]);
        // As every imported id: no UUIDv7 begins so.
        bytes[..2].fill(0);
        ResponseId(Uuid::from_bytes(bytes))
    })
}

/// The id of the conversation that an import makes under this name.
pub fn conversation_id(tenant: &str, name: &str) -> ConversationId {
    let bytes = digest(&["conversation", tenant, name]);
    ConversationId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// What keeps a conversation of this name from being named by a request.
pub fn problem_of_name(name: &str) -> Option<&'static str> {
    if name.trim().is_empty() {
        Some("its name is blank")
    } else if name.contains('\0') {
        Some("its name holds a zero character")
    } else if name.chars().count() > LONGEST_NAME {
        Some("its name has more than 256 characters")
    } else if name.starts_with("conv_") {
        Some("its name begins with conv_, as only ids do")
    } else {
        None
    }
}

fn digest(parts: &[&str]) -> [u8; 16] {
    let mut hash = Sha256::new_with_prefix("talaria import hermes");
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_can_be_kept_are_kept() {
        let kept = [
            "resp_0123456789abcdef0123456789ab",
            "resp_0192345678 9a7bcd8ef0123456789abc",
        ];
        for id in kept.map(|id| id.replace(' ', "")) {
            assert_eq!(response_id(&id).to_string(), id);
        }
    }

    #[test]
    fn other_ids_become_ids_of_ours_and_the_same_each_time() {
        let stored = [
            "resp_0123456789ABCDEF0123456789AB",
            "resp_1",
            "",
            "chatcmpl-1",
        ];

        let ids = stored.map(response_id);

        assert_eq!(ids, stored.map(response_id));
        for id in ids {
            assert!(id.is_imported());
            assert_eq!(ResponseId::parse(&id.to_string()), Some(id));
        }
        assert_eq!(
            ids.iter().collect::<std::collections::HashSet<_>>().len(),
            4
        );
    }
}
