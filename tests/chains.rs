//! Turns that continue from each other: by response id, by conversation, by reference to single items.

use anyhow::Context;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::{ChatStream, Request, ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const KINDS: [ApiKind; 2] = [ApiKind::Responses, ApiKind::ChatCompletions];

async fn stack(kind: ApiKind) -> anyhow::Result<Stack> {
    let options = Options {
        kind,
        upstream: "max_retries = 0".into(),
        ..Options::default()
    };
    Stack::serve_with(TALARIA, options).await
}

/// The whole answer `text` in the words of `kind`.
fn answer(kind: ApiKind, text: &str) -> Script {
    match kind {
        ApiKind::Responses => ResponsesStream::new().text(&[text]).completed(),
        ApiKind::ChatCompletions => ChatStream::new().text(&[text]).finish("stop"),
    }
}

/// Runs a turn to its end: the upstream answers `reply`, the response is returned.
async fn turn(stack: &Stack, kind: ApiKind, body: &Value, reply: &str) -> anyhow::Result<Value> {
    stack.upstream.push(answer(kind, reply));
    let response = stack.create_json(body).await?;
    anyhow::ensure!(response["status"] == "completed", "{response}");
    Ok(response)
}

/// The context that a request showed the upstream, item by item, without the ids that it gave itself.
fn context(kind: ApiKind, request: &Request) -> Value {
    let member = match kind {
        ApiKind::Responses => "input",
        ApiKind::ChatCompletions => "messages",
    };
    let mut items = request.body[member].clone();
    for item in items.as_array_mut().into_iter().flatten() {
        if let Some(item) = item.as_object_mut() {
            item.shift_remove("id");
        }
    }
    items
}

/// The context that these turns make: what the user said, then what the assistant said, and so on.
fn dialogue(kind: ApiKind, texts: &[&str]) -> Value {
    let user = |text: &str| match kind {
        ApiKind::Responses => json!({
            "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}],
        }),
        ApiKind::ChatCompletions => json!({"role": "user", "content": text}),
    };
    let assistant = |text: &str| match kind {
        ApiKind::Responses => json!({
            "type": "message", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": text}],
        }),
        ApiKind::ChatCompletions => json!({"role": "assistant", "content": text}),
    };
    let message = |(index, text): (usize, &&str)| match index % 2 {
        0 => user(text),
        _ => assistant(text),
    };
    texts.iter().enumerate().map(message).collect()
}

async fn delete(stack: &Stack, id: &str) -> anyhow::Result<Value> {
    let url = stack.url(&format!("/v1/responses/{id}"));
    let answer = stack.http.delete(url).send().await?;
    Ok(answer.error_for_status()?.json().await?)
}

/// A refusal: its status, its code, its param.
async fn refusal(stack: &Stack, body: &Value) -> anyhow::Result<(u16, Value, Value)> {
    let answer = stack.create(body).await?;
    let status = answer.status().as_u16();
    let retry = answer.headers().get("x-should-retry").cloned();
    assert_eq!(
        retry.as_ref().map(HeaderValue::as_bytes),
        (status == 409).then_some(&b"false"[..]),
        "the SDKs repeat a 409 that does not forbid it"
    );
    let mut body: Value = answer.json().await?;
    let error = &mut body["error"];
    Ok((status, error["code"].take(), error["param"].take()))
}

fn id(response: &Value) -> &str {
    response["id"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn each_turn_shows_the_upstream_every_item_of_those_before_it() -> anyhow::Result<()> {
    for kind in KINDS {
        let stack = stack(kind).await?;
        let one = turn(&stack, kind, &json!({"input": "one"}), "ein").await?;
        let two = json!({"input": "two", "previous_response_id": id(&one)});
        let two = turn(&stack, kind, &two, "zwei").await?;
        let three = json!({
            "previous_response_id": id(&two),
            "input": [{"role": "user", "content": "three"}, {"role": "assistant", "content": "hm"}],
        });
        let three = turn(&stack, kind, &three, "drei").await?;

        assert_eq!(two["previous_response_id"], one["id"]);
        assert_eq!(three["previous_response_id"], two["id"]);
        let shown = |n: usize| stack.upstream.requests().get(n).map(|r| context(kind, r));
        assert_eq!(shown(0), Some(dialogue(kind, &["one"])));
        assert_eq!(shown(1), Some(dialogue(kind, &["one", "ein", "two"])));
        let mut third = dialogue(kind, &["one", "ein", "two", "zwei", "three", "hm"]);
        if kind == ApiKind::Responses {
            // What the client said for the assistant has only what the client gave it.
            third[5] = json!({
                "type": "message", "role": "assistant",
                "content": [{"type": "output_text", "text": "hm", "annotations": []}],
            });
        }
        assert_eq!(shown(2), Some(third));
    }
    Ok(())
}

/// REQ-107
#[tokio::test]
async fn instructions_hold_until_others_are_given() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let stack = stack(kind).await?;
    let rhyme = json!({"input": "one", "instructions": "Rhyme.", "conversation": "poems"});
    let one = turn(&stack, kind, &rhyme, "bun").await?;
    let chained = |input: &str, previous: &Value| json!({"input": input, "previous_response_id": id(previous)});
    let two = turn(&stack, kind, &chained("two", &one), "shoe").await?;
    let mut unstored = chained("three", &two);
    unstored["store"] = false.into();
    let three = turn(&stack, kind, &unstored, "tree").await?;
    let mut other = chained("four", &two);
    other["instructions"] = "Sing.".into();
    let four = turn(&stack, kind, &other, "la").await?;
    let five = turn(&stack, kind, &chained("five", &four), "la la").await?;
    let mut none = chained("six", &five);
    none["instructions"] = "".into();
    let six = turn(&stack, kind, &none, "plain").await?;
    let named = json!({"input": "seven", "conversation": "poems"});
    let seven = turn(&stack, kind, &named, "heaven").await?;

    let expected = ["Rhyme.", "Rhyme.", "Rhyme.", "Sing.", "Sing.", "", "Rhyme."];
    let shown = [&one, &two, &three, &four, &five, &six, &seven].map(|r| r["instructions"].clone());
    assert_eq!(shown, expected.map(Value::from));
    let requests = stack.upstream.requests();
    let sent: Vec<&str> = requests
        .iter()
        .map(|request| request.body["instructions"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(sent, expected);
    Ok(())
}

#[tokio::test]
async fn a_fork_does_not_see_its_sibling() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let stack = stack(kind).await?;
    let root = turn(&stack, kind, &json!({"input": "root"}), "r").await?;
    let child = |text: &str| json!({"input": text, "previous_response_id": id(&root)});

    turn(&stack, kind, &child("left"), "l").await?;
    turn(&stack, kind, &child("right"), "r").await?;

    let request = stack.upstream.request(2).await?;
    assert_eq!(
        context(kind, &request),
        dialogue(kind, &["root", "r", "right"])
    );
    Ok(())
}

#[tokio::test]
async fn a_turn_costs_its_own_bytes_however_long_the_chain() -> anyhow::Result<()> {
    const TURNS: usize = 20;
    let kind = ApiKind::Responses;
    let stack = stack(kind).await?;
    let mut previous = Value::Null;
    for n in 0..TURNS {
        let body = json!({"input": noise(2 * n), "previous_response_id": previous});
        previous = turn(&stack, kind, &body, &noise(2 * n + 1)).await?["id"].take();
    }
    let last = stack.upstream.request(TURNS - 1).await?;
    let items = last.body["input"].as_array().context("no input")?;
    assert_eq!(items.len(), 2 * TURNS - 1);

    let database = stack.database().context("no database")?.connect().await?;
    let sizes_of = async |sql: &str| -> anyhow::Result<Vec<i32>> {
        let rows = database.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    for (table, sql) in [
        ("turn", "SELECT length(body) FROM turn ORDER BY id"),
        (
            "response_final",
            "SELECT length(body) FROM response_final ORDER BY response_id",
        ),
        (
            "response",
            "SELECT pg_column_size(response.*) FROM response ORDER BY id",
        ),
    ] {
        let sizes = sizes_of(sql).await?;
        assert_eq!(sizes.len(), TURNS, "{table}");
        // The second is the first that has a parent.
        let (second, largest) = (sizes[1], sizes[2..].iter().max());
        assert!(
            largest < Some(&(second + second / 5 + 32)),
            "{table}: {sizes:?}"
        );
    }
    // How events gather into chunks is a matter of time, so only the most that it can come to is known: each of
    // the five events that hold the turn's text in a chunk of its own.
    let sql = "SELECT sum(length(body))::int FROM event_chunk GROUP BY response_id";
    let sizes = sizes_of(sql).await?;
    assert_eq!(sizes.len(), TURNS);
    assert!(sizes.iter().all(|size| *size < 12_000), "{sizes:?}");
    let requests = database
        .query_one("SELECT count(*) FROM run_request", &[])
        .await?;
    assert_eq!(requests.get::<_, i64>(0), 0, "requests of finished runs");
    Ok(())
}

/// Text of 2000 characters that no compression makes smaller than half.
fn noise(seed: usize) -> String {
    let mut state = seed as u64 + 1;
    let mut character = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'0' + u8::try_from(state >> 58).unwrap_or_default())
    };
    (0..2000).map(|_| character()).collect()
}

#[tokio::test]
async fn children_outlive_their_deleted_parents() -> anyhow::Result<()> {
    for kind in KINDS {
        let stack = stack(kind).await?;
        let one = turn(&stack, kind, &json!({"input": "1"}), "a").await?;
        let two = json!({"input": "2", "previous_response_id": id(&one)});
        let two = turn(&stack, kind, &two, "b").await?;
        let three = json!({"input": "3", "previous_response_id": id(&two)});
        let three = turn(&stack, kind, &three, "c").await?;

        let gone = delete(&stack, id(&one)).await?;
        delete(&stack, id(&two)).await?;

        assert_eq!(
            gone,
            json!({"id": one["id"], "object": "response", "deleted": true})
        );
        assert_eq!(stack.get(id(&one)).await?.0, 404);
        assert_eq!(stack.get(id(&three)).await?, (200, three.clone()));
        let four = json!({"input": "4", "previous_response_id": id(&three)});
        turn(&stack, kind, &four, "d").await?;
        let request = stack.upstream.request(3).await?;
        assert_eq!(
            context(kind, &request),
            dialogue(kind, &["1", "a", "2", "b", "3", "c", "4"])
        );
        let from_deleted = json!({"input": "x", "previous_response_id": id(&one)});
        assert_eq!(
            refusal(&stack, &from_deleted).await?,
            (
                404,
                "previous_response_not_found".into(),
                "previous_response_id".into()
            )
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_reference_brings_the_item_that_it_names() -> anyhow::Result<()> {
    for kind in KINDS {
        let stack = stack(kind).await?;
        let said = turn(&stack, kind, &json!({"input": "name a fruit"}), "a quince").await?;
        let item = &said["output"][0]["id"];

        let typed =
            json!([{"type": "item_reference", "id": item}, {"role": "user", "content": "why?"}]);
        turn(&stack, kind, &json!({"input": typed}), "because").await?;
        let short = json!([{"id": item}, {"role": "user", "content": "why?"}]);
        let ephemeral = json!({"input": short, "store": false});
        turn(&stack, kind, &ephemeral, "because").await?;

        let Value::Array(expected) = dialogue(kind, &["", "a quince", "why?"]) else {
            anyhow::bail!("no list");
        };
        for n in [1, 2] {
            let request = stack.upstream.request(n).await?;
            assert_eq!(context(kind, &request), json!(expected[1..]), "{n}");
        }
        for unknown in [
            "msg_unknown".to_owned(),
            format!("{}9", item.as_str().unwrap_or("x")),
        ] {
            let body = json!({"input": [{"type": "item_reference", "id": unknown}]});
            let (status, _, param) = refusal(&stack, &body).await?;
            assert_eq!((status, param), (404, "input".into()), "{unknown}");
        }
        assert_eq!(stack.upstream.requests().len(), 3);
    }
    Ok(())
}

/// REQ-36, REQ-47
#[tokio::test]
async fn a_conversation_continues_by_its_name_and_by_its_id() -> anyhow::Result<()> {
    for kind in KINDS {
        let stack = stack(kind).await?;
        let by_name = |text: &str| json!({"input": text, "conversation": "garden ✿"});
        let one = turn(&stack, kind, &by_name("1"), "a").await?;
        let two = turn(&stack, kind, &by_name("2"), "b").await?;
        let conversation = one["conversation"]["id"].clone();
        let by_id = json!({"input": "3", "conversation": conversation});
        let three = turn(&stack, kind, &by_id, "c").await?;
        let as_object = json!({"input": "4", "conversation": {"id": conversation}});
        turn(&stack, kind, &as_object, "d").await?;

        let named = conversation.as_str().unwrap_or_default();
        assert!(named.starts_with("conv_"), "{one}");
        assert_eq!(two["conversation"], one["conversation"]);
        assert_eq!(three["conversation"], one["conversation"]);
        let request = stack.upstream.request(3).await?;
        assert_eq!(
            context(kind, &request),
            dialogue(kind, &["1", "a", "2", "b", "3", "c", "4"])
        );
        let other = json!({"input": "x", "conversation": "another"});
        turn(&stack, kind, &other, "y").await?;
        let request = stack.upstream.request(4).await?;
        assert_eq!(context(kind, &request), dialogue(kind, &["x"]));
    }
    Ok(())
}

/// REQ-39
#[tokio::test]
async fn a_conversation_takes_one_response_at_a_time() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let stack = stack(kind).await?;
    let say = |text: &str| json!({"input": text, "conversation": "c"});
    turn(&stack, kind, &say("1"), "a").await?;
    stack
        .upstream
        .push(ResponsesStream::new().gate("held").text(&["b"]).completed());
    let mut active = stack.stream(&say("2")).await?;
    let created = active.until_event("response.created").await?;
    let conversation = &created[0].json()["response"]["conversation"]["id"];

    let busy = (
        409,
        Value::from("conversation_response_not_completed"),
        Value::from("conversation"),
    );
    let by_id = json!({"input": "x", "conversation": conversation});
    let ephemeral = json!({"input": "x", "conversation": "c", "store": false});
    let streamed = json!({"input": "x", "conversation": "c", "stream": true});
    for body in [say("x"), by_id, ephemeral, streamed] {
        assert_eq!(refusal(&stack, &body).await?, busy, "{body}");
    }

    stack.upstream.open("held");
    active.collect().await?;
    turn(&stack, kind, &say("3"), "c").await?;
    let request = stack.upstream.request(2).await?;
    assert_eq!(
        context(kind, &request),
        dialogue(kind, &["1", "a", "2", "b", "3"])
    );
    Ok(())
}

/// REQ-36, REQ-38
#[tokio::test]
async fn a_conversation_goes_on_from_its_last_completed_response() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let stack = stack(kind).await?;
    let say = |text: &str| json!({"input": text, "conversation": "c"});
    turn(&stack, kind, &say("1"), "a").await?;
    stack.upstream.push(
        ResponsesStream::new()
            .text(&["b"])
            .failed("server_error", "no"),
    );
    let failed = stack.create_json(&say("2")).await?;
    assert_eq!(failed["status"], "failed");

    turn(&stack, kind, &say("3"), "c").await?;

    let request = stack.upstream.request(2).await?;
    assert_eq!(context(kind, &request), dialogue(kind, &["1", "a", "3"]));
    Ok(())
}

/// REQ-40, REQ-41
#[tokio::test]
async fn an_ephemeral_turn_reads_a_conversation_and_leaves_no_trace_in_it() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let stack = stack(kind).await?;
    let say = |text: &str| json!({"input": text, "conversation": "c"});
    turn(&stack, kind, &say("1"), "a").await?;
    let mut aside = say("psst");
    aside["store"] = false.into();
    let aside = turn(&stack, kind, &aside, "b").await?;
    turn(&stack, kind, &say("2"), "c").await?;

    let [_, second, third] = &stack.upstream.requests()[..] else {
        anyhow::bail!("not three requests");
    };
    assert_eq!(context(kind, second), dialogue(kind, &["1", "a", "psst"]));
    assert_eq!(context(kind, third), dialogue(kind, &["1", "a", "2"]));
    assert_eq!(stack.get(id(&aside)).await?.0, 404);
    Ok(())
}

/// REQ-35
#[tokio::test]
async fn only_a_completed_response_is_continued_from() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let stack = stack(kind).await?;
    stack
        .upstream
        .push(ResponsesStream::new().failed("server_error", "no"));
    let failed = stack.create_json(&json!({"input": "1"})).await?;
    assert_eq!(failed["status"], "failed");
    stack
        .upstream
        .push(ResponsesStream::new().gate("held").text(&["b"]).completed());
    let mut active = stack.stream(&json!({"input": "2"})).await?;
    let created = active.until_event("response.created").await?;
    let unfinished = created[0].json()["response"]["id"].clone();
    let unknown = json!("resp_00000000000070008000000000000000");
    let strange = json!("resp_strange");

    let param = Value::from("previous_response_id");
    for (previous, status, code) in [
        (&failed["id"], 409, "previous_response_not_completed"),
        (&unfinished, 409, "previous_response_not_completed"),
        (&unknown, 404, "previous_response_not_found"),
        (&strange, 404, "previous_response_not_found"),
    ] {
        for store in [true, false] {
            let body = json!({"input": "x", "previous_response_id": previous, "store": store});
            let expected = (status, code.into(), param.clone());
            assert_eq!(refusal(&stack, &body).await?, expected, "{body}");
        }
    }
    let both = json!({"input": "x", "previous_response_id": unfinished, "conversation": "c"});
    assert_eq!(
        refusal(&stack, &both).await?,
        (400, "mutually_exclusive_parameters".into(), Value::Null)
    );
    let unknown = json!({"input": "x", "conversation": "conv_00000000000070008000000000000000"});
    assert_eq!(refusal(&stack, &unknown).await?.0, 404);

    stack.upstream.open("held");
    active.collect().await?;
    let next = json!({"input": "3", "previous_response_id": unfinished});
    turn(&stack, kind, &next, "c").await?;
    assert_eq!(stack.upstream.requests().len(), 3, "refusals ask nobody");
    Ok(())
}
