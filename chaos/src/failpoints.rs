//! Which failpoints are armed, and how often they fire.

/// The usual mixture: a few crashes, delays and lost answers in each episode, at every point.
pub const USUAL: &str = "\
    append.after_sql_before_commit=0.03:crash;\
    append.after_sql_before_commit=0.2:sleep 300;\
    append.after_sql_before_commit=0.03:sleep 2500;\
    append.after_sql_before_commit=0.1:error;\
    append.after_commit_before_reply=0.03:crash;\
    append.after_commit_before_reply=0.1:error;\
    append.after_ack_before_publish=0.02:crash;\
    append.after_ack_before_publish=0.1:sleep 200;\
    admit.after_commit_before_reply=0.3:crash;\
    admit.after_commit_before_reply=0.5:error;\
    finish.before=0.3:crash;\
    finish.before=0.5:error;\
    finish.after_commit_before_reply=0.3:crash;\
    finish.after_commit_before_reply=0.5:error;\
    claim.after_commit=0.2:crash;\
    seal.before=2:crash;\
    tool.after_intent=0.5:crash;\
    tool.after_intent=0.5:sleep 2000;\
    tool.after_reply_before_result=0.5:crash;\
    lease.renew=5:error;\
    lease.renew=0.5:sleep 12000";

/// For bugs that need a writer that stalls: at the moments at which the usual ones rarely do.
const STALLING: &str = "\
    append.after_sql_before_commit=0.5:sleep 2500;\
    append.after_sql_before_commit=0.2:crash;\
    append.after_commit_before_reply=0.1:crash;\
    tool.after_intent=1:sleep 3000;\
    tool.after_reply_before_result=1:crash;\
    seal.before=2:crash";

/// A bug that the product can be given, and what brings it to light.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// As `TALARIA_KNOWN_BUG` takes it.
    pub bug: &'static str,
    pub failpoints: &'static str,
}

/// All of them.
pub const MUTANTS: [Mutant; 6] = [
    Mutant {
        bug: "fence-exists",
        failpoints: STALLING,
    },
    Mutant {
        bug: "publish-early",
        failpoints: STALLING,
    },
    Mutant {
        bug: "no-seal",
        failpoints: "",
    },
    Mutant {
        bug: "no-intent",
        failpoints: STALLING,
    },
    Mutant {
        bug: "key-taken-over",
        failpoints: "",
    },
    Mutant {
        bug: "ledger-ignored",
        failpoints: "",
    },
];

/// What `--failpoints` means.
pub fn named(text: &str) -> String {
    match text {
        "usual" => USUAL,
        "stalling" => STALLING,
        other => other,
    }
    .to_owned()
}
