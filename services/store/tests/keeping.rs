//! What the store keeps, shows, lists and forgets, on a real Postgres.

#[path = "keeping/conversations.rs"]
mod conversations;
#[path = "keeping/delete.rs"]
mod delete;
#[path = "keeping/fixture.rs"]
mod fixture;
#[path = "keeping/list.rs"]
mod list;
#[path = "keeping/migrations.rs"]
mod migrations;
#[path = "keeping/owners.rs"]
mod owners;
#[path = "keeping/rebuilt.rs"]
mod rebuilt;
#[path = "keeping/retention.rs"]
mod retention;
#[path = "keeping/turns.rs"]
mod turns;
