//! What is kept beside the session of a text: the token that comes next, which no pass has read yet.

use serde_json::Value;

/// The token that comes next, if the note is one of a text.
pub fn next_of(note: &[u8]) -> Option<u32> {
    let note: Value = serde_json::from_slice(note).ok()?;
    note.get("next")?.as_u64()?.try_into().ok()
}

/// The note with another such token. That of a chat, which is a list of messages, stays as it is.
pub fn with_next(note: &[u8], next: Option<u32>) -> Vec<u8> {
    if serde_json::from_slice::<Value>(note).is_ok_and(|note| note.is_array()) {
        return note.to_vec();
    }
    next.map(|id| serde_json::json!({ "next": id }).to_string().into_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_its_next_token_and_a_chat_its_messages() {
        assert_eq!(next_of(&with_next(b"", Some(7))), Some(7));
        assert_eq!(next_of(&with_next(&with_next(b"", Some(7)), Some(8))), Some(8));
        assert!(with_next(b"{\"next\":7}", None).is_empty());
        let chat = b"[{\"role\":\"user\",\"content\":\"x\"}]";
        assert_eq!(with_next(chat, Some(7)), chat);
        for note in [&b""[..], chat, b"{\"next\":-1}", b"{\"next\":99999999999}", b"\xff"] {
            assert_eq!(next_of(note), None);
        }
    }
}
