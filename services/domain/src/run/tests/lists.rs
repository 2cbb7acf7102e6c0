//! The lists of the tools of servers that a request names.

use super::tools::{call, run_tools, run_with, says, shown, tools};
use super::*;
use crate::snapshot::Snapshot;

fn lines(events: &[Event]) -> Vec<String> {
    let shown = shown(events);
    shown
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[test]
fn a_list_is_an_item_with_its_progress_and_belongs_to_no_step_of_the_model() {
    let mut run = run_with(tools(ToolShape::McpCall, true), Limits::default());
    let there = run.list_started("docs");
    let gone = run.list_started("gone");
    run.list_ended(gone, Err("it is gone".into()));
    run.list_ended(there, Ok(vec![json!({"name": "look", "input_schema": {}})]));
    says(&mut run, vec![call(0, "look", "{}")]);

    let calls = run_tools(&mut run);

    assert_eq!(calls[0].output_index, 2);
    let docs = r#"{"id":"mcpl_o0","type":"mcp_list_tools","server_label":"docs","tools":[]}"#;
    let listed = docs.replace("[]", r#"[{"name":"look","input_schema":{}}]"#);
    let missing = r#"{"id":"mcpl_o1","type":"mcp_list_tools","server_label":"gone","tools":[]}"#;
    let failed = missing.replace("[]}", r#"[],"error":"it is gone"}"#);
    let expected = [
        format!("2 added 0 {docs}"),
        "3   response.mcp_list_tools.in_progress".to_owned(),
        format!("4 added 1 {missing}"),
        "5   response.mcp_list_tools.in_progress".to_owned(),
        "6   response.mcp_list_tools.failed".to_owned(),
        format!("7 done 1 {failed}"),
        "8   response.mcp_list_tools.completed".to_owned(),
        format!("9 done 0 {listed}"),
    ];
    assert_eq!(lines(&run.take_events()[2..10]), expected);
}

#[test]
fn a_list_that_a_crash_interrupted_ends_with_an_error() {
    let mut run = run_with(tools(ToolShape::McpCall, true), Limits::default());
    run.list_started("docs");
    let snapshot = Snapshot::of(&run.take_events()).unwrap();

    let mut resumed = Run::resume(ID, snapshot);

    let expected = [
        "4   response.mcp_list_tools.failed",
        r#"5 done 0 {"id":"mcpl_o0","type":"mcp_list_tools","server_label":"docs","tools":[],"error":"The process that asked the server for its tools stopped before it had them."}"#,
    ];
    assert_eq!(lines(&resumed.take_events()), expected);
    assert_eq!(resumed.next_step(), Step::CallModel);
}

#[test]
fn one_run_shows_calls_of_both_shapes() {
    let mut mixed = ServerTools::clone(&tools(ToolShape::FunctionCall, true));
    if let Some(tool) = mixed.tools.get_mut("look") {
        tool.shape = ToolShape::McpCall;
    }
    let mut run = run_with(Arc::new(mixed), Limits::default());

    says(&mut run, vec![call(0, "look", "{}"), call(1, "put", "{}")]);

    let types: Vec<String> = run
        .output()
        .iter()
        .filter_map(|item| serde_json::from_slice::<Head>(&item.item).ok())
        .map(|head| head.item_type)
        .collect();
    assert_eq!(types, ["mcp_call", "function_call"]);
    assert_eq!(run_tools(&mut run).len(), 2);
}
