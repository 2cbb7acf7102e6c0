-- Ids of responses are UUIDv7: rows that were made later sort later, and the event log is partitioned by them.

-- A conversation: a name or `conv_…` id under which responses continue each other.
CREATE TABLE conversation (
    id                           uuid        NOT NULL PRIMARY KEY,
    tenant                       text        NOT NULL,
    -- The free name it was made under; NULL for one that is known by its id alone.
    name                         text,
    latest_completed_response_id uuid,
    active_response_id           uuid,
    -- The turn that the next response continues from.
    head_turn_id                 uuid,
    created_at                   timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (tenant, name)
);

-- The input and output items of one finished response. Its id is the response's; it is written once, and outlives
-- the response for as long as another continues from it.
CREATE TABLE turn (
    id        uuid  NOT NULL PRIMARY KEY,
    tenant    text  NOT NULL,
    parent_id uuid,
    body      bytea NOT NULL
);
ALTER TABLE turn ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX turn_parent ON turn (parent_id) WHERE parent_id IS NOT NULL;

-- A response and who may write to it. Every append updates this row, so it stays small and what it updates is not
-- indexed.
CREATE TABLE response (
    id              uuid     NOT NULL PRIMARY KEY,
    tenant          text     NOT NULL,
    -- talaria.v1.Status; 1 and 2 are active.
    status          smallint NOT NULL CHECK (status BETWEEN 1 AND 6),
    -- Each owner writes under an epoch of its own.
    epoch           integer  NOT NULL,
    -- The sequence number that the next event has.
    next_seq        bigint   NOT NULL CHECK (next_seq >= 0),
    -- Incarnation of the orchestrator process that executes it.
    owner           uuid,
    attempt         integer  NOT NULL DEFAULT 1,
    conversation_id uuid,
    parent_turn_id  uuid REFERENCES turn
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- For the reference to turns, which a delete checks.
CREATE INDEX response_parent_turn ON response (parent_turn_id) WHERE parent_turn_id IS NOT NULL;
-- What a claim looks through.
CREATE INDEX response_active ON response (id) WHERE status IN (1, 2);
-- At most one active response per conversation.
CREATE UNIQUE INDEX response_active_in_conversation ON response (conversation_id) WHERE status IN (1, 2);

-- What a run was asked: kept until it ends.
CREATE TABLE run_request (
    response_id uuid  NOT NULL PRIMARY KEY,
    body        bytea NOT NULL
);
ALTER TABLE run_request ALTER COLUMN body SET STORAGE EXTERNAL;

-- The final response object of a finished run, without its output, which is its turn's.
CREATE TABLE response_final (
    response_id uuid  NOT NULL PRIMARY KEY,
    body        bytea NOT NULL
);
ALTER TABLE response_final ALTER COLUMN body SET STORAGE EXTERNAL;

-- The event log: events first_seq … last_seq of one response, as one encoded chunk.
CREATE TABLE event_chunk (
    response_id uuid    NOT NULL,
    first_seq   bigint  NOT NULL,
    last_seq    bigint  NOT NULL,
    epoch       integer NOT NULL,
    body        bytea   NOT NULL,
    PRIMARY KEY (response_id, last_seq),
    CHECK (first_seq <= last_seq)
) PARTITION BY RANGE (response_id);
ALTER TABLE event_chunk ALTER COLUMN body SET STORAGE EXTERNAL;

-- An orchestrator process and how long it counts as alive, by this database's clock.
CREATE TABLE orchestrator (
    incarnation uuid        NOT NULL PRIMARY KEY,
    address     text        NOT NULL,
    lease_until timestamptz NOT NULL
) WITH (fillfactor = 50);

-- The smallest UUIDv7 of an instant.
CREATE FUNCTION uuid_v7_floor(instant timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM instant) * 1000)::bigint), 12, '0')
            || '00000000000000000000')::uuid
$$;

-- Makes the daily partitions of the event log from yesterday to `days_ahead` days from now that do not exist yet.
CREATE FUNCTION event_chunk_partitions_create(days_ahead integer) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    day   date;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('talaria event_chunk partitions'));
    FOR day IN SELECT today + n FROM generate_series(-1, days_ahead) AS n LOOP
        IF to_regclass('event_chunk_' || to_char(day, 'YYYYMMDD')) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE %I PARTITION OF event_chunk FOR VALUES FROM (%L) TO (%L)',
                'event_chunk_' || to_char(day, 'YYYYMMDD'),
                uuid_v7_floor(day::timestamp AT TIME ZONE 'UTC'),
                uuid_v7_floor((day + 1)::timestamp AT TIME ZONE 'UTC')
            );
        END IF;
    END LOOP;
END
$$;

SELECT event_chunk_partitions_create(7);
