//! What to do about a model call that failed.

use std::time::Duration;

use crate::upstreams::{CallError, CallErrorKind, Form, Wait};

/// The longest that an upstream may make a run wait.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// How long a stream that the upstream keeps is gone on with although nothing new comes.
const LONGEST_QUIET: Duration = Duration::from_mins(1);

/// What to do when an answer breaks off of which something was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnBrokenStream {
    /// Close what was shown as incomplete, and ask again.
    #[default]
    Continue,
    /// The response fails; what was shown is kept.
    Fail,
}

/// The attempts at one step of a run so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// Which of the agent's upstreams is asked.
    pub upstream: usize,
    pub form: Form,
    /// How often this upstream was asked again.
    retries: u32,
    /// How often something was shown and broke off, wherever.
    continued: u32,
    /// How often in a row the upstream's stream was gone on with, and nothing new came.
    resumed: u32,
    /// This upstream was asked for a whole answer.
    asked_whole: bool,
    /// What is gone on with is another process's, and nothing of it was heard in this one.
    is_taken_over: bool,
}

/// A failed attempt, and where it happened.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    pub error: &'a CallError,
    /// Clients saw something of the step.
    pub shown: bool,
    /// The upstream keeps what it makes, and it is known how far its stream was taken in.
    pub is_linked: bool,
    /// The attempt said something new.
    pub has_progressed: bool,
    /// For how long the upstream has said nothing new.
    pub quiet: Duration,
    pub max_retries: u32,
    /// How many upstreams the agent has.
    pub upstreams: usize,
    pub on_broken_stream: OnBrokenStream,
}

/// What is done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Ask the same upstream again, after a pause that is no shorter than this.
    Again { at_least: Duration },
    /// Go on with the upstream's stream where it broke, after such a pause.
    Resume { at_least: Duration },
    /// Close what was shown, then ask the same upstream again after such a pause.
    GoOn { at_least: Duration },
    /// Ask again at once: the next upstream, or in another form.
    Otherwise,
    /// The step has failed.
    Fail,
}

impl Default for Attempts {
    fn default() -> Self {
        Self {
            upstream: 0,
            form: Form::Stream,
            retries: 0,
            continued: 0,
            resumed: 0,
            asked_whole: false,
            is_taken_over: false,
        }
    }
}

impl Attempts {
    /// Those at the step that a run stands in, which begins with `is_taken_over`: with going on where another process
    /// stopped.
    pub fn of(is_taken_over: bool) -> Self {
        Self {
            is_taken_over,
            ..Self::default()
        }
    }

    /// How many pauses there were: the next one is longer.
    pub fn pauses(&self) -> usize {
        (self.retries + self.continued + self.resumed) as usize
    }

    /// Decides about a failure, and counts it.
    pub fn decide(&mut self, failure: Failure<'_>) -> Decision {
        let kind = &failure.error.kind;
        let at_least = kind.retry_after().unwrap_or_default().min(LONGEST_WAIT);
        if failure.has_progressed {
            (self.resumed, self.is_taken_over) = (0, false);
        }
        let goes_on = kind.is_transient() && !matches!(kind, CallErrorKind::Reported { .. });
        // Once in any case: it repeats nothing.
        if failure.is_linked && goes_on && (self.resumed == 0 || failure.quiet < LONGEST_QUIET) {
            self.resumed += 1;
            return Decision::Resume { at_least };
        }
        self.resumed = 0;
        // That nobody can go on with it is no failure: it is closed and asked again, as after any crash.
        let is_over = matches!(kind, CallErrorKind::Reported { .. });
        let is_out_of_time = matches!(kind, CallErrorKind::Timeout(Wait::Total));
        if std::mem::take(&mut self.is_taken_over) && failure.shown && !is_over && !is_out_of_time {
            return Decision::GoOn { at_least };
        }
        let was_whole = std::mem::replace(&mut self.form, Form::Stream) == Form::Whole;
        if failure.shown {
            let goes_on = failure.on_broken_stream == OnBrokenStream::Continue
                && kind.is_transient()
                && self.continued < failure.max_retries;
            if !goes_on {
                return Decision::Fail;
            }
            self.continued += 1;
            return Decision::GoOn { at_least };
        }
        if failure.error.is_about_streaming() && !self.asked_whole {
            (self.form, self.asked_whole) = (Form::Whole, true);
            return Decision::Otherwise;
        }
        let has_next = self.upstream + 1 < failure.upstreams;
        let rather_next = has_next && matches!(kind, CallErrorKind::Unhealthy { .. });
        if kind.is_transient() && !was_whole && !rather_next && self.retries < failure.max_retries {
            self.retries += 1;
            return Decision::Again { at_least };
        }
        if !has_next || !another_may_do(kind) {
            return Decision::Fail;
        }
        self.upstream += 1;
        (self.retries, self.asked_whole) = (0, false);
        Decision::Otherwise
    }
}

/// Whether what this upstream could not do may be done by another.
fn another_may_do(kind: &CallErrorKind) -> bool {
    match kind {
        // A request that is wrong is wrong everywhere; a key or model that is wrong here may be right there.
        CallErrorKind::Status { status, .. } => {
            matches!(status, 401 | 403 | 404) || kind.is_transient()
        }
        CallErrorKind::Reported { transient } => *transient,
        CallErrorKind::Connect
        | CallErrorKind::Timeout(_)
        | CallErrorKind::Broken
        | CallErrorKind::Protocol
        | CallErrorKind::Empty
        | CallErrorKind::Unhealthy { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use talaria_domain::model::server_error;
    use talaria_proto::v1::ResponseError;

    use super::*;

    const ZERO: Duration = Duration::ZERO;
    const AGAIN: Decision = Decision::Again { at_least: ZERO };
    const GO_ON: Decision = Decision::GoOn { at_least: ZERO };
    const OTHERWISE: Decision = Decision::Otherwise;
    const FAIL: Decision = Decision::Fail;

    fn error(kind: CallErrorKind) -> CallError {
        let mut error = CallError::reported(server_error("It broke."));
        error.kind = kind;
        error
    }

    fn status(status: u16) -> CallError {
        error(CallErrorKind::Status {
            status,
            retry_after: None,
        })
    }

    fn reported(transient: bool) -> CallError {
        error(CallErrorKind::Reported { transient })
    }

    /// What is decided about `error` each time it comes again, two retries and two upstreams allowed.
    fn decisions(error: &CallError, shown: bool) -> Vec<Decision> {
        let mut attempts = Attempts::default();
        let mut decided = Vec::new();
        while decided.last() != Some(&FAIL) {
            decided.push(attempts.decide(Failure {
                error,
                shown,
                is_linked: false,
                has_progressed: false,
                quiet: ZERO,
                max_retries: 2,
                upstreams: 2,
                on_broken_stream: OnBrokenStream::Continue,
            }));
        }
        decided
    }

    #[test]
    fn what_may_pass_is_tried_again_and_then_elsewhere() {
        let everything = vec![AGAIN, AGAIN, OTHERWISE, AGAIN, AGAIN, FAIL];
        let elsewhere = vec![OTHERWISE, FAIL];
        let nothing = vec![FAIL];
        let table = [
            (error(CallErrorKind::Connect), everything.clone()),
            (error(CallErrorKind::Broken), everything.clone()),
            (error(CallErrorKind::Empty), everything.clone()),
            (
                error(CallErrorKind::Timeout(Wait::FirstByte)),
                everything.clone(),
            ),
            (
                error(CallErrorKind::Timeout(Wait::Idle)),
                everything.clone(),
            ),
            (
                error(CallErrorKind::Timeout(Wait::Total)),
                elsewhere.clone(),
            ),
            (status(408), everything.clone()),
            (status(409), everything.clone()),
            (status(429), everything.clone()),
            (status(500), everything.clone()),
            (status(529), everything.clone()),
            (status(401), elsewhere.clone()),
            (status(403), elsewhere.clone()),
            (status(404), elsewhere),
            (status(400), nothing.clone()),
            (status(413), nothing.clone()),
            (status(422), nothing.clone()),
            (reported(true), everything),
            (reported(false), nothing),
        ];
        for (error, expected) in table {
            assert_eq!(decisions(&error, false), expected, "{:?}", error.kind);
        }
    }

    #[test]
    fn an_answer_that_was_shown_in_part_is_gone_on_with_and_never_asked_for_elsewhere() {
        let table = [
            (error(CallErrorKind::Broken), vec![GO_ON, GO_ON, FAIL]),
            (
                error(CallErrorKind::Timeout(Wait::Idle)),
                vec![GO_ON, GO_ON, FAIL],
            ),
            (reported(true), vec![GO_ON, GO_ON, FAIL]),
            (reported(false), vec![FAIL]),
            (error(CallErrorKind::Timeout(Wait::Total)), vec![FAIL]),
            (error(CallErrorKind::Protocol), vec![FAIL]),
        ];
        for (error, expected) in table {
            assert_eq!(decisions(&error, true), expected, "{:?}", error.kind);
        }
    }

    #[test]
    fn a_stream_that_the_upstream_keeps_is_taken_up_again_until_nothing_new_comes() {
        let resume = Decision::Resume { at_least: ZERO };
        let failure = Failure {
            error: &error(CallErrorKind::Broken),
            shown: true,
            is_linked: true,
            has_progressed: true,
            quiet: ZERO,
            max_retries: 2,
            upstreams: 1,
            on_broken_stream: OnBrokenStream::Continue,
        };
        let mut attempts = Attempts::default();
        for _ in 0..100 {
            assert_eq!(attempts.decide(failure), resume);
        }
        let silent = |seconds| Failure {
            has_progressed: false,
            quiet: Duration::from_secs(seconds),
            ..failure
        };

        for seconds in 0..60 {
            assert_eq!(attempts.decide(silent(seconds)), resume);
        }
        assert_eq!(attempts.decide(silent(60)), GO_ON);
        let over = Failure {
            error: &reported(true),
            ..failure
        };
        assert_eq!(attempts.decide(over), GO_ON, "its response has failed");
    }

    #[test]
    fn an_upstream_that_cannot_stream_is_asked_once_for_a_whole_answer() {
        let refusal = |message: &str, param: Option<&str>| {
            let mut error = status(400);
            *error.error = ResponseError {
                param: param.map(str::to_owned),
                ..server_error(message)
            };
            error
        };
        let both = vec![OTHERWISE, OTHERWISE, OTHERWISE, FAIL];
        let table = [
            (error(CallErrorKind::Protocol), both),
            (refusal("No.", Some("stream")), vec![OTHERWISE, FAIL]),
            (
                refusal("Streaming is not supported.", None),
                vec![OTHERWISE, FAIL],
            ),
            (
                refusal("The stream of words is too long.", None),
                vec![FAIL],
            ),
        ];
        for (error, expected) in table {
            assert_eq!(decisions(&error, false), expected, "{error}");
        }

        let mut attempts = Attempts::default();
        let failure = Failure {
            error: &error(CallErrorKind::Protocol),
            shown: false,
            is_linked: false,
            has_progressed: false,
            quiet: ZERO,
            max_retries: 2,
            upstreams: 1,
            on_broken_stream: OnBrokenStream::Continue,
        };
        attempts.decide(failure);
        assert_eq!(attempts.form, Form::Whole);
        assert_eq!(attempts.decide(failure), FAIL);
    }

    #[test]
    fn the_operator_may_have_broken_answers_fail() {
        let failure = Failure {
            error: &error(CallErrorKind::Broken),
            shown: true,
            is_linked: false,
            has_progressed: false,
            quiet: ZERO,
            max_retries: 2,
            upstreams: 2,
            on_broken_stream: OnBrokenStream::Fail,
        };

        assert_eq!(Attempts::default().decide(failure), FAIL);
    }

    #[test]
    fn an_upstream_may_ask_for_a_minute_at_most_and_an_unhealthy_one_is_passed_by() {
        let seconds = Duration::from_secs;
        let slow = |retry_after| {
            error(CallErrorKind::Status {
                status: 429,
                retry_after: Some(retry_after),
            })
        };
        let unhealthy = error(CallErrorKind::Unhealthy {
            retry_after: seconds(9),
        });
        let decide = |error: &CallError, upstreams| {
            Attempts::default().decide(Failure {
                error,
                shown: false,
                is_linked: false,
                has_progressed: false,
                quiet: ZERO,
                max_retries: 2,
                upstreams,
                on_broken_stream: OnBrokenStream::Continue,
            })
        };
        let again = |after| Decision::Again {
            at_least: seconds(after),
        };

        assert_eq!(decide(&slow(seconds(7)), 1), again(7));
        assert_eq!(decide(&slow(seconds(3600)), 1), again(60));
        assert_eq!(decide(&unhealthy, 1), again(9));
        assert_eq!(decide(&unhealthy, 2), OTHERWISE);
    }

    #[test]
    fn what_another_process_began_and_nobody_can_go_on_with_is_asked_again_whatever_is_set() {
        let failure = Failure {
            error: &CallError::lost(),
            shown: true,
            is_linked: false,
            has_progressed: false,
            quiet: ZERO,
            max_retries: 0,
            upstreams: 1,
            on_broken_stream: OnBrokenStream::Fail,
        };
        let mut attempts = Attempts::of(true);

        assert_eq!(attempts.decide(failure), GO_ON);
        assert_eq!(attempts.decide(failure), FAIL, "once");
        let heard = Failure {
            has_progressed: true,
            ..failure
        };
        assert_eq!(Attempts::of(true).decide(heard), FAIL);
    }

    fn any_kind() -> impl Strategy<Value = CallErrorKind> {
        let status = prop::sample::select(vec![400, 401, 404, 408, 422, 429, 500, 503]);
        let retry_after = prop::option::of((0..9999_u64).prop_map(Duration::from_secs));
        let status =
            (status, retry_after).prop_map(|(status, retry_after)| CallErrorKind::Status {
                status,
                retry_after,
            });
        prop_oneof![
            status,
            Just(CallErrorKind::Connect),
            Just(CallErrorKind::Broken),
            Just(CallErrorKind::Empty),
            Just(CallErrorKind::Protocol),
            Just(CallErrorKind::Timeout(Wait::Idle)),
            Just(CallErrorKind::Timeout(Wait::Total)),
            any::<bool>().prop_map(|transient| CallErrorKind::Reported { transient }),
            Just(CallErrorKind::Unhealthy {
                retry_after: Duration::from_secs(3)
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_step_gives_up_however_its_upstreams_fail(
            failures in prop::collection::vec((any_kind(), any::<bool>(), any::<bool>()), 200),
            max_retries in 0..4_u32,
            upstreams in 1..4_usize,
        ) {
            let mut attempts = Attempts::default();
            let mut asked = 0;
            let mut quiet = ZERO;
            for (kind, shown, is_linked) in failures {
                prop_assert!(attempts.upstream < upstreams);
                asked += 1;
                let decision = attempts.decide(Failure {
                    error: &error(kind),
                    shown,
                    is_linked,
                    has_progressed: false,
                    quiet,
                    max_retries,
                    upstreams,
                    on_broken_stream: OnBrokenStream::Continue,
                });
                quiet = match decision {
                    Decision::Resume { .. } => quiet + Duration::from_secs(20),
                    _ => ZERO,
                };
                match decision {
                    Decision::Fail => break,
                    Decision::Again { at_least }
                    | Decision::GoOn { at_least }
                    | Decision::Resume { at_least } => {
                        prop_assert!(at_least <= LONGEST_WAIT);
                    }
                    Decision::Otherwise => {}
                }
            }
            // Each upstream: the first time, again, and once in another form; and going on. Each of them, or nothing at
            // all, is followed by a few attempts to take its stream up again.
            let most = upstreams * (2 + max_retries as usize) + max_retries as usize;
            let most = (most + 1) * 4;
            prop_assert!(asked <= most, "{asked} of {most}");
        }
    }
}
