//! Answers in the shape of OpenAI's batch interface. Whatever would differ from run to run (times, random ids) is left
//! at a fixed value.

use super::record::{Endpoint, Record};
use gable_model::batch::Finished;
use gable_model::generate::StopReason;
use serde_json::{Value, json};

/// The line for a record whose text is complete.
pub fn answer(record: &Record, model: &str, finished: &Finished, stop: StopReason) -> Value {
    let reason = match stop {
        StopReason::MaxTokens | StopReason::ContextFull => "length",
        _ => "stop",
    };
    let text = &finished.text;
    let (prefix, object, choice) = match record.endpoint {
        Some(Endpoint::Completions) => (
            "cmpl",
            "text_completion",
            json!({ "index": 0, "text": text, "logprobs": null, "finish_reason": reason }),
        ),
        _ => (
            "chatcmpl",
            "chat.completion",
            json!({
                "index": 0, "message": { "role": "assistant", "content": text }, "logprobs": null,
                "finish_reason": reason,
            }),
        ),
    };
    let (prompt, completion) = (finished.prompt_tokens, finished.generated_tokens);
    line(
        record,
        200,
        json!({
            "id": format!("{prefix}-{}", record.custom_id),
            "object": object,
            "created": 0,
            "model": model,
            "choices": [choice],
            "usage": {
                "prompt_tokens": prompt, "completion_tokens": completion,
                "total_tokens": prompt.saturating_add(completion),
            },
        }),
    )
}

/// The line for a record that cannot be answered.
pub fn refusal(record: &Record, message: &str) -> Value {
    let error = json!({ "message": message, "type": "invalid_request_error", "param": null, "code": null });
    line(record, 400, json!({ "error": error }))
}

fn line(record: &Record, status: u16, body: Value) -> Value {
    let id = &record.custom_id;
    json!({
        "id": format!("batch_req_{id}"),
        "custom_id": id,
        "response": { "status_code": status, "request_id": format!("req_{id}"), "body": body },
        "error": null,
    })
}
