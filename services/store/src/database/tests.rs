//! The pool on a real server.

use futures::future::join_all;
use talaria_testkit::postgres::TestDatabase;

use super::*;

async fn pool(connections: usize) -> (TestDatabase, Database) {
    let database = TestDatabase::empty().await.unwrap();
    let pool = Server::new(&database.url).unwrap().pool(connections);
    (database, pool.unwrap())
}

#[tokio::test]
async fn sessions_limit_themselves_as_far_as_their_server_knows_how() {
    let (_database, pool) = pool(1).await;
    let setting = async |name: &str| -> Option<String> {
        let sql = "SELECT current_setting($1, true)";
        read(&pool, sql, &[&name]).await.unwrap()[0].get(0)
    };

    for (name, value) in [
        ("statement_timeout", "5s"),
        ("lock_timeout", "2s"),
        ("idle_in_transaction_session_timeout", "3s"),
        ("client_connection_check_interval", "2s"),
        ("synchronous_commit", "on"),
    ] {
        assert_eq!(setting(name).await.as_deref(), Some(value), "{name}");
    }
    // Servers before version 17 do not know it.
    if let Some(value) = setting("transaction_timeout").await {
        assert_eq!(value, "10s");
    }
}

#[tokio::test]
async fn no_more_than_so_many_wait_for_a_connection() {
    let (_database, pool) = pool(1).await;
    let held = pool.connection().await.unwrap();

    let too_many = join_all((0..=WAITING).map(|_| async {
        let connection = pool.connection().await;
        connection.map(drop)
    }));
    let release = async {
        // All have asked by now.
        tokio::task::yield_now().await;
        drop(held);
    };
    let (outcomes, ()) = tokio::join!(too_many, release);

    let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    let refused: Vec<String> = refused.map(ToString::to_string).collect();
    assert_eq!(refused, [Error::Busy.to_string()]);
}

#[tokio::test]
async fn a_connection_that_somebody_gave_up_is_not_waited_for_again_and_the_others_stay() {
    let database = TestDatabase::empty().await.unwrap();
    let server = Server::new(&database.url).unwrap();
    let (pool, other) = (server.pool(1).unwrap(), server.pool(1).unwrap());
    let pid = async |pool: &Database| -> i32 {
        let rows = read(pool, "SELECT pg_backend_pid()", &[]).await;
        rows.unwrap()[0].get(0)
    };
    let before = (pid(&pool).await, pid(&other).await);
    let sleep = read(&pool, "SELECT pg_sleep(4)", &[]);
    let given_up = tokio::time::timeout(2 * PATIENCE, sleep).await;
    assert!(given_up.is_err());

    let began = Instant::now();
    let after = (pid(&pool).await, pid(&other).await);

    // An answer to the doubtful connection would have been waited for a second long.
    assert!(began.elapsed() < Duration::from_secs(1), "{began:?}");
    assert_ne!(before.0, after.0);
    assert_eq!(before.1, after.1);
}

#[tokio::test]
async fn a_connection_that_was_killed_is_replaced_unseen() {
    let (database, pool) = pool(1).await;
    let pid = "SELECT pg_backend_pid()";
    let first: i32 = read(&pool, pid, &[]).await.unwrap()[0].get(0);
    let killer = database.connect().await.unwrap();
    let kill = "SELECT pg_terminate_backend($1, 5000)";
    killer.query(kill, &[&first]).await.unwrap();

    let second: i32 = read(&pool, pid, &[]).await.unwrap()[0].get(0);

    assert_ne!(first, second);
}
