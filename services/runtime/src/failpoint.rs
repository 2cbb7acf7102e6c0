//! Points at which tests make things go wrong, and bugs that tests must find.
//!
//! Nothing of it is in the product as it is shipped: without the feature `failpoints`, [`hit`] is a constant.
//!
//! `TALARIA_FAILPOINTS` arms points when the process starts: `seed=7;append.before=2:crash;tool.after_intent=0.5:sleep 3000`
//! lets the process abort in 2 of 100 cases at the one, and wait 3 s in 1 of 200 at the other; `error` lets the code at
//! the point act as if it had failed. `TALARIA_KNOWN_BUG` names one [`Bug`].

#[cfg(feature = "failpoints")]
mod armed;

#[cfg(feature = "failpoints")]
pub use armed::{has, hit, is_armed};

/// A bug that can be put in, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// `fence-exists`: an append is fenced by looking at the lease and the epoch instead of by comparing and setting the row.
    FenceExists,
    /// `publish-early`: events are shown before they are written.
    PublishEarly,
    /// `no-intent`: tools are called before it is written that they will be.
    NoIntent,
    /// `key-taken-over`: an idempotency key that is there already becomes the later request's.
    KeyTakenOver,
    /// `ledger-ignored`: a call without a result is made again, whatever its effect.
    LedgerIgnored,
}

impl Bug {
    /// Its name in `TALARIA_KNOWN_BUG`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FenceExists => "fence-exists",
            Self::PublishEarly => "publish-early",
            Self::NoIntent => "no-intent",
            Self::KeyTakenOver => "key-taken-over",
            Self::LedgerIgnored => "ledger-ignored",
        }
    }
}

/// Passes a point. True: the caller is to act as if it had failed here.
#[cfg(not(feature = "failpoints"))]
pub fn hit(_point: &'static str) -> std::future::Ready<bool> {
    std::future::ready(false)
}

/// Whether this process has the bug.
#[cfg(not(feature = "failpoints"))]
pub const fn has(_bug: Bug) -> bool {
    false
}
