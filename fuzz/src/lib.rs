//! What holds of upstreams' bytes, whatever they are: they are read without a panic, alike however they are cut, to one
//! outcome at most; and a run that is told of them has a log that folds, with one end.
//!
//! With a nightly toolchain and cargo-fuzz: `cargo +nightly fuzz run responses --features libfuzzer` in this folder's
//! parent, or `chat_completions`. On stable: `cargo run --release --manifest-path fuzz/Cargo.toml --bin mutate -- 60`
//! mutates a few streams for 60 seconds.

use talaria_domain::model::{ModelEvent, Outcome};
use talaria_domain::run::{End, Run, Step};
use talaria_domain::snapshot::{Snapshot, is_terminal_event};
use talaria_orchestrator::upstreams::reader::Reader;
use talaria_orchestrator::upstreams::responses::tracking::Tracking;
use talaria_proto::v1::{Event, Response, Status};
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(7);

/// Whose stream it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Responses,
    ChatCompletions,
}

/// What was said, and whether the end was an error.
type Said = (Vec<ModelEvent>, bool);

/// Panics unless the laws hold. The first byte says how long the pieces are in which the rest is read, and whether the
/// upstream keeps what it makes.
pub fn check(kind: Kind, bytes: &[u8]) {
    let (first, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let (length, is_kept) = (usize::from(first >> 1) + 1, first & 1 == 1);
    let said = read(kind, is_kept, [bytes]);
    assert_eq!(
        read(kind, is_kept, bytes.chunks(length)),
        said,
        "cut every {length} bytes"
    );

    let (events, is_broken) = said;
    let end = events
        .iter()
        .position(|event| matches!(event, ModelEvent::Finished { .. }));
    assert!(
        end.is_none_or(|end| end + 1 == events.len()),
        "something follows the end"
    );
    let log = told(&events, is_broken);
    check_log(&log);
    // Another process takes over from somewhere in the log.
    let at = 2 + usize::from(*first) % (log.len() - 2).max(1);
    let mut again = Run::resume(ID, fold(&log[..at.min(log.len() - 1)]));
    again.model_broke();
    let mut whole = log[..at.min(log.len() - 1)].to_vec();
    again.finish(&End::Cancelled, 1);
    whole.extend(again.take_events());
    check_log(&whole);
}

fn read<'a>(kind: Kind, is_kept: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> Said {
    let mut reader = match kind {
        Kind::Responses => Reader::responses(is_kept.then(|| Tracking::of_new("up"))),
        Kind::ChatCompletions => Reader::chat_completions(1),
    };
    let mut events = Vec::new();
    for piece in pieces {
        if reader.is_finished() {
            return (events, false);
        }
        if reader.push(piece, &mut events).is_err() {
            return (events, true);
        }
    }
    let is_broken = !reader.is_finished() && reader.finish(&mut events).is_err();
    (events, is_broken)
}

/// The log of a run that is told these events.
fn told(events: &[ModelEvent], is_broken: bool) -> Vec<Event> {
    let mut response = Response::default();
    response.set_status(Status::InProgress);
    let mut run = Run::create(ID, response);
    run.start();
    assert_eq!(run.next_step(), Step::CallModel);
    for event in events {
        // A failure is not the run's to know until nothing helps.
        let ModelEvent::Finished {
            outcome: Outcome::Failed(error),
            ..
        } = event
        else {
            run.on_model(event.clone());
            continue;
        };
        run.model_broke();
        run.finish(&End::Failed(error.clone()), 1);
        return run.take_events();
    }
    if is_broken {
        run.model_broke();
    } else {
        run.on_model_end();
    }
    let end = match run.next_step() {
        Step::Finish(end) => end,
        Step::CallModel | Step::RunTools(_) | Step::Wait(_) => End::Cancelled,
    };
    run.finish(&end, 1);
    run.take_events()
}

fn check_log(log: &[Event]) {
    assert!(fold(log).is_finished(), "it has no end");
    assert_eq!(
        log.iter().filter(|event| is_terminal_event(event)).count(),
        1
    );
}

fn fold(log: &[Event]) -> Snapshot {
    match Snapshot::of(log) {
        Ok(snapshot) => snapshot,
        Err(error) => panic!("the log does not fold: {error}"),
    }
}
