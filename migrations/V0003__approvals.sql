-- Calls that a person has to agree to. All of it is additional: the version before runs on, though it claims runs that
-- wait.

ALTER TABLE response
    -- The run waits for a person, as nobody's, until then at the latest. NULL for all others.
    ADD COLUMN waits_until timestamptz;

-- What was decided about one call of a run. Written once: the first decision counts.
CREATE TABLE approval (
    -- Where the question stands: the response that asked, and the place of its `mcp_approval_request` in the output.
    response_id  uuid        NOT NULL,
    output_index integer     NOT NULL,
    tenant       text        NOT NULL,
    -- talaria.v1.ApprovalChoice.
    choice       smallint    NOT NULL CHECK (choice BETWEEN 1 AND 4),
    -- What the model is told with it, as bytes for the same reason as all other bodies.
    reason       bytea,
    decided_by   text        NOT NULL,
    decided_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The response whose request brought the answer; NULL where the run that asked waited for it.
    answered_in  uuid,
    -- Afterwards nobody may answer any more, so the row is no longer needed.
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (response_id, output_index)
);
CREATE INDEX approval_expiry ON approval (expires_at);
CREATE INDEX approval_answered_in ON approval (answered_in) WHERE answered_in IS NOT NULL;

-- Tools that somebody agreed to for more than one call.
CREATE TABLE approval_grant (
    tenant     text        NOT NULL,
    agent      text        NOT NULL,
    -- The session it holds for; empty for all.
    session_id text        NOT NULL,
    -- The server's name and the tool's, with a slash in between.
    tool       text        NOT NULL,
    decided_by text        NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, agent, session_id, tool)
);
