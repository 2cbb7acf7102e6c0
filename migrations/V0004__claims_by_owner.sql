-- Claims that go by owner. These indexes take a look at every response, during which none is written: so they come by
-- themselves, and leases are renewed meanwhile.

-- What a claim looks through: the runs of those that are gone, and those that are nobody's. Appends change none of it.
CREATE INDEX response_owned ON response (owner, tenant, id) WHERE status IN (1, 2) AND waits_until IS NULL;
CREATE INDEX response_nobodys ON response (id) WHERE status IN (1, 2) AND waits_until IS NULL AND owner IS NULL;
-- Runs that wait for a person, until when.
CREATE INDEX response_wait ON response (waits_until) WHERE status IN (1, 2) AND waits_until IS NOT NULL;
