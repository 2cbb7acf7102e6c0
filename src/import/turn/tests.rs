use talaria_proto::v1::Status;

use super::*;

fn completed(output: &Value) -> Record {
    ended(Status::Completed, output)
}

fn ended(status: Status, output: &Value) -> Record {
    let items = output.as_array().into_iter().flatten();
    Record {
        status,
        output: items.filter_map(|item| item.as_object().cloned()).collect(),
        ..Record::default()
    }
}

/// A turn in short: one line an item.
fn short(items: &Items) -> String {
    let line = |side: char, item: &Object| {
        let content = match text(item, "type") {
            Some("message") => format!("{}: {}", text(item, "role").unwrap_or("-"), said(item)),
            Some("function_call") => format!("call {}", item["arguments"]),
            Some("function_call_output") => format!("result {}", item["output"]),
            _ => Value::Object(item.clone()).to_string(),
        };
        let half = match text(item, "status") {
            Some("incomplete") => " (incomplete)",
            _ => "",
        };
        format!("{side} {content}{half}")
    };
    let input = items.input.iter().map(|item| line('>', item));
    let output = items.output.iter().map(|item| line('<', item));
    input.chain(output).collect::<Vec<_>>().join("\n")
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn calls(said: &str, id: &str, arguments: &str) -> Value {
    let call =
        json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    json!({"role": "assistant", "content": said, "tool_calls": [call]})
}

fn result(id: &str, output: &str) -> Value {
    json!({"role": "tool", "tool_call_id": id, "content": output})
}

fn answer(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

fn shown_call(id: &str, arguments: &str) -> Value {
    json!({"type": "function_call", "name": "f", "call_id": id, "arguments": arguments})
}

fn shown_answer(text: &str) -> Value {
    json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]})
}

#[test]
fn a_streamed_turn_keeps_its_shapes_and_gets_back_what_was_cut() {
    let own = [
        user("q"),
        calls("Let me see.", "a", "whole arguments"),
        result("a", "whole output"),
        answer("Done."),
    ];
    let record = completed(&json!([
        shown_call("a", "[15 chars]"),
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "who...[9 more]"}]},
        shown_answer("Let me see.\n\nDone."),
    ]));

    insta::assert_snapshot!(short(&of_record(&record, &own)), @r#"
    > user: q
    < assistant: Let me see.
    < call "whole arguments"
    < result [{"type":"input_text","text":"whole output"}]
    < assistant: Done.
    "#);
}

#[test]
fn a_batch_turn_ends_with_the_answer_that_its_client_saw() {
    let own = [
        user("q"),
        calls("", "a", "1"),
        result("a", "one"),
        calls("Once more.", "a", "2"),
        result("a", "two"),
        answer("<think>hm</think>Done."),
    ];
    let record = completed(&json!([
        shown_call("a", "1"),
        {"type": "function_call_output", "call_id": "a", "output": "one"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        shown_call("a", "2"),
        {"type": "function_call_output", "call_id": "a", "output": "two"},
        shown_answer("Done."),
    ]));

    insta::assert_snapshot!(short(&of_record(&record, &own)), @r#"
    > user: q
    < call "1"
    < result "one"
    < assistant: Once more.
    < {"type":"reasoning","summary":[]}
    < call "2"
    < result "two"
    < assistant: Done.
    "#);
}

#[test]
fn what_came_before_without_a_record_of_its_own_is_input() {
    let own = [
        user("q1"),
        calls("", "a", "1"),
        result("a", "one"),
        answer("a1"),
        user("q2"),
        answer("a2"),
    ];

    insta::assert_snapshot!(short(&of_record(&completed(&json!([shown_answer("a2")])), &own)), @r#"
    > user: q1
    > call "1"
    > result "one"
    > assistant: a1
    > user: q2
    < assistant: a2
    "#);
}

#[test]
fn what_somebody_said_while_the_agent_worked_stays_where_it_was_said() {
    let own = [
        user("q"),
        calls("", "a", "1"),
        result("a", "one"),
        user("hurry"),
        answer("Done."),
    ];
    let record = completed(&json!([
        shown_call("a", "1"),
        {"type": "function_call_output", "call_id": "a", "output": "one"},
        shown_answer("Done."),
    ]));

    insta::assert_snapshot!(short(&of_record(&record, &own)), @r#"
    > user: q
    < call "1"
    < result "one"
    < user: hurry
    < assistant: Done.
    "#);
}

#[test]
fn half_calls_are_shown_to_clients_but_to_no_model() {
    let own = [
        result("cut off", "x"),
        calls("", "lost", "0"),
        user("q"),
        calls("", "a", "1"),
        answer("Done."),
    ];
    let record = completed(&json!([shown_call("a", "1"), shown_answer("Done.")]));

    insta::assert_snapshot!(short(&of_record(&record, &own)), @r#"
    > user: q
    < call "1" (incomplete)
    < assistant: Done.
    "#);
}

#[test]
fn a_turn_that_did_not_complete_is_shown_as_it_was_stored() {
    let own = [user("q"), answer("Half an")];
    let output = json!([shown_call("a", "1"), shown_answer("Half an")]);
    let incomplete = of_record(&ended(Status::Incomplete, &output), &own);

    insta::assert_snapshot!(short(&incomplete), @r#"
    > user: q
    < call "1" (incomplete)
    < assistant: Half an (incomplete)
    "#);
}

#[test]
fn a_transcript_without_the_calls_that_were_shown_leaves_them_as_they_were() {
    let own = [user("q"), answer("Done.")];
    let record = completed(&json!([
        shown_call("a", "1"),
        {"type": "function_call_output", "call_id": "a", "output": "one"},
        shown_answer("Done."),
    ]));

    insta::assert_snapshot!(short(&of_record(&record, &own)), @r#"
    > user: q
    < call "1"
    < result "one"
    < assistant: Done.
    "#);
}
