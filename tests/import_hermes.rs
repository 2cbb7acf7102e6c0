//! `talaria import hermes`: what a Hermes server stored is found here, whole, and goes on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rusqlite::params;
use serde_json::{Value, json};
use talaria_testkit::deadline::within;
use talaria_testkit::postgres::TestDatabase;
use talaria_testkit::process::Process;
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::ResponsesStream;
use tempfile::TempDir;
use tokio::process::Command;

#[path = "import_hermes/store.rs"]
mod store;

use store::{SESSIONS, Schema, Stored, hundred, last_of};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

/// A directory for a store, and a database.
struct Scene {
    directory: TempDir,
    database: TestDatabase,
}

impl Scene {
    async fn new() -> anyhow::Result<Self> {
        Ok(Self {
            directory: TempDir::new()?,
            database: TestDatabase::empty().await?,
        })
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("response_store.db")
    }

    fn arguments(&self) -> anyhow::Result<[String; 6]> {
        let path = self.path();
        let from = path.to_str().context("an odd path")?;
        let url = self.database.url.as_str();
        Ok(["import", "hermes", "--from", from, "--database-url", url].map(str::to_owned))
    }

    /// Imports the store.
    async fn import(&self) -> anyhow::Result<Outcome> {
        self.import_with(&[]).await
    }

    async fn import_with(&self, further: &[&str]) -> anyhow::Result<Outcome> {
        let arguments = self.arguments()?;
        let mut import = Command::new(TALARIA);
        let output = import
            .args(arguments)
            .args(further)
            .env_clear()
            .kill_on_drop(true)
            .output();
        let output = within("the end of the import", output).await??;
        let lines = |text| {
            anyhow::Ok(
                String::from_utf8(text)?
                    .lines()
                    .map(str::to_owned)
                    .collect(),
            )
        };
        let mut errors: Vec<String> = lines(output.stderr)?;
        // Not what is logged.
        errors.retain(|line| line.starts_with("talaria: "));
        Ok(Outcome {
            code: output.status.code(),
            report: lines(output.stdout)?,
            errors,
        })
    }

    async fn serve(&self) -> anyhow::Result<Stack> {
        let options = Options {
            database_url: Some(self.database.url.clone()),
            ..Options::default()
        };
        Stack::serve_with(TALARIA, options).await
    }

    /// All rows that an import writes, as text.
    async fn rows(&self) -> anyhow::Result<Vec<String>> {
        const SQL: &str = "
            SELECT 'response ' || r::text AS line FROM response r
            UNION ALL SELECT 'final ' || f::text FROM response_final f
            UNION ALL SELECT 'turn ' || t::text FROM turn t
            UNION ALL SELECT 'conversation ' || c::text FROM conversation c
            ORDER BY line";
        let session = self.database.connect().await?;
        let rows = session.query(SQL, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// How an import ended.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    report: Vec<String>,
    errors: Vec<String>,
}

impl Outcome {
    /// The report of an import that left nothing out.
    fn whole(self) -> anyhow::Result<Vec<String>> {
        anyhow::ensure!(self.code == Some(0) && self.errors.is_empty(), "{self:?}");
        Ok(self.report)
    }

    /// The report of an import that left something out, and its last words.
    fn partial(self) -> anyhow::Result<(Vec<String>, String)> {
        anyhow::ensure!(self.code == Some(1) && self.errors.len() == 1, "{self:?}");
        Ok((self.report, self.errors.concat()))
    }
}

/// The items without ids.
fn without_ids(items: &Value) -> Vec<Value> {
    let mut items = items.as_array().cloned().unwrap_or_default();
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        item.shift_remove("id");
    }
    items
}

/// Compares what a client is shown with what was stored.
async fn check_shown(stack: &Stack, stored: &Stored) -> anyhow::Result<()> {
    let (status, response) = stack.get(&stored.id).await?;
    let shown = &stored.data["response"];
    let id = &stored.id;
    assert_eq!(status, 200, "{id}: {response}");
    assert_eq!(response["id"], shown["id"]);
    assert_eq!(response["status"], stored.status, "{id}");
    assert_eq!(response["created_at"], shown["created_at"], "{id}");
    assert_eq!(response["model"], shown["model"], "{id}");
    assert_eq!(
        response["error"]["message"], shown["error"]["message"],
        "{id}"
    );
    assert_eq!(
        response["instructions"], stored.data["instructions"],
        "{id}"
    );
    assert_eq!(
        response["usage"]["total_tokens"], shown["usage"]["total_tokens"],
        "{id}"
    );
    assert_eq!(
        response["previous_response_id"],
        json!(stored.previous),
        "{id}"
    );
    assert_eq!(without_ids(&response["output"]), stored.output, "{id}");
    Ok(())
}

/// Runs a turn, and compares what the model is shown with the stored context and the new question.
async fn check_continued(stack: &Stack, body: &Value, stored: &Stored) -> anyhow::Result<()> {
    let before = stack.upstream.requests().len();
    stack
        .upstream
        .push(ResponsesStream::new().text(&["On it goes."]).completed());
    let answer = stack.create(body).await?;
    let session = answer.headers().get("x-hermes-session-id").cloned();
    let response: Value = answer.json().await?;
    assert_eq!(response["status"], "completed", "{response}");
    assert_eq!(
        session.as_ref().and_then(|session| session.to_str().ok()),
        Some(stored.session.as_str())
    );

    let request = stack.upstream.request(before).await?;
    let mut expected = stored.context.clone();
    expected.push(json!({
        "type": "message", "role": "user", "content": [{"type": "input_text", "text": "and now?"}],
    }));
    assert_eq!(without_ids(&request.body["input"]), expected);
    Ok(())
}

/// REQ-44, REQ-47
#[tokio::test]
async fn a_store_of_either_schema_is_shown_and_continued_as_it_was() -> anyhow::Result<()> {
    for schema in [Schema::Released, Schema::TwoPointers] {
        let scene = Scene::new().await?;
        let stored = hundred();
        drop(store::write(&scene.path(), schema, &stored));

        let lines = scene.import().await?.whole()?;

        assert_eq!(
            lines,
            [
                "Imported 100 responses and 10 conversations.",
                "Had not ended, incomplete now: 5 responses.",
            ]
        );
        let stack = scene.serve().await?;
        for one in &stored {
            check_shown(&stack, one).await?;
        }
        for session in 0..SESSIONS {
            let last = last_of(&stored, session);
            let by_id = json!({"input": "and now?", "previous_response_id": last.id});
            check_continued(&stack, &by_id, last).await?;
            let by_name = json!({"input": "and now?", "conversation": format!("chat {session}")});
            check_continued(&stack, &by_name, last).await?;
        }
    }
    Ok(())
}

/// REQ-35
#[tokio::test]
async fn only_completed_ones_can_be_continued_and_each_can_be_deleted_and_replayed()
-> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let stored = &hundred()[..store::TURNS];
    drop(store::write(&scene.path(), Schema::Released, stored));
    scene.import().await?.whole()?;
    let stack = scene.serve().await?;

    for one in stored {
        if one.status != "completed" {
            let body = json!({"input": "and now?", "previous_response_id": one.id});
            assert_eq!(stack.create(&body).await?.status(), 409);
        }
        let frames = stack.replay(&one.id, None).await?.collect().await?;
        let end = frames.iter().rev().nth(1).context("a replay has an end")?;
        let end = end.json();
        assert_eq!(end["response"]["status"], one.status);
        assert_eq!(without_ids(&end["response"]["output"]), one.output);
        // What a reader of the replay has seen, it is not shown again.
        let last = i64::try_from(frames.len() - 2)?;
        assert_eq!(end["sequence_number"], last);
        let rest = stack.replay(&one.id, Some(last)).await?.collect().await?;
        assert!(
            rest.iter().all(talaria_testkit::sse::Frame::is_done_mark),
            "{rest:?}"
        );
    }
    for one in stored {
        let url = stack.url(&format!("/v1/responses/{}", one.id));
        stack.http.delete(url).send().await?.error_for_status()?;
        assert_eq!(stack.get(&one.id).await?.0, 404);
    }
    // The name starts afresh.
    stack
        .upstream
        .push(ResponsesStream::new().text(&["New."]).completed());
    stack
        .create_json(&json!({"input": "hello", "conversation": "chat 0"}))
        .await?;
    let shown = stack.upstream.request(0).await?;
    assert_eq!(without_ids(&shown.body["input"]).len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_import_may_be_repeated_and_goes_on_where_one_was_killed() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let stored = hundred();
    drop(store::write(&scene.path(), Schema::Released, &stored));
    // The database is made, and then somebody holds the place of one response.
    let empty = scene.directory.path().join("response_store.db.all");
    fs::rename(scene.path(), &empty)?;
    drop(store::write(&scene.path(), Schema::Released, &[]));
    scene.import().await?.whole()?;
    fs::rename(&empty, scene.path())?;
    let mut session = scene.database.connect().await?;
    let held = session.transaction().await?;
    let id = stored[15].id.replace("resp_", "0000");
    held.execute(
        "INSERT INTO response (id, tenant, status, epoch, next_seq) VALUES ($1::text::uuid, 'x', 3, 1, 1)",
        &[&id],
    )
    .await?;

    let arguments = scene.arguments()?;
    let mut import = Process::start(TALARIA, &arguments.each_ref().map(String::as_str), &[])?;
    let watcher = scene.database.connect().await?;
    let waits = async {
        const SQL: &str = "
            SELECT 1
            FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%response_import%'";
        while watcher.query(SQL, &[]).await?.is_empty() {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    within("the import to come to the held response", waits).await??;
    import.kill9().await?;
    held.rollback().await?;
    let partly = scene.rows().await?;
    let second = scene.import().await?.whole()?;
    let whole = scene.rows().await?;
    let third = scene.import().await?.whole()?;

    assert!(!partly.is_empty(), "the import was killed before it began");
    assert!(
        partly.iter().all(|row| whole.contains(row)),
        "a row was changed"
    );
    let written = partly
        .iter()
        .filter(|row| row.starts_with("response "))
        .count();
    assert_eq!(
        second[..2],
        [
            format!("Imported {} responses and 10 conversations.", 100 - written),
            format!("There already: {written} responses and 0 conversations."),
        ]
    );
    assert_eq!(
        third[..2],
        [
            "Imported 0 responses and 0 conversations.",
            "There already: 100 responses and 10 conversations.",
        ]
    );
    assert_eq!(scene.rows().await?, whole);
    assert_eq!(whole.len(), 310);
    let stack = scene.serve().await?;
    for one in &stored {
        check_shown(&stack, one).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_later_import_brings_what_was_added_but_not_over_what_went_on_here() -> anyhow::Result<()>
{
    let scene = Scene::new().await?;
    let stored = &hundred()[..2 * store::TURNS];
    let early: Vec<Stored> = [0, 1, 10, 11]
        .map(|index: usize| stored[index].clone())
        .into();
    let path = scene.path();
    let hermes = store::write(&path, Schema::Released, &early);
    for (name, id) in [("chat 0", &early[1].id), ("chat 1", &early[3].id)] {
        hermes.execute("INSERT INTO conversations VALUES (?, ?)", params![name, id])?;
    }
    drop(hermes);
    scene.import().await?.whole()?;
    {
        let stack = scene.serve().await?;
        stack
            .upstream
            .push(ResponsesStream::new().text(&["Here."]).completed());
        stack
            .create_json(&json!({"input": "and now?", "conversation": "chat 1"}))
            .await?;
    }
    fs::remove_file(&path)?;
    drop(store::write(&path, Schema::TwoPointers, stored));

    let lines = scene.import().await?.whole()?;

    assert_eq!(
        lines[..2],
        [
            "Imported 16 responses and 1 conversation.",
            "There already: 4 responses and 1 conversation.",
        ]
    );
    let stack = scene.serve().await?;
    let by_name = |name: &str| json!({"input": "and now?", "conversation": name});
    check_continued(&stack, &by_name("chat 0"), last_of(stored, 0)).await?;
    let mut here = early[3].clone();
    here.context.extend([
        json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "and now?"}]}),
        json!({
            "type": "message", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": "Here."}],
        }),
    ]);
    check_continued(&stack, &by_name("chat 1"), &here).await
}

/// Hermes' ids are random: here the oldest has the highest.
#[tokio::test]
async fn a_session_goes_on_from_its_newest_answer_whatever_the_ids() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let stored = &hundred()[..store::TURNS];
    for count in [2, store::TURNS] {
        let hermes = store::write(&scene.path(), Schema::Released, &stored[..count]);
        hermes.execute_batch(
            "DELETE FROM conversations;
             UPDATE responses SET response_id = printf('resp_%028x', 1000 - rowid);",
        )?;
        drop(hermes);
        scene.import().await?.whole()?;
        fs::remove_file(scene.path())?;
    }
    let stack = scene.serve().await?;
    let last = last_of(stored, 0);
    let mut expected = last.context.clone();

    for question in ["and now?", "and then?"] {
        let before = stack.upstream.requests().len();
        stack
            .upstream
            .push(ResponsesStream::new().text(&["So."]).completed());
        let chat = json!({"messages": [{"role": "user", "content": question}]});
        stack
            .http
            .post(stack.url("/v1/chat/completions"))
            .header("X-Hermes-Session-Id", &last.session)
            .json(&chat)
            .send()
            .await?
            .error_for_status()?;

        expected.push(json!({
            "type": "message", "role": "user", "content": [{"type": "input_text", "text": question}],
        }));
        let request = stack.upstream.request(before).await?;
        assert_eq!(without_ids(&request.body["input"]), expected);
        expected.push(json!({
            "type": "message", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": "So."}],
        }));
    }
    Ok(())
}

#[tokio::test]
async fn a_name_that_is_in_use_here_is_left_alone() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let stored = &hundred()[..store::TURNS];
    drop(store::write(&scene.path(), Schema::Released, stored));
    let stack = scene.serve().await?;
    stack
        .upstream
        .push(ResponsesStream::new().text(&["Mine."]).completed());
    let mine = stack
        .create_json(&json!({"input": "hi", "conversation": "chat 0"}))
        .await?;

    let (lines, end) = scene.import().await?.partial()?;

    assert_eq!(
        lines[1..],
        [
            "Skipped: 1.",
            "  conversation \"chat 0\": there is another of this name",
        ]
    );
    assert_eq!(lines[0], "Imported 10 responses and 0 conversations.");
    assert_eq!(end, "talaria: not everything was imported: skipped 1");
    let session = scene.database.connect().await?;
    let row = session
        .query_one(
            "SELECT 'resp_' || replace(head_turn_id::text, '-', '') FROM conversation",
            &[],
        )
        .await?;
    assert_eq!(
        row.get::<_, &str>(0),
        mine["id"].as_str().unwrap_or_default()
    );
    Ok(())
}

#[tokio::test]
async fn what_another_tenant_has_is_left_alone() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let stored = &hundred()[..store::TURNS];
    drop(store::write(&scene.path(), Schema::Released, stored));
    scene.import().await?.whole()?;
    let before = scene.rows().await?;

    let (lines, end) = scene.import_with(&["--tenant", "other"]).await?.partial()?;

    assert_eq!(lines[0], "Imported 0 responses and 0 conversations.");
    let id = &stored[0].id;
    let taken = format!("  response {id}: another tenant has one of this id");
    assert!(lines.contains(&taken), "{lines:?}");
    assert_eq!(end, "talaria: not everything was imported: skipped 11");
    assert_eq!(scene.rows().await?, before);
    Ok(())
}

/// REQ-48
#[tokio::test]
async fn odd_records_are_brought_over_as_well_as_they_can_be() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let database = store::write(&scene.path(), Schema::Released, &[]);
    let record = |texts: &[&str], more: &Value| {
        let history: Vec<Value> = texts
            .iter()
            .zip(["user", "assistant"].iter().cycle())
            .map(|(text, role)| json!({"role": role, "content": text}))
            .collect();
        let said = texts.last().copied().unwrap_or_default();
        let mut data = json!({
            "response": {"status": "completed", "created_at": 1_780_000_000.7, "output": [
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": said}]},
            ]},
            "conversation_history": history,
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            data[name] = value.clone();
        }
        data.to_string()
    };
    let own = "resp_01923456789a7bcd8ef0123456789abc";
    let session = json!({"session_id": "s"});
    let rows = [
        ("chatcmpl-1", record(&["a", "b"], &session)),
        (own, record(&["a", "b", "c", "d"], &json!({}))),
        (
            "resp_0",
            record(
                &["a", "b", "c", "d", "e", "f"],
                &json!({"session_id": "a\u{0}b"}),
            ),
        ),
        ("broken", "{\"response\":".to_owned()),
        ("empty", "{}".to_owned()),
        (
            "half",
            record(&["x", "HALF"], &json!({})).replace("HALF", "\\ud83d"),
        ),
    ];
    for (id, data) in &rows {
        database.execute("INSERT INTO responses VALUES (?, ?, 0)", params![id, data])?;
    }
    for (name, id) in [("one", own), ("lost", "resp_1"), ("", own), ("conv_1", own)] {
        database.execute("INSERT INTO conversations VALUES (?, ?)", params![name, id])?;
    }
    database.execute_batch("ALTER TABLE responses ADD COLUMN later TEXT")?;
    drop(database);

    let (lines, end) = scene.import().await?.partial()?;

    insta::assert_snapshot!(format!("{}\n{end}", lines.join("\n")), @r#"
    Imported 4 responses and 1 conversation.
    Under another id: 3 responses.
      chatcmpl-1 is resp_e2465e3ee75d1c07ff2c1d7c2911
      half is resp_02cd847de08fe186f49853c0cdb2
      resp_0 is resp_b0569d681d80afb5bee46ee10233
    Skipped: 5.
      response broken: its data is no valid JSON: EOF while parsing a value at line 1 column 12
      response empty: its data holds no response
      conversation "": its name is blank
      conversation "conv_1": its name begins with conv_, as only ids do
      conversation "lost": it continues from resp_1, which is not in the store
    talaria: not everything was imported: skipped 5
    "#);
    let stack = scene.serve().await?;
    stack
        .upstream
        .push(ResponsesStream::new().text(&["So."]).completed());
    let body = json!({"input": "g", "conversation": "one"});
    let answer = stack.create(&body).await?;
    assert_eq!(answer.headers()["x-hermes-session-id"], "s");
    let shown = stack.upstream.request(0).await?;
    let texts: Vec<&Value> = shown.body["input"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| &item["content"][0]["text"])
        .collect();
    assert_eq!(texts, ["a", "b", "c", "d", "g"]);
    Ok(())
}

#[tokio::test]
async fn what_a_damaged_file_still_holds_is_imported() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let stored = hundred();
    drop(store::write(&scene.path(), Schema::Released, &stored));
    let length = fs::metadata(scene.path())?.len();
    fs::File::options()
        .write(true)
        .open(scene.path())?
        .set_len(length * 6 / 10)?;

    let (lines, end) = scene.import().await?.partial()?;

    let imported: usize = lines[0].split(' ').nth(1).context("a number")?.parse()?;
    assert!(
        end.starts_with("talaria: not everything was imported"),
        "{end}"
    );
    assert!((20..100).contains(&imported), "{lines:?}");
    assert!(
        lines.iter().any(|line| line.contains("malformed")),
        "{lines:?}"
    );
    let stack = scene.serve().await?;
    let mut found = 0;
    for one in &stored {
        let (status, response) = stack.get(&one.id).await?;
        if status == 200 {
            found += 1;
            assert_eq!(without_ids(&response["output"]), one.output);
        }
    }
    assert_eq!(found, imported);
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_no_response_store_is_refused_in_one_line() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let path = scene.path();
    let shown = path.display();
    let refused = async |code| {
        let outcome = scene.import().await?;
        anyhow::ensure!(
            outcome.code == Some(code) && outcome.report.is_empty(),
            "{outcome:?}"
        );
        anyhow::Ok(outcome.errors.join("\n"))
    };

    assert_eq!(
        refused(2).await?,
        format!("talaria: --from: there is no file {shown}")
    );
    fs::write(&path, "name,text\n".repeat(1000))?;
    assert_eq!(
        refused(1).await?,
        format!("talaria: {shown} is no SQLite file")
    );
    fs::write(&path, "")?;
    let no_table =
        format!("talaria: {shown} is no Hermes response store: it has no table `responses`");
    assert_eq!(refused(1).await?, no_table);
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_open_elsewhere_is_read_with_its_log_and_not_touched() -> anyhow::Result<()>
{
    fn files(directory: &Path) -> anyhow::Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            files.push((path.clone(), fs::read(path)?));
        }
        files.sort();
        Ok(files)
    }
    let scene = Scene::new().await?;
    let stored = &hundred()[..store::TURNS];
    let hermes = store::write(&scene.path(), Schema::Released, &stored[..5]);
    hermes.pragma_update(None, "journal_mode", "wal")?;
    hermes.pragma_update(None, "wal_autocheckpoint", 0)?;
    for one in &stored[5..] {
        hermes.execute(
            "INSERT INTO responses VALUES (?, ?, 0)",
            params![one.id, one.data.to_string()],
        )?;
    }
    let before = files(scene.directory.path())?;
    assert_eq!(before.len(), 3, "the log is not empty");

    let lines = scene.import().await?.whole()?;

    assert_eq!(lines[0], "Imported 10 responses and 0 conversations.");
    assert_eq!(files(scene.directory.path())?, before);
    Ok(())
}

#[tokio::test]
async fn the_private_postgres_is_imported_into_while_nobody_runs_on_it() -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    // A directory that the user Postgres runs as can reach.
    let directory = TempDir::new()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let data_dir = directory.path().join("data");
    let data_dir = data_dir.to_str().context("an odd path")?;
    let path = directory.path().join("response_store.db");
    let stored = &hundred()[..store::TURNS];
    drop(store::write(&path, Schema::Released, stored));
    let from = path.to_str().context("an odd path")?;
    let import = ["import", "hermes", "--from", from, "--data-dir", data_dir];
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir];

    let mut first = Process::start(TALARIA, &import, &[])?;
    first
        .wait_for_line(|line| line == "Imported 10 responses and 1 conversation.")
        .await?;
    first.wait_for_success().await?;
    let server = Process::start(TALARIA, &serve, &[])?;
    let address = server.wait_for_address("listens on").await?;
    let url = format!("http://{address}/v1/responses/{}", stored[0].id);
    let response: Value = reqwest::get(url).await?.json().await?;
    let second = Process::start(TALARIA, &import, &[])?;
    let refusal = second
        .wait_for_line(|line| line.starts_with("talaria: "))
        .await?;

    assert_eq!(without_ids(&response["output"]), stored[0].output);
    let (place, advice) = refusal
        .split_once(&server.id().to_string())
        .context(refusal.clone())?;
    assert!(
        place.ends_with("is in use by the talaria process "),
        "{refusal}"
    );
    assert_eq!(
        advice,
        ": stop it for the time of the import, or give --database-url if its database is another"
    );
    Ok(())
}
