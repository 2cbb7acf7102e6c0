-- Leases that end without being forgotten. All of it is additional, and takes a moment: the version before runs on, which
-- takes an ended lease for one that ran out.

ALTER TABLE orchestrator
    -- The machine and network in which the address is one; empty for unknown.
    ADD COLUMN machine        text        NOT NULL DEFAULT '',
    -- When the lease was last renewed.
    ADD COLUMN renewed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Since when no renewal was missed: who could not renew cannot tell that others did not want to.
    ADD COLUMN unbroken_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- When the lease was ended. NULL: it was not, though it may have run out.
    ADD COLUMN ended_at       timestamptz,
    -- The process was found to be gone, instead of leaving in order.
    ADD COLUMN died           boolean     NOT NULL DEFAULT false;

-- The process that had the run before it began to wait for a person. While `waits_until` is set nobody executes the
-- run, and `owner` says who may go on with it first.
ALTER TABLE response ADD COLUMN last_owner uuid;
