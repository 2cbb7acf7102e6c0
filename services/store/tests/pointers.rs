//! Whatever happens to runs in whatever order, the pointers, the line and what the next turn is shown are those of a
//! simple model.
//!
//! Three conversations of one tenant: two known by free names, one made by its id. After every step the tables are
//! compared with the model.

#[path = "pointers/model.rs"]
mod model;
#[path = "pointers/world.rs"]
mod world;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

use model::End;
use world::World;

/// Something that happens. The number is a conversation, or chooses among what is there.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A request that does not wait.
    Create(usize),
    Enqueue(usize),
    Interrupt(usize),
    /// One that is not stored.
    Ephemeral(usize),
    /// The orchestrator looks for work.
    Claim,
    /// The conversation's active response ends.
    End(usize, End),
    /// It is asked to stop, and does.
    Cancel(usize),
    /// One that waits is asked to stop.
    GiveUp(usize, usize),
    Delete(usize),
    /// Of the ended responses so many are kept.
    Evict(usize),
    AddItem(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let conversation = || 0..model::CONVERSATIONS;
    let end =
        prop_oneof![4 => Just(End::Completed), 1 => Just(End::Failed), 1 => Just(End::Cancelled)];
    prop_oneof![
        3 => conversation().prop_map(Step::Create),
        4 => conversation().prop_map(Step::Enqueue),
        2 => conversation().prop_map(Step::Interrupt),
        1 => conversation().prop_map(Step::Ephemeral),
        3 => Just(Step::Claim),
        6 => (conversation(), end).prop_map(|(conversation, end)| Step::End(conversation, end)),
        1 => conversation().prop_map(Step::Cancel),
        1 => (conversation(), any::<usize>()).prop_map(|(conversation, at)| Step::GiveUp(conversation, at)),
        2 => any::<usize>().prop_map(Step::Delete),
        1 => (0..4usize).prop_map(Step::Evict),
        1 => conversation().prop_map(Step::AddItem),
    ]
}

proptest! {
    #![proptest_config(Config {
        cases: 30,
        max_shrink_iters: 300,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pointers/regressions.txt"),
        ))),
        ..Config::default()
    })]

    /// REQ-36, REQ-37, REQ-38, REQ-39, REQ-40, REQ-41, REQ-42, REQ-43, REQ-52, REQ-55
    #[test]
    fn the_tables_are_as_a_simple_model_says(steps in vec(step(), 1..50)) {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime
            .block_on(live_through(&steps))
            .map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
    }
}

async fn live_through(steps: &[Step]) -> anyhow::Result<()> {
    use anyhow::Context as _;

    let mut world = World::begin().await?;
    for (number, step) in steps.iter().enumerate() {
        let outcome = take(&mut world, *step).await;
        outcome.with_context(|| format!("step {number}: {step:?}"))?;
        let compared = world.compare().await;
        compared.with_context(|| format!("after step {number}: {step:?}"))?;
    }
    world.drain().await
}

async fn take(world: &mut World, step: Step) -> anyhow::Result<()> {
    match step {
        Step::Create(conversation) => world.create(conversation).await,
        Step::Enqueue(conversation) => world.wait(conversation, false).await,
        Step::Interrupt(conversation) => world.wait(conversation, true).await,
        Step::Ephemeral(conversation) => world.ephemeral(conversation).await,
        Step::Claim => world.claim().await,
        Step::End(conversation, end) => world.end_active(conversation, end).await,
        Step::Cancel(conversation) => world.cancel_active(conversation).await,
        Step::GiveUp(conversation, at) => world.give_up(conversation, at).await,
        Step::Delete(at) => world.delete(at).await,
        Step::Evict(kept) => world.evict(kept).await,
        Step::AddItem(conversation) => world.add_item(conversation).await,
    }
}
