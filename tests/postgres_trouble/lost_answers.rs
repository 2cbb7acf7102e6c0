//! Writes that are committed, and whose answers are lost.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::postgres::{Proxy, TestDatabase};
use talaria_testkit::stack::Stack;
use talaria_testkit::upstream::ResponsesStream;

use crate::support::{Held, ended, expect_unavailable, post, stack_on};

struct World {
    database: TestDatabase,
    proxy: Proxy,
    stack: Stack,
}

impl World {
    async fn start() -> anyhow::Result<Self> {
        let database = TestDatabase::empty().await?;
        let proxy = Proxy::start(&database.url).await?;
        let stack = stack_on(proxy.url()).await?;
        Ok(Self {
            database,
            proxy,
            stack,
        })
    }

    /// How many rows a table has.
    async fn count(&self, table: &str) -> anyhow::Result<i64> {
        let session = self.database.connect().await?;
        let count = format!("SELECT count(*) FROM {table}");
        Ok(session.query_one(&count, &[]).await?.get(0))
    }

    /// A call below `/v1`: its status and body.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<(u16, Value)> {
        let mut request = self.stack.http.request(method, self.stack.url(path));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }
}

#[tokio::test]
async fn a_run_each_of_whose_writes_is_repeated_is_written_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.proxy.cut_after_commit("-- runs_admit");
    for _ in 0..3 {
        world.proxy.cut_after_commit("-- events_append");
    }
    world.proxy.cut_after_commit("-- runs_finish");

    let held = Held::begin(&world.stack, &["during, "]).await?;
    world.stack.upstream.open("during");
    held.expect_whole(&world.stack, &["during, "]).await?;

    world.proxy.has_cut(5).await?;
    assert_eq!(world.stack.upstream.requests().len(), 1);
    assert_eq!(world.count("response").await?, 1);
    assert_eq!(world.count("turn").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_run_goes_on_when_claims_are_not_answered() -> anyhow::Result<()> {
    let world = World::start().await?;
    let held = Held::begin(&world.stack, &["during, "]).await?;
    for _ in 0..2 {
        world.proxy.cut_after_commit("-- runs_claim");
    }
    world.proxy.has_cut(2).await?;

    world.stack.upstream.open("during");
    held.expect_whole(&world.stack, &["during, "]).await
}

#[tokio::test]
async fn a_key_stands_for_the_run_whose_admission_was_not_answered() -> anyhow::Result<()> {
    let world = World::start().await?;
    let script = || ResponsesStream::new().text(&["once"]).completed();
    world.stack.upstream.push(script());
    world.proxy.cut_after_commit("-- idempotency_keys_insert");
    let body = json!({"input": "hi"});
    let keyed = || post(&world.stack, &body).header("Idempotency-Key", "k");

    let first = keyed().send().await?;
    assert_eq!(first.status(), 200);
    let first: Value = first.json().await?;
    let again = keyed().send().await?;

    world.proxy.has_cut(1).await?;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(again.json::<Value>().await?, first);
    assert_eq!(world.count("response").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_keyed_run_that_was_stored_unheard_is_executed_and_found_by_its_key() -> anyhow::Result<()>
{
    let world = World::start().await?;
    ended(&world.stack).await?;
    let script = ResponsesStream::new().text(&["once"]).completed();
    world.stack.upstream.push(script);
    let body = json!({"input": "hi"});
    let keyed = || post(&world.stack, &body).header("Idempotency-Key", "k");

    world.proxy.cut_after_commit("-- idempotency_keys_insert");
    let silence = async {
        world.proxy.has_cut(1).await?;
        world.proxy.freeze();
        Ok(())
    };
    tokio::try_join!(silence, expect_unavailable(keyed()))?;
    world.proxy.thaw();

    let again = keyed().send().await?;
    assert_eq!(again.status(), 200);
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    let again: Value = again.json().await?;
    assert_eq!(again["status"], "completed");
    assert_eq!(again["output"][0]["content"][0]["text"], "once");
    assert_eq!(world.count("response").await?, 2);
    Ok(())
}

#[tokio::test]
async fn a_run_without_a_key_that_was_stored_unheard_is_undone() -> anyhow::Result<()> {
    undoes(
        "-- runs_admit_alone",
        &json!({"input": "hi", "stream": true}),
    )
    .await?;
    undoes(
        "-- runs_admit",
        &json!({"input": "hi", "conversation": "c"}),
    )
    .await
}

#[tokio::test]
async fn a_run_that_was_stored_whole_unheard_is_undone() -> anyhow::Result<()> {
    // Its client waits for its end, which is known before it is written.
    undoes("-- runs_store_whole", &json!({"input": "hi"})).await
}

/// Makes a request whose run this statement stores, without anybody hearing of it.
async fn undoes(statement: &str, body: &Value) -> anyhow::Result<()> {
    let world = World::start().await?;
    ended(&world.stack).await?;
    world
        .stack
        .upstream
        .push(ResponsesStream::new().text(&["unheard"]).completed());

    world.proxy.cut_after_commit(statement);
    let silence = async {
        world.proxy.has_cut(1).await?;
        world.proxy.freeze();
        Ok(())
    };
    let refused = expect_unavailable(post(&world.stack, body));
    tokio::try_join!(silence, refused)?;
    world.proxy.thaw();

    talaria_testkit::deadline::within("the run to be undone", async {
        while world.count("response").await? > 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    })
    .await?
}

#[tokio::test]
async fn a_response_is_deleted_once_and_by_the_call_that_does() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (response, _) = ended(&world.stack).await?;
    let id = response["id"].as_str().context("no id")?;
    let path = format!("/v1/responses/{id}");

    world.proxy.cut_after_commit("-- response_delete");
    let deleted = world.call(Method::DELETE, &path, None).await?;

    world.proxy.has_cut(1).await?;
    assert_eq!(deleted.0, 200, "{deleted:?}");
    assert_eq!(world.call(Method::GET, &path, None).await?.0, 404);
    assert_eq!(world.call(Method::DELETE, &path, None).await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn each_change_of_a_conversation_is_made_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let item = |text: &str| json!({"type": "message", "role": "user", "content": text});
    let cuts = [
        "-- conversation_create",
        "-- conversation_update",
        "-- conversation_items_add",
        "-- conversation_item_delete",
        "-- conversation_delete",
    ];
    for cut in cuts {
        world.proxy.cut_after_commit(cut);
    }

    let body = json!({"items": [item("one")]});
    let (status, made) = world
        .call(Method::POST, "/v1/conversations", Some(body))
        .await?;
    assert_eq!(status, 200, "{made}");
    let path = format!(
        "/v1/conversations/{}",
        made["id"].as_str().context("no id")?
    );
    let body = json!({"metadata": {"a": "b"}});
    let (status, changed) = world.call(Method::POST, &path, Some(body)).await?;
    assert_eq!((status, &changed["metadata"]["a"]), (200, &json!("b")));
    let items = format!("{path}/items");
    let body = json!({"items": [item("two")]});
    let (status, added) = world.call(Method::POST, &items, Some(body)).await?;
    assert_eq!(status, 200, "{added}");
    let second = added["data"][0]["id"].as_str().context("no id")?;
    let (_, list) = world.call(Method::GET, &items, None).await?;
    assert_eq!(list["data"].as_array().map(Vec::len), Some(2), "{list}");
    let gone = format!("{items}/{second}");
    let (status, left) = world.call(Method::DELETE, &gone, None).await?;
    assert_eq!(status, 200, "{left}");
    let (_, list) = world.call(Method::GET, &items, None).await?;
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list}");
    let (status, deleted) = world.call(Method::DELETE, &path, None).await?;
    assert_eq!((status, &deleted["deleted"]), (200, &json!(true)));
    assert_eq!(world.call(Method::GET, &path, None).await?.0, 404);

    world.proxy.has_cut(cuts.len()).await
}

#[tokio::test]
async fn a_keyed_request_never_meets_a_response_that_is_being_deleted() -> anyhow::Result<()> {
    let world = World::start().await?;
    world
        .stack
        .upstream
        .choose(|_| Some(ResponsesStream::new().text(&["x"]).completed()));
    let body = json!({"input": "hi"});
    for round in 0..30 {
        let keyed = || post(&world.stack, &body).header("Idempotency-Key", "k");
        let first: Value = keyed().send().await?.error_for_status()?.json().await?;
        let id = first["id"].as_str().context("no id")?;
        let delete = world.stack.url(&format!("/v1/responses/{id}"));
        let (again, deleted) =
            tokio::try_join!(keyed().send(), world.stack.http.delete(delete).send())?;
        ensure!(deleted.status() == 200, "{round}: {}", deleted.status());
        ensure!(again.status() == 200, "{round}: {}", again.status());
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_is_whole_when_each_of_its_appends_is_repeated() -> anyhow::Result<()> {
    let world = World::start().await?;
    for _ in 0..20 {
        world.proxy.cut_after_commit("-- events_append");
    }
    let script = ResponsesStream::new().pace(Duration::from_millis(30));
    world
        .stack
        .upstream
        .push(script.numbered_text(40).completed());

    let frames = world.stack.stream(&json!({"input": "hi"})).await?.collect();
    let frames = frames.await?;

    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    world.proxy.has_cut(20).await?;
    let replayed = world.stack.replay(&seen.response_id, None).await?;
    assert_eq!(replayed.collect().await?, frames);
    Ok(())
}
