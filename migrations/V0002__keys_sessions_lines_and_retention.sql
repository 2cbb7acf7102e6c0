-- What Hermes' clients rely on: idempotency keys, sessions, lines of waiting runs, conversations with metadata and
-- items of their own, and what retention goes by. All of it is additional: the version before runs on.

-- 0 is a run that waits in its conversation's line: `queued` outside, not active, and nobody's.
ALTER TABLE response DROP CONSTRAINT response_status_check;
ALTER TABLE response ADD CONSTRAINT response_status_check CHECK (status BETWEEN 0 AND 6) NOT VALID;

ALTER TABLE response
    -- The session that it belongs to; NULL stands for one of its own, named by its id.
    ADD COLUMN session_id       text,
    -- The model as the client sees it.
    ADD COLUMN model            text,
    -- Its last write. For one that has ended: when that was.
    ADD COLUMN updated_at       timestamptz,
    -- When somebody last read it; only kept where responses are limited in number.
    ADD COLUMN used_at          timestamptz,
    -- Among those that wait in one conversation the smallest is the next.
    ADD COLUMN place_in_line    bigint,
    -- It is to stop.
    ADD COLUMN cancel_requested boolean NOT NULL DEFAULT false;

CREATE SEQUENCE response_line;
CREATE INDEX response_waiting ON response (conversation_id, place_in_line) WHERE status = 0;
CREATE INDEX response_cancel_requested ON response (owner) WHERE cancel_requested AND status <= 2;
CREATE INDEX response_tenant ON response (tenant, id);
CREATE INDEX response_session ON response (tenant, session_id, id) WHERE session_id IS NOT NULL;

-- The session of a turn of a completed response; NULL stands for one of its own, named by its id.
ALTER TABLE turn ADD COLUMN session_id text;
CREATE INDEX turn_session ON turn (tenant, session_id, id) WHERE session_id IS NOT NULL;

-- Requests that are one run however often they come. Goes with its response, whoever deletes that; it is written before
-- it, in the same transaction.
CREATE TABLE idempotency_key (
    tenant       text  NOT NULL,
    key          text  NOT NULL,
    -- Of the whole request in its canonical form.
    request_hash bytea NOT NULL,
    response_id  uuid  NOT NULL REFERENCES response ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX idempotency_key_response ON idempotency_key (response_id);

-- A JSON object of strings, as bytes for the same reason as all other bodies.
ALTER TABLE conversation ADD COLUMN metadata bytea;
-- A turn stays while a conversation continues from it.
CREATE INDEX conversation_head ON conversation (head_turn_id) WHERE head_turn_id IS NOT NULL;

-- An item that was taken out of a conversation. The turn that holds it is never rewritten.
CREATE TABLE conversation_item_deleted (
    conversation_id uuid NOT NULL REFERENCES conversation ON DELETE CASCADE,
    item_id         text NOT NULL,
    PRIMARY KEY (conversation_id, item_id)
);
